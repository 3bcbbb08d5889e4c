//! Requests that can't be right. Each is told what is wrong, and nothing is changed.

use reqwest::Method;
use serde_json::{Value, json};

use crate::{Server, key, member};

#[tokio::test]
async fn what_is_wrong_with_a_request_is_told() {
    let server = Server::with_hosts().await;
    let local = server.local();
    let before = server.writer.state().revision();
    let post = |path| local.ask(Method::POST, path);

    local.get("nothing").refused(404, "no_such_path").await;
    local.get("").refused(404, "no_such_path").await;
    let told = local.ask(Method::PATCH, "networks/net").refused(405, "method_not_allowed").await;
    let allowed = told.header("allow");
    assert!(["GET", "PUT", "DELETE"].iter().all(|method| allowed.contains(method)), "{allowed}");

    post("networks").refused(415, "not_json").await;
    post("networks").body("text/plain", "{}").refused(415, "not_json").await;
    post("networks").body("application/json", "").refused(400, "bad_json").await;
    post("networks").body("application/json", "{\"name\":").refused(400, "bad_json").await;
    post("networks").body("application/json", &b"{\"name\":\"\xff\"}"[..]).refused(400, "bad_json").await;
    post("networks").body("application/json", "[".repeat(10_000)).refused(422, "bad_body").await;
    post("networks").body("application/json", " ".repeat(300_000)).refused(413, "too_large").await;
    local.get("members?limit=many").refused(400, "bad_query").await;
    local.get("members?sort=name").refused(400, "bad_query").await;
    local.get("members?tag=a&tag=b").refused(400, "bad_query").await;
    local.get("networks/a%20b").refused(400, "bad_path").await;
    local.get("networks/%ff").refused(400, "bad_path").await;
    local.get(&format!("networks/{}", "n".repeat(64))).refused(400, "bad_path").await;
    local.get("members/a/configuration?wait=61").refused(422, "too_long_a_wait").await;
    local.get("members/a/configuration?via_relay=never").refused(400, "bad_query").await;

    let network = |more: Value| {
        let mut network = json!({ "name": "n", "ipv4": "10.9.0.0/16" });
        network.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        post("networks").json(&network)
    };
    let told = network(json!({ "colour": "red" })).refused(422, "bad_body").await;
    assert!(told.body["detail"].as_str().unwrap().contains("unknown field `colour`"), "{}", told.body);
    let told = network(json!({ "name": "a b" })).refused(422, "bad_body").await;
    assert!(told.body["detail"].as_str().unwrap().contains("use 1 to 63 letters"), "{}", told.body);
    network(json!({ "name": 7 })).refused(422, "bad_body").await;
    network(json!({ "ipv4": "10.9.0.0" })).refused(422, "bad_body").await;
    network(json!({ "ipv4": "10.9.0.0/33" })).refused(422, "bad_body").await;
    network(json!({ "ipv4": "10.9.0.1/16" })).refused(422, "bad_prefix").await;
    network(json!({ "ipv4": "10.9.0.0/31" })).refused(422, "prefix_too_small").await;
    network(json!({ "ipv4": null })).refused(422, "no_prefix").await;
    post("networks").json(&json!([])).refused(422, "bad_body").await;
    post("networks").json(&json!({})).refused(422, "bad_body").await;

    let other = |more: Value| {
        let mut other = member("c", 9);
        other.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        post("members").json(&other)
    };
    for not_a_key in ["", "short", &key(9).to_string()[1..], &format!("{}=", key(9)), "\u{e9}"] {
        let told = other(json!({ "public_key": not_a_key })).refused(422, "bad_body").await;
        assert!(told.body["detail"].as_str().unwrap().contains("wg pubkey"), "{}", told.body);
    }
    other(json!({ "public_key": key(0).to_string() })).refused(422, "bad_public_key").await;
    other(json!({ "endpoints": ["203.0.113.1"] })).refused(422, "bad_body").await;
    other(json!({ "endpoints": ["224.0.0.1:1"] })).refused(422, "bad_endpoint").await;
    other(json!({ "endpoints": ["203.0.113.1:1", "203.0.113.2:1"] })).refused(422, "two_endpoints").await;
    other(json!({ "networks": [{ "network": "net", "ipv4": "10.1.0.1" }] }))
        .refused(422, "address_outside")
        .await;
    other(json!({ "networks": [{ "network": "net" }, { "network": "net" }] }))
        .refused(422, "network_twice")
        .await;
    let many: Vec<String> = (0..65).map(|n| format!("t{n}")).collect();
    other(json!({ "tags": many })).refused(422, "too_many").await;
    let many: Vec<String> = (0..1001).map(|n| format!("h{n}")).collect();
    post("relays/relay/hosts").json(&json!({ "hosts": many })).refused(422, "too_many").await;

    post("keys").json(&json!({ "network": "none" })).refused(422, "not_found").await;
    post("keys").json(&json!({ "network": "net", "relay": "a" })).refused(422, "not_found").await;
    post("keys").json(&json!({ "network": "net", "uses": 0 })).refused(422, "key_without_uses").await;
    post("keys")
        .json(&json!({ "network": "net", "valid_seconds": 0 }))
        .refused(422, "key_expires_in_past")
        .await;
    post("keys").json(&json!({ "network": "net", "uses": -1 })).refused(422, "bad_body").await;
    post("tokens").json(&json!({ "role": "king" })).refused(422, "bad_body").await;
    post("tokens")
        .json(&json!({ "role": "read", "valid_seconds": 1u64 << 40 }))
        .refused(422, "bad_body")
        .await;

    assert_eq!(server.writer.state().revision(), before, "nothing was changed");
}
