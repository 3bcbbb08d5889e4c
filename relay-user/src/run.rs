//! `wgrelay run`: starts all parts, and stops them in order.

use std::{future::Future, net::UdpSocket, path::Path, time::Duration};

use anyhow::{Context as _, Result, bail};
use aya::maps::{MapData, RingBuf};
use tokio::{
    net::{TcpListener, UnixListener},
    sync::{mpsc, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    api,
    config::{Config, Relay},
    control::{Opened, Source},
    engine::{Engine, Start},
    interface::Interface,
    keep::Keep,
    members::PublicKey,
    metrics,
    netlink::{Netlink, Subscription},
    preflight, privileges,
    program::{self, Claim},
    saved::Saved,
    service, turn,
};

/// How long open connections may take to end after `stop`.
pub(crate) const STOP_TIMEOUT: Duration = Duration::from_secs(3);

/// Runs the relay until `shutdown` completes. After that all that forwards goes on, if `keep` or the configuration says so;
/// else, and after a start that failed, nothing is left behind that was not there before.
pub async fn run(path: &Path, keep: bool, shutdown: impl Future<Output = ()>) -> Result<()> {
    let config = Config::read(path)?;
    let keep = Keep::new(keep, config.relay.keep);
    preflight::check()?;
    preflight::raise_open_files()?;
    let _claim = Claim::new(&config.relay.pin_dir)?;
    let api = api::listen(&config.relay.socket)?;
    let result = with_socket(path, config.clone(), &keep, api, shutdown).await;
    if let Err(error) = std::fs::remove_file(&config.relay.socket) {
        warn!("remove {}: {error}", config.relay.socket.display());
    }
    result
}

async fn with_socket(
    path: &Path,
    config: Config,
    keep: &Keep,
    api: UnixListener,
    shutdown: impl Future<Output = ()>,
) -> Result<()> {
    let metrics = match config.metrics.listen {
        Some(listen) => Some(
            TcpListener::bind(listen).await.with_context(|| format!("listen at {listen} for Prometheus"))?,
        ),
        None => None,
    };
    let (netlink, subscription) = Netlink::connect()?;
    // Before anything is made.
    for interface in &config.relay.attach {
        netlink.ifindex(interface).await?;
    }
    for &address in &config.relay.addresses {
        if UdpSocket::bind((address, 0)).is_err() {
            warn!(%address, "this host does not have that address: give the ones that its packets carry, before any NAT");
        }
    }
    let stop = CancellationToken::new();
    let _ended = stop.clone().drop_guard();
    let opened = Opened::open(&config, &stop).await?;
    let interface = Interface::open(&config.relay, &netlink).await?;
    let mut outside = Outside { netlink: netlink.clone(), subscription, api, metrics, turn: None };
    let source = opened.of_relay(path, &config, &interface).and_then(|source| {
        outside.turn = Turn::open(&config, &source)?;
        Ok(source)
    });
    let result = match source {
        Ok(source) => with_source(config, source, keep, &interface, outside, &stop, shutdown).await,
        Err(error) => Err(error),
    };
    match &result {
        _ if keep.leaves() => {
            info!("program, sessions and interface are kept for the next start: data goes on")
        }
        Ok(()) => interface.remove(&netlink).await,
        Err(_) => interface.undo(&netlink).await,
    }
    result
}

/// Whom the relay talks to.
struct Outside {
    netlink: Netlink,
    subscription: Subscription,
    api: UnixListener,
    metrics: Option<TcpListener>,
    /// The TURN server, if the XDP program knows of one.
    turn: Option<Turn>,
}

/// The TURN server before it is started.
struct Turn {
    place: turn::task::Place,
    wanted: turn::task::Wanted,
    api: Option<TurnApi>,
}

/// Netmaker's API for it, likewise.
struct TurnApi {
    config: turn::config::ApiConfig,
    password: String,
    listener: std::net::TcpListener,
    registry: turn::netmaker::Registry,
}

impl Turn {
    fn open(config: &Config, source: &Source) -> Result<Option<Self>> {
        let Some(turn) = &config.turn else { return Ok(None) };
        let addresses = config.relay.addresses.clone();
        // Now: later we may not have the right to such ports.
        let doors = turn.doors(&addresses)?;
        let place = turn::task::Place { addresses, port: turn.port, doors };
        let api = match &turn.api {
            Some(api) => {
                let listen = api.listen;
                let listener = std::net::TcpListener::bind(listen)
                    .with_context(|| format!("listen at {listen} for Netmaker's API for TURN"))?;
                listener.set_nonblocking(true)?;
                let registry = turn::netmaker::Registry::open(api.state_file.clone(), &turn.realm)?;
                // Read now: later we may not have the right to.
                Some(TurnApi { config: api.clone(), password: api.password()?, listener, registry })
            }
            None => None,
        };
        let hosts = match &api {
            Some(api) => api.registry.hosts(),
            None => watch::Sender::new(turn::netmaker::Hosts::new()).subscribe(),
        };
        let wanted = turn::task::Wanted { settings: source.turn()?, users: source.turn_users(), hosts };
        Ok(Some(Self { place, wanted, api }))
    }

    fn start(
        self,
        tasks: &mut JoinSet<Result<()>>,
        engine: &api::Engine,
        stop: &CancellationToken,
    ) -> Result<()> {
        tasks.spawn(turn::task::run(self.place, self.wanted, engine.clone(), stop.clone()));
        if let Some(TurnApi { config, password, listener, registry }) = self.api {
            let listener = TcpListener::from_std(listener)?;
            tasks.spawn(turn::netmaker::serve(config, password, listener, registry, stop.clone()));
        }
        Ok(())
    }
}

async fn with_source(
    config: Config,
    source: Source,
    keep: &Keep,
    interface: &Interface,
    outside: Outside,
    stop: &CancellationToken,
    shutdown: impl Future<Output = ()>,
) -> Result<()> {
    let change = source.desired();
    let relay = config.relay.clone();
    let saved = saved(&relay);
    let (loaded, program) = program::load(&config, &outside.netlink, saved.is_complete()).await?;
    let adopted = loaded.left.is_some() || loaded.replaces;
    let (proofs, proven) = mpsc::channel(1);
    let (interface, netlink) = (interface.clone(), outside.netlink.clone());
    let start = Start { config, loaded, interface, netlink, change, proofs, keep: keep.clone(), saved };
    let started = async {
        let (mut engine, events) = Engine::new(start, stop.clone()).await?;
        engine.attached(program.attach(relay.xdp_mode, &outside.netlink).await?).await;
        privileges::drop(|| program::can_use_pins(&relay.pin_dir))?;
        anyhow::Ok((engine, events))
    };
    let result = match started.await {
        Ok((engine, events)) => {
            keep.forwarding();
            serve(engine, events, source, proven, outside, stop, shutdown).await
        }
        // What an earlier run has left goes on without us, for the next try.
        Err(error) if adopted => return Err(error),
        Err(error) => Err(error),
    };
    if keep.leaves() {
        return result;
    }
    let unloaded = program::unload(&relay.pin_dir);
    result?;
    unloaded.map(|_| ())
}

/// What an earlier run has saved. It spares hosts some waiting, and the relay can do without.
fn saved(relay: &Relay) -> Saved {
    let file = Saved::file(&relay.state_dir, &relay.interface);
    Saved::read(&file).unwrap_or_else(|error| {
        warn!("{error:#}: it is not used, and replaced");
        Saved::default()
    })
}

/// Starts all tasks, waits for `shutdown` or for the first that fails, and ends the others.
async fn serve(
    mut engine: Engine,
    events: RingBuf<MapData>,
    source: Source,
    proven: mpsc::Receiver<Vec<PublicKey>>,
    outside: Outside,
    stop: &CancellationToken,
    shutdown: impl Future<Output = ()>,
) -> Result<()> {
    let Outside { mut subscription, api, metrics, turn, .. } = outside;
    let (requests, inbox) = mpsc::channel(64);
    let (news, news_inbox) = mpsc::channel(256);
    let ask = api::Engine::new(requests);
    let mut tasks = JoinSet::new();

    if let Some(turn) = turn {
        turn.start(&mut tasks, &ask, stop)?;
    }
    source.start(&mut tasks, api, &ask, proven, stop);
    let port = metrics.as_ref().and_then(|listener| listener.local_addr().ok());
    if let Some(listener) = metrics {
        let router = metrics::router(ask);
        let stopped = stop.clone().cancelled_owned();
        tasks.spawn(async move {
            axum::serve(listener, router).with_graceful_shutdown(stopped).await.context("serve the metrics")
        });
    }
    let stopped = stop.clone();
    tasks.spawn(async move {
        loop {
            tokio::select! {
                () = stopped.cancelled() => return Ok(()),
                told = subscription.next() => match told {
                    // Nobody is there to be told once the engine has ended.
                    Some(told) => _ = news.send(told).await,
                    None => bail!("the netlink connection has ended"),
                },
            }
        }
    });
    let stopped = stop.clone();
    tasks.spawn(async move { engine.run(events, news_inbox, inbox, stopped).await });

    service::ready();
    info!(metrics = port.map(|address| address.to_string()), "ready: forwarding");
    let failed = tokio::select! {
        () = shutdown => None,
        ended = tasks.join_next() => ended,
    };
    service::stopping();
    info!("stopping");
    stop.cancel();
    let mut result = failed.map_or(Ok(()), |ended| ended.context("a task panicked")?);
    // A client that keeps its connection open must not keep us.
    let all = async {
        while let Some(ended) = tasks.join_next().await {
            let ended = ended.context("a task panicked").and_then(|ended| ended);
            result = std::mem::replace(&mut result, Ok(())).and(ended);
        }
    };
    if tokio::time::timeout(STOP_TIMEOUT, all).await.is_err() {
        tasks.shutdown().await;
    }
    result
}
