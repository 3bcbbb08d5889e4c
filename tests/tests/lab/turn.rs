//! The TURN server with coturn's own client, peer and STUN client. Where data is carried by channels, the XDP program does it.

use std::{net::UdpSocket, time::Duration};

use relay_tests::{
    command::run,
    relay::Outer,
    turn::{PORT, REALM, Report, SECRET, TurnWorld, USER, report},
    until,
};
use relay_user::turn::credentials::Key;

const FAMILIES: [Outer; 2] = [Outer::Ipv4, Outer::Ipv6];

/// All that was sent has come back.
#[track_caller]
fn complete(report: &Report, messages: u64) {
    let Report { succeeded, sent, received, text } = report;
    assert!(
        *succeeded && *sent == messages && *received == messages,
        "{sent} sent, {received} back:\n{text}"
    );
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
    let turn = world.relay.status().turn.expect("it is on");
    let user = turn.users.iter().find(|user| user.name == USER.0).expect("the user is shown");
    assert!(user.sent_packets >= 800 && user.sent_bytes >= 800 * 171, "{user:?}");
    assert!(user.received_packets >= 800 && user.received_bytes >= 800 * 171, "{user:?}");
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
    // They give back what they had.
    until("end of all allocations", Duration::from_secs(20), || {
        world.relay.status().turn.is_some_and(|turn| turn.allocations == 0).then_some(())
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
        assert!(report.received == 0 && report.text.contains("Cannot complete Allocation"), "{user}: {}", report.text);
    }
    // Time-limited credentials, as coturn's client makes them of the secret.
    let mut command = world.uclient_as(Outer::Ipv4, "ann", "");
    command.args(["-e", &address, "-n", "20", "-z", "5", "-c", "-W", SECRET]);
    complete(&report(command), 20);
    let turn = world.relay.status().turn.expect("it is on");
    let outcome = |name: &str| turn.outcomes.iter().find(|o| o.outcome == name).expect("it is shown").count;
    assert!(outcome("unauthorized") >= 3 && outcome("allocated") == 1, "{turn:?}");
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
    until("refusal of the old password", Duration::from_secs(5), || {
        let report = peer(&world, Outer::Ipv4, Outer::Ipv4, &["-n", "1", "-c"]);
        report.text.contains("Cannot complete Allocation").then_some(())
    });
}
