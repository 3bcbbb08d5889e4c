//! `SESSIONS` for tests whose program does not run while it is written: without the care that
//! [`relay_user::session_table`] takes.

use aya::maps::{Array, MapData, MapError};
use relay_ebpf::tables::{self, Config, Session, WINDOW, home, homes};
use zerocopy::FromZeros as _;

/// What the tables of tests are addressed with.
pub const SEED: u64 = 0x9e37_79b9_7f4a_7c15;

/// The constants of a program whose table holds so many directions.
pub fn constants(port: u16, directions: u32) -> Config {
    Config { port_be: port.to_be_bytes(), homes: homes(directions), seed: SEED, ..Config::new_zeroed() }
}

/// Likewise, with a TURN server at this port and relayed addresses at these.
pub fn constants_with_turn(
    port: u16,
    directions: u32,
    turn_port: u16,
    relayed: std::ops::RangeInclusive<u16>,
) -> Config {
    let (relayed_first, relayed_last) = relayed.into_inner();
    Config {
        turn_port_be: turn_port.to_be_bytes(),
        relayed_first,
        relayed_last,
        ..constants(port, directions)
    }
}

/// The table of a loaded program.
pub struct Sessions {
    slots: Array<MapData, Session>,
    homes: u32,
}

impl Sessions {
    /// Takes the map of a program that was loaded with [`constants`] for so many directions.
    ///
    /// # Panics
    /// If the object has no such map.
    pub fn take(ebpf: &mut aya::Ebpf, directions: u32) -> Self {
        let map = ebpf.take_map(tables::SESSIONS).expect("the map SESSIONS");
        Self { slots: map.try_into().expect("SESSIONS is an array"), homes: homes(directions) }
    }

    /// Puts a session anywhere in its window.
    ///
    /// # Errors
    /// Of the system call.
    ///
    /// # Panics
    /// If there is no room.
    pub fn insert(&mut self, session: &Session) -> Result<(), MapError> {
        let at = match self.find(session.index, session.index)? {
            Some(at) => at,
            None => self.find(session.index, 0)?.expect("the table has room"),
        };
        self.slots.set(at, session, 0)
    }

    /// Removes a session.
    ///
    /// # Errors
    /// Of the system call.
    pub fn remove(&mut self, index: u32) -> Result<(), MapError> {
        match self.find(index, index)? {
            Some(at) => self.slots.set(at, Session::new_zeroed(), 0),
            None => Ok(()),
        }
    }

    /// A session as it stands.
    ///
    /// # Errors
    /// Of the system call.
    pub fn get(&self, index: u32) -> Result<Option<Session>, MapError> {
        self.find(index, index)?.map(|at| self.slots.get(&at, 0)).transpose()
    }

    /// The first slot in the window of `index` that holds `wanted`: the index itself, or 0 for a free one.
    fn find(&self, index: u32, wanted: u32) -> Result<Option<u32>, MapError> {
        for at in self.window(index) {
            if self.slots.get(&at, 0)?.index == wanted {
                return Ok(Some(at));
            }
        }
        Ok(None)
    }

    /// The slots that an index may stand in, from one of them on that the index decides, so that not all are found at once.
    fn window(&self, index: u32) -> impl Iterator<Item = u32> + use<> {
        let home = home(index, SEED, self.homes);
        (0..WINDOW).map(move |n| home + (n + index / 7) % WINDOW)
    }
}
