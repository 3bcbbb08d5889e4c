//! Hosts that join by themselves.

use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine as _};
use relay_user::{
    members::Policy,
    model::{Command, Part},
};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{Answer, Asking, Server, key};

/// An enrolment key's secret.
async fn made(asking: &Asking, body: &Value) -> String {
    asking.make("keys", body).await.body["secret"].as_str().unwrap().to_owned()
}

fn join(secret: &str, name: &str, number: u8) -> Value {
    json!({ "key": secret, "name": name, "public_key": key(number).to_string() })
}

fn with_proof(mut join: Value, proof: &str) -> Value {
    join["proof"] = json!(proof);
    join
}

#[tokio::test]
async fn a_host_that_joins_with_an_auto_relay_key_is_relayed_at_once() {
    let server = Server::with_hosts().await;
    let auto = json!({ "network": "net", "relay": "relay", "tags": ["web"], "uses": 1 });
    let secret = made(&server.local(), &auto).await;
    let anybody = server.remote(None);
    let joined: Answer = anybody.make("enrol", &join(&secret, "new", 50)).await;
    let member = &joined.body["member"];
    assert_eq!((&member["relayed_by"], &member["tags"]), (&json!("relay"), &json!(["web"])));
    assert_eq!(member["active"], false, "its key is still to be proven");
    let configuration = &joined.body["configuration"];
    assert_eq!(configuration["relayed_by"], "relay");
    assert_eq!((&configuration["mtu"], &configuration["addresses"]), (&json!(1280), &json!(["10.0.0.4/16"])));
    let peers = configuration["peers"].as_array().unwrap();
    let relay = peers.iter().find(|peer| peer["name"] == "relay").unwrap();
    assert_eq!((&relay["endpoint"], &relay["is_relay"]), (&json!("198.51.100.1:51820"), &json!(true)));
    assert_eq!(relay["keepalive"], 25);

    // With what it was told it can follow its configuration.
    let owner = joined.body["owner"].as_str().unwrap();
    server.remote(Some(owner)).get("members/new/configuration").is(200).await;
    // The relay has it in its part, to let its handshake in.
    let relay_key = server.writer.state().member("relay").unwrap().public_key;
    let desired = || Part::new(relay_key, Policy::Members, &server.writer.state()).unwrap().desired().clone();
    assert!(desired().peers.contains_key(&key(50)));
    assert!(desired().members.member(key(50).id()).is_none());
    server.writer.write(Command::Activate(vec![key(50)])).await.unwrap();
    assert!(desired().members.member(key(50).id()).is_some());

    anybody.ask(Method::POST, "enrol").json(&join(&secret, "other", 51)).refused(403, "key_used_up").await;
}

#[tokio::test]
async fn who_joins_again_has_to_show_that_it_is_the_same() {
    let server = Server::with_hosts().await;
    let local = server.local();
    local.make("networks", &json!({ "name": "lab", "ipv4": "10.7.0.0/16" })).await;
    let net = made(&local, &json!({ "id": "net", "network": "net", "uses": 5 })).await;
    let lab = made(&local, &json!({ "network": "lab" })).await;
    let anybody = server.remote(None);
    let enrol = |body: Value| anybody.ask(Method::POST, "enrol").json(&body);
    let owner = enrol(join(&net, "new", 50)).is(201).await.body["owner"].as_str().unwrap().to_owned();
    enrol(join(&net, "new", 50)).refused(403, "owner_needed").await;
    enrol(join(&lab, "new", 50)).refused(403, "owner_needed").await;
    enrol(with_proof(join(&lab, "new", 50), &owner.replace("new.", "a."))).refused(403, "owner_needed").await;
    enrol(join(&net, "new", 51)).refused(409, "exists").await;
    let again = enrol(with_proof(join(&net, "whatever", 50), &owner)).is(200).await.body;
    assert_eq!((&again["member"]["name"], &again["owner"]), (&json!("new"), &json!(null)));
    let second = enrol(with_proof(join(&lab, "new", 50), &owner)).is(200).await.body;
    assert_eq!(second["configuration"]["addresses"], json!(["10.7.0.1/16", "10.0.0.4/16"]));
    assert_eq!(local.get("keys/net").is(200).await.body["uses_left"], 4, "asking again costs nothing");
}

#[tokio::test]
async fn a_host_that_brings_its_own_secret_can_ask_again() {
    let server = Server::with_hosts().await;
    let secret = made(&server.local(), &json!({ "id": "k", "network": "net", "uses": 5 })).await;
    let own = format!("new.{}", BASE64_URL_SAFE_NO_PAD.encode([7; 32]));
    let enrol = |proof: &str| {
        let body = with_proof(join(&secret, "new", 50), proof);
        server.remote(None).ask(Method::POST, "enrol").json(&body)
    };
    let first = enrol(&own).is(201).await.body;
    assert_eq!(first["owner"], own);
    let again = enrol(&own).is(200).await.body;
    assert_eq!((&again["member"], &again["configuration"]), (&first["member"], &first["configuration"]));
    assert_eq!(server.local().get("keys/k").is(200).await.body["uses_left"], 4);
    enrol(&format!("new.{}", BASE64_URL_SAFE_NO_PAD.encode([8; 32]))).refused(403, "owner_needed").await;
}

#[tokio::test]
async fn a_key_that_is_no_good_is_told_as_such() {
    let server = Server::with_hosts().await;
    let local = server.local();
    let anybody = server.remote(None);
    let enrol = |secret: &str| anybody.ask(Method::POST, "enrol").json(&join(secret, "new", 50));
    let secret = made(&local, &json!({ "id": "k", "network": "net" })).await;
    let wrong = format!("k.{}", BASE64_URL_SAFE_NO_PAD.encode([7; 32]));
    for unknown in [&*wrong, "k", "", &secret.replace("k.", "other.")] {
        enrol(unknown).refused(403, "wrong_key").await;
    }
    // A token is no enrolment key.
    enrol(&server.token("admin").await).refused(403, "wrong_key").await;
    let short = made(&local, &json!({ "network": "net", "valid_seconds": 1 })).await;
    let expired = async {
        // A name that exists: so it is never let in.
        while anybody.ask(Method::POST, "enrol").json(&join(&short, "a", 50)).answer().await.code()
            == "exists"
        {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    };
    crate::soon("end of the key", expired).await;
    enrol(&short).refused(403, "key_expired").await;
    local.ask(Method::DELETE, "keys/k").is(204).await;
    enrol(&secret).refused(403, "wrong_key").await;
    assert!(server.writer.state().member("new").is_none());
}
