//! A relay that can't run says why in one line, fails, and leaves nothing behind.

use std::{fs, path::Path, process::Command};

use relay_tests::{
    World,
    command::program,
    relay::{PORT, wgrelay},
};

/// Nothing of wgrelay is there: no process, no interface, no XDP program, no pins, no socket.
#[track_caller]
pub fn assert_nothing_is_left(world: &World) {
    let relay = &world.relay;
    let pids =
        program("ip").args(["netns", "pids", &world.lab.id().namespace("relay")]).output().expect("start ip");
    assert_eq!(String::from_utf8_lossy(&pids.stdout), "", "a process is left");
    let links = relay.namespace.ip("link show");
    assert!(!links.contains(&relay.interface), "the interface is left: {links}");
    assert!(!links.contains("xdp"), "an XDP program is left: {links}");
    assert_eq!(files_below(&relay.pins()), Vec::<String>::new(), "pins are left");
    assert!(!relay.socket().exists(), "the socket is left");
}

fn files_below(directory: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    paths.flat_map(|p| if p.is_dir() { files_below(&p) } else { vec![p.display().to_string()] }).collect()
}

/// Starts a relay that is expected to refuse, and gives the one line that it says.
#[track_caller]
fn refusal(world: &World, command: &mut Command) -> String {
    let (status, printed) = world.relay.start_and_fail(command);
    assert!(!status.success(), "it ended with success: {printed}");
    // What was done until then may be told too.
    let lines: Vec<_> = printed.lines().filter(|line| !line.contains(" INFO ")).collect();
    assert_eq!(lines.len(), 1, "one line says it all:\n{printed}");
    lines[0].to_owned()
}

/// A world whose relay's configuration is changed, and what wgrelay says to it.
#[track_caller]
fn refused(from: &str, to: &str) -> (World, String) {
    let mut world = World::new();
    world.relay.changes = vec![(from.to_owned(), to.to_owned())];
    world.relay.write_configuration();
    let said = refusal(&world, &mut world.relay.command());
    assert_nothing_is_left(&world);
    (world, said)
}

/// All of these words are in what was said.
#[track_caller]
fn names(said: &str, words: &[&str]) {
    for word in words {
        assert!(said.contains(word), "{word:?} is not in: {said}");
    }
}

#[test]
fn without_capabilities() {
    let world = World::new();
    world.relay.write_configuration();
    let mut command = world.relay.namespace.command("setpriv");
    command.args(["--bounding-set=-all", "--inh-caps=-all"]).arg(wgrelay());
    let said = refusal(&world, command.args(["run", "--config"]).arg(world.relay.file()));
    names(&said, &["CAP_"]);
    assert_nothing_is_left(&world);
}

#[test]
fn without_bpffs() {
    let (world, said) = refused("bpffs/relay", "no-bpffs/relay");
    names(&said, &["bpffs", "mount -t bpf"]);
    assert!(!world.lab.file("no-bpffs/relay").exists());
}

#[test]
fn with_an_unknown_interface_to_attach_to() {
    let (_, said) = refused("\"eth0\"", "\"eth7\"");
    names(&said, &["eth7"]);
}

#[test]
fn without_its_wireguard_interface() {
    let (world, said) = refused("create = true", "create = false");
    names(&said, &[&world.relay.interface, "create = true"]);
}

#[test]
fn with_an_occupied_port() {
    let world = World::new();
    let address = format!("0.0.0.0:{PORT}");
    let _occupant =
        world.relay.namespace.enter(|| std::net::UdpSocket::bind(address)).expect("bind a socket");
    world.relay.write_configuration();
    let said = refusal(&world, &mut world.relay.command());
    names(&said, &[&PORT.to_string()]);
    assert_nothing_is_left(&world);
}

#[test]
fn with_a_broken_file() {
    let (world, said) = refused("port = 51820", "port = fifty");
    names(&said, &["relay.toml", "6"]);
    let check = program(wgrelay()).arg("check").arg(world.relay.file()).output().expect("start wgrelay");
    assert!(!check.status.success());
    names(&String::from_utf8_lossy(&check.stderr), &["relay.toml", "6"]);
}

#[test]
fn with_a_member_that_can_not_be() {
    let mut world = World::new();
    world.relay.members[1].public_key = world.relay.members[0].public_key.clone();
    world.relay.write_configuration();
    let said = refusal(&world, &mut world.relay.command());
    names(&said, &["\"a\"", "\"b\"", "same public key"]);
    assert_nothing_is_left(&world);
}
