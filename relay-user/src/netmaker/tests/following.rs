//! Following a server, in all its versions and moods.

use std::{fs, path::PathBuf};

use tempfile::TempDir;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    super::{Latest, NetmakerError, Options, Reason, Source, Us},
    server::{Server, Version},
};
use crate::members::{Place, Policy, PublicKey};
use serde_json::{Value, json};

struct World {
    server: Server,
    source: Source,
    latest: watch::Receiver<Latest>,
    dir: TempDir,
}

const TOKEN: &str = "token_file = 'DIR/secret'";
const USER: &str = "user = 'ann'\npassword_file = 'DIR/secret'";
const RELAYED_A: &str = "relayed = { hosts = ['a'] }";

fn us() -> Us {
    let endpoints = vec!["198.51.100.1:51820".parse().unwrap()];
    Us { relay_key: PublicKey([b'r'; 32]), policy: Policy::Members, relays: Vec::new(), endpoints }
}

fn options(server: &Server, dir: &TempDir, lines: &[&str]) -> Options {
    let text = format!("url = '{}'\n{}", server.url, lines.join("\n"));
    toml::from_str(&text.replace("DIR", &dir.path().display().to_string())).unwrap()
}

impl World {
    async fn new(version: Version, secret: &str, lines: &[&str]) -> Self {
        let (server, dir) = (Server::start(version).await, TempDir::new().unwrap());
        fs::write(dir.path().join("secret"), format!("{secret}\n")).unwrap();
        let (source, latest) = Source::open(options(&server, &dir, lines), us(), state_file(&dir)).unwrap();
        Self { server, source, latest, dir }
    }

    async fn in_v1_5() -> Self {
        Self::new(Version::V1_5, "t0ken", &[TOKEN, RELAYED_A]).await
    }

    /// A new process.
    fn restart(&mut self, lines: &[&str]) {
        let options = options(&self.server, &self.dir, lines);
        (self.source, self.latest) = Source::open(options, us(), state_file(&self.dir)).unwrap();
    }

    fn places(&self) -> Vec<(String, Place)> {
        let latest = self.latest.borrow();
        let mut places: Vec<_> = latest
            .members
            .iter()
            .map(|(_, member)| (member.name.to_string(), member.place.clone()))
            .collect();
        places.sort_by(|a, b| a.0.cmp(&b.0));
        places
    }

    fn error(&self) -> Option<String> {
        self.latest.borrow().state.error.clone()
    }
}

fn state_file(dir: &TempDir) -> PathBuf {
    dir.path().join("netmaker.json")
}

fn at(endpoint: &str) -> Place {
    Place::Static(vec![endpoint.parse().unwrap()])
}

fn mesh_with_a_relayed() -> Vec<(String, Place)> {
    [
        ("a", Place::Relayed),
        ("b", at("203.0.113.8:40113")),
        ("gateway", at("203.0.113.1:51821")),
        ("p", at("203.0.113.9:51822")),
    ]
    .map(|(name, place)| (name.to_owned(), place))
    .into()
}

#[tokio::test]
async fn the_mesh_is_the_same_in_the_answers_of_all_versions() {
    for version in Version::ALL {
        let mut world = World::new(version, "t0ken", &[TOKEN, RELAYED_A]).await;
        world.source.poll().await.unwrap();
        assert_eq!(world.places(), mesh_with_a_relayed(), "{version:?}");
        let state = world.latest.borrow().state.clone();
        assert_eq!((state.error, state.left_out), (None, Vec::new()), "{version:?}");
        assert!(state.heard.is_some());

        let by = "relayed = { by = 'gateway' }";
        let mut world = World::new(version, "t0ken", &[TOKEN, by, "networks = ['mesh']"]).await;
        world.source.poll().await.unwrap();
        assert_eq!(world.places()[1], ("b".to_owned(), Place::Relayed), "{version:?}");
        let members = world.latest.borrow().members.clone();
        assert!(
            members.iter().all(|(_, member)| member.networks.len() == 1),
            "of network lab nothing is known"
        );
    }
}

#[tokio::test]
async fn a_user_logs_in_and_again_when_the_token_has_expired() {
    let mut world = World::new(Version::V0_30, "pa55", &[USER, RELAYED_A]).await;
    world.source.poll().await.unwrap();
    world.source.poll().await.unwrap();
    assert_eq!(world.server.with(|inside| inside.logins), 1);
    world.server.with(|inside| inside.token = "another".to_owned());
    world.source.poll().await.unwrap();
    assert_eq!(world.server.with(|inside| inside.logins), 2);
    // The password is another by now, too.
    world.server.with(|inside| (inside.token, inside.password) = ("third".to_owned(), "new".to_owned()));
    let error = world.source.poll().await.unwrap_err();
    assert!(matches!(&error, NetmakerError::Denied(_, "user and password")), "{error}");
    assert!(!error.to_string().contains("pa55"), "{error}");
    fs::write(world.dir.path().join("secret"), "new").unwrap();
    world.source.poll().await.unwrap();
    assert_eq!(world.error(), None);
}

#[tokio::test]
async fn a_token_that_was_replaced_in_its_file_is_read_anew() {
    for credentials in [TOKEN, "master_key_file = 'DIR/secret'"] {
        let mut world = World::new(Version::V1_5, "t0ken", &[credentials, RELAYED_A]).await;
        world.source.poll().await.unwrap();
        world.server.with(|inside| inside.token = "rotated".to_owned());
        assert!(matches!(world.source.poll().await.unwrap_err(), NetmakerError::Denied(..)));
        fs::write(world.dir.path().join("secret"), "rotated\n").unwrap();
        world.source.poll().await.unwrap();
    }
}

#[tokio::test]
async fn whatever_the_server_answers_the_last_good_state_stays() {
    let mut world = World::in_v1_5().await;
    world.source.poll().await.unwrap();
    let (hosts, nodes) = world.server.with(|inside| (inside.hosts.clone(), inside.nodes.clone()));
    let renamed = |entries: &Value, field: &str| {
        let mut entries = entries.clone();
        for entry in entries.as_array_mut().unwrap() {
            let value = entry.as_object_mut().unwrap().remove(field).unwrap();
            entry["other"] = value;
        }
        entries
    };
    for (hosts, nodes, words) in [
        (json!([]), nodes.clone(), "names no hosts"),
        (Value::Null, nodes.clone(), "names no hosts"),
        (hosts.clone(), json!([]), "names no nodes"),
        (hosts.clone(), Value::Null, "names no nodes"),
        (json!({"hosts": hosts.clone()}), nodes.clone(), "it is no list"),
        (hosts.clone(), json!("maintenance"), "it is no list"),
        (renamed(&hosts, "publickey"), nodes.clone(), "none of its 4 hosts can be used"),
        (hosts.clone(), renamed(&nodes, "hostid"), "none of its 4 hosts can be used"),
    ] {
        world.server.with(|inside| (inside.hosts, inside.nodes) = (hosts, nodes));
        let error = world.source.poll().await.unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
        assert_eq!(world.error(), Some(error));
        assert_eq!(world.places(), mesh_with_a_relayed());
    }
    world.server.with(|inside| (inside.hosts, inside.nodes) = (hosts, nodes));
    world.server.with(|inside| inside.broken = Some((500, "could not\nfetch".to_owned())));
    let error = world.source.poll().await.unwrap_err().to_string();
    assert!(error.contains("answers api/hosts with 500: could notfetch"), "{error}");
    assert_eq!(world.places(), mesh_with_a_relayed());
    world.server.with(|inside| inside.broken = None);
    world.source.poll().await.unwrap();
    assert_eq!(world.error(), None);
}

#[tokio::test]
async fn a_network_that_is_suddenly_empty_keeps_its_nodes_until_their_hosts_go() {
    let mut world =
        World::new(Version::V1_5, "t0ken", &[TOKEN, RELAYED_A, "networks = ['mesh', 'lab']"]).await;
    world.source.poll().await.unwrap();
    let networks = |world: &World| {
        let members = world.latest.borrow().members.clone();
        let (_, a) = members.iter().find(|(_, member)| &*member.name == "a").expect("a is there");
        a.networks.len()
    };
    assert_eq!(networks(&world), 2);
    world.server.with(|inside| {
        inside.nodes.as_array_mut().unwrap().retain(|node| node["network"] != "lab" && node["id"] != "n-p");
    });
    assert!(matches!(world.source.poll().await.unwrap_err(), NetmakerError::Empty(_)));
    assert_eq!(networks(&world), 2);
    assert!(world.error().is_some());
    // All else is followed meanwhile.
    assert!(world.places().iter().all(|(name, _)| name != "p"));
    let gone = |host: &str| {
        world.server.with(|inside| inside.hosts.as_array_mut().unwrap().retain(|other| other["id"] != *host));
    };
    gone("h-a");
    world.source.poll().await.unwrap_err();
    assert!(world.places().iter().all(|(name, _)| name != "a"));
    gone("h-gateway");
    world.source.poll().await.unwrap();
    assert_eq!(world.error(), None, "nobody was left in it");
}

#[tokio::test]
async fn an_entry_that_cannot_be_read_costs_itself_alone() {
    let mut world = World::in_v1_5().await;
    world.server.with(|inside| {
        inside
            .hosts
            .as_array_mut()
            .unwrap()
            .extend([json!("odd"), json!({"id": "h-odd", "listenport": "x"})]);
        inside.nodes.as_array_mut().unwrap().push(json!({"id": "n-odd", "hostid": 7}));
    });
    world.source.poll().await.unwrap();
    assert_eq!(world.places(), mesh_with_a_relayed());
    let state = world.latest.borrow().state.clone();
    assert_eq!(state.left_out_by_reason(), [(Reason::Unreadable, 3)].into());
    let what: Vec<_> = state.left_out.iter().map(|left_out| left_out.what.as_str()).collect();
    assert_eq!(what, ["a host, h-odd", "a host, without an id", "a node, n-odd"]);
}

#[tokio::test]
async fn a_restart_without_the_server_goes_on_with_the_last_good_state() {
    let mut world = World::in_v1_5().await;
    world.source.poll().await.unwrap();
    let heard = world.latest.borrow().state.heard;
    world.server.with(|inside| inside.broken = Some((503, "down".to_owned())));
    world.restart(&[TOKEN, RELAYED_A]);
    assert_eq!(world.places(), mesh_with_a_relayed());
    assert_eq!(world.latest.borrow().state.heard, heard);
    world.source.poll().await.unwrap_err();
    assert_eq!(world.places(), mesh_with_a_relayed());
}

#[tokio::test]
async fn a_state_file_that_is_damaged_is_told_and_left_as_it_is() {
    let world = World::in_v1_5().await;
    fs::write(state_file(&world.dir), "{").unwrap();
    let options = options(&world.server, &world.dir, &[TOKEN, RELAYED_A]);
    let error = Source::open(options, us(), state_file(&world.dir)).err().expect("it can't be read");
    assert!(format!("{error:#}").contains("netmaker.json: restore it or remove it"), "{error:#}");
    assert_eq!(fs::read_to_string(state_file(&world.dir)).unwrap(), "{");
}

const OVERRIDE: &str = "override_endpoint = ['198.51.100.1:51820']";

#[tokio::test]
async fn the_server_is_told_our_endpoint_once_and_its_own_again_at_the_end_in_all_versions() {
    for version in Version::ALL {
        let mut world = World::new(version, "t0ken", &[TOKEN, RELAYED_A, OVERRIDE]).await;
        let before = world.server.with(|inside| inside.hosts.clone());
        for _ in 0..4 {
            world.source.poll().await.unwrap();
        }
        let a = world.server.with(|inside| {
            assert_eq!(inside.puts.len(), 1);
            inside.hosts[1].clone()
        });
        assert_eq!((&a["endpointip"], &a["listenport"]), (&json!("198.51.100.1"), &json!(51820)));
        assert_eq!((&a["isstatic"], &a["mtu"]), (&json!(true), &json!(1420)));
        assert_eq!(world.places(), mesh_with_a_relayed());

        // Not even a restart makes us forget what it was.
        world.restart(&[TOKEN, "relayed = { hosts = ['b'] }"]);
        world.source.poll().await.unwrap();
        world.source.poll().await.unwrap();
        assert_eq!(world.server.with(|inside| inside.hosts.clone()), before, "{version:?}");
        assert_eq!(world.server.with(|inside| inside.puts.len()), 2);
        assert_eq!(world.places()[0], ("a".to_owned(), at("203.0.113.7:40112")));
    }
}

#[tokio::test]
async fn an_endpoint_that_is_not_taken_or_refused_is_told_to_people_and_not_tried_again() {
    for (answer, words) in [(200, "does not show it"), (403, "refused here")] {
        let mut world = World::new(Version::V1_5, "t0ken", &[TOKEN, RELAYED_A, OVERRIDE]).await;
        world.server.with(|inside| inside.put_answer = Some(answer));
        for _ in 0..8 {
            world.source.poll().await.unwrap();
        }
        assert_eq!(world.server.with(|inside| inside.puts.len()), 1);
        let remarks = world.latest.borrow().state.remarks.clone();
        assert_eq!(remarks.keys().collect::<Vec<_>>(), ["h-a"]);
        assert!(remarks["h-a"].contains(words), "{remarks:?}");
    }
}

#[tokio::test]
async fn an_endpoint_that_the_server_could_not_be_told_is_told_again() {
    let mut world = World::new(Version::V1_5, "t0ken", &[TOKEN, RELAYED_A, OVERRIDE]).await;
    world.server.with(|inside| inside.put_answer = Some(500));
    world.source.poll().await.unwrap();
    world.server.with(|inside| inside.put_answer = None);
    world.source.poll().await.unwrap();
    world.source.poll().await.unwrap();
    assert_eq!(world.server.with(|inside| inside.puts.len()), 2);
    assert_eq!(world.server.with(|inside| inside.hosts[1]["endpointip"].clone()), json!("198.51.100.1"));
    assert!(world.latest.borrow().state.remarks.is_empty());
}

#[tokio::test]
async fn it_is_followed_until_it_is_stopped() {
    let World { server, source, mut latest, dir: _dir } = World::in_v1_5().await;
    let stop = CancellationToken::new();
    let following = tokio::spawn(source.follow(stop.clone()));
    latest.wait_for(|latest| latest.members.iter().len() == 4).await.unwrap();
    stop.cancel();
    following.await.unwrap();
    drop(server);
}

#[tokio::test]
async fn what_is_wrong_with_the_options_is_said() {
    let good = format!("url = 'https://api.nm.example.com'\n{TOKEN}\n{RELAYED_A}");
    let fault = |from: &str, to: &str| {
        assert!(good.contains(from), "{from}");
        toml::from_str::<Options>(&good.replace(from, to)).unwrap_err().message().to_owned()
    };
    toml::from_str::<Options>(&good).unwrap();
    for (from, to, words) in [
        ("https://", "http://", "use https"),
        ("https://", "ftp://", "ftp is not spoken"),
        ("https://", "https://user:pass@", "no user and password"),
        ("https://api", "api", "relative URL"),
        ("token_file = 'DIR/secret'", "", "give one of token_file"),
        ("token_file", "user = 'ann'\ntoken_file", "give one of token_file"),
        ("token_file", "user = 'ann'\nmaster_key_file", "give one of token_file"),
        ("{ hosts = ['a'] }", "{}", "nobody would be relayed"),
        ("token_file", "override_endpoint = ['127.0.0.1:1']\ntoken_file", "can't be reached"),
        (
            "token_file",
            "override_endpoint = ['192.0.2.1:1', '[2001:db8::1]:2']\ntoken_file",
            "with the same port",
        ),
        ("token_file", "tokens = 'x'\ntoken_file", "unknown field `tokens`"),
    ] {
        let fault = fault(from, to);
        assert!(fault.contains(words), "{fault}");
    }
}
