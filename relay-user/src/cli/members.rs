//! `wgrelay member`

use std::net::SocketAddr;

use anyhow::Result;
use clap::{Args, Subcommand};
use relay_user::{
    api::shape::{Member, MemberChange, MemberWithOwner, Membership, NewMember},
    members::{PublicKey, RateLimit},
    model::Name,
};
use reqwest::Method;

use super::{
    Place, Route,
    asking::{Asking, Changing, Making, joined, properties},
    memberships,
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
    /// List the members.
    #[command(visible_alias = "ls")]
    List {
        /// Those of this network.
        #[arg(long)]
        network: Option<Name>,
        /// Those that this relay relays.
        #[arg(long)]
        relay: Option<Name>,
        /// Those with this tag.
        #[arg(long)]
        tag: Option<Name>,
    },
    /// Show a member.
    Show {
        /// The member.
        name: Name,
    },
    /// Make a member of a host whose public key is known. Hosts can also join by themselves, with an enrolment key.
    Create {
        /// Its name.
        name: Name,
        /// Its public key, as `wg pubkey` prints it.
        #[arg(long, value_name = "KEY", value_parser = public_key)]
        public_key: PublicKey,
        /// A network, and its addresses there if it should have certain ones. May be given several times.
        #[arg(long = "network", value_name = "NETWORK[=ADDRESS,…]", required = true)]
        networks: Vec<Place>,
        /// A range behind it that the others reach through it. May be given several times.
        #[arg(long = "route", value_name = "NETWORK=PREFIX")]
        routes: Vec<Route>,
        /// Its static public endpoint, if it has one; at most one of each family.
        #[arg(long = "endpoint", value_name = "ADDRESS:PORT")]
        endpoints: Vec<SocketAddr>,
        #[command(flatten)]
        rate_limit: Limits,
        /// A tag. May be given several times.
        #[arg(long = "tag", value_name = "TAG")]
        tags: Vec<Name>,
        /// Draw a secret for its owner, who can then read its configuration and have it join other networks.
        #[arg(long)]
        owner: bool,
        #[command(flatten)]
        making: Making,
    },
    /// Change a member. What is not named stays.
    Change {
        /// The member.
        name: Name,
        /// All its networks from now on.
        #[arg(long = "network", value_name = "NETWORK[=ADDRESS,…]")]
        networks: Vec<Place>,
        /// All ranges behind it from now on, in the networks named.
        #[arg(long = "route", value_name = "NETWORK=PREFIX", requires = "networks")]
        routes: Vec<Route>,
        /// All its static endpoints from now on.
        #[arg(long = "endpoint", value_name = "ADDRESS:PORT")]
        endpoints: Vec<SocketAddr>,
        /// No static endpoint any more.
        #[arg(long, conflicts_with = "endpoints")]
        no_endpoint: bool,
        #[command(flatten)]
        rate_limit: Limits,
        /// No limit any more.
        #[arg(long, conflicts_with_all = ["bits_per_second", "packets_per_second"])]
        no_rate_limit: bool,
        /// All its tags from now on.
        #[arg(long = "tag", value_name = "TAG")]
        tags: Vec<Name>,
        /// No tags any more.
        #[arg(long, conflicts_with = "tags")]
        no_tag: bool,
        /// Draw a new secret for its owner.
        #[arg(long)]
        owner: bool,
        #[command(flatten)]
        changing: Changing,
    },
    /// Delete a member. Its sessions end at once.
    #[command(visible_alias = "rm")]
    Delete {
        /// The member.
        name: Name,
        #[command(flatten)]
        changing: Changing,
    },
}

/// How much is relayed for a member: of what it sends and of what it receives, each by itself. A change replaces both numbers.
#[derive(Args)]
struct Limits {
    /// Relay at most so many bits of WireGuard messages a second each way, from 64000 on.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(RateLimit::BITS))]
    bits_per_second: Option<u64>,
    /// Relay at most so many packets a second each way.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    packets_per_second: Option<u32>,
}

impl Limits {
    /// The limit, if anything was said of it.
    fn given(self, none: bool) -> Option<RateLimit> {
        let limit = RateLimit::from(self);
        (none || limit != RateLimit::default()).then_some(limit)
    }
}

impl From<Limits> for RateLimit {
    fn from(Limits { bits_per_second, packets_per_second }: Limits) -> Self {
        Self { bits_per_second, packets_per_second }
    }
}

pub(crate) fn public_key(text: &str) -> Result<PublicKey, String> {
    PublicKey::from_base64(text).ok_or_else(|| "give the 44 characters that `wg pubkey` prints".to_owned())
}

/// All of something, if anything was said of it.
fn given<T>(all: Vec<T>, none: bool) -> Option<Vec<T>> {
    (none || !all.is_empty()).then_some(all)
}

impl Arguments {
    pub(crate) async fn run(self) -> Result<()> {
        let Self { asking, command } = self;
        match command {
            Command::List { network, relay, tag } => {
                let filters = [("network", network), ("relay", relay), ("tag", tag)];
                let filters =
                    filters.into_iter().filter_map(|(what, name)| Some(format!("{what}={}", name?)));
                let path = format!("/v1/members?{}", filters.collect::<Vec<_>>().join("&"));
                asking.show(&path, |members: &Vec<Member>| list(members)).await
            }
            Command::Show { name } => asking.show(&format!("/v1/members/{name}"), one).await,
            Command::Create {
                name,
                public_key,
                networks,
                routes,
                endpoints,
                rate_limit,
                tags,
                owner,
                making,
            } => {
                let networks = memberships(networks, routes)?;
                let new = NewMember {
                    name,
                    public_key,
                    networks,
                    endpoints,
                    rate_limit: rate_limit.into(),
                    tags,
                    owner,
                };
                asking.change(Method::POST, "/v1/members", Some(&new), &making.into(), with_owner).await
            }
            Command::Change {
                name,
                networks,
                routes,
                endpoints,
                no_endpoint,
                rate_limit,
                no_rate_limit,
                tags,
                no_tag,
                owner,
                changing,
            } => {
                let change = MemberChange {
                    networks: given(memberships(networks, routes)?, false),
                    endpoints: given(endpoints, no_endpoint),
                    rate_limit: rate_limit.given(no_rate_limit),
                    tags: given(tags, no_tag),
                    owner,
                };
                let path = format!("/v1/members/{name}");
                asking.change(Method::PATCH, &path, Some(&change), &changing, with_owner).await
            }
            Command::Delete { name, changing } => {
                asking.delete(&format!("/v1/members/{name}"), &changing).await
            }
        }
    }
}

/// Networks, with the addresses there.
pub(crate) fn places(networks: &[Membership]) -> String {
    joined(networks.iter().map(|place| {
        let addresses = [place.ipv4.map(|ip| ip.to_string()), place.ipv6.map(|ip| ip.to_string())];
        let addresses = addresses.into_iter().flatten().collect::<Vec<_>>().join(" ");
        format!("{} {addresses}", place.network)
    }))
}

fn state(member: &Member) -> &'static str {
    match (member.is_relay, member.active) {
        (true, _) => "relay",
        (_, true) => "active",
        (_, false) => "waits for its first handshake",
    }
}

fn list(members: &[Member]) -> String {
    let rows = members.iter().map(|member| {
        [
            member.name.to_string(),
            places(&member.networks),
            member.relayed_by.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string),
            joined(&member.endpoints),
            joined(&member.tags),
            state(member).to_owned(),
        ]
    });
    table(["member", "networks", "relayed by", "endpoints", "tags", "state"], rows)
}

fn one(member: &Member) -> String {
    let enrolled = member.enrolled.as_ref();
    properties([
        ("member", member.name.to_string()),
        ("public key", member.public_key.to_string()),
        ("state", state(member).to_owned()),
        ("networks", places(&member.networks)),
        ("routes", joined(member.networks.iter().flat_map(|place| &place.routes))),
        ("endpoints", joined(&member.endpoints)),
        ("rate limit", member.rate_limit.map(rate_limit).unwrap_or_default()),
        ("relayed by", member.relayed_by.as_ref().map(ToString::to_string).unwrap_or_default()),
        ("tags", joined(&member.tags)),
        ("enrolled by", enrolled.map(|enrolled| format!("key {}", enrolled.key)).unwrap_or_default()),
        ("revision", member.revision.to_string()),
    ])
}

fn rate_limit(RateLimit { bits_per_second, packets_per_second }: RateLimit) -> String {
    let bits = bits_per_second.map(|bits| format!("{bits} bits/s"));
    let packets = packets_per_second.map(|packets| format!("{packets} packets/s"));
    joined(bits.into_iter().chain(packets))
}

fn with_owner(MemberWithOwner { member, owner }: &MemberWithOwner) -> String {
    let told = properties([("owner", owner.clone().unwrap_or_default())]);
    let note = if owner.is_some() { "            (the owner's secret: it is not shown again)\n" } else { "" };
    format!("{}{told}{note}", one(member))
}
