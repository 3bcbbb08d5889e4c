//! Hosts that join by themselves.

use super::Plan;
use crate::model::{
    Command, Credential, Enrol, Enrolled, EnrolmentKey, Key, Member, Membership, Op, RESERVED_SECONDS,
    Record, Refusal, Relayed, State, UnixTime,
};

impl State {
    /// A host joins. Its public key is only reserved for it until a handshake proves it: whoever merely knows another's
    /// public key can't keep it for long, and nothing is relayed for it meanwhile.
    pub(super) fn enrol(&self, now: UnixTime, enrol: &Enrol) -> Result<Vec<Op>, Refusal> {
        let key = self.keys.get(&enrol.key.id).filter(|key| key.secret.is_of(&enrol.key.secret));
        let key = &*key.ok_or(Refusal::WrongKey())?.record;
        let known = self.by_public_key(enrol.public_key).map(|kept| &*kept.record);
        let proven = known.filter(|member| enrol.proof.as_ref().is_some_and(|proof| proves(member, proof)));
        if proven.is_some_and(|member| member.membership(&key.network).is_some()) {
            // It asks again, as if it had not heard the answer: that costs no use.
            return Ok(Vec::new());
        }
        usable(now, key)?;
        let mut ops = Vec::new();
        let member = match known {
            Some(member) if proven.is_some() => {
                let mut member = member.clone();
                member.networks.push(Membership::of(key.network.clone()));
                // The relay belongs to the public key as a whole: it stays, and must serve this network as well.
                self.join(member, key)?
            }
            Some(member) if self.lapsed(now, member) => {
                let mut without = self.clone();
                without.apply(self.revision(), [Op::Delete(Key::Member(member.name.clone()))]);
                if member.name != enrol.name {
                    ops.push(Op::Delete(Key::Member(member.name.clone())));
                }
                without.newcomer(now, enrol, key)?
            }
            Some(_) => return Err(Refusal::OwnerNeeded()),
            None => self.newcomer(now, enrol, key)?,
        };
        ops.push(Op::Put(Record::Member(member)));
        if let Some(uses) = key.uses_left {
            let key = EnrolmentKey { uses_left: Some(uses - 1), ..key.clone() };
            ops.push(Op::Put(Record::EnrolmentKey(key)));
        }
        Ok(ops)
    }

    /// Removes members whose key was never proven.
    pub(super) fn sweep(&self, now: UnixTime, limit: usize) -> Plan {
        let old = self.pending.iter().take_while(|(since, _)| since + RESERVED_SECONDS <= now);
        let mut lapsed = old.map(|(_, name)| name).filter(|name| !self.relays.contains_key(*name));
        let ops = lapsed.by_ref().take(limit).map(|name| Op::Delete(Key::Member(name.clone()))).collect();
        Plan { ops, rest: lapsed.next().map(|_| Command::Sweep) }
    }

    fn newcomer(&self, now: UnixTime, enrol: &Enrol, key: &EnrolmentKey) -> Result<Member, Refusal> {
        self.absent(Key::Member(enrol.name.clone()))?;
        let member = Member {
            name: enrol.name.clone(),
            public_key: enrol.public_key,
            active: false,
            networks: vec![Membership::of(key.network.clone())],
            endpoints: enrol.endpoints.clone(),
            relayed: None,
            rate_limit: None,
            tags: Vec::new(),
            owner: Some(enrol.owner),
            enrolled: Some(Enrolled { key: key.id.clone(), at: now }),
        };
        self.join(member, key)
    }

    fn join(&self, mut member: Member, key: &EnrolmentKey) -> Result<Member, Refusal> {
        member.tags.extend(key.tags.iter().cloned());
        if member.relayed.is_none() && !self.relays.contains_key(&member.name) {
            member.relayed = key.relay.clone().map(|by| Relayed { by, address: None });
        }
        self.settle(member)
    }

    fn lapsed(&self, now: UnixTime, member: &Member) -> bool {
        member.pending_since().is_some_and(|since| since + RESERVED_SECONDS <= now)
            && !self.relays.contains_key(&member.name)
    }
}

fn usable(now: UnixTime, key: &EnrolmentKey) -> Result<(), Refusal> {
    if key.expires.is_some_and(|expires| expires <= now) {
        return Err(Refusal::KeyExpired(key.id.clone()));
    }
    if key.uses_left == Some(0) {
        return Err(Refusal::KeyUsedUp(key.id.clone()));
    }
    Ok(())
}

fn proves(member: &Member, proof: &Credential) -> bool {
    proof.id == member.name && member.owner.is_some_and(|owner| owner.is_of(&proof.secret))
}
