//! The entry: one packet in, its reason counted, its verdict out.

use aya_ebpf::{macros::xdp, programs::XdpContext};
use relay_ebpf::reason::{Family, Reason, counter_index};

use crate::{decide::decide, frame::Frame, maps::COUNTERS};

#[xdp]
#[inline(always)]
pub fn wgrelay(ctx: XdpContext) -> u32 {
    let mut frame = Frame::of(&ctx);
    let (reason, family) = decide(&ctx, &mut frame);
    count(reason, family, frame.len());
    reason.verdict() as u32
}

#[inline(always)]
fn count(reason: Reason, family: Family, len: usize) {
    if let Some(counter) = COUNTERS.get_ptr_mut(counter_index(reason, family)) {
        // SAFETY: the value is this CPU's own, and an XDP program is not preempted by another on its CPU.
        unsafe {
            (*counter).packets += 1;
            (*counter).bytes += len as u64;
        }
    }
}

/// GPL-compatible for the verifier: some helpers are reserved to such programs.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// Never reached: nothing in the program panics. The compiler asks for it all the same.
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}
