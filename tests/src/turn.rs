//! A relay with a TURN server, and coturn's tools as its clients and peers.

use std::{net::IpAddr, ops::RangeInclusive, process::Command};

use crate::{
    command::Process,
    internet::{Internet, public},
    lab::{Lab, Namespace},
    relay::{NUMBER, Outer, Relay},
};

/// The server's port.
pub const PORT: u16 = 3478;
/// The ports of its relayed addresses.
pub const RELAYED: RangeInclusive<u16> = 50_000..=50_999;
/// The port of the peer that echoes.
pub const ECHO: u16 = 3480;
/// The realm.
pub const REALM: &str = "turn.example.org";
/// A user and its password.
pub const USER: (&str, &str) = ("ann", "correct horse");
/// What time-limited credentials are made with.
pub const SECRET: &str = "a secret that is long enough";

const CLIENT: u8 = 11;
const PEER: u8 = 12;

/// A relay with a TURN server, a client and a peer, all of them public.
pub struct TurnWorld {
    /// The relay.
    pub relay: Relay,
    /// Where clients run.
    pub client: Namespace,
    /// Where peers run.
    pub peer: Namespace,
    echo: Vec<Process>,
    /// The public network.
    pub internet: Internet,
    /// The lab.
    pub lab: Lab,
}

/// What coturn's client has told at its end.
#[derive(Clone, Debug)]
pub struct Report {
    /// Whether it says that all went well.
    pub succeeded: bool,
    /// Messages that it has sent.
    pub sent: u64,
    /// Messages that have come back.
    pub received: u64,
    /// All of it.
    pub text: String,
}

impl TurnWorld {
    /// Makes it and starts the relay, with these further lines in `[turn]`.
    pub fn running(more: &str) -> Self {
        Self::configured(|lab| Self::configuration(lab, more))
    }

    /// Likewise, with the end of the configuration that is given for the lab.
    pub fn configured(configuration: impl FnOnce(&Lab) -> String) -> Self {
        let lab = Lab::new();
        let mut internet = Internet::new(&lab);
        let relay = lab.namespace("relay");
        internet.attach_for_xdp(&relay, "eth0", NUMBER);
        let [client, peer] = [("client", CLIENT), ("peer", PEER)].map(|(role, number)| {
            let namespace = lab.namespace(role);
            internet.attach(&namespace, "eth0", number);
            namespace
        });
        let mut relay = Relay::new(&relay);
        relay.control = configuration(&lab);
        relay.start();
        let echo = [Outer::Ipv4, Outer::Ipv6]
            .map(|outer| {
                let mut command = peer.command("turnutils_peer");
                command.args(["-L", &address(PEER, outer).to_string(), "-p", &ECHO.to_string()]);
                Process::start(&mut command, lab.file(&format!("echo-{}.log", outer.label())))
            })
            .into();
        Self { relay, client, peer, echo, internet, lab }
    }

    /// `[turn]` with the user, the secret and these further lines.
    pub fn configuration(lab: &Lab, more: &str) -> String {
        Self::configuration_with(lab, RELAYED, more)
    }

    /// Likewise, with other relayed ports.
    pub fn configuration_with(lab: &Lab, relayed: RangeInclusive<u16>, more: &str) -> String {
        let secret = lab.file("turn-secret");
        std::fs::write(&secret, SECRET).expect("write the secret");
        let (first, last) = relayed.into_inner();
        let key = relay_user::turn::credentials::Key::of(USER.0, REALM, USER.1).to_hex();
        format!(
            "\n[turn]\nrealm = {REALM:?}\nport = {PORT}\nrelay_ports = [{first}, {last}]\nsecret_file = {secret:?}\n\
             {more}\n\n[[turn.user]]\nname = {:?}\nkey = {key:?}\n",
            USER.0
        )
    }

    /// The server's address of a family.
    pub fn server(outer: Outer) -> IpAddr {
        address(NUMBER, outer)
    }

    /// The peer's address of a family.
    pub fn peer_address(outer: Outer) -> IpAddr {
        address(PEER, outer)
    }

    /// coturn's client, at the server's address of a family, as the user.
    pub fn uclient(&self, server: Outer) -> Command {
        self.uclient_as(server, USER.0, USER.1)
    }

    /// Likewise, as somebody.
    pub fn uclient_as(&self, server: Outer, user: &str, password: &str) -> Command {
        let mut command = self.client.command("timeout");
        command.args(["60", "turnutils_uclient", "-u", user, "-w", password, "-p", &PORT.to_string()]);
        command.args(["-r", &ECHO.to_string()]);
        // Its last argument: what comes after it is the server.
        command.env("WGRELAY_TURN_SERVER", Self::server(server).to_string());
        command
    }

    /// Whether the echoing peers run.
    pub fn echoes(&mut self) -> bool {
        self.echo.iter_mut().all(|echo| echo.ended().is_none())
    }
}

fn address(number: u8, outer: Outer) -> IpAddr {
    let (v4, v6) = public(number);
    if outer == Outer::Ipv4 { v4.into() } else { v6.into() }
}

/// Runs coturn's client to its end.
///
/// # Panics
/// If it can't be started.
#[track_caller]
pub fn report(mut command: Command) -> Report {
    let server = command.get_envs().find_map(|(name, value)| {
        (name == "WGRELAY_TURN_SERVER").then(|| value.expect("a value").to_owned())
    });
    command.arg(server.expect("a command of TurnWorld::uclient"));
    let output = command.output().unwrap_or_else(|error| panic!("start {command:?}: {error}"));
    let text = [output.stdout, output.stderr].map(|out| String::from_utf8_lossy(&out).into_owned()).concat();
    let number = |name: &str| {
        let found = text.lines().rev().find_map(|line| line.split_once(name).map(|(_, rest)| rest));
        let digits = found.map(|rest| rest.chars().take_while(char::is_ascii_digit).collect::<String>());
        digits.and_then(|digits| digits.parse().ok()).unwrap_or(0)
    };
    let (sent, received) = (number("tot_send_msgs="), number("tot_recv_msgs="));
    Report { succeeded: output.status.success(), sent, received, text }
}
