//! The stream of changes.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    extract::State,
    http::HeaderMap,
    response::{
        IntoResponse as _,
        sse::{Event, KeepAlive, Sse},
    },
};
use futures_util::stream;
use tokio::sync::{OwnedSemaphorePermit, watch};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    Api,
    auth::{Caller, Reader},
    problem::Problem,
    shape::{ChangeEvent, Changed},
    write::Answer,
};
use crate::model::State as Records;

/// How often something is sent if nothing happens, so that both sides see that the other is there.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

pub(super) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(follow_changes))
}

/// Follow what changes, as server-sent events
///
/// Each event has a revision as its id, and tells as JSON which records are different since the one before. The first
/// one has no list: what was read before may be out of date. It is left out if `Last-Event-ID` is the newest revision.
#[utoipa::path(
    get,
    path = "/changes",
    tag = "API",
    params(("Last-Event-ID" = String, Header)),
    responses((status = 200, body = ChangeEvent, content_type = "text/event-stream"))
)]
async fn follow_changes(_: Reader, caller: Caller, State(api): State<Api>, headers: HeaderMap) -> Answer {
    let mut states = api.control()?.writer.states();
    let busy = |_| Problem::new(503, "busy", "too many change streams at once");
    let permit = api.streams.clone().try_acquire_owned().map_err(busy)?;
    let state = states.borrow_and_update().clone();
    let seen = headers.get("last-event-id").and_then(|id| id.to_str().ok()?.parse().ok());
    let up_to_date = seen == Some(state.revision().0);
    let first = (!up_to_date).then(|| event(&Changed { revision: state.revision().0, records: None }));
    let follower = Follower { states, state, caller, _permit: permit };
    let later = stream::unfold(follower, async |mut follower| {
        let event = follower.next().await?;
        Some((event, follower))
    });
    let events = futures_util::StreamExt::chain(stream::iter(first), later);
    let keep_alive = KeepAlive::new().interval(KEEP_ALIVE);
    Ok(Sse::new(events).keep_alive(keep_alive).into_response())
}

struct Follower {
    states: watch::Receiver<Arc<Records>>,
    state: Arc<Records>,
    caller: Caller,
    _permit: OwnedSemaphorePermit,
}

impl Follower {
    /// The next event; none if wgrelay ends, or the caller's token.
    async fn next(&mut self) -> Option<Result<Event, Infallible>> {
        loop {
            self.states.changed().await.ok()?;
            let now = self.states.borrow_and_update().clone();
            if !self.caller.is_still_known(&now) {
                return None;
            }
            let records: Vec<String> =
                now.changes_since(&self.state).iter().map(ToString::to_string).collect();
            self.state = now;
            if !records.is_empty() {
                let changed = Changed { revision: self.state.revision().0, records: Some(records) };
                return Some(event(&changed));
            }
        }
    }
}

fn event(changed: &Changed) -> Result<Event, Infallible> {
    let data = serde_json::to_string(changed).expect("a change is plain");
    Ok(Event::default().id(changed.revision.to_string()).event("changed").data(data))
}
