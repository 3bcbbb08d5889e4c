//! Talking to a Netmaker server.

use std::{path::PathBuf, sync::Mutex, time::Duration};

use anyhow::{Context as _, Result};
use reqwest::{
    Method, StatusCode, Url,
    header::{AUTHORIZATION, HeaderValue},
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Credentials, Options, answers};
use crate::client;

/// How long the server may take for an answer.
const TIMEOUT: Duration = Duration::from_secs(30);
/// How many bytes an answer may have: some 100,000 hosts.
const ANSWER_BYTES: usize = 256 << 20;
/// How many characters of a server's own words are passed on.
const WORDS: usize = 200;

/// Why the server did not do what it should.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetmakerError {
    /// It can't be reached, or broke off.
    #[error("the Netmaker server can't be reached: {0}")]
    Unreachable(String),
    /// It does not let us in.
    #[error("the Netmaker server refuses access ({0}): check the {1}")]
    Denied(String, &'static str),
    /// It answers with an error.
    #[error("the Netmaker server answers {path} with {status}: {message}")]
    Refused {
        /// What it was asked for.
        path: String,
        /// The status.
        status: u16,
        /// What it says.
        message: String,
    },
    /// Its answer is no answer.
    #[error("the Netmaker server's answer to {0} can't be read: {1}; is the URL that of its API?")]
    Unreadable(String, String),
    /// Its answer has nothing in it.
    #[error("the Netmaker server names no {0}; if that is so, restart wgrelay without its state file")]
    Empty(&'static str),
    /// A file with a secret can't be read.
    #[error("{0}")]
    Secret(String),
}

impl NetmakerError {
    /// Whether the server has decided, so that asking again would not help.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Refused { status: 400..=499, .. } | Self::Denied(..))
    }
}

/// A connection to the server's API.
pub struct Server {
    http: reqwest::Client,
    url: Url,
    credentials: Credentials,
    /// What is shown to the server, until it does not take it any more.
    bearer: Mutex<Option<HeaderValue>>,
}

/// All hosts and nodes, as the server has them.
pub struct Fetched {
    /// The hosts.
    pub hosts: Vec<Value>,
    /// The nodes of each network, or of all that are shown to us under "".
    pub nodes: Vec<(String, Vec<Value>)>,
}

impl Server {
    /// Asks by these options, which have been checked.
    pub fn new(options: &Options) -> Result<Self> {
        let mut http = client::builder().timeout(TIMEOUT);
        if let Some(file) = &options.ca_file {
            http = http.tls_certs_only(client::certificates(file)?);
        }
        let http = http.build().context("make an HTTP client")?;
        Ok(Self {
            http,
            url: options.url.clone(),
            credentials: options.credentials().clone(),
            bearer: Mutex::default(),
        })
    }

    /// Asks for hosts and nodes.
    pub async fn fetch(&self, networks: &[String]) -> Result<Fetched, NetmakerError> {
        let hosts = self.list(&["api", "hosts"]).await?;
        let mut nodes = Vec::new();
        if networks.is_empty() {
            nodes.push((String::new(), self.list(&["api", "nodes"]).await?));
        }
        for network in networks {
            nodes.push((network.clone(), self.list(&["api", "nodes", network]).await?));
        }
        Ok(Fetched { hosts, nodes })
    }

    /// Has a host changed. The server takes it as a whole.
    pub async fn put_host(&self, id: &str, host: &Value) -> Result<(), NetmakerError> {
        self.ask(Method::PUT, &["api", "hosts", id], Some(host)).await.map(drop)
    }

    async fn list(&self, path: &[&str]) -> Result<Vec<Value>, NetmakerError> {
        let answer = self.ask(Method::GET, path, None).await?;
        answers::list(answer)
            .ok_or_else(|| NetmakerError::Unreadable(path.join("/"), "it is no list".to_owned()))
    }

    async fn ask(&self, method: Method, path: &[&str], body: Option<&Value>) -> Result<Value, NetmakerError> {
        let known = self.bearer.lock().expect("nobody panics with it").clone();
        if let Some(bearer) = known {
            let answer = self.send(method.clone(), path, body, Some(bearer)).await?;
            if answer.0 != StatusCode::UNAUTHORIZED {
                return understood(path, answer);
            }
            // It has expired, or the file has another by now.
        }
        let bearer = self.log_in().await?;
        let answer = self.send(method, path, body, Some(bearer.clone())).await?;
        if matches!(answer.0, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            *self.bearer.lock().expect("nobody panics with it") = None;
            return Err(NetmakerError::Denied(told(&answer.1), self.credentials.what()));
        }
        *self.bearer.lock().expect("nobody panics with it") = Some(bearer);
        understood(path, answer)
    }

    /// What to show to the server.
    async fn log_in(&self) -> Result<HeaderValue, NetmakerError> {
        let secret = match &self.credentials {
            Credentials::Token(file) | Credentials::MasterKey(file) => read_secret(file)?,
            Credentials::User { name, password_file } => {
                let path = ["api", "users", "adm", "authenticate"];
                let body = json!({"username": name, "password": read_secret(password_file)?});
                let answer = self.send(Method::POST, &path, Some(&body), None).await?;
                if answer.0.is_client_error() {
                    return Err(NetmakerError::Denied(told(&answer.1), self.credentials.what()));
                }
                let answer: Login = serde_json::from_value(understood(&path, answer)?)
                    .map_err(|error| NetmakerError::Unreadable(path.join("/"), error.to_string()))?;
                answer.response.token
            }
        };
        let mut bearer = HeaderValue::try_from(format!("Bearer {secret}")).map_err(|_| {
            NetmakerError::Secret(format!("the {} has odd characters", self.credentials.what()))
        })?;
        bearer.set_sensitive(true);
        Ok(bearer)
    }

    async fn send(
        &self,
        method: Method,
        path: &[&str],
        body: Option<&Value>,
        bearer: Option<HeaderValue>,
    ) -> Result<(StatusCode, Vec<u8>), NetmakerError> {
        let mut url = self.url.clone();
        url.path_segments_mut().expect("the URL was checked").pop_if_empty().extend(path);
        let mut request = self.http.request(method, url);
        if let Some(bearer) = bearer {
            request = request.header(AUTHORIZATION, bearer);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let broken = |error: reqwest::Error| NetmakerError::Unreachable(client::innermost(&error));
        let mut response = request.send().await.map_err(broken)?;
        let (status, mut bytes) = (response.status(), Vec::new());
        while let Some(chunk) = response.chunk().await.map_err(broken)? {
            if bytes.len() + chunk.len() > ANSWER_BYTES {
                let why = format!("it has more than {ANSWER_BYTES} bytes");
                return Err(NetmakerError::Unreadable(path.join("/"), why));
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok((status, bytes))
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Login {
    response: LoggedIn,
}

#[derive(Deserialize)]
struct LoggedIn {
    #[serde(rename = "AuthToken")]
    token: String,
}

fn understood(path: &[&str], (status, bytes): (StatusCode, Vec<u8>)) -> Result<Value, NetmakerError> {
    let path = path.join("/");
    if !status.is_success() {
        let message = if status.is_redirection() {
            "it sends us elsewhere: give the URL that it sends to".to_owned()
        } else {
            told(&bytes)
        };
        return Err(NetmakerError::Refused { path, status: status.as_u16(), message });
    }
    serde_json::from_slice(&bytes).map_err(|error| NetmakerError::Unreadable(path, error.to_string()))
}

/// What the server says about an error, in words for people.
fn told(bytes: &[u8]) -> String {
    let answer: Value = serde_json::from_slice(bytes).unwrap_or_default();
    let words = answer.get("Message").and_then(Value::as_str).unwrap_or("it does not say why");
    words.chars().filter(|c| !c.is_control()).take(WORDS).collect()
}

fn read_secret(file: &PathBuf) -> Result<String, NetmakerError> {
    let text = std::fs::read_to_string(file)
        .map_err(|error| NetmakerError::Secret(format!("read {}: {error}", file.display())))?;
    Ok(text.trim().to_owned())
}
