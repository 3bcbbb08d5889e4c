//! The local API: HTTP with JSON over a unix socket, for the command line and for whoever may open the socket.

use std::{
    fs, io,
    os::unix::{
        fs::{FileTypeExt as _, PermissionsExt as _},
        net::UnixStream as StdUnixStream,
    },
    path::Path,
};

use anyhow::{Context as _, Result, bail};
use axum::{Json, Router, extract::State, http::StatusCode, response::IntoResponse, routing::get};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::{mpsc, oneshot},
};

use crate::{engine::Request, status::Status};

/// How many unknown sources the status names.
const SOURCES_IN_STATUS: usize = 10;

/// A way to ask the engine.
#[derive(Clone)]
pub struct Engine(mpsc::Sender<Request>);

impl Engine {
    /// Asks by this channel.
    pub fn new(requests: mpsc::Sender<Request>) -> Self {
        Self(requests)
    }

    /// Asks one question; `None` if the engine has ended.
    pub async fn ask<T>(&self, question: impl FnOnce(oneshot::Sender<T>) -> Request) -> Option<T> {
        let (answer, answered) = oneshot::channel();
        self.0.send(question(answer)).await.ok()?;
        answered.await.ok()
    }

    /// Tells something.
    pub async fn tell(&self, request: Request) {
        // The engine has ended: then nobody is there to be told.
        let _ = self.0.send(request).await;
    }
}

/// Opens the socket. One that a dead process has left is replaced.
pub fn listen(path: &Path) -> Result<UnixListener> {
    if StdUnixStream::connect(path).is_ok() {
        bail!("wgrelay is running already: it answers at {} (give each its own `socket`)", path.display());
    }
    if let Ok(found) = fs::symlink_metadata(path) {
        if !found.file_type().is_socket() {
            bail!("{} is there and is no socket: remove it, or set `socket` to another path", path.display());
        }
        fs::remove_file(path).with_context(|| format!("remove the old socket {}", path.display()))?;
    }
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    }
    let listener = UnixListener::bind(path).with_context(|| format!("listen at {}", path.display()))?;
    // It tells who talks to whom: for root and the socket's group.
    fs::set_permissions(path, fs::Permissions::from_mode(0o660))
        .with_context(|| format!("set the permissions of {}", path.display()))?;
    Ok(listener)
}

/// The API's paths.
pub fn router(engine: Engine) -> Router {
    Router::new()
        .route("/v1/status", get(async |State(e): State<Engine>| answer(status(&e).await)))
        .route("/v1/hosts", get(async |State(e): State<Engine>| answer(e.ask(Request::Hosts).await)))
        .route("/v1/sessions", get(async |State(e): State<Engine>| answer(e.ask(Request::Sessions).await)))
        .route("/v1/sources", get(async |State(e): State<Engine>| answer(e.ask(Request::Sources).await)))
        .with_state(engine)
}

async fn status(engine: &Engine) -> Option<Status> {
    let mut status = engine.ask(Request::Status).await?;
    status.unknown_sources = engine.ask(Request::Sources).await?;
    status.unknown_sources.truncate(SOURCES_IN_STATUS);
    Some(status)
}

fn answer<T: Serialize>(answer: Option<T>) -> axum::response::Response {
    match answer {
        Some(answer) => Json(answer).into_response(),
        None => (StatusCode::SERVICE_UNAVAILABLE, "wgrelay is stopping").into_response(),
    }
}

/// Asks a running wgrelay.
pub async fn fetch<T: DeserializeOwned>(socket: &Path, path: &str) -> Result<T> {
    let stream = UnixStream::connect(socket).await.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => anyhow::anyhow!(
            "no wgrelay answers at {}: start one (`wgrelay run --config FILE`) or give its socket with --socket",
            socket.display()
        ),
        io::ErrorKind::PermissionDenied => {
            anyhow::anyhow!("{} may not be opened: try as root", socket.display())
        }
        _ => anyhow::Error::new(error).context(format!("connect to {}", socket.display())),
    })?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.context("talk to wgrelay")?;
    let driver = tokio::spawn(connection);
    let request = hyper::Request::get(path).header("host", "wgrelay").body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await.with_context(|| format!("ask wgrelay for {path}"))?;
    let status = response.status();
    let body = response.into_body().collect().await.context("read wgrelay's answer")?.to_bytes();
    driver.abort();
    if !status.is_success() {
        bail!("wgrelay answered {status}: {}", String::from_utf8_lossy(&body));
    }
    serde_json::from_slice(&body).context("understand wgrelay's answer: is it of another version?")
}
