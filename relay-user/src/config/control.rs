//! `[control]`: where the members come from, where they are kept, and who may ask from elsewhere.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use serde::{Deserialize, de::IgnoredAny};

use super::{ConfigError, Fault, parse_error, read_with};
use crate::{netmaker, store::EtcdOptions};

/// `[control]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Control {
    /// Where the members come from.
    pub source: Source,
    /// Where they are kept, if they come from the store.
    pub store: StoreConfig,
    /// After how many seconds hosts that follow their configuration move away from a relay that is gone, if the store is
    /// etcd; 0 for never.
    pub failover_seconds: u64,
    /// The Netmaker server, if they come from one.
    pub netmaker: Option<netmaker::Options>,
    /// The API over TCP, if it is wanted there.
    pub api: Option<ApiConfig>,
}

impl Default for Control {
    fn default() -> Self {
        let (source, store) = (Source::default(), StoreConfig::default());
        Self { source, store, failover_seconds: 10, netmaker: None, api: None }
    }
}

/// Where the members come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// They stand in the configuration file.
    #[default]
    File,
    /// They are in the control plane's store.
    Store,
    /// They are the hosts of a Netmaker server.
    Netmaker,
}

/// `[control.store]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StoreConfig {
    /// Which store.
    pub kind: StoreKind,
    /// The directory of the embedded one.
    pub state_dir: PathBuf,
    /// How to reach etcd.
    pub etcd: Option<EtcdOptions>,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self { kind: StoreKind::default(), state_dir: "/var/lib/wgrelay".into(), etcd: None }
    }
}

/// Which store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StoreKind {
    /// A database file, for this process.
    #[default]
    Embedded,
    /// etcd, for any number of relay hosts.
    Etcd,
}

/// `[control.api]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApiConfig {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Its certificate and those that it is signed by, PEM.
    pub tls_cert_file: Option<PathBuf>,
    /// The certificate's private key, PEM.
    pub tls_key_file: Option<PathBuf>,
}

impl ApiConfig {
    /// The files of certificate and key, if it speaks TLS.
    pub fn tls(&self) -> Option<(&Path, &Path)> {
        Some((self.tls_cert_file.as_deref()?, self.tls_key_file.as_deref()?))
    }
}

impl Control {
    pub(super) fn check(&self) -> Result<(), Fault> {
        let StoreConfig { kind, etcd, .. } = &self.store;
        match (kind, etcd) {
            (StoreKind::Embedded, None) => {}
            (StoreKind::Embedded, Some(_)) => {
                let reason = "etcd is described but not used: set `kind = \"etcd\"` in [control.store]";
                return Err(("control.store.etcd", reason.into()));
            }
            (StoreKind::Etcd, None) => {
                return Err(("control.store.kind", "say in [control.store.etcd] how to reach etcd".into()));
            }
            (StoreKind::Etcd, Some(etcd)) => check_etcd(etcd)?,
        }
        match (self.source, &self.netmaker) {
            (Source::Netmaker, None) => {
                return Err(("source", "say in [control.netmaker] how to reach the server".into()));
            }
            (Source::File | Source::Store, Some(_)) => {
                let reason =
                    "a Netmaker server is described but not used: set `source = \"netmaker\"` in [control]";
                return Err(("control.netmaker", reason.into()));
            }
            _ => {}
        }
        match &self.api {
            Some(_) if self.source != Source::Store => {
                let reason =
                    "nobody could use it: tokens are in the store, so set `source = \"store\"` in [control]";
                Err(("control.api", reason.into()))
            }
            Some(api) => check_api(api),
            None => Ok(()),
        }
    }
}

fn check_etcd(etcd: &EtcdOptions) -> Result<(), Fault> {
    if etcd.endpoints.is_empty() {
        return Err(("control.store.etcd.endpoints", "give at least one endpoint of etcd".into()));
    }
    for endpoint in &etcd.endpoints {
        if !["http://", "https://"].iter().any(|scheme| endpoint.starts_with(scheme)) {
            let reason = format!("{endpoint:?} is no endpoint of etcd: give it as \"https://HOST:2379\"");
            return Err(("control.store.etcd.endpoints", reason));
        }
    }
    if etcd.password_file.is_some() && etcd.user.is_none() {
        return Err(("control.store.etcd.password_file", "whose password is it? Give `user` too".into()));
    }
    Ok(())
}

fn check_api(api: &ApiConfig) -> Result<(), Fault> {
    match (&api.tls_cert_file, &api.tls_key_file) {
        (Some(_), None) => Err(("control.api.tls_cert_file", "give `tls_key_file` too".into())),
        (None, Some(_)) => Err(("control.api.tls_key_file", "give `tls_cert_file` too".into())),
        (None, None) if !api.listen.ip().is_loopback() => Err((
            "control.api.listen",
            format!(
                "{} can be reached from elsewhere, where plain HTTP would show all tokens: give `tls_cert_file` and \
                 `tls_key_file`, or listen on 127.0.0.1",
                api.listen
            ),
        )),
        _ => Ok(()),
    }
}

/// What `wgrelay serve` reads of a configuration: `[control]`, and the socket if there is a `[relay]`. The rest is for
/// `wgrelay run`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServeConfig {
    /// `[control]`
    pub control: Control,
    /// Of `[relay]` the socket.
    relay: Socket,
    #[serde(rename = "metrics")]
    _metrics: Option<IgnoredAny>,
    #[serde(rename = "limits")]
    _limits: Option<IgnoredAny>,
    #[serde(rename = "other_relay")]
    _other_relays: Option<IgnoredAny>,
    #[serde(rename = "member")]
    _members: Option<IgnoredAny>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Socket {
    socket: Option<PathBuf>,
}

impl ServeConfig {
    /// Reads and checks the file.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        read_with(path, Self::parse)
    }

    fn parse(text: &str) -> Result<Self, (Option<std::ops::Range<usize>>, String)> {
        let config: Self = toml::from_str(text).map_err(parse_error)?;
        config.control.check().map_err(|(field, reason)| (super::field_span(text, field), reason))?;
        Ok(config)
    }

    /// The same with other settings, as far as they are given.
    pub fn with(
        mut self,
        socket: Option<PathBuf>,
        state_dir: Option<PathBuf>,
        listen: Option<SocketAddr>,
    ) -> Result<Self, String> {
        // Whatever the file says for `wgrelay run`: here is nothing but the store.
        self.control.source = Source::Store;
        self.relay.socket = socket.or(self.relay.socket);
        if let Some(state_dir) = state_dir {
            self.control.store.state_dir = state_dir;
        }
        if let Some(listen) = listen {
            let none = ApiConfig { listen, tls_cert_file: None, tls_key_file: None };
            self.control.api = Some(ApiConfig { listen, ..self.control.api.unwrap_or(none) });
        }
        self.control.check().map_err(|(_, reason)| reason)?;
        Ok(self)
    }

    /// The unix socket.
    pub fn socket(&self) -> PathBuf {
        self.relay.socket.clone().unwrap_or_else(super::default_socket)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
[control]
source = "store"

[control.store]
kind = "etcd"

[control.store.etcd]
endpoints = ["https://etcd-1:2379"]
user = "wgrelay"
password_file = "/etc/wgrelay/etcd-password"

[control.store.etcd.tls]
ca_file = "/etc/wgrelay/etcd-ca.pem"

[control.api]
listen = "203.0.113.1:9587"
tls_cert_file = "/etc/wgrelay/api.pem"
tls_key_file = "/etc/wgrelay/api.key"

[metrics]
listen = "127.0.0.1:9586"
"#;

    #[test]
    fn a_good_file_is_read() {
        let control = ServeConfig::parse(GOOD).unwrap().control;
        assert_eq!((control.source, control.store.kind), (Source::Store, StoreKind::Etcd));
        let tls = control.store.etcd.unwrap().tls.unwrap();
        assert_eq!(tls.ca_file, Path::new("/etc/wgrelay/etcd-ca.pem"));
        assert!(control.api.unwrap().tls().is_some());
        let nothing = ServeConfig::parse("").unwrap();
        assert_eq!(nothing.control, Control::default());
        assert_eq!(nothing.control.store.state_dir, Path::new("/var/lib/wgrelay"));
        assert_eq!(nothing.socket(), crate::config::default_socket());
        let socket = ServeConfig::parse("[relay]\nport = 1\nsocket = \"/run/a.sock\"").unwrap().socket();
        assert_eq!(socket, Path::new("/run/a.sock"));
    }

    #[test]
    fn faults_are_told_with_their_line_and_reason() {
        let (cert, key) =
            ("tls_cert_file = \"/etc/wgrelay/api.pem\"\n", "tls_key_file = \"/etc/wgrelay/api.key\"\n");
        for (from, to, line, part) in [
            ("\"store\"", "\"stores\"", 3, "unknown variant"),
            ("source =", "sauce =", 3, "unknown field"),
            ("\"etcd\"", "\"embedded\"", 8, "kind = \"etcd\""),
            ("[\"https://etcd-1:2379\"]", "[]", 9, "at least one endpoint"),
            ("https://etcd-1:2379", "etcd-1:2379", 9, "https://HOST:2379"),
            ("user = \"wgrelay\"\n", "", 10, "whose password"),
            ("source = \"store\"", "source = \"file\"", 16, "tokens are in the store"),
            (&format!("{cert}{key}"), "", 17, "plain HTTP would show all tokens"),
            (cert, "", 18, "tls_cert_file"),
            (key, "", 18, "tls_key_file"),
            ("203.0.113.1:9587", "203.0.113.1", 17, "socket address"),
        ] {
            assert!(GOOD.contains(from), "{from}");
            let text = GOOD.replacen(from, to, 1);
            let (span, reason) = ServeConfig::parse(&text).expect_err(to);
            let at = 1 + text[..span.expect("it has a place").start].matches('\n').count();
            assert!(reason.contains(part), "{from} → {to}: {reason}");
            assert_eq!(at, line, "{from} → {to}: {reason}");
        }
        let plain = "[control]\nsource = \"store\"\n[control.api]\nlisten = \"[::1]:9587\"";
        assert!(ServeConfig::parse(plain).is_ok(), "plain HTTP is good enough for this host itself");
    }

    const NETMAKER: &str = r#"
[control]
source = "netmaker"
failover_seconds = 0

[control.netmaker]
url = "https://api.nm.example.com"
token_file = "/etc/wgrelay/netmaker-token"
relayed = { hosts = ["b"] }
"#;

    #[test]
    fn a_netmaker_server_is_described_if_and_only_if_it_is_the_source() {
        let control = ServeConfig::parse(NETMAKER).unwrap().control;
        assert_eq!((control.source, control.failover_seconds), (Source::Netmaker, 0));
        assert_eq!(control.netmaker.unwrap().url.as_str(), "https://api.nm.example.com/");
        for (from, to, part) in [
            ("\"netmaker\"", "\"store\"", "source = \"netmaker\""),
            ("url = \"https:", "url = \"http:", "use https"),
            ("token_file", "tokens", "unknown field"),
            ("\"b\"", "", "nobody would be relayed"),
        ] {
            let (span, reason) = ServeConfig::parse(&NETMAKER.replacen(from, to, 1)).expect_err(to);
            assert!(reason.contains(part), "{from} → {to}: {reason}");
            assert!(span.is_some(), "{from} → {to}: it has a place");
        }
        let (_, reason) = ServeConfig::parse("[control]\nsource = \"netmaker\"").unwrap_err();
        assert!(reason.contains("[control.netmaker]"), "{reason}");
    }
}
