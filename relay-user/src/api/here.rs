//! What the relay of this process shows of itself, and whether the API answers at all.

use std::time::Duration;

use axum::{
    Json,
    extract::State,
    response::{IntoResponse as _, Response},
};
use tokio::sync::oneshot;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{Api, auth::Reader, problem::Problem, shape::Health};
use crate::{
    engine::Request,
    status::{Host, SessionDirection, Status, UnknownSource},
};

pub(super) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(show_status))
        .routes(routes!(list_hosts))
        .routes(routes!(list_sessions))
        .routes(routes!(list_sources))
        .routes(routes!(show_health))
        .routes(routes!(show_ready))
}

/// An engine that takes longer is stuck.
const ANSWER: Duration = Duration::from_secs(5);
/// A WireGuard interface that was not read for so long does not answer.
const INTERFACE_AGE: Duration = Duration::from_secs(60);
/// How many unknown sources the status names.
const SOURCES_IN_STATUS: usize = 10;

async fn asked<T>(api: &Api, question: impl FnOnce(oneshot::Sender<T>) -> Request) -> Result<T, Problem> {
    api.engine()?.ask(question).await.ok_or_else(Problem::stopping)
}

/// Show the relay of this process
#[utoipa::path(get, path = "/status", tag = "relay here", responses((status = 200, body = Status)))]
async fn show_status(_: Reader, State(api): State<Api>) -> Result<Json<Status>, Problem> {
    let mut status = asked(&api, Request::Status).await?;
    status.unknown_sources = asked(&api, Request::Sources).await?;
    status.unknown_sources.truncate(SOURCES_IN_STATUS);
    Ok(Json(status))
}

/// Show its members
#[utoipa::path(get, path = "/hosts", tag = "relay here", responses((status = 200, body = Vec<Host>)))]
async fn list_hosts(_: Reader, State(api): State<Api>) -> Result<Json<Vec<Host>>, Problem> {
    asked(&api, Request::Hosts).await.map(Json)
}

/// Show its live sessions, each with both directions
#[utoipa::path(get, path = "/sessions", tag = "relay here", responses((status = 200, body = Vec<SessionDirection>)))]
async fn list_sessions(_: Reader, State(api): State<Api>) -> Result<Json<Vec<SessionDirection>>, Problem> {
    asked(&api, Request::Sessions).await.map(Json)
}

/// Show the unknown sources that were admitted lately, those with the most packets first
#[utoipa::path(get, path = "/sources", tag = "relay here", responses((status = 200, body = Vec<UnknownSource>)))]
async fn list_sources(_: Reader, State(api): State<Api>) -> Result<Json<Vec<UnknownSource>>, Problem> {
    asked(&api, Request::Sources).await.map(Json)
}

/// Say that the API answers
///
/// Needs no token. It is no failure if the store can't be reached: the last good state is shown then.
#[utoipa::path(get, path = "/health", tag = "API", security(()), responses((status = 200, body = Health)))]
async fn show_health(State(api): State<Api>) -> Response {
    Json(health(&api)).into_response()
}

fn health(api: &Api) -> Health {
    let trouble = api.control.as_ref().and_then(|control| control.writer.trouble().borrow().clone());
    Health {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        // Where it is and what it is, is nobody's business who has no token.
        store: trouble.map(|_| "out of reach: the last good state is shown".to_owned()),
    }
}

/// Say whether all is in place
///
/// Needs no token. A relay is ready if it follows packets and its WireGuard interface answers; a control plane by itself if
/// its store can be reached. Status 503 if not, for load balancers and supervisors.
#[utoipa::path(get, path = "/ready", tag = "API", security(()), responses((status = 200, body = Health)))]
async fn show_ready(State(api): State<Api>) -> Result<Json<Health>, Problem> {
    let (health, not) = (health(&api), |why: &str| Problem::new(503, "not_ready", why));
    match &api.engine {
        Some(engine) => {
            let age = tokio::time::timeout(ANSWER, engine.ask(Request::Ready)).await;
            match age.map_err(|_| not("the engine does not come round"))?.ok_or_else(Problem::stopping)? {
                Some(age) if age < INTERFACE_AGE => {}
                Some(_) => return Err(not("the WireGuard interface does not answer")),
                None => return Err(not("the WireGuard interface has not been read yet")),
            }
        }
        None if health.store.is_some() => return Err(not("the store is out of reach")),
        None => {}
    }
    Ok(Json(health))
}
