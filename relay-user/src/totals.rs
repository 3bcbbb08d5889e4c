//! `TOTALS`: what was forwarded for each member, beside what the counters of its live sessions hold. It stands in a pinned
//! map, so that it is not lost with this process, however that ends.

use std::{
    collections::HashMap,
    sync::atomic::Ordering::{Relaxed, Release},
};

use anyhow::{Context as _, Result};
use aya::maps::Map;
use relay_ebpf::tables::{self, Total};

use crate::{
    mapped::{Mapped, word},
    maps::Traffic,
    members::MemberId,
};

/// The word of an entry that says whose it is.
const MEMBER: usize = std::mem::offset_of!(Total, member) / size_of::<u64>();

/// What has passed for a member.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemberTraffic {
    /// From it.
    pub sent: Traffic,
    /// To it.
    pub received: Traffic,
}

impl std::ops::AddAssign for MemberTraffic {
    fn add_assign(&mut self, other: Self) {
        self.sent += other.sent;
        self.received += other.received;
    }
}

/// See the module. It is the only writer.
pub struct Totals {
    entries: Mapped<Total>,
    places: HashMap<MemberId, u32>,
    free: Vec<u32>,
    /// Of members for which the map has no room: these begin anew with the process.
    beyond: HashMap<MemberId, MemberTraffic>,
}

impl Totals {
    /// The totals in `map`.
    ///
    /// # Errors
    /// If the kernel does not map the array.
    pub fn new(map: &Map) -> Result<Self> {
        let entries = Mapped::<Total>::new(map).context(tables::TOTALS)?;
        let (mut places, mut free) = (HashMap::new(), Vec::new());
        for at in (0..entries.len()).rev() {
            match MemberId::of_map(entries.read(at).member) {
                Some(member) => _ = places.insert(member, at),
                None => free.push(at),
            }
        }
        Ok(Self { entries, places, free, beyond: HashMap::new() })
    }

    /// That of a member.
    pub fn of(&self, member: MemberId) -> MemberTraffic {
        match self.places.get(&member) {
            Some(&at) => traffic(&self.entries.read(at)).1,
            None => self.beyond.get(&member).copied().unwrap_or_default(),
        }
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (MemberId, MemberTraffic)> {
        let kept = self.places.values().map(|&at| traffic(&self.entries.read(at)));
        kept.chain(self.beyond.iter().map(|(&member, &total)| (member, total)))
    }

    /// Adds to that of a member.
    pub fn add(&mut self, member: MemberId, more: MemberTraffic) {
        let Some(at) = self.place(member) else {
            *self.beyond.entry(member).or_default() += more;
            return;
        };
        let (_, mut total) = traffic(&self.entries.read(at));
        total += more;
        let MemberTraffic { sent, received } = total;
        let entry = Total {
            member: MemberId::to_map(Some(member)),
            sent_packets: sent.packets,
            sent_bytes: sent.bytes,
            received_packets: received.packets,
            received_bytes: received.bytes,
        };
        // Whose it is comes last: a new entry that is only half written is nobody's.
        self.entries.write(at, &entry, MEMBER + 1..size_of::<Total>() / size_of::<u64>());
        self.entries.words(at)[MEMBER].store(word(&entry, MEMBER), Release);
    }

    fn place(&mut self, member: MemberId) -> Option<u32> {
        if let Some(&at) = self.places.get(&member) {
            return Some(at);
        }
        let at = self.free.pop()?;
        // What a process that was killed had half written is nobody's.
        self.entries.set(at, &Total::default());
        self.places.insert(member, at);
        Some(at)
    }

    /// Takes over totals from elsewhere, but of members that have one here.
    pub fn adopt(&mut self, others: impl IntoIterator<Item = (MemberId, MemberTraffic)>) {
        for (member, total) in others {
            if !self.places.contains_key(&member) {
                self.add(member, total);
            }
        }
    }

    /// Forgets a member.
    pub fn remove(&mut self, member: MemberId) {
        self.beyond.remove(&member);
        if let Some(at) = self.places.remove(&member) {
            self.entries.words(at)[MEMBER].store(0, Relaxed);
            self.free.push(at);
        }
    }

    /// Forgets all members but those that are wanted.
    pub fn retain(&mut self, wanted: impl Fn(MemberId) -> bool) {
        let gone: Vec<MemberId> =
            self.iter().map(|(member, _)| member).filter(|member| !wanted(*member)).collect();
        gone.into_iter().for_each(|member| self.remove(member));
    }
}

/// An entry that is somebody's.
pub(crate) fn traffic(entry: &Total) -> (MemberId, MemberTraffic) {
    let traffic = |packets, bytes| Traffic { packets, bytes };
    let sent = traffic(entry.sent_packets, entry.sent_bytes);
    let received = traffic(entry.received_packets, entry.received_bytes);
    (MemberId(entry.member), MemberTraffic { sent, received })
}
