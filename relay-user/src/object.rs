//! The XDP program's object file, built into this binary (see build.rs).

use anyhow::{Result, ensure};

/// Aligned as aya's parser wants it: ELF64 headers are read in place.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/relay-ebpf.o"));

/// The object file (ELF64, eBPF).
///
/// # Errors
/// If there was none when this binary was built.
pub fn object() -> Result<&'static [u8]> {
    ensure!(
        !OBJECT.is_empty(),
        "this binary was built without the XDP program: run `cargo xtask build` and use what it builds"
    );
    Ok(OBJECT)
}
