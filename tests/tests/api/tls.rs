//! The API over TLS.

use std::{fs, path::PathBuf};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use relay_user::client::{Client, ClientError, Place};
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};

use crate::{Server, soon};

/// An authority, and a certificate of it for the server.
struct Files {
    directory: tempfile::TempDir,
}

impl Files {
    fn new() -> Self {
        let this = Self { directory: tempfile::tempdir().unwrap() };
        this.renew();
        this
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Makes all anew.
    fn renew(&self) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        fs::write(self.path("ca.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
        let issuer = Issuer::new(params, key);
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
        fs::write(self.path("server.pem"), params.signed_by(&key, &issuer).unwrap().pem()).unwrap();
        fs::write(self.path("server.key"), key.serialize_pem()).unwrap();
    }
}

#[tokio::test]
async fn tls_is_spoken_with_a_certificate_that_can_be_renewed() {
    // From here on the signal does not end this process.
    let mut hangup = signal(SignalKind::hangup()).unwrap();
    let files = Files::new();
    let server = Server::with_files(Some([files.path("server.pem"), files.path("server.key")])).await;
    let token = server.token("read").await;
    let client = |ca_file: Option<PathBuf>| {
        let url = format!("https://{}", server.address);
        Client::new(Place::Url { url, token: Some(token.clone()), ca_file }).unwrap()
    };
    let ask = async |client: &Client| soon("answer", client.get::<Value>("/v1/networks")).await;
    ask(&client(Some(files.path("ca.pem")))).await.unwrap();
    let error = ask(&client(None)).await.unwrap_err();
    assert!(error.to_string().contains("--ca-file"), "{error}");
    assert!(matches!(error, ClientError::Unreachable { .. }), "{error:?}");

    fs::copy(files.path("ca.pem"), files.path("old-ca.pem")).unwrap();
    files.renew();
    ask(&client(Some(files.path("old-ca.pem")))).await.expect("the old one stays until it is told");
    rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::HUP).unwrap();
    hangup.recv().await;
    let renewed = async {
        // The server hears the same signal, not before us for sure.
        while ask(&client(Some(files.path("ca.pem")))).await.is_err() {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    soon("renewed certificate", renewed).await;
    // One that can't be read does no harm.
    fs::write(files.path("server.pem"), "nothing").unwrap();
    rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::HUP).unwrap();
    hangup.recv().await;
    ask(&client(Some(files.path("ca.pem")))).await.unwrap();

    // Who speaks plain HTTP gets nothing.
    let plain =
        Client::new(Place::Url { url: format!("http://{}", server.address), token: None, ca_file: None });
    let error = ask(&plain.unwrap()).await.unwrap_err();
    assert!(matches!(error, ClientError::Broken { .. } | ClientError::NotWgrelay { .. }), "{error:?}");
}

#[tokio::test]
async fn a_certificate_that_is_none_is_told() {
    use relay_user::{api::Listener, config::ApiConfig};
    let files = Files::new();
    let open = async |certificate: &str, key: &str| {
        let (listen, path) = ("127.0.0.1:0".parse().unwrap(), |name| Some(files.path(name)));
        let config = ApiConfig { listen, tls_cert_file: path(certificate), tls_key_file: path(key) };
        format!("{:#}", Listener::open(&config).await.err().expect("it can't be opened"))
    };
    assert!(open("none.pem", "server.key").await.contains("none.pem"));
    assert!(open("server.key", "server.key").await.contains("holds no certificate"));
    assert!(open("server.pem", "ca.pem").await.contains("ca.pem"));
    let other = KeyPair::generate().unwrap();
    fs::write(files.path("other.key"), other.serialize_pem()).unwrap();
    assert!(open("server.pem", "other.key").await.contains("other.key"));
}
