//! Hosts that join by themselves: their interfaces become and stay what the control plane says.

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command as Program,
    time::Duration,
};

use base64::prelude::{BASE64_STANDARD, Engine as _};
use relay_tests::{
    Host, Lab, Namespace,
    command::{Process, run, run_with_input},
    fleet::certify,
    relay::wgrelay,
    until,
};
use relay_user::{
    members::{PublicKey, RateLimit},
    model::{Command, Hosts, Membership, Name, Network, NewMember, NewRelay, Relay},
    store::{Embedded, Writer, unix_time},
};
use rustix::process::Signal;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

/// How soon a change at the control plane must be at a host.
const LIVE: Duration = Duration::from_secs(5);
/// How long a handshake may take that somebody has begun.
const HANDSHAKE: Duration = Duration::from_secs(10);

const PORT: u16 = 51820;
const API: &str = "https://192.0.2.1:9587";
const PEER: [&str; 2] = ["192.0.2.9", "192.0.2.19"];

/// A control plane, two relays that are no more than WireGuard interfaces, a public host, and one that joins; all on one
/// cable.
struct World {
    lab: Lab,
    host: Namespace,
    relays: [Host; 2],
    peer: Host,
    plane: Namespace,
    serving: Option<Process>,
    key: String,
}

fn name(text: &str) -> Name {
    text.parse().expect("a good name")
}

fn key_of(host: &Host) -> PublicKey {
    PublicKey::from_base64(&host.keys.public).expect("wg makes keys")
}

impl World {
    fn new() -> Self {
        let lab = Lab::new();
        let switch = lab.namespace("switch");
        switch.ip("link add br0 type bridge");
        switch.ip("link set br0 up");
        let node = |role: &str, addresses: &[&str]| {
            let namespace = lab.namespace(role);
            let port = format!("to-{role}");
            namespace.connect("eth0", &switch, &port);
            switch.ip(&format!("link set {port} master br0"));
            for address in addresses {
                namespace.ip(&format!("address add {address}/24 dev eth0"));
            }
            namespace
        };
        let plane = node("plane", &["192.0.2.1"]);
        let relays = [("r1", "192.0.2.11", 1), ("r2", "192.0.2.12", 2)]
            .map(|(role, address, number)| Host::new(&node(role, &[address]), number).listening_on(PORT));
        let peer = Host::new(&node("p", &PEER), 9).listening_on(PORT);
        let host = node("h", &["192.0.2.20"]);
        let mut world = Self { lab, host, relays, peer, plane, serving: None, key: String::new() };
        world.relays.iter_mut().for_each(Host::start);
        world.peer.start();
        certify(&world.lab, &["192.0.2.1".to_owned()]);
        world.fill_store();
        world.serve();
        let made = world.wgrelay(&["key", "create", "--network", "mesh", "--relay", "r1", "--json"]);
        world.key = made["secret"].as_str().expect("the secret is told").to_owned();
        world
    }

    /// What only relays find out: that these hosts have their keys.
    fn fill_store(&self) {
        let mut commands = vec![Command::CreateNetwork(Network {
            name: name("mesh"),
            ipv4: Some("10.77.0.0/16".parse().expect("a prefix")),
            ipv6: Some("fd77::/64".parse().expect("a prefix")),
        })];
        for host in self.relays.iter().chain([&self.peer]) {
            let place = Membership { ipv4: Some(host.tunnel), ..Membership::of(name("mesh")) };
            let routes =
                if host.name == "p" { vec!["172.16.9.0/24".parse().expect("a range")] } else { Vec::new() };
            let endpoints = if host.name == "p" { vec![at(PEER[0])] } else { Vec::new() };
            commands.push(Command::CreateMember(NewMember {
                name: name(&host.name),
                public_key: key_of(host),
                networks: vec![Membership { routes, ..place }],
                endpoints,
                rate_limit: RateLimit::default(),
                tags: Vec::new(),
                owner: None,
            }));
        }
        for (relay, address) in self.relays.iter().zip(["192.0.2.11", "192.0.2.12"]) {
            let addresses = vec![address.parse().expect("an address")];
            let relay = Relay { name: name(&relay.name), addresses, port: PORT, private: false };
            commands.push(Command::CreateRelay(NewRelay { relay, hosts: Hosts::Named(Vec::new()) }));
        }
        commands.push(Command::Activate(self.relays.iter().chain([&self.peer]).map(key_of).collect()));
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().expect("tokio starts");
        runtime.block_on(async {
            let store = Embedded::open(&self.lab.file("store")).await.expect("a store");
            let stop = CancellationToken::new();
            let (writer, task) = Writer::start(std::sync::Arc::new(store), unix_time, stop.clone())
                .await
                .expect("a sound store");
            for command in commands {
                writer.write(command).await.expect("a good command");
            }
            stop.cancel();
            task.await.expect("the writer ends");
        });
    }

    fn serve(&mut self) {
        let file = self.lab.file("serve.toml");
        let [store, cert, key] =
            ["store", "api.pem", "api.key"].map(|name| self.lab.file(name).display().to_string());
        let text = format!(
            "[control]\nsource = 'store'\n[control.store]\nstate_dir = '{store}'\n\
             [control.api]\nlisten = '192.0.2.1:9587'\ntls_cert_file = '{cert}'\ntls_key_file = '{key}'\n"
        );
        fs::write(&file, text).expect("write a configuration");
        let mut command = self.plane.command(&path(&wgrelay()));
        command.args(["serve", "--config"]).arg(&file).arg("--socket").arg(self.socket());
        let mut process = Process::start(&mut command, self.lab.file("serve.log"));
        until("API", LIVE, || {
            assert!(process.ended().is_none(), "{}", process.printed());
            process.printed().contains("ready").then_some(())
        });
        self.serving = Some(process);
    }

    fn socket(&self) -> PathBuf {
        self.lab.file("serve.sock")
    }

    /// Asks the control plane, as its administrator.
    fn wgrelay(&self, arguments: &[&str]) -> Value {
        let mut command = Program::new(wgrelay());
        let text = run(command.args(arguments).arg("--socket").arg(self.socket()));
        serde_json::from_str(&text).unwrap_or_default()
    }

    fn interface(&self) -> String {
        self.lab.id().interface("j")
    }

    fn state(&self) -> PathBuf {
        self.lab.file("state")
    }

    /// `wgrelay join` or `leave` on the host.
    fn on_host(&self, arguments: &[&str]) -> Program {
        let mut command = self.host.command(&path(&wgrelay()));
        command.args(arguments).args(["--interface", &self.interface()]).arg("--state-dir").arg(self.state());
        command
    }

    fn join(&self, more: &[&str]) -> Program {
        let mut command = self.on_host(&["join", "--key", &self.key, "--name", "h", "--api", API]);
        command.arg("--ca-file").arg(self.lab.file("api.pem")).args(more);
        command
    }

    fn watch(&self, more: &[&str]) -> Process {
        let mut command = self.join(more);
        let process = Process::start(command.arg("--watch"), self.lab.file("join.log"));
        until("joined host", LIVE, || process.printed().contains("peers are as configured").then_some(()));
        process
    }

    /// The host's interface.
    fn device(&self) -> Device {
        let dump = run(self.host.command("wg").args(["show", &self.interface(), "dump"]));
        Device::read(&dump)
    }

    fn await_device(&self, what: &str, is: impl Fn(&Device) -> bool) -> Device {
        until(what, LIVE, || Some(self.device()).filter(|device| is(device)))
    }

    /// Lets somebody's WireGuard accept the host.
    fn accept(&self, other: &Host) {
        let key = self.device().public_key;
        let interface = self.lab.id().interface(&other.name);
        run(other.namespace.command("wg").args([
            "set",
            &interface,
            "peer",
            &key,
            "allowed-ips",
            "10.77.0.3/32",
        ]));
        other.namespace.ip(&format!("route replace 10.77.0.3/32 dev {interface}"));
    }

    fn ping(&self, to: &Host) {
        let mut ping = self.host.command("ping");
        ping.args(["-c", "1", "-W", "1", &to.tunnel.to_string()]);
        until(&format!("way to {}", to.name), HANDSHAKE, || {
            ping.output().ok()?.status.success().then_some(())
        });
    }
}

fn path(path: &Path) -> String {
    path.to_str().expect("a plain path").to_owned()
}

fn at(address: &str) -> SocketAddr {
    SocketAddr::new(address.parse().expect("an address"), PORT)
}

/// What `wg show … dump` says.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Device {
    private_key: String,
    public_key: String,
    /// By public key: endpoint, allowed IPs, time of the last handshake, keepalive.
    peers: BTreeMap<String, [String; 4]>,
}

impl Device {
    fn read(dump: &str) -> Self {
        let mut lines = dump.lines().map(|line| line.split('\t').map(str::to_owned).collect::<Vec<_>>());
        let own = lines.next().expect("the device's line");
        let peer = |line: Vec<String>| {
            let [key, _, endpoint, ips, handshake, _, _, keepalive] =
                <[String; 8]>::try_from(line).expect("eight fields");
            (key, [endpoint, ips, handshake, keepalive])
        };
        let (private_key, public_key) = (own[0].clone(), own[1].clone());
        Self { private_key, public_key, peers: lines.map(peer).collect() }
    }

    fn endpoint(&self, host: &Host) -> Option<&str> {
        self.peers.get(&host.keys.public).map(|peer| peer[0].as_str())
    }

    fn handshake(&self, host: &Host) -> u64 {
        self.peers[&host.keys.public][2].parse().expect("a time")
    }

    fn keepalive(&self, host: &Host) -> &str {
        &self.peers[&host.keys.public][3]
    }
}

#[test]
fn a_host_joins_with_a_key_and_its_interface_is_what_the_control_plane_says() {
    let world = World::new();
    run(&mut world.join(&[]));
    let device = world.device();
    let [r1, r2] = &world.relays;
    assert_eq!(device.peers.len(), 3);
    assert_eq!(device.endpoint(r1), Some("192.0.2.11:51820"));
    assert_eq!(device.endpoint(r2), Some("192.0.2.12:51820"));
    assert_eq!(device.endpoint(&world.peer), Some("192.0.2.11:51820"), "by its relay");
    assert_eq!((device.keepalive(r1), device.keepalive(r2)), ("25", "off"));

    let interface = world.interface();
    let link = world.host.ip(&format!("address show dev {interface}"));
    assert!(link.contains("inet 10.77.0.3/16") && link.contains("inet6 fd77::4/64"), "{link}");
    assert!(link.contains("mtu 1280"), "{link}");
    assert!(world.host.ip(&format!("route show dev {interface}")).contains("172.16.9.0/24"));

    let file = world.state().join(&interface).join("private.key");
    assert_eq!(fs::read_to_string(&file).unwrap().trim(), device.private_key);
    for file in [file, world.state().join(&interface).join("member.json")] {
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600, "{}", file.display());
    }

    // It is good for a handshake with the relay.
    world.accept(r1);
    world.ping(r1);

    // Again: with the key, which is not used up by that, and without.
    let member = world.wgrelay(&["member", "show", "h", "--json"]);
    let before = Device { peers: endpoints(&world.device()), ..device };
    run(&mut world.join(&[]));
    run(&mut world.on_host(&["join"]));
    assert_eq!(Device { peers: endpoints(&world.device()), ..world.device() }, before);
    assert_eq!(world.wgrelay(&["member", "show", "h", "--json"]), member);

    // Another interface of that name is not touched.
    let other_state = world.lab.file("other");
    let mut other = world.host.command(&path(&wgrelay()));
    other.args(["join", "--key", &world.key, "--name", "other", "--api", API, "--interface", &interface]);
    other.arg("--ca-file").arg(world.lab.file("api.pem")).arg("--state-dir").arg(&other_state);
    let output = other.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("has another key"), "{said}");
    assert_eq!(world.device().public_key, before.public_key);
}

/// Without the times of handshakes.
fn endpoints(device: &Device) -> BTreeMap<String, [String; 4]> {
    let timeless = |[endpoint, ips, _, keepalive]: [String; 4]| [endpoint, ips, String::new(), keepalive];
    device.peers.clone().into_iter().map(|(key, peer)| (key, timeless(peer))).collect()
}

#[test]
fn a_host_that_watches_follows_every_change_and_keeps_what_did_not_change() {
    let mut world = World::new();
    let watching = world.watch(&[]);
    let [r1, r2] = &world.relays;
    world.accept(r1);
    world.ping(r1);
    let shaken = world.device().handshake(r1);

    // A new relay, and a peer that has moved by itself.
    let roamed = "192.0.2.99:1024";
    let interface = world.interface();
    run(world.host.command("wg").args(["set", &interface, "peer", &r2.keys.public, "endpoint", roamed]));
    let key = BASE64_STANDARD.encode([7; 32]);
    let r3 = ["relay", "create", "r3", "--network", "mesh", "--public-key", &key];
    world.wgrelay(&[&r3[..], &["--address", "192.0.2.13", "--port", "51820", "--json"]].concat());
    let device = world.await_device("third relay", |device| device.peers.contains_key(&key));
    assert_eq!(device.endpoint(r2), Some(roamed), "where WireGuard has followed it");
    assert_eq!(device.handshake(r1), shaken, "its session stays");
    world.wgrelay(&["relay", "delete", "r3", "--yes"]);
    world.wgrelay(&["member", "delete", "r3"]);
    world.await_device("end of the third relay", |device| !device.peers.contains_key(&key));

    // The other relay.
    world.wgrelay(&["relay", "add-host", "r2", "h"]);
    let device = world.await_device("other relay", |device| device.keepalive(r2) == "25");
    assert_eq!(device.endpoint(&world.peer), Some("192.0.2.12:51820"));
    assert_eq!(device.keepalive(r1), "off");
    assert_eq!(device.handshake(r1), shaken, "of what stays where it is the session does, too");

    // The control plane is away for a while: nothing happens, and then it is followed again.
    world.serving.take().unwrap().stop(Signal::KILL);
    until("complaint", LIVE, || watching.printed().contains("it is tried again").then_some(()));
    assert_eq!(endpoints(&world.device()), endpoints(&device));
    world.serve();
    world.host.ip(&format!("link delete {interface}"));
    world.wgrelay(&["relay", "add-host", "r1", "h"]);
    // Its pauses grow up to half a minute.
    until("interface", Duration::from_secs(40), || {
        let mut wg = world.host.command("wg");
        wg.args(["show", &interface, "dump"]).output().ok()?.status.success().then_some(())
    });
    let [r1, _] = &world.relays;
    world.await_device("former relay", |device| {
        device.peers.len() == 3 && device.endpoint(&world.peer) == Some("192.0.2.11:51820")
    });
    assert_eq!(world.device().keepalive(r1), "25");

    // The interface stays when the process ends.
    let status = watching.stop(Signal::TERM);
    assert!(status.success(), "{status}");
    assert_eq!(world.device().peers.len(), 3);
    run(&mut world.on_host(&["leave"]));
    assert!(!world.host.ip("link").contains(&interface));
    assert!(!world.state().join(&interface).exists());
    let members = world.wgrelay(&["member", "list", "--json"]);
    assert!(members.as_array().unwrap().iter().all(|member| member["name"] != "h"), "{members}");
}

#[test]
fn a_peer_that_is_reached_elsewhere_from_now_on_gets_a_handshake_at_once() {
    let world = World::new();
    let _watching = world.watch(&["--via-relay", "needed"]);
    assert_eq!(world.device().endpoint(&world.peer), Some("192.0.2.9:51820"), "directly");
    world.accept(&world.peer);
    world.ping(&world.peer);
    let before = world.device().handshake(&world.peer);
    // The times that wg shows are whole seconds.
    std::thread::sleep(Duration::from_secs(1));
    world.wgrelay(&["member", "change", "p", "--endpoint", "192.0.2.19:51820"]);
    // Nobody sends anything.
    let device = world.await_device("handshake", |device| device.handshake(&world.peer) > before);
    assert_eq!(device.endpoint(&world.peer), Some("192.0.2.19:51820"));
}

#[test]
fn a_bad_key_and_an_api_that_is_not_there_are_told() {
    let world = World::new();
    let fails = |mut command: Program, words: &str| {
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(words), "{said}");
    };
    let ca = path(&world.lab.file("api.pem"));
    let join = |key: &str, api: &str, ca: &str| {
        world.on_host(&["join", "--key", key, "--name", "h", "--api", api, "--ca-file", ca])
    };
    fails(world.on_host(&["join"]), "give an enrolment key");
    let unknown = format!("unknown.{}", "A".repeat(43));
    fails(join(&unknown, API, &ca), "there is no such enrolment key");
    fails(join(&world.key, "http://192.0.2.1:9587", &ca), "use https");
    fails(join(&world.key, "https://192.0.2.1:1", &ca), "can't be reached");
    fails(world.on_host(&["join", "--key", &world.key, "--name", "h", "--api", API]), "can't be reached");
    fails(world.on_host(&["leave"]), "has not joined");
    // Nothing was made.
    assert!(!world.host.ip("link").contains(&world.interface()));
    let keys = world.wgrelay(&["key", "list", "--json"]);
    assert_eq!(keys[0]["uses_left"], Value::Null);
    // And the next try goes well, by the place that answers.
    let mut command = world.join(&[]);
    run(command.args(["--api", "https://192.0.2.1:1"]));
}

#[test]
fn curl_and_wg_quick_are_enough() {
    let world = World::new();
    let (dir, interface) = (world.lab.file("quick"), world.interface());
    fs::create_dir(&dir).unwrap();
    let script = include_str!("../../../docs/join.sh");
    let mut shell = world.host.command("sh");
    shell.args(["-eu", "-s"]).current_dir(&dir);
    shell.env("API", API).env("KEY", &world.key).env("NAME", "h").env("INTERFACE", &interface);
    shell.env("CURL_CA_BUNDLE", world.lab.file("api.pem"));
    shell.env("WG_QUICK_USERSPACE_IMPLEMENTATION", "wireguard-go");
    run_with_input(&mut shell, script);
    let [r1, _] = &world.relays;
    let device = world.device();
    assert_eq!(device.endpoint(r1), Some("192.0.2.11:51820"));
    assert_eq!(device.endpoint(&world.peer), Some("192.0.2.11:51820"));
    let file = dir.join(format!("{interface}.conf"));
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.contains("# The owner's secret, told this once: h."), "{text}");
    world.accept(r1);
    world.ping(r1);
}
