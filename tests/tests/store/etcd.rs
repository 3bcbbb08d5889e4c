//! The store on etcd: real ones, on loopback ports, each with a directory of its own.

use std::{
    fs,
    net::{Ipv4Addr, TcpListener},
    path::PathBuf,
    time::Duration,
};

use etcd_client::{Client, Permission, PermissionType};
use relay_tests::command::{Process, program};
use relay_user::store::{Etcd, EtcdOptions, EtcdTls, Event, Revision, Store as _, StoreError, WriteError};
use rustix::process::Signal;

use super::{failing_over, member, network, next, put, soon, suite, until, writer};

/// An etcd that is stopped with this value. Its data stays as long as that.
struct Server {
    process: Option<Process>,
    directory: tempfile::TempDir,
    port: u16,
    quota: u64,
    tls: bool,
}

impl Server {
    async fn start() -> Self {
        Self::with_quota(64 << 20).await
    }

    async fn with_quota(quota: u64) -> Self {
        let directory = tempfile::Builder::new().prefix("wgr-etcd-").tempdir().unwrap();
        let mut this = Self { process: None, directory, port: free_port(), quota, tls: false };
        this.run().await;
        this
    }

    async fn run(&mut self) {
        let url = self.options().endpoints.remove(0);
        let peers = format!("http://127.0.0.1:{}", free_port());
        let data = self.directory.path().join("data");
        // It ends with this thread, however that ends.
        let mut command = program("setpriv");
        command.args(["--pdeathsig", "KILL", "etcd", "--name", "test", "--log-level", "warn"]);
        command.args(["--listen-client-urls", &url, "--advertise-client-urls", &url]);
        command.args(["--listen-peer-urls", &peers, "--initial-advertise-peer-urls", &peers]);
        command.args(["--initial-cluster", &format!("test={peers}"), "--data-dir"]).arg(data);
        command.args(["--quota-backend-bytes", &self.quota.to_string()]);
        if self.tls {
            for (option, file) in
                [("--cert-file", "server.pem"), ("--key-file", "server.key"), ("--trusted-ca-file", "ca.pem")]
            {
                command.arg(option).arg(self.file(file));
            }
            command.arg("--client-cert-auth");
        }
        let mut process = Process::start(&mut command, self.directory.path().join("log"));
        let ready = async {
            while let Err(StoreError::Unavailable(_)) = self.store().await.snapshot().await {
                assert!(process.ended().is_none(), "{}", process.printed());
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        soon("etcd", ready).await;
        self.process = Some(process);
    }

    fn stop(&mut self) {
        self.process.take().expect("it runs").stop(Signal::KILL);
    }

    fn options(&self) -> EtcdOptions {
        let (scheme, tls) = if self.tls {
            let (ca_file, own) = (self.file("ca.pem"), |name| Some(self.file(name)));
            let (certificate_file, key_file) = (own("client.pem"), own("client.key"));
            ("https", Some(EtcdTls { ca_file, certificate_file, key_file, server_name: None }))
        } else {
            ("http", None)
        };
        let endpoints = vec![format!("{scheme}://127.0.0.1:{}", self.port)];
        EtcdOptions { endpoints, tls, ..Default::default() }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    async fn store(&self) -> Etcd {
        Etcd::connect(&self.options()).await.unwrap()
    }

    async fn client(&self) -> Client {
        Client::connect(self.options().endpoints, None).await.unwrap()
    }

    async fn compact(&self, at: Revision) {
        self.client().await.compact(at.0 as i64, None).await.unwrap();
    }
}

fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

#[tokio::test]
async fn hosts_that_follow_move_away_from_a_relay_that_is_gone() {
    let server = Server::start().await;
    failing_over::followers_move_and_others_stay(server.store().await, server.store().await).await;
}

#[tokio::test]
async fn is_a_store() {
    let server = Server::start().await;
    suite::run(server.store().await).await;
    // Another prefix is another store.
    let other = EtcdOptions { prefix: Some("/elsewhere/".into()), ..server.options() };
    suite::run(Etcd::connect(&other).await.unwrap()).await;
}

#[tokio::test]
async fn a_compacted_history_has_to_be_read_anew() {
    let server = Server::start().await;
    let store = server.store().await;
    let mut revisions = vec![Revision(0)];
    for value in ["1", "2", "3"] {
        revisions.push(store.commit(*revisions.last().unwrap(), vec![put("a", value)]).await.unwrap());
    }
    server.compact(revisions[3]).await;
    assert_eq!(next(&mut store.watch(revisions[1])).await, Event::Resync);
    // Who was there already goes on.
    let mut events = store.watch(revisions[3]);
    let last = store.commit(revisions[3], vec![put("a", "4")]).await.unwrap();
    assert_eq!(next(&mut events).await, Event::Changed(last, vec![put("a", "4")].into()));
}

#[tokio::test]
async fn a_writer_outlives_etcd_and_a_compaction_behind_its_back() {
    let mut server = Server::start().await;
    let (one, _one) = writer(server.store().await).await;
    one.write(network("net")).await.unwrap();
    one.write(member("before", 1)).await.unwrap();
    server.stop();
    let mut trouble = one.trouble();
    soon("trouble", trouble.wait_for(Option::is_some)).await.unwrap();
    let refused = soon("answer", one.write(member("lost", 2))).await;
    assert!(matches!(refused, Err(WriteError::Store(StoreError::Unavailable(_)))), "{refused:?}");
    assert!(one.state().member("before").is_some(), "the last good state stays");

    // Meanwhile, where the writer can't see it, another changes things, and the history is compacted.
    let home = std::mem::replace(&mut server.port, free_port());
    server.run().await;
    let (two, two_guard) = writer(server.store().await).await;
    let done = two.write(member("meanwhile", 3)).await.unwrap();
    server.compact(done.state.revision()).await;
    drop((two, two_guard));
    server.stop();
    server.port = home;
    server.run().await;

    until(&one, "news", |state| state.member("meanwhile").is_some()).await;
    soon("end of trouble", trouble.wait_for(Option::is_none)).await.unwrap();
    one.write(member("after", 4)).await.unwrap();
    assert_eq!(server.store().await.snapshot().await.unwrap().revision, one.state().revision());
}

#[tokio::test]
async fn an_etcd_that_is_down_is_told() {
    let options =
        EtcdOptions { endpoints: vec![format!("http://127.0.0.1:{}", free_port())], ..Default::default() };
    let store = Etcd::connect(&options).await.unwrap();
    let error = soon("answer", store.snapshot()).await.unwrap_err();
    assert!(matches!(&error, StoreError::Unavailable(why) if why.contains("refused")), "{error}");
    let error = soon("answer", store.commit(Revision(0), vec![put("a", "")])).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
    assert!(matches!(next(&mut store.watch(Revision(0))).await, Event::Unavailable(_)));
}

#[tokio::test]
async fn leases_run_out_with_their_holder() {
    let server = Server::start().await;
    let mut alive = server.store().await.alive();
    let holder = tokio::spawn(server.store().await.announce(
        "r1".into(),
        Duration::from_secs(2),
        tokio_util::sync::CancellationToken::new(),
    ));
    soon("life", alive.wait_for(|alive| alive.contains("r1"))).await.unwrap();
    // It is kept for longer than the lease.
    let gone = tokio::time::timeout(Duration::from_secs(5), alive.wait_for(|alive| alive.is_empty()));
    assert!(gone.await.is_err(), "the lease is renewed");
    // As if its process were killed: nothing is given back.
    holder.abort();
    soon("end of the lease", alive.wait_for(|alive| alive.is_empty())).await.unwrap();
}

#[tokio::test]
async fn who_may_not_is_refused() {
    let server = Server::start().await;
    let mut admin = server.client().await;
    admin.user_add("root", "secret", None).await.unwrap();
    admin.user_grant_role("root", "root").await.unwrap();
    admin.role_add("wgrelay").await.unwrap();
    let all = Permission::new(PermissionType::Readwrite, "/wgrelay/").with_prefix();
    admin.role_grant_permission("wgrelay", all).await.unwrap();
    admin.user_add("wgrelay", "password", None).await.unwrap();
    admin.user_grant_role("wgrelay", "wgrelay").await.unwrap();
    admin.auth_enable().await.unwrap();

    let nobody = server.store().await;
    let denied = |error| assert!(matches!(error, StoreError::Denied(_)), "{error}");
    denied(nobody.snapshot().await.unwrap_err());
    denied(nobody.commit(Revision(0), vec![put("a", "")]).await.unwrap_err());
    let file = server.file("password");
    let user =
        EtcdOptions { user: Some("wgrelay".into()), password_file: Some(file.clone()), ..server.options() };
    denied(Etcd::connect(&user).await.err().expect("there is no password"));
    fs::write(&file, "wrong\n").unwrap();
    denied(Etcd::connect(&user).await.err().expect("the password is wrong"));
    fs::write(&file, "password\n").unwrap();
    suite::run(Etcd::connect(&user).await.unwrap()).await;
    let elsewhere = EtcdOptions { prefix: Some("/other".into()), ..user };
    denied(Etcd::connect(&elsewhere).await.unwrap().snapshot().await.unwrap_err());
}

#[tokio::test]
async fn an_etcd_without_space_is_told_and_nothing_is_lost() {
    let server = Server::with_quota(1 << 20).await;
    let store = server.store().await;
    let (mut revision, mut commits) = (Revision(0), 0);
    let value = "v".repeat(100_000);
    let error = loop {
        match store.commit(revision, vec![put(&format!("k/{commits}"), &value)]).await {
            Ok(next) => revision = next,
            Err(error) => break error,
        }
        commits += 1;
        assert!(commits < 100, "1 MiB never gets full");
    };
    assert!(matches!(error, StoreError::Full(_)), "{error}");
    let snapshot = store.snapshot().await.unwrap();
    assert_eq!((snapshot.revision, snapshot.entries.len()), (revision, commits));
    let large = store.commit(revision, vec![put("large", &"v".repeat(3 << 20))]).await.unwrap_err();
    assert!(matches!(large, StoreError::TooLarge(_) | StoreError::Full(_)), "{large}");
}

#[tokio::test]
async fn talks_tls_and_shows_its_certificate() {
    let mut server = Server::start().await;
    server.stop();
    certificates(&server);
    server.tls = true;
    server.run().await;
    suite::run(server.store().await).await;

    let tls = server.options().tls.unwrap();
    let with = |tls| EtcdOptions { tls: Some(tls), ..server.options() };
    let anonymous = EtcdTls { certificate_file: None, key_file: None, ..tls.clone() };
    let stranger = EtcdTls { ca_file: server.file("client.pem"), ..tls.clone() };
    let error = Etcd::connect(&with(stranger)).await.unwrap().snapshot().await.unwrap_err();
    assert!(error.to_string().contains("certificate"), "{error}");
    // Of a missing certificate TLS 1.3 says nothing but to close the connection.
    let error = Etcd::connect(&with(anonymous)).await.unwrap().snapshot().await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
    let missing = EtcdTls { ca_file: server.file("none.pem"), ..tls };
    let error = Etcd::connect(&with(missing)).await.err().expect("there is no such file");
    assert!(error.to_string().contains("none.pem"), "{error}");
}

/// Certificates for a server and a client, and the authority that they are signed by.
fn certificates(server: &Server) {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    let mut authority = CertificateParams::new([]).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority_key = KeyPair::generate().unwrap();
    fs::write(server.file("ca.pem"), authority.self_signed(&authority_key).unwrap().pem()).unwrap();
    let issuer = Issuer::new(authority, authority_key);
    for name in ["server", "client"] {
        let key = KeyPair::generate().unwrap();
        let parameters = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
        let certificate = parameters.signed_by(&key, &issuer).unwrap();
        fs::write(server.file(&format!("{name}.pem")), certificate.pem()).unwrap();
        fs::write(server.file(&format!("{name}.key")), key.serialize_pem()).unwrap();
    }
}
