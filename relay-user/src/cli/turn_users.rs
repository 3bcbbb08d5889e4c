//! `wgrelay turn-user`

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use clap::{Args, Subcommand};
use relay_user::{
    api::shape::{NewTurnUser, TurnUser, TurnUserChange},
    model::Name,
    turn::credentials::{Key, Realm},
};
use reqwest::Method;

use super::{
    asking::{Asking, Changing, Making, properties},
    show::table,
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
    /// List the users.
    #[command(visible_alias = "ls")]
    List,
    /// Show a user, without its key.
    Show {
        /// The user.
        name: Name,
    },
    /// Make a user. It may use the TURN server of every relay that has its realm.
    Create {
        /// Its name.
        name: Name,
        #[command(flatten)]
        login: Login,
        #[command(flatten)]
        making: Making,
    },
    /// Give a user another password. Its allocations end.
    Change {
        /// The user.
        name: Name,
        #[command(flatten)]
        login: Login,
        #[command(flatten)]
        changing: Changing,
    },
    /// Delete a user. Its allocations end.
    #[command(visible_alias = "rm")]
    Delete {
        /// The user.
        name: Name,
        #[command(flatten)]
        changing: Changing,
    },
}

#[derive(Args)]
struct Login {
    /// The realm, as the relays have it in [turn].
    #[arg(long)]
    realm: Realm,
    /// A file with the password, or - for the standard input; its first line counts. The password is not kept anywhere,
    /// and does not leave this host: what is sent is the key that is made of it.
    #[arg(long, value_name = "FILE")]
    password_file: PathBuf,
}

impl Login {
    fn key(&self, name: &Name) -> Result<Key> {
        let text = if self.password_file.as_os_str() == "-" {
            std::io::read_to_string(std::io::stdin()).context("read the standard input")?
        } else {
            std::fs::read_to_string(&self.password_file)
                .with_context(|| format!("read {}", self.password_file.display()))?
        };
        let password = text.lines().next().unwrap_or_default();
        ensure!(!password.is_empty(), "{}: an empty password", self.password_file.display());
        Ok(Key::of(name.as_str(), &self.realm, password))
    }
}

impl Arguments {
    pub(crate) async fn run(self) -> Result<()> {
        let Self { asking, command } = self;
        match command {
            Command::List => asking.show("/v1/turn-users", |users: &Vec<TurnUser>| list(users)).await,
            Command::Show { name } => asking.show(&format!("/v1/turn-users/{name}"), one).await,
            Command::Create { name, login, making } => {
                let key = login.key(&name)?;
                let new = NewTurnUser { name, realm: login.realm, key };
                asking.change(Method::POST, "/v1/turn-users", Some(&new), &making.into(), one).await
            }
            Command::Change { name, login, changing } => {
                let change = TurnUserChange { key: login.key(&name)?, realm: login.realm };
                asking
                    .change(Method::PUT, &format!("/v1/turn-users/{name}"), Some(&change), &changing, one)
                    .await
            }
            Command::Delete { name, changing } => {
                asking.delete(&format!("/v1/turn-users/{name}"), &changing).await
            }
        }
    }
}

fn list(users: &[TurnUser]) -> String {
    table(["user", "realm"], users.iter().map(|user| [user.name.to_string(), user.realm.to_string()]))
}

fn one(user: &TurnUser) -> String {
    properties([
        ("user", user.name.to_string()),
        ("realm", user.realm.to_string()),
        ("revision", user.revision.to_string()),
    ])
}
