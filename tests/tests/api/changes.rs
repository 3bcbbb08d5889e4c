//! The change stream.

use reqwest::{Method, Response};
use serde_json::{Value, json};

use crate::{Ask, Server, soon};

/// Reads server-sent events.
struct Events {
    response: Response,
    text: String,
}

impl Events {
    async fn of(ask: Ask) -> Self {
        let response = ask.send().await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self { response, text: String::new() }
    }

    /// The next event: its id, and its data; none if the stream has ended.
    async fn next(&mut self) -> Option<(String, Value)> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let field =
                    |name: &str| event.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
                let next = field("id: ").zip(field("data: "));
                self.text = rest.to_owned();
                if let Some((id, data)) = next {
                    return Some((id, serde_json::from_str(&data).unwrap()));
                }
                continue;
            }
            let chunk = soon("event", self.response.chunk()).await.ok()??;
            self.text.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    }
}

#[tokio::test]
async fn what_changes_is_told_in_order() {
    let server = Server::with_hosts().await;
    let local = server.local();
    let token = server.token("read").await;
    let remote = server.remote(Some(&token));
    let mut events = Events::of(remote.get("changes")).await;
    let now = server.writer.state().revision().0;
    assert_eq!(events.next().await, Some((now.to_string(), json!({ "revision": now, "records": null }))));
    local.ask(Method::DELETE, "relays/relay/hosts/a").is(204).await;
    let told = json!({ "revision": now + 1, "records": ["member/a"] });
    assert_eq!(events.next().await, Some(((now + 1).to_string(), told)));
    local.ask(Method::DELETE, "members/b").is(204).await;
    assert_eq!(events.next().await.unwrap().1["records"], json!(["member/b"]));

    // Who has heard all begins with what comes next, others begin anew.
    let now = server.writer.state().revision().0;
    let mut heard = Events::of(remote.get("changes").header("last-event-id", &now.to_string())).await;
    let mut missed = Events::of(remote.get("changes").header("last-event-id", &(now - 1).to_string())).await;
    assert_eq!(missed.next().await.unwrap().1["records"], json!(null));
    local.make("networks", &json!({ "name": "lab", "ipv4": "10.7.0.0/16" })).await;
    assert_eq!(heard.next().await.unwrap().1["records"], json!(["network/lab"]));

    // It ends with the token, and with wgrelay.
    let mut at_socket = Events::of(local.get("changes")).await;
    let id = token.split('.').next().unwrap();
    local.ask(Method::DELETE, &format!("tokens/{id}")).is(204).await;
    assert_eq!(missed.next().await.unwrap().1["records"], json!(["network/lab"]));
    assert_eq!(missed.next().await, None);
    server.stop.cancel();
    while at_socket.next().await.is_some() {}
}
