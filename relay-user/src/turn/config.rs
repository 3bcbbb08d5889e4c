//! `[turn]`: what the configuration says of the TURN server.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail, ensure};
use ipnet::IpNet;
use serde::Deserialize;

use crate::{members::RateLimit, tls::Certificate};

use super::{
    credentials::{Credentials, Key, Realm},
    doors::Door,
    guard::Rates,
    peers::Peers,
    server::{Quotas, Settings},
};

/// `[turn]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TurnConfig {
    /// Whether there is a TURN server.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// The realm, which keys are made for; the server's name will do.
    pub realm: Realm,
    /// The UDP port that clients talk to.
    #[serde(default = "default_port")]
    pub port: u16,
    /// The TCP port for clients that can't use UDP, if there is to be one.
    pub tcp_port: Option<u16>,
    /// The TCP port for those that speak TLS.
    pub tls_port: Option<u16>,
    /// Its certificate and those that it is signed by, PEM.
    tls_cert_file: Option<PathBuf>,
    /// The certificate's private key, PEM.
    tls_key_file: Option<PathBuf>,
    /// The first and the last port of relayed addresses.
    #[serde(default = "default_ports")]
    relay_ports: [u16; 2],
    /// Netmaker's API, if a Netmaker server is to register hosts.
    pub api: Option<ApiConfig>,
    /// Users with long-term credentials.
    #[serde(default, rename = "user")]
    users: Vec<UserEntry>,
    /// The file with the secret that time-limited credentials are made with.
    pub secret_file: Option<PathBuf>,
    /// Peers that may be sent to though they are not on the public Internet.
    #[serde(default)]
    allow_peers: Vec<IpNet>,
    /// Peers that are not sent to.
    #[serde(default)]
    deny_peers: Vec<IpNet>,
    /// Allocations in all.
    #[serde(default = "default_allocations")]
    allocations: usize,
    /// Allocations of one user.
    #[serde(default = "default_per_user")]
    allocations_per_user: usize,
    /// What may pass for one user in a second, each way.
    bits_per_second_per_user: Option<u64>,
    /// Peers that one allocation may permit, and channels that it may have.
    #[serde(default = "default_peers")]
    peers_per_allocation: usize,
    /// Requests a second from one source that has not proven who it is.
    #[serde(default = "default_source_requests")]
    source_requests: u32,
    /// Requests a second from all of those together.
    #[serde(default = "default_unknown_requests")]
    unknown_requests: u32,
}

/// Ports, and the files of the certificate: what is fixed once the relay runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sockets<'a> {
    udp: u16,
    relayed: RangeInclusive<u16>,
    /// Without TLS, and with it.
    streams: [Option<u16>; 2],
    /// The certificate and its key.
    tls: [Option<&'a Path>; 2],
}

/// `[turn.api]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApiConfig {
    /// Where it listens: on this host alone, for a reverse proxy that speaks TLS.
    pub listen: SocketAddr,
    /// The username that its clients give.
    pub username: String,
    /// The file with their password.
    password_file: Option<PathBuf>,
    /// The password, if the environment says it.
    #[serde(skip)]
    password: Hidden,
    /// Where registered hosts are kept.
    #[serde(default = "default_state_file")]
    pub state_file: PathBuf,
}

/// What is not shown.
#[derive(Clone, Default, PartialEq, Eq)]
struct Hidden(Option<String>);

impl std::fmt::Debug for Hidden {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hidden")
    }
}

impl ApiConfig {
    /// The password.
    ///
    /// # Errors
    /// If there is none, it can't be read, or it is too short.
    pub fn password(&self) -> Result<String> {
        match (&self.password.0, &self.password_file) {
            (Some(password), _) => {
                ensure!(
                    password.len() >= LEAST,
                    "TURN_PASSWORD: less than {LEAST} characters can be guessed"
                );
                Ok(password.clone())
            }
            (None, Some(file)) => secret(file),
            (None, None) => bail!("[turn.api] needs a `password_file`"),
        }
    }
}

fn default_state_file() -> PathBuf {
    "/var/lib/wgrelay/turn-hosts.json".into()
}

/// A secret that is used over the network has at least so many characters.
const LEAST: usize = 16;

/// `[[turn.user]]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct UserEntry {
    name: String,
    key: Key,
}

fn yes() -> bool {
    true
}

fn default_port() -> u16 {
    3478
}

/// Without WireGuard's usual port.
fn default_ports() -> [u16; 2] {
    [52000, 65535]
}

fn default_allocations() -> usize {
    4_096
}

fn default_per_user() -> usize {
    64
}

fn default_peers() -> usize {
    64
}

fn default_source_requests() -> u32 {
    Rates::default().source
}

fn default_unknown_requests() -> u32 {
    Rates::default().all
}

impl TurnConfig {
    /// What the environment says, by the names that Netmaker gives it, goes before the file. `variable` reads it.
    ///
    /// # Errors
    /// The name of a variable, and what is wrong with it.
    pub fn with_environment(
        mut turn: Option<Self>,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<Self>, String> {
        let number = |name: &str| match variable(name) {
            None => Ok(None),
            Some(text) => text.parse::<u16>().map(Some).map_err(|_| format!("{name}: {text:?} is no port")),
        };
        let enabled = match variable("USE_TURN").as_deref() {
            None => None,
            Some("true") => Some(true),
            Some("false") => Some(false),
            Some(text) => return Err(format!("USE_TURN: {text:?} is neither true nor false")),
        };
        if turn.is_none() && enabled == Some(true) {
            let realm = variable("TURN_SERVER_HOST")
                .ok_or("USE_TURN: without [turn] in the file give TURN_SERVER_HOST as well")?;
            turn = Some(
                toml::from_str(&format!("realm = {realm:?}"))
                    .map_err(|e| format!("TURN_SERVER_HOST: {e}"))?,
            );
        }
        let Some(mut turn) = turn else { return Ok(None) };
        turn.enabled = enabled.unwrap_or(turn.enabled);
        if let Some(realm) = variable("TURN_SERVER_HOST") {
            turn.realm = realm.parse().map_err(|fault| format!("TURN_SERVER_HOST: {fault}"))?;
        }
        turn.port = number("TURN_PORT")?.unwrap_or(turn.port);
        let port = number("TURN_API_PORT")?;
        if let Some(username) = variable("TURN_USERNAME") {
            let listen = SocketAddr::from(([127, 0, 0, 1], port.unwrap_or(8089)));
            turn.api.get_or_insert_with(|| ApiConfig {
                listen,
                username: username.clone(),
                password_file: None,
                password: Hidden::default(),
                state_file: default_state_file(),
            });
        }
        if let Some(api) = &mut turn.api {
            api.listen.set_port(port.unwrap_or(api.listen.port()));
            api.username = variable("TURN_USERNAME").unwrap_or(std::mem::take(&mut api.username));
            api.password = Hidden(variable("TURN_PASSWORD").or(api.password.0.take()));
        }
        Ok(Some(turn))
    }

    /// What it opens as it starts.
    pub fn sockets(&self) -> Sockets<'_> {
        Sockets {
            udp: self.port,
            relayed: self.ports(),
            streams: [self.tcp_port, self.tls_port],
            tls: [self.tls_cert_file.as_deref(), self.tls_key_file.as_deref()],
        }
    }

    /// Where clients connect to by TCP and by TLS: at these addresses. Opens the ports and reads the certificate.
    ///
    /// # Errors
    /// If one of them can't be had.
    pub fn doors(&self, addresses: &[IpAddr]) -> Result<Vec<Door>> {
        let certificate = match (self.tls_port, &self.tls_cert_file, &self.tls_key_file) {
            (Some(_), Some(certificate), Some(key)) => Some(Certificate::read(certificate, key, &[])?),
            _ => None,
        };
        let ports = [(self.tcp_port, None), (self.tls_port, certificate)];
        let at = |(port, certificate): (Option<u16>, Option<Certificate>)| {
            let open = move |port, &ip| Door::open(SocketAddr::new(ip, port), certificate.clone());
            addresses.iter().filter_map(move |ip| Some(open(port?, ip)))
        };
        ports.into_iter().flat_map(at).collect()
    }

    /// The ports of relayed addresses.
    pub fn ports(&self) -> RangeInclusive<u16> {
        let [first, last] = self.relay_ports;
        first..=last
    }

    /// What is wrong with it, by the name of the setting. `relay_port` is WireGuard's; `store` says that there is one, where
    /// users may stand, too.
    pub fn check(&self, relay_port: u16, store: bool) -> Result<(), (&'static str, String)> {
        let fault = |field, reason: &str| Err((field, reason.to_owned()));
        let ports = self.ports();
        if self.port == 0 || self.port == relay_port {
            return fault("turn.port", "the TURN server needs a port of its own: 3478 is usual");
        }
        if ports.is_empty() || *ports.start() < 1024 || ports.len() < 16 {
            return fault(
                "turn.relay_ports",
                "give the first and the last of at least 16 ports, from 1024 on",
            );
        }
        if ports.contains(&self.port) || ports.contains(&relay_port) {
            return fault(
                "turn.relay_ports",
                "the port of the TURN server and the relay port must not be among them",
            );
        }
        let tls = [self.tls_port.is_some(), self.tls_cert_file.is_some(), self.tls_key_file.is_some()];
        if tls.contains(&true) && tls.contains(&false) {
            return fault(
                "turn.tls_port",
                "TLS needs `tls_port`, `tls_cert_file` and `tls_key_file`, all three",
            );
        }
        if self.tcp_port == Some(0)
            || self.tls_port == Some(0)
            || self.tcp_port.is_some_and(|port| Some(port) == self.tls_port)
        {
            return fault("turn.tcp_port", "TCP and TLS need a port each: 3478, and 5349 or 443, are usual");
        }
        for user in &self.users {
            let same = |other: &&UserEntry| other.name == user.name;
            if user.name.is_empty() || user.name.len() > 508 || self.users.iter().filter(same).count() > 1 {
                return Err((
                    "turn.user",
                    format!("user {:?}: a name has 1 to 508 bytes, and is given once", user.name),
                ));
            }
        }
        if let Some(api) = &self.api
            && !api.listen.ip().is_loopback()
        {
            return fault(
                "turn.api.listen",
                "its passwords are in the clear: listen at 127.0.0.1, behind a proxy with TLS",
            );
        }
        let nobody = self.users.is_empty() && self.secret_file.is_none() && self.api.is_none() && !store;
        if self.enabled && nobody {
            return fault(
                "turn.enabled",
                "nobody could use the TURN server: give a [[turn.user]], a `secret_file` or [turn.api]",
            );
        }
        for (field, value) in [
            ("turn.allocations", self.allocations),
            ("turn.allocations_per_user", self.allocations_per_user),
            ("turn.peers_per_allocation", self.peers_per_allocation),
        ] {
            if !(1..=65_536).contains(&value) {
                return Err((field, format!("`{field}` must be from 1 to 65536")));
            }
        }
        if self.bits_per_second_per_user.is_some_and(|bits| !RateLimit::BITS.contains(&bits)) {
            return fault("turn.bits_per_second_per_user", "it must be from 64000 to 1000000000000");
        }
        if self.source_requests == 0 || self.unknown_requests == 0 {
            return fault("turn.source_requests", "at least one request a second must be answered");
        }
        Ok(())
    }

    /// What the server goes by. Reads the secret.
    pub fn settings(&self, addresses: &[IpAddr]) -> Result<Settings> {
        let secret = self.secret_file.as_deref().map(secret).transpose()?;
        let users: HashMap<String, Key> =
            self.users.iter().map(|UserEntry { name, key }| (name.clone(), *key)).collect();
        Ok(Settings {
            addresses: addresses.to_vec(),
            ports: self.ports(),
            credentials: Credentials { realm: self.realm.clone(), users, secret },
            peers: Peers::new(&self.allow_peers, &self.deny_peers),
            quotas: Quotas {
                allocations: self.allocations,
                per_user: self.allocations_per_user,
                peers: self.peers_per_allocation,
                rate: self
                    .bits_per_second_per_user
                    .map(|bits| RateLimit { bits_per_second: Some(bits), packets_per_second: None }),
            },
            rates: Rates { source: self.source_requests, all: self.unknown_requests },
        })
    }
}

fn secret(path: &Path) -> Result<String> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    let secret = text.trim();
    ensure!(secret.len() >= LEAST, "{}: less than {LEAST} characters can be guessed", path.display());
    Ok(secret.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<TurnConfig, String> {
        toml::from_str(text).map_err(|error: toml::de::Error| error.message().to_owned())
    }

    const USER: &str =
        "realm = \"r\"\n[[user]]\nname = \"ann\"\nkey = \"8493fbc53ba582fb4c044c456bdc40eb\"\n";

    #[test]
    fn little_need_be_said() {
        let config = parse(USER).unwrap();
        assert_eq!(config.check(51820, false), Ok(()));
        assert_eq!((config.port, config.ports(), config.enabled), (3478, 52000..=65535, true));
        let settings = config.settings(&["192.0.2.1".parse().unwrap()]).unwrap();
        assert!(settings.credentials.user("ann", 0).is_some());
    }

    #[test]
    fn the_environment_goes_before_the_file() {
        let variables = |set: &'static [(&str, &str)]| {
            move |name: &str| set.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned())
        };
        let netmakers = variables(&[
            ("USE_TURN", "true"),
            ("TURN_SERVER_HOST", "turn.example.org"),
            ("TURN_PORT", "3479"),
            ("TURN_API_PORT", "8090"),
            ("TURN_USERNAME", "netmaker"),
            ("TURN_PASSWORD", "0123456789abcdef"),
        ]);
        let turn = TurnConfig::with_environment(None, netmakers).unwrap().unwrap();
        assert_eq!((&*turn.realm, turn.port, turn.check(51820, false)), ("turn.example.org", 3479, Ok(())));
        let api = turn.api.as_ref().unwrap();
        assert_eq!((api.listen.to_string().as_str(), api.username.as_str()), ("127.0.0.1:8090", "netmaker"));
        assert_eq!(api.password().unwrap(), "0123456789abcdef");
        assert!(!format!("{turn:?}").contains("0123456789abcdef"));

        let file = || Some(parse(USER).unwrap());
        let off = TurnConfig::with_environment(file(), variables(&[("USE_TURN", "false")])).unwrap().unwrap();
        assert!(!off.enabled && &*off.realm == "r");
        assert_eq!(TurnConfig::with_environment(file(), variables(&[])).unwrap(), file());
        assert_eq!(TurnConfig::with_environment(None, variables(&[("TURN_PORT", "1")])).unwrap(), None);
        for (set, named) in [
            (variables(&[("USE_TURN", "yes")]), "USE_TURN"),
            (variables(&[("USE_TURN", "true")]), "TURN_SERVER_HOST"),
            (variables(&[("USE_TURN", "true"), ("TURN_SERVER_HOST", "x"), ("TURN_PORT", "no")]), "TURN_PORT"),
        ] {
            assert!(TurnConfig::with_environment(None, set).unwrap_err().contains(named));
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, field) in [
            (format!("port = 51820\n{USER}"), "turn.port"),
            (format!("port = 60000\n{USER}"), "turn.relay_ports"),
            (format!("relay_ports = [51000, 52000]\n{USER}"), "turn.relay_ports"),
            (format!("relay_ports = [60001, 50000]\n{USER}"), "turn.relay_ports"),
            (format!("allocations = 0\n{USER}"), "turn.allocations"),
            (format!("tls_port = 443\n{USER}"), "turn.tls_port"),
            (format!("tls_cert_file = \"c\"\ntls_key_file = \"k\"\n{USER}"), "turn.tls_port"),
            (format!("tcp_port = 0\n{USER}"), "turn.tcp_port"),
            (
                format!("tcp_port = 1\ntls_port = 1\ntls_cert_file = \"c\"\ntls_key_file = \"k\"\n{USER}"),
                "turn.tcp_port",
            ),
            (format!("{USER}{}", &USER[USER.find("[[").unwrap()..]), "turn.user"),
            ("realm = \"r\"".to_owned(), "turn.enabled"),
        ] {
            assert_eq!(parse(&text).unwrap().check(51820, false).unwrap_err().0, field, "{text}");
        }
        assert_eq!(
            parse("realm = \"r\"").unwrap().check(51820, true),
            Ok(()),
            "users may stand in the store"
        );
        let error = parse(&USER.replace("8493", "secret")).unwrap_err();
        assert!(error.contains("wgrelay turn-key") && !error.contains("secretfb"), "{error}");
        let nowhere = parse(&USER.replace("\"r\"", "\"\"")).unwrap_err();
        assert!(nowhere.contains("1 to 127 characters"), "{nowhere}");
        let missing = parse("realm = \"r\"\nsecret_file = \"/nonexistent\"").unwrap().settings(&[]);
        assert!(format!("{:#}", missing.unwrap_err()).contains("/nonexistent"));
    }
}
