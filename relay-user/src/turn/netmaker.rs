//! Netmaker's API of a TURN server: hosts are registered with a hash of their password, and may use the server from then on.
//! They survive a restart, in a file.

use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
    sync::{Arc, Mutex},
};

use anyhow::{Context as _, Result};
use axum::{
    Json, Router,
    extract::{Query, Request, State, rejection::JsonRejection},
    http::{HeaderMap, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse as _, Response},
    routing::{get, post},
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::{
    config::ApiConfig,
    credentials::{Key, sixteen_bytes},
};
use crate::state_file;

/// So many hosts may be registered.
const HOSTS: usize = 100_000;
/// A host's id, and the hash of its password, have at most so many characters.
const LONGEST: usize = 255;

/// The registered hosts and their keys.
pub type Hosts = HashMap<String, Key>;

/// What is in the file.
#[derive(Default, Serialize, Deserialize)]
struct Kept {
    /// The realm that the keys were made for.
    realm: String,
    /// Hosts, and their keys in hexadecimal.
    hosts: BTreeMap<String, String>,
}

/// Who is registered. Cloning gives another handle.
#[derive(Clone)]
pub struct Registry {
    file: Arc<Mutex<PathBuf>>,
    realm: Arc<str>,
    hosts: Arc<watch::Sender<Hosts>>,
}

impl Registry {
    /// What the file holds. Keys of another realm are good for nothing, and are left out.
    ///
    /// # Errors
    /// If there is one that can't be read or understood.
    pub fn open(file: PathBuf, realm: &str) -> Result<Self> {
        let kept = state_file::read::<Kept>(&file)?.unwrap_or_default();
        if !kept.hosts.is_empty() && kept.realm != realm {
            warn!(
                was = kept.realm,
                realm, "registered TURN hosts are forgotten: their keys are for another realm"
            );
        }
        let of_realm = kept.hosts.into_iter().filter(|_| kept.realm == realm);
        let hosts = of_realm.filter_map(|(host, key)| Some((host, Key::from_hex(&key)?))).collect();
        Ok(Self {
            file: Arc::new(Mutex::new(file)),
            realm: realm.into(),
            hosts: Arc::new(watch::Sender::new(hosts)),
        })
    }

    /// Who is registered, now and from now on.
    pub fn hosts(&self) -> watch::Receiver<Hosts> {
        self.hosts.subscribe()
    }

    /// Changes it: first in the file, then here.
    fn change(&self, change: impl FnOnce(&mut Hosts)) -> Result<()> {
        // One after the other: the lock is that of the file.
        let file = self.file.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut hosts = self.hosts.borrow().clone();
        change(&mut hosts);
        let kept = Kept {
            realm: self.realm.to_string(),
            hosts: hosts.iter().map(|(host, key)| (host.clone(), key.to_hex())).collect(),
        };
        state_file::write(&file, &kept)?;
        self.hosts.send_replace(hosts);
        Ok(())
    }
}

/// What all handlers share.
#[derive(Clone)]
struct Api {
    registry: Registry,
    /// Of `username:password`.
    credentials: blake2s_simd::Hash,
}

/// Serves the API until `stop`.
pub async fn serve(
    config: ApiConfig,
    password: String,
    listener: TcpListener,
    registry: Registry,
    stop: CancellationToken,
) -> Result<()> {
    info!(listen = %config.listen, hosts = registry.hosts.borrow().len(), "Netmaker's API for TURN is served");
    axum::serve(listener, router(&config.username, &password, registry))
        .with_graceful_shutdown(stop.cancelled_owned())
        .await
        .context("serve Netmaker's API for TURN")
}

fn router(username: &str, password: &str, registry: Registry) -> Router {
    let credentials = blake2s_simd::blake2s(format!("{username}:{password}").as_bytes());
    let api = Api { registry, credentials };
    Router::new()
        .route("/api/v1/host/register", post(register))
        // Netmaker's own client sends POST.
        .route("/api/v1/host/deregister", post(deregister).delete(deregister))
        .route("/api/v1/status", get(status))
        .layer(middleware::from_fn_with_state(api.clone(), authenticate))
        .with_state(api)
}

/// Lets through who knows the password.
async fn authenticate(State(api): State<Api>, request: Request, next: Next) -> Response {
    if knows_password(&api, request.headers()) {
        return next.run(request).await;
    }
    let mut response = answer(StatusCode::UNAUTHORIZED, "wrong username or password");
    let challenge = header::HeaderValue::from_static("Basic realm=\"TURN API\"");
    response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
    response
}

fn knows_password(api: &Api, headers: &HeaderMap) -> bool {
    let said = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok()?.strip_prefix("Basic "))
        .and_then(|credentials| BASE64_STANDARD.decode(credentials.trim()).ok());
    // Hashes are compared in constant time.
    said.is_some_and(|said| blake2s_simd::blake2s(&said) == api.credentials)
}

fn answer(status: StatusCode, message: &str) -> Response {
    if status.is_success() {
        return Json(json!({ "msg": message })).into_response();
    }
    let body = json!({ "Code": status.as_u16(), "Message": message, "Response": null });
    (status, Json(body)).into_response()
}

async fn status() -> Response {
    answer(StatusCode::OK, "active")
}

/// A host, and the hash of its password, which TURN takes for the password.
#[derive(Deserialize)]
struct Registration {
    host_id: String,
    host_pass_hash: String,
}

async fn register(State(api): State<Api>, body: Result<Json<Registration>, JsonRejection>) -> Response {
    let Ok(Json(Registration { host_id, host_pass_hash })) = body else {
        return answer(StatusCode::BAD_REQUEST, "send {\"host_id\", \"host_pass_hash\"}");
    };
    let fits = |text: &str| (1..=LONGEST).contains(&text.chars().count()) && !text.contains(char::is_control);
    if !fits(&host_id) || host_id.contains(':') || sixteen_bytes(&host_pass_hash).is_none() {
        let wanted = "host_id has 1 to 255 characters and no colon, host_pass_hash is 32 hexadecimal digits";
        return answer(StatusCode::BAD_REQUEST, wanted);
    }
    let full = {
        let hosts = api.registry.hosts.borrow();
        hosts.len() >= HOSTS && !hosts.contains_key(&host_id)
    };
    if full {
        return answer(StatusCode::INSUFFICIENT_STORAGE, "too many hosts are registered: deregister some");
    }
    let key = Key::of(&host_id, &api.registry.realm, &host_pass_hash);
    changed(&api, move |hosts| _ = hosts.insert(host_id, key), "registered").await
}

#[derive(Deserialize)]
struct Host {
    host_id: Option<String>,
}

async fn deregister(State(api): State<Api>, Query(Host { host_id }): Query<Host>) -> Response {
    let Some(host_id) = host_id.filter(|id| !id.is_empty()) else {
        return answer(StatusCode::BAD_REQUEST, "which host? add ?host_id=");
    };
    if !api.registry.hosts.borrow().contains_key(&host_id) {
        return answer(StatusCode::NOT_FOUND, "no such host is registered");
    }
    changed(&api, move |hosts| _ = hosts.remove(&host_id), "deregistered").await
}

async fn changed(api: &Api, change: impl FnOnce(&mut Hosts) + Send + 'static, done: &str) -> Response {
    let registry = api.registry.clone();
    // It waits for the disk.
    match tokio::task::spawn_blocking(move || registry.change(change)).await {
        Ok(Ok(())) => answer(StatusCode::OK, done),
        Ok(Err(fault)) => {
            error!("{fault:#}");
            answer(StatusCode::INTERNAL_SERVER_ERROR, "it could not be kept: see the log")
        }
        Err(_) => answer(StatusCode::INTERNAL_SERVER_ERROR, "it was given up"),
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    const HASH: &str = "0123456789abcdef0123456789abcdef";

    async fn served(registry: Registry) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, router("turn", "a long password", registry)).await });
        address
    }

    async fn ask(
        at: SocketAddr,
        method: &str,
        path: &str,
        password: &str,
        body: Option<&str>,
    ) -> (u16, String) {
        let url = format!("http://{at}/api/v1/{path}");
        let request = crate::client::builder().build().unwrap().request(method.parse().unwrap(), url);
        let credentials = BASE64_STANDARD.encode(format!("turn:{password}"));
        let mut request = request.header("authorization", format!("Basic {credentials}"));
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body.to_owned());
        }
        let response = request.send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    }

    #[tokio::test]
    async fn hosts_are_registered_and_deregistered_and_survive() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("hosts.json");
        let registry = Registry::open(file.clone(), "turn.example.org").unwrap();
        let (at, hosts) = (served(registry.clone()).await, registry.hosts());
        let body = format!("{{\"host_id\": \"h1\", \"host_pass_hash\": \"{HASH}\"}}");
        let register = |password: &'static str| ask(at, "POST", "host/register", password, Some(&body));
        assert_eq!(register("wrong").await.0, 401);
        assert!(hosts.borrow().is_empty());
        assert_eq!(register("a long password").await, (200, "{\"msg\":\"registered\"}".to_owned()));
        let key = Key::of("h1", "turn.example.org", HASH);
        assert_eq!(hosts.borrow().get("h1"), Some(&key));
        assert_eq!(ask(at, "GET", "status", "a long password", None).await.1, "{\"msg\":\"active\"}");

        let again = Registry::open(file.clone(), "turn.example.org").unwrap();
        assert_eq!(again.hosts().borrow().get("h1"), Some(&key), "it survives");
        assert!(!std::fs::read_to_string(&file).unwrap().contains(HASH), "the hash is not kept");
        assert!(Registry::open(file, "other.example.org").unwrap().hosts().borrow().is_empty());

        for method in ["DELETE", "POST"] {
            assert_eq!(register("a long password").await.0, 200);
            assert_eq!(ask(at, method, "host/deregister?host_id=h1", "a long password", None).await.0, 200);
            assert!(hosts.borrow().is_empty(), "{method}");
            assert_eq!(ask(at, method, "host/deregister?host_id=h1", "a long password", None).await.0, 404);
            assert_eq!(ask(at, method, "host/deregister", "a long password", None).await.0, 400);
        }
    }

    #[tokio::test]
    async fn what_is_no_registration_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let registry = Registry::open(dir.path().join("hosts.json"), "r").unwrap();
        let at = served(registry.clone()).await;
        let long = "x".repeat(256);
        for body in [
            "".to_owned(),
            "{}".to_owned(),
            format!("{{\"host_id\": \"\", \"host_pass_hash\": \"{HASH}\"}}"),
            format!("{{\"host_id\": \"1:x\", \"host_pass_hash\": \"{HASH}\"}}"),
            format!("{{\"host_id\": \"{long}\", \"host_pass_hash\": \"{HASH}\"}}"),
            "{\"host_id\": \"h\", \"host_pass_hash\": \"clear text\"}".to_owned(),
        ] {
            let (status, text) = ask(at, "POST", "host/register", "a long password", Some(&body)).await;
            assert_eq!(status, 400, "{body}");
            assert!(text.contains("\"Code\":400"), "{text}");
        }
        assert!(registry.hosts().borrow().is_empty());
    }
}
