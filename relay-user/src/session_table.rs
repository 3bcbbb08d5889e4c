//! `SESSIONS`: a flat array that userspace writes without system calls while the XDP program reads it.
//!
//! A session stands in one of the [`WINDOW`] slots from its [`home`] on. The rules that keep every reader from a mixture
//! of two sessions:
//!
//! - The last word of a slot, with the index in it, is written after all others, and a reader reads it first.
//! - Nothing in a slot that is in use ever changes but the program's counters. A session that moves is written into a
//!   second slot, and the first is retired.
//! - A retired slot (its last word is zero) is used again only when every program that may have found it has ended
//!   ([`Grace`]).
//!
//! x86-64 keeps stores in order, and loads; elsewhere the last word is written after a grace period has passed since the
//! others were, so that no reader that finds it can have read the others before.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::atomic::Ordering::{Relaxed, Release, SeqCst},
};

use anyhow::{Context as _, Result};
use aya::maps::Map;
use relay_ebpf::tables::{Session, WINDOW, home};

use crate::{
    grace::{self, Grace, Period},
    mapped::{Mapped, word},
    maps::Traffic,
};

/// The word of a slot that holds the index.
pub(crate) const LAST: usize = size_of::<Session>() / size_of::<u64>() - 1;
/// The words of the counters.
const PACKETS: usize = std::mem::offset_of!(Session, packets) / size_of::<u64>();
const _: () = assert!(std::mem::offset_of!(Session, packets).is_multiple_of(size_of::<u64>()));
const BYTES: usize = std::mem::offset_of!(Session, bytes) / size_of::<u64>();

/// All slots that an index may stand in are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the session table has no room for this index")]
pub struct NoRoom;

/// See the module. It is the only writer.
pub struct SessionTable<Owner> {
    slots: Mapped<Session>,
    seed: u64,
    /// Where each session stands, and whose it is.
    sessions: HashMap<u32, (u32, Owner)>,
    /// In the order of their periods.
    retired: VecDeque<Retired<Owner>>,
    /// Which slots those are.
    quarantined: HashSet<u32>,
    grace: Grace,
}

/// A slot that programs may still be in.
struct Retired<Owner> {
    at: u32,
    until: Period,
    owner: Owner,
    /// What its counters said when it was retired.
    counted: Traffic,
}

impl<Owner: Copy + Default> SessionTable<Owner> {
    /// The table in `map`, whose homes are found with `seed`. What an earlier run has left in it is nobody's yet.
    ///
    /// # Errors
    /// If the kernel does not map the array, or has no membarrier(2).
    pub fn new(map: &Map, seed: u64) -> Result<Self> {
        let slots = Mapped::new(map).context("SESSIONS")?;
        let mut sessions = HashMap::new();
        // If an earlier run ended in the middle of a move, one session stands in two slots: either is right, and one is
        // enough.
        let mut second = Vec::new();
        for at in 0..slots.len() {
            // Of a free slot nothing else is read: there are very many.
            if slots.words(at)[LAST].load(Relaxed) != 0 {
                let Session { index, .. } = slots.read(at);
                second.extend(sessions.insert(index, (at, Owner::default())).map(|(at, _)| at));
            }
        }
        let mut this = Self {
            slots,
            seed,
            sessions,
            retired: VecDeque::new(),
            quarantined: HashSet::new(),
            grace: Grace::new()?,
        };
        second.into_iter().for_each(|at| this.retire(at, Owner::default()));
        Ok(this)
    }

    /// How many homes there are.
    fn homes(&self) -> u32 {
        self.slots.len() - (WINDOW - 1)
    }

    /// Puts a session in, or in the place of what stands there under its index: that one's counters go on.
    ///
    /// # Errors
    /// If there is no room, as there never is for index 0. Then nothing has changed.
    pub fn insert(&mut self, session: &Session, owner: Owner) -> Result<(), NoRoom> {
        if session.index == 0 {
            return Err(NoRoom);
        }
        let old = self.sessions.get(&session.index).copied();
        let traffic = self.traffic(session.index);
        let session = Session { packets: traffic.packets as u32, bytes: traffic.bytes, ..*session };
        if let Some((at, _)) = old
            && self.slots.read(at) == session
        {
            self.sessions.insert(session.index, (at, owner));
            return Ok(());
        }
        let at = self.free_slot(session.index).ok_or(NoRoom)?;
        self.slots.write(at, &session, 0..LAST);
        if cfg!(not(target_arch = "x86_64")) && grace::wait().is_err() {
            return Err(NoRoom);
        }
        self.slots.words(at)[LAST].store(word(&session, LAST), Release);
        self.sessions.insert(session.index, (at, owner));
        if let Some((at, owner)) = old {
            self.retire(at, owner);
        }
        Ok(())
    }

    /// Removes a session; what it carried comes back. (What it carries in this very moment comes with [`Self::settle`].)
    pub fn remove(&mut self, index: u32) -> Traffic {
        let traffic = self.traffic(index);
        if let Some((at, owner)) = self.sessions.remove(&index) {
            self.retire(at, owner);
        }
        traffic
    }

    /// What a session has carried so far; nothing if there is none.
    pub fn traffic(&self, index: u32) -> Traffic {
        self.sessions.get(&index).map_or_else(Traffic::default, |(at, _)| self.counted(*at))
    }

    /// Whether a session with this index stands in the table.
    pub fn contains(&self, index: u32) -> bool {
        self.sessions.contains_key(&index)
    }

    /// All that stands in the table.
    pub fn iter(&self) -> impl Iterator<Item = Session> {
        self.sessions.values().map(|(at, _)| self.slots.read(*at))
    }

    /// Frees retired slots that no program is in any more, and tells what passed through them after they were retired.
    pub fn settle(&mut self) -> Vec<(Owner, Traffic)> {
        let mut late = Vec::new();
        while let Some(Retired { at, owner, counted, .. }) =
            self.retired.pop_front_if(|retired| self.grace.is_over(retired.until))
        {
            self.quarantined.remove(&at);
            let now = self.counted(at);
            if now != counted {
                let (packets, bytes) = (now.packets - counted.packets, now.bytes - counted.bytes);
                late.push((owner, Traffic { packets, bytes }));
            }
        }
        late
    }

    fn counted(&self, at: u32) -> Traffic {
        let words = self.slots.words(at);
        // Packets share their word with what does not change.
        let [a, b, c, d, ..] = words[PACKETS].load(Relaxed).to_ne_bytes();
        Traffic { packets: u32::from_ne_bytes([a, b, c, d]).into(), bytes: words[BYTES].load(Relaxed) }
    }

    fn free_slot(&self, index: u32) -> Option<u32> {
        let home = home(index, self.seed, self.homes());
        (home..home + WINDOW)
            .find(|at| self.slots.words(*at)[LAST].load(Relaxed) == 0 && !self.quarantined.contains(at))
    }

    fn retire(&mut self, at: u32, owner: Owner) {
        // It must be seen before the period is chosen: SeqCst, here and there.
        self.slots.words(at)[LAST].swap(0, SeqCst);
        let counted = self.counted(at);
        self.retired.push_back(Retired { at, until: self.grace.next(), owner, counted });
        self.quarantined.insert(at);
    }
}
