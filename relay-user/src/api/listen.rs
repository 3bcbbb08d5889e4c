//! Where the API listens: the unix socket, and TCP with or without TLS.

use std::{
    fs,
    net::SocketAddr,
    os::unix::{
        fs::{FileTypeExt as _, PermissionsExt as _},
        net::UnixStream as StdUnixStream,
    },
    path::Path,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use axum::Router;
use axum_server::{Handle, tls_rustls::RustlsConfig};
use hyper_util::rt::TokioTimer;
use tokio::{
    net::UnixListener,
    signal::unix::{SignalKind, signal},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::config::ApiConfig;

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
    tls: Option<Tls>,
}

struct Tls {
    config: RustlsConfig,
    files: ApiConfig,
}

impl Listener {
    /// Opens the port and reads the certificate.
    pub async fn open(config: &ApiConfig) -> Result<Self> {
        let tls = match config.tls() {
            Some((certificate, key)) => Some(Tls {
                config: RustlsConfig::from_config(server_config(certificate, key)?),
                files: config.clone(),
            }),
            None => None,
        };
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
                let mut server = axum_server::from_tcp_rustls(listener, tls.config.clone())?.handle(handle);
                server.http_builder().http1().timer(TokioTimer::new()).header_read_timeout(HEADERS);
                tokio::select! {
                    ended = server.serve(service) => ended,
                    Err(error) = tls.follow() => return Err(error),
                }
            }
        }
        .context("serve the API")
    }
}

impl Tls {
    /// Reads the certificate again on SIGHUP.
    async fn follow(&self) -> Result<()> {
        let mut hangup = signal(SignalKind::hangup()).context("listen for SIGHUP")?;
        while hangup.recv().await.is_some() {
            let Some((certificate, key)) = self.files.tls() else { continue };
            match server_config(certificate, key) {
                Ok(config) => {
                    self.config.reload_from_config(config);
                    info!("the API's certificate was read again");
                }
                Err(error) => error!("{error:#}; the API goes on with the certificate that it has"),
            }
        }
        Ok(())
    }
}

fn server_config(certificate: &Path, key: &Path) -> Result<Arc<rustls::ServerConfig>> {
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
    let read = |path: &Path| format!("read {}", path.display());
    let certificates = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .with_context(|| read(certificate))?;
    if certificates.is_empty() {
        bail!("{} holds no certificate: give a PEM file", certificate.display());
    }
    let key_der = PrivateKeyDer::from_pem_file(key).with_context(|| read(key))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .context("choose TLS versions")?
        .with_no_client_auth()
        .with_single_cert(certificates, key_der)
        .with_context(|| format!("use {} with the key {}", certificate.display(), key.display()))?;
    let mut config = config;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
