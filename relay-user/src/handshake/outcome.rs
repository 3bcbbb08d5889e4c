//! What became of a handshake message in userspace, and what happened to sessions.

macro_rules! outcomes {
    ($($(#[doc = $doc:literal])+ $name:ident = $label:literal,)+) => {
        /// Everything that is counted in following handshakes.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Outcome {
            $($(#[doc = $doc])+ $name,)+
        }

        impl Outcome {
            /// All outcomes, by their number.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// The name in metrics and tables.
            pub const fn label(self) -> &'static str {
                match self { $(Self::$name => $label,)+ }
            }

            /// What it means, in one line.
            pub const fn description(self) -> &'static str {
                match self { $(Self::$name => concat!($($doc),+).trim_ascii(),)+ }
            }
        }
    };
}

outcomes! {
    /// An initiation, sent on to the member that it is for.
    InitiationForwarded = "initiation_forwarded",
    /// An initiation for the relay's own interface; not relayed.
    InitiationForRelay = "initiation_for_relay",
    /// An initiation from an unknown source that has not proven its address; answered with a cookie.
    Challenged = "challenged",
    /// An unknown source proved its address: its initiation's mac2 was made with our cookie.
    Mac2Verified = "mac2_verified",
    /// An initiation for nobody that we know.
    UnknownRecipient = "unknown_recipient",
    /// An initiation whose recipient was not looked for among all members: its source, or all unknown sources together, have
    /// had as many searches as they may.
    SearchLimit = "search_limit",
    /// An initiation of a known source for a member that is sent as many as it may be.
    InitiationLimit = "initiation_limit",
    /// The same of an unknown source, from which a member is sent fewer.
    UnknownInitiationLimit = "unknown_initiation_limit",
    /// An initiation between members that may not talk over this relay.
    NotPermitted = "not_permitted",
    /// An initiation that another relay sent for a member that is not relayed here; sending it on could make a loop.
    RelayLoop = "relay_loop",
    /// An initiation for a member whose endpoint is not known yet.
    RecipientUnknownEndpoint = "recipient_unknown_endpoint",
    /// An initiation for a member whose endpoint is of a family that the relay has no address of.
    FamilyMismatch = "family_mismatch",
    /// An initiation for a member that is at the very endpoint that it came from.
    SameEndpoint = "same_endpoint",
    /// A message whose index belongs to another handshake or session; both sides retry with new ones.
    IndexTaken = "index_taken",
    /// An initiation that found the table of pending handshakes full.
    PendingFull = "pending_full",
    /// An initiation whose source has as many handshakes under way as one source may, or as all unknown ones may together.
    PendingQuota = "pending_quota",
    /// A response that proved a session, sent on to the initiator.
    ResponseForwarded = "response_forwarded",
    /// A response to no initiation that we remember.
    ResponseUnexpected = "response_unexpected",
    /// A response from another endpoint than the initiation was sent to.
    ResponseWrongSource = "response_wrong_source",
    /// A response that is for another than the initiator, or for one that may not talk to the responder.
    ResponseBadMac1 = "response_bad_mac1",
    /// One response or cookie reply too many to one initiation.
    ResponseLimit = "response_limit",
    /// A response whose sender has as many sessions as one member may have.
    QuotaExceeded = "quota_exceeded",
    /// A response that found the session table full.
    SessionsFull = "sessions_full",
    /// A session whose indices found no room in the session table; both sides retry with new ones.
    NoRoom = "no_room",
    /// A cookie reply, sent on.
    CookieForwarded = "cookie_forwarded",
    /// A cookie reply to no handshake that we remember.
    CookieUnexpected = "cookie_unexpected",
    /// A cookie reply from another endpoint than the handshake's.
    CookieWrongSource = "cookie_wrong_source",
    /// A message whose TTL or hop limit would have become 0.
    TtlExceeded = "ttl_exceeded",
    /// A message from an address that is never served: unusable, denied or the relay's own.
    SourceRefused = "source_refused",
    /// A member's or relay's endpoint that is never used: unusable, denied, the relay's own or configured for another.
    EndpointRefused = "endpoint_refused",
    /// Not one of the three handshake messages.
    NotHandshake = "not_handshake",
    /// A session was proven.
    SessionOpened = "session_opened",
    /// A session followed a member to its new endpoint.
    SessionMoved = "session_moved",
    /// A session made room for a newer one of the same two hosts.
    SessionSuperseded = "session_superseded",
    /// A session reached the end of its life by the protocol's clock.
    SessionExpired = "session_expired",
    /// A session whose hosts may no longer talk.
    SessionRevoked = "session_revoked",
}

/// How often each [`Outcome`] has happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcomes([u64; Outcome::ALL.len()]);

impl Default for Outcomes {
    fn default() -> Self {
        Self([0; Outcome::ALL.len()])
    }
}

impl Outcomes {
    /// How often `outcome` has happened.
    pub fn count(&self, outcome: Outcome) -> u64 {
        self.0[outcome as usize]
    }

    /// All outcomes with their counts.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (Outcome, u64)> {
        Outcome::ALL.iter().map(|&outcome| (outcome, self.count(outcome)))
    }

    pub(super) fn add(&mut self, outcome: Outcome) {
        self.0[outcome as usize] += 1;
    }
}
