//! Taking over the loaded program, and what an earlier run has left in its maps.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    sync::Arc,
};

use anyhow::{Context as _, Result};
use aya::maps::{MapData, RingBuf};
use rand::{SeedableRng as _, rngs::StdRng};
use relay_ebpf::tables::{Ledger, NEXT_HOPS_MAX};
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::{Change, Engine, Proofs, Reads, channels::Channels, notices::Notices, saving::Saving, shown};
use crate::{
    admission::Admission,
    clock,
    config::Config,
    forwarding::{Locals, restore},
    handshake::{Action, Limits, Quotas, Session, Settings, Tracker},
    interface::Interface,
    keep::Keep,
    left::Left,
    maps::Traffic,
    members::{Desired, MemberId, Peers, Place, PublicKey, unusable},
    netlink::Netlink,
    next_hops::{NOWHERE, NextHops},
    program::{Attached, Loaded},
    rates::Rates,
    registrar::Registrar,
    saved::Saved,
    status::Userspace,
    totals::MemberTraffic,
};

/// What an engine begins with.
pub struct Start {
    /// The configuration.
    pub config: Config,
    /// The maps, and what an earlier run has left in them.
    pub loaded: Loaded,
    /// The relay's WireGuard interface.
    pub interface: Interface,
    /// The kernel's routes.
    pub netlink: Netlink,
    /// Who is who.
    pub change: Change,
    /// Who wants to know of peers that have shown themselves and are no members yet.
    pub proofs: Proofs,
    /// What becomes of it all at the end.
    pub keep: Keep,
    /// What an earlier run has saved.
    pub saved: Saved,
}

/// Maps of an earlier run that the program goes on with until ours is attached.
pub(super) struct Replaced {
    left: Left,
    /// Sessions whose counters begin anew in ours.
    counted: Vec<Ledger>,
}

impl Engine {
    /// Fills the maps of the loaded program, with what an earlier run has left to begin with. It is not attached yet:
    /// [`Self::attached`] has to follow.
    pub async fn new(start: Start, stop: CancellationToken) -> Result<(Self, RingBuf<MapData>)> {
        let Start { config, loaded, interface, netlink, change, proofs, keep, saved } = start;
        let Change { desired, source } = change.fit(&interface, &Peers::new());
        let Loaded { mut maps, mut events, sockets, ticks, left, interfaces: ports, replaces } = loaded;
        let now = clock::now();
        let table = maps.locals().context("read the relay's addresses of an earlier run")?;
        let in_use: HashSet<u16> =
            left.iter().flat_map(Left::sessions).map(|direction| direction.next_hop).collect();
        let admission = config.admission();
        let settings = Settings {
            public_key: interface.public_key(),
            addresses: config.relay.addresses.clone(),
            port: config.relay.port,
            filter: admission.filter.clone(),
            work: admission.work,
            limits: Limits {
                sessions: config.limits.sessions as usize / 2,
                sessions_per_responder: config.limits.sessions_per_member as usize,
                pending: config.limits.pending as usize,
                pending_quotas: Quotas::of(config.limits.pending as usize),
                ..Limits::default()
            },
        };
        let rates = Rates::adopt(maps.rates());
        maps.write_tx_ports(&ports).context("write the egress interfaces")?;
        maps.forget_all().context("clear the handshakes of an earlier run")?;
        if let Some(left) = &left {
            // Messages that came while nobody was there have been repeated since.
            while events.next().is_some() {}
            for id in (1..NEXT_HOPS_MAX as u16).filter(|id| !in_use.contains(id)) {
                maps.write_next_hop(id, NOWHERE);
            }
            maps.totals.adopt(left.totals.iter().copied());
        }
        if left.is_none() || replaces || saved.knows_better(&clock::moment()) {
            maps.totals.adopt(totals(&saved));
        }
        maps.totals.retain(|id| desired.members.member(id).is_some());
        let peers = interface.peers().await?;
        let file = Saved::file(&config.relay.state_dir, &config.relay.interface);
        let called = called(&desired, &saved, &admission, &config);
        let present = peers.iter().map(|peer| peer.public_key).collect();
        let mut engine = Self {
            tracker: Tracker::new(settings, StdRng::from_os_rng()),
            locals: Locals::assign(&table, &config.relay.addresses),
            config,
            next_hops: NextHops::new(ports, in_use),
            netlink,
            sockets,
            registrar: Registrar::start(interface.clone(), &present, &desired.peers, called, stop).await?,
            interface,
            proofs,
            attached: Vec::new(),
            desired,
            source,
            handshakes: HashMap::new(),
            endpoints: maps.endpoints(),
            maps,
            rates,
            admission,
            keep,
            saving: Saving::new(file, saved.clone()),
            left: None,
            needs_restart: Vec::new(),
            not_configured: None,
            counts: Userspace::default(),
            channels: Channels::default(),
            ticks,
            started: now,
            reads: Reads::new(now),
            notices: Notices::default(),
            resync: false,
        };
        // Before any session is written.
        engine.apply_rates();
        engine.write_admission();
        engine.read_neighbours().await?;
        engine.restore(left, &saved, &Locals::read(&table)).await?;
        // Hosts may have moved while nobody looked: their sessions follow.
        engine.take_in(shown(peers)).await;
        Ok((engine, events))
    }

    /// Puts back the sessions that an earlier run has left, as far as they are still allowed, and removes the rest.
    /// `locals` are the relay's addresses by the keys that sessions in maps name.
    async fn restore(&mut self, left: Option<Left>, saved: &Saved, locals: &Locals) -> Result<()> {
        let now = clock::now();
        let mut actions = Vec::new();
        self.tracker.set_members(now, Arc::clone(&self.desired.members), &mut actions);
        let of_maps = left.iter().flat_map(|left| {
            left.ledger.iter().filter_map(|ledger| {
                let (there, back) =
                    (left.session(ledger.responder_index)?, left.session(ledger.initiator_index)?);
                restore(&there, &back, ledger, locals)
            })
        });
        // Of what is in both the maps come first.
        let of_file = saved.sessions(&clock::moment(), self.config.relay.port);
        let mut kept: Vec<Session> = Vec::new();
        for session in of_maps.chain(of_file) {
            if self.tracker.restore(session) {
                kept.push(session);
            }
        }
        actions.extend(kept.iter().copied().map(Action::Open));
        // First those go that name an address which is the relay's no more, then another address may take its key.
        self.remove_unknown_sessions();
        self.maps.write_locals(&self.locals.table()).context("write the relay's addresses")?;
        self.left = left.map(|left| {
            let anew = left.ledger.iter().filter(|ledger| !self.maps.has_session(ledger.responder_index));
            let counted = anew.copied().collect();
            Replaced { left, counted }
        });
        for (endpoint, member) in self.endpoints.clone() {
            self.tracker.set_endpoint(now, MemberId(member), Some(endpoint.into()), &mut actions);
        }
        // Who has a live session was seen no longer ago than that.
        for side in kept.iter().flat_map(|session| [session.initiator, session.responder]) {
            if let Some(member) = side.member.filter(|member| self.tracker.endpoint_of(*member).is_none()) {
                self.tracker.set_endpoint(now, member, Some(side.endpoint), &mut actions);
            }
        }
        self.tracker.expire(now, &mut actions);
        self.carry_out(actions).await;
        self.reconcile_endpoints();
        if !kept.is_empty() {
            info!(sessions = kept.len(), "sessions of an earlier run taken over");
        }
        Ok(())
    }

    /// The program is attached: whatever went on with the maps of an earlier run has ended.
    pub async fn attached(&mut self, attached: Vec<Attached>) {
        self.attached = attached;
        if let Some(Replaced { left, counted }) = self.left.take() {
            for Ledger { initiator, responder, initiator_index, responder_index, .. } in counted {
                let (initiator, responder) = (MemberId::of_map(initiator), MemberId::of_map(responder));
                self.account(initiator, responder, left.traffic(responder_index));
                self.account(responder, initiator, left.traffic(initiator_index));
            }
        }
        for (id, next_hop) in self.next_hops.release_reserved() {
            self.maps.write_next_hop(id, next_hop);
        }
        // Hosts that were called may have answered before the program could tell.
        self.reads.hint(clock::now());
        self.save().await;
    }
}

/// What was forwarded for members, as it was saved.
fn totals(saved: &Saved) -> impl Iterator<Item = (MemberId, MemberTraffic)> {
    let traffic = |(packets, bytes)| Traffic { packets, bytes };
    saved.hosts().filter_map(move |(key, host)| {
        let total = MemberTraffic { sent: traffic(host.sent), received: traffic(host.received) };
        (total != MemberTraffic::default()).then_some((key.id(), total))
    })
}

/// Whom WireGuard is to call if it does not know where they are: hosts that are relayed here, where they were last seen.
fn called(
    desired: &Desired,
    saved: &Saved,
    admission: &Admission,
    config: &Config,
) -> HashMap<PublicKey, SocketAddr> {
    let here = |key: &PublicKey| {
        let member = desired.members.member(key.id());
        member.is_some_and(|member| member.public_key == *key && member.place == Place::Relayed)
    };
    let reached = |endpoint: SocketAddr| {
        unusable(endpoint).is_none()
            && !admission.filter.denies(endpoint.ip())
            && !config.relay.addresses.contains(&endpoint.ip())
    };
    let now = clock::moment();
    let seen = saved.seen(&now).map(|(key, seen)| (key, seen.endpoint));
    seen.filter(|(key, endpoint)| desired.peers.contains_key(key) && here(key) && reached(*endpoint))
        .collect()
}
