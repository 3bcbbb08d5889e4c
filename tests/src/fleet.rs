//! Relays that share a control plane, and hosts that join by themselves.

use std::{fs, net::Ipv4Addr, path::Path, process::Command, time::Duration};

use rustix::process::Signal;
use serde_json::Value;

use crate::{
    command::{Process, program, run},
    host::Host,
    internet::{Internet, Nat, public},
    lab::{Lab, Namespace},
    relay::{NUMBER, Relay, wgrelay},
    wait::until,
};

/// The public numbers of the two relays.
pub const RELAYS: [u8; 2] = [NUMBER, 6];
/// The public number of etcd.
const ETCD: u8 = 7;
/// The port of the relays' APIs.
const API: u16 = 9587;
/// The network of all hosts.
pub const NETWORK: &str = "mesh";
/// How long a host may take to join, its interface and all.
const JOINING: Duration = Duration::from_secs(15);

/// An etcd of one node, at a public node of its own.
#[derive(Debug)]
pub struct Etcd {
    namespace: Namespace,
    process: Option<Process>,
}

impl Etcd {
    /// Starts it, empty.
    pub fn new(internet: &Internet, lab: &Lab) -> Self {
        let namespace = lab.namespace("etcd");
        internet.attach(&namespace, "eth0", ETCD);
        let mut this = Self { namespace, process: None };
        this.start();
        this
    }

    /// Where it is reached.
    pub fn endpoint() -> String {
        format!("http://{}:2379", public(ETCD).0)
    }

    /// Starts it with the data that it has, and waits until it is healthy.
    pub fn start(&mut self) {
        let (lab, clients, peers) = (self.namespace.lab(), Self::endpoint(), "http://127.0.0.1:2380");
        let mut command = self.namespace.command("etcd");
        command.args(["--name", "one", "--log-level", "warn", "--data-dir"]).arg(lab.file("etcd"));
        command.args(["--listen-client-urls", &clients, "--advertise-client-urls", &clients]);
        command.args(["--listen-peer-urls", peers, "--initial-advertise-peer-urls", peers]);
        command.args(["--initial-cluster", &format!("one={peers}")]);
        let mut process = Process::start(&mut command, lab.file("etcd.log"));
        until("healthy etcd", Duration::from_secs(20), || {
            assert!(process.ended().is_none(), "etcd: {}", process.printed());
            let mut ask = self.namespace.command("curl");
            let answer =
                ask.args(["--silent", "--max-time", "2", &format!("{clients}/health")]).output().ok()?;
            String::from_utf8_lossy(&answer.stdout).contains("true").then_some(())
        });
        self.process = Some(process);
    }

    /// Kills it.
    pub fn kill(&mut self) {
        self.process.take().expect("etcd runs").stop(Signal::KILL);
    }
}

/// A host that has joined with `wgrelay join --watch`.
#[derive(Debug)]
pub struct Joined {
    /// The host: its name, namespace, key and address. Its WireGuard is not ours to start.
    pub host: Host,
    /// `wgrelay join --watch`.
    pub watching: Process,
}

impl Joined {
    /// `wg show` of its interface.
    pub fn wg(&self, what: &str) -> String {
        run(self.host.namespace.command("wg").args(["show", self.host.interface(), what]))
    }

    /// The endpoint that it has for a peer.
    pub fn endpoint(&self, key: &str) -> Option<String> {
        let all = self.wg("endpoints");
        let line = all.lines().find_map(|line| line.strip_prefix(key))?;
        Some(line.trim().to_owned())
    }
}

/// Two relays on one etcd, and hosts a and b behind NATs, c behind another.
#[derive(Debug)]
pub struct Fleet {
    /// The relays, by [`RELAYS`].
    pub relays: [Relay; 2],
    /// etcd.
    pub etcd: Etcd,
    /// The public network.
    pub internet: Internet,
    /// The NATs.
    pub nats: Vec<Nat>,
    /// Where hosts may join.
    pub places: Vec<Namespace>,
    /// The lab.
    pub lab: Lab,
}

impl Fleet {
    /// Makes it and starts etcd and the relays, which are records of network [`NETWORK`]. Hosts move away from a relay that
    /// has been gone for so many seconds.
    pub fn new(failover_seconds: u64) -> Self {
        let lab = Lab::new();
        let mut internet = Internet::new(&lab);
        let etcd = Etcd::new(&internet, &lab);
        certify(&lab, &RELAYS.map(|number| public(number).0.to_string()));
        let relays = RELAYS.map(|number| {
            let namespace = lab.namespace(&format!("relay-{number}"));
            internet.attach_for_xdp(&namespace, "eth0", number);
            let mut relay = Relay::numbered(&namespace, number);
            relay.control = control(&lab, number, failover_seconds);
            relay
        });
        let mut nat_a = Nat::at_internet(&internet, "nat-a", 2);
        let mut nat_b_carrier = Nat::at_internet(&internet, "nat-b-out", 3);
        let mut nat_b = Nat::behind(&mut nat_b_carrier, "nat-b");
        let mut nat_c = Nat::at_internet(&internet, "nat-c", 4);
        let places: Vec<Namespace> = ["a", "b", "c"].map(|role| lab.namespace(role)).into();
        nat_a.plug(&places[0]);
        nat_b.plug(&places[1]);
        nat_c.plug(&places[2]);
        let nats = vec![nat_a, nat_b_carrier, nat_b, nat_c];
        let mut fleet = Self { relays, etcd, internet, nats, places, lab };
        fleet.relays.iter_mut().for_each(Relay::start);
        fleet.relays[0].ask(&["network", "create", NETWORK, "--ipv4", "10.77.0.0/16"]);
        for relay in &fleet.relays {
            relay.ask(&["relay", "create", &relay.name(), "--network", NETWORK]);
        }
        fleet
    }

    /// An enrolment key with which hosts are relayed by this relay at once.
    pub fn key(&self, relay: &Relay) -> String {
        let key = relay.ask(&["key", "create", "--network", NETWORK, "--relay", &relay.name()]);
        key["secret"].as_str().expect("the secret is told").to_owned()
    }

    /// `wgrelay join --watch` at a place, by both relays' APIs. Returns when its interface is as configured.
    pub fn join(&self, place: usize, key: &str) -> Joined {
        let namespace = &self.places[place];
        let mut host = Host::new(namespace, 0);
        let mut command = namespace.command(&wgrelay().to_string_lossy());
        command.args([
            "join",
            "--watch",
            "--key",
            key,
            "--name",
            &host.name,
            "--interface",
            host.interface(),
        ]);
        for number in RELAYS {
            command.args(["--api", &format!("https://{}:{API}", public(number).0)]);
        }
        command.arg("--ca-file").arg(self.lab.file("api.pem"));
        command.arg("--state-dir").arg(self.lab.file("joined"));
        let mut watching = Process::start(&mut command, self.lab.file(&format!("join-{}.log", host.name)));
        until(&format!("interface of {}", host.name), JOINING, || {
            assert!(watching.ended().is_none(), "{} joins: {}", host.name, watching.printed());
            watching.printed().contains("peers are as configured").then_some(())
        });
        host.tunnel = address(&namespace.ip(&format!("-4 -oneline address show dev {}", host.interface())));
        let shown = run(namespace.command("wg").args(["show", host.interface(), "public-key"]));
        host.keys.public = shown.trim().to_owned();
        Joined { host, watching }
    }
}

fn address(shown: &str) -> Ipv4Addr {
    let cidr = shown.split_whitespace().skip_while(|word| *word != "inet").nth(1);
    let address = cidr.and_then(|cidr| cidr.split('/').next()?.parse().ok());
    address.unwrap_or_else(|| panic!("no address in {shown}"))
}

/// The `[control]` of the relay with this number.
fn control(lab: &Lab, number: u8, failover_seconds: u64) -> String {
    let [cert, key] = ["api.pem", "api.key"].map(|name| lab.file(name).display().to_string());
    format!(
        "\n[control]\nsource = 'store'\nfailover_seconds = {failover_seconds}\n\
         [control.store]\nkind = 'etcd'\n[control.store.etcd]\nendpoints = ['{}']\n\
         [control.api]\nlisten = '{}:{API}'\ntls_cert_file = '{cert}'\ntls_key_file = '{key}'\n",
        Etcd::endpoint(),
        public(number).0,
    )
}

/// Makes a certificate for these addresses: `api.pem`, and its key, `api.key`.
pub fn certify(lab: &Lab, addresses: &[String]) {
    let certified = rcgen::generate_simple_self_signed(addresses).expect("certify");
    fs::write(lab.file("api.pem"), certified.cert.pem()).expect("write a certificate");
    fs::write(lab.file("api.key"), certified.signing_key.serialize_pem()).expect("write a key");
}

/// What a `wgrelay` command that talks to the API at this socket prints, as JSON.
#[track_caller]
pub fn ask(socket: &Path, arguments: &[&str]) -> Value {
    let mut command: Command = program(wgrelay());
    let text = run(command.args(arguments).arg("--json").arg("--socket").arg(socket));
    // Of what is deleted there is nothing to tell.
    let text = if text.trim().is_empty() { "null" } else { text.as_str() };
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {text}"))
}
