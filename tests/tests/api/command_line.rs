//! The command line against `wgrelay serve`: what is typed, and what is printed.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use relay_tests::{
    command::{Process, program, run_with_input},
    wait::until,
};
use rustix::process::Signal;
use serde_json::Value;

/// A `wgrelay serve`.
pub(crate) struct Serving {
    pub(crate) directory: tempfile::TempDir,
    process: Option<Process>,
}

/// The program, as `cargo xtask test` has built it.
pub(crate) fn wgrelay() -> std::process::Command {
    let mut command =
        program(std::env::var_os("WGRELAY_BIN").expect("`cargo xtask test --tier api` sets WGRELAY_BIN"));
    // One that the surroundings have for another must not be asked.
    command.env_remove("WGRELAY_API").env_remove("WGRELAY_TOKEN").env_remove("WGRELAY_CA_FILE");
    command
}

impl Serving {
    pub(crate) fn start() -> Self {
        let mut this = Self { directory: tempfile::tempdir().unwrap(), process: None };
        this.again();
        this
    }

    fn again(&mut self) {
        let mut command = wgrelay();
        command.args(["serve", "--listen", "127.0.0.1:0", "--state-dir"]).arg(self.path("state"));
        command.arg("--socket").arg(self.socket());
        let mut process = Process::start(&mut command, self.path("log"));
        until("a wgrelay that serves", Duration::from_secs(20), || {
            assert!(process.ended().is_none(), "{}", process.printed());
            process.printed().contains("ready: serving").then_some(())
        });
        self.process = Some(process);
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn socket(&self) -> PathBuf {
        self.path("wgrelay.sock")
    }

    /// Where it listens for others.
    pub(crate) fn url(&self) -> String {
        let log = self.process.as_ref().expect("it runs").printed();
        let address = log.split("listen=\"").nth(1).and_then(|rest| rest.split('"').next());
        format!("http://{}", address.expect("it logs where it listens"))
    }

    /// Runs a command line, its words separated by spaces.
    fn types(&self, line: &str) -> Typed {
        Typed::of(wgrelay().args(line.split(' ')).arg("--socket").arg(self.socket()))
    }

    /// Likewise, of one that does what it should, and gives what it prints.
    #[track_caller]
    pub(crate) fn prints(&self, line: &str) -> String {
        self.types(line).well()
    }

    /// Likewise, as JSON.
    #[track_caller]
    fn json(&self, line: &str) -> Value {
        serde_json::from_str(&self.prints(&format!("{line} --json"))).unwrap()
    }

    /// A secret that a command shows once.
    #[track_caller]
    pub(crate) fn secret(&self, line: &str) -> String {
        self.json(line)["secret"].as_str().expect("a secret").to_owned()
    }
}

/// What became of a command line.
struct Typed {
    good: bool,
    printed: String,
    errors: String,
}

impl Typed {
    fn of(command: &mut std::process::Command) -> Self {
        let output = command.output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Self { good: output.status.success(), printed: text(output.stdout), errors: text(output.stderr) }
    }

    #[track_caller]
    fn well(self) -> String {
        assert!(self.good, "{}", self.errors);
        assert_eq!(self.errors, "");
        self.printed
    }

    /// It fails with one line that has this in it.
    #[track_caller]
    fn fails(self, part: &str) {
        assert!(!self.good && self.printed.is_empty(), "{}", self.printed);
        assert!(self.errors.contains(part), "{}", self.errors);
        assert!(self.errors.starts_with("error: ") || self.errors.lines().count() == 1, "{}", self.errors);
    }
}

/// A key pair: the file of the private key, and the public key.
fn key_pair(directory: &Path, name: &str) -> (PathBuf, String) {
    let private = relay_tests::command::run(program("wg").arg("genkey"));
    let public = run_with_input(program("wg").arg("pubkey"), &private);
    let file = directory.join(name);
    fs::write(&file, private).unwrap();
    (file, public.trim().to_owned())
}

/// Without spaces at the ends of lines, which tables have.
fn trimmed(text: &str) -> String {
    text.lines().map(|line| format!("{}\n", line.trim())).collect()
}

#[test]
fn from_nothing_to_two_relayed_hosts() {
    let serving = Serving::start();
    let directory = serving.directory.path();
    assert_eq!(
        serving.prints("network create mesh --ipv4 10.10.0.0/16"),
        "network     mesh\nipv4        10.10.0.0/16\nipv6        -\nmembers     0\nrevision    1\n"
    );
    let (_, relay) = key_pair(directory, "relay");
    let made = format!(
        "relay create relay-1 --public-key {relay} --network mesh --address 198.51.100.1 --port 51820"
    );
    let made = serving.prints(&made);
    assert!(made.contains("addresses   198.51.100.1\nport        51820\nhosts       0\n"), "{made}");
    let (private, a) = key_pair(directory, "a");
    let (_, b) = key_pair(directory, "b");
    serving.prints(&format!("member create host-a --network mesh --public-key {a} --tag web"));
    serving.prints(&format!(
        "member create host-b --network mesh=10.10.7.7 --public-key {b} --tag web --tag db"
    ));
    assert_eq!(serving.json("relay add-host relay-1 host-a host-b")["hosts"], 2);
    assert_eq!(
        trimmed(&serving.prints("relay hosts relay-1")),
        "host     networks         state                         uses                 endpoint   last handshake   \
         sent packets / bytes   received packets / bytes\n\
         host-a   mesh 10.10.0.2   waits for its first handshake   198.51.100.1:51820   -          -                \
         -                      -\n\
         host-b   mesh 10.10.7.7   waits for its first handshake   198.51.100.1:51820   -          -                \
         -                      -\n"
            .replace("state                         uses", "state                           uses")
    );
    assert_eq!(
        trimmed(&serving.prints("member list --tag web")),
        "member   networks         relayed by   endpoints   tags      state\n\
         host-a   mesh 10.10.0.2   relay-1                  web       waits for its first handshake\n\
         host-b   mesh 10.10.7.7   relay-1                  db, web   waits for its first handshake\n"
    );

    let configuration = serving.prints(&format!("config host-a --private-key-file {}", private.display()));
    let secret = fs::read_to_string(&private).unwrap();
    let expected = format!(
        "[Interface]\nPrivateKey = {secret}Address = 10.10.0.2/16\nMTU = 1280\n\n\
         # relay-1\n[Peer]\nPublicKey = {relay}\nAllowedIPs = 10.10.0.1/32\nEndpoint = 198.51.100.1:51820\n\
         PersistentKeepalive = 25\n"
    );
    assert_eq!(configuration, expected);
    // WireGuard's own tool reads it, but for what is wg-quick's.
    let file = directory.join("wgr.conf");
    fs::write(&file, &configuration).unwrap();
    let stripped = relay_tests::command::run(program("wg-quick").arg("strip").arg(&file));
    assert!(stripped.contains("PersistentKeepalive = 25") && !stripped.contains("MTU"), "{stripped}");
    let code = serving.prints(&format!("config host-a --qr --private-key-file {}", private.display()));
    assert!(code.contains('█') && code.lines().count() > 30 && !code.contains("PrivateKey"), "{code}");
    let other = format!("config host-b --private-key-file {}", private.display());
    serving.types(&other).fails("is not that of host-b");
    serving.types("config host-a --qr").fails("--private-key-file");
    assert_eq!(serving.json("config host-a")["mtu"], 1280);
}

#[test]
fn what_deleting_a_relay_means_is_told_before_it_is_done() {
    let serving = Serving::start();
    let directory = serving.directory.path();
    serving.prints("network create mesh --ipv4 10.10.0.0/16 --ipv6 fd00::/64");
    for (number, relay) in ["r1", "r2"].into_iter().enumerate() {
        let (_, key) = key_pair(directory, relay);
        let address = format!("198.51.100.{}", number + 1);
        serving.prints(&format!(
            "relay create {relay} --public-key {key} --network mesh --address {address} --port 51820"
        ));
    }
    let (_, a) = key_pair(directory, "a");
    serving.prints(&format!("member create a --network mesh --public-key {a}"));
    serving.prints("relay add-host r1 --all");
    serving.prints("key create --id auto --network mesh --relay r1 --uses 3 --valid 30d");
    let told = "a would not be relayed any more (now by r1)\nkey/auto would change\n";
    assert_eq!(serving.prints("relay delete r1 --dry-run"), told);
    let asked = serving.types("relay delete r1");
    assert!(
        !asked.good && asked.errors.starts_with(told) && asked.errors.contains("say --yes"),
        "{}",
        asked.errors
    );
    let told = "a would be relayed by r2 instead of r1\nkey/auto would change\n";
    assert_eq!(serving.prints("relay delete r1 --move-to r2 --dry-run"), told);
    assert_eq!(serving.prints("relay delete r1 --move-to r2 --yes"), "");
    let relays = trimmed(&serving.prints("relay list"));
    assert_eq!(
        relays,
        "relay   networks   addresses      port    hosts   alive\n\
         r2      mesh       198.51.100.2   51820   1       no\n"
    );
    assert_eq!(serving.json("key show auto")["relay"], "r2");
    serving.prints("relay remove-host r2 a");
    // Without hosts and keys there is nothing to ask.
    serving.prints("key delete auto");
    serving.prints("relay delete r2");
    assert_eq!(
        trimmed(&serving.prints("relay list")),
        "relay   networks   addresses   port   hosts   alive\n"
    );
    serving.types("relay delete r2").fails("there is no relay/r2");
}

#[test]
fn records_are_changed_and_deleted() {
    let serving = Serving::start();
    let (_, key) = key_pair(serving.directory.path(), "a");
    serving.prints("network create mesh --ipv4 10.10.0.0/24");
    serving.prints(&format!(
        "member create a --network mesh --public-key {key} --endpoint 203.0.113.1:51820 --owner"
    ));
    let revision = serving.json("member show a")["revision"].as_u64().unwrap();
    let changed = serving.json(&format!("member change a --tag x --no-endpoint --if-revision {revision}"));
    assert_eq!(changed["member"]["tags"], serde_json::json!(["x"]));
    assert_eq!(changed["member"]["endpoints"], serde_json::json!([]));
    serving.types(&format!("member change a --tag y --if-revision {revision}")).fails("has changed since");
    let routed = serving.prints("member change a --network mesh --route mesh=192.168.9.0/24");
    assert!(routed.contains("routes      192.168.9.0/24\n"), "{routed}");
    assert_eq!(
        serving.prints("network change mesh --ipv4 10.10.0.0/16 --dry-run"),
        "nothing else would change\n"
    );
    assert_eq!(serving.json("network change mesh --ipv4 10.10.0.0/16")["ipv4"], "10.10.0.0/16");
    serving.types("network delete mesh").fails("has 1 members: remove them first");
    serving.prints("member delete a");
    serving.prints("network delete mesh");
    assert_eq!(trimmed(&serving.prints("network ls")), "network   ipv4   ipv6   members\n");
}

#[test]
fn the_first_token_is_made_at_the_socket_and_used_from_elsewhere() {
    let mut serving = Serving::start();
    let token = serving.secret("token create --role read --id ci --valid 1h");
    let file = serving.path("token");
    fs::write(&file, format!("{token}\n")).unwrap();
    let remote = |line: &str| {
        let mut command = wgrelay();
        command.args(line.split(' ')).args(["--api", &serving.url(), "--token-file"]).arg(&file);
        Typed::of(&mut command)
    };
    assert!(remote("token list").well().contains("ci      read"));
    remote("network create mesh --ipv4 10.0.0.0/8").fails("this takes a token with the role admin");
    let mut command = wgrelay();
    let asked =
        command.args(["network", "list"]).env("WGRELAY_API", serving.url()).env("WGRELAY_TOKEN", &token);
    assert!(Typed::of(asked).well().contains("network"));
    Typed::of(asked.env_remove("WGRELAY_TOKEN")).fails("give a token with --token-file or in WGRELAY_TOKEN");
    Typed::of(asked.env("WGRELAY_API", "http://203.0.113.1")).fails("use https");
    serving.types("status").fails("this process is no relay");

    // All is there again after a restart.
    let process = serving.process.take().unwrap();
    assert!(process.stop(Signal::TERM).success());
    assert!(!serving.socket().exists(), "the socket is left");
    serving.types("token list").fails("no wgrelay answers at");
    serving.again();
    assert_eq!(serving.json("token list")[0]["id"], "ci");
}

#[test]
fn what_can_not_be_served_is_told() {
    let serving = Serving::start();
    let fails = |arguments: &[&str], part: &str| {
        Typed::of(wgrelay().arg("serve").args(arguments).env("WGRELAY_LOG", "off")).fails(part);
    };
    let (socket, state) = (serving.path("other.sock"), serving.path("state"));
    let (socket, state) = (socket.to_str().unwrap(), state.to_str().unwrap());
    fails(&["--socket", socket, "--state-dir", state], "in use by another process");
    fails(&["--socket", serving.socket().to_str().unwrap()], "running already");
    fails(
        &["--socket", socket, "--state-dir", state, "--listen", "0.0.0.0:1"],
        "plain HTTP would show all tokens",
    );
    let file = serving.path("relay.toml");
    fs::write(&file, "[control]\nsource = \"store\"\n[control.api]\nlisten = \"0.0.0.0:1\"\n").unwrap();
    fails(&["--config", file.to_str().unwrap()], "line 4: 0.0.0.0:1 can be reached");
    let spoilt = serving.path("spoilt");
    fs::create_dir(&spoilt).unwrap();
    fs::write(spoilt.join(relay_user::store::FILE), "something else".repeat(500)).unwrap();
    fails(&["--socket", socket, "--state-dir", spoilt.to_str().unwrap()], "the store is damaged");
}

#[test]
fn shells_can_complete_the_commands() {
    for shell in ["bash", "zsh", "fish"] {
        let script = Typed::of(wgrelay().args(["completions", shell])).well();
        assert!(script.contains("add-host") && script.contains("network"), "{shell}: {script}");
    }
    let help = Typed::of(wgrelay().arg("--help")).well();
    assert!(help.contains("From nothing to two relayed hosts"), "{help}");
}
