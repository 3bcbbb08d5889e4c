//! A bounded table whose entries all live equally long.
//!
//! The first entry for a key stays until its time is up; nothing overwrites it and a full table refuses what is new. So a
//! flood can't push out what was there before it.

use std::{
    collections::{HashMap, VecDeque},
    hash::Hash,
    time::Duration,
};

use super::Timestamp;

/// See the module.
pub struct Expiring<K, V> {
    lifetime: Duration,
    limit: usize,
    entries: HashMap<K, (Timestamp, V)>,
    /// When each entry ends, in the order in which they were made.
    queue: VecDeque<(Timestamp, K)>,
}

impl<K: Copy + Eq + Hash, V> Expiring<K, V> {
    /// An empty table of at most `limit` entries that live for `lifetime`.
    pub fn new(limit: usize, lifetime: Duration) -> Self {
        Self { lifetime, limit, entries: HashMap::new(), queue: VecDeque::new() }
    }

    /// Adds an entry. Returns false if the key is there already or the table is full.
    pub fn insert(&mut self, now: Timestamp, key: K, value: V) -> bool {
        if self.is_full() || self.entries.contains_key(&key) {
            return false;
        }
        let end = now + self.lifetime;
        self.entries.insert(key, (end, value));
        self.queue.push_back((end, key));
        true
    }

    /// The entry for `key`.
    pub fn get(&self, key: K) -> Option<&V> {
        self.entries.get(&key).map(|(_, value)| value)
    }

    /// The entry for `key`, to be changed.
    pub fn get_mut(&mut self, key: K) -> Option<&mut V> {
        self.entries.get_mut(&key).map(|(_, value)| value)
    }

    /// Whether nothing more can be added.
    pub fn is_full(&self) -> bool {
        self.entries.len() >= self.limit
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// When the next entry ends.
    pub fn next_end(&self) -> Option<Timestamp> {
        self.queue.front().map(|&(end, _)| end)
    }

    /// Removes one entry whose time is up.
    pub fn pop_ended(&mut self, now: Timestamp) -> Option<(K, V)> {
        let (_, key) = self.queue.pop_front_if(|(end, _)| *end <= now)?;
        self.entries.remove(&key).map(|(_, value)| (key, value))
    }

    /// Removes the entries that `keep` rejects.
    pub fn remove_unless(&mut self, mut keep: impl FnMut(&V) -> bool) -> Vec<(K, V)> {
        let gone: Vec<(K, V)> = self
            .entries
            .extract_if(|_, (_, value)| !keep(value))
            .map(|(key, (_, value))| (key, value))
            .collect();
        self.queue.retain(|(_, key)| self.entries.contains_key(key));
        gone
    }
}
