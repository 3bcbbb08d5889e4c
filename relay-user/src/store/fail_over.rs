//! Moving hosts away from a relay that is gone.
//!
//! Only hosts that follow their configuration at this moment are moved, which shows in that they wait for the next change
//! of it. All others, as a phone or a host with plain wg-quick, keep the relay that they know: it may come back, and then
//! it must still relay them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::Writer;
use crate::{
    clock,
    handshake::Timestamp,
    model::{Command, Name, State},
};

/// How often it is looked while a relay is missing.
const TICK: Duration = Duration::from_millis(500);

/// The hosts that follow their configuration. A clone is the same list.
#[derive(Clone, Debug, Default)]
pub struct Followers(Arc<Mutex<BTreeMap<Name, usize>>>);

/// A host follows its configuration until this is dropped.
#[derive(Debug)]
pub struct Following {
    followers: Followers,
    name: Name,
}

impl Followers {
    /// A host waits for the next change of its configuration.
    pub fn follow(&self, name: Name) -> Following {
        *self.0.lock().expect("nobody panics with it").entry(name.clone()).or_default() += 1;
        Following { followers: self.clone(), name }
    }

    /// Those of a relay's hosts that follow now.
    fn of(&self, state: &State, relay: &Name) -> Vec<Name> {
        let followers = self.0.lock().expect("nobody panics with it");
        let relayed = |name: &Name| state.member(name.as_str())?.relayed.as_ref().map(|by| by.by == *relay);
        followers.keys().filter(|name| relayed(name) == Some(true)).cloned().collect()
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        let mut followers = self.followers.0.lock().expect("nobody panics with it");
        if let Some(number) = followers.get_mut(&self.name) {
            *number -= 1;
            if *number == 0 {
                followers.remove(&self.name);
            }
        }
    }
}

/// Since when each relay has been missing.
#[derive(Debug, Default)]
struct Missing(BTreeMap<Name, Timestamp>);

impl Missing {
    /// Takes in who is there now. Gives those that have been missing for as long as `after`.
    fn gone<'a>(
        &mut self,
        now: Timestamp,
        after: Duration,
        relays: impl Iterator<Item = &'a Name>,
        alive: &BTreeSet<String>,
    ) -> Vec<Name> {
        let missing: BTreeSet<&Name> = relays.filter(|relay| !alive.contains(relay.as_str())).collect();
        self.0.retain(|relay, _| missing.contains(relay));
        for relay in missing {
            self.0.entry(relay.clone()).or_insert(now);
        }
        let long = self.0.iter().filter(|(_, since)| now.saturating_sub(**since) >= after);
        long.map(|(relay, _)| relay.clone()).collect()
    }
}

/// Moves the followers of relays that have been missing for as long as `after`, until `stop`. For a store in which every
/// relay announces itself.
pub async fn fail_over(
    writer: Writer,
    mut alive: watch::Receiver<BTreeSet<String>>,
    followers: Followers,
    after: Duration,
    stop: CancellationToken,
) {
    let mut missing = Missing::default();
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => {}
        }
        let (state, alive) = (writer.state(), alive.borrow_and_update().clone());
        let relays = state.relays().map(|relay| &relay.name);
        let gone = missing.gone(clock::now(), after, relays, &alive);
        let alive: BTreeSet<Name> = alive.iter().filter_map(|name| name.parse().ok()).collect();
        for from in gone {
            let hosts = followers.of(&state, &from);
            // Who can't be moved now is asked for again and again, so nothing is written about that.
            let command = Command::FailOver { from: from.clone(), hosts, alive: alive.clone() };
            let moved = state.consequences(super::unix_time(), &command).map_or(0, |moved| moved.len());
            if moved == 0 {
                continue;
            }
            match writer.write(command).await {
                Ok(_) => info!(relay = %from, hosts = moved, "the relay is gone: its hosts have another now"),
                Err(error) => warn!("move the hosts of relay {from}, which is gone: {error}"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relay_is_gone_when_it_was_missing_all_the_time() {
        let relays: [Name; 2] = ["r1", "r2"].map(|name| name.parse().unwrap());
        let mut missing = Missing::default();
        let mut gone = |seconds, alive: &[&str]| {
            let alive = alive.iter().map(|&name| name.to_owned()).collect();
            let now = Timestamp::from_secs(seconds);
            let gone = missing.gone(now, Duration::from_secs(10), relays.iter(), &alive);
            gone.iter().map(|name| name.as_str().to_owned()).collect::<Vec<_>>()
        };
        assert!(gone(0, &["r2"]).is_empty());
        assert!(gone(9, &["r2"]).is_empty());
        assert_eq!(gone(10, &["r2"]), ["r1"]);
        assert_eq!(gone(11, &["r2"]), ["r1"]);
        // It comes back, and goes again.
        assert!(gone(12, &["r1", "r2", "unknown"]).is_empty());
        assert!(gone(13, &[]).is_empty());
        assert!(gone(22, &["r2"]).is_empty());
        assert_eq!(gone(23, &["r2"]), ["r1"]);
    }

    #[test]
    fn a_host_follows_as_long_as_one_request_of_it_waits() {
        let (followers, host): (_, Name) = (Followers::default(), "a".parse().unwrap());
        let (first, second) = (followers.follow(host.clone()), followers.follow(host.clone()));
        drop(first);
        assert_eq!(followers.0.lock().unwrap().len(), 1);
        drop(second);
        assert!(followers.0.lock().unwrap().is_empty());
    }
}
