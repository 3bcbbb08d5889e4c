//! The API: the real router at a real socket and port, over a real store.
//!
//! What starts programs (the command line, schemathesis) needs the feature `kernel`: `cargo xtask test --tier api` builds
//! and installs those.

mod bad_input;
mod changes;
#[cfg(feature = "kernel")]
mod command_line;
mod configurations;
mod enrolment;
mod records;
mod relays;
mod rights;
#[cfg(feature = "kernel")]
mod schema;
mod tls;

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use relay_user::{
    api::{Control, Listener, Own, listen, shape::TokenWithSecret},
    client::{Client, Place},
    config::ApiConfig,
    members::PublicKey,
    serve::serve_on,
    store::{Embedded, Followers, Writer, unix_time},
};
use reqwest::{Method, Response, StatusCode, header::HeaderMap};
use serde_json::{Value, json};
use tokio::{sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;

/// Long enough for everything that is to come.
const SOON: Duration = Duration::from_secs(20);

async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, future).await.unwrap_or_else(|_| panic!("no {what} within {SOON:?}"))
}

/// The API of a control plane of its own, as long as this value lives.
struct Server {
    directory: tempfile::TempDir,
    writer: Writer,
    /// Over TCP.
    address: SocketAddr,
    /// Which relays are alive.
    alive: watch::Sender<BTreeSet<String>>,
    stop: CancellationToken,
    _tasks: JoinSet<anyhow::Result<()>>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// The name of the relay that the server says it is in the process of.
const OWN: &str = "own";

impl Server {
    async fn start() -> Self {
        Self::with_files(None).await
    }

    /// With TLS, if files for it are given.
    async fn with_files(tls: Option<[std::path::PathBuf; 2]>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let stop = CancellationToken::new();
        let store = Embedded::open(directory.path()).await.unwrap();
        let (writer, _) = Writer::start(std::sync::Arc::new(store), unix_time, stop.clone()).await.unwrap();
        let (alive, receiver) = watch::channel(BTreeSet::new());
        let own = Own {
            name: OWN.parse().unwrap(),
            public_key: key(200),
            addresses: vec!["198.51.100.200".parse().unwrap()],
            port: 51820,
        };
        let followers = Followers::default();
        let control = Control { writer: writer.clone(), alive: receiver, own: Some(own), followers };
        let unix = listen(&directory.path().join("sock")).unwrap();
        let [tls_cert_file, tls_key_file] = tls.map_or([None, None], |files| files.map(Some));
        let listen = "127.0.0.1:0".parse().unwrap();
        let listener = Listener::open(&ApiConfig { listen, tls_cert_file, tls_key_file }).await.unwrap();
        let address = listener.address();
        let mut tasks = JoinSet::new();
        serve_on(&mut tasks, unix, Some(listener), None, Some(control), &stop);
        Self { directory, writer, address, alive, stop, _tasks: tasks }
    }

    /// Asks at the unix socket.
    fn local(&self) -> Asking {
        Asking(Client::unix(&self.directory.path().join("sock")).unwrap())
    }

    /// Asks over TCP, with a token or an owner's secret, or without.
    fn remote(&self, token: Option<&str>) -> Asking {
        let url = format!("http://{}", self.address);
        Asking(Client::new(Place::Url { url, token: token.map(str::to_owned), ca_file: None }).unwrap())
    }

    /// A new token.
    async fn token(&self, role: &str) -> String {
        let token: TokenWithSecret =
            self.local().0.post("/v1/tokens", &json!({ "role": role })).await.unwrap();
        token.secret
    }

    /// A network `net`, a relay `relay` in it, and two hosts `a` and `b` that are relayed by it.
    async fn with_hosts() -> Self {
        let this = Self::start().await;
        let local = this.local();
        local.make("networks", &json!({ "name": "net", "ipv4": "10.0.0.0/16" })).await;
        local
            .make(
                "relays",
                &json!({
                    "name": "relay",
                    "public_key": key(1).to_string(),
                    "networks": [{ "network": "net" }],
                    "addresses": ["198.51.100.1"],
                    "port": 51820,
                }),
            )
            .await;
        for (name, number) in [("a", 2), ("b", 3)] {
            local.make("members", &member(name, number)).await;
        }
        local.ask(Method::POST, "relays/relay/hosts").json(&json!({ "hosts": ["a", "b"] })).is(200).await;
        this
    }
}

/// A member of `net`, with the key of a number.
fn member(name: &str, number: u8) -> Value {
    json!({ "name": name, "public_key": key(number).to_string(), "networks": [{ "network": "net" }] })
}

/// One of many public keys.
fn key(number: u8) -> PublicKey {
    PublicKey([number; 32])
}

/// A client with few words.
struct Asking(Client);

impl Asking {
    fn ask(&self, method: Method, path: &str) -> Ask {
        Ask(self.0.request(method, &format!("/v1/{path}")).unwrap())
    }

    fn get(&self, path: &str) -> Ask {
        self.ask(Method::GET, path)
    }

    async fn make(&self, collection: &str, body: &Value) -> Answer {
        self.ask(Method::POST, collection).json(body).is(201).await
    }
}

/// A question.
struct Ask(reqwest::RequestBuilder);

impl Ask {
    fn json(self, body: &Value) -> Self {
        Self(self.0.json(body))
    }

    fn body(self, kind: &str, body: impl Into<reqwest::Body>) -> Self {
        Self(self.0.header("content-type", kind).body(body))
    }

    fn header(self, name: &str, value: &str) -> Self {
        Self(self.0.header(name, value))
    }

    async fn send(self) -> Response {
        soon("answer", self.0.send()).await.unwrap()
    }

    /// The answer, whatever it is.
    async fn answer(self) -> Answer {
        let response = self.send().await;
        let (status, headers) = (response.status(), response.headers().clone());
        let text = response.text().await.unwrap();
        let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
        Answer { status, headers, body }
    }

    /// The answer, which has this status.
    #[track_caller]
    fn is(self, status: u16) -> impl Future<Output = Answer> {
        let caller = std::panic::Location::caller();
        async move {
            let answer = self.answer().await;
            assert_eq!(answer.status, status, "at {caller}: {}", answer.body);
            answer
        }
    }

    /// It is refused with this status and code.
    #[track_caller]
    fn refused(self, status: u16, code: &str) -> impl Future<Output = Answer> {
        let caller = std::panic::Location::caller();
        async move {
            let answer = self.answer().await;
            assert_eq!(
                (answer.status.as_u16(), answer.code()),
                (status, code),
                "at {caller}: {}",
                answer.body
            );
            answer.is_a_problem();
            answer
        }
    }
}

/// An answer.
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Value,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    fn code(&self) -> &str {
        self.body["code"].as_str().unwrap_or("")
    }

    /// Each error is one, whole and right.
    fn is_a_problem(&self) {
        assert_eq!(self.header("content-type"), "application/problem+json");
        assert_eq!(self.body["status"], self.status.as_u16());
        assert_eq!(self.body["type"], format!("urn:wgrelay:problem:{}", self.code()));
        assert!(self.body["detail"].as_str().is_some_and(|detail| detail.len() > 10), "{}", self.body);
    }
}
