//! The control plane with very many members: the embedded store, `wgrelay serve` and `wgrelay run` themselves.
//!
//! Members are in networks of a hundred. One relay serves as many of these as the WireGuard of its interface takes peers,
//! another one the rest. Two members are real hosts, one behind a NAT that forgets; the others are never heard of.

use std::{fs, path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, ensure};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use relay_user::{
    client::Client,
    interface::PEERS_AT_ONCE,
    members::PublicKey,
    model::Command,
    store::{Embedded, Writer, unix_time},
};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{
    Effort,
    stats::{Samples, Spread},
};
use crate::{
    Host, Internet, Lab, Nat, Relay,
    command::{Process, program},
    relay::{Outer, PORT, wgrelay},
    traffic::{Pinging, connect},
    wait::{now, until},
};

/// Members of a network.
const NETWORK: usize = 100;
/// Members of the one relay at most: wireguard-go takes 65,536 peers.
const RELAYED: usize = 60_000;
/// The other relay.
const OTHER: &str = "other";
const OTHER_KEY: [u8; 32] = [9; 32];
/// Hosts that enrol at once.
const AT_ONCE: usize = 64;
/// How often the way of a change to the tables is measured.
const CHANGES: usize = 21;
/// How often a host moves.
const MOVES: usize = 5;
/// How often hosts tell the relay where they are.
const KEEPALIVE_SECONDS: u16 = 1;
const PATIENCE: Duration = Duration::from_secs(120);

/// What was measured with so many members.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Row {
    /// How many there are.
    pub members: usize,
    /// How many of them are relayed by the relay that is measured.
    pub relayed: usize,
    /// Enrolments by the API of `wgrelay serve`, at its unix socket, each durable before it is answered.
    pub enrolments_per_second: f64,
    /// From the start of `wgrelay run` until it forwards, all tables written.
    pub start_seconds: f64,
    /// From then on until its WireGuard interface has all peers.
    pub peers_seconds: f64,
    /// From a request to the API until the change is durable and in the tables, in milliseconds.
    pub change_ms: Spread,
    /// Memory of `wgrelay run` that is resident, in MiB: after all this, and at most.
    pub resident_mib: f64,
    /// At most.
    pub resident_mib_peak: f64,
    /// CPU time of an idle `wgrelay run`, which reads its WireGuard interface, in percent of one CPU.
    pub idle_percent: f64,
    /// The same of the wireguard-go that answers it.
    pub idle_percent_wireguard: f64,
    /// How long a host was cut off whose address and port had changed, in milliseconds. It tells the relay every second
    /// where it is; how long the relay takes to follow is the rest.
    pub move_ms: Spread,
}

/// Measures.
///
/// # Errors
/// If the control plane does not do what it is asked.
pub fn run(effort: Effort, progress: &dyn Fn(&str)) -> Result<Vec<Row>> {
    let sizes: &[usize] = if effort == Effort::Short { &[1_000] } else { &[10_000, 100_000] };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    sizes.iter().map(|&members| Scene::new().measure(members, effort, &runtime, progress)).collect()
}

struct Scene {
    relay: Relay,
    a: Host,
    b: Host,
    nat: Nat,
    lab: Lab,
    _internet: Internet,
}

impl Scene {
    fn new() -> Self {
        let lab = Lab::new();
        let mut internet = Internet::new(&lab);
        let namespace = lab.namespace("relay");
        internet.attach_for_xdp(&namespace, "eth0", crate::relay::NUMBER);
        let mut relay = Relay::new(&namespace);
        let mut nat = Nat::at_internet(&internet, "nat-a", 2);
        let [a, b] = ["a", "b"].map(|role| lab.namespace(role));
        nat.plug(&a);
        internet.attach(&b, "eth0", 9);
        let (mut a, mut b) = (Host::new(&a, 201), Host::new(&b, 202));
        let endpoint = Relay::endpoint(Outer::Ipv4);
        for host in [&mut a, &mut b] {
            host.register_at(&relay.keys.public, endpoint, KEEPALIVE_SECONDS);
        }
        a.add_peer(&b, Some(endpoint));
        b.add_peer(&a, Some(endpoint));
        relay.control = format!(
            "\n[control]\nsource = 'store'\n[control.store]\nstate_dir = '{}'\n",
            lab.file("store").display()
        );
        relay.changes =
            vec![("sessions = 65536".to_owned(), "sessions = 65536\nendpoints = 262144".to_owned())];
        Self { relay, a, b, nat, lab, _internet: internet }
    }

    fn measure(
        mut self,
        members: usize,
        effort: Effort,
        runtime: &tokio::runtime::Runtime,
        progress: &dyn Fn(&str),
    ) -> Result<Row> {
        progress(&format!("members: {members} enrol"));
        let (keys, enrolments_per_second) = runtime.block_on(self.fill(members))?;
        runtime.block_on(self.activate(keys))?;
        progress("members: the relay starts");
        let start = now();
        self.relay.start();
        let start_seconds = start.elapsed().as_secs_f64();
        let relayed = members.min(RELAYED);
        if relayed > PEERS_AT_ONCE {
            until("peers", PATIENCE, || self.relay.said().contains("has its peers").then_some(()));
        }
        let peers_seconds = start.elapsed().as_secs_f64() - start_seconds;
        let client = Client::unix(&self.relay.socket())?;
        let change_ms = runtime.block_on(changes(&client))?;

        progress("members: the relay is idle");
        let [wgrelay, wireguard] = self.processes()?;
        let before = [cpu_seconds(wgrelay)?, cpu_seconds(wireguard)?];
        let start = now();
        std::thread::sleep(Duration::from_secs(if effort == Effort::Short { 10 } else { 60 }));
        let percent = |pid, before| {
            Ok::<_, anyhow::Error>((cpu_seconds(pid)? - before) / start.elapsed().as_secs_f64() * 100.0)
        };
        let idle_percent = percent(wgrelay, before[0])?;
        let idle_percent_wireguard = percent(wireguard, before[1])?;

        progress("members: a host moves");
        let move_ms = self.moves();
        Ok(Row {
            members,
            relayed,
            enrolments_per_second,
            start_seconds,
            peers_seconds,
            change_ms,
            resident_mib: memory(wgrelay, "VmRSS")?,
            resident_mib_peak: memory(wgrelay, "VmHWM")?,
            idle_percent,
            idle_percent_wireguard,
            move_ms,
        })
    }

    /// Makes all records by the API. Gives the keys of the members, and how many enrolled in a second.
    async fn fill(&self, members: usize) -> Result<(Vec<PublicKey>, f64)> {
        let socket = self.lab.file("serve.sock");
        let mut command = program(wgrelay());
        command.args(["serve", "--state-dir"]).arg(self.lab.file("store")).arg("--socket").arg(&socket);
        let process = Process::start(&mut command, self.lab.file("serve.log"));
        until("API", PATIENCE, || process.printed().contains("ready").then_some(()));
        let client = Client::unix(&socket)?;
        let networks = members.div_ceil(NETWORK);
        for n in 0..networks {
            let prefix = format!("10.{}.{}.0/24", 128 + n / 256, n % 256);
            let network = json!({ "name": network(n), "ipv4": prefix });
            client.post::<Value>("/v1/networks", &network).await?;
        }
        let relay = &self.relay;
        let mut served: Vec<Value> = (0..networks).map(|n| json!({ "network": network(n) })).collect();
        let others = served.split_off(networks.min(RELAYED / NETWORK));
        let body = json!({
            "name": relay.name(), "public_key": relay.keys.public, "networks": served,
            "addresses": relay.addresses, "port": PORT,
        });
        client.post::<Value>("/v1/relays", &body).await?;
        if !others.is_empty() {
            let other = json!({
                "name": OTHER, "public_key": BASE64_STANDARD.encode(OTHER_KEY), "networks": others,
                "addresses": ["198.51.100.9"], "port": PORT,
            });
            client.post::<Value>("/v1/relays", &other).await?;
        }
        let mut secrets = Vec::new();
        for n in 0..networks {
            // Members are dealt out over the networks.
            let by = if n * NETWORK < RELAYED { relay.name() } else { OTHER.to_owned() };
            let body = json!({ "network": network(n), "relay": by });
            let made: Value = client.post("/v1/keys", &body).await?;
            secrets.push(made["secret"].as_str().context("the key's secret")?.to_owned());
        }

        let mut random = fastrand::Rng::with_seed(1);
        let mut keys: Vec<PublicKey> =
            (0..members).map(|_| PublicKey(std::array::from_fn(|_| random.u8(..)))).collect();
        // In the same network.
        for (host, place) in [(&self.a, 0), (&self.b, networks)] {
            keys[place] = PublicKey::from_base64(&host.keys.public).context("wg makes keys")?;
        }
        let (shared, secrets) = (Arc::new(keys.clone()), Arc::new(secrets));
        let start = now();
        let mut tasks = JoinSet::new();
        for first in 0..AT_ONCE {
            let (client, keys, secrets) = (client.clone(), Arc::clone(&shared), Arc::clone(&secrets));
            tasks.spawn(async move {
                for n in (first..keys.len()).step_by(AT_ONCE) {
                    let key = BASE64_STANDARD.encode(keys[n].0);
                    let secret = &secrets[n % secrets.len()];
                    let body = json!({ "key": secret, "name": format!("host-{n}"), "public_key": key });
                    client.post::<Value>("/v1/enrol", &body).await?;
                }
                Ok::<_, anyhow::Error>(())
            });
        }
        while let Some(ended) = tasks.join_next().await {
            ended??;
        }
        let per_second = members as f64 / start.elapsed().as_secs_f64();
        process.stop(Signal::TERM);
        Ok((keys, per_second))
    }

    /// What only handshakes with the relay bring about otherwise.
    async fn activate(&self, mut keys: Vec<PublicKey>) -> Result<()> {
        keys.push(PublicKey::from_base64(&self.relay.keys.public).context("wg makes keys")?);
        keys.push(PublicKey(OTHER_KEY));
        let store = Embedded::open(&self.lab.file("store")).await?;
        let stop = CancellationToken::new();
        let (writer, task) = Writer::start(Arc::new(store), unix_time, stop.clone()).await?;
        for some in keys.chunks(5_000) {
            writer.write(Command::Activate(some.to_vec())).await?;
        }
        stop.cancel();
        Ok(task.await?)
    }

    /// wgrelay and the wireguard-go of its interface.
    fn processes(&self) -> Result<[u32; 2]> {
        let mut found = [None; 2];
        for entry in fs::read_dir("/proc")? {
            let path = entry?.path();
            let Some(pid) = path.file_name().and_then(|name| name.to_str()?.parse().ok()) else { continue };
            let line = fs::read_to_string(path.join("cmdline")).unwrap_or_default();
            if line.contains("wireguard-go") && line.contains(&self.relay.interface) {
                found[1] = Some(pid);
            } else if line.contains("run\0--config") && line.contains(&*self.relay.file().to_string_lossy()) {
                found[0] = Some(pid);
            }
        }
        let [wgrelay, wireguard] = found;
        Ok([wgrelay.context("wgrelay's process")?, wireguard.context("wireguard-go's process")?])
    }

    /// Lets the NAT of a forget it, again and again: from then on it comes from another port.
    fn moves(&mut self) -> Spread {
        self.a.start();
        self.b.start();
        connect(&self.a, &self.b, PATIENCE);
        let interval = Duration::from_millis(5);
        let mut samples = Samples::default();
        for _ in 0..MOVES {
            let pinging = Pinging::start(&self.b, &self.a, interval);
            // a sends on its own, too: that shows where it is now.
            let sending = Pinging::start(&self.a, &self.b, interval);
            pinging.more(100, PATIENCE);
            self.nat.forget();
            let before = pinging.newest();
            until("replies after the move", PATIENCE, || (pinging.newest() > before + 200).then_some(()));
            drop(sending);
            samples.values.push(pinging.lost().len() as f64 * interval.as_secs_f64() * 1e3);
        }
        Spread::from(&samples)
    }
}

fn network(n: usize) -> String {
    format!("net-{n}")
}

/// A host is relayed no more, and again. Each time it is asked until the relay has taken the change over, which the answer
/// waits for: the engine does one thing after another.
async fn changes(client: &Client) -> Result<Spread> {
    let mut samples = Samples::default();
    for n in 0..CHANGES {
        let start = now();
        if n % 2 == 0 {
            client.delete("/v1/relays/relay-1/hosts/host-77").await?;
        } else {
            let body = json!({ "hosts": ["host-77"] });
            client.post::<Value>("/v1/relays/relay-1/hosts", &body).await?;
        }
        loop {
            let status: Value = client.get("/v1/status").await?;
            let ago = status["source"]["loaded_seconds_ago"].as_f64().context("the source's age")?;
            if ago < start.elapsed().as_secs_f64() {
                break;
            }
            ensure!(start.elapsed() < PATIENCE, "the change is not taken over");
        }
        samples.values.push(start.elapsed().as_secs_f64() * 1e3);
    }
    Ok(Spread::from(&samples))
}

/// CPU time of a process so far.
fn cpu_seconds(pid: u32) -> Result<f64> {
    let stat = fs::read_to_string(PathBuf::from(format!("/proc/{pid}/stat")))?;
    let (_, fields) = stat.rsplit_once(')').context("a process' name in /proc")?;
    let ticks: u64 = fields.split_whitespace().skip(11).take(2).filter_map(|n| n.parse::<u64>().ok()).sum();
    // USER_HZ, which is 100 on all that this runs on.
    Ok(ticks as f64 / 100.0)
}

/// A line of /proc/PID/status, in MiB.
fn memory(pid: u32, what: &str) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(what)?.strip_prefix(':'));
    let kib: f64 = line.and_then(|line| line.split_whitespace().next()?.parse().ok()).context("memory")?;
    Ok(kib / 1024.0)
}
