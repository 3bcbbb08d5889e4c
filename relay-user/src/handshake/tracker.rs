//! The tracker: its state, what is told to it, and what it can be asked. What it does with a message stands in
//! `initiations` and `answers`.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use rand::rngs::StdRng;
use relay_search::Kernel;

use super::{
    Action, Datagram, Session, Side, Timestamp,
    budget::Budget,
    cookie::Cookies,
    directory::{Directory, EndpointChanges},
    expiring::Expiring,
    message::Message,
    outcome::{Outcome, Outcomes},
    pending::{Origin, Pending, Quotas},
    sessions::Sessions,
};
use crate::{
    admission::{Filter, Work},
    members::{MemberId, Members, PublicKey, unusable},
};

/// How long a source that proved its address is not challenged again. If the relay asked more often, a host that is also
/// asked for a cookie by a loaded peer would never hold the right one: WireGuard keeps one cookie per peer.
pub const PROVEN_LIFETIME: Duration = Duration::from_secs(120);
/// How long it is remembered which relay address a host talks to that the relay's own interface has yet to learn.
const GREETED_LIFETIME: Duration = Duration::from_secs(120);

/// What the tracker is told once.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The public key of the relay's own WireGuard interface.
    pub public_key: PublicKey,
    /// The relay's addresses; the first of each family is the one that a host without history is spoken to from.
    pub addresses: Vec<IpAddr>,
    /// The relay port.
    pub port: u16,
    /// Whose messages are taken.
    pub filter: Filter,
    /// How much is done for them.
    pub work: Work,
    /// How much may be kept.
    pub limits: Limits,
}

/// Bounds of the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Sessions in all; each takes two entries in `SESSIONS`.
    pub sessions: usize,
    /// Sessions that one member may have answered.
    pub sessions_per_responder: usize,
    /// Sessions between two hosts.
    pub sessions_per_pair: usize,
    /// Handshakes under way.
    pub pending: usize,
    /// Handshakes under way of one source.
    pub pending_quotas: Quotas,
    /// Unknown sources that have proven their address.
    pub proven: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            sessions: relay_ebpf::tables::SESSIONS_DEFAULT as usize / 2,
            sessions_per_responder: 4096,
            sessions_per_pair: 6,
            pending: relay_ebpf::tables::PENDING_DEFAULT as usize,
            pending_quotas: Quotas::of(relay_ebpf::tables::PENDING_DEFAULT as usize),
            proven: 16_384,
        }
    }
}

/// How many initiations a member is sent.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Addressed {
    /// Of known sources.
    pub known: Budget,
    /// Of unknown ones.
    pub unknown: Budget,
}

/// Follows handshakes between members, and keeps the sessions that they prove.
pub struct Tracker {
    pub(super) settings: Settings,
    pub(super) rng: StdRng,
    pub(super) cookies: Cookies,
    pub(super) directory: Directory,
    pub(super) pending: Pending,
    pub(super) sessions: Sessions,
    /// Unknown sources that have proven their address.
    pub(super) proven: Expiring<SocketAddr, ()>,
    /// The relay addresses that unknown sources sent an initiation for the relay to.
    pub(super) greeted: Expiring<SocketAddr, IpAddr>,
    /// Keys searched for unknown sources.
    pub(super) searches: Budget,
    /// Initiations sent on to each member.
    pub(super) addressed: HashMap<MemberId, Addressed>,
    pub(super) outcomes: Outcomes,
}

impl Tracker {
    /// A tracker without members. `rng` makes cookie secrets and nonces, so seed it well (`StdRng::from_os_rng`).
    pub fn new(settings: Settings, rng: StdRng) -> Self {
        Self::with_kernel(settings, rng, Kernel::default())
    }

    /// The same, searching for keys by another kernel than the fastest: to measure it.
    pub fn with_kernel(settings: Settings, rng: StdRng, kernel: Kernel) -> Self {
        let limits = settings.limits;
        Self {
            directory: Directory::new(&settings.public_key, kernel),
            settings,
            rng,
            cookies: Cookies::default(),
            pending: Pending::new(limits.pending, limits.pending_quotas),
            sessions: Sessions::default(),
            proven: Expiring::new(limits.proven, PROVEN_LIFETIME),
            greeted: Expiring::new(limits.proven, GREETED_LIFETIME),
            searches: Budget::default(),
            addressed: HashMap::new(),
            outcomes: Outcomes::default(),
        }
    }

    /// Replaces the members. Sessions and handshakes whose permission is gone end at once; sessions of members whose
    /// configured endpoint has changed follow; all else stays. The cost goes with what is different.
    pub fn set_members(&mut self, now: Timestamp, members: Arc<Members>, out: &mut Vec<Action>) {
        self.expire(now, out);
        let old = Arc::clone(self.directory.members());
        for (id, _, after) in members.changes_since(&old) {
            if after.is_none() {
                self.addressed.remove(&id);
            }
        }
        let before = if members.same_relays(&old) && members.policy() == old.policy() {
            self.located(members.changes_since(&old).map(|(id, ..)| id))
        } else {
            self.located(self.sessions.members())
        };
        let refused = self.directory.replace(members, |endpoint| !refuses(&self.settings, endpoint));
        self.settle(before, refused, out);
    }

    /// Sets whose messages are taken and how much is done for them. What is denied now ends at once.
    pub fn set_admission(&mut self, now: Timestamp, filter: Filter, work: Work, out: &mut Vec<Action>) {
        self.expire(now, out);
        self.settings.work = work;
        if self.settings.filter != filter {
            self.settings.filter = filter;
            let before = self.located(self.sessions.members());
            let refused = self.directory.refilter(|endpoint| !refuses(&self.settings, endpoint));
            self.settle(before, refused, out);
        }
    }

    /// Those of `members` that have sessions, and where they are to be found.
    fn located(&self, members: impl Iterator<Item = MemberId>) -> Vec<(MemberId, Vec<SocketAddr>)> {
        let members = members.filter(|&id| self.sessions.of(id).next().is_some());
        members.map(|id| (id, self.directory.locations(id))).collect()
    }

    /// The directory is another: `before` has the members that this may concern and where they were, and `refused`
    /// endpoints were left out.
    fn settle(&mut self, before: Vec<(MemberId, Vec<SocketAddr>)>, refused: usize, out: &mut Vec<Action>) {
        for _ in 0..refused {
            self.outcomes.add(Outcome::EndpointRefused);
        }
        let (directory, settings) = (&self.directory, &self.settings);
        // Nobody says any more where these are. Of a host that is relayed here its WireGuard will.
        let nowhere = |id: MemberId| !directory.is_relayed_here(id) && directory.locations(id).is_empty();
        let forgotten = self.pending.remove_unless(|handshake| {
            !nowhere(handshake.recipient)
                && !matches!(handshake.origin, Origin::Member(id) if nowhere(id))
                && !refuses(settings, handshake.source)
                && !refuses(settings, handshake.responder)
                && directory.may_initiate(handshake.origin, handshake.recipient).is_ok()
                && (handshake.origin != Origin::Relay || directory.origin(handshake.source) == Origin::Relay)
        });
        out.extend(forgotten.into_iter().map(|index| Action::Forget { index }));

        let ends = |side: &Side| refuses(settings, side.endpoint) || side.member.is_some_and(nowhere);
        let concerned = before.iter().flat_map(|(id, _)| self.sessions.of(*id));
        let revoked: Vec<u32> = concerned
            .filter(|session| {
                !directory.permits(session.initiator.member, session.responder.member)
                    || [session.initiator, session.responder].iter().any(ends)
            })
            .map(|session| session.responder.index)
            .collect();
        for index in revoked {
            self.close(index, Outcome::SessionRevoked, out);
        }

        for (member, old) in before {
            let new = self.directory.locations(member);
            for from in old {
                let same_family = new.iter().find(|to| to.is_ipv4() == from.is_ipv4());
                if let Some(&to) = same_family.or(new.first()) {
                    self.follow(member, from, to, out);
                }
            }
        }
    }

    /// Sets what the relay's own WireGuard interface has learned of a member that is relayed here. Where that has changed,
    /// exactly the sessions that are bound to the old endpoint as this member's side follow. May be called as often as the
    /// interface is read: an unchanged endpoint does nothing.
    ///
    /// Two members seen at one endpoint: the newest is taken for the sender of what comes from there. The other stays
    /// where it was seen, as a response can still name it; its claim can only be void, not harmful, whereas a member that
    /// could displace another by one authenticated packet from a forged source could cut it off.
    pub fn set_endpoint(
        &mut self,
        now: Timestamp,
        member: MemberId,
        endpoint: Option<SocketAddr>,
        out: &mut Vec<Action>,
    ) {
        self.expire(now, out);
        let before = self.directory.learned(member);
        if before == endpoint || !self.directory.is_relayed_here(member) {
            return;
        }
        if endpoint.is_some_and(|e| refuses(&self.settings, e) || self.directory.is_configured(e)) {
            self.outcomes.add(Outcome::EndpointRefused);
            return;
        }
        let local = endpoint.and_then(|endpoint| {
            // What the host said first, or what its sessions from before a restart say.
            let of_session = |session: &Session| {
                [session.initiator, session.responder].into_iter().find(|side| side.endpoint == endpoint)
            };
            let greeted = self.greeted.get(endpoint).copied();
            greeted.or_else(|| self.sessions.of(member).find_map(of_session).map(|side| side.local))
        });
        self.directory.learn(member, endpoint, local);
        if let (Some(from), Some(to)) = (before, endpoint) {
            self.follow(member, from, to, out);
        }
    }

    /// Moves the sessions that are bound to `from` as `member`'s side. One that can't be at `to`, as it would join two ends
    /// at one place, or as the relay has no address of that family, stays: its hosts make a new one.
    fn follow(&mut self, member: MemberId, from: SocketAddr, to: SocketAddr, out: &mut Vec<Action>) {
        if from == to {
            return;
        }
        let bound = |side: &Side| side.member == Some(member) && side.endpoint == from;
        let affected: Vec<Session> = self.sessions.of(member).copied().collect();
        for Session { initiator, responder, opened } in affected {
            let (side, other): (fn(&mut Session) -> &mut Side, _) = if bound(&initiator) {
                (|session| &mut session.initiator, responder)
            } else if bound(&responder) {
                (|session| &mut session.responder, initiator)
            } else {
                continue;
            };
            let local = side(&mut Session { initiator, responder, opened }).local;
            let same_family = local.is_ipv4() == to.is_ipv4();
            if to != other.endpoint
                && let Some(local) = if same_family { Some(local) } else { self.local_towards(to) }
                && let Some((from, to)) = self.sessions.relocate(responder.index, side, (to, local))
            {
                out.push(Action::Move { from, to });
                self.outcomes.add(Outcome::SessionMoved);
            }
        }
    }

    /// A handshake message has come in.
    pub fn handle(&mut self, now: Timestamp, datagram: &Datagram, out: &mut Vec<Action>) {
        self.expire(now, out);
        let outcome = if refuses(&self.settings, datagram.remote) || self.is_not_allowed(datagram.remote) {
            Outcome::SourceRefused
        } else {
            match Message::parse(&datagram.message) {
                Some(Message::Initiation(initiation)) => self.initiation(now, datagram, &initiation, out),
                Some(Message::Response(response)) => self.response(now, datagram, &response, out),
                Some(Message::CookieReply(reply)) => self.cookie_reply(datagram, reply, out),
                None => Outcome::NotHandshake,
            }
        };
        self.outcomes.add(outcome);
    }

    /// Whether there is an allow list that does not name this source, which is not known.
    fn is_not_allowed(&self, source: SocketAddr) -> bool {
        !self.settings.filter.admits_new(source.ip()) && self.directory.origin(source) == Origin::Stranger
    }

    /// Data of this receiver index was seen on its way to a responder: the initiator has accepted the response, so the
    /// session is not the first to make room. Returns false if no session's responder has this index.
    pub fn confirm(&mut self, index: u32) -> bool {
        self.sessions.by_responder_mut(index).map(|record| record.confirmed = true).is_some()
    }

    /// Ends what has had its time.
    pub fn expire(&mut self, now: Timestamp, out: &mut Vec<Action>) {
        while let Some(index) = self.pending.pop_ended(now) {
            out.push(Action::Forget { index });
        }
        while let Some(session) = self.sessions.pop_ended(now) {
            out.push(Action::Close(session));
            self.outcomes.add(Outcome::SessionExpired);
        }
        while self.proven.pop_ended(now).is_some() {}
        while self.greeted.pop_ended(now).is_some() {}
    }

    /// When [`Self::expire`] will next have something for the maps.
    pub fn next_expiry(&self) -> Option<Timestamp> {
        [self.pending.next_end(), self.sessions.next_end()].into_iter().flatten().min()
    }

    /// Puts back a session that was read from the pinned maps, after [`Self::set_members`]. Returns false, and leaves it
    /// out, if it can't be one of ours any more: the caller then removes its entries. It counts as unconfirmed.
    pub fn restore(&mut self, session: Session) -> bool {
        let sides = [session.initiator, session.responder];
        let sound = sides.iter().all(|side| {
            !refuses(&self.settings, side.endpoint)
                && self.settings.addresses.contains(&side.local)
                && side.local.is_ipv4() == side.endpoint.is_ipv4()
        });
        sound
            && session.initiator.endpoint != session.responder.endpoint
            && self.directory.permits(session.initiator.member, session.responder.member)
            && self.has_room_for(&session).is_ok()
            && self.sessions.superseded_by(&session, self.settings.limits.sessions_per_pair).is_none()
            && self.sessions.insert(session)
    }

    /// All live sessions, in no order.
    pub fn sessions(&self) -> impl Iterator<Item = &Session> {
        self.sessions.iter().map(|record| &record.session)
    }

    /// How many sessions are live.
    pub fn sessions_len(&self) -> usize {
        self.sessions.len()
    }

    /// The session in which one side has this index.
    pub fn session_by_index(&self, index: u32) -> Option<&Session> {
        self.sessions.by_index(index).map(|record| &record.session)
    }

    /// How many handshakes are under way.
    pub fn pending_len(&self) -> usize {
        self.pending.len()
    }

    /// Every known endpoint with the member whose it is, or `None` for another relay's: what `ENDPOINTS` holds.
    pub fn endpoints(&self) -> impl Iterator<Item = (SocketAddr, Option<MemberId>)> {
        self.directory.endpoints()
    }

    /// What has become of [`Self::endpoints`] since this was last asked.
    pub fn endpoint_changes(&mut self) -> EndpointChanges {
        self.directory.endpoint_changes()
    }

    /// Where a member is: what was learned of it, its static endpoint, or that of the relay that serves it (of two
    /// families, the first).
    pub fn endpoint_of(&self, member: MemberId) -> Option<SocketAddr> {
        self.directory.locations(member).first().copied()
    }

    /// How many members are relayed here and at an endpoint that was learned.
    pub fn registered(&self) -> usize {
        self.directory.learned_len()
    }

    /// What has happened so far.
    pub fn outcomes(&self) -> &Outcomes {
        &self.outcomes
    }

    /// Whether the tables and the responder's quota take one more, the one that it supersedes left out of account.
    pub(super) fn has_room_for(&self, session: &Session) -> Result<(), Outcome> {
        let limits = &self.settings.limits;
        let leaving = self.sessions.superseded_by(session, limits.sessions_per_pair);
        let answered = session.responder.member.map_or(0, |member| self.sessions.answered_by(member));
        let leaves_quota = leaving.is_some_and(|s| s.responder.member == session.responder.member);
        if self.sessions.len() - usize::from(leaving.is_some()) >= limits.sessions {
            Err(Outcome::SessionsFull)
        } else if answered - usize::from(leaves_quota) >= limits.sessions_per_responder {
            Err(Outcome::QuotaExceeded)
        } else {
            Ok(())
        }
    }

    /// Ends the session whose responder has this index.
    pub(super) fn close(&mut self, index: u32, why: Outcome, out: &mut Vec<Action>) {
        if let Some(session) = self.sessions.remove(index) {
            out.push(Action::Close(session));
            self.outcomes.add(why);
        }
    }

    /// There is no room in the map for the session whose responder has this index: it is none.
    pub fn refuse(&mut self, responder: u32) {
        if self.sessions.remove(responder).is_some() {
            self.outcomes.add(Outcome::NoRoom);
        }
    }

    /// The relay's address to speak to `endpoint` from: the one that it speaks to, else the first of its family.
    pub(super) fn local_towards(&self, endpoint: SocketAddr) -> Option<IpAddr> {
        self.directory.local_of(endpoint).or_else(|| {
            self.settings.addresses.iter().copied().find(|address| address.is_ipv4() == endpoint.is_ipv4())
        })
    }

    /// `received`, to be sent on to `remote` from `local`, with its TTL decremented.
    pub(super) fn forwarded(
        received: &Datagram,
        local: IpAddr,
        remote: SocketAddr,
    ) -> Result<Datagram, Outcome> {
        match received.ttl {
            0 | 1 => Err(Outcome::TtlExceeded),
            ttl => Ok(Datagram { local, remote, ttl: ttl - 1, message: received.message.clone() }),
        }
    }
}

/// Whether nothing is ever taken from or sent to this endpoint: what can't be a host's, the relay's own addresses, and
/// what is on the deny list.
fn refuses(settings: &Settings, endpoint: SocketAddr) -> bool {
    let address = endpoint.ip().to_canonical();
    unusable(endpoint).is_some() || settings.addresses.contains(&address) || settings.filter.denies(address)
}
