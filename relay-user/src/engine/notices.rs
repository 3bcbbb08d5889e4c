//! What people should read in the log of what goes on: one line for each, and not more of them than can be read.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use relay_ebpf::reason::Reason;
use tracing::{info, warn};

use super::Engine;
use crate::{
    clock,
    handshake::{Outcome, Timestamp},
    members::{Member, MemberId, Place},
};

/// Of a limit that is hit again and again it is told once in this time.
const AGAIN: Duration = Duration::from_secs(60);
/// WireGuard renews a registration after two minutes, at the next keepalive. A host that has not for so long is gone.
const GONE: Duration = Duration::from_secs(180);
/// Of so many hosts at once a line each is told, of more only their number.
const AT_ONCE: usize = 20;

/// The limits of which it is told, by what is counted when they are hit.
const OUTCOMES: [Outcome; 7] = [
    Outcome::SessionsFull,
    Outcome::PendingFull,
    Outcome::PendingQuota,
    Outcome::QuotaExceeded,
    Outcome::SearchLimit,
    Outcome::InitiationLimit,
    Outcome::UnknownInitiationLimit,
];
/// A member's rate limit is none of them: that it is hit is what it is for.
const REASONS: [Reason; 3] = [Reason::KnownOverBudget, Reason::SourceOverBudget, Reason::UnknownOverBudget];

/// What has been told.
#[derive(Debug, Default)]
pub(super) struct Notices {
    limits: Limits,
    absent: Absent,
}

/// Which limits were hit, and of which it is time to tell.
#[derive(Debug, Default)]
struct Limits(HashMap<&'static str, Told>);

#[derive(Debug)]
struct Told {
    count: u64,
    /// When it was told that it rises.
    at: Option<Timestamp>,
}

impl Limits {
    /// Of which limits to tell, and how often they were hit since they were last told of. What was counted before this
    /// process is nobody's news.
    fn due(
        &mut self,
        now: Timestamp,
        counts: impl IntoIterator<Item = (&'static str, u64)>,
    ) -> Vec<(&'static str, u64)> {
        let mut due = Vec::new();
        for (limit, count) in counts {
            let told = self.0.entry(limit).or_insert(Told { count, at: None });
            let waits = told.at.is_some_and(|at| now.saturating_sub(at) < AGAIN);
            if count > told.count && !waits {
                due.push((limit, count - told.count));
                *told = Told { count, at: Some(now) };
            }
        }
        due
    }
}

/// The relayed hosts that are not heard of.
#[derive(Debug, Default)]
struct Absent(HashSet<MemberId>);

/// What has become of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    Went,
    CameBack,
}

impl Absent {
    /// A host was last heard of so long ago.
    fn heard(&mut self, host: MemberId, ago: Duration) -> Option<Turn> {
        if ago > GONE {
            self.0.insert(host).then_some(Turn::Went)
        } else {
            self.0.remove(&host).then_some(Turn::CameBack)
        }
    }
}

impl Engine {
    /// Tells of limits that were hit.
    pub(super) fn tell_of_limits(&mut self) {
        let outcomes = self.tracker.outcomes();
        let outcomes = outcomes.iter().filter(|(outcome, _)| OUTCOMES.contains(outcome));
        let mut counts: Vec<(&str, u64)> =
            outcomes.map(|(outcome, count)| (outcome.label(), count)).collect();
        let packets = self.maps.counters().unwrap_or_default();
        counts.extend(REASONS.map(|reason| {
            let of = packets.iter().filter(|(found, ..)| *found == reason);
            (reason.label(), of.map(|(.., count)| count.packets).sum())
        }));
        for (limit, times) in self.notices.limits.due(clock::now(), counts) {
            warn!(limit, times, "limit hit: docs/operations.md says what to do");
        }
    }

    /// Tells of relayed hosts that are gone, and of those that are back.
    pub(super) fn tell_of_absent_hosts(&mut self) {
        let relayed =
            |id: &MemberId| self.desired.members.member(*id).filter(|member| member.place == Place::Relayed);
        self.notices.absent.0.retain(|id| relayed(id).is_some());
        let (mut went, mut back) = (Vec::new(), Vec::new());
        for (id, at) in &self.handshakes {
            let (Some(member), Some(ago)) = (relayed(id), clock::ago(*at)) else { continue };
            match self.notices.absent.heard(*id, ago) {
                Some(Turn::Went) => went.push(member),
                Some(Turn::CameBack) => back.push(member),
                None => {}
            }
        }
        tell(
            &went,
            |host| info!(host, "host went: it is not heard of any more"),
            |hosts| info!(hosts, "hosts went"),
        );
        tell(&back, |host| info!(host, "host came back"), |hosts| info!(hosts, "hosts came back"));
    }
}

/// Tells of members that have another place than before.
pub(super) fn tell_of_places(moved: &[(&Arc<Member>, &Arc<Member>)]) {
    if moved.len() > AT_ONCE {
        info!(hosts = moved.len(), "relays of hosts changed");
        return;
    }
    for (was, is) in moved {
        info!(host = &*is.name, from = by(&was.place), to = by(&is.place), "relay of host changed");
    }
}

/// Who relays a member.
fn by(place: &Place) -> &str {
    match place {
        Place::Relayed => "here",
        Place::RelayedBy(relay) => relay,
        Place::Static(_) => "none",
    }
}

fn tell(hosts: &[&Member], one: impl Fn(&str), many: impl Fn(usize)) {
    if hosts.len() > AT_ONCE {
        many(hosts.len());
    } else {
        hosts.iter().for_each(|host| one(&host.name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::members::PublicKey;

    fn seconds(n: u64) -> Timestamp {
        Duration::from_secs(n)
    }

    #[test]
    fn a_limit_is_told_at_once_and_then_once_a_minute() {
        let mut limits = Limits::default();
        assert_eq!(limits.due(seconds(0), [("full", 7)]), [], "that was before");
        assert_eq!(limits.due(seconds(5), [("full", 7)]), []);
        assert_eq!(limits.due(seconds(10), [("full", 9), ("quota", 0)]), [("full", 2)]);
        assert_eq!(limits.due(seconds(15), [("full", 1000), ("quota", 1)]), [("quota", 1)]);
        assert_eq!(limits.due(seconds(69), [("full", 1001)]), []);
        assert_eq!(limits.due(seconds(70), [("full", 1002)]), [("full", 993)]);
        assert_eq!(limits.due(seconds(500), [("full", 1002)]), []);
        assert_eq!(limits.due(seconds(505), [("full", 3)]), [], "counted anew");
    }

    #[test]
    fn a_host_goes_and_comes_back_once() {
        let (mut absent, host) = (Absent::default(), PublicKey([1; 32]).id());
        assert_eq!(absent.heard(host, seconds(100)), None);
        assert_eq!(absent.heard(host, seconds(181)), Some(Turn::Went));
        assert_eq!(absent.heard(host, seconds(211)), None);
        assert_eq!(absent.heard(host, seconds(3)), Some(Turn::CameBack));
        assert_eq!(absent.heard(host, seconds(33)), None);
    }
}
