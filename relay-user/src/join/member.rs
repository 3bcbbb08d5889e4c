//! What a host keeps of itself.

use std::{
    collections::BTreeMap,
    fs::{self, File, TryLockError},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, anyhow, bail};
use serde::{Deserialize, Serialize};
use wireguard_control::Key;

use super::{Join, ViaRelay, Wanted};
use crate::{
    api::shape::Configuration,
    client::{Client, ClientError, Place},
    members::PublicKey,
    model::{Credential, Name, Secret},
    state_file,
    wireguard::{generate_key, read_key},
};

/// A member of networks, as its own host knows it. Nobody else uses its directory as long as this is there.
pub struct Member {
    dir: PathBuf,
    _lock: File,
    key: Key,
    kept: Kept,
}

/// What is in its file.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Kept {
    apis: Vec<String>,
    ca_file: Option<PathBuf>,
    via_relay: ViaRelay,
    /// What it is called, once it is known to the control plane.
    name: Option<Name>,
    /// Its owner's secret, drawn before anybody is told of it.
    owner: Option<String>,
    /// What the interface was last made to be.
    applied: Option<Configuration>,
}

const KEY: &str = "private.key";
const STATE: &str = "member.json";

impl Member {
    /// Opens what there is of an earlier time, or begins: then a key is made.
    pub fn open(state_dir: &Path, interface: &str) -> Result<Self> {
        if interface.is_empty() || interface.contains('/') || interface.starts_with('.') {
            bail!("{interface:?} is no name of an interface");
        }
        let dir = state_dir.join(interface);
        fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o700))
            .with_context(|| format!("set the permissions of {}", dir.display()))?;
        let lock = File::open(&dir).with_context(|| format!("open {}", dir.display()))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                bail!("another wgrelay follows the configuration of {interface}: stop that one first")
            }
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("lock {}", dir.display()));
            }
        }
        let kept = state_file::read(&dir.join(STATE))?.unwrap_or_default();
        let file = dir.join(KEY);
        let key = if file.exists() { read_key(&file)? } else { generate_key(&file)? };
        Ok(Self { dir, _lock: lock, key, kept })
    }

    /// Takes over where the control plane is and which way traffic takes, as far as that is said anew.
    pub(super) fn take_over(&mut self, options: &Join) -> Result<()> {
        if !options.api.is_empty() {
            self.kept.apis.clone_from(&options.api);
            self.kept.ca_file = match &options.ca_file {
                Some(file) => Some(std::path::absolute(file).context("find the file of certificates")?),
                None => None,
            };
        }
        if let Some(via_relay) = options.via_relay {
            self.kept.via_relay = via_relay;
        }
        // What can't be asked is said now.
        self.clients()?;
        self.keep()
    }

    pub(super) fn is_enrolled(&self) -> bool {
        self.kept.name.is_some()
    }

    pub(super) fn name(&self) -> Option<&Name> {
        self.kept.name.as_ref()
    }

    pub(super) fn via_relay(&self) -> ViaRelay {
        self.kept.via_relay
    }

    pub(super) fn private_key(&self) -> Key {
        self.key.clone()
    }

    pub(super) fn public_key(&self) -> PublicKey {
        PublicKey(self.key.get_public().0)
    }

    /// The owner's secret, to be shown under a name. It is on disk before anybody else has it.
    pub(super) fn proof(&mut self, name: &Name) -> Result<String> {
        let secret = match &self.kept.owner {
            Some(secret) => secret.clone(),
            None => {
                let mut bytes = [0; 32];
                rand::TryRngCore::try_fill_bytes(&mut rand::rngs::OsRng, &mut bytes)
                    .context("draw random bytes")?;
                self.kept.owner.insert(Secret(bytes).reveal()).clone()
            }
        };
        self.keep()?;
        let secret =
            secret.parse().map_err(|()| anyhow!("{} holds no secret", self.dir.join(STATE).display()))?;
        Ok(Credential { id: name.clone(), secret }.reveal())
    }

    /// The control plane knows it.
    pub(super) fn enrolled(&mut self, name: Name) -> Result<()> {
        self.kept.name = Some(name);
        self.keep()
    }

    /// Ways to ask the control plane, as the owner if that is possible already.
    pub(super) fn clients(&self) -> Result<Vec<Client>, ClientError> {
        let owner = self.kept.name.as_ref().zip(self.kept.owner.as_ref());
        let token = owner.map(|(name, secret)| format!("{name}.{secret}"));
        let client = |url: &String| {
            let (url, token, ca_file) = (url.clone(), token.clone(), self.kept.ca_file.clone());
            Client::new(Place::Url { url, token, ca_file })
        };
        self.kept.apis.iter().map(client).collect()
    }

    /// What the interface was last made to be.
    pub(super) fn configuration(&self) -> Option<Configuration> {
        self.kept.applied.clone()
    }

    /// The peers that it was last made to have.
    pub(super) fn applied(&self) -> BTreeMap<PublicKey, Wanted> {
        let peers = self.kept.applied.iter().flat_map(|applied| &applied.peers);
        peers.map(|peer| (peer.public_key, Wanted::from(peer))).collect()
    }

    /// The interface is this now.
    pub(super) fn set_applied(&mut self, applied: &Configuration) -> Result<()> {
        if self.kept.applied.as_ref() == Some(applied) {
            return Ok(());
        }
        self.kept.applied = Some(applied.clone());
        self.keep()
    }

    /// Deletes the membership at the control plane.
    pub(super) async fn delete(&self) -> Result<()> {
        let Some(name) = &self.kept.name else { return Ok(()) };
        let mut last = anyhow!("there is no API to ask");
        for client in self.clients()? {
            match client.delete(&format!("/v1/members/{name}")).await {
                Ok(()) => return Ok(()),
                // Its credential goes with it.
                Err(error) if matches!(error.code(), Some("not_found" | "wrong_token")) => return Ok(()),
                Err(error) => last = error.into(),
            }
        }
        Err(last)
    }

    /// Removes the directory.
    pub(super) fn forget(self) -> Result<()> {
        for file in [STATE, KEY] {
            match fs::remove_file(self.dir.join(file)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("remove {file} in {}", self.dir.display()));
                }
                _ => {}
            }
        }
        fs::remove_dir(&self.dir).with_context(|| format!("remove {}", self.dir.display()))
    }

    fn keep(&self) -> Result<()> {
        state_file::write(&self.dir.join(STATE), &self.kept)
    }
}
