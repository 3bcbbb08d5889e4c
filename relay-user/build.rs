//! Embeds the BPF object that `cargo xtask build` made, or an empty stub where there is none: `cargo check`, clippy and
//! the unit tests need no BPF toolchain. Always from the workspace's own target directory, wherever CARGO_TARGET_DIR
//! points to, so that everybody finds the same one.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

fn main() {
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR"));
    let object = root.join("../target/bpf/relay-ebpf.o");
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed={}", object.display());
    let bytes = match fs::read(&object) {
        Ok(bytes) => bytes,
        Err(missing) if missing.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(error) => panic!("read {}: {error}", object.display()),
    };
    let out = env::var_os("OUT_DIR").expect("cargo sets OUT_DIR");
    let copy = Path::new(&out).join("relay-ebpf.o");
    fs::write(&copy, bytes).unwrap_or_else(|error| panic!("write {}: {error}", copy.display()));
}
