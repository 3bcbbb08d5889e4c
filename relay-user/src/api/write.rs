//! Having commands done, and answering with records.

use std::sync::Arc;

use axum::{
    Json,
    http::{
        HeaderValue, StatusCode,
        header::{ETAG, LOCATION},
    },
    response::{IntoResponse, Response},
};
use rand::{TryRngCore as _, rngs::OsRng};
use serde::{Deserialize, Serialize};
use utoipa::IntoParams;

use super::{Control, extract::IfNoneMatch, problem::Problem, shape::DryRun};
use crate::{
    model::{Command, Consequence, Key, Name, Refusal, Request, Secret, State, UnixTime},
    store::unix_time,
};

/// What a handler answers.
pub(super) type Answer = Result<Response, Problem>;

/// Of every change.
#[derive(Clone, Copy, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[derive(Default)]
#[into_params(parameter_in = Query)]
pub(super) struct Change {
    /// Only tell what the change would bring with it.
    #[param(required = false)]
    pub(super) dry_run: bool,
}

impl Control {
    /// Has a command done, and answers with what has become of the record; or tells what it would bring with it.
    pub(super) async fn write(
        &self,
        request: impl Into<Request>,
        dry_run: bool,
        answer: impl FnOnce(&State) -> Answer,
    ) -> Answer {
        let request = request.into();
        if dry_run {
            return Ok(told(self.plan(&self.writer.state(), &request)?));
        }
        let command = request.command.clone();
        match self.writer.write(request).await {
            Ok(done) => answer(&done.state),
            Err(error) => Err(Problem::not_done(&error, &command)),
        }
    }

    /// What a request would bring with it.
    pub(super) fn plan(&self, state: &State, request: &Request) -> Result<Vec<Consequence>, Problem> {
        let now = unix_time();
        let refused = |refusal: Refusal| Problem::refused(&refusal, &request.command);
        state.plan(now, request).map_err(refused)?;
        state.consequences(now, &request.command).map_err(refused)
    }

    /// The state as it will be right after a command.
    pub(super) fn after(&self, state: &State, command: &Command) -> Result<State, Problem> {
        let request = Request::from(command.clone());
        let plan =
            state.plan(unix_time(), &request).map_err(|refusal| Problem::refused(&refusal, command))?;
        let mut after = state.clone();
        after.apply(state.revision(), plan.ops);
        Ok(after)
    }
}

/// The answer to a dry run.
pub(super) fn told(consequences: Vec<Consequence>) -> Response {
    Json(DryRun { consequences: consequences.into_iter().map(Into::into).collect() }).into_response()
}

/// There is no such record.
pub(super) fn missing(key: Key) -> Problem {
    let refusal = Refusal::NotFound(key);
    Problem::new(404, refusal.code(), refusal)
}

/// The ETag of a record.
pub(super) fn etag(revision: u64) -> String {
    format!("\"{revision}\"")
}

/// Answers with a record.
pub(super) fn record(status: StatusCode, revision: u64, body: &impl Serialize) -> Answer {
    let tag = HeaderValue::from_str(&etag(revision)).expect("digits in quotes");
    Ok((status, [(ETAG, tag)], Json(body)).into_response())
}

/// Answers with a record, unless the caller has it as it is.
pub(super) fn record_unless(known: &IfNoneMatch, revision: u64, body: &impl Serialize) -> Answer {
    let mut answer = record(StatusCode::OK, revision, body)?;
    if known.has(&etag(revision)) {
        *answer.status_mut() = StatusCode::NOT_MODIFIED;
        *answer.body_mut() = axum::body::Body::empty();
        answer.headers_mut().remove("content-type");
    }
    Ok(answer)
}

/// Answers with a record that has been made.
pub(super) fn created(path: &str, name: &Name, revision: u64, body: &impl Serialize) -> Answer {
    let mut answer = record(StatusCode::CREATED, revision, body)?;
    let location = HeaderValue::from_str(&format!("/v1/{path}/{name}")).expect("a name needs no quoting");
    answer.headers_mut().insert(LOCATION, location);
    Ok(answer)
}

/// There is nothing to answer with any more.
pub(super) fn gone(_: &State) -> Answer {
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Answers with a list, which is made where it holds nobody up: there may be 100,000 of something.
pub(super) async fn list<T: Serialize>(
    state: Arc<State>,
    make: impl FnOnce(&State) -> Result<Vec<T>, Problem> + Send + 'static,
) -> Answer {
    aside(move || Ok(Json(make(&state)?).into_response())).await
}

/// Does what may take long on a thread for such.
pub(super) async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Problem> + Send + 'static,
) -> Result<T, Problem> {
    let failed = |_| Problem::new(500, "failed", "the answer could not be made: see wgrelay's log");
    tokio::task::spawn_blocking(work).await.map_err(failed)?
}

/// Draws a secret.
pub(super) fn draw() -> Result<Secret, Problem> {
    let mut secret = [0; 32];
    random(&mut secret)?;
    Ok(Secret(secret))
}

/// Draws an id.
pub(super) fn draw_id() -> Result<Name, Problem> {
    let mut id = [0; 5];
    random(&mut id)?;
    let text: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(text.parse().expect("digits and letters make a name"))
}

fn random(bytes: &mut [u8]) -> Result<(), Problem> {
    let failed =
        |error| Problem::new(500, "no_randomness", format!("the system gives no random numbers: {error}"));
    OsRng.try_fill_bytes(bytes).map_err(failed)
}

/// When something expires that is good for so many seconds.
pub(super) fn expiry(valid_seconds: Option<u32>) -> Option<UnixTime> {
    valid_seconds.map(|seconds| unix_time() + UnixTime::from(seconds))
}
