//! Requests of clients, and Send indications, one after the other as RFC 8656 has them.

use std::{net::SocketAddr, time::Duration};

use rand::Rng as _;
use turn_types::{
    AddressFamily,
    attribute::{
        AdditionalAddressFamily, AddressErrorCode, ChannelNumber, Data, DontFragment, EvenPort, Lifetime,
        RequestedAddressFamily, RequestedTransport, ReservationToken, XorPeerAddress, XorRelayedAddress,
    },
    message::{ALLOCATE, CHANNEL_BIND, CREATE_PERMISSION, REFRESH, SEND},
    stun::{
        attribute::{
            AttributeType, ErrorCode, Fingerprint, MessageIntegrity, Nonce, Realm, Username, XorMappedAddress,
        },
        message::{BINDING, Message, MessageClass},
        prelude::{Attribute as _, AttributeFromRaw as _, AttributeStaticType as _},
    },
};

use crate::members::MemberId;

use super::{
    allocation::{Allocation, Relayed},
    credentials::User,
    message::{Response, is_signed, is_signed_with},
    peers::is_among,
    ports::Wanted,
    server::{Action, Binding, FiveTuple, Host, Now, Reservation, Server, Transport},
};
use crate::handshake::Timestamp;

/// How long an allocation lasts if the client does not say, and the least that it gets.
const DEFAULT_LIFETIME: u32 = 600;
/// The most that it gets.
const LONGEST_LIFETIME: u32 = 3_600;
/// How long the second port of a pair is kept (RFC 8656, section 7.2).
const RESERVED_FOR: Duration = Duration::from_secs(30);
/// RFC 8656 has channel numbers up to 0x4fff, RFC 5766, which many clients still go by, up to 0x7fff.
const CHANNEL_NUMBERS: std::ops::RangeInclusive<u16> = 0x4000..=0x7fff;
/// IANA's number of UDP.
const UDP: u8 = 17;

/// What requests may hold that must be understood.
const UNDERSTOOD: &[AttributeType] = &[
    Username::TYPE,
    Realm::TYPE,
    Nonce::TYPE,
    MessageIntegrity::TYPE,
    Fingerprint::TYPE,
    Lifetime::TYPE,
    RequestedTransport::TYPE,
    RequestedAddressFamily::TYPE,
    AdditionalAddressFamily::TYPE,
    EvenPort::TYPE,
    ReservationToken::TYPE,
    DontFragment::TYPE,
    ChannelNumber::TYPE,
    XorPeerAddress::TYPE,
    Data::TYPE,
];

/// So many attributes that are not are named in an answer.
const UNKNOWN: usize = 16;

/// A request whose sender has proven who it is.
struct Request<'a> {
    now: Timestamp,
    tuple: FiveTuple,
    message: &'a Message<'a>,
    username: String,
    user: User,
}

impl Server {
    pub(super) fn message(
        &mut self,
        now: Now,
        tuple: FiveTuple,
        message: &Message<'_>,
        host: &mut dyn Host,
        actions: &mut Vec<Action>,
    ) {
        match message.class() {
            MessageClass::Request => {
                if let Some(bytes) = self.answer(now, tuple, message, host, actions) {
                    actions.push(Action::Answer { to: tuple, bytes, is_data: false });
                }
            }
            MessageClass::Indication if message.method() == SEND => {
                self.send_indication(now.at, tuple, message, actions)
            }
            // Keepalives are indications, too.
            MessageClass::Indication | MessageClass::Success | MessageClass::Error => {}
        }
    }

    /// The answer to a request; `None` if it gets none.
    fn answer(
        &mut self,
        now: Now,
        tuple: FiveTuple,
        message: &Message<'_>,
        host: &mut dyn Host,
        actions: &mut Vec<Action>,
    ) -> Option<Vec<u8>> {
        // Whoever has an allocation has proven himself, as long as he does so again.
        let known = self.allocations.contains_key(&tuple);
        if !known && !self.admits(now.at, &tuple) {
            // By UDP it is asked again.
            actions.extend((tuple.transport == Transport::Tcp).then_some(Action::Disconnect(tuple)));
            return None;
        }
        if message.method() == BINDING {
            if known && !self.admits(now.at, &tuple) {
                return None;
            }
            let unknown = unknown_attributes(message);
            if !unknown.is_empty() {
                self.outcomes.bad_request += 1;
                return Some(Response::unknown_attributes(message, &unknown).finish(None));
            }
            self.outcomes.binding += 1;
            let mapped = XorMappedAddress::new(tuple.client, message.transaction_id());
            return Some(Response::success(message).with(&mapped).finish(None));
        }
        let (username, user) = match self.authenticate(now, &tuple, message) {
            Ok(user) => user,
            Err(refusal) => return (!known || self.admits(now.at, &tuple)).then(|| refusal.finish(None)),
        };
        let key = user.key;
        let request = Request { now: now.at, tuple, message, username, user };
        Some(self.proven(&request, host, actions).finish(Some(&key)))
    }

    /// Who has sent this (RFC 8489, section 9.2.4).
    fn authenticate(
        &mut self,
        now: Now,
        tuple: &FiveTuple,
        message: &Message<'_>,
    ) -> Result<(String, User), Response> {
        let nonce = self.nonces.make(now.at, tuple);
        let realm = self.settings.credentials.realm.clone();
        let challenge = |code| Response::error(message, code).with_challenge(&realm, &nonce);
        if !is_signed(message) {
            self.outcomes.challenged += 1;
            return Err(challenge(ErrorCode::UNAUTHORIZED));
        }
        let (Ok(username), Ok(said_realm), Ok(said_nonce)) =
            (message.attribute::<Username>(), message.attribute::<Realm>(), message.attribute::<Nonce>())
        else {
            self.outcomes.bad_request += 1;
            return Err(Response::error(message, ErrorCode::BAD_REQUEST));
        };
        if !self.nonces.is_good(now.at, tuple, said_nonce.nonce()) {
            self.outcomes.stale_nonce += 1;
            return Err(challenge(ErrorCode::STALE_NONCE));
        }
        let username = username.username().to_owned();
        let user = self.settings.credentials.user(&username, now.unix);
        match user.filter(|user| said_realm.realm() == &*realm && is_signed_with(message, &user.key)) {
            Some(user) => Ok((username, user)),
            None => {
                self.outcomes.unauthorized += 1;
                Err(challenge(ErrorCode::UNAUTHORIZED))
            }
        }
    }

    fn proven(&mut self, request: &Request<'_>, host: &mut dyn Host, actions: &mut Vec<Action>) -> Response {
        let message = request.message;
        let unknown = unknown_attributes(message);
        if !unknown.is_empty() {
            self.outcomes.bad_request += 1;
            return Response::unknown_attributes(message, &unknown);
        }
        let allocation = self.allocations.get(&request.tuple);
        let result = match allocation {
            Some(allocation) if allocation.username != request.username => Err(ErrorCode::WRONG_CREDENTIALS),
            _ => match message.method() {
                ALLOCATE => self.allocate(request, host, actions),
                REFRESH => self.refresh(request, actions),
                CREATE_PERMISSION => self.create_permission(request, host, actions),
                CHANNEL_BIND => self.channel_bind(request, host, actions),
                _ => Err(ErrorCode::BAD_REQUEST),
            },
        };
        self.note_end(&request.tuple);
        result.unwrap_or_else(|code| {
            self.count_refusal(code);
            Response::error(message, code)
        })
    }

    fn count_refusal(&mut self, code: u16) {
        let outcomes = &mut self.outcomes;
        let count = match code {
            ErrorCode::WRONG_CREDENTIALS => &mut outcomes.wrong_user,
            ErrorCode::ALLOCATION_MISMATCH => &mut outcomes.mismatch,
            ErrorCode::FORBIDDEN => &mut outcomes.forbidden_peer,
            ErrorCode::ALLOCATION_QUOTA_REACHED => &mut outcomes.over_quota,
            ErrorCode::INSUFFICIENT_CAPACITY => &mut outcomes.no_capacity,
            _ => &mut outcomes.bad_request,
        };
        *count += 1;
    }

    /// RFC 8656, section 7.2.
    fn allocate(
        &mut self,
        request: &Request<'_>,
        host: &mut dyn Host,
        actions: &mut Vec<Action>,
    ) -> Result<Response, u16> {
        let (message, tuple) = (request.message, request.tuple);
        if let Some(allocation) = self.allocations.get(&tuple) {
            // Its answer was lost, or is still on its way.
            return if allocation.transaction == message.transaction_id() {
                Ok(allocated(request, allocation, &[]))
            } else {
                Err(ErrorCode::ALLOCATION_MISMATCH)
            };
        }
        let wish = Wish::of(message)?;
        let account = &request.user.account;
        let quotas = self.settings.quotas;
        if self.allocations.len() >= quotas.allocations
            || self.accounts.get(account).is_some_and(|account| account.allocations >= quotas.per_user)
        {
            return Err(ErrorCode::ALLOCATION_QUOTA_REACHED);
        }
        let until = request.now + Duration::from_secs(lifetime(message).into());
        let (mut relayed, mut refused, mut reservation) = (Vec::new(), Vec::new(), None);
        if let Some(token) = wish.token {
            let Reservation { address, .. } =
                self.reservations.remove(&token).ok_or(ErrorCode::INSUFFICIENT_CAPACITY)?;
            relayed.push(Relayed { address, until });
        }
        for &family in &wish.families {
            match self.take(family, wish.port, tuple, host) {
                Ok(address) => relayed.push(Relayed { address, until }),
                Err(code) => refused.push((family, code)),
            }
        }
        let Some(first) = relayed.first().copied() else {
            return Err(refused.first().map_or(ErrorCode::INSUFFICIENT_CAPACITY, |(_, code)| *code));
        };
        if wish.port == Wanted::Pair {
            let second = SocketAddr::new(first.address.ip(), first.address.port() + 1);
            if !host.open(second) || !self.ports.take_this(second.port()) {
                self.release(first.address, actions);
                return Err(ErrorCode::INSUFFICIENT_CAPACITY);
            }
            let token = self.rng.random();
            let until = request.now + RESERVED_FOR;
            self.reservations.insert(token, Reservation { address: second, until });
            reservation = Some(token);
        }
        for relayed in &relayed {
            self.relayed.insert(relayed.address, tuple);
        }
        let mut allocation = Allocation::new(
            request.username.clone(),
            request.user.clone(),
            message.transaction_id(),
            relayed,
        );
        allocation.reservation = reservation;
        let response = allocated(request, &allocation, &refused);
        self.accounts.entry(account.clone()).or_default().allocations += 1;
        self.allocations.insert(tuple, allocation);
        self.outcomes.allocated += 1;
        Ok(response)
    }

    /// Takes a relayed address of a family: of the address that the client talks to if that is of it.
    fn take(
        &mut self,
        family: AddressFamily,
        wanted: Wanted,
        tuple: FiveTuple,
        host: &mut dyn Host,
    ) -> Result<SocketAddr, u16> {
        let is_of = |address: &&std::net::IpAddr| address.is_ipv4() == (family == AddressFamily::IPV4);
        let server = tuple.server.ip();
        let address =
            Some(&server).filter(is_of).or_else(|| self.settings.addresses.iter().find(is_of)).copied();
        let address = address.ok_or(ErrorCode::ADDRESS_FAMILY_NOT_SUPPORTED)?;
        let open = |port| host.open(SocketAddr::new(address, port));
        let port = self.ports.take(&mut self.rng, wanted, open).ok_or(ErrorCode::INSUFFICIENT_CAPACITY)?;
        Ok(SocketAddr::new(address, port))
    }

    /// RFC 8656, section 8.2.
    fn refresh(&mut self, request: &Request<'_>, actions: &mut Vec<Action>) -> Result<Response, u16> {
        let (message, tuple) = (request.message, request.tuple);
        let allocation = self.allocations.get_mut(&tuple).ok_or(ErrorCode::ALLOCATION_MISMATCH)?;
        let family = family::<RequestedAddressFamily>(message)?;
        let concerned = |address: &SocketAddr| {
            family.is_none_or(|family| address.is_ipv4() == (family == AddressFamily::IPV4))
        };
        if !allocation.relayed.iter().any(|relayed| concerned(&relayed.address)) {
            return Err(ErrorCode::PEER_ADDRESS_FAMILY_MISMATCH);
        }
        let ends = message.attribute::<Lifetime>().is_ok_and(|lifetime| lifetime.seconds() == 0);
        let seconds = if ends { 0 } else { lifetime(message) };
        let until = request.now + Duration::from_secs(seconds.into());
        for relayed in allocation.relayed.iter_mut().filter(|relayed| concerned(&relayed.address)) {
            relayed.until = until;
        }
        if ends {
            self.outcomes.released += 1;
            // Not counted as one whose time was up.
            let before = self.outcomes.expired;
            self.note_end(&tuple);
            self.expire(request.now, actions);
            self.outcomes.expired = before;
        } else {
            self.outcomes.refreshed += 1;
            self.rebind(&tuple, |_| true, actions);
        }
        Ok(Response::success(message).with(&Lifetime::new(seconds)))
    }

    /// RFC 8656, section 10.2.
    fn create_permission(
        &mut self,
        request: &Request<'_>,
        host: &mut dyn Host,
        actions: &mut Vec<Action>,
    ) -> Result<Response, u16> {
        let message = request.message;
        let allocation = self.allocations.get(&request.tuple).ok_or(ErrorCode::ALLOCATION_MISMATCH)?;
        let mut peers = Vec::new();
        for (_, attribute) in message.iter_attributes() {
            if attribute.get_type() == XorPeerAddress::TYPE {
                let peer = XorPeerAddress::from_raw(attribute).map_err(|_| ErrorCode::BAD_REQUEST)?;
                let peer = peer.addr(message.transaction_id()).ip();
                allocation.relayed_for(peer).ok_or(ErrorCode::PEER_ADDRESS_FAMILY_MISMATCH)?;
                peers.push(peer);
            }
        }
        if peers.is_empty() {
            return Err(ErrorCode::BAD_REQUEST);
        }
        if allocation.permissions_with(&peers) > self.settings.quotas.peers {
            return Err(ErrorCode::INSUFFICIENT_CAPACITY);
        }
        // All of them or none.
        if !peers.iter().all(|peer| self.may_reach(*peer, host)) {
            return Err(ErrorCode::FORBIDDEN);
        }
        if let Some(allocation) = self.allocations.get_mut(&request.tuple) {
            peers.iter().for_each(|peer| allocation.permit(request.now, *peer));
        }
        self.rebind(&request.tuple, |peer| peers.contains(&peer.ip()), actions);
        self.outcomes.permitted += 1;
        Ok(Response::success(message))
    }

    /// RFC 8656, section 12.2.
    fn channel_bind(
        &mut self,
        request: &Request<'_>,
        host: &mut dyn Host,
        actions: &mut Vec<Action>,
    ) -> Result<Response, u16> {
        let message = request.message;
        let allocation = self.allocations.get(&request.tuple).ok_or(ErrorCode::ALLOCATION_MISMATCH)?;
        let number = message.attribute::<ChannelNumber>().map_err(|_| ErrorCode::BAD_REQUEST)?.channel();
        let peer = message.attribute::<XorPeerAddress>().map_err(|_| ErrorCode::BAD_REQUEST)?;
        let peer = peer.addr(message.transaction_id());
        if !CHANNEL_NUMBERS.contains(&number) || !allocation.may_bind(number, peer) {
            return Err(ErrorCode::BAD_REQUEST);
        }
        allocation.relayed_for(peer.ip()).ok_or(ErrorCode::PEER_ADDRESS_FAMILY_MISMATCH)?;
        let new = allocation.number(request.now, peer).is_none();
        let quota = self.settings.quotas.peers;
        if new && allocation.channels_len() >= quota || allocation.permissions_with(&[peer.ip()]) > quota {
            return Err(ErrorCode::INSUFFICIENT_CAPACITY);
        }
        let own_but_not_relayed = self.is_address(peer.ip()) && !self.relayed.contains_key(&peer);
        if peer.port() == 0 || own_but_not_relayed || !self.may_reach(peer.ip(), host) {
            return Err(ErrorCode::FORBIDDEN);
        }
        if let Some(allocation) = self.allocations.get_mut(&request.tuple) {
            allocation.bind(request.now, number, peer);
        }
        // The permission is one for its address, and so for its other channels.
        self.rebind(&request.tuple, |other| other.ip() == peer.ip(), actions);
        self.outcomes.bound += 1;
        Ok(Response::success(message))
    }

    /// RFC 8656, section 11.2. What is not right is dropped.
    fn send_indication(
        &mut self,
        now: Timestamp,
        tuple: FiveTuple,
        message: &Message<'_>,
        actions: &mut Vec<Action>,
    ) {
        let understood = unknown_attributes(message).is_empty();
        match (message.attribute::<XorPeerAddress>(), message.attribute::<Data>()) {
            (Ok(peer), Ok(data)) if understood => {
                let peer = peer.addr(message.transaction_id());
                let whole = message.has_attribute(DontFragment::TYPE);
                self.send(now, tuple, peer, data.data(), whole, actions);
            }
            _ => self.outcomes.data_refused += 1,
        }
    }

    /// Whether clients may talk to this address. The server's own ones they may as far as those are relayed addresses of
    /// others, which depends on the port; so that is asked with every datagram.
    fn may_reach(&self, peer: std::net::IpAddr, host: &mut dyn Host) -> bool {
        // One that only looks like IPv6 would leave by the other family.
        if peer.to_canonical() != peer {
            return false;
        }
        self.is_address(peer)
            || self.settings.peers.permit(peer)
                && !is_among(&self.settings.addresses, peer)
                && !host.is_own(peer)
    }

    /// Tells anew of the channels to these peers: they forward for longer now. Those of a client by TCP are not the program's.
    pub(super) fn rebind(
        &self,
        tuple: &FiveTuple,
        concerned: impl Fn(&SocketAddr) -> bool,
        actions: &mut Vec<Action>,
    ) {
        let Some(allocation) = self.allocations.get(tuple).filter(|_| tuple.transport == Transport::Udp)
        else {
            return;
        };
        let user = user_id(&allocation.account);
        let bindings = allocation.channels().filter(|(.., channel)| concerned(&channel.peer));
        actions.extend(bindings.map(|(number, relayed, channel)| {
            Action::Bind(Binding {
                tuple: *tuple,
                number,
                relayed: relayed.address,
                peer: channel.peer,
                until: channel.until,
                user,
                limit: self.settings.quotas.rate,
            })
        }));
    }
}

/// What stands for a user where limits are kept.
fn user_id(account: &str) -> MemberId {
    let hash = blake2s_simd::Params::new().personal(b"wgrturn1").hash(account.as_bytes());
    let [a, b, c, d, e, f, g, h, ..] = *hash.as_array();
    // 0 is nobody.
    MemberId(u64::from_le_bytes([a, b, c, d, e, f, g, h]).max(1))
}

/// What a message has that must be understood and is not; the first of it, if it is a lot.
fn unknown_attributes(message: &Message<'_>) -> Vec<AttributeType> {
    message
        .iter_attributes()
        .map(|(_, attribute)| attribute.get_type())
        .filter(|kind| kind.comprehension_required() && !UNDERSTOOD.contains(kind))
        .take(UNKNOWN)
        .collect()
}

/// What an Allocate request asks for.
struct Wish {
    families: Vec<AddressFamily>,
    port: Wanted,
    token: Option<u64>,
}

impl Wish {
    fn of(message: &Message<'_>) -> Result<Self, u16> {
        let transport = message.attribute::<RequestedTransport>().map_err(|_| ErrorCode::BAD_REQUEST)?;
        if transport.protocol() != UDP {
            return Err(ErrorCode::UNSUPPORTED_TRANSPORT_PROTOCOL);
        }
        let requested = family::<RequestedAddressFamily>(message)?;
        let additional = family::<AdditionalAddressFamily>(message)?;
        let even = message.attribute::<EvenPort>().ok();
        let token = message.attribute::<ReservationToken>().ok().map(|token| token.token());
        let pair = even.as_ref().is_some_and(EvenPort::requested);
        let contradicts = token.is_some() && (even.is_some() || requested.is_some() || additional.is_some())
            || additional.is_some() && (requested.is_some() || pair)
            || additional == Some(AddressFamily::IPV4);
        if contradicts {
            return Err(ErrorCode::BAD_REQUEST);
        }
        let families = match (token, requested) {
            (Some(_), _) => Vec::new(),
            (None, Some(family)) => vec![family],
            (None, None) => [AddressFamily::IPV4].into_iter().chain(additional).collect(),
        };
        let port = match even {
            None => Wanted::Any,
            Some(_) if pair => Wanted::Pair,
            Some(_) => Wanted::Even,
        };
        Ok(Self { families, port, token })
    }
}

/// The family that an attribute names; a family that there is not is refused.
fn family<A>(message: &Message<'_>) -> Result<Option<AddressFamily>, u16>
where
    A: turn_types::stun::prelude::AttributeStaticType,
{
    let Some(attribute) = message.raw_attribute(A::TYPE) else { return Ok(None) };
    match attribute.value.first() {
        Some(1) => Ok(Some(AddressFamily::IPV4)),
        Some(2) => Ok(Some(AddressFamily::IPV6)),
        _ => Err(ErrorCode::ADDRESS_FAMILY_NOT_SUPPORTED),
    }
}

/// How long an allocation is to last, in seconds.
fn lifetime(message: &Message<'_>) -> u32 {
    let wanted = message.attribute::<Lifetime>().map_or(DEFAULT_LIFETIME, |lifetime| lifetime.seconds());
    wanted.clamp(DEFAULT_LIFETIME, LONGEST_LIFETIME)
}

/// That an allocation stands.
fn allocated(request: &Request<'_>, allocation: &Allocation, refused: &[(AddressFamily, u16)]) -> Response {
    let (message, transaction) = (request.message, request.message.transaction_id());
    let mut response = Response::success(message);
    for relayed in &allocation.relayed {
        response = response.with(&XorRelayedAddress::new(relayed.address, transaction));
    }
    let left = allocation.relayed.iter().map(|relayed| relayed.until.saturating_sub(request.now)).max();
    response = response
        .with(&Lifetime::new(left.unwrap_or_default().as_secs() as u32))
        .with(&XorMappedAddress::new(request.tuple.client, transaction));
    if let Some(token) = allocation.reservation {
        response = response.with(&ReservationToken::new(token));
    }
    for &(family, code) in refused {
        if let Ok(error) = ErrorCode::builder(code).build() {
            response = response.with(&AddressErrorCode::new(family, error));
        }
    }
    response
}
