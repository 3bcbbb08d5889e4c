//! What the engine tells of itself.

use std::collections::HashMap;

use relay_ebpf::{
    reason::{Reason, Verdict},
    tables,
};

use super::Engine;
use crate::{
    clock,
    members::{MemberId, Place},
    status::{
        Handshakes, Host, MapUse, NextHopUse, ReasonCount, SessionDirection, Source, Status, Userspace,
        XdpInterface,
    },
    totals::MemberTraffic,
};

impl Engine {
    pub(super) fn status(&self) -> Status {
        let now = clock::now();
        let counters = self.maps.counters().unwrap_or_default();
        let lost = [Reason::InitiationNotCopied, Reason::ResponseNotCopied, Reason::CookieReplyNotCopied];
        let relay = &self.config.relay;
        let limits = &self.config.limits;
        let map = |map: &str, used: usize, capacity: u32| MapUse {
            map: map.to_owned(),
            used,
            capacity: capacity as usize,
        };
        let sessions = self.tracker.sessions_len();
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            name: relay.name.clone(),
            public_key: self.interface.public_key().to_string(),
            port: relay.port,
            addresses: relay.addresses.iter().map(ToString::to_string).collect(),
            uptime_seconds: now.saturating_sub(self.started).as_secs_f64(),
            xdp: self
                .attached
                .iter()
                .map(|a| XdpInterface {
                    interface: a.interface.clone(),
                    ifindex: a.ifindex,
                    mode: a.mode.to_owned(),
                })
                .collect(),
            members: self.desired.members.iter().len(),
            relayed: self.desired.members.relayed(),
            registered: self.tracker.registered(),
            sessions,
            pending: self.tracker.pending_len(),
            handshakes: self
                .tracker
                .outcomes()
                .iter()
                .map(|(outcome, count)| Handshakes { outcome: outcome.label().to_owned(), count })
                .collect(),
            ring_lost: counters
                .iter()
                .filter(|(reason, ..)| lost.contains(reason))
                .map(|(.., count)| count.packets)
                .sum(),
            counters: counters
                .into_iter()
                .filter(|(.., count)| count.packets > 0)
                .map(|(reason, family, count)| ReasonCount {
                    reason: reason.label().to_owned(),
                    family: family.label().to_owned(),
                    verdict: verdict_label(reason.verdict()).to_owned(),
                    packets: count.packets,
                    bytes: count.bytes,
                })
                .collect(),
            userspace: Userspace { slow_path_lost: self.sockets.overruns(), ..self.counts },
            // Whoever shows them asks for them: that is a look at thousands of entries.
            unknown_sources: Vec::new(),
            maps: vec![
                map(tables::SESSIONS, 2 * sessions, limits.sessions),
                map(tables::PENDING, self.tracker.pending_len(), limits.pending),
                map(tables::ENDPOINTS, self.endpoints.len(), limits.endpoints),
                map(tables::CHANNELS, self.maps.channels_len(), tables::CHANNELS_MAX / 2),
                map(tables::NEXT_HOPS, self.next_hops.hops().count(), tables::NEXT_HOPS_MAX),
            ],
            next_hops: NextHopUse {
                known: self.next_hops.hops().count(),
                resolved: self.next_hops.hops().filter(|(_, resolved)| *resolved).count(),
            },
            source: Source {
                name: self.source.name.clone(),
                loaded_seconds_ago: now.saturating_sub(self.source.loaded).as_secs_f64(),
                error: self.not_configured.clone().or_else(|| self.source.error.clone()),
                remarks: self.source.remarks.clone(),
                needs_restart: self.needs_restart.iter().map(ToString::to_string).collect(),
            },
            turn: self.channels.figures.as_ref().and_then(|figures| figures.borrow().clone()),
            interface_read_seconds_ago: self.reads.done.map(|done| now.saturating_sub(done).as_secs_f64()),
        }
    }

    /// How many live sessions each member has, and all that was forwarded for it.
    pub(super) fn traffic(&self) -> HashMap<MemberId, (usize, MemberTraffic)> {
        let totals = self.maps.totals.iter().map(|(member, total)| (member, (0, total)));
        let mut all: HashMap<MemberId, (usize, MemberTraffic)> = totals.collect();
        for session in self.tracker.sessions() {
            let (initiator, responder) = (session.initiator, session.responder);
            for (from, to) in [(initiator, responder), (responder, initiator)] {
                let traffic = self.maps.traffic(to.index);
                if let Some(id) = from.member {
                    let (sessions, total) = all.entry(id).or_default();
                    *sessions += 1;
                    total.sent += traffic;
                }
                if let Some(id) = to.member {
                    all.entry(id).or_default().1.received += traffic;
                }
            }
        }
        all
    }

    pub(super) fn hosts(&self) -> Vec<Host> {
        let traffic = self.traffic();
        let mut hosts: Vec<Host> = self
            .desired
            .members
            .iter()
            .map(|(id, member)| {
                let (sessions, total) = traffic.get(&id).copied().unwrap_or_default();
                Host {
                    name: member.name.to_string(),
                    public_key: member.public_key.to_string(),
                    networks: member.networks.iter().map(ToString::to_string).collect(),
                    relayed: member.place == Place::Relayed,
                    relayed_by: match &member.place {
                        Place::RelayedBy(relay) => Some(relay.to_string()),
                        _ => None,
                    },
                    endpoint: self.tracker.endpoint_of(id).map(|endpoint| endpoint.to_string()),
                    last_handshake_seconds_ago: self
                        .handshakes
                        .get(&id)
                        .and_then(|at| clock::ago(*at))
                        .map(|ago| ago.as_secs_f64()),
                    sessions,
                    sent_packets: total.sent.packets,
                    sent_bytes: total.sent.bytes,
                    received_packets: total.received.packets,
                    received_bytes: total.received.bytes,
                }
            })
            .collect();
        hosts.sort_by(|a, b| a.name.cmp(&b.name));
        hosts
    }

    pub(super) fn session_directions(&self) -> Vec<SessionDirection> {
        let now = clock::now();
        let name = |id: Option<MemberId>| {
            id.and_then(|id| self.desired.members.member(id)).map(|m| m.name.to_string())
        };
        let mut directions = Vec::with_capacity(2 * self.tracker.sessions_len());
        for session in self.tracker.sessions() {
            let (initiator, responder) = (session.initiator, session.responder);
            for (from, to, to_responder) in [(initiator, responder, true), (responder, initiator, false)] {
                let traffic = self.maps.traffic(to.index);
                directions.push(SessionDirection {
                    receiver_index: format!("{:#010x}", to.index),
                    from: name(from.member),
                    to: name(to.member),
                    source: from.endpoint.to_string(),
                    destination: to.endpoint.to_string(),
                    local_in: from.local.to_string(),
                    local_out: to.local.to_string(),
                    to_responder,
                    age_seconds: now.saturating_sub(session.opened).as_secs_f64(),
                    packets: traffic.packets,
                    bytes: traffic.bytes,
                });
            }
        }
        directions
            .sort_by(|a, b| (&a.from, &a.to, &a.receiver_index).cmp(&(&b.from, &b.to, &b.receiver_index)));
        directions
    }
}

fn verdict_label(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Aborted => "aborted",
        Verdict::Drop => "drop",
        Verdict::Pass => "pass",
        Verdict::Tx => "tx",
        Verdict::Redirect => "redirect",
    }
}
