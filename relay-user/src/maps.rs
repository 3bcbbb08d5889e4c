//! The BPF maps, behind one typed interface. Only the engine holds it: one writer.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap as StdHashMap},
    sync::atomic::Ordering::{Relaxed, Release},
};

use anyhow::{Context as _, Result};
use aya::{
    Ebpf,
    maps::{Array, HashMap, LpmTrie, MapData, MapError, PerCpuArray, lpm_trie::Key, xdp::DevMapHash},
};
use relay_ebpf::{
    reason::{Family, Reason, counter_index},
    tables::{
        self, Address, Budgets, Channel, Counter, Endpoint, Known, Ledger, Locals, NextHop, Rate,
        RateBuckets, Session, Source,
    },
};
use zerocopy::{FromZeros as _, IntoBytes as _};

use crate::{
    admission::PrefixKey,
    channel_table::ChannelTable,
    handshake::Timestamp,
    mapped::{Mapped, word},
    members::MemberId,
    session_table::{NoRoom, SessionTable},
    totals::Totals,
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
    endpoints: HashMap<MapData, Endpoint, Known>,
    sources: HashMap<MapData, Address, Source>,
    budgets: Array<MapData, Budgets>,
    prefixes: LpmTrie<MapData, [u8; 20], u64>,
    rates: Mapped<Rate>,
    /// What was forwarded for members beside what live sessions count.
    pub totals: Totals,
    next_hops: Mapped<NextHop>,
    tx_ports: DevMapHash<MapData>,
    locals: Array<MapData, Locals>,
    channels: ChannelTable,
    seed: u64,
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
            sources: take(tables::SOURCES)?.try_into()?,
            budgets: take(tables::BUDGETS)?.try_into()?,
            prefixes: take(tables::PREFIXES)?.try_into()?,
            rates: Mapped::new(&take(tables::RATES)?).context(tables::RATES)?,
            totals: Totals::new(&take(tables::TOTALS)?)?,
            next_hops: Mapped::new(&take(tables::NEXT_HOPS)?).context(tables::NEXT_HOPS)?,
            tx_ports: take(tables::TX_PORTS)?.try_into()?,
            locals: take(tables::LOCALS)?.try_into()?,
            channels: ChannelTable::new(&take(tables::CHANNELS)?)?,
            seed,
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

    /// Whether a direction with this index stands in the table.
    pub fn has_session(&self, index: u32) -> bool {
        self.sessions.contains(index)
    }

    /// Removes whatever is in one of the two tables and not wanted, and says what the ledger holds of it and what each
    /// side has sent, as [`Self::remove_session`]. `wanted` is asked for an index of either side.
    pub fn retain_sessions(&mut self, wanted: impl Fn(u32) -> bool) -> Vec<(Ledger, [Traffic; 2])> {
        let known = self.entries.values().map(|&entry| self.ledger.read(entry));
        let unwanted: Vec<Ledger> = known.filter(|ledger| !wanted(ledger.responder_index)).collect();
        let remove =
            |ledger: Ledger| (ledger, self.remove_session(ledger.initiator_index, ledger.responder_index));
        let removed = unwanted.into_iter().map(remove).collect();
        let stray: Vec<u32> = self.sessions.iter().map(|s| s.index).filter(|index| !wanted(*index)).collect();
        for index in stray {
            self.sessions.remove(index);
        }
        removed
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
        let known = self.endpoints.iter().filter_map(Result::ok);
        known.map(|(endpoint, Known { member, .. })| (endpoint, member)).collect()
    }

    /// Adds an endpoint, or gives it to another member, with full buckets.
    pub fn write_endpoint(&mut self, endpoint: Endpoint, member: u64) -> Result<(), MapError> {
        self.endpoints.insert(endpoint, Known { member, ..Known::default() }, 0)
    }

    /// Removes an endpoint.
    pub fn remove_endpoint(&mut self, endpoint: Endpoint) -> Result<(), MapError> {
        absent_is_fine(self.endpoints.remove(&endpoint))
    }

    /// Unknown sources that were admitted lately, in no order.
    pub fn sources(&self) -> StdHashMap<Address, Source> {
        // Entries come and go meanwhile, and the way through them may begin again.
        let most = 2 * tables::SOURCES_MAX as usize;
        self.sources.iter().take(most).filter_map(Result::ok).collect()
    }

    /// Writes how much is admitted. The buckets of all unknown sources become full.
    pub fn write_budgets(&mut self, budgets: &Budgets) -> Result<(), MapError> {
        self.budgets.set(0, budgets, 0)
    }

    /// Makes `PREFIXES` hold this. What is new comes first, so that nothing is open meanwhile.
    pub fn write_prefixes(&mut self, wanted: &BTreeMap<PrefixKey, u64>) -> Result<(), MapError> {
        let lpm_key = |key: &PrefixKey| {
            let (len, data) = key.as_bytes().split_at(size_of::<u32>());
            let len = u32::from_ne_bytes(len.try_into().expect("four bytes"));
            Key::new(len, data.try_into().expect("20 bytes"))
        };
        let parts = |key: &Key<[u8; 20]>| (key.prefix_len(), key.data());
        let stands: BTreeMap<_, u64> = self
            .prefixes
            .iter()
            .filter_map(Result::ok)
            .map(|(key, verdict)| (parts(&key), verdict))
            .collect();
        let mut gone: BTreeSet<_> = stands.keys().copied().collect();
        for (key, verdict) in wanted.iter().map(|(key, verdict)| (lpm_key(key), verdict)) {
            gone.remove(&parts(&key));
            if stands.get(&parts(&key)) != Some(verdict) {
                self.prefixes.insert(&key, verdict, 0)?;
            }
        }
        gone.into_iter().try_for_each(|(len, data)| self.prefixes.remove(&Key::new(len, data)))
    }

    /// All rate limits by their ids.
    pub fn rates(&self) -> impl Iterator<Item = (u16, Rate)> {
        (0..self.rates.len()).map(|id| (id as u16, self.rates.read(id)))
    }

    /// Writes a rate limit.
    pub fn write_rate(&mut self, id: u16, rate: &Rate) {
        self.rates.set(id.into(), rate);
    }

    /// Whether a message of so many bytes that userspace forwards is within the rate limits of its sender and its receiver,
    /// by their ids; if so it is paid for, as the program does it.
    pub fn within_rates(&self, now: Timestamp, [sender, receiver]: [u16; 2], message_len: usize) -> bool {
        const SENT: usize = std::mem::offset_of!(Rate, sent) / size_of::<u64>();
        const RECEIVED: usize = std::mem::offset_of!(Rate, received) / size_of::<u64>();
        let message_len = message_len.try_into().unwrap_or(u16::MAX);
        let after = |id: u16, buckets: fn(&Rate) -> RateBuckets| {
            let rate = self.rates.read(id.into());
            rate.after(buckets(&rate), now.as_nanos() as u64, message_len)
        };
        let (sent, received) = (after(sender, |rate| rate.sent), after(receiver, |rate| rate.received));
        let (Some(sent), Some(received)) = (sent, received) else { return false };
        for (id, at, RateBuckets { packets, bytes }) in [(sender, SENT, sent), (receiver, RECEIVED, received)]
        {
            if id != 0 {
                let words = self.rates.words(id.into());
                words[at].store(packets.full_at_ns, Relaxed);
                words[at + 1].store(bytes.full_at_ns, Relaxed);
            }
        }
        true
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

    /// What sessions and channels are looked up with.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Writes a direction of a channel. Counters of one that is there already go on.
    ///
    /// # Errors
    /// If there is no room for it.
    pub fn write_channel(&mut self, channel: &Channel) -> Result<(), NoRoom> {
        self.channels.insert(channel)
    }

    /// Removes a direction of a channel, and says what it carried.
    pub fn remove_channel(&mut self, key: u64) -> Traffic {
        self.channels.remove(key)
    }

    /// What a direction of a channel has carried so far; zero if there is none.
    pub fn channel_traffic(&self, key: u64) -> Traffic {
        self.channels.traffic(key)
    }

    /// How many directions of channels there are.
    pub fn channels_len(&self) -> usize {
        self.channels.len()
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
