//! Frames over a wire: `generator` makes each one, `sink` looks at what comes back.

use aya_ebpf::{bindings::xdp_action, helpers::bpf_ktime_get_ns, macros::xdp, programs::XdpContext};
use relay_bench_ebpf::{Flow, Frame, RETURNED, SENT, State, bucket};

use crate::{
    frame::{holds, holds_stamped, number, write, write_stamped},
    maps::{ARRIVED, EXPECTED, FLOWS, FRAMES, LATENCIES, PACE, STATE},
};

/// Makes the frame that of the next flow, and sends it out by the device that it is said to have come in by. For a
/// live-frames BPF_PROG_TEST_RUN. The pages come back with what the receiver left in them, so the head is written anew.
#[xdp]
pub fn generator(ctx: XdpContext) -> u32 {
    let Some(state) = STATE.get_ptr_mut(0) else { return xdp_action::XDP_ABORTED };
    // SAFETY: there is one entry, which only this program writes to while it runs, on one CPU.
    let state = unsafe { &mut *state };
    match generate(&ctx, state) {
        Some(()) => xdp_action::XDP_TX,
        None => {
            state.failed += 1;
            xdp_action::XDP_DROP
        }
    }
}

#[inline(always)]
fn generate(ctx: &XdpContext, state: &mut State) -> Option<()> {
    let frame = FRAMES.get(SENT)?;
    let flow = FLOWS.get((state.next & state.flows_mask) as u32)?;
    let number = state.next as u32;
    state.next += 1;
    state.runs += 1;
    write(ctx, frame, flow, number).then_some(())
}

/// Compares what arrives with what has to, byte for byte of the head, counts it, and drops it.
#[xdp]
pub fn sink(ctx: XdpContext) -> u32 {
    count(is_right(&ctx).unwrap_or(false));
    xdp_action::XDP_DROP
}

#[inline(always)]
fn is_right(ctx: &XdpContext) -> Option<bool> {
    let (frame, flow, number) = expected(ctx)?;
    Some(holds(ctx, frame, flow, number))
}

/// What the frame has to be, by the number that it carries.
#[inline(always)]
fn expected(ctx: &XdpContext) -> Option<(&'static Frame, &'static Flow, u32)> {
    let (frame, state) = (FRAMES.get(RETURNED)?, STATE.get(0)?);
    let number = number(ctx, frame)?;
    Some((frame, EXPECTED.get((u64::from(number) & state.flows_mask) as u32)?, number))
}

#[inline(always)]
fn count(right: bool) {
    if let Some(arrived) = ARRIVED.get_ptr_mut(0) {
        // SAFETY: the value is this CPU's own, and an XDP program is not preempted by another on its CPU.
        unsafe {
            if right {
                (*arrived).right += 1;
            } else {
                (*arrived).wrong += 1;
            }
        }
    }
}

/// As `generator`, but not before the frame is due, and with the time in the payload.
#[xdp]
pub fn paced(ctx: XdpContext) -> u32 {
    let (Some(state), Some(pace)) = (STATE.get_ptr_mut(0), PACE.get_ptr_mut(0)) else {
        return xdp_action::XDP_ABORTED;
    };
    // SAFETY: each map has one entry, which only this program writes to while it runs, on one CPU.
    let (state, pace) = unsafe { (&mut *state, &mut *pace) };
    let now = wait_until(pace.due);
    // What was late does not make the following ones come faster.
    pace.due = if now < pace.due + pace.interval { pace.due + pace.interval } else { now + pace.interval };
    match stamped(&ctx, state, now) {
        Some(()) => xdp_action::XDP_TX,
        None => {
            state.failed += 1;
            xdp_action::XDP_DROP
        }
    }
}

/// Waits, but not for ever, and gives the time then, ns since boot.
#[inline(always)]
fn wait_until(due: u64) -> u64 {
    // Some 20 ns each.
    const LOOKS: u32 = 1_000;
    // SAFETY: the helper takes nothing.
    let mut now = unsafe { bpf_ktime_get_ns() };
    for _ in 0..LOOKS {
        if now >= due {
            break;
        }
        // SAFETY: as above.
        now = unsafe { bpf_ktime_get_ns() };
    }
    now
}

#[inline(always)]
fn stamped(ctx: &XdpContext, state: &mut State, now: u64) -> Option<()> {
    let frame = FRAMES.get(SENT)?;
    let flow = FLOWS.get((state.next & state.flows_mask) as u32)?;
    let number = state.next as u32;
    state.next += 1;
    state.runs += 1;
    write_stamped(ctx, frame, flow, number, now).then_some(())
}

/// As `sink`, and counts how long the frame was on its way.
#[xdp]
pub fn timed_sink(ctx: XdpContext) -> u32 {
    // SAFETY: the helper takes nothing.
    let now = unsafe { bpf_ktime_get_ns() };
    let sent = expected(&ctx).and_then(|(frame, flow, number)| holds_stamped(&ctx, frame, flow, number));
    count(sent.is_some());
    if let Some(sent) = sent
        && let Some(latency) = LATENCIES.get_ptr_mut(bucket(now - sent))
    {
        // SAFETY: the value is this CPU's own, and an XDP program is not preempted by another on its CPU.
        unsafe { *latency += 1 };
    }
    xdp_action::XDP_DROP
}
