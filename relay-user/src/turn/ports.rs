//! The ports of relayed addresses. A port is taken by one allocation at a time, whatever the address: so the XDP program
//! knows by the port alone whose packet may be before it.

use std::{collections::HashSet, ops::RangeInclusive};

use rand::{Rng as _, rngs::StdRng};

/// Which port is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Any.
    Any,
    /// An even one.
    Even,
    /// An even one, and the one above it is to be free as well.
    Pair,
}

/// See the module.
pub struct Ports {
    range: RangeInclusive<u16>,
    taken: HashSet<u16>,
}

impl Ports {
    /// All of these are free.
    pub fn new(range: RangeInclusive<u16>) -> Self {
        Self { range, taken: HashSet::new() }
    }

    /// Takes a port at random (RFC 8656, section 7.2: nobody is to guess it) for which `open` succeeds. At most so many are
    /// tried: if nearly all are taken, by whomever, it may say that there is none.
    pub fn take(
        &mut self,
        rng: &mut StdRng,
        wanted: Wanted,
        mut open: impl FnMut(u16) -> bool,
    ) -> Option<u16> {
        const TRIES: usize = 64;
        for _ in 0..TRIES {
            let port = rng.random_range(self.range.clone());
            let port = if wanted == Wanted::Any { port } else { port & !1 };
            let fits = |port: u16| self.range.contains(&port) && !self.taken.contains(&port);
            if fits(port) && (wanted != Wanted::Pair || fits(port + 1)) && open(port) {
                self.taken.insert(port);
                return Some(port);
            }
        }
        None
    }

    /// Takes this very port.
    pub fn take_this(&mut self, port: u16) -> bool {
        self.range.contains(&port) && self.taken.insert(port)
    }

    /// Gives a port back.
    pub fn give_back(&mut self, port: u16) {
        self.taken.remove(&port);
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;

    #[test]
    fn ports_are_taken_once_and_within_the_range() {
        let mut ports = Ports::new(50_000..=50_007);
        let mut rng = StdRng::seed_from_u64(1);
        let mut taken = HashSet::new();
        let refused = 50_003;
        while let Some(port) = ports.take(&mut rng, Wanted::Any, |port| port != refused) {
            assert!((50_000..=50_007).contains(&port) && taken.insert(port));
        }
        assert_eq!(taken.len(), 7, "all but the one that can't be opened");
        ports.give_back(50_004);
        assert_eq!(ports.take(&mut rng, Wanted::Pair, |_| true), None, "50005 is taken");
        ports.give_back(50_005);
        assert_eq!(ports.take(&mut rng, Wanted::Pair, |_| true), Some(50_004));
        assert!(ports.take_this(50_005) && !ports.take_this(50_005) && !ports.take_this(1));
        ports.give_back(50_001);
        assert_eq!(ports.take(&mut rng, Wanted::Even, |_| true), None);
    }
}
