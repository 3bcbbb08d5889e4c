//! `CHANNELS`: a flat array that userspace writes without system calls while the XDP program reads it, by the same rules as
//! the session table ([`crate::session_table`]). A channel never moves, so it is simpler: what changes of one that stands is
//! one word at a time.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    mem::offset_of,
    sync::atomic::Ordering::{Relaxed, Release, SeqCst},
};

use anyhow::{Context as _, Result};
use aya::maps::Map;
use relay_ebpf::tables::{CHANNEL_WINDOW, CHANNELS, Channel, channel_home};

use crate::{
    grace::{self, Grace, Period},
    mapped::{Mapped, word},
    maps::Traffic,
    session_table::NoRoom,
};

const WORDS: usize = size_of::<Channel>() / size_of::<u64>();
const KEY: usize = offset_of!(Channel, key) / size_of::<u64>();
/// The words that change in place.
const NEXT_HOP: usize = offset_of!(Channel, next_hop) / size_of::<u64>();
const UNTIL: usize = offset_of!(Channel, until) / size_of::<u64>();
const RATE: usize = offset_of!(Channel, rate) / size_of::<u64>();
const PACKETS: usize = offset_of!(Channel, packets) / size_of::<u64>();
const BYTES: usize = offset_of!(Channel, bytes) / size_of::<u64>();

/// See the module. It is the only writer.
pub struct ChannelTable {
    slots: Mapped<Channel>,
    /// Where each direction stands.
    places: HashMap<u64, u32>,
    /// In the order of their periods.
    retired: VecDeque<(u32, Period)>,
    quarantined: HashSet<u32>,
    grace: Grace,
}

impl ChannelTable {
    /// The table in `map`. What an earlier run has left in it is removed: the server's allocations have ended with it.
    ///
    /// # Errors
    /// If the kernel does not map the array, or has no membarrier(2).
    pub fn new(map: &Map) -> Result<Self> {
        let slots = Mapped::<Channel>::new(map).context(CHANNELS)?;
        let (retired, quarantined) = (VecDeque::new(), HashSet::new());
        let mut this = Self { slots, places: HashMap::new(), retired, quarantined, grace: Grace::new()? };
        for at in 0..this.slots.len() {
            if this.slots.words(at)[KEY].load(Relaxed) != 0 {
                this.retire(at);
            }
        }
        Ok(this)
    }

    /// Puts a direction in, or brings the one up to date that stands there: then it is the same but for its end, its
    /// next hop and its limit.
    ///
    /// # Errors
    /// If there is no room, or another direction has the same key. Then nothing has changed.
    pub fn insert(&mut self, channel: &Channel) -> Result<(), NoRoom> {
        if let Some(&at) = self.places.get(&channel.key) {
            let stands = self.slots.read(at);
            let &Channel { next_hop, until, rate, .. } = channel;
            if (Channel { next_hop, until, rate, packets: 0, bytes: 0, ..stands }) != *channel {
                return Err(NoRoom);
            }
            self.slots.write(at, channel, [NEXT_HOP, UNTIL, RATE]);
            return Ok(());
        }
        self.settle();
        let home = channel_home(channel.key);
        let free = |at: &u32| self.slots.words(*at)[KEY].load(Relaxed) == 0 && !self.quarantined.contains(at);
        let at = (home..home + CHANNEL_WINDOW).find(free).ok_or(NoRoom)?;
        self.slots.write(at, channel, (0..WORDS).filter(|n| *n != KEY));
        // Elsewhere a reader that finds the key could have read the other words before.
        if cfg!(not(target_arch = "x86_64")) && grace::wait().is_err() {
            return Err(NoRoom);
        }
        self.slots.words(at)[KEY].store(word(channel, KEY), Release);
        self.places.insert(channel.key, at);
        Ok(())
    }

    /// Removes a direction; what it carried comes back.
    pub fn remove(&mut self, key: u64) -> Traffic {
        let traffic = self.traffic(key);
        if let Some(at) = self.places.remove(&key) {
            self.retire(at);
        }
        traffic
    }

    /// What a direction has carried so far; nothing if there is none.
    pub fn traffic(&self, key: u64) -> Traffic {
        self.places.get(&key).map_or_else(Traffic::default, |&at| {
            let words = self.slots.words(at);
            Traffic { packets: words[PACKETS].load(Relaxed), bytes: words[BYTES].load(Relaxed) }
        })
    }

    /// How many directions there are.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    fn settle(&mut self) {
        while let Some((at, _)) = self.retired.pop_front_if(|(_, until)| self.grace.is_over(*until)) {
            self.quarantined.remove(&at);
        }
    }

    fn retire(&mut self, at: u32) {
        // It must be seen before the period is chosen: SeqCst, here and there.
        self.slots.words(at)[KEY].swap(0, SeqCst);
        self.retired.push_back((at, self.grace.next()));
        self.quarantined.insert(at);
    }
}
