//! XDP programs of a few instructions, made of nothing but an ELF file around them; first of all one that passes every
//! packet on.

use anyhow::{Context as _, Result};
use aya::{
    Ebpf, EbpfLoader,
    programs::{Xdp, XdpMode},
};
use object::{
    Architecture, BinaryFormat, Endianness, SectionKind, SymbolFlags, SymbolKind, SymbolScope,
    write::{Object, StandardSection, Symbol, SymbolSection},
};

use crate::lab::Namespace;

/// `r0 = XDP_PASS; exit` (Documentation/bpf/standardization/instruction-set.rst).
const INSTRUCTIONS: [[u8; 8]; 2] = [[0xb7, 0, 0, 0, 2, 0, 0, 0], [0x95, 0, 0, 0, 0, 0, 0, 0]];

/// Attaches the passing program to a device, natively, as long as the result lives.
///
/// A veth takes the frames that its peer's native XDP program transmits only while it has an XDP program itself: without
/// one they stay in its ring until something else wakes it (`veth_xdp_flush` in drivers/net/veth.c).
pub fn attach(namespace: &Namespace, device: &str) -> Ebpf {
    attach_instructions(namespace, device, &INSTRUCTIONS, XdpMode::Driver)
}

/// The same with other instructions.
pub fn attach_instructions(
    namespace: &Namespace,
    device: &str,
    instructions: &[[u8; 8]],
    mode: XdpMode,
) -> Ebpf {
    namespace.enter(|| {
        let mut loaded = load(instructions).unwrap_or_else(|error| panic!("{error:#}"));
        let attached = program(&mut loaded).attach(device, mode);
        attached.unwrap_or_else(|error| panic!("attach XDP to {device}: {error}"));
        loaded
    })
}

/// Loads a program of these instructions.
///
/// # Errors
/// If the kernel refuses it.
pub fn load(instructions: &[[u8; 8]]) -> Result<Ebpf> {
    let mut loaded = EbpfLoader::new().load(&elf(instructions)).context("read a made program")?;
    program(&mut loaded).load().context("load a made program")?;
    Ok(loaded)
}

/// The program that was loaded.
pub fn program(loaded: &mut Ebpf) -> &mut Xdp {
    loaded.program_mut(NAME).expect("it is there").try_into().expect("it is XDP")
}

/// Of the program, for the loader.
const NAME: &str = "made";

fn elf(instructions: &[[u8; 8]]) -> Vec<u8> {
    let mut object = Object::new(BinaryFormat::Elf, Architecture::Bpf, native());
    let section = object.add_section(Vec::new(), b"xdp".to_vec(), SectionKind::Text);
    let offset = object.append_section_data(section, instructions.as_flattened(), 8);
    object.add_symbol(Symbol {
        name: NAME.as_bytes().to_vec(),
        value: offset,
        size: size_of_val(instructions) as u64,
        kind: SymbolKind::Text,
        scope: SymbolScope::Dynamic,
        weak: false,
        section: SymbolSection::Section(section),
        flags: SymbolFlags::None,
    });
    let license = object.add_section(Vec::new(), b"license".to_vec(), SectionKind::Data);
    object.append_section_data(license, b"GPL\0", 1);
    // The loader looks for a text section, even an empty one.
    object.section_id(StandardSection::Text);
    object.write().expect("write an ELF file")
}

fn native() -> Endianness {
    if cfg!(target_endian = "big") { Endianness::Big } else { Endianness::Little }
}
