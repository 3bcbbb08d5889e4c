//! `wgrelay serve`: the control plane alone, its store and its API. It takes no privileges.

use std::{future::Future, path::Path};

use anyhow::{Context as _, Result};
use tokio::{net::UnixListener, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    api::{self, Access, Control, Listener},
    config::ServeConfig,
    control_plane::ControlPlane,
    run::STOP_TIMEOUT,
    service,
};

/// Serves the control plane until `shutdown` completes.
pub async fn serve(config: ServeConfig, shutdown: impl Future<Output = ()>) -> Result<()> {
    let socket = config.socket();
    let unix = api::listen(&socket)?;
    let result = with_socket(config, unix, &socket, shutdown).await;
    if let Err(error) = std::fs::remove_file(&socket) {
        warn!("remove {}: {error}", socket.display());
    }
    result
}

async fn with_socket(
    config: ServeConfig,
    unix: UnixListener,
    socket: &Path,
    shutdown: impl Future<Output = ()>,
) -> Result<()> {
    let tcp = match &config.control.api {
        Some(api) => Some(Listener::open(api).await?),
        None => None,
    };
    let stop = CancellationToken::new();
    let plane = ControlPlane::open(&config.control.store, stop.clone()).await?;
    let followers = plane.followers.clone();
    let control = Control { writer: plane.writer.clone(), alive: plane.alive(), own: None, followers };
    let listen = tcp.as_ref().map(Listener::address);
    let mut tasks = JoinSet::new();
    serve_on(&mut tasks, unix, tcp, None, Some(control), &stop);
    let failover = plane.fail_over(config.control.failover_seconds, stop.clone());
    tasks.spawn(async {
        failover.await;
        Ok(())
    });
    service::ready();
    info!(socket = %socket.display(), listen = listen.map(|address| address.to_string()), "ready: serving");
    let failed = tokio::select! {
        () = shutdown => None,
        ended = tasks.join_next() => ended,
    };
    service::stopping();
    info!("stopping");
    stop.cancel();
    let mut result = failed.map_or(Ok(()), |ended| ended.context("a task panicked")?);
    let all = async {
        while let Some(ended) = tasks.join_next().await {
            let ended = ended.context("a task panicked").and_then(|ended| ended);
            result = std::mem::replace(&mut result, Ok(())).and(ended);
        }
        plane.ended().await;
    };
    if tokio::time::timeout(STOP_TIMEOUT, all).await.is_err() {
        tasks.shutdown().await;
    }
    result
}

/// Starts serving the API: to whoever opens the socket, and over TCP to those with a credential.
pub fn serve_on(
    tasks: &mut JoinSet<Result<()>>,
    unix: UnixListener,
    tcp: Option<Listener>,
    engine: Option<api::Engine>,
    control: Option<Control>,
    stop: &CancellationToken,
) {
    let router = api::router(engine.clone(), control.clone(), Access::Everybody);
    let stopped = stop.clone().cancelled_owned();
    tasks.spawn(async move {
        axum::serve(unix, router).with_graceful_shutdown(stopped).await.context("serve the API")
    });
    if let Some(tcp) = tcp {
        tasks.spawn(tcp.serve(api::router(engine, control, Access::Credentials), stop.clone()));
    }
}
