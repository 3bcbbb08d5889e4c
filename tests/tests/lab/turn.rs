//! The TURN server with coturn's own client, peer and STUN client. Where data is carried by channels, the XDP program does it.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream, UdpSocket},
    time::Duration,
};

use relay_tests::{
    Lab, World,
    command::run,
    fleet::certify,
    relay::{self, Outer},
    traffic::{connect, ping},
    turn::{PORT, REALM, Report, SECRET, TurnWorld, USER, report},
    turn_client::TurnClient,
    until,
    world::{REGISTRATION, p_endpoints},
};
use relay_user::turn::credentials::Key;

const FAMILIES: [Outer; 2] = [Outer::Ipv4, Outer::Ipv6];
const TLS_PORT: u16 = 5349;

/// All that was sent has come back.
#[track_caller]
fn complete(report: &Report, messages: u64) {
    let Report { succeeded, sent, received, text } = report;
    assert!(
        *succeeded && *sent == messages && *received == messages,
        "{sent} sent, {received} back:\n{text}"
    );
}

/// Whether something has happened so often at least.
fn outcome(world: &TurnWorld, name: &str, times: u64) -> Option<()> {
    let turn = world.relay.status().turn?;
    let found = turn.outcomes.iter().find(|outcome| outcome.outcome == name).expect("it is shown");
    (found.count >= times).then_some(())
}

fn channel_packets(world: &TurnWorld) -> u64 {
    let status = world.relay.status();
    status.packets("channel_tx") + status.packets("channel_redirect")
}

fn peer(world: &TurnWorld, client: Outer, peer: Outer, more: &[&str]) -> Report {
    let mut command = world.uclient(client);
    command.args(["-e", &TurnWorld::peer_address(peer).to_string()]);
    if peer == Outer::Ipv6 {
        command.arg("-x");
    }
    command.args(more);
    report(command)
}

#[test]
fn channels_are_carried_by_the_program_between_all_families() {
    let world = TurnWorld::running("");
    for client in FAMILIES {
        for to in FAMILIES {
            let before = channel_packets(&world);
            let report = peer(&world, client, to, &["-n", "100", "-l", "171", "-z", "5", "-c"]);
            complete(&report, 100);
            // With padding, which UDP does not need; and with both families allocated at once.
            complete(&peer(&world, client, to, &["-n", "100", "-l", "173", "-z", "5", "-c", "-D"]), 100);
            let carried = channel_packets(&world) - before;
            // There and back; the first of them may find the way not resolved yet.
            assert!(carried >= 2 * 200 - 20, "{client:?} to {to:?}: {carried} of 400 in the kernel");
        }
    }
    let errors = world.client.udp_checksum_errors() + world.peer.udp_checksum_errors();
    assert_eq!(errors, 0, "datagrams with a wrong checksum");
    // They are shown with the next second.
    until("all of it in the user's figures", Duration::from_secs(5), || {
        let turn = world.relay.status().turn?;
        let user = turn.users.into_iter().find(|user| user.name == USER.0)?;
        let least =
            [user.sent_packets, user.received_packets, user.sent_bytes / 171, user.received_bytes / 171];
        least.iter().all(|figure| *figure >= 800).then_some(())
    });
}

#[test]
fn what_is_not_in_channels_passes_as_well() {
    let world = TurnWorld::running("");
    for to in FAMILIES {
        let before = channel_packets(&world);
        // Send and Data indications; with the pair of ports that RTP wants; large ones, which are fragmented.
        complete(&peer(&world, Outer::Ipv4, to, &["-s", "-n", "50", "-z", "5", "-c"]), 50);
        let report = peer(&world, Outer::Ipv4, to, &["-s", "-n", "20", "-l", "3000", "-z", "5", "-c"]);
        complete(&report, 20);
        assert_eq!(channel_packets(&world), before, "indications are no channel data");
        complete(&peer(&world, Outer::Ipv6, to, &["-n", "20", "-l", "3000", "-z", "5", "-c"]), 20);
    }
    let pair = peer(&world, Outer::Ipv4, Outer::Ipv4, &["-n", "50", "-z", "5"]);
    complete(&pair, 100);
}

#[test]
fn many_clients_and_clients_of_each_other_are_served() {
    let world = TurnWorld::running("");
    let many = peer(&world, Outer::Ipv4, Outer::Ipv4, &["-m", "30", "-n", "20", "-z", "5", "-c"]);
    complete(&many, 600);
    let mut command = world.uclient(Outer::Ipv4);
    command.args(["-y", "-m", "4", "-n", "20", "-z", "5", "-c"]);
    let each_other = report(command);
    assert!(each_other.succeeded && each_other.received >= 80, "{}", each_other.text);
    until("the allocations of all of them", Duration::from_secs(5), || outcome(&world, "allocated", 34));
}

/// `[turn]` with ports for TCP and for TLS.
fn with_streams(lab: &Lab) -> String {
    certify(lab, &[TurnWorld::server(Outer::Ipv4).to_string()]);
    let [cert, key] = ["api.pem", "api.key"].map(|name| lab.file(name));
    let more =
        format!("tcp_port = {PORT}\ntls_port = {TLS_PORT}\ntls_cert_file = {cert:?}\ntls_key_file = {key:?}");
    TurnWorld::configuration(lab, &more)
}

#[test]
fn clients_come_by_tcp_and_tls_as_well() {
    let world = TurnWorld::configured(with_streams);
    let peer_address = TurnWorld::peer_address(Outer::Ipv4).to_string();
    let before = channel_packets(&world);
    let by = |outer: Outer, more: &[&str]| {
        let mut command = world.uclient(outer);
        command.args(["-t", "-e", &peer_address, "-z", "5", "-c"]).args(more);
        report(command)
    };
    for outer in FAMILIES {
        // Channels, with a length that needs padding and one that does not; indications; large messages; several clients.
        complete(&by(outer, &["-n", "100", "-l", "171"]), 100);
        complete(&by(outer, &["-n", "100", "-l", "172"]), 100);
        complete(&by(outer, &["-n", "50", "-s"]), 50);
        complete(&by(outer, &["-n", "20", "-m", "10"]), 200);
    }
    let tls = TLS_PORT.to_string();
    complete(&by(Outer::Ipv4, &["-S", "-p", &tls, "-n", "100", "-l", "171"]), 100);
    complete(&by(Outer::Ipv4, &["-S", "-p", &tls, "-n", "20", "-m", "10"]), 200);
    assert_eq!(channel_packets(&world), before, "their data is the server's");
    // With their connections their allocations have ended.
    until("allocations that have ended", Duration::from_secs(5), || {
        let turn = world.relay.status().turn?;
        (turn.allocations == 0 && turn.connections == 0).then_some(())
    });
    // Those that come by UDP are the program's all the same.
    complete(&peer(&world, Outer::Ipv4, Outer::Ipv4, &["-n", "100", "-z", "5", "-c"]), 100);
    assert!(channel_packets(&world) > before);
}

/// The first message of a TLS handshake (RFC 8446, section 4.1.2), with this server name (RFC 6066, section 3).
fn client_hello(name: &[u8]) -> Vec<u8> {
    /// Behind its length, in so many bytes.
    fn sized(bytes: usize, content: &[u8]) -> Vec<u8> {
        let len = (content.len() as u32).to_be_bytes();
        [&len[4 - bytes..], content].concat()
    }
    let extension = |kind: u16, content: &[u8]| [&kind.to_be_bytes()[..], &sized(2, content)].concat();
    let names = sized(2, &[&[0][..], &sized(2, name)].concat());
    let extensions = [
        extension(0, &names),
        // TLS 1.3, X25519 without a key yet, ECDSA over P-256.
        extension(43, &[2, 3, 4]),
        extension(10, &[0, 2, 0, 29]),
        extension(13, &[0, 2, 4, 3]),
        extension(51, &[0, 0]),
    ]
    .concat();
    let hello = [
        &[3, 3][..],
        &[0x5a; 32],
        &sized(1, &[]),
        &sized(2, &[0x13, 1]),
        &sized(1, &[0]),
        &sized(2, &extensions),
    ];
    let handshake = [&[1][..], &sized(3, &hello.concat())].concat();
    [&[0x16, 3, 1][..], &sized(2, &handshake)].concat()
}

#[test]
fn connections_that_are_of_no_use_end_and_do_not_hinder_others() {
    let world = TurnWorld::configured(with_streams);
    let server = SocketAddr::new(TurnWorld::server(Outer::Ipv4), PORT);
    let connect = || world.client.enter(|| TcpStream::connect(server).expect("connect"));
    // Something else than TURN: the connection is closed at once.
    let mut browser = connect();
    // The beginning of a TLS handshake, at the port without TLS.
    browser.write_all(&[0x16, 3, 1]).expect("send");
    browser.set_read_timeout(Some(Duration::from_secs(10))).expect("set a time-out");
    assert_eq!(browser.read(&mut [0; 16]).expect("the end"), 0);
    until("what is no TURN", Duration::from_secs(5), || outcome(&world, "not_turn", 1));
    // A TLS handshake for a server whose name is none: nobody is to fill the log with what he likes.
    let mut nameless =
        world.client.enter(|| TcpStream::connect(SocketAddr::new(server.ip(), TLS_PORT)).expect("connect"));
    nameless.write_all(&client_hello(b"no name \xff")).expect("send");
    nameless.set_read_timeout(Some(Duration::from_secs(10))).expect("set a time-out");
    assert!(nameless.read(&mut [0; 16]).expect("an alert") > 0);
    assert!(!world.relay.said().contains("no name"), "{}", world.relay.said());
    // More than one source may have.
    let many: Vec<TcpStream> = (0..300).map(|_| connect()).collect();
    until("connections that are refused", Duration::from_secs(5), || {
        outcome(&world, "connection_refused", 300 - 256)
    });
    // Others are served: by UDP as well as from another address.
    complete(&peer(&world, Outer::Ipv4, Outer::Ipv4, &["-n", "20", "-z", "5", "-c"]), 20);
    let mut command = world.uclient(Outer::Ipv6);
    command.args([
        "-t",
        "-e",
        &TurnWorld::peer_address(Outer::Ipv4).to_string(),
        "-n",
        "20",
        "-z",
        "5",
        "-c",
    ]);
    complete(&report(command), 20);
    drop(many);
    until("the end of all of them", Duration::from_secs(5), || {
        (world.relay.status().turn?.connections == 0).then_some(())
    });
}

#[test]
fn who_may_not_use_the_server_does_not() {
    let world = TurnWorld::running("");
    let address = TurnWorld::peer_address(Outer::Ipv4).to_string();
    for (user, password) in [(USER.0, "wrong"), ("nobody", USER.1), ("1000:ann", "x")] {
        let mut command = world.uclient_as(Outer::Ipv4, user, password);
        command.args(["-e", &address, "-n", "1", "-c"]);
        let report = report(command);
        assert!(
            report.received == 0 && report.text.contains("Cannot complete Allocation"),
            "{user}: {}",
            report.text
        );
    }
    // Time-limited credentials, as coturn's client makes them of the secret.
    let mut command = world.uclient_as(Outer::Ipv4, "ann", "");
    command.args(["-e", &address, "-n", "20", "-z", "5", "-c", "-W", SECRET]);
    complete(&report(command), 20);
    until("refusals in the status", Duration::from_secs(5), || outcome(&world, "unauthorized", 3));
    until("allocations in the status", Duration::from_secs(5), || outcome(&world, "allocated", 1));
}

#[test]
fn the_server_does_not_lead_into_the_relays_host_or_private_networks() {
    let world = TurnWorld::running("");
    world.relay.namespace.ip("address add 10.77.0.1/24 dev eth0");
    world.relay.namespace.ip("address add 203.0.113.77/32 dev lo");
    for forbidden in ["127.0.0.1", "10.77.0.9", "203.0.113.77", "169.254.169.254", "198.51.100.1"] {
        let mut command = world.uclient(Outer::Ipv4);
        command.args(["-e", forbidden, "-n", "1", "-c"]);
        let report = report(command);
        assert!(report.received == 0 && report.text.contains("403"), "{forbidden}: {}", report.text);
    }
    assert_eq!(channel_packets(&world), 0);
}

/// Hosts with stock WireGuard, each behind a NAT and with a TURN client before it.
#[test]
fn wireguard_runs_through_turn() {
    let mut world = World::new();
    world.relay.control = TurnWorld::configuration(&world.lab, "");
    world.relay.members.clear();
    world.relay.start();
    let server = SocketAddr::new(TurnWorld::server(Outer::Ipv4), PORT);
    let [mut to_p, mut to_b] = [0; 2].map(|_| TurnClient::allocate(&world.a.namespace, server));
    let mut to_a = TurnClient::allocate(&world.b.namespace, server);
    world.a.add_peer(&world.p, Some(to_p.endpoint()));
    world.a.add_peer(&world.b, Some(to_b.endpoint()));
    world.b.add_peer(&world.a, Some(to_a.endpoint()));
    // It answers to where a seems to be.
    world.p.add_peer(&world.a, None);
    let [p_v4, _] = p_endpoints();
    world.a.set_listen_port(relay::PORT);
    world.b.set_listen_port(relay::PORT);
    to_p.carry_to(p_v4, relay::PORT);
    to_b.carry_to(to_a.relayed, relay::PORT);
    to_a.carry_to(to_b.relayed, relay::PORT);
    for host in [&mut world.a, &mut world.b, &mut world.p] {
        host.start();
    }
    let channels = |world: &World| {
        let status = world.relay.status();
        status.packets("channel_tx") + status.packets("channel_redirect")
    };
    connect(&world.a, &world.p, REGISTRATION);
    let before = channels(&world);
    let pings = ping(&world.a, &world.p, 100, Duration::from_millis(5));
    assert_eq!(pings.received, 100, "{pings:?}");
    assert!(channels(&world) >= before + 200, "it goes through the kernel");
    // Both of them behind TURN: the server passes on what is for one of its own relayed addresses.
    connect(&world.a, &world.b, REGISTRATION);
    assert_eq!(ping(&world.b, &world.a, 50, Duration::from_millis(5)).received, 50);
    assert_eq!(world.checksum_errors(), 0);
    assert_eq!(world.relay.status().sessions, 0, "nothing of it is relayed as WireGuard");
}

#[test]
fn a_stun_client_learns_its_address() {
    let world = TurnWorld::running("");
    for outer in FAMILIES {
        let mut command = world.client.command("turnutils_stunclient");
        command.args(["-p", &PORT.to_string(), &TurnWorld::server(outer).to_string()]);
        let text = run(&mut command);
        assert!(text.contains("UDP reflexive addr: "), "{text}");
    }
}

#[test]
fn users_stand_in_the_store_as_well() {
    let world = TurnWorld::configured(|lab| {
        let (first, last) = relay_tests::turn::RELAYED.into_inner();
        format!(
            "\n[turn]\nrealm = {REALM:?}\nport = {PORT}\nrelay_ports = [{first}, {last}]\n\n\
             [control]\nsource = 'store'\n[control.store]\nstate_dir = '{}'\n",
            lab.file("store").display()
        )
    });
    let file = world.lab.file("password");
    let login = |action: &str, password: &str| {
        std::fs::write(&file, password).expect("write a password");
        let file = file.to_string_lossy();
        world.relay.ask(&["turn-user", action, USER.0, "--realm", REALM, "--password-file", &file]);
    };
    let refused = || {
        let report = peer(&world, Outer::Ipv4, Outer::Ipv4, &["-n", "1", "-c"]);
        report.text.contains("Cannot complete Allocation")
    };
    let admitted = || peer(&world, Outer::Ipv4, Outer::Ipv4, &["-n", "10", "-z", "5", "-c"]).received == 10;
    assert!(refused(), "nobody stands in it yet");
    login("create", USER.1);
    until("a user of the store", Duration::from_secs(30), || admitted().then_some(()));
    login("change", "another");
    until("refusal of the old password", Duration::from_secs(30), || refused().then_some(()));
    login("change", USER.1);
    until("the first password again", Duration::from_secs(30), || admitted().then_some(()));
    let shown = world.relay.ask(&["turn-user", "list"]);
    assert_eq!((shown[0]["name"].as_str(), shown[0].get("key")), (Some(USER.0), None));
    world.relay.ask(&["turn-user", "delete", USER.0]);
    until("refusal of a user who is gone", Duration::from_secs(30), || refused().then_some(()));
}

#[test]
fn it_is_switched_off_and_on_and_users_come_and_go_while_it_runs() {
    let mut world = TurnWorld::running("");
    let configure = |world: &mut TurnWorld, more: &str| {
        world.relay.control = TurnWorld::configuration(&world.lab, more);
        world.relay.write_configuration();
    };
    configure(&mut world, "enabled = false");
    until("end of the server", Duration::from_secs(5), || world.relay.status().turn.is_none().then_some(()));
    let server = (TurnWorld::server(Outer::Ipv4), PORT);
    world.relay.namespace.enter(|| UdpSocket::bind(server)).expect("its port is free");
    configure(&mut world, "");
    until("the server again", Duration::from_secs(5), || world.relay.status().turn.map(|_| ()));
    complete(&peer(&world, Outer::Ipv4, Outer::Ipv4, &["-n", "10", "-z", "5", "-c"]), 10);

    let key = Key::of(USER.0, REALM, USER.1).to_hex();
    let other = Key::of(USER.0, REALM, "another").to_hex();
    world.relay.control = world.relay.control.replace(&key, &other);
    world.relay.write_configuration();
    until("refusal of the old password", Duration::from_secs(30), || {
        let report = peer(&world, Outer::Ipv4, Outer::Ipv4, &["-n", "1", "-c"]);
        report.text.contains("Cannot complete Allocation").then_some(())
    });
}
