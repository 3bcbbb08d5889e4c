//! Who is relayed, and what is not.

use std::time::Duration;

use relay_tests::{
    World,
    internet::public,
    relay::{Member, Outer, SessionStatus},
    traffic::{Pinging, connect, ping},
    until,
    world::REGISTRATION,
};
use rustix::process::Signal;

/// How soon a change of the file must have been carried out.
const LIVE: Duration = Duration::from_secs(5);

#[test]
fn a_removed_host_is_cut_off_at_once_and_others_lose_nothing() {
    let mut world = World::running(Outer::Ipv4);
    connect(&world.a, &world.b, REGISTRATION);
    connect(&world.p, &world.a, REGISTRATION);
    let others = Pinging::start(&world.p, &world.a, Duration::from_millis(10));
    others.more(20, LIVE);

    let removed = world.relay.members.remove(1);
    assert_eq!(removed.name, "b");
    world.relay.write_configuration();
    let of_b = |s: &SessionStatus| s.from.as_deref() == Some("b") || s.to.as_deref() == Some("b");
    until("end of b's sessions", LIVE, || (!world.relay.sessions().iter().any(of_b)).then_some(()));
    assert_eq!(ping(&world.a, &world.b, 20, Duration::from_millis(20)).received, 0, "b is still relayed");
    assert_eq!(ping(&world.b, &world.a, 20, Duration::from_millis(20)).received, 0, "b is still relayed");
    assert!(world.relay.hosts().iter().all(|host| host.name != "b"));

    others.more(20, LIVE);
    assert_eq!(others.lost(), Vec::<u32>::new(), "p → a lost some");

    world.relay.members.insert(1, removed);
    world.relay.write_configuration();
    // Its next handshake with the relay's interface is at most five seconds after the last try, but only its own
    // timers (a session refused after 120 s, or nothing heard for 15 s) make it try; starting it anew does so at once.
    world.b.restart();
    connect(&world.a, &world.b, Duration::from_secs(40));
}

#[test]
fn a_broken_file_is_refused_and_the_running_state_stays() {
    let mut world = World::running(Outer::Ipv6);
    connect(&world.a, &world.b, REGISTRATION);
    let pings = Pinging::start(&world.a, &world.b, Duration::from_millis(10));
    world.relay.changes = vec![("port = 51820".into(), "port = fifty".into())];
    world.relay.write_configuration();
    let error = until("refusal of the file", LIVE, || world.relay.status().source.error);
    assert!(error.contains("6"), "the error names the line: {error}");
    pings.more(20, LIVE);
    world.relay.changes.clear();
    world.relay.write_configuration();
    until("acceptance of the mended file", LIVE, || {
        world.relay.status().source.error.is_none().then_some(())
    });
    assert_eq!(world.relay.status().members, 3);
    assert_eq!(pings.lost(), Vec::<u32>::new(), "a → b lost some");
}

#[test]
fn a_denied_source_is_cut_off_at_once_and_comes_back_when_it_is_denied_no_more() {
    let mut world = World::running(Outer::Ipv4);
    connect(&world.a, &world.b, REGISTRATION);
    let pings = Pinging::start(&world.a, &world.b, Duration::from_millis(50));
    pings.more(20, LIVE);
    let deny = ("deny = []".to_owned(), format!("deny = [\"{}/32\"]", public(2).0));
    world.relay.changes.push(deny);
    world.relay.write_configuration();
    until("end of the session", LIVE, || (world.relay.status().sessions == 0).then_some(()));
    until("denied packets", LIVE, || (world.relay.status().packets("source_denied") >= 10).then_some(()));
    assert_eq!(world.relay.host("a").endpoint, None);
    assert!(world.relay.host("b").endpoint.is_some());

    world.relay.changes.clear();
    world.relay.write_configuration();
    // WireGuard still knows where a is, and a tries again after 15 s.
    pings.more(20, Duration::from_secs(35));
}

/// More than WireGuard is told of in one call.
const VERY_MANY: usize = 20_000;

#[test]
fn forwarding_does_not_wait_until_wireguard_knows_very_many_hosts() {
    let mut world = World::running(Outer::Ipv4);
    world.relay.stop(Signal::TERM);
    world.relay.members.extend((0..VERY_MANY).map(|_| Member::invented()));
    world.relay.start();
    let peers = || world.relay.said().contains("the WireGuard interface has its peers").then_some(());
    until("all peers", Duration::from_secs(20), peers);
    let said = world.relay.said();
    let [being_set, ready, set] =
        ["peers of the WireGuard interface are being set", "ready", "has its peers"]
            .map(|what| said.find(what).unwrap_or_else(|| panic!("{what:?} was not said:\n{said}")));
    assert!(being_set < ready && ready < set, "{said}");
    let shown = world.relay.wg(&["show", &world.relay.interface, "peers"]);
    assert_eq!(shown.lines().count(), VERY_MANY + 2, "a and b are the others");
    // Hosts that were registered are called as soon as their peers are there.
    connect(&world.a, &world.b, Duration::from_secs(40));
}
