//! The maps, as [`tables`] describes them. They are not pinned by the object: the loader says where to pin and how large.

use aya_ebpf::{
    Global,
    macros::map,
    maps::{Array, DevMapHash, HashMap, PerCpuArray, RingBuf},
};
use relay_ebpf::{
    reason::COUNTERS_LEN,
    tables::{self, Address, Config, Counter, Endpoint, Ledger, NextHop, Session},
};

#[unsafe(no_mangle)]
static CONFIG: Global<Config> = Global::new(Config { port_be: [0; 2], reserved: [0; 6] });

#[map]
pub static SESSIONS: HashMap<u32, Session> = HashMap::with_max_entries(tables::SESSIONS_DEFAULT, 0);

/// The program does not look into it; it is here so that it is created and pinned together with the others.
#[map]
static LEDGER: HashMap<u32, Ledger> = HashMap::with_max_entries(tables::SESSIONS_DEFAULT, 0);

#[map]
pub static PENDING: HashMap<u32, Endpoint> = HashMap::with_max_entries(tables::PENDING_DEFAULT, 0);

#[map]
pub static ENDPOINTS: HashMap<Endpoint, u64> = HashMap::with_max_entries(tables::ENDPOINTS_DEFAULT, 0);

#[map]
pub static NEXT_HOPS: Array<NextHop> = Array::with_max_entries(tables::NEXT_HOPS_MAX, 0);

#[map]
pub static TX_PORTS: DevMapHash = DevMapHash::with_max_entries(tables::TX_PORTS_MAX, 0);

#[map]
pub static LOCALS: Array<Address> = Array::with_max_entries(tables::LOCALS_MAX, 0);

#[map]
pub static COUNTERS: PerCpuArray<Counter> = PerCpuArray::with_max_entries(COUNTERS_LEN, 0);

#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(tables::EVENTS_BYTES, 0);

#[map]
pub static HINTS: PerCpuArray<u64> = PerCpuArray::with_max_entries(tables::HINTS_LEN, 0);

/// The relay port. Read as one word: of the struct, whose fields are bytes, LLVM makes as many loads.
#[inline(always)]
pub fn port_be() -> [u8; 2] {
    const { assert!(size_of::<Config>() == size_of::<u64>() && align_of::<Config>() == align_of::<u64>()) };
    // SAFETY: a `Global` is nothing but its value, a `Config` is a word in size and alignment, and has no padding. Volatile
    // as in `Global::load`: the loader writes it after the compiler has seen it.
    let [a, b, ..] = unsafe { (&raw const CONFIG).cast::<u64>().read_volatile() }.to_ne_bytes();
    [a, b]
}

/// The relay's address with this id, if there is one.
#[inline(always)]
pub fn local(id: u8) -> Option<Address> {
    LOCALS.get(id.into()).copied()
}

/// Whether this is one of the relay's addresses. For the slower ways: the data path knows which one to compare with.
/// Unused entries are `::`, which [`crate::ip`] lets through as a destination of no packet.
#[inline(never)]
pub fn is_relay(address: Address) -> bool {
    (0..tables::LOCALS_MAX).any(|id| LOCALS.get(id).is_some_and(|local| *local == address))
}
