//! The relay: wgrelay in a namespace, and what it tells of itself.

use std::{
    fmt::Write as _,
    fs,
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpStream},
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
    process::{Command, ExitStatus, Output},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rustix::process::Signal;
use serde::Deserialize;

use crate::{
    command::{Process, program, run},
    fleet::ask,
    host::{Host, Keys},
    internet::public,
    lab::Namespace,
    wait::until,
};
use relay_user::status::{TurnStatus, UnknownSource};

/// The relay port.
pub const PORT: u16 = 51820;
/// The public number of the relay, where there is one.
pub const NUMBER: u8 = 1;
const METRICS: &str = "127.0.0.1:9586";

/// A `[[member]]` of the configuration.
#[derive(Clone, Debug)]
pub struct Member {
    /// Name.
    pub name: String,
    /// Public key, base64.
    pub public_key: String,
    /// Whether it is relayed here.
    pub relayed: bool,
    /// Static endpoints.
    pub endpoints: Vec<SocketAddr>,
}

impl Member {
    /// A host that is relayed here.
    pub fn relayed(host: &Host) -> Self {
        let (name, public_key) = (host.name.clone(), host.keys.public.clone());
        Self { name, public_key, relayed: true, endpoints: Vec::new() }
    }

    /// A host with static endpoints, perhaps none.
    pub fn at(host: &Host, endpoints: &[SocketAddr]) -> Self {
        Self { relayed: false, endpoints: endpoints.to_vec(), ..Self::relayed(host) }
    }

    /// A relayed host that is nowhere.
    pub fn invented() -> Self {
        let key: [u8; 32] = std::array::from_fn(|_| fastrand::u8(1..));
        let public_key = STANDARD.encode(key);
        Self {
            name: format!("invented-{:08x}", fastrand::u32(..)),
            public_key,
            relayed: true,
            endpoints: Vec::new(),
        }
    }
}

/// wgrelay, its configuration and its namespace.
#[derive(Debug)]
pub struct Relay {
    /// Where it is.
    pub namespace: Namespace,
    /// Its public number.
    pub number: u8,
    /// The keys of its WireGuard interface.
    pub keys: Keys,
    /// Its WireGuard interface.
    pub interface: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// The interfaces that get the XDP program.
    pub attach: Vec<String>,
    /// Who is relayed. [`Self::write_configuration`] makes a change known.
    pub members: Vec<Member>,
    /// The end of the configuration: `[control]`.
    pub control: String,
    /// What the configuration says otherwise than by default: pairs of a text in it and what stands there instead.
    pub changes: Vec<(String, String)>,
    /// What the configuration says of what is kept at the end.
    pub keep: Option<bool>,
    /// The program, if it is another than the one under test.
    pub binary: Option<PathBuf>,
    process: Option<Process>,
    runs: u32,
}

/// The program under test.
pub fn wgrelay() -> PathBuf {
    if let Some(path) = std::env::var_os("WGRELAY_BIN") {
        return path.into();
    }
    let exe = std::env::current_exe().expect("know the own path");
    // <target>/<profile>/demo, <target>/<profile>/deps/lab-…
    let candidates = exe.ancestors().skip(1).take(2).map(|directory| directory.join("wgrelay"));
    let found = candidates.into_iter().find(|path| path.exists());
    found.unwrap_or_else(|| panic!("no wgrelay near {}: run `cargo xtask build`", exe.display()))
}

impl Relay {
    /// A relay in this namespace, with the addresses of public node [`NUMBER`] and its `eth0`. It is not started yet.
    pub fn new(namespace: &Namespace) -> Self {
        Self::numbered(namespace, NUMBER)
    }

    /// Likewise, with the addresses of another public node.
    pub fn numbered(namespace: &Namespace, number: u8) -> Self {
        let lab = namespace.lab();
        let (v4, v6) = public(number);
        Self {
            number,
            keys: Keys::new(lab, namespace.role()),
            interface: lab.id().interface(&format!("r{number}")),
            namespace: namespace.clone(),
            addresses: vec![v4.into(), v6.into()],
            attach: vec!["eth0".to_owned()],
            members: Vec::new(),
            control: String::new(),
            changes: Vec::new(),
            keep: None,
            binary: None,
            process: None,
            runs: 0,
        }
    }

    /// The endpoint, of a family, of the relay with number [`NUMBER`].
    pub fn endpoint(outer: Outer) -> SocketAddr {
        let (v4, v6) = public(NUMBER);
        SocketAddr::new(if outer == Outer::Ipv4 { v4.into() } else { v6.into() }, PORT)
    }

    /// The configuration file.
    pub fn file(&self) -> PathBuf {
        self.named("toml")
    }

    /// Where wgrelay pins its maps.
    pub fn pins(&self) -> PathBuf {
        self.namespace.lab().id().bpffs().join(self.namespace.role())
    }

    /// Its state directory.
    pub fn state_dir(&self) -> PathBuf {
        self.named("state")
    }

    /// The file with what outlives a reboot.
    pub fn state_file(&self) -> PathBuf {
        self.state_dir().join(format!("relay-{}.json", self.interface))
    }

    /// Its control socket.
    pub fn socket(&self) -> PathBuf {
        self.named("sock")
    }

    fn named(&self, extension: &str) -> PathBuf {
        self.namespace.lab().file(&format!("{}.{extension}", self.namespace.role()))
    }

    /// The configuration, as text.
    pub fn configuration(&self) -> String {
        let mut text = format!(
            r#"[relay]
name = "relay-{}"
interface = "{}"
create = true
private_key_file = "{}"
port = {PORT}
addresses = {:?}
attach = {:?}
xdp_mode = "auto"
policy = "members"
deny = []
pin_dir = "{}"
socket = "{}"
state_dir = "{}"
{}
[metrics]
listen = "{METRICS}"

[limits]
sessions = 65536
"#,
            self.number,
            self.interface,
            self.keys.private_file.display(),
            self.addresses.iter().map(ToString::to_string).collect::<Vec<_>>(),
            self.attach,
            self.pins().display(),
            self.socket().display(),
            self.state_dir().display(),
            self.keep.map(|keep| format!("keep = {keep}\n")).unwrap_or_default(),
        );
        for member in &self.members {
            let Member { name, public_key, relayed, endpoints } = member;
            let mut line = |line: String| writeln!(text, "{line}").expect("write to a string");
            line(format!(
                "\n[[member]]\nname = {name:?}\npublic_key = {public_key:?}\nnetworks = [\"mesh\"]"
            ));
            if *relayed {
                line("relayed = true".to_owned());
            }
            if !endpoints.is_empty() {
                let all: Vec<_> = endpoints.iter().map(|endpoint| format!("\"{endpoint}\"")).collect();
                line(format!("endpoints = [{}]", all.join(", ")));
            }
        }
        text.push_str(&self.control);
        for (from, to) in &self.changes {
            assert!(text.contains(from.as_str()), "the configuration has no {from}");
            text = text.replace(from.as_str(), to);
        }
        text
    }

    /// Writes the configuration file, in one step as a careful editor does.
    pub fn write_configuration(&self) {
        let new = self.named("toml.new");
        fs::write(&new, self.configuration()).expect("write the configuration");
        fs::rename(new, self.file()).expect("put the configuration in place");
    }

    /// The command that runs it.
    pub fn command(&self) -> Command {
        let binary = self.binary.clone().unwrap_or_else(wgrelay);
        let mut command = self.namespace.command(&binary.to_string_lossy());
        command.arg("run").arg("--config").arg(self.file());
        command
    }

    /// Writes its configuration, starts it and waits until it forwards.
    #[track_caller]
    pub fn start(&mut self) {
        assert!(self.process.is_none(), "wgrelay runs already");
        self.write_configuration();
        self.runs += 1;
        let log = self.named(&format!("{}.log", self.runs));
        let mut process = Process::start(&mut self.command(), log);
        until("ready wgrelay", Duration::from_secs(60), || {
            if let Some(status) = process.ended() {
                panic!("wgrelay ended with {status}:\n{}", process.printed());
            }
            (process.printed().contains("ready") && self.try_status().is_some()).then_some(())
        });
        self.process = Some(process);
    }

    /// Starts it when it is expected not to run, and gives what it said and its status.
    #[track_caller]
    pub fn start_and_fail(&self, command: &mut Command) -> (ExitStatus, String) {
        let log = self.named("failing.log");
        let mut process = Process::start(command, log);
        let status = until("end of a wgrelay that can't run", Duration::from_secs(15), || process.ended());
        (status, process.printed())
    }

    /// Stops it with a signal.
    #[track_caller]
    pub fn stop(&mut self, signal: Signal) -> ExitStatus {
        self.process.take().expect("wgrelay runs").stop(signal)
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        self.process.as_ref().expect("wgrelay runs").signal(signal);
    }

    /// Stops it with a signal, and starts it again.
    #[track_caller]
    pub fn restart(&mut self, signal: Signal) {
        self.stop(signal);
        self.start();
    }

    /// Starts it and kills it soon after, wherever it is by then.
    #[track_caller]
    pub fn start_and_kill(&mut self, after: Duration) {
        self.write_configuration();
        self.runs += 1;
        let process = Process::start(&mut self.command(), self.named(&format!("{}.log", self.runs)));
        std::thread::sleep(after);
        process.stop(Signal::KILL);
    }

    /// `wgrelay unload`: what it printed.
    #[track_caller]
    pub fn unload(&self) -> String {
        let mut command = self.namespace.command(&wgrelay().to_string_lossy());
        run(command.arg("unload").arg("--pin-dir").arg(self.pins()))
    }

    /// What it has said since its last start.
    pub fn said(&self) -> String {
        self.process.as_ref().expect("wgrelay runs").printed()
    }

    /// How often it has taken over another configuration since its last start.
    pub fn taken_over(&self) -> usize {
        self.said().matches("configuration taken over").count()
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("wgrelay runs").id()
    }

    /// The id of the XDP program on its first interface.
    #[track_caller]
    pub fn program_id(&self) -> u64 {
        let links = self.namespace.ip(&format!("-j link show {}", self.attach[0]));
        let links: serde_json::Value = serde_json::from_str(&links).expect("ip prints JSON");
        let id = links[0]["xdp"]["prog"]["id"].as_u64();
        id.unwrap_or_else(|| panic!("no XDP program: {links}"))
    }

    /// Its pinned links and their inodes, which are others if they were made anew.
    #[track_caller]
    pub fn links(&self) -> Vec<(String, u64)> {
        let mut links: Vec<_> = self.pinned().filter(|(name, _)| name.starts_with("link-")).collect();
        links.sort();
        links
    }

    /// All that it has pinned, by name and inode.
    fn pinned(&self) -> impl Iterator<Item = (String, u64)> {
        let entries = |path: PathBuf| fs::read_dir(path).into_iter().flatten().filter_map(Result::ok);
        let pins = entries(self.pins()).flat_map(move |version| entries(version.path()));
        pins.map(|pin| (pin.file_name().to_string_lossy().into_owned(), pin.metadata().expect("a pin").ino()))
    }

    /// What it is called.
    pub fn name(&self) -> String {
        format!("relay-{}", self.number)
    }

    /// What one of the commands of its control plane prints, as JSON.
    #[track_caller]
    pub fn ask(&self, arguments: &[&str]) -> serde_json::Value {
        ask(&self.socket(), arguments)
    }

    /// One of its commands that look at the running relay: `status`, `hosts`, `sessions` or `sources`.
    pub fn query(&self, what: &str, arguments: &[&str]) -> Output {
        let mut command = program(wgrelay());
        command.arg(what).arg("--socket").arg(self.socket()).args(arguments);
        command.output().expect("start wgrelay")
    }

    fn json<T: serde::de::DeserializeOwned>(&self, what: &str) -> Option<T> {
        let output = self.query(what, &["--json"]);
        if !output.status.success() {
            return None;
        }
        let parsed = serde_json::from_slice(&output.stdout);
        Some(parsed.unwrap_or_else(|e| panic!("{what}: {e}: {}", String::from_utf8_lossy(&output.stdout))))
    }

    fn try_status(&self) -> Option<Status> {
        self.json("status")
    }

    /// `wgrelay status`.
    #[track_caller]
    pub fn status(&self) -> Status {
        self.try_status().expect("wgrelay tells its status")
    }

    /// `wgrelay hosts`.
    #[track_caller]
    pub fn hosts(&self) -> Vec<HostStatus> {
        self.json("hosts").expect("wgrelay tells its hosts")
    }

    /// The member with this name in `wgrelay hosts`.
    #[track_caller]
    pub fn host(&self, name: &str) -> HostStatus {
        let found = self.hosts().into_iter().find(|host| host.name == name);
        found.unwrap_or_else(|| panic!("wgrelay tells nothing of {name}"))
    }

    /// `wgrelay sessions`: one for each direction.
    #[track_caller]
    pub fn sessions(&self) -> Vec<SessionStatus> {
        self.json("sessions").expect("wgrelay tells its sessions")
    }

    /// `wgrelay sources`: unknown sources, those with the most packets first.
    #[track_caller]
    pub fn sources(&self) -> Vec<UnknownSource> {
        self.json("sources").expect("wgrelay tells of unknown sources")
    }

    /// Waits until a host's endpoint is known.
    #[track_caller]
    pub fn await_registration(&self, host: &Host, limit: Duration) -> SocketAddr {
        until(&format!("registration of {}", host.name), limit, || {
            self.host(&host.name).endpoint?.parse().ok()
        })
    }

    /// What the metrics endpoint says.
    #[track_caller]
    pub fn metrics(&self) -> String {
        let response = self.namespace.enter(|| {
            let mut stream = TcpStream::connect(METRICS).expect("connect to the metrics endpoint");
            write!(stream, "GET /metrics HTTP/1.1\r\nHost: relay\r\nConnection: close\r\n\r\n").expect("ask");
            let mut response = String::new();
            stream.read_to_string(&mut response).expect("read metrics");
            response
        });
        let (head, body) = response.split_once("\r\n\r\n").expect("HTTP has a head and a body");
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        body.to_owned()
    }

    /// `wg show INTERFACE WHAT` on it.
    #[track_caller]
    pub fn wg(&self, arguments: &[&str]) -> String {
        run(self.namespace.command("wg").args(arguments))
    }
}

/// The family of the packets that carry the tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outer {
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
}

impl Outer {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::Ipv4, Self::Ipv6];

    /// As it is printed.
    pub fn label(self) -> &'static str {
        match self {
            Self::Ipv4 => "ipv4",
            Self::Ipv6 => "ipv6",
        }
    }
}

/// `wgrelay status --json`, as far as the lab looks at it.
#[derive(Clone, Debug, Deserialize)]
pub struct Status {
    /// Interfaces with the XDP program.
    pub xdp: Vec<Attachment>,
    /// Members in the file.
    pub members: u64,
    /// Handshakes under way.
    pub pending: u64,
    /// How full tables are.
    pub maps: Vec<MapUse>,
    /// Relayed members with a known endpoint.
    pub registered: u64,
    /// Relayed sessions (pairs of directions).
    pub sessions: u64,
    /// What the XDP program counted.
    pub counters: Vec<Counter>,
    /// Handshakes by outcome.
    pub handshakes: Vec<Handshakes>,
    /// What passed through userspace.
    pub userspace: Userspace,
    /// Events that were lost.
    pub ring_lost: u64,
    /// Next hops.
    pub next_hops: NextHops,
    /// The configuration file.
    pub source: Source,
    /// The TURN server.
    pub turn: Option<TurnStatus>,
}

/// How full a table is.
#[derive(Clone, Debug, Deserialize)]
pub struct MapUse {
    /// Its name.
    pub map: String,
    /// Entries in use.
    pub used: u64,
}

/// An interface with the XDP program.
#[derive(Clone, Debug, Deserialize)]
pub struct Attachment {
    /// Its name.
    pub interface: String,
    /// `driver` or `generic`.
    pub mode: String,
}

/// Packets with one reason and family.
#[derive(Clone, Debug, Deserialize)]
pub struct Counter {
    /// Why.
    pub reason: String,
    /// `ipv4`, `ipv6`, `ipv4_to_ipv6`, `ipv6_to_ipv4` or `other`.
    pub family: String,
    /// How many.
    pub packets: u64,
}

/// Handshakes with one outcome.
#[derive(Clone, Debug, Deserialize)]
pub struct Handshakes {
    /// What came of them.
    pub outcome: String,
    /// How many.
    pub count: u64,
}

/// What passed through userspace.
#[derive(Clone, Debug, Deserialize)]
pub struct Userspace {
    /// Handshake messages taken up.
    pub handshake_messages: u64,
    /// Data packets.
    pub data_packets: u64,
    /// Hosts told that a packet of theirs was too big.
    pub too_big_sent: u64,
    /// Such messages that were not believed.
    pub too_big_ignored: u64,
    /// Messages sent that failed.
    pub send_errors: u64,
}

/// Next hops.
#[derive(Clone, Debug, Deserialize)]
pub struct NextHops {
    /// How many.
    pub known: u64,
    /// Those with a MAC address.
    pub resolved: u64,
}

/// The configuration file.
#[derive(Clone, Debug, Deserialize)]
pub struct Source {
    /// Why the last change was refused.
    pub error: Option<String>,
    /// What only a restart applies.
    pub needs_restart: Vec<String>,
}

/// An element of `wgrelay hosts --json`.
#[derive(Clone, Debug, Deserialize)]
pub struct HostStatus {
    /// Name.
    pub name: String,
    /// Whether it is relayed here.
    pub relayed: bool,
    /// Current endpoint.
    pub endpoint: Option<String>,
    /// Of its registration.
    pub last_handshake_seconds_ago: Option<f64>,
    /// Its sessions.
    pub sessions: u64,
    /// Forwarded from it.
    pub sent_packets: u64,
    /// Forwarded to it.
    pub received_packets: u64,
}

/// An element of `wgrelay sessions --json`.
#[derive(Clone, Debug, Deserialize)]
pub struct SessionStatus {
    /// Receiver index, in hexadecimal with 0x.
    pub receiver_index: String,
    /// Member that sends.
    pub from: Option<String>,
    /// Member that receives.
    pub to: Option<String>,
    /// Expected source.
    pub source: SocketAddr,
    /// Where it goes.
    pub destination: SocketAddr,
    /// The relay's address that it comes to.
    pub local_in: IpAddr,
    /// The relay's address that it leaves from.
    pub local_out: IpAddr,
    /// Forwarded packets.
    pub packets: u64,
}

impl SessionStatus {
    /// The receiver index as a number.
    pub fn index(&self) -> u32 {
        let digits = self.receiver_index.strip_prefix("0x").expect("an index begins with 0x");
        u32::from_str_radix(digits, 16).expect("an index is hexadecimal")
    }
}

impl Status {
    /// Packets with this reason, all families.
    pub fn packets(&self, reason: &str) -> u64 {
        self.counters.iter().filter(|c| c.reason == reason).map(|c| c.packets).sum()
    }

    /// Packets that were forwarded from one family to another, or within one.
    pub fn forwarded_within(&self, family: &str) -> u64 {
        let forwarded = |c: &&Counter| c.family == family && c.reason.starts_with("forwarded");
        self.counters.iter().filter(forwarded).map(|c| c.packets).sum()
    }

    /// Relayed data packets that XDP forwarded.
    pub fn forwarded(&self) -> u64 {
        self.packets("forwarded_tx") + self.packets("forwarded_redirect")
    }

    /// Relayed data packets that XDP did not forward: those that userspace did, and those that were lost.
    pub fn not_forwarded(&self) -> u64 {
        const LOST: [&str; 4] = ["ttl_exceeded", "too_big", "no_tx_port", "rewrite_failed"];
        self.userspace.data_packets + LOST.iter().map(|reason| self.packets(reason)).sum::<u64>()
    }

    /// Handshakes with this outcome.
    pub fn handshakes(&self, outcome: &str) -> u64 {
        self.handshakes.iter().filter(|h| h.outcome == outcome).map(|h| h.count).sum()
    }
}
