//! The object as a loader finds it.

use aya::{
    Ebpf, EbpfLoader,
    maps::{Map, MapData, MapType},
};
use relay_ebpf::{
    reason::COUNTERS_LEN,
    tables::{
        self, Address, Budgets, Channel, Counter, Endpoint, Known, Ledger, Locals, NextHop, Rate, Session,
        Source, Total,
    },
};

/// Kind, key size, value size and capacity, sizes in bytes.
type Shape = (MapType, usize, usize, u32);

fn data(map: &Map) -> &MapData {
    match map {
        Map::Array(data)
        | Map::DevMapHash(data)
        | Map::HashMap(data)
        | Map::LpmTrie(data)
        | Map::LruHashMap(data)
        | Map::PerCpuArray(data)
        | Map::RingBuf(data) => data,
        other => panic!("the contract has no map like {other:?}"),
    }
}

fn shape(ebpf: &Ebpf, name: &str) -> Shape {
    let info = data(ebpf.map(name).unwrap_or_else(|| panic!("no map {name}"))).info().unwrap();
    (info.map_type().unwrap(), info.key_size() as usize, info.value_size() as usize, info.max_entries())
}

#[test]
fn the_maps_are_those_of_the_contract() {
    let ebpf = EbpfLoader::new().load(relay_user::object::object().unwrap()).unwrap();
    let (slots, entries) =
        (tables::slots(tables::SESSIONS_DEFAULT), tables::ledger_entries(tables::SESSIONS_DEFAULT));
    let session = (MapType::Array, 4, size_of::<Session>(), slots);
    let ledger = (MapType::Array, 4, size_of::<Ledger>(), entries);
    let totals = (MapType::Array, 4, size_of::<Total>(), tables::ENDPOINTS_DEFAULT);
    let seed = (MapType::Array, 4, 8, 1);
    let pending = (MapType::Hash, 4, size_of::<Endpoint>(), tables::PENDING_DEFAULT);
    let endpoints = (MapType::Hash, size_of::<Endpoint>(), size_of::<Known>(), tables::ENDPOINTS_DEFAULT);
    let sources = (MapType::LruHash, size_of::<Address>(), size_of::<Source>(), tables::SOURCES_MAX);
    let budgets = (MapType::Array, 4, size_of::<Budgets>(), 1);
    let prefixes = (MapType::LpmTrie, size_of::<[u64; 3]>(), 8, tables::PREFIXES_MAX);
    let rates = (MapType::Array, 4, size_of::<Rate>(), tables::RATES_MAX);
    let next_hops = (MapType::Array, 4, size_of::<NextHop>(), tables::NEXT_HOPS_MAX);
    let tx_ports = (MapType::DevMapHash, 4, 8, tables::TX_PORTS_MAX);
    let locals = (MapType::Array, 4, size_of::<Locals>(), 1);
    let channels = (MapType::Array, 4, size_of::<Channel>(), tables::CHANNELS_MAX);
    let counters = (MapType::PerCpuArray, 4, size_of::<Counter>(), COUNTERS_LEN);
    let events = (MapType::RingBuf, 0, 0, tables::EVENTS_BYTES);
    let hints = (MapType::PerCpuArray, 4, 8, tables::HINTS_LEN);
    let wanted = [
        session, ledger, totals, seed, pending, endpoints, sources, budgets, prefixes, rates, next_hops,
        tx_ports, locals, channels, counters, events, hints,
    ];
    for (name, wanted) in tables::ALL.into_iter().zip(wanted) {
        assert_eq!(shape(&ebpf, name), wanted, "{name}");
    }
    // Besides them only the section of the global.
    let mut others: Vec<_> =
        ebpf.maps().map(|(name, _)| name).filter(|name| !tables::ALL.contains(name)).collect();
    others.sort_unstable();
    assert_eq!(others, [".rodata"]);
}
