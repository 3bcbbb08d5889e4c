//! Holding what the program did against what it had to do.

use std::{collections::BTreeMap, fmt::Write as _};

use anyhow::{Context as _, Result};
use relay_ebpf::{
    event::Event,
    reason::{COUNTERS_LEN, Family, Reason, Verdict, counter_index},
    tables::{Counter, Endpoint},
};

use super::{
    grammar::Case,
    kernel::Kernel,
    model::{Judgement, Raised, judge},
    pace::{Demand, Pace, now},
    tables::{Direction, INGRESS, Tables},
};

/// What was otherwise than it had to be.
#[derive(Clone, Debug)]
pub struct Complaint {
    /// What the oracle says of the frame.
    pub reason: Reason,
    /// What differs, with both sides.
    pub text: String,
}

/// Runs a frame and compares verdict, bytes and events. Gives also what was expected, for the counters.
pub fn frame<'a>(
    kernel: &mut Kernel,
    tables: &Tables,
    case: &'a Case,
    pace: &mut Pace,
) -> Result<(Judgement<'a>, Option<Complaint>)> {
    let judged = judge(tables, &case.frame, kernel.room().headroom - case.metadata);
    let before = now();
    let ran = kernel.run(&case.frame, case.metadata).context("run a frame")?;
    let mut text = String::new();
    if ran.verdict != judged.reason.verdict() as u32 {
        let _ = writeln!(text, "verdict: {}, not {:?}", verdict(ran.verdict), judged.reason.verdict());
    }
    let wanted = judged.frame.as_ref().unwrap_or(&case.frame);
    if ran.frame != wanted {
        let _ = writeln!(text, "frame:\n     got {}\n  wanted {}", hex(ran.frame), hex(wanted));
    }
    // What fills the ring buffer stays in it: that nothing is added is the kernel's doing, and counted.
    let events = if tables.ring_full { Vec::new() } else { kernel.new_events(tables)? };
    if judged.event.is_some() || !events.is_empty() {
        let window = (before, now());
        let demand = judged.event.map_or(Demand::MustNot, |event| pace.demand(event.kind, window));
        let fine = match (events.as_slice(), judged.event) {
            ([], _) => demand != Demand::Must,
            ([event], Some(raised)) => demand != Demand::MustNot && is(event, &raised),
            _ => false,
        };
        for event in &events {
            pace.note(event.kind, window);
        }
        if !fine {
            let got: Vec<_> = events.iter().map(shown).collect();
            let _ =
                writeln!(text, "events:\n     got {got:?}\n  wanted {:?}, which {demand:?}", judged.event);
        }
    }
    let reason = judged.reason;
    Ok((judged, (!text.is_empty()).then_some(Complaint { reason, text })))
}

/// A frame by itself: in tables made for it alone, counters included.
pub fn alone(kernel: &mut Kernel, tables: &Tables, case: &Case) -> Result<Option<Complaint>> {
    kernel.install(tables)?;
    let mut sums = Sums::new(kernel)?;
    let (judged, complaint) = frame(kernel, tables, case, &mut Pace::default())?;
    sums.expect(&judged, case);
    let mut text = complaint.map_or(String::new(), |complaint| complaint.text);
    text += &sums.compare(kernel, tables)?;
    if text.is_empty() {
        return Ok(None);
    }
    Ok(Some(Complaint { reason: judged.reason, text }))
}

/// Counters of a batch as they have to be in the end.
pub struct Sums {
    counters: Vec<Counter>,
    carried: BTreeMap<Direction, Counter>,
}

impl Sums {
    /// As they stand, when tables have just been installed.
    pub fn new(kernel: &Kernel) -> Result<Self> {
        Ok(Self { counters: kernel.counters()?, carried: BTreeMap::new() })
    }

    /// Counts a frame.
    pub fn expect(&mut self, judged: &Judgement, case: &Case) {
        let count = |counter: &mut Counter, bytes: u64| {
            counter.packets += 1;
            counter.bytes += bytes;
        };
        let index = counter_index(judged.reason, judged.family) as usize;
        count(&mut self.counters[index], case.frame.len() as u64);
        if let Some((direction, bytes)) = judged.carried {
            count(self.carried.entry(direction).or_default(), bytes);
        }
    }

    /// What is otherwise; empty if nothing is.
    pub fn compare(&self, kernel: &mut Kernel, tables: &Tables) -> Result<String> {
        let mut text = String::new();
        let counters = kernel.counters()?;
        for &reason in Reason::ALL {
            for &family in Family::ALL {
                let index = counter_index(reason, family) as usize;
                let (got, wanted) = (counters[index], self.counters[index]);
                if got != wanted {
                    let packets = got.packets.wrapping_sub(wanted.packets) as i64;
                    let bytes = got.bytes.wrapping_sub(wanted.bytes) as i64;
                    let _ = writeln!(
                        text,
                        "counter {reason:?}/{family:?}: off by {packets} packets, {bytes} bytes"
                    );
                }
            }
        }
        for (direction, got) in kernel.carried()? {
            let wanted = self.carried.get(&direction).copied().unwrap_or_default();
            if got != wanted {
                let _ = match direction {
                    Direction::Session(index) => {
                        write!(text, "session {index:#x} {:?}", tables.sessions[&index])
                    }
                    of_channel => write!(text, "{of_channel:?}"),
                };
                let _ = writeln!(text, ": {got:?}, not {wanted:?}");
            }
        }
        Ok(text)
    }

    /// How many there are.
    pub const LEN: usize = COUNTERS_LEN as usize;
}

fn is(event: &Event, raised: &Raised) -> bool {
    event.kind == raised.kind
        && event.source == Endpoint::from(raised.source)
        && event.local == raised.local.into()
        && event.ifindex == INGRESS
        && usize::from(event.message_len) == raised.message_len
        && event.ttl == raised.ttl
        && event.reserved == 0
        && event.message[..raised.message.len()] == *raised.message
}

fn shown(event: &Event) -> String {
    let Event { source, local, kind, ifindex, message_len, ttl, reserved, message } = event;
    format!(
        "kind {kind} from {source:?} to {local:?} by {ifindex}, ttl {ttl}, {message_len} bytes, reserved {reserved}: {}",
        hex(message)
    )
}

fn verdict(number: u32) -> String {
    [Verdict::Aborted, Verdict::Drop, Verdict::Pass, Verdict::Tx, Verdict::Redirect]
        .get(number as usize)
        .map_or(number.to_string(), |verdict| format!("{verdict:?}"))
}

/// Bytes in hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
