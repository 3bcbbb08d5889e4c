//! The benchmark's XDP programs.
//!
//! `driver` times another program: it restores the frame and calls that program, over and over, in one
//! BPF_PROG_TEST_RUN. `contenders` are programs to compare the relay's with. `wire` sends frames to a relay and looks at what
//! comes back.
#![cfg_attr(target_arch = "bpf", no_std, no_main, feature(asm_experimental_arch))]

#[cfg(target_arch = "bpf")]
mod contenders;
#[cfg(target_arch = "bpf")]
mod driver;
#[cfg(target_arch = "bpf")]
mod frame;
#[cfg(target_arch = "bpf")]
mod maps;
#[cfg(target_arch = "bpf")]
mod wire;

#[cfg(not(target_arch = "bpf"))]
fn main() {}

/// GPL-compatible for the verifier: some helpers are reserved to such programs.
#[cfg(target_arch = "bpf")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// Never reached: nothing in the programs panics. The compiler asks for it all the same.
#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}
