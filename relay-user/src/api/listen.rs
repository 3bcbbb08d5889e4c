//! Where the API listens: the unix socket, and TCP with or without TLS.

use std::{
    fs,
    net::SocketAddr,
    os::unix::{
        fs::{FileTypeExt as _, PermissionsExt as _},
        net::UnixStream as StdUnixStream,
    },
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use axum::Router;
use axum_server::Handle;
use hyper_util::rt::TokioTimer;
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;

use crate::{config::ApiConfig, tls::Certificate};

/// How long a client may take to send its headers.
const HEADERS: Duration = Duration::from_secs(10);
/// How long open connections may take to end.
const ENDING: Duration = Duration::from_secs(2);

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

/// A TCP port that is listened at.
pub struct Listener {
    listener: std::net::TcpListener,
    address: SocketAddr,
    tls: Option<Certificate>,
}

impl Listener {
    /// Opens the port and reads the certificate.
    pub async fn open(config: &ApiConfig) -> Result<Self> {
        let read = |(certificate, key)| Certificate::read(certificate, key, &[b"http/1.1"]);
        let tls = config.tls().map(read).transpose()?;
        let listen = || -> std::io::Result<_> {
            let listener = std::net::TcpListener::bind(config.listen)?;
            listener.set_nonblocking(true)?;
            Ok((listener.local_addr()?, listener))
        };
        let (address, listener) =
            listen().with_context(|| format!("listen at {} for the API", config.listen))?;
        Ok(Self { listener, address, tls })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop`. The certificate is read again on SIGHUP.
    pub async fn serve(self, router: Router, stop: CancellationToken) -> Result<()> {
        let Self { listener, tls, .. } = self;
        let handle = Handle::new();
        let ending = handle.clone();
        let stopped = stop.clone();
        tokio::spawn(async move {
            stopped.cancelled().await;
            ending.graceful_shutdown(Some(ENDING));
        });
        let service = router.into_make_service_with_connect_info::<SocketAddr>();
        match tls {
            None => {
                let mut server = axum_server::from_tcp(listener)?.handle(handle);
                server.http_builder().http1().timer(TokioTimer::new()).header_read_timeout(HEADERS);
                server.serve(service).await
            }
            Some(tls) => {
                let mut server = axum_server::from_tcp_rustls(listener, tls.config())?.handle(handle);
                server.http_builder().http1().timer(TokioTimer::new()).header_read_timeout(HEADERS);
                tokio::select! {
                    ended = server.serve(service) => ended,
                    Err(error) = tls.follow("the API") => return Err(error),
                }
            }
        }
        .context("serve the API")
    }
}
