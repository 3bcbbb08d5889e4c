//! What this kernel's verifier makes of the programs.

use std::{collections::HashSet, io, os::fd::AsRawFd as _};

use aya::{
    Ebpf, EbpfLoader,
    maps::{Map, MapData},
};
use aya_obj::{Object, ProgramSection};
use relay_ebpf::tables;
use relay_tests::{
    sessions::constants_with_turn,
    turn::{PORT as TURN_PORT, RELAYED},
};

use crate::fact;

/// aya tells the verifier's log only of programs that were refused, so after aya has made the maps the programs are loaded
/// by the system call itself, asking for nothing but statistics.
#[test]
fn the_verifier_takes_every_program() {
    let bytes = relay_user::object::object().expect("the object was built");
    // With a TURN server: the verifier leaves out what these constants rule out.
    let constants = constants_with_turn(51820, 1024, TURN_PORT, RELAYED);
    let mut loader = EbpfLoader::new();
    loader.override_global(tables::CONFIG, &constants, true);
    let ebpf = loader.load(bytes).expect("make the maps");
    let mut object = Object::parse(bytes).expect("read the object");
    let text: HashSet<usize> = object.functions.keys().map(|&(section, _)| section).collect();
    let maps = std::mem::take(&mut object.maps);
    let by_name = maps.iter().map(|(name, map)| (name.as_str(), descriptor(&ebpf, name), map));
    object.relocate_maps(by_name, &text).expect("relocate maps");
    object.relocate_calls(&text).expect("relocate calls");
    let mut names: Vec<_> = object.programs.keys().cloned().collect();
    names.sort();
    for name in names {
        let program = &object.programs[&name];
        /// `enum bpf_prog_type` (include/uapi/linux/bpf.h).
        const SOCKET_FILTER: u32 = 1;
        const XDP: u32 = 6;
        let kind = match program.section {
            ProgramSection::Xdp { .. } => XDP,
            ProgramSection::SocketFilter => SOCKET_FILTER,
            _ => panic!("{name} is of another kind"),
        };
        let instructions = &object.functions[&program.function_key()].instructions;
        let log = load(kind, instructions).unwrap_or_else(|(error, log)| panic!("{name}: {error}\n{log}"));
        let said = log.lines().find(|line| line.starts_with("processed ")).expect("statistics");
        let number = |before: &str| said.split_once(before)?.1.split_whitespace().next();
        fact(
            &format!("verifier, `{name}` of {} instructions", instructions.len()),
            &format!(
                "{} processed, {} states, {} at most",
                number("processed ").expect("instructions"),
                number("total_states ").expect("states"),
                number("peak_states ").expect("states at most"),
            ),
        );
    }
}

fn descriptor(ebpf: &Ebpf, name: &str) -> i32 {
    let map = ebpf.map(name).unwrap_or_else(|| panic!("no map {name}"));
    let data: &MapData = match map {
        Map::Array(data)
        | Map::PerCpuArray(data)
        | Map::HashMap(data)
        | Map::DevMapHash(data)
        | Map::RingBuf(data)
        | Map::LruHashMap(data)
        | Map::LpmTrie(data) => data,
        other => panic!("{name} is {other:?}"),
    };
    use std::os::fd::AsFd as _;
    data.fd().as_fd().as_raw_fd()
}

/// Loads a program, drops it, and gives the verifier's statistics or why it was refused.
fn load(kind: u32, instructions: &[aya_obj::generated::bpf_insn]) -> Result<String, (io::Error, String)> {
    /// The part of `union bpf_attr` that BPF_PROG_LOAD reads (include/uapi/linux/bpf.h).
    #[repr(C)]
    struct Load {
        prog_type: u32,
        insn_cnt: u32,
        insns: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log_buf: u64,
    }
    const BPF_PROG_LOAD: libc::c_int = 5;
    const BPF_LOG_STATS: u32 = 4;
    let mut log = vec![0_u8; 1 << 20];
    let attributes = Load {
        prog_type: kind,
        insn_cnt: instructions.len() as u32,
        insns: instructions.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        log_level: BPF_LOG_STATS,
        log_size: log.len() as u32,
        log_buf: log.as_mut_ptr() as u64,
    };
    // SAFETY: the kernel reads instructions and license, and writes at most `log_size` bytes to the log; all of them live
    // until the call returns.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &raw const attributes, size_of::<Load>()) };
    let error = io::Error::last_os_error();
    let end = log.iter().position(|&byte| byte == 0).unwrap_or(log.len());
    let text = String::from_utf8_lossy(&log[..end]).into_owned();
    if result < 0 {
        return Err((error, text));
    }
    // SAFETY: the descriptor is new, and nobody else has it.
    drop(unsafe { <std::os::fd::OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(result as i32) });
    Ok(text)
}
