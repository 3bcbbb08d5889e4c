//! What `cargo xtask vm` runs inside a virtual machine, on a kernel of Debian's that has WireGuard. On other machines most
//! of these tests fail for want of that, of network cards to play with, or of an old kernel.

mod drivers;
mod in_the_kernel;
mod meeting;
mod renewal;
mod too_old;
mod verifier;

/// Tells `cargo xtask vm` something that was measured, for its table.
fn fact(name: &str, value: &str) {
    // On a line of its own: the test harness may have begun one.
    println!("\n::fact {name}\t{value}");
}
