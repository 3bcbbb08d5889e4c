//! Restarts, upgrades and reboots: what they may cost, which is nothing or little, and what of it is told afterwards.

use std::{fs, path::PathBuf, time::Duration};

use relay_tests::{
    World,
    host::Host,
    relay::{HostStatus, Outer},
    restarts::{self, Event, streams},
    stream::{Stream, Streamed},
    traffic::{connect, ping},
    until,
    wait::now,
    world::REGISTRATION,
};
use rustix::process::Signal;

use super::failures::assert_nothing_is_left;

/// Longer than any of these tests: whoever comes back does not do it by this.
const KEEPALIVE: u16 = 600;
/// How soon hosts must be registered after a reboot.
const RETURN: Duration = Duration::from_secs(2);

fn ended(streams: [Stream; 2]) -> Streamed {
    streams.into_iter().map(Stream::stop).sum()
}

/// Ends the streams, and tells how many datagrams they had.
#[track_caller]
fn assert_none_is_lost(streams: [Stream; 2]) -> u64 {
    let Streamed { sent, received, lost, longest_gap_ms, .. } = ended(streams);
    eprintln!("{sent} datagrams, {received} came, the longest gap {longest_gap_ms} ms");
    assert!(sent > 500, "that is no stream: {sent} datagrams");
    assert_eq!((received, &*lost), (sent, [].as_slice()), "datagrams were lost");
    sent
}

#[test]
fn fifty_restarts_upgrades_and_reloads_lose_nothing() {
    let mut world = restarts::world();
    let start = now();
    let outcome = restarts::run(&mut world, Event::ALL.into_iter().cycle().take(50), &|_| {});
    eprintln!("{outcome:?} in {:?}", start.elapsed());
    assert!(outcome.ok, "{outcome:?}");
    assert_eq!((outcome.restarts, outcome.reloads), (38, 12));
}

#[test]
fn a_start_that_is_killed_anywhere_is_repaired_by_the_next() {
    let mut world = restarts::world();
    // How long a start takes, here and now.
    world.relay.stop(Signal::TERM);
    let start = now();
    world.relay.start();
    let whole = start.elapsed();
    let before = world.relay.host("a").sent_packets;
    let streams = streams(&world);
    world.relay.stop(Signal::TERM);
    const TIMES: u32 = 20;
    for n in 0..TIMES {
        // Every other one has to make tables of another size first.
        let limits = ["sessions = 65536", "sessions = 1024\nendpoints = 500\npending = 256"][n as usize % 2];
        world.relay.changes = vec![("sessions = 65536".into(), limits.into())];
        world.relay.start_and_kill(whole * n / TIMES);
    }
    world.relay.start();
    assert!(world.relay.status().sessions >= 1, "the sessions are gone");
    let told = world.relay.host("a").sent_packets - before;
    let sent = assert_none_is_lost(streams);
    assert!(told <= sent / 2 + 100, "{told} of {sent}, both ways: something was counted twice");

    // The same from nothing: whatever is made half-way is made whole.
    world.relay.keep = None;
    world.relay.write_configuration();
    until("another configuration", Duration::from_secs(5), || (world.relay.taken_over() > 0).then_some(()));
    world.relay.stop(Signal::TERM);
    assert_nothing_is_left(&world);
    for n in 0..TIMES {
        world.relay.start_and_kill(whole * n / TIMES);
        world.relay.start();
        assert_eq!(world.relay.status().xdp.len(), 1);
        world.relay.stop(Signal::TERM);
        assert_nothing_is_left(&world);
    }
}

#[test]
fn what_is_kept_is_told_and_removed_by_unload() {
    let mut world = restarts::world();
    let streams = streams(&world);
    assert!(world.relay.stop(Signal::TERM).success());
    let links = world.relay.namespace.ip("link show");
    assert!(links.contains(&world.relay.interface) && links.contains("xdp"), "{links}");
    assert_none_is_lost(streams);
    let said = world.relay.unload();
    assert!(said.contains(&world.relay.interface) && said.contains("removed what was pinned"), "{said}");
    assert_nothing_is_left(&world);
    assert!(world.relay.unload().contains("nothing is pinned"));
}

#[test]
fn totals_survive_however_the_relay_ends() {
    let mut world = restarts::world();
    connect(&world.a, &world.p, REGISTRATION);
    assert_eq!(ping(&world.a, &world.p, 100, Duration::from_millis(2)).received, 100);
    let sent = |world: &World| world.relay.host("a").sent_packets;
    // Its session with p ends: what it has carried is in no live session any more.
    let before = sent(&world);
    assert!(before >= 100, "{before}");
    let sessions = world.relay.status().sessions;
    world.relay.changes = vec![("deny = []".into(), "deny = [\"198.51.100.9/32\"]".into())];
    world.relay.write_configuration();
    until("end of the session", Duration::from_secs(5), || {
        (world.relay.status().sessions < sessions).then_some(())
    });
    assert!(sent(&world) >= before);
    for signal in [Signal::KILL, Signal::TERM] {
        world.relay.restart(signal);
        assert!(sent(&world) >= before, "after {signal:?}: {} of {before}", sent(&world));
    }
    // Of a start in which there are no maps any more, the file has them.
    world.relay.stop(Signal::TERM);
    world.relay.unload();
    world.relay.start();
    assert!(sent(&world) >= before, "by the file: {} of {before}", sent(&world));
    let twice = 2 * before;
    assert!(sent(&world) < twice, "{} of {before}: something was counted twice", sent(&world));
}

#[test]
fn other_limits_take_the_sessions_along() {
    let mut world = restarts::world();
    let streams = streams(&world);
    let before = world.relay.host("a");
    let other = "sessions = 1024\nendpoints = 500\npending = 256";
    for limits in [other, "sessions = 131072\nendpoints = 100000"] {
        world.relay.changes = vec![("sessions = 65536".into(), limits.into())];
        world.relay.restart(Signal::TERM);
        assert!(world.relay.said().contains("has another size now"), "{}", world.relay.said());
        assert!(world.relay.status().sessions >= 1, "{limits}: the sessions are gone");
        let after = world.relay.host("a");
        assert!(after.endpoint == before.endpoint && after.sent_packets >= before.sent_packets, "{after:?}");
    }
    assert_none_is_lost(streams);
}

/// Makes what is pinned look like that of another version.
fn disguise(world: &World) -> PathBuf {
    let versions = fs::read_dir(world.relay.pins()).expect("read the pins");
    let ours =
        versions.map(|version| version.expect("read the pins").path()).next().expect("a version is pinned");
    let other = world.relay.pins().join("abi-1");
    fs::rename(ours, &other).expect("rename a directory of pins");
    other
}

#[test]
fn another_versions_maps_are_never_read() {
    let mut world = restarts::world();
    let streams = streams(&world);
    let before = world.relay.host("a").sent_packets;
    // After an orderly stop the sessions are known without its maps, and its links are taken over.
    world.relay.stop(Signal::TERM);
    let (other, links) = (disguise(&world), world.relay.links());
    world.relay.start();
    assert!(!other.exists(), "the other version's pins are still there");
    assert_eq!(world.relay.links(), links);
    assert!(world.relay.status().sessions >= 1, "the sessions are gone");
    assert!(world.relay.host("a").sent_packets >= before);
    assert_none_is_lost(streams);
    // After a kill they are not.
    world.relay.stop(Signal::KILL);
    let other = disguise(&world);
    let (status, said) = world.relay.start_and_fail(&mut world.relay.command());
    assert!(!status.success() && said.contains("wgrelay unload --pin-dir"), "{said}");
    assert!(other.exists() && said.contains(&*other.to_string_lossy()), "{said}");
    world.relay.unload();
    world.relay.start();
}

#[test]
fn what_needs_a_restart_says_so_and_gets_it() {
    let mut world = restarts::world();
    world.relay.changes = vec![("port = 51820".into(), "port = 51999".into())];
    world.relay.write_configuration();
    until("word of a restart", Duration::from_secs(5), || {
        (world.relay.status().source.needs_restart == ["relay.port"]).then_some(())
    });
    let port = |world: &World| world.relay.wg(&["show", &world.relay.interface, "listen-port"]);
    assert_eq!(port(&world).trim(), "51820");
    world.relay.restart(Signal::TERM);
    assert_eq!(port(&world).trim(), "51999");
    assert_eq!(world.relay.status().source.needs_restart, Vec::<String>::new());
}

/// How long after its start the relay has these hosts registered anew.
#[track_caller]
fn return_of(world: &mut World) -> Duration {
    let hosts = [world.a.name.clone(), world.b.name.clone()];
    let begun = now();
    world.relay.start();
    let start = now();
    // A handshake from before the start would be shown as well if the interface were still the old one.
    until("registration of a and b", RETURN, || {
        let registered = |name: &String| {
            let host = world.relay.host(name);
            host.last_handshake_seconds_ago.is_some_and(|ago| ago <= begun.elapsed().as_secs_f64() + 1.0)
        };
        hosts.iter().all(registered).then_some(())
    });
    start.elapsed()
}

/// A world in which no host notices by itself that the relay is another.
fn silent_world() -> World {
    let mut world = World::new();
    world.relay.start();
    world.point_hosts(Outer::Ipv4, KEEPALIVE);
    world.start_hosts();
    connect(&world.a, &world.b, REGISTRATION);
    world
}

#[test]
fn after_a_reboot_in_order_sessions_go_on_and_hosts_are_back_at_once() {
    let mut world = silent_world();
    assert!(world.relay.stop(Signal::TERM).success());
    assert_nothing_is_left(&world);
    let time = return_of(&mut world);
    eprintln!("registered {time:?} after the start");
    assert!(world.relay.status().sessions >= 1, "the sessions are gone");
    assert_eq!(
        ping(&world.a, &world.b, 50, Duration::from_millis(5)).received,
        50,
        "the session does not go on"
    );
    assert_eq!(world.relay.status().handshakes("session_opened"), 0, "it took a new handshake");
}

#[test]
fn after_a_crash_and_a_reboot_hosts_are_back_at_once() {
    let mut world = silent_world();
    let file = world.relay.state_file();
    let both =
        [&world.a, &world.b].map(|host| world.relay.host(&host.name).endpoint.expect("it is registered"));
    until("endpoints in the file", Duration::from_secs(40), || {
        let text = fs::read_to_string(&file).ok()?;
        both.iter().all(|endpoint| text.contains(endpoint)).then_some(())
    });
    let kept = fs::read(&file).expect("read the state file");
    let crash = |world: &mut World| {
        world.relay.stop(Signal::KILL);
        world.relay.unload();
        assert!(!world.relay.namespace.ip("link show").contains(&world.relay.interface));
    };
    // Without the file nobody comes back by himself in that time.
    crash(&mut world);
    fs::remove_file(&file).expect("remove the state file");
    world.relay.start();
    std::thread::sleep(RETURN);
    let seen = |host: &HostStatus| host.last_handshake_seconds_ago.is_some();
    assert!(!world.relay.hosts().iter().any(seen), "{:?}", world.relay.hosts());
    crash(&mut world);
    fs::write(&file, kept).expect("put the state file back");
    let time = return_of(&mut world);
    eprintln!("registered {time:?} after the start");
    // Their sessions are gone, and they notice that by their own timers.
    connect(&world.a, &world.b, Duration::from_secs(35));
}

#[test]
fn churn_leaves_nothing_behind() {
    let mut world = World::running(Outer::Ipv4);
    for (from, to) in world.pairs() {
        connect(from, to, REGISTRATION);
    }
    let seconds =
        std::env::var("WGRELAY_SOAK_SECONDS").map(|text| text.parse().expect("a number of seconds"));
    let whole = Duration::from_secs(seconds.unwrap_or(60));
    let members = world.relay.members.clone();
    let (start, mut rounds) = (now(), 0);
    // The most of each third.
    let mut most = [Taken::default(); 3];
    while start.elapsed() < whole {
        rounds += 1;
        // Members come and others go, and every pair makes a new session.
        world.relay.members.truncate(members.len());
        world.relay.members.extend((0..100).map(|_| relay_tests::Member::invented()));
        world.relay.write_configuration();
        for (from, to) in world.pairs() {
            renew(from, to);
        }
        let third = (3 * start.elapsed().as_millis() / whole.as_millis()).min(2) as usize;
        most[third] = most[third].and(Taken::by(&world));
    }
    world.relay.members = members;
    world.relay.write_configuration();
    until("the members of before", Duration::from_secs(10), || {
        (world.relay.status().members == world.relay.members.len() as u64).then_some(())
    });
    eprintln!("{rounds} rounds: {most:?}");
    assert!(rounds >= 10, "that is no churn: {rounds} rounds");
    let [_, before, after] = most;
    assert!(after.memory_kib <= before.memory_kib + before.memory_kib / 10 + 1024, "memory grows: {most:?}");
    assert!(after.files <= before.files + 2, "files stay open: {most:?}");
    // Three pairs, six sessions each, two entries each.
    assert!(after.sessions <= 36, "sessions stay: {most:?}");
    assert!(after.endpoints <= before.endpoints + 4, "endpoints stay: {most:?}");
    assert!(after.next_hops <= before.next_hops + 2, "next hops stay: {most:?}");
    let status = world.relay.status();
    assert_eq!((status.ring_lost, status.userspace.send_errors), (0, 0));
}

/// Makes a new session between two hosts.
#[track_caller]
fn renew(from: &Host, to: &Host) {
    from.forget_peer(to);
    connect(from, to, REGISTRATION);
}

/// What the relay takes.
#[derive(Clone, Copy, Debug, Default)]
struct Taken {
    memory_kib: u64,
    files: u64,
    sessions: u64,
    endpoints: u64,
    next_hops: u64,
}

impl Taken {
    fn by(world: &World) -> Self {
        let process = PathBuf::from(format!("/proc/{}", world.relay.pid()));
        let status = fs::read_to_string(process.join("status")).expect("read the process's status");
        let anonymous = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("it has memory");
        let maps = world.relay.status().maps;
        let used = |name: &str| maps.iter().find(|map| map.map == name).map_or(0, |map| map.used);
        Self {
            memory_kib: anonymous.trim().trim_end_matches(" kB").parse().expect("memory is a number"),
            files: fs::read_dir(process.join("fd")).expect("read the open files").count() as u64,
            sessions: used("SESSIONS"),
            endpoints: used("ENDPOINTS"),
            next_hops: used("NEXT_HOPS"),
        }
    }

    fn and(self, other: Self) -> Self {
        Self {
            memory_kib: self.memory_kib.max(other.memory_kib),
            files: self.files.max(other.files),
            sessions: self.sessions.max(other.sessions),
            endpoints: self.endpoints.max(other.endpoints),
            next_hops: self.next_hops.max(other.next_hops),
        }
    }
}
