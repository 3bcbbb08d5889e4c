//! Writing frames.

use aya_ebpf::programs::XdpContext;
use relay_bench_ebpf::{Flow, Frame, HEAD, WORDS};

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

#[inline(always)]
fn store(to: *mut u64, words: [u64; WORDS]) {
    for (place, word) in words.into_iter().enumerate() {
        // SAFETY: the caller has found room for all words in the frame; none needs alignment.
        unsafe { to.add(place).write_unaligned(word) };
    }
}
