//! `wgrelay relay`

use std::{
    io::{IsTerminal as _, Write as _},
    net::IpAddr,
};

use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use relay_user::{
    api::shape::{DryRun, NewRelay, Relay, RelayChange, RelayHosts, RelayedHost},
    members::PublicKey,
    model::Name,
};
use reqwest::Method;

use super::{
    Place,
    asking::{Asking, Changing, Making, consequences, joined, properties},
    members::{places, public_key},
    memberships,
    show::{ago, or_dash, table},
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
    /// List the relays.
    #[command(visible_alias = "ls")]
    List,
    /// Show a relay.
    Show {
        /// The relay.
        name: Name,
    },
    /// Make a member a relay, and have hosts relayed by it.
    ///
    /// The relay that is asked knows its own key, addresses and port: for that one its name is enough, and its networks.
    /// A relay can't be relayed itself.
    Create {
        /// The member that becomes a relay. If there is none, it is made.
        name: Name,
        /// A network, if the member has to be made, and its addresses there if it should have certain ones. May be given
        /// several times.
        #[arg(long = "network", value_name = "NETWORK[=ADDRESS,…]")]
        networks: Vec<Place>,
        /// Its public key, if the member has to be made and is not the relay that is asked.
        #[arg(long, value_name = "KEY", value_parser = public_key)]
        public_key: Option<PublicKey>,
        /// A public address. May be given several times, the preferred one first.
        #[arg(long = "address", value_name = "ADDRESS")]
        addresses: Vec<IpAddr>,
        /// Its public port.
        #[arg(long)]
        port: Option<u16>,
        /// Allow private addresses, for a relay that serves one site.
        #[arg(long)]
        private: bool,
        /// A host to relay. May be given several times.
        #[arg(long = "host", value_name = "HOST", conflicts_with = "all_hosts")]
        hosts: Vec<Name>,
        /// Relay all hosts of its networks that have no relay: hub and spoke.
        #[arg(long)]
        all_hosts: bool,
        #[command(flatten)]
        making: Making,
    },
    /// Give a relay other public addresses.
    Change {
        /// The relay.
        name: Name,
        /// A public address, of all that it has from now on, the preferred one first.
        #[arg(long = "address", value_name = "ADDRESS", required = true)]
        addresses: Vec<IpAddr>,
        /// Its public port.
        #[arg(long)]
        port: u16,
        /// Allow private addresses, for a relay that serves one site.
        #[arg(long)]
        private: bool,
        #[command(flatten)]
        changing: Changing,
    },
    /// Make a relay an ordinary member again.
    ///
    /// Shows what that means for its hosts and its enrolment keys, and asks.
    #[command(visible_alias = "rm")]
    Delete {
        /// The relay.
        name: Name,
        /// Have its hosts relayed by this relay from then on. Without it they are not relayed any more.
        #[arg(long, value_name = "RELAY")]
        move_to: Option<Name>,
        /// Don't ask.
        #[arg(long, short)]
        yes: bool,
        #[command(flatten)]
        changing: Changing,
    },
    /// List the hosts that a relay relays, with their state.
    Hosts {
        /// The relay.
        relay: Name,
    },
    /// Have hosts relayed, live.
    AddHost {
        /// The relay.
        relay: Name,
        /// The hosts. Those of other relays come too.
        #[arg(required_unless_present = "all", value_name = "HOST")]
        hosts: Vec<Name>,
        /// All hosts of its networks that have no relay.
        #[arg(long, conflicts_with = "hosts")]
        all: bool,
        /// The relay's address that they shall use, if one in particular.
        #[arg(long)]
        address: Option<IpAddr>,
        #[command(flatten)]
        changing: Changing,
    },
    /// Have hosts relayed no more.
    RemoveHost {
        /// The relay.
        relay: Name,
        /// The hosts.
        #[arg(required_unless_present = "all", value_name = "HOST")]
        hosts: Vec<Name>,
        /// All its hosts.
        #[arg(long, conflicts_with = "hosts")]
        all: bool,
        #[command(flatten)]
        changing: Changing,
    },
}

impl Arguments {
    pub(crate) async fn run(self) -> Result<()> {
        let Self { asking, command } = self;
        match command {
            Command::List => asking.show("/v1/relays", |relays: &Vec<Relay>| list(relays)).await,
            Command::Show { name } => asking.show(&format!("/v1/relays/{name}"), one).await,
            Command::Create {
                name,
                networks,
                public_key,
                addresses,
                port,
                private,
                hosts,
                all_hosts: all,
                making,
            } => {
                let networks = memberships(networks, Vec::new())?;
                let new = NewRelay { name, public_key, networks, addresses, port, private, hosts, all };
                asking.change(Method::POST, "/v1/relays", Some(&new), &making.into(), one).await
            }
            Command::Change { name, addresses, port, private, changing } => {
                let change = RelayChange { addresses, port, private };
                asking.change(Method::PUT, &format!("/v1/relays/{name}"), Some(&change), &changing, one).await
            }
            Command::Delete { name, move_to, yes, changing } => {
                let path = match move_to {
                    Some(other) => format!("/v1/relays/{name}?move_to={other}"),
                    None => format!("/v1/relays/{name}"),
                };
                if !yes && !changing.dry_run {
                    confirm(&asking, &name, &path).await?;
                }
                asking.delete(&path, &changing).await
            }
            Command::Hosts { relay } => {
                let path = format!("/v1/relays/{relay}/hosts");
                asking.show(&path, |hosts: &Vec<RelayedHost>| hosts_table(hosts)).await
            }
            Command::AddHost { relay, hosts, all, address, changing } => {
                let path = format!("/v1/relays/{relay}/hosts");
                let hosts = RelayHosts { hosts, all, address };
                asking.change(Method::POST, &path, Some(&hosts), &changing, one).await
            }
            Command::RemoveHost { relay, hosts, all, changing } => {
                let path = format!("/v1/relays/{relay}/hosts");
                if all {
                    return asking.delete(&path, &changing).await;
                }
                for host in hosts {
                    asking.delete(&format!("{path}/{host}"), &changing).await?;
                }
                Ok(())
            }
        }
    }
}

/// Tells what deleting a relay means, and asks.
async fn confirm(asking: &Asking, name: &Name, path: &str) -> Result<()> {
    let client = asking.client()?;
    let question =
        if path.contains('?') { format!("{path}&dry_run=true") } else { format!("{path}?dry_run=true") };
    let dry: DryRun = client.json(client.request(Method::DELETE, &question)?).await?;
    if dry.consequences.is_empty() {
        return Ok(());
    }
    eprint!("{}", consequences(&dry.consequences));
    if !std::io::stdin().is_terminal() {
        bail!("nothing was done: say --yes, or --move-to RELAY --yes");
    }
    eprint!("Delete the relay {name}? [y/N] ");
    std::io::stderr().flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => bail!("nothing was done"),
    }
}

fn list(relays: &[Relay]) -> String {
    let rows = relays.iter().map(|relay| {
        [
            relay.name.to_string(),
            joined(&relay.networks),
            joined(&relay.addresses),
            relay.port.to_string(),
            relay.hosts.to_string(),
            alive(relay).to_owned(),
        ]
    });
    table(["relay", "networks", "addresses", "port", "hosts", "alive"], rows)
}

fn alive(relay: &Relay) -> &'static str {
    if relay.alive { "yes" } else { "no" }
}

fn one(relay: &Relay) -> String {
    properties([
        ("relay", relay.name.to_string()),
        ("public key", relay.public_key.to_string()),
        ("networks", joined(&relay.networks)),
        ("addresses", joined(&relay.addresses)),
        ("port", relay.port.to_string()),
        ("private", if relay.private { "yes".to_owned() } else { String::new() }),
        ("hosts", relay.hosts.to_string()),
        ("alive", alive(relay).to_owned()),
        ("revision", relay.revision.to_string()),
    ])
}

fn hosts_table(hosts: &[RelayedHost]) -> String {
    let rows = hosts.iter().map(|host| {
        let seen = host.seen.as_ref();
        let traffic = |packets: u64, bytes: u64| format!("{packets} / {bytes}");
        [
            host.name.to_string(),
            places(&host.networks),
            (if host.active { "active" } else { "waits for its first handshake" }).to_owned(),
            or_dash(host.relay_endpoint.map(|endpoint| endpoint.to_string())),
            or_dash(seen.and_then(|seen| seen.endpoint.clone())),
            or_dash(seen.and_then(|seen| seen.last_handshake_seconds_ago).map(ago)),
            or_dash(seen.map(|seen| traffic(seen.sent_packets, seen.sent_bytes))),
            or_dash(seen.map(|seen| traffic(seen.received_packets, seen.received_bytes))),
        ]
    });
    let header = [
        "host",
        "networks",
        "state",
        "uses",
        "endpoint",
        "last handshake",
        "sent packets / bytes",
        "received packets / bytes",
    ];
    table(header, rows)
}
