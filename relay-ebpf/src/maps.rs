//! The maps, as [`tables`] describes them. They are not pinned by the object: the loader says where to pin and how large.

use aya_ebpf::{
    Global,
    bindings::BPF_F_MMAPABLE,
    macros::map,
    maps::{Array, DevMapHash, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf},
};
use relay_ebpf::{
    reason::COUNTERS_LEN,
    tables::{
        self, Address, Budgets, Channel, Config, Counter, Endpoint, Known, Ledger, Locals, NextHop, Rate,
        SESSIONS_DEFAULT, Session, Source, Total,
    },
};

#[unsafe(no_mangle)]
static CONFIG: Global<Config> = Global::new(Config {
    port_be: [0; 2],
    turn_port_be: [0; 2],
    homes: 0,
    seed: 0,
    relayed_first: 0,
    relayed_last: 0,
    reserved: 0,
});

#[map]
pub static SESSIONS: Array<Session> =
    Array::with_max_entries(tables::slots(SESSIONS_DEFAULT), BPF_F_MMAPABLE);

/// The program does not look into it; it is here so that it is created and pinned together with the others.
#[map]
static LEDGER: Array<Ledger> =
    Array::with_max_entries(tables::ledger_entries(SESSIONS_DEFAULT), BPF_F_MMAPABLE);

/// As [`LEDGER`].
#[map]
static TOTALS: Array<Total> = Array::with_max_entries(tables::ENDPOINTS_DEFAULT, BPF_F_MMAPABLE);

/// As [`LEDGER`]; the program has it from [`CONFIG`].
#[map]
static SEED: Array<u64> = Array::with_max_entries(1, 0);

#[map]
pub static PENDING: HashMap<u32, Endpoint> = HashMap::with_max_entries(tables::PENDING_DEFAULT, 0);

#[map]
pub static ENDPOINTS: HashMap<Endpoint, Known> = HashMap::with_max_entries(tables::ENDPOINTS_DEFAULT, 0);

#[map]
pub static SOURCES: LruHashMap<Address, Source> = LruHashMap::with_max_entries(tables::SOURCES_MAX, 0);

#[map]
pub static BUDGETS: Array<Budgets> = Array::with_max_entries(1, 0);

/// The keys are [`tables::prefix_key`]s.
#[map]
pub static PREFIXES: LpmTrie<[u8; 20], u64> = LpmTrie::with_max_entries(tables::PREFIXES_MAX, 0);

#[map]
pub static RATES: Array<Rate> = Array::with_max_entries(tables::RATES_MAX, BPF_F_MMAPABLE);

#[map]
pub static NEXT_HOPS: Array<NextHop> = Array::with_max_entries(tables::NEXT_HOPS_MAX, BPF_F_MMAPABLE);

#[map]
pub static TX_PORTS: DevMapHash = DevMapHash::with_max_entries(tables::TX_PORTS_MAX, 0);

#[map]
static LOCALS: Array<Locals> = Array::with_max_entries(1, 0);

#[map]
pub static CHANNELS: Array<Channel> = Array::with_max_entries(tables::CHANNELS_MAX, BPF_F_MMAPABLE);

#[map]
pub static COUNTERS: PerCpuArray<Counter> = PerCpuArray::with_max_entries(COUNTERS_LEN, 0);

#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(tables::EVENTS_BYTES, 0);

#[map]
pub static HINTS: PerCpuArray<u64> = PerCpuArray::with_max_entries(tables::HINTS_LEN, 0);

/// The words of [`CONFIG`]. Read as such: of the struct, whose fields are smaller, LLVM makes as many loads.
#[inline(always)]
fn config<const WORD: usize>() -> u64 {
    const { assert!(size_of::<Config>() == 24 && align_of::<Config>() == align_of::<u64>() && WORD < 3) };
    // SAFETY: a `Global` is nothing but its value, a `Config` is three words in size and aligned as they, and has no padding.
    // Volatile as in `Global::load`: the loader writes it after the compiler has seen it.
    unsafe { (&raw const CONFIG).cast::<u64>().add(WORD).read_volatile() }
}

/// The relay port.
#[inline(always)]
pub fn port_be() -> [u8; 2] {
    let [a, b, ..] = config::<0>().to_ne_bytes();
    [a, b]
}

/// The port of the TURN server; 0 if there is none.
#[inline(always)]
pub fn turn_port_be() -> [u8; 2] {
    const { assert!(core::mem::offset_of!(Config, turn_port_be) == 2) };
    let [_, _, a, b, ..] = config::<0>().to_ne_bytes();
    [a, b]
}

/// The first and the last port of relayed addresses.
#[inline(always)]
pub fn relayed_ports() -> (u16, u16) {
    const { assert!(core::mem::offset_of!(Config, relayed_first) == 16) };
    let [a, b, c, d, ..] = config::<2>().to_ne_bytes();
    (u16::from_ne_bytes([a, b]), u16::from_ne_bytes([c, d]))
}

/// What sessions and channels are looked up with.
#[inline(always)]
pub fn seed() -> u64 {
    config::<1>()
}

/// Where to look first for a session with this receiver index.
#[inline(always)]
pub fn home(index: u32) -> u32 {
    const { assert!(core::mem::offset_of!(Config, homes) == 4) };
    let [_, _, _, _, a, b, c, d] = config::<0>().to_ne_bytes();
    tables::home(index, seed(), u32::from_ne_bytes([a, b, c, d]))
}

/// The relay's addresses.
#[inline(always)]
pub fn locals() -> Option<&'static [Address; tables::LOCALS_MAX as usize]> {
    LOCALS.get(0).map(|Locals(addresses)| addresses)
}

/// Whether an address of the relay can have this id.
#[inline(always)]
pub fn is_local_id(id: u8) -> bool {
    usize::from(id) < tables::LOCALS_MAX as usize
}

/// The address with an id that stands in a map and [is one](is_local_id). Read anew and cut to size: of a value that was
/// kept on the stack Linux 6.1 does not know any more that it had been found small enough.
///
/// # Safety
/// `id` must be in a map value.
#[inline(always)]
pub unsafe fn local(id: *const u8) -> Option<Address> {
    const { assert!(tables::LOCALS_MAX.is_power_of_two() && tables::LOCALS_MAX <= 256) };
    // SAFETY: a map value stays readable as long as the program runs.
    let id = unsafe { id.read_volatile() } & (tables::LOCALS_MAX - 1) as u8;
    locals().map(|locals| locals[usize::from(id)])
}

/// Whether this is one of the relay's addresses. For the slower ways: the data path knows which one to compare with.
/// Unused entries are `::`, which [`crate::ip`] lets through as a destination of no packet.
#[inline(never)]
pub fn is_relay(address: Address) -> bool {
    locals().is_some_and(|locals| locals.iter().any(|local| *local == address))
}
