//! What an earlier run has left in its maps, as the next start finds it.

use std::{collections::HashMap, path::Path, sync::atomic::Ordering::Relaxed};

use anyhow::{Context as _, Result};
use aya::maps::{Map, MapData};
use relay_ebpf::tables::{self, Ledger, Session, Total};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::{
    mapped::Mapped,
    maps::Traffic,
    members::MemberId,
    session_table::LAST,
    totals::{MemberTraffic, traffic},
};

/// See the module. The maps may be those that go on, or others that are about to be replaced.
pub struct Left {
    slots: Option<Mapped<Session>>,
    /// Where each direction of a session stands.
    places: HashMap<u32, u32>,
    /// What the ledger says of sessions.
    pub ledger: Vec<Ledger>,
    /// What was forwarded for members.
    pub totals: Vec<(MemberId, MemberTraffic)>,
}

impl Left {
    /// Reads what is pinned in a directory of this version.
    pub fn read(dir: &Path) -> Result<Self> {
        let slots = pinned::<Session>(dir, tables::SESSIONS)?;
        let mut places = HashMap::new();
        if let Some(slots) = &slots {
            let taken = (0..slots.len()).filter(|at| slots.words(*at)[LAST].load(Relaxed) != 0);
            places.extend(taken.map(|at| (slots.read(at).index, at)));
        }
        let ledger = values::<Ledger>(dir, tables::LEDGER)?;
        let totals = values::<Total>(dir, tables::TOTALS)?;
        Ok(Self {
            slots,
            places,
            ledger: ledger.into_iter().filter(|entry| entry.responder_index != 0).collect(),
            totals: totals.iter().filter(|total| total.member != 0).map(traffic).collect(),
        })
    }

    /// How many directions of sessions there are.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// A direction of a session, by its receiver index, as it stands now.
    pub fn session(&self, index: u32) -> Option<Session> {
        let at = *self.places.get(&index)?;
        self.slots.as_ref().map(|slots| slots.read(at))
    }

    /// All of them.
    pub fn sessions(&self) -> impl Iterator<Item = Session> {
        self.places.keys().filter_map(|index| self.session(*index))
    }

    /// What a direction has carried so far.
    pub fn traffic(&self, index: u32) -> Traffic {
        self.session(index).map_or_else(Traffic::default, |session| Traffic {
            packets: session.packets.into(),
            bytes: session.bytes,
        })
    }
}

fn pinned<T: FromBytes + IntoBytes + Immutable>(dir: &Path, name: &str) -> Result<Option<Mapped<T>>> {
    let path = dir.join(name);
    if !path.exists() {
        return Ok(None);
    }
    let map = MapData::from_pin(&path).with_context(|| format!("open {}", path.display()))?;
    Mapped::new(&Map::Array(map)).with_context(|| format!("read {}", path.display())).map(Some)
}

fn values<T: FromBytes + IntoBytes + Immutable>(dir: &Path, name: &str) -> Result<Vec<T>> {
    let Some(map) = pinned::<T>(dir, name)? else { return Ok(Vec::new()) };
    Ok((0..map.len()).map(|at| map.read(at)).collect())
}
