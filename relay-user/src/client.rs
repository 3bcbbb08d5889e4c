//! The API's client: HTTP with JSON, over the unix socket of this host or to a URL.
//!
//! The command line and joining hosts use it. Every error says what to do about it; those of the API itself come as
//! the [`Problem`]s that they are, so that callers can go by their codes.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::Once,
    time::Duration,
};

use reqwest::{
    Certificate, Method, RequestBuilder, Response, StatusCode, Url,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue},
    redirect::Policy,
};
use serde::{Serialize, de::DeserializeOwned};

use crate::api::problem::{self, Problem};

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(10);
/// How often it is seen whether the other side of an idle connection is still there.
const KEEPALIVE: Duration = Duration::from_secs(3);
/// After so long without any sign of it, it is taken to be gone. Over this option the kernel heeds no number of tries.
const GONE: Duration = Duration::from_secs(8);
/// How long an answer may take, unless the request says otherwise.
const ANSWER: Duration = Duration::from_secs(60);

/// Where the API is, and as whom to ask.
#[derive(Clone)]
pub enum Place {
    /// At the unix socket of a wgrelay on this host. The socket's permissions say who may.
    Socket(PathBuf),
    /// At a URL.
    Url {
        /// `https://HOST:PORT`; `http:` only on this host, since it would show all secrets.
        url: String,
        /// The token, or an owner's secret, as `ID.SECRET`.
        token: Option<String>,
        /// A PEM file with the certificates to trust instead of the system's.
        ca_file: Option<PathBuf>,
    },
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(path) => path.display().fmt(f),
            Self::Url { url, .. } => f.write_str(url),
        }
    }
}

/// Without the token.
impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Place({self})")
    }
}

/// Why there is no answer, or not the one that was asked for.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The place can't be asked at all.
    #[error("{0}")]
    BadPlace(String),
    /// Nobody listens at the socket.
    #[error(
        "no wgrelay answers at {}: start one (`wgrelay run` or `wgrelay serve`), give its socket with --socket, \
         or another host's with --api", .0.display()
    )]
    NotRunning(PathBuf),
    /// The socket may not be opened.
    #[error("{} may not be opened: try as root, or as a member of its group", .0.display())]
    NotAllowed(PathBuf),
    /// The host can't be reached, or is not the one that it should be.
    #[error("{url} can't be reached: {reason}{}", remedy(.reason))]
    Unreachable {
        /// The URL.
        url: String,
        /// Why.
        reason: String,
    },
    /// It did not answer in time.
    #[error("no answer from {0} in time: is it overloaded, or does a firewall drop packets?")]
    TimedOut(String),
    /// The connection ended before the answer.
    #[error("the connection to {place} broke off: {reason}; whether it was done is not known")]
    Broken {
        /// Where.
        place: String,
        /// Why.
        reason: String,
    },
    /// The API says what is wrong.
    #[error("{}{}", .0.detail, if .0.status == 401 { "; give a token with --token-file or in WGRELAY_TOKEN" } else { "" })]
    Problem(Problem),
    /// Something answers that is not wgrelay.
    #[error("{place} answers {status}, but not as wgrelay does: is the URL right?")]
    NotWgrelay {
        /// Where.
        place: String,
        /// What it answered.
        status: StatusCode,
    },
    /// An answer that is not of the expected shape.
    #[error("{place} gives an answer that can't be understood ({reason}): is it of another version?")]
    Garbled {
        /// Where.
        place: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl ClientError {
    /// The code of the API's problem, if it is one.
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Problem(problem) => Some(&problem.code),
            _ => None,
        }
    }

    /// Whether it may go well later though nothing is changed: the API is not there or busy at the moment.
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::BadPlace(_) | Self::NotAllowed(_) | Self::NotWgrelay { .. } | Self::Garbled { .. } => false,
            Self::NotRunning(_) | Self::Unreachable { .. } | Self::TimedOut(_) | Self::Broken { .. } => true,
            Self::Problem(problem) => problem.status == 429 || problem.status >= 500,
        }
    }
}

fn remedy(reason: &str) -> &'static str {
    if reason.contains("certificate") || reason.contains("UnknownIssuer") {
        "; if its certificate is signed by an authority of your own, give that with --ca-file"
    } else if reason.contains("refused") {
        "; is wgrelay running there, with a `listen` in [control.api]?"
    } else {
        ""
    }
}

/// A client of one API.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    base: Url,
    place: Place,
    authorization: Option<HeaderValue>,
}

impl Client {
    /// A client for the API at a place. Nothing is sent yet.
    pub fn new(place: Place) -> Result<Self, ClientError> {
        let builder = builder().timeout(ANSWER);
        let (builder, base, authorization) = match &place {
            Place::Socket(path) => {
                let base = Url::parse("http://wgrelay/").expect("it is a URL");
                (builder.no_proxy().tls_certs_only([]).unix_socket(path.clone()), base, None)
            }
            Place::Url { url, token, ca_file } => {
                let builder = match ca_file {
                    Some(path) => builder.tls_certs_only(certificates(path)?),
                    None => builder,
                };
                (builder, base(url)?, token.as_deref().map(bearer).transpose()?)
            }
        };
        let http = builder.build().map_err(|error| ClientError::BadPlace(innermost(&error)))?;
        Ok(Self { http, base, place, authorization })
    }

    /// A client for the socket of a wgrelay on this host.
    pub fn unix(socket: &Path) -> Result<Self, ClientError> {
        Self::new(Place::Socket(socket.to_owned()))
    }

    /// Where it asks.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// The same place, asked with another token or owner's secret (`ID.SECRET`).
    pub fn with_token(&self, token: &str) -> Result<Self, ClientError> {
        Ok(Self { authorization: Some(bearer(token)?), ..self.clone() })
    }

    /// Gets what is at a path, as `/v1/networks`.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.json(self.request(Method::GET, path)?).await
    }

    /// Posts a body.
    pub async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        self.json(self.request(Method::POST, path)?.json(body)).await
    }

    /// Puts a body.
    pub async fn put<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        self.json(self.request(Method::PUT, path)?.json(body)).await
    }

    /// Changes parts of what is at a path.
    pub async fn patch<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        self.json(self.request(Method::PATCH, path)?.json(body)).await
    }

    /// Deletes what is at a path.
    pub async fn delete(&self, path: &str) -> Result<(), ClientError> {
        self.send(self.request(Method::DELETE, path)?).await.map(drop)
    }

    /// A request to be completed, with headers or a time-out of its own, and [sent](Self::send).
    pub fn request(&self, method: Method, path: &str) -> Result<RequestBuilder, ClientError> {
        let url = self.base.join(path.trim_start_matches('/'));
        let url = url.map_err(|error| ClientError::BadPlace(format!("{path}: {error}")))?;
        let mut request = self.http.request(method, url);
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        Ok(request)
    }

    /// Sends a request. An answer that says that it failed is an error; "not modified" (304) is not.
    pub async fn send(&self, request: RequestBuilder) -> Result<Response, ClientError> {
        let response = request.send().await.map_err(|error| self.failed(&error))?;
        let status = response.status();
        if status.is_success() || status == StatusCode::NOT_MODIFIED {
            return Ok(response);
        }
        let is_problem = response.headers().get(CONTENT_TYPE).is_some_and(|t| t == problem::MEDIA_TYPE);
        let body = response.bytes().await.map_err(|error| self.failed(&error))?;
        match serde_json::from_slice(&body) {
            Ok(problem) if is_problem => Err(ClientError::Problem(problem)),
            _ => Err(ClientError::NotWgrelay { place: self.place.to_string(), status }),
        }
    }

    /// Sends a request whose answer is JSON.
    pub async fn json<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, ClientError> {
        let response = self.send(request.header(ACCEPT, "application/json")).await?;
        self.read(response).await
    }

    /// Reads the JSON of an answer.
    pub async fn read<T: DeserializeOwned>(&self, response: Response) -> Result<T, ClientError> {
        let body = response.bytes().await.map_err(|error| self.failed(&error))?;
        serde_json::from_slice(&body).map_err(|error| ClientError::Garbled {
            place: self.place.to_string(),
            reason: error.to_string(),
        })
    }

    fn failed(&self, error: &reqwest::Error) -> ClientError {
        let place = self.place.to_string();
        if error.is_timeout() {
            return ClientError::TimedOut(place);
        }
        let reason = innermost(error);
        if !error.is_connect() {
            return ClientError::Broken { place, reason };
        }
        match (&self.place, io_kind(error)) {
            (Place::Socket(path), Some(io::ErrorKind::PermissionDenied)) => {
                ClientError::NotAllowed(path.clone())
            }
            (Place::Socket(path), Some(io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)) => {
                ClientError::NotRunning(path.clone())
            }
            _ => ClientError::Unreachable { url: place, reason },
        }
    }
}

/// What all HTTP clients here have in common.
pub(crate) fn builder() -> reqwest::ClientBuilder {
    static PROVIDER: Once = Once::new();
    // An error means that another part of the process has chosen one already.
    PROVIDER.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
    // Whoever redirects us would get to see our credentials.
    let builder = reqwest::Client::builder().connect_timeout(CONNECT).redirect(Policy::none());
    // Some answers take long: a host that has vanished meanwhile is noticed.
    builder.tcp_keepalive(KEEPALIVE).tcp_keepalive_interval(KEEPALIVE).tcp_user_timeout(GONE)
}

/// The URL that paths are joined to.
pub(crate) fn base(url: &str) -> Result<Url, ClientError> {
    let bad = |why: &str| ClientError::BadPlace(format!("{url}: {why}"));
    let mut base = Url::parse(url).map_err(|error| bad(&format!("{error}; give it as https://HOST:PORT")))?;
    let this_host = match base.host_str() {
        Some("localhost") => true,
        Some(host) => host
            .trim_matches(['[', ']'])
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback()),
        None => return Err(bad("there is no host in it; give it as https://HOST:PORT")),
    };
    match base.scheme() {
        "https" => {}
        "http" if this_host => {}
        "http" => return Err(bad("http would show all secrets on the way: use https")),
        other => return Err(bad(&format!("{other} is not spoken here: use https"))),
    }
    if !base.username().is_empty() || base.password().is_some() {
        return Err(bad("no user and password in the URL: use a token"));
    }
    base.set_query(None);
    base.set_fragment(None);
    if !base.path().ends_with('/') {
        let path = format!("{}/", base.path());
        base.set_path(&path);
    }
    Ok(base)
}

fn bearer(token: &str) -> Result<HeaderValue, ClientError> {
    let mut value = HeaderValue::from_str(&format!("Bearer {}", token.trim()))
        .map_err(|_| ClientError::BadPlace("the token is not one: it looks like ID.SECRET".to_owned()))?;
    value.set_sensitive(true);
    Ok(value)
}

pub(crate) fn certificates(path: &Path) -> Result<Vec<Certificate>, ClientError> {
    let bad = |why: String| ClientError::BadPlace(format!("{}: {why}", path.display()));
    let pem = std::fs::read(path).map_err(|error| bad(error.to_string()))?;
    match Certificate::from_pem_bundle(&pem) {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        _ => Err(bad("there is no certificate in it: give a PEM file".to_owned())),
    }
}

/// The last cause of an error, which says what really happened.
pub(crate) fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    causes(error).last().map_or_else(|| error.to_string(), ToString::to_string)
}

fn io_kind(error: &reqwest::Error) -> Option<io::ErrorKind> {
    causes(error).filter_map(|cause| Some(cause.downcast_ref::<io::Error>()?.kind())).last()
}

fn causes<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    std::iter::successors(Some(error), |error| error.source())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(url: &str) -> Result<Client, ClientError> {
        Client::new(Place::Url { url: url.to_owned(), token: None, ca_file: None })
    }

    #[test]
    fn a_url_that_would_show_secrets_or_says_nothing_is_refused() {
        for (given, part) in [
            ("http://203.0.113.1:9587", "use https"),
            ("ftp://localhost", "ftp is not spoken"),
            ("relay-1", "https://HOST:PORT"),
            ("https://me:pw@relay-1", "use a token"),
        ] {
            let error = url(given).expect_err(given).to_string();
            assert!(error.contains(part), "{given}: {error}");
        }
        for good in ["http://127.0.0.1:9587", "http://[::1]:1", "http://localhost", "https://relay-1/wgrelay"]
        {
            url(good).unwrap_or_else(|error| panic!("{good}: {error}"));
        }
    }

    #[test]
    fn paths_stay_below_the_url() {
        let client = url("https://relay-1/behind/a/proxy").unwrap();
        let request = client.request(Method::GET, "/v1/networks").unwrap().build().unwrap();
        assert_eq!(request.url().as_str(), "https://relay-1/behind/a/proxy/v1/networks");
    }

    #[test]
    fn a_token_never_shows() {
        let client = url("https://relay-1").unwrap().with_token("id.verysecret").unwrap();
        assert!(!format!("{client:?}").contains("verysecret"));
        let request = client.request(Method::GET, "/v1/networks").unwrap();
        assert!(!format!("{request:?}").contains("verysecret"));
        assert!(url("https://relay-1").unwrap().with_token("a\nb").is_err());
    }

    #[tokio::test]
    async fn a_socket_without_a_wgrelay_is_told_with_the_remedy() {
        let client = Client::unix(Path::new("/nowhere/wgrelay.sock")).unwrap();
        let error = client.get::<serde_json::Value>("/v1/status").await.unwrap_err();
        assert!(matches!(error, ClientError::NotRunning(_)), "{error:?}");
        assert!(error.to_string().contains("wgrelay serve"), "{error}");
        assert!(error.is_temporary());
    }
}
