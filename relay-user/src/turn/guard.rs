//! How much is done for those who have not proven who they are: what they ask for costs an answer, which goes to whoever
//! they say they are.

use std::{collections::HashMap, net::IpAddr};

use relay_ebpf::tables::{Address, source_key};

use crate::handshake::{Budget, Timestamp};

/// So many sources are remembered. If there are more, all are forgotten: what they do together is limited anyhow.
const SOURCES: usize = 16_384;

/// Requests a second that are not those of a proven client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rates {
    /// Of one source: an IPv4 address, or an IPv6 /64.
    pub source: u32,
    /// Of all of them.
    pub all: u32,
}

impl Default for Rates {
    fn default() -> Self {
        Self { source: 100, all: 2_000 }
    }
}

/// See the module.
pub struct Guard {
    rates: Rates,
    sources: HashMap<Address, Budget>,
    all: Budget,
}

impl Guard {
    /// All budgets are full.
    pub fn new(rates: Rates) -> Self {
        Self { rates, sources: HashMap::new(), all: Budget::default() }
    }

    /// Other rates from now on.
    pub fn set_rates(&mut self, rates: Rates) {
        self.rates = rates;
    }

    /// Whether one more request of this source is answered.
    pub fn admits(&mut self, now: Timestamp, source: IpAddr) -> bool {
        let key = source_key(source.into());
        if self.sources.len() >= SOURCES && !self.sources.contains_key(&key) {
            self.sources.clear();
        }
        // Its own first: who is refused for itself takes nothing from the others.
        self.sources.entry(key).or_default().uses(now, 1, self.rates.source)
            && self.all.uses(now, 1, self.rates.all)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_source_takes_its_own_and_all_take_no_more_than_there_is() {
        let mut guard = Guard::new(Rates { source: 10, all: 50 });
        let now = Duration::from_secs(1);
        let mut answered =
            |last: u8, asks: usize| (0..asks).filter(|_| guard.admits(now, [192, 0, 2, last].into())).count();
        assert!((10..=11).contains(&answered(1, 1000)));
        let others: usize = (2..200).map(|last| answered(last, 20)).sum();
        assert!((39..=42).contains(&others), "{others}");
    }

    #[test]
    fn sources_are_forgotten_before_they_fill_the_memory() {
        let mut guard = Guard::new(Rates::default());
        for n in 0..100_000_u32 {
            guard.admits(Duration::from_secs(1), IpAddr::from(n.to_be_bytes()));
        }
        assert!(guard.sources.len() <= SOURCES);
    }
}
