//! Hosts whose relay is gone.

use std::collections::BTreeMap;

use super::*;

impl World {
    /// `relay` has hosts a to f; `second` and `third` have none, and `third` is in another network alone.
    fn with_more_relays() -> Self {
        let mut world = Self::new();
        world.will(Command::CreateMember(member("second", 11, &["net", "other"])));
        world.will(relay("second", &["198.51.100.2"]));
        world.will(Command::CreateMember(member("third", 12, &["other"])));
        world.will(relay("third", &["198.51.100.3"]));
        for (host, number) in [("c", 4), ("d", 5), ("e", 6), ("f", 7)] {
            world.will(Command::CreateMember(member(host, number, &["net"])));
        }
        world.will(relay_hosts("relay", &["a", "b", "c", "d", "e", "f"]));
        world
    }

    fn relays_of(&self, hosts: &[&str]) -> BTreeMap<String, Option<String>> {
        let by = |host: &str| Some(self.host(host).relayed.as_ref()?.by.as_str().to_owned());
        hosts.iter().map(|host| ((*host).to_owned(), by(host))).collect()
    }

    fn all_by(&self, hosts: &[&str], relay: &str) -> bool {
        self.relays_of(hosts).values().all(|by| by.as_deref() == Some(relay))
    }
}

fn fail_over(from: &str, hosts: &[&str], alive: &[&str]) -> Command {
    let names = |texts: &[&str]| texts.iter().map(|text| name(text)).collect::<Vec<_>>();
    Command::FailOver { from: name(from), hosts: names(hosts), alive: names(alive).into_iter().collect() }
}

#[test]
fn hosts_go_to_a_relay_that_is_alive_and_in_all_their_networks() {
    let mut world = World::with_more_relays();
    world.will(fail_over("relay", &["a", "b"], &["second", "third"]));
    assert!(world.all_by(&["a", "b"], "second"));
    assert!(world.all_by(&["c", "d", "e", "f"], "relay"), "they were not named");
    assert_eq!(world.state.home(world.host("a")), Some("198.51.100.2:51820".parse().unwrap()));
}

#[test]
fn hosts_stay_where_no_other_can_take_them() {
    let mut world = World::with_more_relays();
    for alive in [&["third"][..], &["relay"], &["third", "gone", "a"], &[]] {
        world.will(fail_over("relay", &["a", "b"], alive));
        assert!(world.all_by(&["a", "b"], "relay"), "{alive:?}");
    }
}

#[test]
fn a_host_that_is_elsewhere_by_now_stays_there() {
    let mut world = World::with_more_relays();
    world.will(relay_hosts("second", &["a"]));
    world.will(Command::ReleaseHosts { relay: name("relay"), hosts: hosts(&["b"]) });
    world.will(Command::DeleteMember(name("c")));
    let before = world.relays_of(&["a", "b", "d"]);
    world.will(fail_over("relay", &["a", "b", "c", "unknown", "second"], &["second"]));
    assert_eq!(world.relays_of(&["a", "b", "d"]), before);
}

#[test]
fn the_load_is_shared() {
    let mut world = World::with_more_relays();
    world.will(Command::CreateMember(member("fourth", 13, &["net"])));
    world.will(relay("fourth", &["198.51.100.4"]));
    world.will(relay_hosts("fourth", &["a", "b"]));
    world.will(fail_over("relay", &["c", "d", "e", "f"], &["second", "fourth"]));
    let count = |relay| world.state.hosts(relay).len();
    assert_eq!((count("second"), count("fourth")), (3, 3));
}

#[test]
fn many_hosts_go_in_steps() {
    let mut world = World::new();
    world.will(Command::ChangeNetwork(network("net", Some("10.1.0.0/16"), Some("fd00:1::/64"))));
    world.will(Command::CreateMember(member("second", 11, &["net"])));
    world.will(relay("second", &["198.51.100.2"]));
    let names: Vec<String> = (0..2 * STEP + 1).map(|n| format!("h{n}")).collect();
    for (number, name) in (100..).zip(&names) {
        let plan = world.plan(Command::CreateMember(member(name, number, &["net"]))).unwrap();
        world.state.apply(world.state.revision(), plan.ops);
    }
    world.will(Command::RelayHosts { relay: name("relay"), hosts: Hosts::All, address: None });
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let first = world.plan(fail_over("relay", &names, &["second"])).unwrap();
    assert_eq!(first.ops.len(), STEP);
    assert!(first.rest.is_some());
    world.will(fail_over("relay", &names, &["second"]));
    assert!(world.all_by(&names, "second"));
}
