//! `wgrelay token`

use anyhow::Result;
use clap::{Args, Subcommand, ValueEnum};
use relay_user::{
    api::shape::{NewToken, Token, TokenWithSecret},
    model::{self, Name},
};
use reqwest::Method;

use super::{
    asking::{Asking, Changing, Making, expiry, properties, valid_seconds},
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
    /// List the tokens.
    #[command(visible_alias = "ls")]
    List,
    /// Show a token, without its secret.
    Show {
        /// The token's id.
        id: Name,
    },
    /// Make a token for the API, and show its secret once.
    Create {
        /// What it allows.
        #[arg(long)]
        role: Role,
        /// For how long it is good, as 12h or 30d. For ever if it is not given.
        #[arg(long, value_name = "TIME", value_parser = valid_seconds)]
        valid: Option<u32>,
        /// Its id. One is drawn if it is not given.
        #[arg(long)]
        id: Option<Name>,
        #[command(flatten)]
        making: Making,
    },
    /// Delete a token. It is of no use from then on.
    #[command(visible_alias = "rm")]
    Delete {
        /// The token's id.
        id: Name,
        #[command(flatten)]
        changing: Changing,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum Role {
    /// Everything.
    Admin,
    /// See everything but secrets.
    Read,
    /// Make enrolment keys.
    Enrol,
}

impl Arguments {
    pub(crate) async fn run(self) -> Result<()> {
        let Self { asking, command } = self;
        match command {
            Command::List => asking.show("/v1/tokens", |tokens: &Vec<Token>| list(tokens)).await,
            Command::Show { id } => asking.show(&format!("/v1/tokens/{id}"), one).await,
            Command::Create { role, valid, id, making } => {
                let role = match role {
                    Role::Admin => model::Role::Admin,
                    Role::Read => model::Role::Read,
                    Role::Enrol => model::Role::Enrol,
                };
                let new = NewToken { id, role, valid_seconds: valid };
                asking.change(Method::POST, "/v1/tokens", Some(&new), &making.into(), with_secret).await
            }
            Command::Delete { id, changing } => asking.delete(&format!("/v1/tokens/{id}"), &changing).await,
        }
    }
}

fn list(tokens: &[Token]) -> String {
    let rows = tokens.iter().map(|t| [t.id.to_string(), t.role.to_string(), expiry(t.expires)]);
    table(["token", "role", "expires"], rows)
}

fn one(token: &Token) -> String {
    properties([
        ("token", token.id.to_string()),
        ("role", token.role.to_string()),
        ("expires", expiry(token.expires)),
        ("revision", token.revision.to_string()),
    ])
}

fn with_secret(TokenWithSecret { token, secret }: &TokenWithSecret) -> String {
    let note = "            (for --token-file or WGRELAY_TOKEN: it is not shown again)\n";
    format!("{}{}{note}", one(token), properties([("secret", secret.clone())]))
}
