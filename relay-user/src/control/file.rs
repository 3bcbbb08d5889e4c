//! The configuration file, followed live. The members may stand in it.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result};
use notify::{RecursiveMode, Watcher as _};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::{
    admission::Admission,
    api::Engine,
    clock,
    config::{Config, ConfigError},
    engine::{Change, Configured, Request, SourceState},
    members::{Desired, PublicKey},
    service,
    turn::server::Settings,
};

/// An editor writes a file in several steps; it is read this long after something has happened.
const SETTLED: Duration = Duration::from_millis(100);

/// The file and what was last taken over from it.
pub(super) struct File {
    path: PathBuf,
    config: Config,
    admission: Admission,
    keep: Option<bool>,
    /// What is wanted, if the file says who the members are.
    desired: Option<Desired>,
    relay_key: PublicKey,
    /// Whether the newest content could not be taken over.
    failed: bool,
    /// What was last said to need a restart.
    needs_restart: Vec<&'static str>,
    /// What the TURN server is to go by.
    turn: watch::Sender<Option<Settings>>,
}

/// What a configuration wants, for a relay with this key.
pub(super) fn desired(path: &Path, config: &Config, relay_key: PublicKey) -> Result<Desired, ConfigError> {
    let fault = |(_, reason)| ConfigError { path: path.to_owned(), line: None, reason };
    config.members(relay_key).map(Desired::of).map_err(fault)
}

/// What the TURN server is to go by; `None` if it is switched off.
fn turn_settings(config: &Config) -> Result<Option<Settings>> {
    let turn = config.turn.as_ref().filter(|turn| turn.enabled);
    turn.map(|turn| turn.settings(&config.relay.addresses)).transpose()
}

impl File {
    /// The file that `config` was read from; `desired` if it says who the members are.
    pub fn new(path: PathBuf, config: Config, desired: Option<Desired>, relay_key: PublicKey) -> Self {
        let (admission, keep) = (config.admission(), config.relay.keep);
        let turn = watch::Sender::new(None);
        let (failed, needs_restart) = (false, Vec::new());
        Self { path, config, admission, keep, desired, relay_key, failed, needs_restart, turn }
    }

    /// What the TURN server is to go by: the configuration as it is, and as it changes.
    pub fn turn(&self) -> Result<watch::Receiver<Option<Settings>>> {
        self.turn.send_replace(turn_settings(&self.config)?);
        Ok(self.turn.subscribe())
    }

    /// What is known of the file as a source of members right after start.
    pub fn state(&self) -> SourceState {
        SourceState {
            name: self.path.display().to_string(),
            loaded: clock::now(),
            error: None,
            remarks: Vec::new(),
        }
    }

    /// Follows the file, and SIGHUP, until `stop`.
    pub async fn follow(mut self, engine: Engine, stop: CancellationToken) -> Result<()> {
        let (changed, mut changes) = mpsc::channel(1);
        // The directory is watched, since editors and configuration management replace the file.
        let dir = match self.path.parent() {
            Some(dir) if !dir.as_os_str().is_empty() => dir.to_owned(),
            _ => PathBuf::from("."),
        };
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // One waiting notice stands for any number of events. Our own reading is an access.
            if !event.is_ok_and(|event| event.kind.is_access()) {
                let _ = changed.try_send(());
            }
        })
        .context("watch the configuration file")?;
        watcher
            .watch(&dir, RecursiveMode::NonRecursive)
            .with_context(|| format!("watch {}", dir.display()))?;
        let mut hangup = signal(SignalKind::hangup()).context("listen for SIGHUP")?;
        // It may have changed between the first reading and the watch.
        let mut text = String::new();
        self.reload(&mut text, &engine).await;
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                _ = hangup.recv() => {
                    service::reloading();
                    self.reload(&mut text, &engine).await;
                    service::ready();
                    continue;
                }
                Some(()) = changes.recv() => {
                    // Not until nothing happens any more: where others keep writing that is never.
                    tokio::time::sleep(SETTLED).await;
                    let _ = changes.try_recv();
                }
            }
            self.reload(&mut text, &engine).await;
        }
    }

    /// Reads the file; `seen` is the text that was last looked at.
    async fn reload(&mut self, seen: &mut String, engine: &Engine) {
        let text = tokio::fs::read_to_string(&self.path).await;
        if let Ok(text) = &text
            && text == seen
        {
            return;
        }
        let read = Config::read(&self.path)
            .and_then(|config| desired(&self.path, &config, self.relay_key).map(|desired| (config, desired)));
        *seen = text.unwrap_or_default();
        match read {
            Ok((config, desired)) => self.take_over(&config, desired, engine).await,
            Err(fault) => {
                error!("{fault}; the running state stays as it is");
                self.failed = true;
                engine.tell(Request::NotConfigured(fault.to_string())).await;
            }
        }
    }

    async fn take_over(&mut self, config: &Config, desired: Desired, engine: &Engine) {
        let needs_restart = self.config.needs_restart(config);
        match turn_settings(config) {
            Ok(settings) => {
                _ = self.turn.send_if_modified(|turn| {
                    let other = *turn != settings;
                    *turn = settings;
                    other
                })
            }
            Err(fault) => error!("[turn]: {fault:#}; the TURN server goes on as it is"),
        }
        let (admission, keep) = (config.admission(), config.relay.keep);
        let desired = self.desired.as_ref().map(|_| desired);
        let same = desired == self.desired && admission == self.admission && keep == self.keep;
        if same && needs_restart == self.needs_restart && !self.failed {
            return;
        }
        if !needs_restart.is_empty() {
            warn!(
                settings = needs_restart.join(", "),
                "changed in the file, but only a restart applies them"
            );
        }
        let members = desired.as_ref().map(|desired| desired.members.iter().len());
        info!(file = %self.path.display(), members, "configuration taken over");
        self.failed = false;
        self.admission.clone_from(&admission);
        self.keep = keep;
        self.needs_restart.clone_from(&needs_restart);
        engine.tell(Request::Configured(Configured { admission, keep, needs_restart })).await;
        if let Some(desired) = desired {
            self.desired = Some(desired.clone());
            engine.tell(Request::Change(Change { desired, source: self.state() })).await;
        }
    }
}
