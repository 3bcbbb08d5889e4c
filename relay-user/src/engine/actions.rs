//! Carrying out what the tracker wants, and keeping the tables in step with the kernel's routes.

use std::collections::{HashMap, HashSet};

use relay_ebpf::tables::Endpoint;
use tracing::{debug, warn};

use super::Engine;
use crate::{
    clock,
    forwarding::directions,
    handshake::{Action, EndpointChanges, Session},
    members::MemberId,
    next_hops::{Flow, UNRESOLVED},
};

impl Engine {
    /// Carries out actions in their order: a session is in the map before the response that proved it is sent on.
    pub(super) async fn carry_out(&mut self, actions: Vec<Action>) {
        // A session that found no room is none: then its response is not sent on, and both sides try again.
        let mut refused = false;
        for action in actions {
            match action {
                Action::Expect { index, responder } => {
                    let written = self.maps.expect(index, responder.into());
                    self.check(written, "remember a handshake");
                }
                Action::Forget { index } => {
                    let written = self.maps.forget(index);
                    self.check(written, "forget a handshake");
                }
                Action::Open(session) | Action::Move { to: session, .. } => {
                    self.ensure_route(session.initiator.flow()).await;
                    self.ensure_route(session.responder.flow()).await;
                    self.write_next_hops();
                    refused |= !self.write(&session);
                }
                Action::Close(session) => self.close(&session),
                Action::Send(_) if refused => {}
                Action::Send(datagram) => match self.sockets.send(&datagram) {
                    Ok(()) => self.counts.sent += 1,
                    Err(error) => {
                        self.counts.send_errors += 1;
                        debug!(to = %datagram.remote, %error, "a handshake message could not be sent");
                    }
                },
                Action::ReadInterface => self.reads.hint(clock::now()),
            }
        }
        self.write_next_hops();
        self.write_endpoints();
    }

    /// Writes a session; `false` if there is no room for it, and then it has ended.
    pub(super) fn write(&mut self, session: &Session) -> bool {
        let port = self.config.relay.port;
        let next_hop = |flow| self.next_hops.id(flow);
        let rate = |member| self.rates.id(member);
        let Some((both, ledger)) = directions(session, &self.locals, port, next_hop, rate) else {
            // The program saw the packet come to one of the relay's addresses, so this is a session of an earlier run.
            debug!("a session uses an address that is not the relay's any more");
            return true;
        };
        let written = self.maps.write_session(&both, &ledger).is_ok();
        if !written {
            self.close(session);
            self.tracker.refuse(session.responder.index);
        }
        written
    }

    fn close(&mut self, session: &Session) {
        let (initiator, responder) = (session.initiator, session.responder);
        let [there, back] = self.maps.remove_session(initiator.index, responder.index);
        self.account(initiator.member, responder.member, there);
        self.account(responder.member, initiator.member, back);
    }

    /// Makes sure that the way of a flow is known, or being resolved.
    pub(super) async fn ensure_route(&mut self, flow: Flow) {
        if !self.next_hops.knows(flow) {
            match self.netlink.route(flow).await {
                Ok(route) => _ = self.next_hops.set_route(flow, route),
                Err(error) => warn!("{error:#}"),
            }
            self.write_next_hops();
        }
        if let Some(hop) = self.next_hops.unresolved(flow) {
            self.netlink.resolve(hop.ifindex, hop.address).await;
        }
    }

    /// Asks for the routes of these flows again, and rewrites the sessions whose next hop is another now.
    pub(super) async fn refresh_routes(&mut self, flows: &[Flow]) {
        let mut moved = HashSet::new();
        for &flow in flows {
            match self.netlink.route(flow).await {
                Ok(route) if self.next_hops.set_route(flow, route) => _ = moved.insert(flow),
                Ok(_) => {}
                // What was known stays.
                Err(error) => warn!("{error:#}"),
            }
        }
        self.write_next_hops();
        if moved.is_empty() {
            return;
        }
        let affected: Vec<Session> = self
            .tracker
            .sessions()
            .filter(|s| moved.contains(&s.initiator.flow()) || moved.contains(&s.responder.flow()))
            .copied()
            .collect();
        for session in affected {
            self.write(&session);
        }
        for binding in self.channels.by(|flow| moved.contains(flow)) {
            self.write_channel(binding);
        }
        self.resolve_neighbours(false).await;
    }

    /// Asks the kernel to resolve the hops that are not, or to check all of them: forwarded packets don't pass through its
    /// neighbour table, so by itself it would never notice that one has gone stale.
    async fn resolve_neighbours(&self, all: bool) {
        for hop in self.next_hops.to_resolve(all) {
            self.netlink.resolve(hop.ifindex, hop.address).await;
        }
    }

    pub(super) fn write_next_hops(&mut self) {
        for (id, next_hop) in self.next_hops.changes() {
            debug_assert_ne!(id, UNRESOLVED, "the entry that leads nowhere is never written");
            self.maps.write_next_hop(id, next_hop);
        }
    }

    /// Makes `ENDPOINTS` follow what the tracker knows.
    pub(super) fn write_endpoints(&mut self) {
        let EndpointChanges { held, gone } = self.tracker.endpoint_changes();
        for endpoint in gone {
            self.remove_endpoint(endpoint.into());
        }
        for (endpoint, member) in held {
            self.write_endpoint(endpoint.into(), MemberId::to_map(member));
        }
    }

    /// Makes `ENDPOINTS` as a whole say what the tracker knows: what could not be written is tried again.
    pub(super) fn reconcile_endpoints(&mut self) {
        let wanted: HashMap<Endpoint, u64> = self
            .tracker
            .endpoints()
            .map(|(endpoint, member)| (endpoint.into(), MemberId::to_map(member)))
            .collect();
        let gone: Vec<_> = self.endpoints.keys().filter(|e| !wanted.contains_key(*e)).copied().collect();
        for endpoint in gone {
            self.remove_endpoint(endpoint);
        }
        for (endpoint, member) in wanted {
            self.write_endpoint(endpoint, member);
        }
    }

    fn remove_endpoint(&mut self, endpoint: Endpoint) {
        if self.endpoints.contains_key(&endpoint) {
            let removed = self.maps.remove_endpoint(endpoint);
            if removed.is_ok() {
                self.endpoints.remove(&endpoint);
            }
            self.check(removed, "remove an endpoint");
        }
    }

    fn write_endpoint(&mut self, endpoint: Endpoint, member: u64) {
        if self.endpoints.get(&endpoint) != Some(&member) {
            let written = self.maps.write_endpoint(endpoint, member);
            if written.is_ok() {
                self.endpoints.insert(endpoint, member);
            }
            self.check(written, "write an endpoint");
        }
    }

    /// Regular work: confirms sessions that carry data, asks for neighbours that are not resolved. A thorough sweep also
    /// checks all neighbours, forgets what is not in use, and compares the maps with what they should hold.
    pub(super) async fn sweep(&mut self, thorough: bool) {
        let confirmed: Vec<u32> = self
            .tracker
            .sessions()
            .map(|session| session.responder.index)
            .filter(|&index| self.maps.traffic(index).packets > 0)
            .collect();
        for index in confirmed {
            self.tracker.confirm(index);
        }
        for ((from, to), traffic) in self.maps.settle() {
            self.account(from, to, traffic);
        }
        self.resolve_neighbours(thorough).await;
        if !thorough {
            return;
        }
        // Should news have been lost, here it ends.
        self.resync = false;
        self.reconcile_endpoints();
        if let Err(error) = self.read_neighbours().await {
            warn!("{error:#}");
        }
        self.refresh_routes(&self.next_hops.doubtful_flows()).await;
        let sessions = self.tracker.sessions().flat_map(|s| [s.initiator.flow(), s.responder.flow()]);
        let in_use: HashSet<Flow> = sessions.chain(self.channels.flows()).collect();
        for (id, next_hop) in self.next_hops.retain(|flow| in_use.contains(&flow)) {
            self.maps.write_next_hop(id, next_hop);
        }
        self.remove_unknown_sessions();
        self.save().await;
    }

    /// Removes from the maps what the tracker does not know; what it has carried is kept.
    pub(super) fn remove_unknown_sessions(&mut self) {
        let tracker = &self.tracker;
        let removed = self.maps.retain_sessions(|index| tracker.session_by_index(index).is_some());
        for (ledger, [there, back]) in removed {
            let (initiator, responder) =
                (MemberId::of_map(ledger.initiator), MemberId::of_map(ledger.responder));
            self.account(initiator, responder, there);
            self.account(responder, initiator, back);
        }
    }

    pub(super) fn check<T>(&mut self, result: Result<T, aya::maps::MapError>, what: &str) {
        if let Err(error) = result {
            self.counts.map_errors += 1;
            warn!(error = format!("{:#}", anyhow::Error::new(error)), "could not {what}");
        }
    }
}
