//! The server's state, and what it does with datagrams. Pure: sockets are opened by a [`Host`], and all else that is to
//! be done comes out as [`Action`]s.

use std::{
    collections::{BTreeSet, HashMap},
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
};

use rand::{Rng as _, rngs::StdRng};
use relay_ebpf::tables::{Rate, RateBuckets};
use turn_types::{
    attribute::{Data, XorPeerAddress},
    channel::ChannelData,
    stun::message::{Message, TransactionId},
};

use super::{
    allocation::{Allocation, BothWays},
    credentials::Credentials,
    guard::{Guard, Rates},
    message::data_indication,
    nonce::Nonces,
    peers::Peers,
    ports::Ports,
};
use crate::{
    handshake::Timestamp,
    maps::Traffic,
    members::{MemberId, RateLimit},
};

/// The time.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// Since boot.
    pub at: Timestamp,
    /// Seconds since 1970: what time-limited credentials go by.
    pub unix: u64,
}

/// How a client talks to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// By UDP: the program carries the data of its channels.
    Udp,
    /// By TCP, with TLS or without.
    Tcp,
}

/// Who talks to which of the server's addresses, and how: what an allocation is known by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FiveTuple {
    /// How.
    pub transport: Transport,
    /// The client, as seen here.
    pub client: SocketAddr,
    /// The server.
    pub server: SocketAddr,
}

/// What must not grow without bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quotas {
    /// Allocations in all.
    pub allocations: usize,
    /// Allocations of one user.
    pub per_user: usize,
    /// Permitted peers of an allocation, and its channels.
    pub peers: usize,
    /// How much may pass for one user, each way; in the program and here each by itself.
    pub rate: Option<RateLimit>,
}

/// What the configuration says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The addresses that relayed addresses are of: the first of a family, unless the client talks to another.
    pub addresses: Vec<IpAddr>,
    /// The ports of relayed addresses.
    pub ports: RangeInclusive<u16>,
    /// Who may use the server.
    pub credentials: Credentials,
    /// Whom it sends to.
    pub peers: Peers,
    /// See there.
    pub quotas: Quotas,
    /// What is done for those who have not proven who they are.
    pub rates: Rates,
}

/// What the server needs of the host that it runs on, at once.
pub trait Host {
    /// Opens a socket for a relayed address; `false` if the host does not let us.
    fn open(&mut self, relayed: SocketAddr) -> bool;
    /// Whether this is an address of the host.
    fn is_own(&mut self, address: IpAddr) -> bool;
}

/// A channel, as it is to be forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Binding {
    /// Whose it is.
    pub tuple: FiveTuple,
    /// Its number.
    pub number: u16,
    /// The address that its peer sees.
    pub relayed: SocketAddr,
    /// Its peer.
    pub peer: SocketAddr,
    /// Until when it forwards.
    pub until: Timestamp,
    /// Stands for the user: who has another one is another user.
    pub user: MemberId,
    /// How much may pass for the user, each way.
    pub limit: Option<RateLimit>,
}

/// What is to be done. The order counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// A client is to get a message.
    Answer {
        /// Which.
        to: FiveTuple,
        /// It.
        bytes: Vec<u8>,
        /// It is data of a peer, which may be lost.
        is_data: bool,
    },
    /// A datagram is to be sent from a relayed address.
    Send {
        /// From which.
        from: SocketAddr,
        /// Where to.
        to: SocketAddr,
        /// It.
        bytes: Vec<u8>,
        /// It must not be fragmented.
        whole: bool,
    },
    /// A channel forwards from now on, or until another time than before.
    Bind(Binding),
    /// It does not any more.
    Unbind(FiveTuple, u16),
    /// A client by TCP gets no answer, and would wait for it: its connection is to end.
    Disconnect(FiveTuple),
    /// The socket of a relayed address is to be closed.
    Close(SocketAddr),
}

macro_rules! outcomes {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// How often what has happened.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Outcomes {
            $($(#[doc = $doc])+ pub $name: u64,)+
        }

        impl Outcomes {
            /// All of them, by their names in metrics.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name)),+].into_iter()
            }
        }
    };
}

outcomes! {
    /// Binding requests answered.
    binding,
    /// Allocations made.
    allocated,
    /// Allocations refreshed.
    refreshed,
    /// Allocations that their clients have ended.
    released,
    /// Allocations whose time was up.
    expired,
    /// Allocations whose clients' connections have ended.
    disconnected,
    /// Connections closed at once, since there were too many of one source or in all.
    connection_refused,
    /// Permissions given or refreshed.
    permitted,
    /// Channels bound or refreshed.
    bound,
    /// Requests without credentials, whose senders were asked for them.
    challenged,
    /// Requests with a nonce that is too old or another's.
    stale_nonce,
    /// Requests with wrong credentials.
    unauthorized,
    /// Requests of another user than the allocation's.
    wrong_user,
    /// Requests for which there is no allocation, or one already.
    mismatch,
    /// Requests to send to peers that are not permitted here.
    forbidden_peer,
    /// Requests beyond a quota of a user or of all.
    over_quota,
    /// Requests that the server's rules can't make sense of.
    bad_request,
    /// Requests for which there is no port, no memory or no such address.
    no_capacity,
    /// Requests that were not answered since there were too many.
    over_budget,
    /// What is neither a STUN message nor data of a channel.
    not_turn,
    /// Data of a client without a permission or a channel.
    data_refused,
    /// Data for a client from where nothing is permitted.
    peer_refused,
    /// Data, either way, beyond what its user may have.
    over_rate_limit,
}

/// What a user has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// Its allocations.
    pub allocations: usize,
    /// What has passed for allocations that have ended.
    pub traffic: BothWays,
    /// What it may send yet, and receive.
    buckets: [RateBuckets; 2],
}

/// Users without allocations are forgotten when there are more than so many.
const ACCOUNTS: usize = 1_024;

/// A port that is kept for a client's next allocation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reservation {
    pub address: SocketAddr,
    pub until: Timestamp,
}

/// See the module.
pub struct Server {
    pub(super) settings: Settings,
    pub(super) allocations: HashMap<FiveTuple, Allocation>,
    /// Whose each relayed address is.
    pub(super) relayed: HashMap<SocketAddr, FiveTuple>,
    pub(super) reservations: HashMap<u64, Reservation>,
    pub(super) accounts: HashMap<String, Account>,
    pub(super) ports: Ports,
    pub(super) nonces: Nonces,
    /// Of clients by UDP, who may be anybody, and by TCP, who are at least where they say.
    guards: [Guard; 2],
    pub(super) rng: StdRng,
    pub(super) outcomes: Outcomes,
    /// When something of each allocation ends next.
    ends: BTreeSet<(Timestamp, FiveTuple)>,
    ends_of: HashMap<FiveTuple, Timestamp>,
}

impl Server {
    /// Without allocations.
    pub fn new(settings: Settings, mut rng: StdRng) -> Self {
        Self {
            allocations: HashMap::new(),
            relayed: HashMap::new(),
            reservations: HashMap::new(),
            accounts: HashMap::new(),
            ports: Ports::new(settings.ports.clone()),
            nonces: Nonces::new(rng.random()),
            guards: [Guard::new(settings.rates), Guard::new(settings.rates)],
            rng,
            outcomes: Outcomes::default(),
            ends: BTreeSet::new(),
            ends_of: HashMap::new(),
            settings,
        }
    }

    /// Takes over other settings; addresses and ports stay as they are. Allocations of users that are no more end at once,
    /// and so does what is not permitted any more.
    pub fn configure(&mut self, settings: Settings, actions: &mut Vec<Action>) {
        let Settings { addresses, ports, quotas, .. } = self.settings.clone();
        self.settings = Settings { addresses, ports, ..settings };
        self.guards.iter_mut().for_each(|guard| guard.set_rates(self.settings.rates));
        let gone: Vec<FiveTuple> = self
            .allocations
            .iter()
            .filter(|(_, allocation)| {
                // Of time-limited credentials the time does not count: that is asked with every refresh.
                let user = self.settings.credentials.user(&allocation.username, 0);
                user.is_none_or(|user| user.key != allocation.key)
                    || allocation
                        .permitted()
                        .any(|peer| !self.settings.peers.permit(peer) && !self.is_address(peer))
            })
            .map(|(tuple, _)| *tuple)
            .collect();
        gone.into_iter().for_each(|tuple| self.end(&tuple, actions));
        if self.settings.quotas.rate != quotas.rate {
            self.allocations.keys().for_each(|tuple| self.rebind(tuple, |_| true, actions));
        }
    }

    /// Ends everything.
    pub fn close(&mut self, actions: &mut Vec<Action>) {
        let all: Vec<FiveTuple> = self.allocations.keys().copied().collect();
        all.into_iter().for_each(|tuple| self.end(&tuple, actions));
        for (_, Reservation { address, .. }) in self.reservations.drain() {
            self.ports.give_back(address.port());
            actions.push(Action::Close(address));
        }
    }

    /// A client has sent a message.
    pub fn handle(
        &mut self,
        now: Now,
        tuple: FiveTuple,
        bytes: &[u8],
        host: &mut dyn Host,
        actions: &mut Vec<Action>,
    ) {
        match bytes.first() {
            Some(0..=3) => match Message::from_bytes(bytes) {
                Ok(message) => self.message(now, tuple, &message, host, actions),
                Err(_) => self.outcomes.not_turn += 1,
            },
            Some(0x40..=0x7f) => self.channel_data(now.at, tuple, bytes, actions),
            _ => self.outcomes.not_turn += 1,
        }
    }

    /// A datagram has come to a relayed address.
    pub fn handle_peer(
        &mut self,
        now: Timestamp,
        relayed: SocketAddr,
        peer: SocketAddr,
        bytes: &[u8],
        actions: &mut Vec<Action>,
    ) {
        let allocation =
            self.relayed.get(&relayed).and_then(|tuple| Some((tuple, self.allocations.get_mut(tuple)?)));
        // The relayed address may have ended in the very moment, and the sweep is still to come.
        let Some((tuple, allocation)) = allocation.filter(|(_, a)| {
            a.permits(now, peer.ip()) && a.relayed_for(peer.ip()).is_some_and(|r| r.until > now)
        }) else {
            self.outcomes.peer_refused += 1;
            return;
        };
        if !within(&mut self.accounts, &allocation.account, self.settings.quotas.rate, now, RECEIVED, bytes) {
            self.outcomes.over_rate_limit += 1;
            return;
        }
        let message = match allocation.number(now, peer) {
            Some(number) => {
                let mut message = vec![0; 4 + bytes.len()];
                ChannelData::new(number, bytes).write_into_unchecked(&mut message);
                Some(message)
            }
            None => {
                let transaction = TransactionId::from(self.rng.random::<u128>());
                data_indication(&[&XorPeerAddress::new(peer, transaction), &Data::new(bytes)], transaction)
            }
        };
        let Some(message) = message else { return };
        allocation.traffic.received += Traffic { packets: 1, bytes: bytes.len() as u64 };
        actions.push(Action::Answer { to: *tuple, bytes: message, is_data: true });
    }

    fn channel_data(&mut self, now: Timestamp, tuple: FiveTuple, bytes: &[u8], actions: &mut Vec<Action>) {
        let Ok(data) = ChannelData::parse(bytes) else {
            self.outcomes.not_turn += 1;
            return;
        };
        let peer = self.allocations.get(&tuple).and_then(|allocation| allocation.peer(now, data.id()));
        match peer {
            Some(peer) => self.send(now, tuple, peer, data.data(), false, actions),
            None => self.outcomes.data_refused += 1,
        }
    }

    /// Sends a client's data to a peer, if that is permitted.
    pub(super) fn send(
        &mut self,
        now: Timestamp,
        tuple: FiveTuple,
        peer: SocketAddr,
        data: &[u8],
        whole: bool,
        actions: &mut Vec<Action>,
    ) {
        let may = !self.is_address(peer.ip()) || self.relayed.contains_key(&peer);
        let allocation =
            self.allocations.get_mut(&tuple).filter(|allocation| may && allocation.permits(now, peer.ip()));
        let relayed = allocation.as_ref().and_then(|a| a.relayed_for(peer.ip())).filter(|r| r.until > now);
        let Some((allocation, relayed)) = allocation.zip(relayed) else {
            self.outcomes.data_refused += 1;
            return;
        };
        if !within(&mut self.accounts, &allocation.account, self.settings.quotas.rate, now, SENT, data) {
            self.outcomes.over_rate_limit += 1;
            return;
        }
        allocation.traffic.sent += Traffic { packets: 1, bytes: data.len() as u64 };
        actions.push(Action::Send { from: relayed.address, to: peer, bytes: data.to_vec(), whole });
    }

    /// Whether one more request is answered of somebody who has not proven who it is.
    pub(super) fn admits(&mut self, now: Timestamp, tuple: &FiveTuple) -> bool {
        let admits = self.guards[tuple.transport as usize].admits(now, tuple.client.ip());
        self.outcomes.over_budget += u64::from(!admits);
        admits
    }

    /// Whether this is an address that relayed ones are of. Clients of this server may talk to each other by those, but
    /// to nothing else at them.
    pub(super) fn is_address(&self, address: IpAddr) -> bool {
        self.settings.addresses.contains(&address)
    }

    /// When [`Self::expire`] has something to do.
    pub fn next_end(&self) -> Option<Timestamp> {
        let reserved = self.reservations.values().map(|reservation| reservation.until).min();
        self.ends.first().map(|(end, _)| *end).into_iter().chain(reserved).min()
    }

    /// Takes out whatever has ended.
    pub fn expire(&mut self, now: Timestamp, actions: &mut Vec<Action>) {
        while let Some(&(_, tuple)) = self.ends.first().filter(|(end, _)| *end <= now) {
            let Some(allocation) = self.allocations.get_mut(&tuple) else { break };
            let (relayed, channels) = allocation.expire(now);
            actions.extend(unbind(tuple, channels.iter().map(|(number, _)| *number)));
            for address in relayed {
                self.release(address, actions);
            }
            if self.allocations[&tuple].relayed.is_empty() {
                self.outcomes.expired += 1;
                self.end(&tuple, actions);
            } else {
                self.note_end(&tuple);
            }
        }
        let over: Vec<u64> =
            self.reservations.iter().filter(|(_, r)| r.until <= now).map(|(token, _)| *token).collect();
        for reservation in over.into_iter().filter_map(|token| self.reservations.remove(&token)) {
            self.ports.give_back(reservation.address.port());
            actions.push(Action::Close(reservation.address));
        }
    }

    /// Notes when something of an allocation ends next; after whatever has changed it.
    pub(super) fn note_end(&mut self, tuple: &FiveTuple) {
        if let Some(end) = self.ends_of.remove(tuple) {
            self.ends.remove(&(end, *tuple));
        }
        if let Some(end) = self.allocations.get(tuple).and_then(Allocation::next_end) {
            self.ends.insert((end, *tuple));
            self.ends_of.insert(*tuple, end);
        }
    }

    /// Ends an allocation.
    pub(super) fn end(&mut self, tuple: &FiveTuple, actions: &mut Vec<Action>) {
        let Some(allocation) = self.allocations.remove(tuple) else { return };
        self.note_end(tuple);
        actions.extend(unbind(*tuple, allocation.channels().map(|(number, ..)| number)));
        for relayed in &allocation.relayed {
            self.release(relayed.address, actions);
        }
        if let Some(account) = self.accounts.get_mut(&allocation.account) {
            account.allocations -= 1;
            account.traffic += allocation.traffic;
        }
        if self.accounts.len() > ACCOUNTS {
            self.accounts.retain(|_, account| account.allocations > 0);
        }
    }

    /// The connection of a client has ended, and with it its allocation.
    pub fn disconnected(&mut self, tuple: &FiveTuple, actions: &mut Vec<Action>) {
        self.outcomes.disconnected += u64::from(self.allocations.contains_key(tuple));
        self.end(tuple, actions);
    }

    /// What a client has sent by its connection is neither a message nor data.
    pub fn not_turn(&mut self) {
        self.outcomes.not_turn += 1;
    }

    /// A connection was refused.
    pub fn refused(&mut self) {
        self.outcomes.connection_refused += 1;
    }

    /// Gives a relayed address back.
    pub(super) fn release(&mut self, address: SocketAddr, actions: &mut Vec<Action>) {
        self.relayed.remove(&address);
        self.ports.give_back(address.port());
        actions.push(Action::Close(address));
    }

    /// Adds what the program has forwarded of a channel.
    pub fn account(&mut self, tuple: &FiveTuple, account: Option<&str>, traffic: BothWays) {
        if let Some(allocation) = self.allocations.get_mut(tuple) {
            allocation.traffic += traffic;
        } else if let Some(account) = account.and_then(|account| self.accounts.get_mut(account)) {
            account.traffic += traffic;
        }
    }

    /// What has happened so far.
    pub fn outcomes(&self) -> Outcomes {
        self.outcomes
    }

    /// All allocations.
    pub fn allocations(&self) -> impl ExactSizeIterator<Item = &Allocation> {
        self.allocations.values()
    }

    /// The allocation of a client.
    pub fn allocation(&self, tuple: &FiveTuple) -> Option<&Allocation> {
        self.allocations.get(tuple)
    }

    /// Users that have, or lately had, allocations, and what has passed for them.
    pub fn accounts(&self) -> HashMap<&str, Account> {
        let mut accounts: HashMap<&str, Account> =
            self.accounts.iter().map(|(name, account)| (name.as_str(), *account)).collect();
        for allocation in self.allocations.values() {
            if let Some(account) = accounts.get_mut(allocation.account.as_str()) {
                account.traffic += allocation.traffic;
            }
        }
        accounts
    }
}

/// Ends channels in the program, which has those of clients by UDP.
fn unbind(tuple: FiveTuple, numbers: impl Iterator<Item = u16>) -> impl Iterator<Item = Action> {
    let in_program = tuple.transport == Transport::Udp;
    numbers.filter(move |_| in_program).map(move |number| Action::Unbind(tuple, number))
}

/// Which of a user's buckets.
const SENT: usize = 0;
const RECEIVED: usize = 1;

/// Whether this data is within what its user may have; if so, it is paid for.
fn within(
    accounts: &mut HashMap<String, Account>,
    account: &str,
    rate: Option<RateLimit>,
    now: Timestamp,
    way: usize,
    data: &[u8],
) -> bool {
    let Some((account, rate)) = accounts.get_mut(account).zip(rate) else { return true };
    let buckets = &mut account.buckets[way];
    let len = u16::try_from(data.len()).unwrap_or(u16::MAX);
    let after = Rate::from(rate).after(*buckets, now.as_nanos() as u64, len);
    *buckets = after.unwrap_or(*buckets);
    after.is_some()
}
