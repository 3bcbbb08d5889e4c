//! The XDP program: sends relayed transport data on, and copies up the handshake messages that prove sessions.
//!
//! Nearly every packet goes the way of `straight`. Others go one way, in one direction through the modules: `frame` finds
//! the headers, `ip` and `decide` read them and look up what they mean, `admission` says how much of it gets any further, `up`
//! tells userspace, `forward` checks what is to leave, and `rewrite`, the only one that writes to a packet, comes last, when nothing can fail any more. What comes
//! back is a [`Reason`](relay_ebpf::reason::Reason), which `program` counts and turns into the verdict.
//!
//! What is not for the relay port may be data of the TURN server's channels, which `straight_channel` sends on, or `turn` if
//! it is not that simple.
//!
//! `slow_path` holds the filters of userspace's sockets, which take up what the XDP program has to pass on.
//!
//! On the host this package is its library; the binary is empty there.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(target_arch = "bpf")]
mod admission;
#[cfg(target_arch = "bpf")]
mod channels;
#[cfg(target_arch = "bpf")]
mod decide;
#[cfg(target_arch = "bpf")]
mod forward;
#[cfg(target_arch = "bpf")]
mod frame;
#[cfg(target_arch = "bpf")]
mod ip;
#[cfg(target_arch = "bpf")]
mod maps;
#[cfg(target_arch = "bpf")]
mod program;
#[cfg(target_arch = "bpf")]
mod rewrite;
#[cfg(target_arch = "bpf")]
mod sessions;
#[cfg(target_arch = "bpf")]
mod slow_path;
#[cfg(target_arch = "bpf")]
mod straight;
#[cfg(target_arch = "bpf")]
mod straight_channel;
#[cfg(target_arch = "bpf")]
mod turn;
#[cfg(target_arch = "bpf")]
mod up;

#[cfg(not(target_arch = "bpf"))]
fn main() {}
