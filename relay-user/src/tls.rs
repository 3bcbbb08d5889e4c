//! A certificate and its key, as TLS servers here use them.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, Result, bail};
use axum_server::tls_rustls::RustlsConfig;
use rustls::ServerConfig;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info};

/// A certificate that is read again on SIGHUP, so that a new one needs no restart.
#[derive(Clone, Debug)]
pub struct Certificate {
    config: RustlsConfig,
    certificate: PathBuf,
    key: PathBuf,
    alpn: Vec<Vec<u8>>,
}

impl Certificate {
    /// Reads certificate and key, PEM both; `alpn` are the protocols that are offered (RFC 7301), if any.
    ///
    /// # Errors
    /// If they can't be read or do not belong together.
    pub fn read(certificate: &Path, key: &Path, alpn: &[&[u8]]) -> Result<Self> {
        let alpn: Vec<_> = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        let config = RustlsConfig::from_config(server_config(certificate, key, alpn.clone())?);
        Ok(Self { config, certificate: certificate.to_owned(), key: key.to_owned(), alpn })
    }

    /// What connections are accepted with; a later reading goes for it as well.
    pub fn config(&self) -> RustlsConfig {
        self.config.clone()
    }

    /// Reads it again on SIGHUP, for ever. `what` is who uses it.
    ///
    /// # Errors
    /// If the signal can't be listened for.
    pub async fn follow(&self, what: &str) -> Result<()> {
        let mut hangup = signal(SignalKind::hangup()).context("listen for SIGHUP")?;
        while hangup.recv().await.is_some() {
            match server_config(&self.certificate, &self.key, self.alpn.clone()) {
                Ok(config) => {
                    self.config.reload_from_config(config);
                    info!("the certificate of {what} was read again");
                }
                Err(error) => error!("{error:#}; {what} goes on with the certificate that it has"),
            }
        }
        Ok(())
    }
}

fn server_config(certificate: &Path, key: &Path, alpn: Vec<Vec<u8>>) -> Result<Arc<ServerConfig>> {
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
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .context("choose TLS versions")?
        .with_no_client_auth()
        .with_single_cert(certificates, key_der)
        .with_context(|| format!("use {} with the key {}", certificate.display(), key.display()))?;
    config.alpn_protocols = alpn;
    Ok(Arc::new(config))
}
