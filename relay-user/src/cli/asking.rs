//! Asking the API, and printing what it answers.

use std::{fmt::Write as _, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result};
use clap::Args;
use relay_user::{
    api::shape::{Consequence, DryRun},
    client::{Client, Place},
    config,
};
use reqwest::{Method, StatusCode, header::IF_MATCH};
use serde::{Serialize, de::DeserializeOwned};

/// Where to ask, and how to print the answer.
#[derive(Args)]
pub(crate) struct Asking {
    /// Print JSON, as the API answers it.
    #[arg(long, global = true)]
    json: bool,
    /// The socket of the wgrelay on this host.
    #[arg(
        long,
        global = true,
        value_name = "PATH",
        conflicts_with = "api",
        default_value_os_t = config::default_socket()
    )]
    socket: PathBuf,
    /// Ask another host's wgrelay, at this URL. WGRELAY_TOKEN holds the token, or --token-file.
    #[arg(long, global = true, value_name = "URL", env = "WGRELAY_API")]
    api: Option<String>,
    /// A file with the token for --api, ID.SECRET.
    #[arg(long, global = true, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// The certificates to trust for --api instead of the system's, PEM.
    #[arg(long, global = true, value_name = "FILE", env = "WGRELAY_CA_FILE")]
    ca_file: Option<PathBuf>,
}

/// How to change something.
#[derive(Args)]
pub(crate) struct Changing {
    /// Only tell what the change would bring with it.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Only if it was not changed since: the `revision` that `show` told.
    #[arg(long, value_name = "N")]
    if_revision: Option<u64>,
}

/// How to make something.
#[derive(Args)]
pub(crate) struct Making {
    /// Only tell what it would bring with it.
    #[arg(long)]
    dry_run: bool,
}

impl From<Making> for Changing {
    fn from(Making { dry_run }: Making) -> Self {
        Self { dry_run, if_revision: None }
    }
}

/// No body.
pub(crate) const NOTHING: Option<&()> = None;

impl Asking {
    /// The client for the place that was told. The socket is asked only if no URL is given.
    pub(crate) fn client(&self) -> Result<Client> {
        let place = match &self.api {
            None => Place::Socket(self.socket.clone()),
            Some(url) => Place::Url { url: url.clone(), token: self.token()?, ca_file: self.ca_file.clone() },
        };
        Ok(Client::new(place)?)
    }

    fn token(&self) -> Result<Option<String>> {
        match &self.token_file {
            Some(path) => {
                let text =
                    std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
                Ok(Some(text.trim().to_owned()))
            }
            None => Ok(std::env::var("WGRELAY_TOKEN").ok()),
        }
    }

    /// Shows what is at a path.
    pub(crate) async fn show<T>(&self, path: &str, text: impl Fn(&T) -> String) -> Result<()>
    where
        T: Serialize + DeserializeOwned,
    {
        let answer: T = self.client()?.get(path).await?;
        self.print(&answer, text)
    }

    /// Makes a change, and shows what has become of the record, or what the change would bring with it.
    pub(crate) async fn change<T>(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
        changing: &Changing,
        text: impl Fn(&T) -> String,
    ) -> Result<()>
    where
        T: Serialize + DeserializeOwned,
    {
        let client = self.client()?;
        let path = match (changing.dry_run, path.contains('?')) {
            (false, _) => path.to_owned(),
            (true, false) => format!("{path}?dry_run=true"),
            (true, true) => format!("{path}&dry_run=true"),
        };
        let mut request = client.request(method, &path)?;
        if let Some(revision) = changing.if_revision {
            request = request.header(IF_MATCH, format!("\"{revision}\""));
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = client.send(request).await?;
        if changing.dry_run {
            return self
                .print(&client.read::<DryRun>(response).await?, |dry| consequences(&dry.consequences));
        }
        if response.status() == StatusCode::NO_CONTENT {
            return Ok(());
        }
        self.print(&client.read::<T>(response).await?, text)
    }

    /// Deletes what is at a path.
    pub(crate) async fn delete(&self, path: &str, changing: &Changing) -> Result<()> {
        self.change::<()>(Method::DELETE, path, NOTHING, changing, |()| String::new()).await
    }

    pub(crate) fn print<T: Serialize>(&self, answer: &T, text: impl Fn(&T) -> String) -> Result<()> {
        if self.json {
            println!("{}", serde_json::to_string_pretty(answer)?);
        } else {
            print!("{}", text(answer));
        }
        Ok(())
    }

    pub(crate) fn is_json(&self) -> bool {
        self.json
    }
}

/// What a change would bring with it, a line each.
pub(crate) fn consequences(all: &[Consequence]) -> String {
    if all.is_empty() {
        return "nothing else would change\n".to_owned();
    }
    let mut out = String::new();
    for one in all {
        match one {
            Consequence::Relayed { host, from: Some(from), to: Some(to) } => {
                writeln!(out, "{host} would be relayed by {to} instead of {from}")
            }
            Consequence::Relayed { host, from: Some(from), to: None } => {
                writeln!(out, "{host} would not be relayed any more (now by {from})")
            }
            Consequence::Relayed { host, to: Some(to), .. } => {
                writeln!(out, "{host} would be relayed by {to}")
            }
            Consequence::Relayed { host, .. } => writeln!(out, "{host} would change"),
            Consequence::Deleted { record } => writeln!(out, "{record} would be deleted"),
            Consequence::Changed { record } => writeln!(out, "{record} would change"),
        }
        .expect("a String takes it");
    }
    out
}

/// A record, a line for each property.
pub(crate) fn properties<const N: usize>(lines: [(&str, String); N]) -> String {
    let mut out = String::new();
    for (name, value) in lines.into_iter().filter(|(_, value)| !value.is_empty()) {
        writeln!(out, "{name:<12}{value}").expect("a String takes it");
    }
    out
}

/// A list in one cell.
pub(crate) fn joined<T: ToString>(all: impl IntoIterator<Item = T>) -> String {
    all.into_iter().map(|one| one.to_string()).collect::<Vec<_>>().join(", ")
}

/// When something expires.
pub(crate) fn expiry(expires: Option<u64>) -> String {
    expires.map_or_else(
        || "never".to_owned(),
        |at| humantime::format_rfc3339_seconds(std::time::UNIX_EPOCH + Duration::from_secs(at)).to_string(),
    )
}

/// For how long something is to be good, as `30d`.
pub(crate) fn valid_seconds(text: &str) -> Result<u32, String> {
    let duration =
        humantime::parse_duration(text).map_err(|error| format!("{error}; give it as 12h or 30d"))?;
    u32::try_from(duration.as_secs())
        .ok()
        .filter(|&seconds| seconds > 0)
        .ok_or("from a second to 136 years".into())
}
