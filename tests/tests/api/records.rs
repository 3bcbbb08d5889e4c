//! Making, showing, changing and deleting records.

use reqwest::Method;
use serde_json::{Value, json};

use crate::{Server, key, member};

#[tokio::test]
async fn a_network_is_made_shown_changed_and_deleted() {
    let server = Server::start().await;
    let local = server.local();
    assert_eq!(local.get("networks").is(200).await.body, json!([]));
    let made = local.make("networks", &json!({ "name": "net", "ipv4": "10.0.0.0/24" })).await;
    assert_eq!(made.header("location"), "/v1/networks/net");
    assert_eq!(made.header("cache-control"), "no-store");
    let revision = made.body["revision"].as_u64().unwrap();
    let network =
        json!({ "name": "net", "ipv4": "10.0.0.0/24", "ipv6": null, "members": 0, "revision": revision });
    assert_eq!(made.body, network);
    assert_eq!(made.header("etag"), format!("\"{revision}\""));
    assert_eq!(local.get("networks").is(200).await.body, json!([network]));
    assert_eq!(local.get("networks/net").is(200).await.body, network);

    local.make("members", &member("a", 1)).await;
    let wider = json!({ "ipv4": "10.0.0.0/16", "ipv6": "fd00::/64" });
    let changed = local.ask(Method::PUT, "networks/net").json(&wider).is(200).await;
    assert_eq!((&changed.body["ipv6"], &changed.body["members"]), (&json!("fd00::/64"), &json!(1)));
    let a = local.get("members/a").is(200).await.body;
    assert_eq!(a["networks"], json!([{ "network": "net", "ipv4": "10.0.0.1", "ipv6": "fd00::1" }]));

    local.ask(Method::DELETE, "networks/net").refused(409, "network_in_use").await;
    local.ask(Method::DELETE, "members/a").is(204).await;
    local.ask(Method::DELETE, "networks/net").is(204).await;
    local.get("networks/net").refused(404, "not_found").await;
    local.ask(Method::DELETE, "networks/net").refused(404, "not_found").await;
}

#[tokio::test]
async fn a_change_can_depend_on_what_was_read() {
    let server = Server::with_hosts().await;
    let local = server.local();
    for path in ["networks/net", "members/a", "relays/relay"] {
        let read = local.get(path).is(200).await;
        let tag = read.header("etag").to_owned();
        let same = local.get(path).header("if-none-match", &tag).is(304).await;
        assert_eq!((same.header("etag"), &same.body), (&*tag, &json!("")));
        local.get(path).header("if-none-match", "\"0\"").is(200).await;
    }
    let tag = local.get("members/a").is(200).await.header("etag").to_owned();
    let change = |tag: &str, tags: &str| {
        local.ask(Method::PATCH, "members/a").header("if-match", tag).json(&json!({ "tags": [tags] }))
    };
    let changed = change(&tag, "one").is(200).await;
    assert_ne!(changed.header("etag"), tag);
    change(&tag, "two").refused(412, "stale").await;
    // As if it were compared weakly, or were another's.
    change(&format!("W/{}", changed.header("etag")), "two").refused(412, "stale").await;
    change("\"something\"", "two").refused(412, "stale").await;
    assert_eq!(local.get("members/a").is(200).await.body["tags"], json!(["one"]));
    change("*", "two").is(200).await;
    // What is not there at all is told as that.
    let gone = local.ask(Method::DELETE, "members/nobody");
    gone.header("if-match", &tag).refused(404, "not_found").await;
    local.ask(Method::DELETE, "members/a").header("if-match", &tag).refused(412, "stale").await;
    for nonsense in ["1", "\"a,b\"", "", "\"1\", \"2\""] {
        let change = local.ask(Method::DELETE, "members/a").header("if-match", nonsense);
        change.refused(412, "stale").await;
    }
    let tag = local.get("members/a").is(200).await.header("etag").to_owned();
    local.ask(Method::DELETE, "members/a").header("if-match", &format!("\"1\", {tag}")).is(204).await;
}

#[tokio::test]
async fn a_member_is_changed_in_part() {
    let server = Server::with_hosts().await;
    let local = server.local();
    let change = |body| local.ask(Method::PATCH, "members/a").json(&body);
    change(json!({ "tags": ["web", "db"], "endpoints": ["203.0.113.5:51820"] })).is(200).await;
    let a = change(json!({})).is(200).await.body["member"].clone();
    assert_eq!(a["tags"], json!(["db", "web"]));
    assert_eq!(a["endpoints"], json!(["203.0.113.5:51820"]));
    assert_eq!(a["relayed_by"], "relay");
    let network = json!([{ "network": "net", "ipv4": "10.0.7.7", "routes": ["192.168.7.0/24"] }]);
    let a = change(json!({ "networks": network, "endpoints": [] })).is(200).await.body["member"].clone();
    assert_eq!((&a["networks"], &a["endpoints"]), (&network, &json!([])));
    change(json!({ "networks": [{ "network": "net", "ipv4": "10.0.0.1" }] }))
        .refused(409, "address_taken")
        .await;
    change(json!({ "networks": [] })).refused(422, "no_network").await;
    change(json!({ "networks": [{ "network": "other" }] })).refused(422, "not_found").await;
    let members = local.get("members?relay=relay&limit=1").is(200).await.body;
    assert_eq!(members[0]["name"], "a");
    let members = local.get("members?network=net&after=a").is(200).await.body;
    let names: Vec<_> = members.as_array().unwrap().iter().map(|member| &member["name"]).collect();
    assert_eq!(names, ["b", "relay"]);
    assert_eq!(local.get("members?tag=web").is(200).await.body.as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn names_and_keys_are_unique() {
    let server = Server::with_hosts().await;
    let local = server.local();
    let make = |collection, body| local.ask(Method::POST, collection).json(&body);
    make("members", member("a", 9)).refused(409, "exists").await;
    make("members", member("c", 2)).refused(409, "public_key_taken").await;
    make("networks", json!({ "name": "net", "ipv6": "fd00::/64" })).refused(409, "exists").await;
    make("relays", json!({ "name": "relay" })).refused(409, "exists").await;
}

#[tokio::test]
async fn a_dry_run_tells_and_does_nothing() {
    let server = Server::with_hosts().await;
    let local = server.local();
    let before = server.writer.state().revision();
    let told = |answer: crate::Answer| answer.body["consequences"].clone();
    let dry =
        local.ask(Method::POST, "networks?dry_run=true").json(&json!({ "name": "n", "ipv4": "10.9.0.0/16" }));
    assert_eq!(told(dry.is(200).await), json!([]));
    let dry = local.ask(Method::PUT, "networks/net?dry_run=true");
    let consequences = told(dry.json(&json!({ "ipv4": "10.0.0.0/16", "ipv6": "fd00::/64" })).is(200).await);
    let changed = |name| json!({ "what": "changed", "record": format!("member/{name}") });
    assert_eq!(consequences, json!([changed("a"), changed("b"), changed("relay")]));
    let dry = local.ask(Method::DELETE, "networks/net?dry_run=true");
    dry.refused(409, "network_in_use").await;
    let dry = local.ask(Method::DELETE, "relays/relay?dry_run=true");
    let released = |host| json!({ "what": "relayed", "host": host, "from": "relay", "to": null });
    assert_eq!(told(dry.is(200).await), json!([released("a"), released("b")]));
    for (method, path, body) in [
        (Method::POST, "members?dry_run=true", member("c", 9)),
        (Method::PATCH, "members/a?dry_run=true", json!({ "tags": ["x"], "owner": true })),
        (Method::POST, "keys?dry_run=true", json!({ "network": "net" })),
        (Method::POST, "tokens?dry_run=true", json!({ "role": "admin" })),
        (Method::POST, "relays/relay/hosts?dry_run=true", json!({ "all": true })),
        (Method::DELETE, "members/a?dry_run=true", json!(null)),
    ] {
        let answer = local.ask(method, path).json(&body).is(200).await;
        assert!(answer.body["consequences"].is_array(), "{path}: {}", answer.body);
    }
    let stale = local.ask(Method::DELETE, "relays/relay?dry_run=true").header("if-match", "\"0\"");
    stale.refused(412, "stale").await;
    assert_eq!(server.writer.state().revision(), before);
}

#[tokio::test]
async fn secrets_are_told_once() {
    let server = Server::with_hosts().await;
    let local = server.local();
    let new = json!({ "network": "net", "relay": "relay", "tags": ["web"], "uses": 2, "valid_seconds": 60 });
    let made = local.make("keys", &new).await.body;
    let id = made["key"]["id"].as_str().unwrap();
    let secret = made["secret"].as_str().unwrap();
    assert!(secret.starts_with(&format!("{id}.")) && secret.len() > 43, "{secret}");
    assert_eq!(made["key"]["uses_left"], 2);
    let made = local.make("tokens", &json!({ "id": "ci", "role": "read" })).await.body;
    let token = made["secret"].as_str().unwrap();
    let mut other = member("c", 9);
    other["owner"] = json!(true);
    let made = local.make("members", &other).await.body;
    let owner = made["owner"].as_str().unwrap();
    assert!(owner.starts_with("c."));
    let changed = local.ask(Method::PATCH, "members/c").json(&json!({ "owner": true })).is(200).await.body;
    let newer = changed["owner"].as_str().unwrap();
    assert_ne!(newer, owner);

    let secrets = [secret, token, owner, newer].map(|secret| secret.rsplit('.').next().unwrap().to_owned());
    for path in ["keys", &format!("keys/{id}"), "tokens", "tokens/ci", "members", "members/c"] {
        let text = local.get(path).is(200).await.body.to_string();
        assert!(secrets.iter().all(|secret| !text.contains(secret)), "{path}: {text}");
        assert!(!text.contains("hash") && !text.contains("\"owner\""), "{path}: {text}");
    }
    local.ask(Method::DELETE, &format!("keys/{id}")).is(204).await;
    local.ask(Method::DELETE, "tokens/ci").is(204).await;
    local.get("tokens/ci").refused(404, "not_found").await;
    assert_eq!(key(1).to_string().len(), 44);
}

#[tokio::test]
async fn a_rate_limit_is_set_changed_and_taken_away() {
    let server = Server::with_hosts().await;
    let local = server.local();
    let set = async |limit: Value| {
        let change = local.ask(Method::PATCH, "members/a").json(&json!({ "rate_limit": limit }));
        change.is(200).await.body["member"]["rate_limit"].clone()
    };
    let limit = json!({ "bits_per_second": 1_000_000, "packets_per_second": 100 });
    assert_eq!(set(limit.clone()).await, limit);
    assert_eq!(local.get("members/a").is(200).await.body["rate_limit"], limit);
    assert_eq!(set(json!({ "packets_per_second": 7 })).await, json!({ "packets_per_second": 7 }));
    assert_eq!(set(json!({})).await, json!(null));
    let slow = local.ask(Method::PATCH, "members/a").json(&json!({ "rate_limit": { "bits_per_second": 1 } }));
    slow.refused(422, "bad_body").await;
}

#[tokio::test]
async fn a_turn_user_is_known_without_its_key() {
    let server = Server::with_hosts().await;
    let local = server.local();
    let (first, second) = ("8493fbc53ba582fb4c044c456bdc40eb", "0123456789abcdef0123456789abcdef");
    let new = json!({ "name": "ann", "realm": "example.org", "key": first });
    let made = local.make("turn-users", &new).await.body;
    assert_eq!((&made["name"], &made["realm"]), (&json!("ann"), &json!("example.org")));
    local.ask(Method::POST, "turn-users").json(&new).refused(409, "exists").await;
    let change = json!({ "realm": "example.org", "key": second });
    local.ask(Method::PUT, "turn-users/ann").json(&change).is(200).await;
    for path in ["turn-users", "turn-users/ann"] {
        let text = local.get(path).is(200).await.body.to_string();
        assert!(text.contains("ann") && !text.contains(first) && !text.contains(second), "{text}");
    }
    let short = json!({ "name": "bob", "realm": "example.org", "key": "8493" });
    local.ask(Method::POST, "turn-users").json(&short).refused(422, "bad_body").await;
    let nowhere = json!({ "name": "bob", "realm": "", "key": first });
    local.ask(Method::POST, "turn-users").json(&nowhere).refused(422, "bad_body").await;
    local.ask(Method::DELETE, "turn-users/ann").is(204).await;
    local.get("turn-users/ann").refused(404, "not_found").await;
}

#[tokio::test]
async fn what_is_only_of_a_running_relay_says_so() {
    let server = Server::start().await;
    for path in ["status", "hosts", "sessions"] {
        server.local().get(path).refused(404, "no_relay_here").await;
    }
    let health = server.remote(None).get("health").is(200).await.body;
    assert_eq!(health, json!({ "version": env!("CARGO_PKG_VERSION"), "store": null }));
    assert_eq!(
        server.remote(None).get("ready").is(200).await.body,
        health,
        "a control plane without a relay is ready"
    );
}
