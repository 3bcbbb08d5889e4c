//! Why a command is refused: the rule, in words and as a stable code.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use super::{Key, Name, RESERVED_SECONDS};

/// What kind of refusal it is: what a caller can do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The request itself can't be right.
    Invalid,
    /// It names what is not there.
    NotFound,
    /// It can't be with what else there is.
    Conflict,
    /// The caller has not shown what it takes.
    Denied,
    /// The subject has changed since the caller saw it.
    Stale,
}

/// Defines [`Refusal`], with the code, class and text of each.
macro_rules! refusals {
    ($($(#[$doc:meta])* $class:ident $code:literal $variant:ident($($field:ty),*) $text:literal;)*) => {
        /// Why a command is refused.
        #[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
        pub enum Refusal {
            $(#[doc = concat!("`", $code, "`: ", $text)] #[error($text)] $variant($($field),*),)*
        }

        impl Refusal {
            /// A code that stays the same whatever the text becomes.
            pub fn code(&self) -> &'static str {
                match self { $(Self::$variant(..) => $code,)* }
            }

            /// What kind it is.
            pub fn class(&self) -> Class {
                match self { $(Self::$variant(..) => Class::$class,)* }
            }
        }
    };
}

refusals! {
    Invalid "bad_name" BadName(String)
        "{0:?} is no name: use 1 to 63 letters, digits, '-', '_' and '.', the first a letter or digit";
    NotFound "not_found" NotFound(Key) "there is no {0}";
    Conflict "exists" Exists(Key) "there is a {0} already: names are unique";
    Stale "stale" Stale(Key) "{0} has changed since you read it: read it again";
    Invalid "too_many" TooMany(&'static str, usize) "too many {0} at once: at most {1}";

    Invalid "no_prefix" NoPrefix(Name) "network {0} needs an IPv4 or an IPv6 prefix to give addresses from";
    Invalid "bad_prefix" BadPrefix(IpNet, IpNet) "{0} is no prefix, since bits behind its length are set: {1} is one";
    Invalid "prefix_too_small" PrefixTooSmall(IpNet) "{0} has no room for two hosts: use a shorter prefix";
    Conflict "addresses_outside" AddressesOutside(Name, IpAddr)
        "network {0} has members outside of the new prefix, such as {1}: a prefix can only grow while it is in use";
    Conflict "network_in_use" NetworkInUse(Name, usize) "network {0} has {1} members: remove them first";
    Conflict "networks_overlap" NetworksOverlap(Name, Name, Name)
        "member {0} can't be in networks {1} and {2} at once: their prefixes overlap";

    Invalid "no_network" NoNetwork(Name) "member {0} is in no network: name at least one";
    Invalid "network_twice" NetworkTwice(Name, Name) "member {0} is in network {1} twice: name it once";
    Invalid "bad_public_key" BadPublicKey(Name) "the public key of {0} begins with 8 zero bytes: give it a new key";
    Conflict "public_key_taken" PublicKeyTaken(Name) "the public key belongs to member {0}: a key is one host";
    Conflict "public_key_collision" PublicKeyCollision(Name)
        "the public key begins with the same 8 bytes as that of member {0}: make a new one";
    Invalid "bad_endpoint" BadEndpoint(SocketAddr, &'static str) "{0} can't be an endpoint: {1}";
    Invalid "two_endpoints" TwoEndpoints(Name) "{0} has more than one static endpoint of a family";
    Conflict "endpoint_taken" EndpointTaken(SocketAddr, Name) "the endpoint {0} is that of {1}";
    Invalid "address_outside" AddressOutside(IpAddr, Name) "{0} is not in a prefix of network {1}";
    Invalid "address_reserved" AddressReserved(IpAddr, Name)
        "{0} is the network or broadcast address of network {1}: choose one in between";
    Conflict "address_taken" AddressTaken(IpAddr, Name) "{0} is the address of member {1}";
    Conflict "network_full" NetworkFull(Name) "network {0} has no free address: give it a shorter prefix";
    Invalid "bad_route" BadRoute(IpNet, Name) "{0} is within the prefix of network {1}: members have their addresses there";
    Conflict "route_taken" RouteTaken(IpNet, Name) "{0} is reached through member {1} already";

    Invalid "relay_not_public" RelayNotPublic(Name)
        "a relay has a public endpoint: give at least one public address and a port for {0}";
    Invalid "relay_private" RelayPrivate(IpAddr)
        "{0} is a private address, which hosts elsewhere can't reach: give a public one, or say that the relay is private";
    Invalid "relay_address_twice" RelayAddressTwice(IpAddr) "{0} is listed twice";
    Invalid "relay_port" RelayPort(Name) "the static endpoints of {0} have different ports, a relay has one: name addresses and port";
    Invalid "relay_itself" RelayItself(Name) "{0} can't be relayed by itself";
    Conflict "relay_relayed" RelayRelayed(Name)
        "{0} is a relay, which can't be relayed itself: relays reach each other directly";
    Conflict "relayed_relay" RelayedRelay(Name, Name)
        "{0} is relayed by {1}, so it can't be a relay: release it there first";
    Conflict "member_is_relay" MemberIsRelay(Name) "{0} is a relay: delete the relay first, which says what becomes of its hosts";
    Conflict "relay_not_in_network" RelayNotInNetwork(Name, Name, Name)
        "{0} can't be relayed by {1}, which is not in network {2}: a relay is in every network of its hosts";
    Conflict "not_relayed_here" NotRelayedHere(Name, Name) "{0} is not relayed by {1}";
    Invalid "unknown_relay_address" UnknownRelayAddress(IpAddr, Name) "{0} is no public address of relay {1}";

    Denied "wrong_key" WrongKey() "there is no such enrolment key";
    Denied "key_expired" KeyExpired(Name) "the enrolment key {0} has expired: ask for a new one";
    Denied "key_used_up" KeyUsedUp(Name) "the enrolment key {0} is used up: ask for a new one";
    Invalid "key_expires_in_past" KeyExpiresInPast(Name) "{0} would expire in the past";
    Invalid "key_without_uses" KeyWithoutUses(Name) "the enrolment key {0} would have no uses";
    Denied "owner_needed" OwnerNeeded()
        "this public key has joined already: joining again, or another network, needs its owner's secret; \
         a key that is not proven by a handshake is free again after {RESERVED_SECONDS} s";
}
