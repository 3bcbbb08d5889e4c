//! Why a packet met its end, and the one table from reason to verdict.

/// What the kernel does with a packet. The numbers are `enum xdp_action` (include/uapi/linux/bpf.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Verdict {
    /// XDP_ABORTED: touched and then failed; never passed on.
    Aborted = 0,
    /// XDP_DROP.
    Drop = 1,
    /// XDP_PASS: to the relay host's own network stack, byte for byte as received.
    Pass = 2,
    /// XDP_TX: out by the interface it came in by.
    Tx = 3,
    /// XDP_REDIRECT: out by another interface.
    Redirect = 4,
}

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $name:ident = $label:literal => $verdict:ident,)+) => {
        /// Every end that a packet can meet in the XDP program.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u32)]
        pub enum Reason {
            $($(#[doc = $doc])+ $name,)+
        }

        impl Reason {
            /// All reasons, by their number.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// The verdict that goes with the reason.
            #[inline(always)]
            pub const fn verdict(self) -> Verdict {
                match self { $(Self::$name => Verdict::$verdict,)+ }
            }

            /// The name in metrics and tables.
            pub const fn label(self) -> &'static str {
                match self { $(Self::$name => $label,)+ }
            }

            /// What it means, in one line.
            pub const fn description(self) -> &'static str {
                match self { $(Self::$name => concat!($($doc),+),)+ }
            }
        }
    };
}

reasons! {
    /// Relayed data, sent out by the interface it came in by.
    ForwardedTx = "forwarded_tx" => Tx,
    /// Relayed data, sent out by another interface.
    ForwardedRedirect = "forwarded_redirect" => Redirect,
    /// Not UDP over IPv4 or IPv6.
    OtherProtocol = "other_protocol" => Pass,
    /// UDP, but not to the relay's address and port.
    OtherDestination = "other_destination" => Pass,
    /// A frame with more VLAN tags than are handled (two).
    VlanTagged = "vlan_tagged" => Pass,
    /// Headers or lengths do not fit the frame.
    Malformed = "malformed" => Pass,
    /// To a relay address with IPv4 options or IPv6 extension headers.
    IpOptions = "ip_options" => Pass,
    /// A fragment to a relay address.
    Fragment = "fragment" => Pass,
    /// IPv6 to the relay port without a UDP checksum.
    NoUdpChecksum = "no_udp_checksum" => Pass,
    /// To the relay port, but not the shape of one WireGuard message.
    NotWireguard = "not_wireguard" => Pass,
    /// To the relay port, from a source that the deny list names.
    SourceDenied = "source_denied" => Drop,
    /// To the relay port, from a new source that the allow list does not name.
    SourceNotAllowed = "source_not_allowed" => Drop,
    /// To the relay port, from a member's or another relay's endpoint that has used up its own budget.
    KnownOverBudget = "known_over_budget" => Drop,
    /// To the relay port, from an unknown source that has used up its own budget.
    SourceOverBudget = "source_over_budget" => Drop,
    /// To the relay port, from an unknown source when all of them together have used up theirs.
    UnknownOverBudget = "unknown_over_budget" => Drop,
    /// A handshake initiation, copied up and passed on.
    Initiation = "initiation" => Pass,
    /// A handshake initiation that found the ring buffer full, or half full if its source is unknown.
    InitiationNotCopied = "initiation_not_copied" => Pass,
    /// A response to a relayed initiation, taken up.
    Response = "response" => Drop,
    /// A response to a relayed initiation that found the ring buffer full, or half full if its source is unknown.
    ResponseNotCopied = "response_not_copied" => Drop,
    /// A response to no relayed initiation: the relay's own.
    ResponseOwn = "response_own" => Pass,
    /// A response to a relayed initiation from another than the expected responder.
    ResponseWrongSource = "response_wrong_source" => Pass,
    /// A cookie reply within a relayed handshake, taken up.
    CookieReply = "cookie_reply" => Drop,
    /// A cookie reply within a relayed handshake that found the ring buffer full, or half full if its source is unknown.
    CookieReplyNotCopied = "cookie_reply_not_copied" => Drop,
    /// A cookie reply to no relayed handshake: the relay's own.
    CookieReplyOwn = "cookie_reply_own" => Pass,
    /// A cookie reply within a relayed handshake from a wrong source.
    CookieReplyWrongSource = "cookie_reply_wrong_source" => Pass,
    /// Transport data of no relayed session: the relay's own.
    DataOwn = "data_own" => Pass,
    /// Transport data of a relayed session, but from or to other addresses than the session's.
    DataWrongSource = "data_wrong_source" => Pass,
    /// Relayed data beyond the rate limit of its sender or of its receiver, or a TURN channel's beyond its user's.
    OverRateLimit = "over_rate_limit" => Drop,
    /// Relayed data with a TTL or hop limit of 1 or 0.
    TtlExceeded = "ttl_exceeded" => Drop,
    /// Relayed data whose next hop is not resolved: passed on, so that userspace forwards it.
    NextHopUnresolved = "next_hop_unresolved" => Pass,
    /// Relayed data larger than the next hop's MTU that may not be fragmented (IPv6, or IPv4 with DF): its sender is told.
    TooBig = "too_big" => Drop,
    /// Relayed IPv4 data larger than the next hop's MTU that may be fragmented: passed on, so that userspace forwards it.
    ToFragment = "to_fragment" => Pass,
    /// Relayed data without a UDP checksum that is to leave as IPv6, which needs one: passed on, so that userspace forwards it.
    ToChecksum = "to_checksum" => Pass,
    /// Relayed data that needs a longer header than the driver has left room for: passed on, so that userspace forwards it.
    NoHeadroom = "no_headroom" => Pass,
    /// Relayed data whose egress interface takes no redirected frames.
    NoTxPort = "no_tx_port" => Drop,
    /// Relayed data that could not be rewritten after its head was moved: never happens, but it would not be passed on.
    RewriteFailed = "rewrite_failed" => Aborted,
    /// Data of a TURN channel, sent out by the interface it came in by.
    ChannelTx = "channel_tx" => Tx,
    /// Data of a TURN channel, sent out by another interface.
    ChannelRedirect = "channel_redirect" => Redirect,
    /// To the TURN server or to a relayed address of it, but data of no channel: passed on, to the server.
    NoChannel = "no_channel" => Pass,
    /// Data of a TURN channel whose time is up: passed on, to the server.
    ChannelExpired = "channel_expired" => Pass,
}

/// The second dimension of the counters: the family of a packet as received, or both families of one that changed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Family {
    /// Neither, or not known yet.
    Other = 0,
    /// IPv4.
    Ipv4 = 1,
    /// IPv6.
    Ipv6 = 2,
    /// Came as IPv4 and left as IPv6.
    Ipv4ToIpv6 = 3,
    /// Came as IPv6 and left as IPv4.
    Ipv6ToIpv4 = 4,
}

impl Family {
    /// All families, by their number.
    pub const ALL: &[Self] = &[Self::Other, Self::Ipv4, Self::Ipv6, Self::Ipv4ToIpv6, Self::Ipv6ToIpv4];

    /// The name in metrics and tables.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Other => "other",
            Self::Ipv4 => "ipv4",
            Self::Ipv6 => "ipv6",
            Self::Ipv4ToIpv6 => "ipv4_to_ipv6",
            Self::Ipv6ToIpv4 => "ipv6_to_ipv4",
        }
    }
}

/// Capacity of [`crate::tables::COUNTERS`].
pub const COUNTERS_LEN: u32 = (Reason::ALL.len() * Family::ALL.len()) as u32;

/// The key in [`crate::tables::COUNTERS`] for a reason and the family of the received packet.
#[inline(always)]
pub const fn counter_index(reason: Reason, family: Family) -> u32 {
    reason as u32 * Family::ALL.len() as u32 + family as u32
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_reason_and_family_has_its_own_counter_and_label() {
        let indices: BTreeSet<_> =
            Reason::ALL.iter().flat_map(|&r| Family::ALL.iter().map(move |&f| counter_index(r, f))).collect();
        assert_eq!(indices, (0..COUNTERS_LEN).collect());
        assert_eq!(Reason::ALL.iter().map(|r| r.label()).collect::<BTreeSet<_>>().len(), Reason::ALL.len());
    }
}
