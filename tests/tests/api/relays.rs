//! Relays and their hosts.

use reqwest::Method;
use serde_json::json;

use crate::{OWN, Server, key, member};

#[tokio::test]
async fn the_relay_of_this_process_needs_no_more_than_its_name() {
    let server = Server::start().await;
    let local = server.local();
    let make = |body| local.ask(Method::POST, "relays").json(&body);
    make(json!({ "name": OWN })).refused(422, "no_member").await;
    let networks = json!([{ "network": "net", "ipv4": "10.0.0.9" }]);
    make(json!({ "name": OWN, "networks": networks })).refused(422, "not_found").await;
    local.make("networks", &json!({ "name": "net", "ipv4": "10.0.0.0/16" })).await;
    let dry =
        local.ask(Method::POST, "relays?dry_run=true").json(&json!({ "name": OWN, "networks": networks }));
    assert_eq!(dry.is(200).await.body["consequences"][0]["record"], format!("member/{OWN}"));
    local.get(&format!("members/{OWN}")).refused(404, "not_found").await;

    let relay = make(json!({ "name": OWN, "networks": networks })).is(201).await.body;
    assert_eq!(relay["public_key"], key(200).to_string());
    assert_eq!((&relay["addresses"], &relay["port"]), (&json!(["198.51.100.200"]), &json!(51820)));
    assert_eq!(relay["alive"], false);
    server.alive.send_replace([OWN.to_owned()].into());
    assert_eq!(local.get(&format!("relays/{OWN}")).is(200).await.body["alive"], true);
    let own = local.get(&format!("members/{OWN}")).is(200).await.body;
    assert_eq!((&own["is_relay"], &own["networks"]), (&json!(true), &networks));
}

#[tokio::test]
async fn nothing_is_left_of_a_relay_that_can_not_be_made() {
    let server = Server::with_hosts().await;
    let local = server.local();
    let before = server.writer.state().revision();
    let new = |name: &str, number: u8, address: &str| {
        let key = key(number).to_string();
        json!({ "name": name, "public_key": key, "networks": [{ "network": "net" }], "addresses": [address], "port": 1 })
    };
    let make = |body| local.ask(Method::POST, "relays").json(&body);
    make(new("r2", 9, "10.1.1.1")).refused(422, "relay_private").await;
    make(json!({ "name": "r2", "public_key": key(9).to_string(), "networks": [{ "network": "net" }] }))
        .refused(422, "relay_not_public")
        .await;
    make(new("r2", 2, "198.51.100.2")).refused(409, "public_key_taken").await;
    make(new("a", 2, "198.51.100.2")).refused(409, "relayed_relay").await;
    make(new("b", 9, "198.51.100.2")).refused(409, "other_public_key").await;
    make(json!({ "name": "r2", "networks": [{ "network": "net" }] })).refused(422, "no_member").await;
    assert_eq!(server.writer.state().revision(), before);
}

#[tokio::test]
async fn hosts_are_added_moved_and_removed() {
    let server = Server::with_hosts().await;
    let local = server.local();
    local.make("members", &member("c", 4)).await;
    let second = json!({
        "name": "second", "public_key": key(9).to_string(), "networks": [{ "network": "net" }],
        "addresses": ["198.51.100.2", "2001:db8::2"], "port": 4500, "hosts": ["c"],
    });
    assert_eq!(local.make("relays", &second).await.body["hosts"], 1);
    let add = |relay: &str, body| local.ask(Method::POST, &format!("relays/{relay}/hosts")).json(&body);
    let moved = add("second", json!({ "hosts": ["a"], "address": "2001:db8::2" })).is(200).await;
    assert_eq!(moved.body["hosts"], 2);
    let hosts = local.get("relays/second/hosts").is(200).await.body;
    assert_eq!((&hosts[0]["name"], &hosts[0]["relay_endpoint"]), (&json!("a"), &json!("[2001:db8::2]:4500")));
    assert_eq!((&hosts[1]["name"], &hosts[1]["relay_endpoint"]), (&json!("c"), &json!("198.51.100.2:4500")));
    assert_eq!((&hosts[0]["active"], &hosts[0]["seen"]), (&json!(false), &json!(null)));
    assert_eq!(local.get("relays/relay").is(200).await.body["hosts"], 1);

    add("second", json!({ "hosts": ["second"] })).refused(422, "relay_itself").await;
    add("second", json!({ "hosts": ["relay"] })).refused(409, "relay_relayed").await;
    add("second", json!({ "hosts": ["nobody"] })).refused(422, "not_found").await;
    add("nobody", json!({ "hosts": ["a"] })).refused(404, "not_found").await;
    add("second", json!({ "hosts": ["a"], "all": true })).refused(422, "all_or_named").await;
    add("second", json!({ "hosts": ["b"], "address": "192.0.2.1" }))
        .refused(422, "unknown_relay_address")
        .await;
    local.ask(Method::DELETE, "relays/second/hosts/b").refused(409, "not_relayed_here").await;
    local.ask(Method::DELETE, "relays/second/hosts/nobody").refused(404, "not_found").await;
    local.ask(Method::DELETE, "relays/second/hosts/a").is(204).await;
    assert_eq!(local.get("members/a").is(200).await.body["relayed_by"], json!(null));
    assert_eq!(add("second", json!({ "all": true })).is(200).await.body["hosts"], 2);

    local.make("keys", &json!({ "id": "auto", "network": "net", "relay": "second" })).await;
    local.ask(Method::DELETE, "members/second").refused(409, "member_is_relay").await;
    let told = local.ask(Method::DELETE, "relays/second?move_to=relay&dry_run=true").is(200).await.body;
    let moves = |host| json!({ "what": "relayed", "host": host, "from": "second", "to": "relay" });
    let key = json!({ "what": "changed", "record": "key/auto" });
    assert_eq!(told["consequences"], json!([moves("a"), moves("c"), key]));
    local.ask(Method::DELETE, "relays/second?move_to=relay").is(204).await;
    assert_eq!(local.get("relays/relay").is(200).await.body["hosts"], 3);
    assert_eq!(local.get("keys/auto").is(200).await.body["relay"], "relay");
    assert_eq!(local.get("members/second").is(200).await.body["is_relay"], false);
    local.ask(Method::DELETE, "relays/relay/hosts").is(204).await;
    assert_eq!(local.get("relays/relay/hosts").is(200).await.body, json!([]));
}

#[tokio::test]
async fn a_relay_gets_other_addresses() {
    let server = Server::with_hosts().await;
    let local = server.local();
    let change = |body| local.ask(Method::PUT, "relays/relay").json(&body);
    let relay =
        change(json!({ "addresses": ["2001:db8::1", "198.51.100.9"], "port": 443 })).is(200).await.body;
    assert_eq!(relay["addresses"], json!(["2001:db8::1", "198.51.100.9"]));
    change(json!({ "addresses": [], "port": 443 })).refused(422, "relay_not_public").await;
    change(json!({ "addresses": ["127.0.0.1"], "port": 443 })).refused(422, "bad_endpoint").await;
    change(json!({ "addresses": ["10.0.0.1"], "port": 443 })).refused(422, "relay_private").await;
    let relay = change(json!({ "addresses": ["10.0.0.1"], "port": 443, "private": true })).is(200).await.body;
    assert_eq!(relay["private"], true);
}
