//! `wgrelay turn-user`

use std::{
    fs::File,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
};

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
        key(name.as_str(), &self.realm, &self.password_file)
    }
}

/// The key of a user whose password is the first line of a file, or of the standard input if that is `-`.
pub(crate) fn key(name: &str, realm: &str, file: &Path) -> Result<Key> {
    let first = if file.as_os_str() == "-" {
        std::io::stdin().lines().next()
    } else {
        let opened = File::open(file).with_context(|| format!("read {}", file.display()))?;
        BufReader::new(opened).lines().next()
    };
    let password = first.transpose().with_context(|| format!("read {}", file.display()))?.unwrap_or_default();
    ensure!(!password.is_empty(), "{}: an empty password", file.display());
    Ok(Key::of(name, realm, &password))
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
