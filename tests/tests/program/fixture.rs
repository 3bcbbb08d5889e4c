//! One packet and all that it may do.

use relay_ebpf::{
    event::{Event, HANDSHAKE, NEW_SOURCE, TOO_BIG, TOO_BIG_QUOTE},
    reason::{Family, Reason, Verdict},
    tables::{Counter, Endpoint},
};
use zerocopy::IntoBytes as _;

use crate::{
    datagram::Datagram,
    relay::{Hop, Hosts, INGRESS, Relay},
};

/// Bytes of metadata that leave no room for a longer header: they and a `struct xdp_frame` of 40 have to fit into the 256
/// bytes before a frame (bpf_xdp_adjust_head in net/core/filter.c).
pub const NO_HEADROOM: usize = 216;

/// A packet, and what is to become of it. Whatever isn't said must not happen: no other counter may move, no session's,
/// no event be raised, and no byte be changed.
pub struct Fixture {
    name: String,
    reason: Reason,
    family: Family,
    frame: Vec<u8>,
    after: Vec<u8>,
    session: Option<(u32, Counter)>,
    event: Option<(u32, Datagram)>,
    events_full: bool,
    metadata: usize,
}

impl Fixture {
    /// The frame meets this end and stays as it is.
    pub fn new(name: impl Into<String>, family: Family, frame: Vec<u8>, reason: Reason) -> Self {
        Self {
            name: name.into(),
            reason,
            family,
            after: frame.clone(),
            frame,
            session: None,
            event: None,
            events_full: false,
            metadata: 0,
        }
    }

    /// The datagram meets this end and stays as it is.
    pub fn datagram(name: impl Into<String>, hosts: &Hosts, datagram: &Datagram, reason: Reason) -> Self {
        Self::new(name, hosts.family, datagram.frame(), reason)
    }

    /// The frame that comes in is another.
    pub fn received_as(mut self, frame: Vec<u8>) -> Self {
        self.frame = frame;
        self
    }

    /// The frame leaves as `after`, and `session` counts it. `datagram` is what the frame holds.
    pub fn sent_on(mut self, datagram: &Datagram, session: u32, after: Vec<u8>) -> Self {
        self.after = after;
        self.session = Some((session, Counter { packets: 1, bytes: datagram.payload.len() as u64 }));
        self
    }

    /// Alice's datagram is sent on to bob by this hop.
    pub fn relayed(name: impl Into<String>, hosts: &Hosts, datagram: &Datagram, hop: Hop) -> Self {
        Self::datagram(name, hosts, datagram, hop.reason()).sent_on(
            datagram,
            hosts.session(hop),
            hosts.sent_on(datagram, hop).frame(),
        )
    }

    /// Alice's datagram is sent on by this hop to the bob of these hosts, who may be of the other family.
    pub fn relayed_to(
        to: &Hosts,
        name: impl Into<String>,
        hosts: &Hosts,
        datagram: &Datagram,
        hop: Hop,
    ) -> Self {
        let family = match (hosts.family, to.family) {
            (Family::Ipv4, Family::Ipv6) => Family::Ipv4ToIpv6,
            (Family::Ipv6, Family::Ipv4) => Family::Ipv6ToIpv4,
            (family, _) => family,
        };
        let after = hosts.sent_on_to(to, datagram, hop).frame();
        Self::new(name, family, datagram.frame(), hop.reason()).sent_on(
            datagram,
            hosts.session_to(to, hop),
            after,
        )
    }

    /// The datagram's message is copied up.
    pub fn copied_up(mut self, datagram: &Datagram) -> Self {
        self.event = Some((HANDSHAKE, datagram.clone()));
        self
    }

    /// The datagram raises the new-source hint.
    pub fn hinted(mut self, datagram: &Datagram) -> Self {
        self.event = Some((NEW_SOURCE, datagram.clone()));
        self
    }

    /// The datagram's sender is to be told that it is too big.
    pub fn told_too_big(mut self, datagram: &Datagram) -> Self {
        self.event = Some((TOO_BIG, datagram.clone()));
        self
    }

    /// So many bytes of metadata stand before the frame.
    pub fn behind(mut self, metadata: usize) -> Self {
        self.metadata = metadata;
        self
    }

    /// The ring buffer is full when the frame comes.
    pub fn with_full_ring_buffer(mut self) -> Self {
        self.events_full = true;
        self
    }

    /// The frame is refused for this reason, and nothing else comes of it.
    pub fn refused(self, reason: Reason) -> Self {
        Self { reason, event: None, ..self }
    }

    pub fn reason(&self) -> Reason {
        self.reason
    }

    /// Runs it, and says what went otherwise.
    fn complaints(&self, relay: &mut Relay) -> Vec<String> {
        if self.metadata > 32 && !relay.takes_metadata(self.metadata) {
            eprintln!("{}: not run, as this kernel takes no {} bytes of metadata", self.name, self.metadata);
            return Vec::new();
        }
        relay.forget_hints();
        let filled = if self.events_full { relay.fill_events() } else { 0 };
        let mut ran = relay.run_behind(self.metadata, &self.frame);
        let own_events = ran.events.split_off(filled);
        let mut complaints = Vec::new();
        let mut compare = |what: &str, got: String, wanted: String| {
            if got != wanted {
                complaints.push(format!("{}: {what}\n     got {got}\n  wanted {wanted}", self.name));
            }
        };
        compare("verdict", verdict(ran.verdict), format!("{:?}", self.reason.verdict()));
        let counter = Counter { packets: 1, bytes: self.frame.len() as u64 };
        compare(
            "counters",
            format!("{:?}", ran.counted),
            format!("{:?}", [(self.reason, self.family, counter)]),
        );
        compare("frame", hex(&ran.frame), hex(&self.after));
        compare("sessions", format!("{:x?}", ran.sessions), format!("{:x?}", Vec::from_iter(self.session)));
        compare(
            "events",
            format!("{:?}", own_events.iter().map(shown).collect::<Vec<_>>()),
            format!("{:?}", self.event.iter().map(|(kind, d)| shown(&event(*kind, d))).collect::<Vec<_>>()),
        );
        complaints
    }
}

/// Runs all, and panics with what went otherwise. They share a relay, since each looks only at what it moves.
pub fn run(fixtures: &[Fixture]) {
    run_in(&mut Relay::new(), fixtures);
}

/// Runs all in this relay.
pub fn run_in(relay: &mut Relay, fixtures: &[Fixture]) {
    let complaints: Vec<_> = fixtures.iter().flat_map(|fixture| fixture.complaints(relay)).collect();
    assert!(complaints.is_empty(), "{} complaints:\n{}", complaints.len(), complaints.join("\n"));
}

/// The event that a datagram should raise.
pub fn event(kind: u32, datagram: &Datagram) -> Event {
    let message_len = if kind == NEW_SOURCE { 0 } else { datagram.payload.len() };
    let mut event = Event {
        source: Endpoint::from(datagram.source),
        local: datagram.destination.ip().into(),
        kind,
        ifindex: INGRESS,
        message_len: message_len as u16,
        ttl: datagram.ttl,
        reserved: 0,
        message: [0; 148],
    };
    let quoted = if kind == TOO_BIG { TOO_BIG_QUOTE } else { message_len };
    event.message[..quoted].copy_from_slice(&datagram.payload[..quoted]);
    event
}

/// All of an event that is defined: what stands behind a message is not.
pub fn shown(event: &Event) -> String {
    let headers = &event.as_bytes()[..size_of::<Event>() - event.message.len()];
    let message = if event.kind == TOO_BIG { Some(&event.message[..TOO_BIG_QUOTE]) } else { event.message() };
    format!("{} {}", hex(headers), message.map_or(String::new(), hex))
}

fn verdict(number: u32) -> String {
    [Verdict::Aborted, Verdict::Drop, Verdict::Pass, Verdict::Tx, Verdict::Redirect]
        .get(number as usize)
        .map_or(number.to_string(), |verdict| format!("{verdict:?}"))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
