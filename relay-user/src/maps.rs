//! The BPF maps, behind one typed interface. Only the engine holds it: one writer.

use std::collections::HashMap as StdHashMap;

use anyhow::{Context as _, Result};
use aya::{
    Ebpf,
    maps::{Array, HashMap, MapData, MapError, PerCpuArray, xdp::DevMapHash},
};
use relay_ebpf::{
    reason::{Family, Reason, counter_index},
    tables::{self, Address, Counter, Endpoint, LOCALS_MAX, Ledger, NextHop, Session},
};

use crate::forwarding::Direction;

/// Packets and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Packets.
    pub packets: u64,
    /// Bytes of WireGuard messages.
    pub bytes: u64,
}

impl std::ops::AddAssign for Traffic {
    fn add_assign(&mut self, other: Self) {
        self.packets += other.packets;
        self.bytes += other.bytes;
    }
}

/// All maps that userspace reads or writes.
pub struct Maps {
    sessions: HashMap<MapData, u32, Session>,
    ledger: HashMap<MapData, u32, Ledger>,
    pending: HashMap<MapData, u32, Endpoint>,
    endpoints: HashMap<MapData, Endpoint, u64>,
    next_hops: Array<MapData, NextHop>,
    tx_ports: DevMapHash<MapData>,
    locals: Array<MapData, Address>,
    counters: PerCpuArray<MapData, Counter>,
}

/// `Ok` for "there was nothing to remove".
fn absent_is_fine(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(nix::libc::ENOENT) => {
            Ok(())
        }
        other => other,
    }
}

impl Maps {
    /// Takes the maps of a loaded object.
    pub fn take(ebpf: &mut Ebpf) -> Result<Self> {
        let mut take =
            |name| ebpf.take_map(name).with_context(|| format!("the BPF object has no map {name}"));
        Ok(Self {
            sessions: take(tables::SESSIONS)?.try_into()?,
            ledger: take(tables::LEDGER)?.try_into()?,
            pending: take(tables::PENDING)?.try_into()?,
            endpoints: take(tables::ENDPOINTS)?.try_into()?,
            next_hops: take(tables::NEXT_HOPS)?.try_into()?,
            tx_ports: take(tables::TX_PORTS)?.try_into()?,
            locals: take(tables::LOCALS)?.try_into()?,
            counters: take(tables::COUNTERS)?.try_into()?,
        })
    }

    /// Writes one direction of a session. Counters of an entry that is there already are kept.
    pub fn write_session(&mut self, direction: &Direction) -> Result<(), MapError> {
        let Traffic { packets, bytes } = self.traffic(direction.index);
        self.ledger.insert(direction.index, direction.ledger, 0)?;
        self.sessions.insert(direction.index, Session { packets, bytes, ..direction.entry }, 0)
    }

    /// Removes one direction of a session and says what it carried.
    pub fn remove_session(&mut self, index: u32) -> Result<Traffic, MapError> {
        let traffic = self.traffic(index);
        absent_is_fine(self.sessions.remove(&index))?;
        absent_is_fine(self.ledger.remove(&index))?;
        Ok(traffic)
    }

    /// What a direction of a session has carried so far; zero if there is none.
    pub fn traffic(&self, index: u32) -> Traffic {
        self.sessions
            .get(&index, 0)
            .map_or_else(|_| Traffic::default(), |Session { packets, bytes, .. }| Traffic { packets, bytes })
    }

    /// All directions as they stand in the maps.
    pub fn sessions(&self) -> StdHashMap<u32, (Session, Ledger)> {
        let entries = self.sessions.iter().filter_map(Result::ok);
        entries
            .filter_map(|(index, session)| Some((index, (session, self.ledger.get(&index, 0).ok()?))))
            .collect()
    }

    /// Removes whatever has an entry in only one of the two maps, or is not wanted.
    pub fn retain_sessions(&mut self, wanted: impl Fn(u32) -> bool) -> Result<(), MapError> {
        let keys: Vec<u32> = self.sessions.keys().chain(self.ledger.keys()).filter_map(Result::ok).collect();
        for index in keys.into_iter().filter(|index| !wanted(*index)) {
            self.remove_session(index)?;
        }
        Ok(())
    }

    /// Lets handshake messages with this receiver index from this source up.
    pub fn expect(&mut self, index: u32, responder: Endpoint) -> Result<(), MapError> {
        self.pending.insert(index, responder, 0)
    }

    /// The opposite of [`Self::expect`].
    pub fn forget(&mut self, index: u32) -> Result<(), MapError> {
        absent_is_fine(self.pending.remove(&index))
    }

    /// Forgets all handshakes under way.
    pub fn forget_all(&mut self) -> Result<(), MapError> {
        let keys: Vec<u32> = self.pending.keys().filter_map(Result::ok).collect();
        keys.into_iter().try_for_each(|index| self.forget(index))
    }

    /// The endpoints as they stand in the map.
    pub fn endpoints(&self) -> StdHashMap<Endpoint, u64> {
        self.endpoints.iter().filter_map(Result::ok).collect()
    }

    /// Adds an endpoint, or gives it to another member.
    pub fn write_endpoint(&mut self, endpoint: Endpoint, member: u64) -> Result<(), MapError> {
        self.endpoints.insert(endpoint, member, 0)
    }

    /// Removes an endpoint.
    pub fn remove_endpoint(&mut self, endpoint: Endpoint) -> Result<(), MapError> {
        absent_is_fine(self.endpoints.remove(&endpoint))
    }

    /// Writes a next hop.
    pub fn write_next_hop(&mut self, id: u16, next_hop: NextHop) -> Result<(), MapError> {
        self.next_hops.set(u32::from(id), next_hop, 0)
    }

    /// The relay's addresses as they stand in the map.
    pub fn locals(&self) -> Vec<Address> {
        (0..LOCALS_MAX).map(|key| self.locals.get(&key, 0).unwrap_or(Address::UNSPECIFIED)).collect()
    }

    /// Writes the relay's addresses.
    pub fn write_locals(&mut self, locals: &[Address; LOCALS_MAX as usize]) -> Result<(), MapError> {
        (0..).zip(locals).try_for_each(|(key, address)| self.locals.set(key, address, 0))
    }

    /// Sets the interfaces that frames may be redirected to.
    pub fn write_tx_ports(&mut self, interfaces: &[u32]) -> Result<()> {
        let keys: Vec<u32> = self.tx_ports.keys().filter_map(Result::ok).collect();
        for gone in keys.into_iter().filter(|key| !interfaces.contains(key)) {
            self.tx_ports.remove(gone)?;
        }
        for &ifindex in interfaces {
            self.tx_ports.insert(ifindex, ifindex, None, 0)?;
        }
        Ok(())
    }

    /// Packets and bytes of frames by reason and family, over all CPUs; those that are not zero.
    pub fn counters(&self) -> Result<Vec<(Reason, Family, Counter)>, MapError> {
        let mut counters = Vec::new();
        for &reason in Reason::ALL {
            for &family in Family::ALL {
                let cpus = self.counters.get(&counter_index(reason, family), 0)?;
                let sum = cpus.iter().fold(Counter::default(), |sum, cpu| Counter {
                    packets: sum.packets + cpu.packets,
                    bytes: sum.bytes + cpu.bytes,
                });
                counters.push((reason, family, sum));
            }
        }
        Ok(counters)
    }
}
