//! Who may do what, and what wrong credentials bring.

use std::collections::BTreeMap;

use reqwest::Method;
use serde_json::{Value, json};

use crate::{Server, key, member};

/// Who may: everybody, readers, makers of keys, administrators, these and the owner of the member, or readers and the
/// owner.
#[derive(Clone, Copy, Debug, PartialEq)]
enum May {
    Everybody,
    Read,
    Enrol,
    Admin,
    AdminOrOwn,
    Own,
}

/// The rights of all operations but for those that only admin tokens have and the plain reading.
fn exceptions() -> BTreeMap<&'static str, May> {
    [
        ("get /v1/health", May::Everybody),
        ("post /v1/enrol", May::Everybody),
        ("post /v1/keys", May::Enrol),
        ("delete /v1/members/{name}", May::AdminOrOwn),
        ("get /v1/members/{name}", May::Own),
        ("get /v1/members/{name}/configuration", May::Own),
    ]
    .into()
}

/// All operations that the OpenAPI document has, as `get /v1/…`.
fn operations(document: &Value) -> Vec<String> {
    let paths = document["paths"].as_object().unwrap().iter();
    paths
        .flat_map(|(path, item)| item.as_object().unwrap().keys().map(move |m| format!("{m} {path}")))
        .collect()
}

#[tokio::test]
async fn every_operation_is_for_those_who_may() {
    let server = Server::with_hosts().await;
    let document = server.remote(None).get("openapi.json").is(200).await.body;
    let exceptions = exceptions();
    let owner = server.local().ask(Method::PATCH, "members/a").json(&json!({ "owner": true })).is(200).await;
    let owner = owner.body["owner"].as_str().unwrap().to_owned();
    let mut tokens = vec![(None, "nobody"), (Some(owner), "owner")];
    for role in ["read", "enrol", "admin"] {
        tokens.push((Some(server.token(role).await), role));
    }
    let operations = operations(&document);
    assert!(operations.len() >= 30 && exceptions.keys().all(|known| operations.iter().any(|o| o == known)));
    for operation in &operations {
        let (method, path) = operation.split_once(' ').unwrap();
        let may = exceptions.get(&**operation).copied();
        let may = may.unwrap_or(if method == "get" { May::Read } else { May::Admin });
        let security = &document["paths"][path][method]["security"];
        assert_eq!(*security == json!([{}]), may == May::Everybody, "{operation}: {security}");
        let path = path
            .trim_start_matches("/v1/")
            .replace("{name}", "a")
            .replace("{id}", "none")
            .replace("{host}", "b");
        for (token, who) in &tokens {
            let method = Method::from_bytes(method.to_uppercase().as_bytes()).unwrap();
            // No body: who may is told what is missing in it.
            let response = server.remote(token.as_deref()).ask(method, &path).send().await;
            let enough = match may {
                May::Everybody => true,
                May::Read => matches!(*who, "read" | "admin"),
                May::Enrol => matches!(*who, "enrol" | "admin"),
                May::Admin => *who == "admin",
                May::AdminOrOwn => matches!(*who, "admin" | "owner"),
                May::Own => matches!(*who, "read" | "admin" | "owner"),
            };
            let expected: &[u16] = match (enough, token) {
                (true, _) => &[200, 204, 400, 404, 409, 415],
                (false, None) => &[401],
                (false, Some(_)) => &[403],
            };
            let status = response.status().as_u16();
            assert!(expected.contains(&status), "{operation} by {who}: {status}");
        }
        // What the administrator has deleted meanwhile.
        if method == "delete" {
            let again = server
                .local()
                .ask(Method::POST, "relays/relay/hosts")
                .json(&json!({ "all": true }))
                .answer()
                .await;
            assert!(again.status == 200 || again.code() == "not_found", "{}", again.body);
            let a = server.local().get("members/a").answer().await;
            if a.status == 404 {
                // Its owner's secret goes with it, so this has to come last for the operations on `a`.
                server.local().make("members", &member("a", 2)).await;
                let change = server.local().ask(Method::PATCH, "members/a").json(&json!({ "owner": true }));
                let secret = change.is(200).await.body["owner"].as_str().unwrap().to_owned();
                tokens[1].0 = Some(secret);
            }
        }
    }
}

#[tokio::test]
async fn a_credential_is_good_for_what_it_says_and_as_long() {
    let server = Server::with_hosts().await;
    let local = server.local();
    let token = server.token("read").await;
    let remote = server.remote(Some(&token));
    remote.get("members").is(200).await;
    let told = remote.ask(Method::DELETE, "members/a").refused(403, "not_allowed").await;
    assert!(told.body["detail"].as_str().unwrap().contains("has the role read"), "{}", told.body);
    let enrol = server.token("enrol").await;
    let key = server.remote(Some(&enrol)).make("keys", &json!({ "network": "net" })).await.body;
    server.remote(Some(key["secret"].as_str().unwrap())).get("members").refused(401, "wrong_token").await;

    // The owner of one member is nobody to another.
    let owner = local.ask(Method::PATCH, "members/a").json(&json!({ "owner": true })).is(200).await.body;
    let owner = server.remote(owner["owner"].as_str());
    owner.get("members/a/configuration").is(200).await;
    owner.get("members/b/configuration").refused(403, "not_allowed").await;
    owner.get("members/nobody/configuration").refused(403, "not_allowed").await;
    owner.get("members").refused(403, "not_allowed").await;

    let id = token.split('.').next().unwrap();
    local.ask(Method::DELETE, &format!("tokens/{id}")).is(204).await;
    remote.get("members").refused(401, "wrong_token").await;
    let short = local.make("tokens", &json!({ "role": "read", "valid_seconds": 1 })).await.body;
    let short = server.remote(short["secret"].as_str());
    let expired = async {
        while short.get("members").answer().await.status != 401 {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    };
    crate::soon("end of the token", expired).await;
}

#[tokio::test]
async fn wrong_credentials_are_told_and_too_many_are_slowed_down() {
    let server = Server::with_hosts().await;
    let good = server.token("admin").await;
    let nobody = server.remote(None);
    let missing = nobody.get("members").refused(401, "no_token").await;
    assert_eq!(missing.header("www-authenticate"), "Bearer");
    let (id, secret) = good.split_once('.').unwrap();
    let mut other = secret.to_owned().into_bytes();
    other[5] = if other[5] == b'A' { b'B' } else { b'A' };
    let other = String::from_utf8(other).unwrap();
    for wrong in [
        format!("Bearer {id}.{other}"),
        format!("Bearer nobody.{secret}"),
        format!("Bearer {secret}"),
        format!("Basic {good}"),
        "Bearer".to_owned(),
        "Bearer \u{e9}".to_owned(),
    ] {
        nobody.get("members").header("authorization", &wrong).refused(401, "wrong_token").await;
    }
    let wrong = || nobody.get("members").header("authorization", "Bearer a.b");
    let mut asked = 0;
    let slowed = loop {
        let answer = wrong().answer().await;
        asked += 1;
        assert!(asked < 50, "it is never too much");
        if answer.status != 401 {
            break answer;
        }
    };
    assert_eq!((slowed.status.as_u16(), slowed.code()), (429, "too_many_failures"));
    assert!(slowed.header("retry-after").parse::<u64>().unwrap() > 0);
    slowed.is_a_problem();
    // Those who do no wrong behind the same address are not concerned, nor is the unix socket.
    server.remote(Some(&good)).get("members").is(200).await;
    let guess = json!({
        "key": format!("none.{secret}"), "name": "c", "public_key": key(9).to_string(),
    });
    nobody.ask(Method::POST, "enrol").json(&guess).refused(429, "too_many_failures").await;
    server.local().ask(Method::POST, "enrol").json(&guess).refused(403, "wrong_key").await;
}
