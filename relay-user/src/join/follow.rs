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
    tag: Option<HeaderValue>,
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
    let mut heard: Option<Heard> = None;
    let mut failures = 0;
    loop {
        // One place after another is asked, as long as they fail.
        let client =
            clients.get(failures % clients.len().max(1)).context("no API is known: give one with --api")?;
        let Some(answer) = stop.run_until_cancelled(ask(client, &path, heard.as_ref())).await else {
            return Ok(());
        };
        let result = match answer {
            Ok(news) => {
                heard = news.or(heard);
                let heard =
                    heard.as_ref().context("the API said that nothing is new, but nothing was known")?;
                // Not interrupted: what was begun at the interface is finished.
                device.configure(&heard.configuration, member).await
            }
            Err(error) if !watch && (failures + 1 >= clients.len() || !error.is_temporary()) => {
                return Err(error).context("ask for this host's configuration");
            }
            Err(error) => Err(error.into()),
        };
        match result {
            Ok(()) if !watch => return Ok(()),
            Ok(()) => {
                if failures > 0 {
                    info!("the configuration is followed again");
                }
                failures = 0;
            }
            Err(error) if !watch && error.downcast_ref::<ClientError>().is_none() => return Err(error),
            Err(error) => {
                // The first tells; the others would only repeat it.
                if failures == 0 {
                    warn!("{error:#}; the interface stays as it is, and it is tried again");
                }
                failures += 1;
                let around = clients.len().max(1);
                // The next place at once, and a pause after all of them.
                if failures % around == 0 {
                    let pause = pause(failures / around, rand::random_range(0.5..1.0));
                    if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                        return Ok(());
                    }
                }
            }
        }
    }
}

/// Asks for the configuration; `None` if it is still the one that was heard.
async fn ask(client: &Client, path: &str, heard: Option<&Heard>) -> Result<Option<Heard>, ClientError> {
    let mut request = match heard {
        Some(_) => client.request(Method::GET, &format!("{path}&wait={WAIT}"))?,
        None => client.request(Method::GET, path)?,
    };
    request = request.timeout(Duration::from_secs(WAIT) + LATE);
    if let Some(tag) = heard.and_then(|heard| heard.tag.clone()) {
        request = request.header(IF_NONE_MATCH, tag);
    }
    let response = client.send(request).await?;
    if response.status() == StatusCode::NOT_MODIFIED {
        return Ok(None);
    }
    let tag = response.headers().get(ETAG).cloned();
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
