//! `wgrelay network`

use anyhow::Result;
use clap::{Args, Subcommand};
use ipnet::{Ipv4Net, Ipv6Net};
use relay_user::{
    api::shape::{Network, NetworkChange, NewNetwork},
    model::Name,
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
    /// List the networks.
    #[command(visible_alias = "ls")]
    List,
    /// Show a network.
    Show {
        /// The network.
        name: Name,
    },
    /// Make a network, whose members get addresses from its prefixes.
    Create {
        /// Its name.
        name: Name,
        #[command(flatten)]
        prefixes: Prefixes,
        #[command(flatten)]
        making: Making,
    },
    /// Give a network other prefixes. One can only grow while it is in use; what is not named goes.
    Change {
        /// The network.
        name: Name,
        #[command(flatten)]
        prefixes: Prefixes,
        #[command(flatten)]
        changing: Changing,
    },
    /// Delete an empty network, and the enrolment keys for it.
    #[command(visible_alias = "rm")]
    Delete {
        /// The network.
        name: Name,
        #[command(flatten)]
        changing: Changing,
    },
}

#[derive(Args)]
#[group(required = true, multiple = true)]
struct Prefixes {
    /// Its IPv4 prefix, as 10.10.0.0/16.
    #[arg(long, value_name = "PREFIX")]
    ipv4: Option<Ipv4Net>,
    /// Its IPv6 prefix, as fd00:10::/64.
    #[arg(long, value_name = "PREFIX")]
    ipv6: Option<Ipv6Net>,
}

impl Arguments {
    pub(crate) async fn run(self) -> Result<()> {
        let Self { asking, command } = self;
        match command {
            Command::List => asking.show("/v1/networks", |networks: &Vec<Network>| list(networks)).await,
            Command::Show { name } => asking.show(&format!("/v1/networks/{name}"), one).await,
            Command::Create { name, prefixes: Prefixes { ipv4, ipv6 }, making } => {
                let new = NewNetwork { name, ipv4, ipv6 };
                asking.change(Method::POST, "/v1/networks", Some(&new), &making.into(), one).await
            }
            Command::Change { name, prefixes: Prefixes { ipv4, ipv6 }, changing } => {
                let path = format!("/v1/networks/{name}");
                asking.change(Method::PUT, &path, Some(&NetworkChange { ipv4, ipv6 }), &changing, one).await
            }
            Command::Delete { name, changing } => {
                asking.delete(&format!("/v1/networks/{name}"), &changing).await
            }
        }
    }
}

fn prefix(prefix: Option<impl ToString>) -> String {
    prefix.map_or_else(|| "-".to_owned(), |prefix| prefix.to_string())
}

fn list(networks: &[Network]) -> String {
    let rows =
        networks.iter().map(|n| [n.name.to_string(), prefix(n.ipv4), prefix(n.ipv6), n.members.to_string()]);
    table(["network", "ipv4", "ipv6", "members"], rows)
}

fn one(network: &Network) -> String {
    properties([
        ("network", network.name.to_string()),
        ("ipv4", prefix(network.ipv4)),
        ("ipv6", prefix(network.ipv6)),
        ("members", network.members.to_string()),
        ("revision", network.revision.to_string()),
    ])
}
