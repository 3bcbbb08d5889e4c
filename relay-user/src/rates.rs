//! Which member's rate limit stands where in `RATES`. Pure.

use std::collections::{BTreeMap, HashMap, HashSet};

use relay_ebpf::{
    bucket::{byte_cost, cost},
    tables::{RATES_MAX, Rate},
};

use crate::members::{MemberId, Members, RateLimit};

/// The limits as they stand in the table. The entry with id 0 is nobody's: a session without a limit names it.
#[derive(Debug, Default)]
pub struct Rates {
    entries: HashMap<MemberId, (u16, Option<RateLimit>)>,
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
        let used =
            table.into_iter().filter_map(|(id, rate)| Some((MemberId::of_map(rate.member)?, (id, None))));
        Self { entries: used.filter(|(_, (id, _))| *id != 0).collect() }
    }

    /// The id of a member's limit; 0 if it has none.
    pub fn id(&self, member: Option<MemberId>) -> u16 {
        member.and_then(|member| self.entries.get(&member)).map_or(0, |(id, _)| *id)
    }

    /// Makes them those of these members, and of others that are no members but have an id like theirs.
    pub fn update(&mut self, members: &Members, others: &HashMap<MemberId, RateLimit>) -> Changes {
        let mut changes = Changes::default();
        let limit = |id: MemberId| {
            members.member(id).and_then(|member| member.rate_limit).or_else(|| others.get(&id).copied())
        };
        self.entries.retain(|&member, (id, _)| {
            let stays = limit(member).is_some();
            if !stays {
                changes.entries.insert(*id, Rate::default());
                changes.members.push(member);
            }
            stays
        });
        let taken: HashSet<u16> = self.entries.values().map(|(id, _)| *id).collect();
        const { assert!(RATES_MAX == u16::MAX as u32 + 1) };
        let mut free = (1..=u16::MAX).filter(|id| !taken.contains(id));
        let of_members = members.iter().filter_map(|(id, member)| Some((id, member.rate_limit?)));
        for (member, wanted) in of_members.chain(others.iter().map(|(id, limit)| (*id, *limit))) {
            let id = match self.entries.get(&member) {
                Some((_, stands)) if *stands == Some(wanted) => continue,
                Some((id, _)) => *id,
                None => {
                    let Some(id) = free.next() else {
                        changes.left_out += 1;
                        continue;
                    };
                    changes.members.push(member);
                    id
                }
            };
            self.entries.insert(member, (id, Some(wanted)));
            changes.entries.insert(id, entry(member, wanted));
        }
        changes
    }
}

/// A limit as the table has it, with full buckets.
fn entry(member: MemberId, limit: RateLimit) -> Rate {
    Rate {
        member: MemberId::to_map(Some(member)),
        packet_cost: limit.packets_per_second.map_or(0, cost),
        byte_cost: limit.bits_per_second.map_or(0, byte_cost),
        ..Rate::default()
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
        rates.update(&members(limits), &HashMap::new())
    }

    fn id(n: u8) -> MemberId {
        PublicKey([n; 32]).id()
    }

    #[test]
    fn limits_get_places_keep_them_and_give_them_back() {
        let mut rates = Rates::default();
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
        let mut rates = Rates::default();
        let limit = RateLimit { bits_per_second: Some(3_000_000), packets_per_second: None };
        let user = MemberId(77);
        let changes = rates.update(&members(&[(1, Some(1_000_000))]), &HashMap::from([(user, limit)]));
        assert_eq!((rates.id(Some(id(1))), rates.id(Some(user))), (1, 2));
        assert_eq!((changes.entries[&2].member, changes.entries[&2].byte_cost), (77, byte_cost(3_000_000)));
        let gone = update(&mut rates, &[(1, Some(1_000_000))]);
        assert_eq!((rates.id(Some(user)), gone.members), (0, vec![user]));
    }

    #[test]
    fn places_of_an_earlier_run_are_kept() {
        let left = Rate { member: id(3).0, byte_cost: 5, ..Rate::default() };
        let gone = Rate { member: id(9).0, ..Rate::default() };
        let mut rates = Rates::adopt([(0, Rate::default()), (7, left), (8, gone), (9, Rate::default())]);
        let changes = update(&mut rates, &[(1, Some(1_000_000)), (3, Some(2_000_000))]);
        assert_eq!((rates.id(Some(id(1))), rates.id(Some(id(3)))), (1, 7));
        assert_eq!(changes.entries.keys().copied().collect::<Vec<_>>(), [1, 7, 8]);
        assert_eq!(changes.entries[&8], Rate::default());
        assert_eq!(changes.entries[&7].byte_cost, byte_cost(2_000_000));
    }
}
