//! `wgrelay doctor`: what of this host would keep a relay from working, or from working well, and what to do about it.
//!
//! [`gather`](gather::gather) looks at the host and changes nothing; the checks are pure, and say of each [fact](Facts)
//! whether it is good. So every finding is tested without a host that has the fault.

mod devices;
pub mod facts;
pub mod firewall;
pub mod gather;
mod host;
mod relay;
#[cfg(test)]
mod tests;
mod xdp_features;

use serde::Serialize;

pub use facts::Facts;

/// How good it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// It works, but not as well as it could, or not for all.
    Warning,
    /// It does not work.
    Error,
}

impl Level {
    /// In a word.
    pub fn label(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at, in a word; for a network interface `interface NAME`.
    pub check: String,
    /// How good it is.
    pub level: Level,
    /// What was found.
    pub what: String,
    /// What to do about it, if it is not good.
    pub remedy: Option<String>,
}

/// What was found, in the order in which it was looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Findings(Vec<Finding>);

impl Findings {
    /// Something is as it should be.
    pub fn ok(&mut self, check: impl Into<String>, what: impl Into<String>) {
        self.0.push(Finding { check: check.into(), level: Level::Ok, what: what.into(), remedy: None });
    }

    /// Something is not, and this is what to do about it.
    pub fn add(
        &mut self,
        check: impl Into<String>,
        level: Level,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        let remedy = Some(remedy.into());
        self.0.push(Finding { check: check.into(), level, what: what.into(), remedy });
    }

    /// The worst of them.
    pub fn worst(&self) -> Level {
        self.0.iter().map(|finding| finding.level).max().unwrap_or(Level::Ok)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// One by one.
    pub fn iter(&self) -> impl Iterator<Item = &Finding> {
        self.0.iter()
    }
}

impl IntoIterator for Findings {
    type Item = Finding;
    type IntoIter = std::vec::IntoIter<Finding>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

/// Judges a host.
pub fn examine(facts: &Facts) -> Findings {
    let mut findings = Findings::default();
    host::check(facts, &mut findings);
    devices::check(facts, &mut findings);
    relay::check(facts, &mut findings);
    if let Some(config) = facts.config() {
        let place = firewall::Place {
            port: config.relay.port,
            addresses: config.relay.addresses.clone(),
            interfaces: config.relay.attach.clone(),
            legacy: facts.legacy_iptables,
        };
        firewall::check(&facts.ruleset, &place, &mut findings);
    }
    findings
}
