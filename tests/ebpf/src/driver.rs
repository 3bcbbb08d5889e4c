//! The program that times another.

use aya_ebpf::{
    bindings::xdp_action,
    helpers::{bpf_ktime_get_ns, bpf_xdp_adjust_head},
    macros::xdp,
    programs::XdpContext,
};
use relay_bench_ebpf::{BATCH, SENT, State};

use crate::{
    frame::{len, write},
    maps::{CONTENDER, FLOWS, FRAMES, STATE, TIMES},
};

/// Makes the frame that of the next flow, and calls the program under test. The kernel hands the same buffer to every
/// run, so length and head are restored each time. Returns only if something is wrong.
#[xdp]
pub fn driver(ctx: XdpContext) -> u32 {
    let Some(state) = STATE.get_ptr_mut(0) else { return xdp_action::XDP_ABORTED };
    // SAFETY: there is one entry, which only this program writes to while it runs, on one CPU.
    let state = unsafe { &mut *state };
    if prepare(&ctx, state).is_some() {
        // SAFETY: `runs` is an aligned word of a map value.
        unsafe { atomic_increment(&raw mut state.runs) };
        // SAFETY: it does not return, and nothing here has to be dropped.
        unsafe { CONTENDER.tail_call(&ctx, 0) };
    }
    state.failed += 1;
    xdp_action::XDP_ABORTED
}

#[inline(always)]
fn prepare(ctx: &XdpContext, state: &mut State) -> Option<()> {
    if state.left == 0 {
        // SAFETY: the helper takes nothing.
        let now = unsafe { bpf_ktime_get_ns() };
        let note = TIMES.get_ptr_mut(state.notes as u32)?;
        // SAFETY: the entry is in the map, which only this program writes to while it runs.
        unsafe { note.write(now) };
        state.notes += 1;
        state.left = BATCH;
    }
    state.left -= 1;
    let frame = FRAMES.get(SENT)?;
    // Also where the length is right already: so that it costs the same for a program that does not change it.
    let longer = len(ctx).wrapping_sub(frame.len) as i32;
    // SAFETY: the context is the program's, and there are no references into the frame.
    if unsafe { bpf_xdp_adjust_head(ctx.ctx, longer) } != 0 {
        return None;
    }
    let flow = FLOWS.get((state.next & state.flows_mask) as u32)?;
    let number = state.next as u32;
    state.next += 1;
    write(ctx, frame, flow, number).then_some(())
}

/// Adds one to a word. It is a full barrier on x86 (see [`State::runs`]); `AtomicU64` has no `fetch_add` on this target.
///
/// # Safety
/// `word` points to an aligned, writable word of a map value.
#[inline(always)]
unsafe fn atomic_increment(word: *mut u64) {
    // SAFETY: what the caller promises is all that the instruction asks for.
    unsafe {
        core::arch::asm!("lock *(u64 *)({word} + 0) += {one}", word = in(reg) word, one = in(reg) 1_u64);
    }
}
