//! Writing frames, and comparing with them.

use aya_ebpf::programs::XdpContext;
use relay_bench_ebpf::{Flow, Frame, HEAD, LAYOUTS, WORDS, stamp};

/// Writes the head of the flow's frame; `false` if the frame is shorter than that.
#[inline(always)]
pub fn write(ctx: &XdpContext, frame: &Frame, flow: &Flow, number: u32) -> bool {
    let start = ctx.data();
    if start + HEAD > ctx.data_end() {
        return false;
    }
    let to = start as *mut u64;
    match frame.layout {
        0 => store(to, frame.head::<0>(flow, number)),
        1 => store(to, frame.head::<1>(flow, number)),
        2 => store(to, frame.head::<2>(flow, number)),
        _ => store(to, frame.head::<3>(flow, number)),
    }
    true
}

/// As [`write`], with a time in the payload.
#[inline(always)]
pub fn write_stamped(ctx: &XdpContext, frame: &Frame, flow: &Flow, number: u32, time: u64) -> bool {
    let start = ctx.data();
    if start + HEAD > ctx.data_end() {
        return false;
    }
    let to = start as *mut u64;
    match frame.layout {
        0 => store(to, stamped::<0>(frame.head::<0>(flow, number), time)),
        _ => store(to, stamped::<2>(frame.head::<2>(flow, number), time)),
    }
    true
}

#[inline(always)]
fn stamped<const LAYOUT: usize>(mut words: [u64; WORDS], time: u64) -> [u64; WORDS] {
    stamp::<LAYOUT>(&mut words, time);
    words
}

#[inline(always)]
fn store(to: *mut u64, words: [u64; WORDS]) {
    for (place, word) in words.into_iter().enumerate() {
        // SAFETY: the caller has found room for all words in the frame; none needs alignment.
        unsafe { to.add(place).write_unaligned(word) };
    }
}

/// The number that a frame carries.
#[inline(always)]
pub fn number(ctx: &XdpContext, frame: &Frame) -> Option<u32> {
    let start = ctx.data();
    if start + HEAD > ctx.data_end() {
        return None;
    }
    let at = if frame.layout < 2 { LAYOUTS[0].number } else { LAYOUTS[2].number };
    // SAFETY: the number is in the head, which the frame has; it needs no alignment.
    Some(unsafe { ((start + at) as *const u32).read_unaligned() })
}

/// Whether the frame is that of the flow, with this number.
#[inline(always)]
pub fn holds(ctx: &XdpContext, frame: &Frame, flow: &Flow, number: u32) -> bool {
    let start = ctx.data();
    if start + HEAD > ctx.data_end() || len(ctx) != frame.len {
        return false;
    }
    let at = start as *const u64;
    match frame.layout {
        0 => equal(at, frame.head::<0>(flow, number)),
        1 => equal(at, frame.head::<1>(flow, number)),
        2 => equal(at, frame.head::<2>(flow, number)),
        _ => equal(at, frame.head::<3>(flow, number)),
    }
}

/// The time that a frame carries in its payload, if it is otherwise that of the flow, with this number.
#[inline(always)]
pub fn holds_stamped(ctx: &XdpContext, frame: &Frame, flow: &Flow, number: u32) -> Option<u64> {
    let start = ctx.data();
    if start + HEAD > ctx.data_end() || len(ctx) != frame.len {
        return None;
    }
    let at = start as *const u64;
    let stamp_at = if frame.layout < 2 { LAYOUTS[0].stamp } else { LAYOUTS[2].stamp };
    // SAFETY: the stamp is in the head, which the frame has; it needs no alignment.
    let time = unsafe { ((start + stamp_at) as *const u64).read_unaligned() };
    let holds = match frame.layout {
        0 => equal(at, stamped::<0>(frame.head::<0>(flow, number), time)),
        1 => equal(at, stamped::<1>(frame.head::<1>(flow, number), time)),
        2 => equal(at, stamped::<2>(frame.head::<2>(flow, number), time)),
        _ => equal(at, stamped::<3>(frame.head::<3>(flow, number), time)),
    };
    holds.then_some(time)
}

#[inline(always)]
fn equal(at: *const u64, words: [u64; WORDS]) -> bool {
    let mut different = 0;
    for (place, word) in words.into_iter().enumerate() {
        // SAFETY: the caller has found all words in the frame; none needs alignment.
        different |= unsafe { at.add(place).read_unaligned() } ^ word;
    }
    different == 0
}

/// The frame's length in bytes.
#[inline(always)]
pub fn len(ctx: &XdpContext) -> u64 {
    let mut len = ctx.data_end() as u64 - ctx.data() as u64;
    // SAFETY: it changes nothing. It keeps LLVM from subtracting the pointers in 32 bits, which the verifier prohibits.
    unsafe { core::arch::asm!("{0} = {0}", inout(reg) len) };
    len
}
