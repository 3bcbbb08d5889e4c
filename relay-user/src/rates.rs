//! Which member's rate limit stands where in `RATES`. Pure.

use std::collections::{BTreeMap, HashMap, HashSet};

use relay_ebpf::{
    bucket::{byte_cost, cost},
    tables::{RATES_MAX, Rate},
};

use crate::members::{MemberId, Members, RateLimit};

/// The limits as they stand in the table. The entry with id 0 is nobody's: a session without a limit names it.
#[derive(Debug)]
pub struct Rates {
    entries: HashMap<MemberId, (u16, Option<RateLimit>)>,
    /// Ids that stand for nobody, the next one last.
    free: Vec<u16>,
}

/// What has to be written.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Entries of the table.
    pub entries: BTreeMap<u16, Rate>,
    /// Members whose sessions, or channels, name another entry now.
    pub members: Vec<MemberId>,
    /// How many members have a limit for which the table has no room.
    pub left_out: usize,
}

impl Rates {
    /// Those that an earlier run has left: they keep their places, since sessions name them, but what they say is written
    /// anew.
    pub fn adopt(table: impl IntoIterator<Item = (u16, Rate)>) -> Self {
        const { assert!(RATES_MAX == u16::MAX as u32 + 1) };
        let used =
            table.into_iter().filter_map(|(id, rate)| Some((MemberId::of_map(rate.member)?, (id, None))));
        let entries: HashMap<_, _> = used.filter(|(_, (id, _))| *id != 0).collect();
        let taken: HashSet<u16> = entries.values().map(|(id, _)| *id).collect();
        Self { entries, free: (1..=u16::MAX).rev().filter(|id| !taken.contains(id)).collect() }
    }

    /// The id of a member's limit; 0 if it has none.
    pub fn id(&self, member: Option<MemberId>) -> u16 {
        member.and_then(|member| self.entries.get(&member)).map_or(0, |(id, _)| *id)
    }

    /// Makes them those of these members, and of others that are no members but have an id like theirs.
    pub fn update(
        &mut self,
        members: &Members,
        others: impl Iterator<Item = (MemberId, RateLimit)>,
    ) -> Changes {
        let mut changes = Changes::default();
        let of_members = members.iter().filter_map(|(id, member)| Some((id, member.rate_limit?)));
        let wanted: Vec<(MemberId, RateLimit)> = of_members.chain(others).collect();
        let stay: HashSet<MemberId> = wanted.iter().map(|(id, _)| *id).collect();
        let gone: Vec<MemberId> = self.entries.keys().filter(|id| !stay.contains(id)).copied().collect();
        gone.into_iter().for_each(|member| self.set(member, None, &mut changes));
        wanted.into_iter().for_each(|(member, limit)| self.set(member, Some(limit), &mut changes));
        changes
    }

    /// Gives one a limit, or takes it away.
    pub fn set(&mut self, member: MemberId, limit: Option<RateLimit>, changes: &mut Changes) {
        let Some(limit) = limit else {
            if let Some((id, _)) = self.entries.remove(&member) {
                self.free.push(id);
                changes.entries.insert(id, Rate::default());
                changes.members.push(member);
            }
            return;
        };
        let id = match self.entries.get(&member) {
            Some((_, stands)) if *stands == Some(limit) => return,
            Some((id, _)) => *id,
            None => {
                let Some(id) = self.free.pop() else {
                    changes.left_out += 1;
                    return;
                };
                changes.members.push(member);
                id
            }
        };
        self.entries.insert(member, (id, Some(limit)));
        changes.entries.insert(id, Rate { member: MemberId::to_map(Some(member)), ..limit.into() });
    }
}

/// A limit as the table has it, nobody's yet, with full buckets.
impl From<RateLimit> for Rate {
    fn from(limit: RateLimit) -> Self {
        Self {
            packet_cost: limit.packets_per_second.map_or(0, cost),
            byte_cost: limit.bits_per_second.map_or(0, byte_cost),
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::members::{Member, Place, Policy, PublicKey};

    fn members(limits: &[(u8, Option<u64>)]) -> Members {
        let members = limits.iter().map(|&(n, bits_per_second)| Member {
            name: n.to_string().into(),
            public_key: PublicKey([n; 32]),
            networks: vec!["net".into()],
            place: Place::Relayed,
            rate_limit: bits_per_second
                .map(|bits| RateLimit { bits_per_second: Some(bits), packets_per_second: None }),
        });
        Members::new(PublicKey([99; 32]), Policy::Members, [], members).unwrap()
    }

    fn update(rates: &mut Rates, limits: &[(u8, Option<u64>)]) -> Changes {
        rates.update(&members(limits), [].into_iter())
    }

    fn id(n: u8) -> MemberId {
        PublicKey([n; 32]).id()
    }

    #[test]
    fn limits_get_places_keep_them_and_give_them_back() {
        let mut rates = Rates::adopt([]);
        let changes = update(&mut rates, &[(1, Some(1_000_000)), (2, None), (3, Some(2_000_000))]);
        assert_eq!(changes.members, [id(1), id(3)]);
        assert_eq!((rates.id(Some(id(1))), rates.id(Some(id(2))), rates.id(Some(id(3)))), (1, 0, 2));
        assert_eq!(changes.entries[&1].byte_cost, byte_cost(1_000_000));
        assert_eq!((changes.entries[&2].member, changes.entries[&2].packet_cost), (id(3).0, 0));
        assert_eq!(rates.id(None), 0);

        let same = update(&mut rates, &[(1, Some(1_000_000)), (2, None), (3, Some(2_000_000))]);
        assert_eq!(same, Changes::default());

        let other = update(&mut rates, &[(1, Some(5_000_000)), (2, Some(7_000_000))]);
        assert_eq!(other.members, [id(3), id(2)], "another limit needs no other place");
        assert_eq!((rates.id(Some(id(1))), rates.id(Some(id(2))), rates.id(Some(id(3)))), (1, 2, 0));
        assert_eq!(other.entries[&2].member, id(2).0, "what became free is used again");
    }

    #[test]
    fn others_than_members_have_limits_as_well() {
        let mut rates = Rates::adopt([]);
        let limit = RateLimit { bits_per_second: Some(3_000_000), packets_per_second: None };
        let user = MemberId(77);
        let changes = rates.update(&members(&[(1, Some(1_000_000))]), [(user, limit)].into_iter());
        assert_eq!((rates.id(Some(id(1))), rates.id(Some(user))), (1, 2));
        assert_eq!((changes.entries[&2].member, changes.entries[&2].byte_cost), (77, byte_cost(3_000_000)));
        let mut gone = Changes::default();
        rates.set(user, None, &mut gone);
        assert_eq!((rates.id(Some(user)), gone.members), (0, vec![user]));
        assert_eq!(gone.entries, BTreeMap::from([(2, Rate::default())]));
    }

    #[test]
    fn places_of_an_earlier_run_are_kept() {
        let left = Rate { member: id(3).0, byte_cost: 5, ..Rate::default() };
        let gone = Rate { member: id(9).0, ..Rate::default() };
        let mut rates = Rates::adopt([(0, Rate::default()), (7, left), (8, gone), (9, Rate::default())]);
        let changes = update(&mut rates, &[(1, Some(1_000_000)), (3, Some(2_000_000))]);
        assert_eq!(
            (rates.id(Some(id(1))), rates.id(Some(id(3)))),
            (8, 7),
            "who has none any more makes room"
        );
        assert_eq!(changes.entries.keys().copied().collect::<Vec<_>>(), [7, 8]);
        assert_eq!(
            (changes.entries[&8].member, changes.entries[&8].byte_cost),
            (id(1).0, byte_cost(1_000_000))
        );
        assert_eq!(changes.entries[&7].byte_cost, byte_cost(2_000_000));
        assert_eq!(changes.members, [id(9), id(1)]);
    }
}
