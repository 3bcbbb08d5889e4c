//! `--turn`: the TURN server with coturn's client, and WireGuard through it.

use std::{fmt::Write as _, net::SocketAddr, time::Duration};

use relay_tests::{
    World,
    relay::{self, Outer, Status},
    traffic::{connect, ping, throughput},
    turn::{PORT, TurnWorld, report},
    turn_client::TurnClient,
    until,
    world::{REGISTRATION, p_endpoints},
};
use serde::Serialize;

use super::{PINGS, TCP_SECONDS, progress};

/// What came of it.
#[derive(Serialize)]
pub struct Outcome {
    /// Nothing was lost, nearly all data of channels went by XDP, and no checksum was spoilt.
    pub ok: bool,
    xdp_mode: String,
    clients: Vec<Client>,
    wireguard: Tunnel,
    /// Packets of channels that XDP forwarded.
    channel_packets_xdp: u64,
    /// Packets of users' data that it did not: forwarded by the server.
    data_packets_server: u64,
    udp_checksum_errors: u64,
}

/// coturn's client with a peer that echoes.
#[derive(Serialize)]
struct Client {
    /// The family that the client talks to the server by, and that of the peer.
    families: String,
    sent: u64,
    received: u64,
}

/// A WireGuard tunnel of which one end is behind a TURN client.
#[derive(Serialize)]
struct Tunnel {
    ping_loss: f64,
    rtt_ms_median: Option<f64>,
    mbit_s: f64,
}

/// Messages of coturn's client; it waits a millisecond or more between two.
const MESSAGES: &str = "1000";

/// Shows it.
pub fn show() -> (Outcome, String) {
    let (clients, first) = clients();
    let (wireguard, second) = wireguard();
    let mut outcome = Outcome {
        ok: false,
        xdp_mode: first.mode,
        clients,
        wireguard,
        channel_packets_xdp: first.xdp + second.xdp,
        data_packets_server: first.server + second.server,
        udp_checksum_errors: first.checksum_errors + second.checksum_errors,
    };
    outcome.ok = outcome.clients.iter().all(|client| client.received == client.sent && client.sent > 0)
        && outcome.wireguard.ping_loss == 0.0
        && outcome.udp_checksum_errors == 0
        && outcome.data_packets_server * 1000 <= outcome.channel_packets_xdp;
    let text = table(&outcome);
    (outcome, text)
}

/// What the relay and the hosts counted.
struct Counted {
    mode: String,
    xdp: u64,
    server: u64,
    checksum_errors: u64,
}

fn counted(status: impl Fn() -> Status, checksum_errors: u64) -> Counted {
    let xdp = |status: &Status| status.packets("channel_tx") + status.packets("channel_redirect");
    // The server's figures are brought up to date every second.
    let (xdp, all, mode) = until("the server's figures", Duration::from_secs(5), || {
        let status = status();
        let users = &status.turn.as_ref()?.users;
        let all: u64 = users.iter().map(|user| user.sent_packets + user.received_packets).sum();
        let modes: Vec<&str> = status.xdp.iter().map(|attachment| attachment.mode.as_str()).collect();
        (all >= xdp(&status)).then(|| (xdp(&status), all, modes.join(",")))
    });
    Counted { mode, xdp, server: all - xdp, checksum_errors }
}

fn clients() -> (Vec<Client>, Counted) {
    progress("network: relay with a TURN server, a client and a peer that echoes, all public");
    let world = TurnWorld::running("");
    let mut clients = Vec::new();
    for (client, peer) in Outer::BOTH.into_iter().flat_map(|client| Outer::BOTH.map(|peer| (client, peer))) {
        let families = format!("{}-{}", client.label(), peer.label());
        progress(&format!("turnutils_uclient, {families}: {MESSAGES} messages there and back by a channel"));
        let mut command = world.uclient(client);
        command.args(["-e", &TurnWorld::peer_address(peer).to_string(), "-n", MESSAGES, "-z", "1", "-c"]);
        command.args((peer == Outer::Ipv6).then_some("-x"));
        let report = report(command);
        eprintln!("    {} sent, {} back", report.sent, report.received);
        clients.push(Client { families, sent: report.sent, received: report.received });
    }
    let errors = world.client.udp_checksum_errors() + world.peer.udp_checksum_errors();
    (clients, counted(|| world.relay.status(), errors))
}

fn wireguard() -> (Tunnel, Counted) {
    progress("network: relay with a TURN server, a behind a NAT and with a TURN client, p public");
    let mut world = World::new();
    world.relay.control = TurnWorld::configuration(&world.lab, "");
    world.relay.members.clear();
    world.relay.start();
    let server = SocketAddr::new(TurnWorld::server(Outer::Ipv4), PORT);
    let mut client = TurnClient::allocate(&world.a.namespace, server);
    world.a.set_listen_port(relay::PORT);
    world.a.add_peer(&world.p, Some(client.endpoint()));
    world.p.add_peer(&world.a, None);
    client.carry_to(p_endpoints()[0], relay::PORT);
    world.a.start();
    world.p.start();
    progress("a → p by WireGuard through TURN: handshake, pings, TCP");
    connect(&world.a, &world.p, REGISTRATION);
    let pings = ping(&world.a, &world.p, PINGS.0, PINGS.1);
    let mbit_s = throughput(&world.a, &world.p, TCP_SECONDS);
    let tunnel = Tunnel { ping_loss: pings.loss(), rtt_ms_median: pings.median(), mbit_s };
    let counted = counted(|| world.relay.status(), world.checksum_errors());
    progress("the lab is removed");
    (tunnel, counted)
}

fn table(outcome: &Outcome) -> String {
    let mut text = String::new();
    let mut line = |line: String| writeln!(text, "{line}").expect("write to a string");
    line(format!("\n{:<12} {:>8} {:>8}", "families", "sent", "back"));
    for Client { families, sent, received } in &outcome.clients {
        line(format!("{families:<12} {sent:>8} {received:>8}"));
    }
    let Tunnel { ping_loss, rtt_ms_median, mbit_s } = &outcome.wireguard;
    let rtt = rtt_ms_median.map_or("-".to_owned(), |ms| format!("{ms:.2} ms"));
    line(format!("\nWireGuard through TURN: {:.1} % lost, {rtt}, {mbit_s:.0} Mbit/s", ping_loss * 100.0));
    line(format!(
        "\n{} packets of channels by XDP ({}), {} by the server, {} spoilt checksums",
        outcome.channel_packets_xdp,
        outcome.xdp_mode,
        outcome.data_packets_server,
        outcome.udp_checksum_errors
    ));
    line(if outcome.ok { "\nok".to_owned() } else { "\nNOT ok".to_owned() });
    text
}
