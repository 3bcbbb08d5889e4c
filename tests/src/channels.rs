//! `CHANNELS` for tests whose program does not run while it is written: without the care that
//! [`relay_user::channel_table`] takes.

use std::collections::HashMap;

use aya::maps::{Array, MapData, MapError};
use relay_ebpf::tables::{self, CHANNEL_WINDOW, Channel, channel_home};
use zerocopy::FromZeros as _;

/// The table of a loaded program.
pub struct Channels {
    slots: Array<MapData, Channel>,
    /// Where each direction stands.
    places: HashMap<u64, u32>,
}

impl Channels {
    /// Takes the map of a program.
    ///
    /// # Panics
    /// If the object has no such map.
    pub fn take(ebpf: &mut aya::Ebpf) -> Self {
        let map = ebpf.take_map(tables::CHANNELS).expect("the map CHANNELS");
        Self { slots: map.try_into().expect("CHANNELS is an array"), places: HashMap::new() }
    }

    /// Puts a direction anywhere in its window, in place of the one that has its key.
    ///
    /// # Errors
    /// Of the system call.
    ///
    /// # Panics
    /// If there is no room.
    pub fn insert(&mut self, channel: &Channel) -> Result<(), MapError> {
        let at = match self.places.get(&channel.key) {
            Some(&at) => at,
            None => self.free(channel.key)?.expect("the table has room"),
        };
        self.places.insert(channel.key, at);
        self.slots.set(at, channel, 0)
    }

    /// Removes a direction.
    ///
    /// # Errors
    /// Of the system call.
    pub fn remove(&mut self, key: u64) -> Result<(), MapError> {
        match self.places.remove(&key) {
            Some(at) => self.slots.set(at, Channel::new_zeroed(), 0),
            None => Ok(()),
        }
    }

    /// A direction as it stands.
    ///
    /// # Errors
    /// Of the system call.
    pub fn get(&self, key: u64) -> Result<Option<Channel>, MapError> {
        self.places.get(&key).map(|at| self.slots.get(at, 0)).transpose()
    }

    /// A free slot in the window of `key`, from one of them on that the key decides, so that not all are found at once.
    fn free(&self, key: u64) -> Result<Option<u32>, MapError> {
        let (home, first) = (channel_home(key), key as u32 % CHANNEL_WINDOW);
        for at in (0..CHANNEL_WINDOW).map(|n| home + (first + n) % CHANNEL_WINDOW) {
            if self.slots.get(&at, 0)?.key == 0 {
                return Ok(Some(at));
            }
        }
        Ok(None)
    }
}
