//! The control source `netmaker`: hosts and networks are those of a Netmaker server, and which hosts are relayed is ours to
//! say.
//!
//! A relay of Netmaker's own decrypts: a node that is marked as relayed on the server loses its peers but the relay, and
//! what is encrypted to a relay can't be forwarded blind. So on the server the mesh stays full, and only endpoints lead to
//! us: as each host sets them itself, or as we set them on the server, if that is wished.
//!
//! - [`Mesh`] makes members of answers, [`step`] decides about endpoints: pure.
//! - [`Server`] is asked, [`Source`] follows. What can't be understood is left out by itself and counted; an answer that fails or
//!   is empty changes nothing.

mod answers;
mod endpoint;
mod mesh;
mod server;
mod source;

use std::{collections::BTreeSet, net::SocketAddr, path::PathBuf};

use reqwest::Url;
use serde::{Deserialize, Deserializer, de::Error as _};

use crate::{client, members::RateLimit};
pub use answers::{Host, Node};
pub use endpoint::{Endpoint, Override, Step, step};
pub use mesh::{LeftOut, Mesh, Reason, Us};
pub use server::{NetmakerError, Server};
pub use source::{Latest, Source, State};

/// `[control.netmaker]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Given")]
pub struct Options {
    /// Where the server's API is.
    pub url: Url,
    /// The networks to serve; all that the credentials show, if none is named.
    pub networks: Vec<String>,
    /// The only authorities to trust for the server's certificate, if not the system's.
    pub ca_file: Option<PathBuf>,
    /// Whom we relay.
    pub relayed: Relayed,
    /// Where relayed hosts are reached by others, if the server is to be told so.
    pub override_endpoint: Vec<SocketAddr>,
    credentials: Credentials,
}

impl Options {
    /// How we prove who we are.
    pub fn credentials(&self) -> &Credentials {
        &self.credentials
    }
}

/// Which hosts we relay: those that are named, have a tag, or are relayed by a certain host on the server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Relayed {
    /// By name or id.
    pub hosts: BTreeSet<String>,
    /// By a tag of a node, as `NAME` or `NETWORK.NAME`.
    pub tags: BTreeSet<String>,
    /// By the server's `relayedby`: name or id of the host that stands for us there.
    pub by: Option<String>,
    /// How much is relayed for each.
    pub rate_limit: RateLimit,
}

/// How we prove to the server who we are. Secrets are read when they are needed, so that they can be changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credentials {
    /// A file with an access token.
    Token(PathBuf),
    /// A file with the master key.
    MasterKey(PathBuf),
    /// A user.
    User {
        /// Its name.
        name: String,
        /// A file with its password.
        password_file: PathBuf,
    },
}

impl Credentials {
    /// What they are, in words for people.
    fn what(&self) -> &'static str {
        match self {
            Self::Token(_) => "token",
            Self::MasterKey(_) => "master key",
            Self::User { .. } => "user and password",
        }
    }
}

/// `[control.netmaker]` as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Given {
    #[serde(deserialize_with = "url")]
    url: Url,
    #[serde(default)]
    networks: Vec<String>,
    token_file: Option<PathBuf>,
    master_key_file: Option<PathBuf>,
    user: Option<String>,
    password_file: Option<PathBuf>,
    ca_file: Option<PathBuf>,
    relayed: Relayed,
    #[serde(default)]
    override_endpoint: Vec<SocketAddr>,
}

impl TryFrom<Given> for Options {
    type Error = &'static str;

    fn try_from(given: Given) -> Result<Self, &'static str> {
        let credentials = match (given.token_file, given.master_key_file, given.user, given.password_file) {
            (Some(file), None, None, None) => Credentials::Token(file),
            (None, Some(file), None, None) => Credentials::MasterKey(file),
            (None, None, Some(name), Some(password_file)) => Credentials::User { name, password_file },
            _ => return Err("give one of token_file, master_key_file, and user with password_file"),
        };
        let Relayed { hosts, tags, by, .. } = &given.relayed;
        if hosts.is_empty() && tags.is_empty() && by.is_none() {
            return Err("nobody would be relayed: give relayed one of hosts, tags and by");
        }
        if given.networks.iter().any(|network| network.is_empty()) {
            return Err("a network without a name: leave out networks for all");
        }
        let ours = &given.override_endpoint;
        let twice = |a: &SocketAddr, b: &SocketAddr| a.is_ipv4() == b.is_ipv4() || a.port() != b.port();
        if ours.len() > 2 || ours.len() == 2 && twice(&ours[0], &ours[1]) {
            return Err("override_endpoint takes one endpoint of each family, with the same port");
        }
        if ours.iter().any(|endpoint| crate::members::unusable(*endpoint).is_some()) {
            return Err(
                "override_endpoint can't be reached by other hosts: give the relay's public address and port",
            );
        }
        Ok(Self {
            url: given.url,
            networks: given.networks,
            ca_file: given.ca_file,
            relayed: given.relayed,
            override_endpoint: given.override_endpoint,
            credentials,
        })
    }
}

fn url<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Url, D::Error> {
    client::base(&String::deserialize(deserializer)?).map_err(D::Error::custom)
}

#[cfg(test)]
mod tests;
