//! `wgrelay doctor` on hosts that are made up to be bad: each fault is found, with its remedy, and nothing else.

use relay_tests::{
    World,
    command::run,
    relay::{PORT, Relay, wgrelay},
    xdp_pass,
};
use rustix::process::Signal;
use serde::Deserialize;

#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
struct Finding {
    check: String,
    level: String,
    what: String,
    remedy: Option<String>,
}

/// What the doctor says of the relay's host, and its exit status.
#[track_caller]
fn doctor(relay: &Relay) -> (i32, Vec<Finding>) {
    let mut command = relay.namespace.command(&wgrelay().to_string_lossy());
    let output = command.args(["doctor", "--json"]).arg(relay.file()).output().expect("start wgrelay");
    let findings = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    (output.status.code().expect("it ends by itself"), findings)
}

/// What is not well.
fn faults(findings: &[Finding]) -> Vec<&Finding> {
    findings.iter().filter(|finding| finding.level != "ok").collect()
}

/// A world whose relay has a configuration and does not run, and what is not well with its host before anything is done to it.
fn healthy() -> (World, Vec<Finding>) {
    let world = World::new();
    world.relay.write_configuration();
    let (status, findings) = doctor(&world.relay);
    let known: Vec<Finding> = faults(&findings).into_iter().cloned().collect();
    assert!(known.iter().all(|finding| finding.level == "warning"), "{known:#?}");
    assert_eq!(status, i32::from(!known.is_empty()));
    (world, known)
}

/// Of this host one more thing is not well now; it and its remedy have these words.
#[track_caller]
fn one_more(world: &World, before: &[Finding], level: &str, words: [&str; 2]) {
    let (status, findings) = doctor(&world.relay);
    let all = faults(&findings);
    let new: Vec<_> = all.iter().filter(|finding| !before.contains(finding)).collect();
    let [finding] = &new[..] else { panic!("not one more: {new:#?}") };
    assert_eq!(finding.level, level, "{finding:?}");
    assert!(finding.what.contains(words[0]), "{finding:?}");
    assert!(finding.remedy.as_ref().is_some_and(|remedy| remedy.contains(words[1])), "{finding:?}");
    assert_eq!(status, if level == "error" { 2 } else { 1 }, "{finding:?}");
}

#[test]
fn a_host_of_the_lab_is_well_but_for_its_veth() {
    let (world, before) = healthy();
    assert!(before.iter().any(|finding| finding.what.contains("veth")), "{before:#?}");
    let known = ["veth", "no route", "CPUs", "tracked", "nftables"];
    let other: Vec<_> = before.iter().filter(|f| !known.iter().any(|word| f.what.contains(word))).collect();
    assert!(other.is_empty(), "{other:#?}");
    let text = run_text(&world.relay);
    assert!(text.lines().any(|line| line.starts_with("ok ")) && text.contains("         -> "), "{text}");
}

/// What it prints for people.
fn run_text(relay: &Relay) -> String {
    let mut command = relay.namespace.command(&wgrelay().to_string_lossy());
    let output = command.arg("doctor").arg(relay.file()).output().expect("start wgrelay");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_relay_that_runs_or_was_killed_is_no_fault() {
    let mut world = World::new();
    world.relay.start();
    let (_, running) = doctor(&world.relay);
    assert!(running.iter().all(|finding| finding.level != "error"), "{running:#?}");
    assert!(running.iter().any(|finding| finding.what.contains("a wgrelay runs")), "{running:#?}");
    assert!(running.iter().any(|finding| finding.what.contains("answers, at UDP port")), "{running:#?}");
    world.relay.stop(Signal::KILL);
    let (_, killed) = doctor(&world.relay);
    assert!(killed.iter().all(|finding| finding.level != "error"), "{killed:#?}");
}

#[test]
fn firewalls_that_bite_are_found() {
    let (world, before) = healthy();
    let relay = &world.relay.namespace;
    relay.nft(
        "table inet f { chain in { type filter hook input priority 0; policy drop; tcp dport 22 accept; }; }",
    );
    one_more(
        &world,
        &before,
        "error",
        ["drops what comes to UDP port", "nft insert rule inet f in udp dport"],
    );
    // The remedy, as it is told, is one.
    run(relay.command("nft").args([
        "insert",
        "rule",
        "inet",
        "f",
        "in",
        "udp",
        "dport",
        &PORT.to_string(),
        "accept",
    ]));
    let (_, findings) = doctor(&world.relay);
    assert_eq!(faults(&findings).into_iter().cloned().collect::<Vec<_>>(), before);
    run(relay.command("nft").args(["flush", "ruleset"]));

    relay.nft(
        "table ip n { chain out { type nat hook postrouting priority 100; oifname \"eth0\" masquerade; }; }",
    );
    let (_, findings) = doctor(&world.relay);
    let masqueraded = findings.iter().find(|finding| finding.what.contains("masquerades"));
    let remedy = masqueraded.and_then(|finding| finding.remedy.clone()).expect("it has a remedy");
    // The command that is told stands before the words that follow it.
    let (command, _) = remedy.split_once("', and").expect("it ends so");
    run(relay.command("sh").arg("-c").arg(format!("{command}'")));
    let (_, findings) = doctor(&world.relay);
    assert_eq!(faults(&findings).into_iter().cloned().collect::<Vec<_>>(), before);
}

#[test]
fn interfaces_that_do_not_fit_are_found() {
    let (mut world, before) = healthy();
    let relay = world.relay.namespace.clone();
    relay.ip("link set eth0 mtu 1300");
    one_more(&world, &before, "warning", ["MTU 1300", "mtu 1500"]);
    relay.ip("link set eth0 mtu 1500");

    let program = xdp_pass::attach(&relay, "eth0");
    one_more(&world, &before, "error", ["has an XDP program already", "ip link set dev eth0 xdp off"]);
    drop(program);

    world.relay.changes = vec![("\"eth0\"".into(), "\"lo\"".into())];
    world.relay.write_configuration();
    let (status, findings) = doctor(&world.relay);
    assert_eq!(status, 2);
    assert!(
        findings
            .iter()
            .any(|finding| finding.check == "interface lo" && finding.what.contains("no Ethernet"))
    );
    world.relay.changes = vec![("\"eth0\"".into(), "\"eth7\"".into())];
    world.relay.write_configuration();
    let (_, findings) = doctor(&world.relay);
    assert!(
        findings.iter().any(|finding| finding.what.contains("there is no interface eth7")),
        "{findings:#?}"
    );
}

#[test]
fn a_port_an_address_and_a_directory_that_can_not_be_had_are_found() {
    let (mut world, before) = healthy();
    let address = format!("0.0.0.0:{PORT}");
    let occupant =
        world.relay.namespace.enter(|| std::net::UdpSocket::bind(&address)).expect("bind a socket");
    one_more(&world, &before, "error", ["another program has UDP port", "ss -lunp"]);
    drop(occupant);

    let v4 = world.relay.addresses[0];
    let missing = "203.0.113.99";
    world.relay.changes = vec![(format!("{:?}", v4.to_string()), format!("{missing:?}"))];
    world.relay.write_configuration();
    let (status, findings) = doctor(&world.relay);
    assert_eq!(status, 2);
    assert!(findings.iter().any(|f| f.level == "error" && f.what.contains("203.0.113.99 is not an address")));

    world.relay.changes = vec![("bpffs/".into(), "no-bpffs/".into())];
    world.relay.write_configuration();
    one_more(&world, &before, "error", ["not on a BPF file system", "mount -t bpf"]);
}

#[test]
fn missing_capabilities_are_found() {
    let (world, _) = healthy();
    let mut command = world.relay.namespace.command("setpriv");
    command.args(["--bounding-set=-net_raw", "--inh-caps=-all"]).arg(wgrelay());
    let output = command.args(["doctor", "--json"]).arg(world.relay.file()).output().expect("start setpriv");
    let findings: Vec<Finding> = serde_json::from_slice(&output.stdout).expect("it prints JSON");
    assert_eq!(output.status.code(), Some(2));
    assert!(findings.iter().any(|f| f.level == "error" && f.what.contains("CAP_NET_RAW")), "{findings:#?}");
}
