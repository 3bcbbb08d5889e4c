//! The BPF maps, behind one typed interface. Only the engine holds it: one writer.

use std::{
    collections::HashMap as StdHashMap,
    sync::atomic::Ordering::{Relaxed, Release},
};

use anyhow::{Context as _, Result};
use aya::{
    Ebpf,
    maps::{Array, HashMap, MapData, MapError, PerCpuArray, xdp::DevMapHash},
};
use relay_ebpf::{
    reason::{Family, Reason, counter_index},
    tables::{self, Counter, Endpoint, Ledger, Locals, NextHop, Session},
};
use zerocopy::FromZeros as _;

use crate::{
    mapped::{Mapped, word},
    members::MemberId,
    session_table::{NoRoom, SessionTable},
};

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

/// Who sends in a direction of a session, and who receives.
pub type Parties = (Option<MemberId>, Option<MemberId>);

/// All maps that userspace reads or writes.
pub struct Maps {
    sessions: SessionTable<Parties>,
    ledger: Mapped<Ledger>,
    /// Where in the ledger each session stands, by its responder's index.
    entries: StdHashMap<u32, u32>,
    free_entries: Vec<u32>,
    pending: HashMap<MapData, u32, Endpoint>,
    endpoints: HashMap<MapData, Endpoint, u64>,
    next_hops: Mapped<NextHop>,
    tx_ports: DevMapHash<MapData>,
    locals: Array<MapData, Locals>,
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
    /// Takes the maps of a loaded object, whose program finds sessions with `seed`.
    pub fn take(ebpf: &mut Ebpf, seed: u64) -> Result<Self> {
        let mut take =
            |name| ebpf.take_map(name).with_context(|| format!("the BPF object has no map {name}"));
        let ledger = Mapped::<Ledger>::new(&take(tables::LEDGER)?).context(tables::LEDGER)?;
        let (mut entries, mut free_entries) = (StdHashMap::new(), Vec::new());
        for at in (0..ledger.len()).rev() {
            match ledger.read(at).responder_index {
                0 => free_entries.push(at),
                index => _ = entries.insert(index, at),
            }
        }
        Array::<_, u64>::try_from(take(tables::SEED)?)?.set(0, seed, 0).context("write SEED")?;
        Ok(Self {
            sessions: SessionTable::new(&take(tables::SESSIONS)?, seed)?,
            ledger,
            entries,
            free_entries,
            pending: take(tables::PENDING)?.try_into()?,
            endpoints: take(tables::ENDPOINTS)?.try_into()?,
            next_hops: Mapped::new(&take(tables::NEXT_HOPS)?).context(tables::NEXT_HOPS)?,
            tx_ports: take(tables::TX_PORTS)?.try_into()?,
            locals: take(tables::LOCALS)?.try_into()?,
            counters: take(tables::COUNTERS)?.try_into()?,
        })
    }

    /// Writes both directions of a session. Counters of one that is there already go on.
    ///
    /// # Errors
    /// If there is no room. A part of the session may be in the maps then: it is to be removed.
    pub fn write_session(&mut self, [there, back]: &[Session; 2], ledger: &Ledger) -> Result<(), NoRoom> {
        let entry = match self.entries.get(&ledger.responder_index) {
            Some(entry) => *entry,
            None => self.free_entries.pop().ok_or(NoRoom)?,
        };
        self.entries.insert(ledger.responder_index, entry);
        // First who it belongs to: a session that nobody knows of is removed by the next start.
        self.ledger.set(entry, ledger);
        let (initiator, responder) = (MemberId::of_map(ledger.initiator), MemberId::of_map(ledger.responder));
        self.sessions.insert(there, (initiator, responder))?;
        self.sessions.insert(back, (responder, initiator))
    }

    /// Removes a session by the indices of its initiator and its responder, and says what each of the two has sent.
    pub fn remove_session(&mut self, initiator: u32, responder: u32) -> [Traffic; 2] {
        let traffic = [responder, initiator].map(|index| self.sessions.remove(index));
        if let Some(entry) = self.entries.remove(&responder) {
            self.ledger.set(entry, &Ledger::new_zeroed());
            self.free_entries.push(entry);
        }
        traffic
    }

    /// What a direction of a session has carried so far; zero if there is none.
    pub fn traffic(&self, index: u32) -> Traffic {
        self.sessions.traffic(index)
    }

    /// What has passed for sessions in the moment when they were moved or removed, and was not told yet.
    pub fn settle(&mut self) -> Vec<(Parties, Traffic)> {
        self.sessions.settle()
    }

    /// All directions as they stand in the table, by their index, and what the ledger says of sessions.
    pub fn sessions(&self) -> (StdHashMap<u32, Session>, Vec<Ledger>) {
        let directions = self.sessions.iter().map(|session| (session.index, session)).collect();
        (directions, self.entries.values().map(|&entry| self.ledger.read(entry)).collect())
    }

    /// Removes whatever is in one of the two tables and not wanted. `wanted` is asked for an index of either side.
    pub fn retain_sessions(&mut self, wanted: impl Fn(u32) -> bool) {
        let known: Vec<Ledger> = self.entries.values().map(|&entry| self.ledger.read(entry)).collect();
        for ledger in known.iter().filter(|ledger| !wanted(ledger.responder_index)) {
            self.remove_session(ledger.initiator_index, ledger.responder_index);
        }
        let stray: Vec<u32> = self.sessions.iter().map(|s| s.index).filter(|index| !wanted(*index)).collect();
        for index in stray {
            self.sessions.remove(index);
        }
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

    /// Writes a next hop, by words: a destination address is never a mixture of two. While the second word, with the MTU,
    /// is zero, the program takes it for one that is not resolved.
    pub fn write_next_hop(&mut self, id: u16, next_hop: NextHop) {
        const MTU: usize = std::mem::offset_of!(NextHop, mtu) / size_of::<u64>();
        const OTHERS: [usize; 3] = [0, 2, 3];
        let words = self.next_hops.words(id.into());
        let changes = |n: &usize| words[*n].load(Relaxed) != word(&next_hop, *n);
        if OTHERS.iter().filter(|n| changes(n)).count() > 1 {
            words[MTU].store(0, Release);
        }
        self.next_hops.write(id.into(), &next_hop, OTHERS);
        words[MTU].store(word(&next_hop, MTU), Release);
    }

    /// The relay's addresses as they stand in the map.
    pub fn locals(&self) -> Result<Locals, MapError> {
        self.locals.get(&0, 0)
    }

    /// Writes the relay's addresses.
    pub fn write_locals(&mut self, locals: &Locals) -> Result<(), MapError> {
        self.locals.set(0, locals, 0)
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
