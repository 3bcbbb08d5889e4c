//! The Debian package on a Debian machine with systemd: it installs, runs with as few rights as its unit says, and is
//! removed without a trace.

use std::{fs, path::Path, time::Duration};

use relay_tests::{Lab, command::program, command::run, machine::Machine, until};

const UNIT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../relay-user/packaging/wgrelay.service");

/// What `systemd-analyze security` may say of the unit at most, of 10; docs/operations.md tells what it says.
const EXPOSURE: f64 = 2.5;

/// CAP_NET_ADMIN
const NET_ADMIN: u64 = 1 << 12;

const FILE: &str = "/etc/wgrelay/relay.toml";
const CONFIGURATION: &str = r#"[relay]
interface = "INTERFACE"
create = true
private_key_file = "/var/lib/wgrelay/private.key"
port = 51820
addresses = ["198.51.100.1"]
attach = ["eth0"]

[control]
source = "store"
"#;

/// What of the unit is changed for the test: the log goes to a file, and a stuck engine is noticed sooner.
const DROP_IN: &str = "[Service]\nStandardError=append:/run/wgrelay.log\nWatchdogSec=7\nTimeoutAbortSec=1\n";

#[test]
fn the_unit_is_hardened() {
    let mut analyze = program("systemd-analyze");
    let output = run(analyze.args(["security", "--offline=true", "--no-pager"]).arg(UNIT));
    let last = output.lines().find(|line| line.contains("Overall exposure level")).expect("it has a result");
    let score = last.split(": ").nth(1).and_then(|rest| rest.split(' ').next()?.parse::<f64>().ok());
    assert!(score.expect("a number") <= EXPOSURE, "{output}");
}

/// The machine with an interface to attach to, and the package installed.
fn installed(lab: &Lab) -> Machine {
    let namespace = lab.namespace("machine");
    namespace.ip("link add eth0 type veth peer name peer");
    namespace.ip("address add 198.51.100.1/24 dev eth0");
    namespace.ip("link set eth0 up");
    namespace.ip("link set peer up");
    let machine = Machine::boot(&namespace);
    let package = std::env::var_os("WGRELAY_DEB").expect("`cargo xtask test --tier lab` sets it");
    machine.write("/wgrelay.deb", &fs::read(package).expect("read the package"));
    // Dependencies are what this machine has: it has built the package.
    machine.run("dpkg --install /wgrelay.deb");
    machine
}

/// wgrelay's main process as this machine knows it.
fn main_process(machine: &Machine) -> String {
    machine.run("systemctl show --property MainPID --value wgrelay").trim().to_owned()
}

fn is_active(machine: &Machine) -> bool {
    machine.try_run("systemctl is-active --quiet wgrelay").status.success()
}

/// The effective and permitted capabilities of each thread.
fn capabilities(machine: &Machine, process: &str) -> Vec<u64> {
    // A thread may end meanwhile.
    let lines = machine.run(&format!("grep -hsE 'Cap(Eff|Prm)' /proc/{process}/task/*/status || true"));
    let value = |line: &str| u64::from_str_radix(line.split_whitespace().nth(1)?, 16).ok();
    lines.lines().filter_map(value).collect()
}

#[test]
fn the_package_installs_runs_and_is_removed() {
    let lab = Lab::new();
    let machine = installed(&lab);
    assert!(machine.run("wgrelay --version").starts_with("wgrelay "));
    let files = machine.run("dpkg --listfiles wgrelay");
    for file in [
        "/usr/bin/wgrelay",
        "/etc/wgrelay/relay.toml.example",
        "/lib/systemd/system/wgrelay.service",
        "/usr/share/man/man1/wgrelay.1.gz",
        "/usr/share/man/man1/wgrelay-doctor.1.gz",
        "/usr/share/bash-completion/completions/wgrelay",
    ] {
        assert!(
            files.lines().any(|line| line.trim_start_matches("/usr") == file.trim_start_matches("/usr")),
            "{file} is not in:\n{files}"
        );
    }
    machine.run("wgrelay check /etc/wgrelay/relay.toml.example && bash -n /usr/share/bash-completion/completions/wgrelay");
    let page = machine.run("zcat /usr/share/man/man1/wgrelay.1.gz");
    assert!(page.contains("wgrelay\\-doctor"), "{page}");
    assert!(!is_active(&machine), "it is not started before there is a configuration");

    // It runs, by a unit that gives it little, and gives up most of that.
    let configuration = CONFIGURATION.replace("INTERFACE", &lab.id().interface("sd"));
    machine.write(FILE, configuration.as_bytes());
    machine.write("/etc/systemd/system/wgrelay.service.d/test.conf", DROP_IN.as_bytes());
    machine.run("systemctl daemon-reload && systemctl start wgrelay");
    let log = || machine.run("cat /run/wgrelay.log");
    assert!(log().contains("ready: forwarding"), "systemctl comes back when it is ready: {}", log());
    let first = main_process(&machine);
    // Threads of the time before have nothing to do any more, and end.
    until("threads with few capabilities", Duration::from_secs(10), || {
        capabilities(&machine, &first).iter().all(|set| set & !NET_ADMIN == 0).then_some(())
    });
    assert!(capabilities(&machine, &first).contains(&NET_ADMIN));
    assert!(machine.run("wgrelay status").contains("eth0 (driver)"));
    machine.run("wgrelay network create mesh --ipv4 10.10.0.0/16");

    let changed = configuration.replace("port =", "deny = [\"192.0.2.0/24\"]\nport =");
    machine.write(FILE, changed.as_bytes());
    machine.run("systemctl reload wgrelay");
    until("the new configuration", Duration::from_secs(5), || {
        log().contains("configuration taken over").then_some(())
    });
    assert_eq!(main_process(&machine), first, "a reload is no restart");

    // A stuck engine is noticed and replaced, and takes over what was there.
    machine.run(&format!("kill -STOP {first}"));
    until("a restart by the watchdog", Duration::from_secs(40), || {
        (main_process(&machine) != first && is_active(&machine)).then_some(())
    });
    assert!(log().contains("taken_over=true"), "{}", log());
    assert!(machine.run("wgrelay network list").contains("mesh"));

    // The same version once more stands for an upgrade.
    let second = main_process(&machine);
    machine.run("dpkg --install /wgrelay.deb");
    assert!(is_active(&machine) && main_process(&machine) != second, "it is started again");

    machine.run("dpkg --remove wgrelay");
    assert!(!is_active(&machine));
    assert_eq!(machine.run("ip -details link show dev eth0 | grep -c xdp || true").trim(), "0");
    assert!(Path::new(UNIT).exists());
    assert!(machine.run("ls /etc/wgrelay").contains("relay.toml"), "removing keeps the configuration");
    machine.run("dpkg --purge wgrelay");
    let left = machine.run("find /etc /usr/bin /usr/lib /usr/share /var /run /sys/fs/bpf -xdev -name '*wgrelay*' -not -path '/usr/share/*/registry/*' || true");
    let left: Vec<&str> = left
        .lines()
        // What the test itself has put there, and the empty directory that pins were in.
        .filter(|path| {
            !path.starts_with("/etc/systemd/system/wgrelay.service.d") && *path != "/run/wgrelay.log"
        })
        .collect();
    assert!(left.is_empty(), "{left:?}");
}
