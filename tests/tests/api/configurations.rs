//! Members' WireGuard configurations, and waiting for another.

use std::time::Duration;

use relay_user::model::Command;
use reqwest::Method;
use serde_json::json;

use crate::{Server, key, member, soon};

#[tokio::test]
async fn a_configuration_is_json_or_a_file_for_wg_quick() {
    let server = Server::with_hosts().await;
    let local = server.local();
    server.writer.write(Command::Activate(vec![key(3)])).await.unwrap();
    let json = local.get("members/a/configuration").is(200).await;
    assert_eq!(json.header("content-type"), "application/json");
    let endpoints: Vec<_> =
        json.body["peers"].as_array().unwrap().iter().map(|p| (&p["name"], &p["endpoint"])).collect();
    let relay = json!("198.51.100.1:51820");
    assert_eq!(endpoints, [(&json!("b"), &relay), (&json!("relay"), &relay)]);

    let text = local.get("members/a/configuration").header("accept", "text/plain").is(200).await;
    assert_eq!(text.header("content-type"), "text/plain; charset=utf-8");
    let expected = format!(
        "[Interface]\n# Put the host's private key here:\n# PrivateKey = \nAddress = 10.0.0.2/16\nMTU = 1280\n\n\
         # b\n[Peer]\nPublicKey = {}\nAllowedIPs = 10.0.0.3/32\nEndpoint = 198.51.100.1:51820\n\n\
         # relay\n[Peer]\nPublicKey = {}\nAllowedIPs = 10.0.0.1/32\nEndpoint = 198.51.100.1:51820\n\
         PersistentKeepalive = 25\n",
        key(3),
        key(1)
    );
    assert_eq!(text.body, expected);
    assert_ne!(text.header("etag"), json.header("etag"), "one names one representation");
    local.get("members/nobody/configuration").refused(404, "not_found").await;

    let public = json!({ "endpoints": ["203.0.113.7:51820"] });
    local.ask(Method::DELETE, "relays/relay/hosts/b").is(204).await;
    local.ask(Method::PATCH, "members/b").json(&public).is(200).await;
    let endpoint = async |query| {
        let path = format!("members/a/configuration{query}");
        local.get(&path).is(200).await.body["peers"][0]["endpoint"].clone()
    };
    assert_eq!(endpoint("").await, relay);
    assert_eq!(endpoint("?via_relay=needed").await, "203.0.113.7:51820");
}

#[tokio::test]
async fn who_waits_hears_of_another_configuration_and_of_nothing_else() {
    let server = Server::with_hosts().await;
    let local = server.local();
    let first = local.get("members/a/configuration").is(200).await;
    let tag = first.header("etag");
    let wait = |seconds: u8| {
        let path = format!("members/a/configuration?wait={seconds}");
        local.get(&path).header("if-none-match", tag)
    };
    let same = wait(1).is(304).await;
    assert_eq!((same.header("etag"), &same.body), (tag, &json!("")));
    // Without a tag, or with any, there is nothing to wait for.
    soon("answer", local.get("members/a/configuration?wait=60").is(200)).await;
    let any = local.get("members/a/configuration?wait=60").header("if-none-match", "*");
    soon("answer", any.is(304)).await;

    let waiting = tokio::spawn(wait(60).answer());
    // Neither a network of others nor a host whose key is not proven makes a difference.
    local.make("networks", &json!({ "name": "lab", "ipv4": "10.7.0.0/16" })).await;
    local.make("members", &member("c", 9)).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!waiting.is_finished());
    server.writer.write(Command::Activate(vec![key(9)])).await.unwrap();
    let told = soon("news", waiting).await.unwrap();
    assert_eq!((told.status.as_u16(), &told.body["peers"][0]["name"]), (200, &json!("c")));
    assert_ne!(told.header("etag"), tag);

    let tag = told.header("etag");
    let path = "members/a/configuration?wait=60";
    let waiting = tokio::spawn(local.get(path).header("if-none-match", tag).answer());
    local.ask(Method::DELETE, "members/a").is(204).await;
    let told = soon("news", waiting).await.unwrap();
    assert_eq!((told.status.as_u16(), told.code()), (404, "not_found"));
}

#[tokio::test]
async fn who_is_not_known_any_more_waits_no_longer() {
    let server = Server::with_hosts().await;
    let token = server.token("read").await;
    let remote = server.remote(Some(&token));
    let tag = remote.get("members/a/configuration").is(200).await.header("etag").to_owned();
    let path = "members/a/configuration?wait=60";
    let waiting = tokio::spawn(remote.get(path).header("if-none-match", &tag).answer());
    tokio::time::sleep(Duration::from_millis(100)).await;
    let id = token.split('.').next().unwrap();
    server.local().ask(Method::DELETE, &format!("tokens/{id}")).is(204).await;
    let told = soon("news", waiting).await.unwrap();
    assert_eq!((told.status.as_u16(), told.code()), (401, "wrong_token"));
}
