//! A stand-in for a Netmaker server, and answers in the shapes of its versions.

use std::sync::{Arc, Mutex};

use axum::{
    Json, Router,
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse as _, Response},
    routing::{get, post, put},
};
use serde_json::{Value, json};

/// What the server has, and what it was asked.
#[derive(Default)]
pub(super) struct Inside {
    pub(super) hosts: Value,
    pub(super) nodes: Value,
    /// What it takes as a bearer token; logging in gives the present one.
    pub(super) token: String,
    pub(super) password: String,
    /// It answers everything with this error.
    pub(super) broken: Option<(u16, String)>,
    pub(super) logins: usize,
    pub(super) puts: Vec<Value>,
    /// It answers changed hosts with this status and does not change them.
    pub(super) put_answer: Option<u16>,
}

type Shared = Arc<Mutex<Inside>>;

/// A running server.
pub(super) struct Server {
    pub(super) inside: Shared,
    pub(super) url: String,
}

impl Server {
    pub(super) async fn start(version: Version) -> Self {
        let (hosts, nodes) = version.answers();
        let token = "t0ken".to_owned();
        let inside = Inside { hosts, nodes, token, password: "pa55".to_owned(), ..Inside::default() };
        let inside = Arc::new(Mutex::new(inside));
        let router = Router::new()
            .route("/api/hosts", get(hosts_route))
            .route("/api/nodes", get(nodes_route))
            .route("/api/nodes/{network}", get(network_route))
            .route("/api/hosts/{id}", put(put_route))
            .route("/api/users/adm/authenticate", post(login_route))
            .with_state(inside.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { inside, url }
    }

    pub(super) fn with<T>(&self, change: impl FnOnce(&mut Inside) -> T) -> T {
        change(&mut self.inside.lock().unwrap())
    }
}

fn error(status: u16, message: &str) -> Response {
    let status = StatusCode::from_u16(status).unwrap();
    (status, Json(json!({"Code": status.as_u16(), "Message": message, "Response": null}))).into_response()
}

/// Why somebody does not get what they ask for.
fn refusal(inside: &Inside, headers: &HeaderMap) -> Option<Response> {
    if let Some((status, message)) = &inside.broken {
        return Some(error(*status, message));
    }
    let shown = headers.get("authorization").and_then(|value| value.to_str().ok());
    let known = shown == Some(&format!("Bearer {}", inside.token));
    (!known).then(|| error(401, "W1R3: Unauthorized, Invalid Token Processed."))
}

async fn hosts_route(State(inside): State<Shared>, headers: HeaderMap) -> Response {
    let inside = inside.lock().unwrap();
    refusal(&inside, &headers).unwrap_or_else(|| Json(inside.hosts.clone()).into_response())
}

async fn nodes_route(State(inside): State<Shared>, headers: HeaderMap) -> Response {
    let inside = inside.lock().unwrap();
    refusal(&inside, &headers).unwrap_or_else(|| Json(inside.nodes.clone()).into_response())
}

async fn network_route(
    State(inside): State<Shared>,
    Path(network): Path<String>,
    headers: HeaderMap,
) -> Response {
    let inside = inside.lock().unwrap();
    let nodes = inside.nodes.as_array().cloned().unwrap_or_default();
    let of_network: Vec<Value> = nodes.into_iter().filter(|node| node["network"] == *network).collect();
    // Go prints an empty slice like this.
    let answer = if of_network.is_empty() { Value::Null } else { Value::Array(of_network) };
    refusal(&inside, &headers).unwrap_or_else(|| Json(answer).into_response())
}

async fn put_route(
    State(inside): State<Shared>,
    Path(id): Path<String>,
    headers: HeaderMap,
    Json(host): Json<Value>,
) -> Response {
    let mut inside = inside.lock().unwrap();
    if let Some(no) = refusal(&inside, &headers) {
        return no;
    }
    assert_eq!(host["id"], *id, "the host goes by the id in the body");
    inside.puts.push(host.clone());
    match inside.put_answer {
        Some(200) => {}
        Some(status) => return error(status, "refused here"),
        None => {
            let hosts = inside.hosts.as_array_mut().unwrap();
            *hosts.iter_mut().find(|known| known["id"] == *id).unwrap() = host.clone();
        }
    }
    Json(host).into_response()
}

async fn login_route(State(inside): State<Shared>, Json(given): Json<Value>) -> Response {
    let mut inside = inside.lock().unwrap();
    inside.logins += 1;
    if given["username"] != "ann" || given["password"] != *inside.password {
        return error(400, "incorrect credentials");
    }
    Json(json!({
        "Code": 200, "Message": "W1R3: Device ann Authorized",
        "Response": {"UserName": "ann", "AuthToken": inside.token},
    }))
    .into_response()
}

/// Whose shape answers have.
#[derive(Clone, Copy, Debug)]
pub(super) enum Version {
    V0_21,
    V0_30,
    V1_5,
}

impl Version {
    pub(super) const ALL: [Self; 3] = [Self::V0_21, Self::V0_30, Self::V1_5];

    /// Four hosts in all versions. `gateway` and `p` are public; `a` is behind a NAT in networks `mesh` and `lab`; `b` is
    /// behind a NAT, in `mesh` and relayed by `gateway` there.
    fn answers(self) -> (Value, Value) {
        let hosts = [
            ("h-gateway", "gateway", b'g', "203.0.113.1", 51821, 0),
            ("h-a", "a", b'a', "203.0.113.7", 51821, 40112),
            ("h-b", "b", b'b', "203.0.113.8", 51821, 40113),
            ("h-p", "p", b'p', "203.0.113.9", 51822, 0),
        ];
        let hosts = hosts.map(|(id, name, key, address, port, public_port)| {
            self.host(id, name, &key_of(key), address, port, public_port)
        });
        let nodes = [
            self.node("n-gateway", "h-gateway", "mesh", "10.10.0.1/16", ""),
            self.node("n-a", "h-a", "mesh", "10.10.0.2/16", ""),
            self.node("n-a2", "h-a", "lab", "10.20.0.2/16", ""),
            self.node("n-b", "h-b", "mesh", "10.10.0.3/16", "n-gateway"),
            self.node("n-p", "h-p", "mesh", "10.10.0.4/16", ""),
            self.node("n-gateway2", "h-gateway", "lab", "10.20.0.1/16", ""),
        ];
        (json!(hosts), json!(nodes))
    }

    fn host(self, id: &str, name: &str, key: &str, address: &str, port: u16, public_port: u16) -> Value {
        let mut host = json!({
            "id": id, "name": name, "os": "linux", "verbosity": 0, "firewallinuse": "nftables", "debug": false,
            "endpointip": address, "listenport": port, "isstatic": false, "publickey": key,
            "macaddress": "02:00:00:00:00:01", "interfaces": [{"name": "eth0", "addressString": "10.0.0.2/24"}],
            "nodes": ["n"], "mtu": 1420, "isdefault": false, "defaultinterface": "eth0", "internetgateway": "",
        });
        let more = match self {
            Self::V0_21 => json!({
                "version": "v0.21.0", "localrange": "", "locallistenport": 0, "proxy_listen_port": 0,
                "wg_public_listen_port": public_port, "proxy_enabled": false, "isrelayed": false, "relayed_by": "",
                "isrelay": false, "relay_hosts": null, "nat_type": "behind_nat",
            }),
            Self::V0_30 => json!({
                "version": "v0.30.0", "endpointipv6": "", "wg_public_listen_port": public_port,
                "isstaticport": false, "persistentkeepalive": 20, "autoupdate": true, "nat_type": "behind_nat",
            }),
            Self::V1_5 => json!({
                "version": "v1.5.1", "endpointipv6": null, "wg_public_listen_port": public_port,
                "isstaticport": false, "persistentkeepalive": 20, "autoupdate": true, "nat_type": null,
                "dns": "yes", "location": "52.5,13.4", "country_code": "DE", "enable_flow_logs": false,
                "posture_checks": {"severity": 0},
            }),
        };
        merge(&mut host, more);
        host
    }

    fn node(self, id: &str, host: &str, network: &str, address: &str, relayed_by: &str) -> Value {
        let relaying = id == "n-gateway";
        let mut node = json!({
            "id": id, "hostid": host, "network": network, "address": address, "address6": "", "localaddress": "",
            "allowedips": null, "networkrange": "10.10.0.0/16", "networkrange6": "", "isrelay": relaying,
            "isrelayed": !relayed_by.is_empty(), "relayedby": relayed_by,
            // Duplicates were seen.
            "relaynodes": if relaying { json!(["n-b", "n-b"]) } else { Value::Null },
            "lastmodified": 1_717_200_000, "lastcheckin": 1_717_200_000, "lastpeerupdate": 1_717_200_000,
            "expdatetime": 2_000_000_000, "server": "nm.example.com", "pendingdelete": false, "dnson": true,
        });
        let more = match self {
            Self::V0_21 => json!({"persistentkeepalive": 20, "internetgateway": "", "action": ""}),
            Self::V0_30 => json!({
                "connected": true, "is_static": false, "is_user_node": false, "status": "online", "tags": null,
                "failed_over_by": "00000000-0000-0000-0000-000000000000", "fail_over_peers": {},
            }),
            Self::V1_5 => json!({
                "connected": true, "is_static": false, "is_user_node": false, "is_gw": relaying,
                "static_node": {"clientid": ""}, "auto_relayed_peers": {}, "status": "online",
                "tags": {format!("{network}.{}", host.trim_start_matches("h-")): {}}, "posture_check_violations": null,
            }),
        };
        merge(&mut node, more);
        node
    }
}

fn merge(into: &mut Value, more: Value) {
    let Value::Object(more) = more else { panic!("an object") };
    into.as_object_mut().unwrap().extend(more);
}

/// The key of a host, as text.
pub(super) fn key_of(letter: u8) -> String {
    crate::members::PublicKey([letter; 32]).to_string()
}
