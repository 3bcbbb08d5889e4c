//! The control source `store`: this relay's part of the control plane's records, followed live.

use std::{sync::Arc, time::Duration};

use anyhow::Result;
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::{
    api::Engine,
    clock,
    engine::{Change, Request, SourceState},
    handshake::Timestamp,
    members::{Desired, MembersError, Policy, PublicKey},
    model::{Command, Name, Part, Records, TurnUser},
    store::{Store, Writer},
};

/// How long after this relay has died the others take it for dead.
const LEASE: Duration = Duration::from_secs(3);

/// The store, and what was last taken over from it.
pub struct Followed {
    writer: Writer,
    store: Arc<dyn Store>,
    part: Part,
    /// What the store is called.
    title: String,
    loaded: Timestamp,
    /// The part could not follow.
    failed: Option<MembersError>,
    alive: Option<Alive>,
    /// Who may use the TURN server.
    turn_users: watch::Sender<Records<TurnUser>>,
}

/// The announcement that this relay is alive, under a name. It ends with this value.
struct Alive {
    name: Name,
    stop: CancellationToken,
    announcing: JoinHandle<()>,
}

impl Followed {
    /// The part of the relay with this key, as the store is now.
    pub fn new(
        writer: Writer,
        store: Arc<dyn Store>,
        title: String,
        relay_key: PublicKey,
        policy: Policy,
    ) -> Result<Self, MembersError> {
        let state = writer.state();
        let part = Part::new(relay_key, policy, &state)?;
        let turn_users = watch::Sender::new(state.turn_users().clone());
        Ok(Self { writer, store, part, title, loaded: clock::now(), failed: None, alive: None, turn_users })
    }

    /// Who may use the TURN server, now and from now on.
    pub fn turn_users(&self) -> watch::Receiver<Records<TurnUser>> {
        self.turn_users.subscribe()
    }

    /// What is wanted.
    pub fn desired(&self) -> &Desired {
        self.part.desired()
    }

    /// What is known of the source.
    pub fn state(&self) -> SourceState {
        let trouble = self.writer.trouble().borrow().as_ref().map(ToString::to_string);
        let failed = self.failed.as_ref().map(ToString::to_string);
        let unknown = || {
            let missing = "no relay in it has this relay's public key: `wgrelay relay create NAME --network NETWORK` makes one";
            self.part.name().is_none().then(|| missing.to_owned())
        };
        SourceState {
            name: self.title.clone(),
            loaded: self.loaded,
            error: trouble.or(failed).or_else(unknown),
            remarks: Vec::new(),
        }
    }

    /// Follows the store until `stop`. Peers that have proven their keys come by `proofs`.
    pub async fn follow(
        mut self,
        engine: Engine,
        mut proofs: mpsc::Receiver<Vec<PublicKey>>,
        stop: CancellationToken,
    ) -> Result<()> {
        let (mut states, mut trouble) = (self.writer.states(), self.writer.trouble());
        // Something may have changed since the part was taken.
        states.mark_changed();
        loop {
            self.announce();
            tokio::select! {
                () = stop.cancelled() => break,
                Ok(()) = states.changed() => {
                    states.mark_unchanged();
                    self.take_over();
                    engine.tell(Request::Change(self.change())).await;
                }
                Ok(()) = trouble.changed() => engine.tell(Request::Change(self.change())).await,
                Some(keys) = proofs.recv() => self.activate(keys),
            }
        }
        if let Some(alive) = self.alive.take() {
            alive.end().await;
        }
        Ok(())
    }

    fn take_over(&mut self) {
        let state = self.writer.state();
        self.turn_users.send_if_modified(|known| {
            let others = !known.ptr_eq(state.turn_users());
            known.clone_from(state.turn_users());
            others
        });
        match self.part.follow(&state) {
            Ok(()) => {
                self.failed = None;
                self.loaded = clock::now();
            }
            Err(fault) => {
                error!("the store's records can't be taken over: {fault}; the running state stays as it is");
                self.failed = Some(fault);
            }
        }
    }

    fn change(&self) -> Change {
        Change { desired: self.part.desired().clone(), source: self.state() }
    }

    /// Peers of the relay's interface have completed a handshake: what enrolled with their keys may be relayed.
    fn activate(&self, mut keys: Vec<PublicKey>) {
        let state = self.writer.state();
        keys.retain(|&key| state.by_public_key(key).is_some_and(|member| !member.active));
        if keys.is_empty() {
            return;
        }
        // Not awaited here, since it has to come back as a change. If it fails, the keys are told again.
        let writer = self.writer.clone();
        tokio::spawn(async move {
            match writer.write(Command::Activate(keys)).await {
                Ok(_) => {}
                Err(error) => warn!("new hosts can't be relayed yet: {error}"),
            }
        });
    }

    /// Announces that this relay is alive, under the name that it has in the store.
    fn announce(&mut self) {
        let name = self.part.name();
        if self.alive.as_ref().map(|alive| &alive.name) == name {
            return;
        }
        let stop = CancellationToken::new();
        // What is dropped ends by itself.
        self.alive = name.cloned().map(|name| {
            info!(relay = %name, store = self.title, "this relay is known to the store");
            let announcing = tokio::spawn(self.store.announce(name.to_string(), LEASE, stop.clone()));
            Alive { name, stop, announcing }
        });
    }
}

impl Alive {
    /// Takes the announcement back, and waits a moment for the store to know it.
    async fn end(mut self) {
        self.stop.cancel();
        let _ = tokio::time::timeout(Duration::from_secs(1), &mut self.announcing).await;
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
