//! The control source `netmaker`: the hosts of a Netmaker server, followed live.

use anyhow::{Context as _, Result};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    api::Engine,
    clock,
    config::Config,
    engine::{Change, Request, SourceState},
    members::{Desired, Members, PublicKey},
    netmaker::{self, Latest, Us},
};

/// What outlives a restart, in the state directory.
const FILE: &str = "netmaker.json";

/// The server, and what was last heard of it.
pub struct Netmaker {
    source: netmaker::Source,
    latest: watch::Receiver<Latest>,
}

impl Netmaker {
    /// The server that the configuration names. What it said last, in an earlier run, is what is wanted.
    pub fn open(config: &Config, relay_key: PublicKey) -> Result<Self> {
        let options = config.control.netmaker.clone().context("there is no [control.netmaker]")?;
        let us = Us::of(config, relay_key).map_err(anyhow::Error::msg)?;
        let (source, latest) =
            netmaker::Source::open(options, us, config.control.store.state_dir.join(FILE))?;
        Ok(Self { source, latest })
    }

    /// What is wanted.
    pub fn desired(&self) -> Desired {
        desired(&self.latest)
    }

    /// What is known of the server.
    pub fn state(&self) -> SourceState {
        state(&self.latest)
    }

    /// Follows the server until `stop`.
    pub async fn follow(mut self, engine: Engine, stop: CancellationToken) -> Result<()> {
        let following = self.source.follow(stop);
        let telling = async {
            while self.latest.changed().await.is_ok() {
                self.latest.mark_unchanged();
                let change = Change { desired: desired(&self.latest), source: state(&self.latest) };
                engine.tell(Request::Change(change)).await;
            }
        };
        // It drops its end when it ends.
        tokio::join!(following, telling);
        Ok(())
    }
}

fn desired(latest: &watch::Receiver<Latest>) -> Desired {
    Desired::of(Members::clone(&latest.borrow().members))
}

fn state(latest: &watch::Receiver<Latest>) -> SourceState {
    let state = &latest.borrow().state;
    let left_out = state.left_out.iter().map(|left_out| format!("{}: {}", left_out.what, left_out.reason));
    let remarks = state.remarks.iter().map(|(host, remark)| format!("host {host}: {remark}"));
    SourceState {
        name: format!("Netmaker at {}", state.server),
        loaded: clock::now(),
        error: state.error.clone(),
        remarks: left_out.chain(remarks).collect(),
    }
}
