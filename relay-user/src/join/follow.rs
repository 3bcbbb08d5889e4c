//! Following the configuration at the control plane.

use std::time::Duration;

use anyhow::{Context as _, Result};
use reqwest::{
    Method, StatusCode,
    header::{ETAG, HeaderValue, IF_NONE_MATCH},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{Device, Member};
use crate::{
    api::shape::Configuration,
    client::{Client, ClientError},
};

/// For how many seconds the control plane may wait for a change. The interface is looked at as often.
const WAIT: u64 = 50;
/// How much later its answer may come.
const LATE: Duration = Duration::from_secs(15);
/// How long to wait after a failure, in milliseconds: so long at first, and at most so long.
const PAUSES: (u64, u64) = (500, 30_000);

/// The configuration that was last heard of.
struct Heard {
    configuration: Configuration,
    tag: HeaderValue,
}

/// Makes the interface what its configuration says, and with `watch` does so again whenever it changes, until `stop`. What
/// can't be done is tried again then.
pub(super) async fn follow(
    member: &mut Member,
    device: &mut Device,
    watch: bool,
    stop: CancellationToken,
) -> Result<()> {
    let clients = member.clients()?;
    let name = member.name().context("it has joined")?.clone();
    let path = format!("/v1/members/{name}/configuration?via_relay={}", member.via_relay().word());
    // One place is asked as long as it answers, then the next.
    let mut places = clients.iter().cycle();
    let mut client = places.next().context("no API is known: give one with --api")?;
    let mut heard: Option<Heard> = None;
    let mut complaint = String::new();
    let mut failures = 0;
    loop {
        let Some(answer) = stop.run_until_cancelled(ask(client, &path, heard.as_ref())).await else {
            return Ok(());
        };
        // Not interrupted: what was begun at the interface is finished.
        let result = match answer {
            Ok(news) => {
                heard = news.or(heard);
                let heard = heard.as_ref().context("nothing was known, so it can't be the same")?;
                device.configure(&heard.configuration, member).await
            }
            Err(error) => {
                // As after a reboot: what was known then is better than nothing.
                if let Some(known) = member.configuration().filter(|_| heard.is_none() && failures == 0) {
                    device.configure(&known, member).await?;
                }
                Err(error.into())
            }
        };
        match result {
            Ok(()) if !watch => return Ok(()),
            Ok(()) => {
                if failures > 0 {
                    info!("the configuration is followed again");
                }
                failures = 0;
                complaint.clear();
            }
            Err(error) => {
                failures += 1;
                let around = failures % clients.len() == 0;
                if !watch && (around || !is_temporary(&error)) {
                    return Err(error.context("follow this host's configuration"));
                }
                let said = format!("{error:#}");
                if said != complaint {
                    warn!("{said}; the interface stays as it is, and it is tried again");
                    complaint = said;
                }
                client = places.next().expect("it goes round");
                if around {
                    let pause = pause(failures / clients.len(), rand::random_range(0.5..1.0));
                    if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                        return Ok(());
                    }
                }
            }
        }
    }
}

fn is_temporary(error: &anyhow::Error) -> bool {
    error.downcast_ref::<ClientError>().is_some_and(ClientError::is_temporary)
}

/// Asks for the configuration; `None` if it is still the one that was heard.
async fn ask(client: &Client, path: &str, heard: Option<&Heard>) -> Result<Option<Heard>, ClientError> {
    let request = match heard {
        Some(heard) => client
            .request(Method::GET, &format!("{path}&wait={WAIT}"))?
            .header(IF_NONE_MATCH, &heard.tag)
            .timeout(Duration::from_secs(WAIT) + LATE),
        None => client.request(Method::GET, path)?,
    };
    let response = client.send(request).await?;
    if response.status() == StatusCode::NOT_MODIFIED {
        return Ok(None);
    }
    let Some(tag) = response.headers().get(ETAG).cloned() else {
        let reason = "it has no ETag".to_owned();
        return Err(ClientError::Garbled { place: client.place().to_string(), reason });
    };
    let configuration = client.read(response).await?;
    Ok(Some(Heard { configuration, tag }))
}

/// How long to wait after so many failures; `share` is a random part of it.
fn pause(failures: usize, share: f64) -> Duration {
    let (first, longest) = PAUSES;
    let doubled = first.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(longest);
    Duration::from_millis(doubled).mul_f64(share)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_make_the_pauses_longer_up_to_a_bound() {
        let millis = |failures| pause(failures, 1.0).as_millis();
        assert_eq!([1, 2, 3, 7, 100].map(millis), [500, 1000, 2000, 30_000, 30_000]);
        assert_eq!(pause(1, 0.5), Duration::from_millis(250));
    }
}
