//! `wgrelay key`

use anyhow::Result;
use clap::{Args, Subcommand};
use relay_user::{
    api::shape::{EnrolmentKey, KeyWithSecret, NewEnrolmentKey},
    model::Name,
};
use reqwest::Method;

use super::{
    asking::{Asking, Changing, Making, expiry, joined, properties, valid_seconds},
    show::{or_dash, table},
};

#[derive(Args)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub(crate) struct Arguments {
    #[command(flatten)]
    asking: Asking,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// List the enrolment keys.
    #[command(visible_alias = "ls")]
    List,
    /// Show an enrolment key, without its secret.
    Show {
        /// The key's id.
        id: Name,
    },
    /// Make an enrolment key, and show its secret once.
    Create {
        /// The network that hosts join with it.
        #[arg(long)]
        network: Name,
        /// The relay that relays them from then on (auto-relay).
        #[arg(long)]
        relay: Option<Name>,
        /// A tag that they get. May be given several times.
        #[arg(long = "tag", value_name = "TAG")]
        tags: Vec<Name>,
        /// How many may join. Any number if it is not given.
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
        uses: Option<u32>,
        /// For how long it is good, as 12h or 30d. For ever if it is not given.
        #[arg(long, value_name = "TIME", value_parser = valid_seconds)]
        valid: Option<u32>,
        /// Its id. One is drawn if it is not given.
        #[arg(long)]
        id: Option<Name>,
        #[command(flatten)]
        making: Making,
    },
    /// Delete an enrolment key. Who has joined with it stays.
    #[command(visible_alias = "rm")]
    Delete {
        /// The key's id.
        id: Name,
        #[command(flatten)]
        changing: Changing,
    },
}

impl Arguments {
    pub(crate) async fn run(self) -> Result<()> {
        let Self { asking, command } = self;
        match command {
            Command::List => asking.show("/v1/keys", |keys: &Vec<EnrolmentKey>| list(keys)).await,
            Command::Show { id } => asking.show(&format!("/v1/keys/{id}"), one).await,
            Command::Create { network, relay, tags, uses, valid, id, making } => {
                let new = NewEnrolmentKey { id, network, relay, tags, uses, valid_seconds: valid };
                asking.change(Method::POST, "/v1/keys", Some(&new), &making.into(), with_secret).await
            }
            Command::Delete { id, changing } => asking.delete(&format!("/v1/keys/{id}"), &changing).await,
        }
    }
}

fn relay(key: &EnrolmentKey) -> Option<String> {
    key.relay.as_ref().map(ToString::to_string)
}

fn uses(key: &EnrolmentKey) -> String {
    key.uses_left.map_or_else(|| "unlimited".to_owned(), |uses| uses.to_string())
}

fn list(keys: &[EnrolmentKey]) -> String {
    let rows = keys.iter().map(|key| {
        [
            key.id.to_string(),
            key.network.to_string(),
            or_dash(relay(key)),
            joined(&key.tags),
            uses(key),
            expiry(key.expires),
        ]
    });
    table(["key", "network", "relay", "tags", "uses left", "expires"], rows)
}

fn one(key: &EnrolmentKey) -> String {
    properties([
        ("key", key.id.to_string()),
        ("network", key.network.to_string()),
        ("relay", relay(key).unwrap_or_default()),
        ("tags", joined(&key.tags)),
        ("uses left", uses(key)),
        ("expires", expiry(key.expires)),
        ("revision", key.revision.to_string()),
    ])
}

fn with_secret(KeyWithSecret { key, secret }: &KeyWithSecret) -> String {
    let note = "            (what hosts join with: it is not shown again)\n";
    format!("{}{}{note}", one(key), properties([("secret", secret.clone())]))
}
