//! `relay.toml`: what it may hold, and what is wrong with it, line by line.

use std::{
    collections::BTreeSet,
    fmt,
    net::{IpAddr, SocketAddr},
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use ipnet::IpNet;
use relay_ebpf::tables;
use serde::Deserialize;
use toml::Spanned;

use crate::{
    admission::{Admission, Filter, Packets, Work},
    members::{Member, Members, MembersError, OtherRelay, Place, Policy, PublicKey, RateLimit, unusable},
    turn::config::{ApiConfig as TurnApi, Sockets as TurnSockets, TurnConfig},
};

mod control;

pub use control::{ApiConfig, Control, ServeConfig, Source, StoreConfig, StoreKind};

/// A setting, and what is wrong with it.
type Fault = (&'static str, String);

/// The whole configuration file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The relay itself.
    pub relay: Relay,
    /// The Prometheus endpoint.
    #[serde(default)]
    pub metrics: Metrics,
    /// Sizes of the tables and quotas.
    #[serde(default)]
    pub limits: Limits,
    /// Where the members come from.
    #[serde(default)]
    pub control: Control,
    /// The TURN server, if there is to be one.
    pub turn: Option<TurnConfig>,
    /// The other relays of the networks.
    #[serde(default, rename = "other_relay")]
    other_relays: Vec<Spanned<OtherRelayEntry>>,
    /// The members.
    #[serde(default, rename = "member")]
    members: Vec<Spanned<MemberEntry>>,
}

/// `[relay]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Relay {
    /// A name for people and for the metrics.
    #[serde(default = "Relay::default_name")]
    pub name: String,
    /// The relay's own WireGuard interface.
    pub interface: String,
    /// Whether wgrelay owns that interface: creates it when it is missing, and removes it at the end.
    #[serde(default)]
    pub create: bool,
    /// The private key of that interface, base64 as `wg genkey` prints it. Generated if `create` is set and there is none.
    pub private_key_file: Option<PathBuf>,
    /// Its UDP listen port, which is the relay port.
    pub port: u16,
    /// The relay's addresses as its packets carry them; at least one.
    pub addresses: Vec<IpAddr>,
    /// The interfaces that get the XDP program; at least one.
    pub attach: Vec<String>,
    /// How the program is attached.
    #[serde(default)]
    pub xdp_mode: XdpMode,
    /// Whose handshakes are relayed.
    #[serde(default)]
    policy: PolicyName,
    /// If there are any, only from these prefixes new sources are taken.
    #[serde(default)]
    pub allow: Vec<IpNet>,
    /// Prefixes that are refused as a source and as an endpoint.
    #[serde(default)]
    pub deny: Vec<IpNet>,
    /// The directory on a BPF file system that holds the pinned maps and links.
    #[serde(default = "default_pin_dir")]
    pub pin_dir: PathBuf,
    /// The unix socket that `wgrelay status` and its like ask.
    #[serde(default = "default_socket")]
    pub socket: PathBuf,
    /// Whether all goes on forwarding after the end, for the next start; if not given, whether systemd has started it.
    pub keep: Option<bool>,
    /// The directory of the file with what outlives a reboot.
    #[serde(default = "default_state_dir")]
    pub state_dir: PathBuf,
}

impl Relay {
    fn default_name() -> String {
        "wgrelay".to_owned()
    }
}

/// Where maps and links are pinned unless the configuration says otherwise.
pub fn default_pin_dir() -> PathBuf {
    "/sys/fs/bpf/wgrelay".into()
}

/// Where the unix socket is unless the configuration says otherwise.
pub fn default_socket() -> PathBuf {
    "/run/wgrelay/wgrelay.sock".into()
}

/// Where state is kept unless the configuration says otherwise.
pub fn default_state_dir() -> PathBuf {
    "/var/lib/wgrelay".into()
}

/// How the XDP program is attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum XdpMode {
    /// In the driver if it can, else generic, with a loud warning.
    #[default]
    Auto,
    /// In the driver or not at all.
    Driver,
    /// In the network stack, for any device; slow.
    Generic,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum PolicyName {
    #[default]
    Members,
    Any,
}

/// `[metrics]`
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metrics {
    /// Where the Prometheus endpoint listens; off if not given.
    pub listen: Option<SocketAddr>,
}

/// `[limits]`: sizes of tables first, which only a restart changes.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Entries of the session table, two for each session.
    pub sessions: u32,
    /// Handshakes under way.
    pub pending: u32,
    /// Endpoints of members and relays.
    pub endpoints: u32,
    /// Sessions that one member may have answered.
    pub sessions_per_member: u32,
    /// See [`Packets::member`].
    pub member_packets: u32,
    /// See [`Packets::relay`].
    pub relay_packets: u32,
    /// See [`Packets::data`].
    pub data_packets: u32,
    /// See [`Packets::source`].
    pub source_packets: u32,
    /// See [`Packets::unknown`].
    pub unknown_packets: u32,
    /// See [`Work::searched_keys`].
    pub searched_keys: u32,
    /// See [`Work::initiations`].
    pub initiations: u32,
    /// See [`Work::unknown_initiations`].
    pub unknown_initiations: u32,
}

impl Limits {
    /// Those that are fixed once the relay runs.
    fn sizes(&self) -> [u32; 4] {
        [self.sessions, self.pending, self.endpoints, self.sessions_per_member]
    }
}

impl Default for Limits {
    fn default() -> Self {
        let (packets, work) = (Packets::default(), Work::default());
        Self {
            sessions: tables::SESSIONS_DEFAULT,
            pending: tables::PENDING_DEFAULT,
            endpoints: tables::ENDPOINTS_DEFAULT,
            sessions_per_member: 8192,
            member_packets: packets.member,
            relay_packets: packets.relay,
            data_packets: packets.data,
            source_packets: packets.source,
            unknown_packets: packets.unknown,
            searched_keys: work.searched_keys,
            initiations: work.initiations,
            unknown_initiations: work.unknown_initiations,
        }
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct OtherRelayEntry {
    name: String,
    endpoints: Vec<SocketAddr>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct MemberEntry {
    name: String,
    public_key: Spanned<String>,
    networks: BTreeSet<Arc<str>>,
    #[serde(default)]
    relayed: bool,
    relayed_by: Option<String>,
    #[serde(default)]
    endpoints: Vec<SocketAddr>,
    #[serde(default)]
    rate_limit: RateLimit,
}

/// What is wrong with a configuration file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The file.
    pub path: PathBuf,
    /// The line, counted from 1, if the fault has one.
    pub line: Option<usize>,
    /// What is wrong.
    pub reason: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())?;
        if let Some(line) = self.line {
            write!(f, ", line {line}")?;
        }
        write!(f, ": {}", self.reason)
    }
}

impl std::error::Error for ConfigError {}

impl Config {
    /// Reads and checks the file, as far as it can be checked without the relay's key.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        read_with(path, |text| Self::parse_with(text, |name| std::env::var(name).ok()))
    }

    /// Parses the text of a configuration; an error is a byte range in it, where there is one, and the reason.
    pub fn parse(text: &str) -> Result<Self, (Option<Range<usize>>, String)> {
        Self::parse_with(text, |_| None)
    }

    /// As [`Self::parse`], with what the environment says of the TURN server.
    fn parse_with(
        text: &str,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, (Option<Range<usize>>, String)> {
        let mut config: Self = toml::from_str(text).map_err(parse_error)?;
        config.turn = TurnConfig::with_environment(config.turn, variable).map_err(|reason| (None, reason))?;
        config
            .check_relay()
            .and_then(|()| config.check_control())
            .and_then(|()| match &config.turn {
                Some(turn) => turn.check(config.relay.port, config.control.source == Source::Store),
                None => Ok(()),
            })
            .map_err(|(field, reason)| (field_span(text, field), reason))?;
        // The members are checked with a key that no member can have: the real one is checked against at start.
        config.members(PublicKey([0; 32])).map_err(|(span, error)| (Some(span), error))?;
        config.relay.addresses.sort_by_key(IpAddr::is_ipv6);
        Ok(config)
    }

    /// The members, for a relay with this public key; an error is a byte range in the text and the reason.
    pub fn members(&self, relay_key: PublicKey) -> Result<Members, (Range<usize>, String)> {
        let mut members = Vec::with_capacity(self.members.len());
        for entry in &self.members {
            members.push(entry.as_ref().member().map_err(|reason| (entry.span(), reason))?);
        }
        let relays = self.other_relays.iter().map(|entry| {
            let OtherRelayEntry { name, endpoints } = entry.as_ref().clone();
            OtherRelay { name: name.into(), endpoints }
        });
        let policy = match self.relay.policy {
            PolicyName::Members => Policy::Members,
            PolicyName::Any => Policy::Any,
        };
        Members::new(relay_key, policy, relays, members).map_err(|e| (self.culprit(&e), e.to_string()))
    }

    /// Where in the file the entry stands that an error is about: of two that conflict, the later.
    fn culprit(&self, error: &MembersError) -> Range<usize> {
        use MembersError as E;
        let name = match error {
            E::DuplicateName(name)
            | E::DuplicateKey(_, name)
            | E::IdCollision(_, name)
            | E::ZeroId(name)
            | E::IsRelay(name)
            | E::NoNetwork(name)
            | E::UnknownRelay(name, _)
            | E::DuplicateRelay(name)
            | E::TwoEndpoints(name)
            | E::DuplicateEndpoint(_, name, _)
            | E::BadEndpoint(name, ..) => name,
        };
        let members = self.members.iter().rev().filter(|m| m.as_ref().name == *name).map(Spanned::span);
        let relays = self.other_relays.iter().rev().filter(|r| r.as_ref().name == *name).map(Spanned::span);
        members.chain(relays).next().unwrap_or(0..0)
    }

    fn check_control(&self) -> Result<(), Fault> {
        self.control.check()?;
        let (members, relays) = (!self.members.is_empty(), !self.other_relays.is_empty());
        let (from, table, entries) = match self.control.source {
            Source::Store if members => ("the store", "[[member]]", "members"),
            Source::Store if relays => ("the store", "[[other_relay]]", "relays"),
            // Of our relays a Netmaker server knows nothing.
            Source::Netmaker if members => ("the Netmaker server", "[[member]]", "members"),
            _ => return Ok(()),
        };
        let reason =
            format!("the {entries} come from {from} then: take all {table} out, or set it to \"file\"");
        Err(("control.source", reason))
    }

    fn check_relay(&self) -> Result<(), Fault> {
        let relay = &self.relay;
        let unique = |count: usize, len: usize| count == len;
        if relay.port == 0 {
            return Err(("port", "port 0 is no port: choose the one that hosts will use, say 51820".into()));
        }
        if relay.interface.is_empty() || relay.interface.len() > 15 {
            return Err(("interface", "an interface name has 1 to 15 characters".into()));
        }
        if relay.addresses.is_empty() || relay.addresses.len() > tables::LOCALS_MAX as usize {
            return Err(("addresses", format!("give 1 to {} addresses of the relay", tables::LOCALS_MAX)));
        }
        for &address in &relay.addresses {
            if let Some(why) = unusable(SocketAddr::new(address, relay.port)) {
                return Err(("addresses", format!("{address}: {why}")));
            }
        }
        if !unique(relay.addresses.iter().collect::<BTreeSet<_>>().len(), relay.addresses.len()) {
            return Err(("addresses", "an address is listed twice".into()));
        }
        if relay.attach.is_empty() || relay.attach.len() > tables::TX_PORTS_MAX as usize {
            return Err(("attach", format!("name 1 to {} interfaces to attach to", tables::TX_PORTS_MAX)));
        }
        if !unique(relay.attach.iter().collect::<BTreeSet<_>>().len(), relay.attach.len()) {
            return Err(("attach", "an interface is listed twice".into()));
        }
        if relay.create && relay.private_key_file.is_none() {
            return Err((
                "create",
                "with `create = true` name a `private_key_file` (it is generated if there is none)".into(),
            ));
        }
        for (field, value) in [
            ("sessions", self.limits.sessions),
            ("pending", self.limits.pending),
            ("endpoints", self.limits.endpoints),
            ("sessions_per_member", self.limits.sessions_per_member),
        ] {
            if !(2..=16_777_216).contains(&value) {
                return Err((field, format!("`{field}` must be from 2 to 16777216")));
            }
        }
        for (field, value) in [
            ("member_packets", self.limits.member_packets),
            ("relay_packets", self.limits.relay_packets),
            ("data_packets", self.limits.data_packets),
            ("source_packets", self.limits.source_packets),
            ("unknown_packets", self.limits.unknown_packets),
            ("searched_keys", self.limits.searched_keys),
            ("initiations", self.limits.initiations),
            ("unknown_initiations", self.limits.unknown_initiations),
        ] {
            if !(1..=1_000_000_000).contains(&value) {
                return Err((field, format!("`{field}` must be from 1 to 1000000000, a second")));
            }
        }
        // The table has one for each family, too.
        let room = tables::PREFIXES_MAX as usize - 2;
        if relay.allow.len() + relay.deny.len() > room {
            return Err(("deny", format!("`allow` and `deny` may have {room} prefixes together")));
        }
        Ok(())
    }

    /// What is admitted.
    pub fn admission(&self) -> Admission {
        let limits = &self.limits;
        Admission {
            filter: Filter::new(&self.relay.allow, &self.relay.deny),
            packets: Packets {
                member: limits.member_packets,
                relay: limits.relay_packets,
                data: limits.data_packets,
                source: limits.source_packets,
                unknown: limits.unknown_packets,
            },
            work: Work {
                searched_keys: limits.searched_keys,
                initiations: limits.initiations,
                unknown_initiations: limits.unknown_initiations,
            },
        }
    }

    /// Of the TURN server, what it opens at its start (and the XDP program knows as constants); and its API.
    fn turn_fixed(&self) -> Option<(TurnSockets<'_>, &str, Option<&TurnApi>)> {
        let turn = self.turn.as_ref()?;
        // Registered hosts have keys for a realm.
        let realm = if turn.api.is_some() { &*turn.realm } else { "" };
        Some((turn.sockets(), realm, turn.api.as_ref()))
    }

    /// The settings in which `new` differs and that are fixed once the relay runs.
    pub fn needs_restart(&self, new: &Self) -> Vec<&'static str> {
        let (a, b) = (&self.relay, &new.relay);
        [
            ("relay.name", a.name == b.name),
            ("relay.interface", a.interface == b.interface),
            ("relay.create", a.create == b.create),
            ("relay.private_key_file", a.private_key_file == b.private_key_file),
            ("relay.port", a.port == b.port),
            ("relay.addresses", a.addresses == b.addresses),
            ("relay.attach", a.attach == b.attach),
            ("relay.xdp_mode", a.xdp_mode == b.xdp_mode),
            ("relay.pin_dir", a.pin_dir == b.pin_dir),
            ("relay.socket", a.socket == b.socket),
            ("relay.state_dir", a.state_dir == b.state_dir),
            ("metrics", self.metrics == new.metrics),
            ("the sizes in limits", self.limits.sizes() == new.limits.sizes()),
            ("control", self.control == new.control),
            ("the ports, the certificate and the API in turn", self.turn_fixed() == new.turn_fixed()),
        ]
        .into_iter()
        .filter_map(|(name, same)| (!same).then_some(name))
        .collect()
    }
}

impl MemberEntry {
    fn member(&self) -> Result<Member, String> {
        let name = self.name.clone();
        if name.is_empty() {
            return Err("a member needs a name".into());
        }
        let Some(public_key) = PublicKey::from_base64(self.public_key.as_ref()) else {
            return Err(format!(
                "member {name:?}: the public key is not one: give the 44 characters that `wg show` prints"
            ));
        };
        let place = match (self.relayed, &self.relayed_by, self.endpoints.is_empty()) {
            (true, None, true) => Place::Relayed,
            (false, Some(relay), true) => Place::RelayedBy(relay.as_str().into()),
            (false, None, _) => Place::Static(self.endpoints.clone()),
            _ => {
                return Err(format!(
                    "member {name:?}: give one of `relayed = true`, `relayed_by` and `endpoints`, not several: \
                     a relayed host's endpoint is learned by WireGuard"
                ));
            }
        };
        let rate_limit = self.rate_limit.if_any();
        let networks = self.networks.iter().cloned().collect();
        Ok(Member { name: name.into(), public_key, networks, place, rate_limit })
    }
}

fn parse_error(error: toml::de::Error) -> (Option<Range<usize>>, String) {
    (error.span(), error.message().to_owned())
}

/// Reads a file and parses its text; an error of that is a byte range in it, where there is one, and the reason.
fn read_with<T>(
    path: &Path,
    parse: impl FnOnce(&str) -> Result<T, (Option<Range<usize>>, String)>,
) -> Result<T, ConfigError> {
    let fault = |line, reason| ConfigError { path: path.to_owned(), line, reason };
    let text = std::fs::read_to_string(path).map_err(|error| fault(None, error.to_string()))?;
    parse(&text).map_err(|(span, reason)| {
        fault(span.map(|span| 1 + text[..span.start.min(text.len())].matches('\n').count()), reason)
    })
}

/// Where a setting stands in the text: `field = …`, or a whole table. Its name may have its table before it, for those
/// that are not unique in a file of ours. Good enough for a message.
fn field_span(text: &str, field: &str) -> Option<Range<usize>> {
    let (mut start, mut table) = (0, "");
    for line in text.split_inclusive('\n') {
        let key = line.split('=').next().unwrap_or_default().trim();
        let here = start..start + line.len();
        if let Some(header) = key.strip_prefix('[').and_then(|key| key.split(']').next()) {
            table = header.trim_start_matches('[').trim();
            if table == field {
                return Some(here);
            }
        } else if key == field || field.strip_prefix(table).and_then(|f| f.strip_prefix('.')) == Some(key) {
            return Some(here);
        }
        start += line.len();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
[relay]
interface = "wgr0"
create = true
private_key_file = "/etc/wgrelay/private.key"
port = 51820
addresses = ["2001:db8::1", "198.51.100.1"]
attach = ["eth0"]

[[other_relay]]
name = "far"
endpoints = ["203.0.113.1:51820"]

[[member]]
name = "a"
public_key = "YWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWE="
networks = ["mesh"]
relayed = true

[[member]]
name = "p"
public_key = "cHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHA="
networks = ["mesh"]
endpoints = ["198.51.100.9:51820", "[2001:db8::9]:51820"]
"#;

    fn fault(text: &str) -> (usize, String) {
        let (span, reason) = Config::parse(text).expect_err("the text is faulty");
        (1 + text[..span.expect("it has a place").start].matches('\n').count(), reason)
    }

    #[test]
    fn a_good_file_is_read_with_its_defaults() {
        let config = Config::parse(GOOD).unwrap();
        assert_eq!(config.relay.xdp_mode, XdpMode::Auto);
        assert_eq!(config.relay.socket, default_socket());
        assert_eq!(config.metrics.listen, None);
        assert!(config.relay.addresses[0].is_ipv4(), "IPv4 first");
        let members = config.members(PublicKey([7; 32])).unwrap();
        assert_eq!(members.iter().len(), 2);
        assert_eq!(members.policy(), Policy::Members);
        assert_eq!(members.relay("far").unwrap().endpoints, ["203.0.113.1:51820".parse().unwrap()]);
    }

    #[test]
    fn faults_are_told_with_their_line_and_reason() {
        for (from, to, line, part) in [
            ("port = 51820", "port = 0", 6, "port 0"),
            ("port = 51820", "port = 70000", 6, "u16"),
            ("interface =", "interfaces =", 3, "unknown field `interfaces`"),
            ("attach = [\"eth0\"]", "attach = []", 8, "interfaces to attach to"),
            ("\"2001:db8::1\", ", "\"127.0.0.1\", ", 7, "loopback"),
            ("relayed = true", "relayed = yes", 18, "expected"),
            ("name = \"p\"", "name = \"a\"", 20, "two members are named"),
            ("cHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHA=", "short", 20, "44 characters"),
            (
                "cHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHA=",
                "YWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWE=",
                20,
                "same public key",
            ),
            ("relayed = true", "relayed_by = \"near\"", 14, "no [[other_relay]]"),
            ("relayed = true", "relayed = true\nendpoints = [\"192.0.2.1:1\"]", 14, "not several"),
            ("\"198.51.100.9:51820\"", "\"224.0.0.1:51820\"", 20, "multicast"),
            ("\"198.51.100.9:51820\"", "\"203.0.113.1:51820\"", 20, "same static endpoint"),
            ("networks = [\"mesh\"]\nrelayed", "networks = []\nrelayed", 14, "in no network"),
            ("[[other", "[control]\nsource = \"store\"\n[[other", 11, "take all [[member]] out"),
            ("relayed = true", "relayed = true\nrate_limit = { bits_per_second = 9600 }", 19, "from 64000"),
            ("relayed = true", "relayed = true\nrate_limit = { packets_per_second = 0 }", 19, "at least 1"),
            ("[[other_relay]]", "[limits]\nunknown_packets = 0\n[[other_relay]]", 11, "from 1 to"),
            ("attach = ", "allow = [\"198.51.100.0/33\"]\nattach = ", 8, "invalid"),
        ] {
            assert!(GOOD.contains(from), "{from}");
            let (at, reason) = fault(&GOOD.replacen(from, to, 1));
            assert!(reason.contains(part), "{from} → {to}: {reason}");
            assert_eq!(at, line, "{from} → {to}: {reason}");
        }
    }

    #[test]
    fn the_relay_is_no_member_of_its_own() {
        let config = Config::parse(GOOD).unwrap();
        let (_, reason) = config.members(PublicKey([b'a'; 32])).unwrap_err();
        assert!(reason.contains("the relay's own public key"), "{reason}");
    }

    #[test]
    fn what_is_admitted_is_read_and_needs_no_restart() {
        let old = Config::parse(GOOD).unwrap();
        assert_eq!(old.admission(), Admission::default());
        let text = GOOD
            .replace("attach =", "allow = [\"198.51.0.0/16\"]\ndeny = [\"198.51.100.0/24\"]\nattach =")
            .replace(
                "[[other_relay]]",
                "[limits]\nunknown_packets = 7\nunknown_initiations = 8\n[[other_relay]]",
            )
            .replace("relayed = true", "relayed = true\nrate_limit = { bits_per_second = 1_000_000 }");
        let new = Config::parse(&text).unwrap();
        assert_eq!(old.needs_restart(&new), Vec::<&str>::new());
        let Admission { filter, packets, work } = new.admission();
        assert!(filter.denies([198, 51, 100, 1].into()) && filter.admits_new([198, 51, 1, 1].into()));
        assert!(!filter.admits_new([203, 0, 113, 1].into()));
        assert_eq!((packets.unknown, work.unknown_initiations), (7, 8));
        let members = new.members(PublicKey([7; 32])).unwrap();
        let limits: Vec<_> = members.iter().filter_map(|(_, member)| member.rate_limit).collect();
        assert_eq!(limits, [RateLimit { bits_per_second: Some(1_000_000), packets_per_second: None }]);
        let sizes = Config::parse(&text.replace("[limits]", "[limits]\nsessions = 9")).unwrap();
        assert_eq!(new.needs_restart(&sizes), ["the sizes in limits"]);
    }

    #[test]
    fn what_cannot_be_changed_live_is_named() {
        let old = Config::parse(GOOD).unwrap();
        let new =
            Config::parse(&GOOD.replace("51820\naddr", "51821\naddr").replace("\"a\"", "\"b\"")).unwrap();
        assert_eq!(old.needs_restart(&new), ["relay.port"]);
    }
}
