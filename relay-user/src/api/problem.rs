//! Errors as the API tells them: JSON problems of RFC 9457, each with a stable code.

use std::{borrow::Cow, fmt, time::Duration};

use axum::{
    body::{Body, to_bytes},
    http::{
        HeaderValue, StatusCode,
        header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE},
    },
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    model::{Class, Command, Refusal},
    store::{StoreError, WriteError},
};

/// The media type of a problem.
pub const MEDIA_TYPE: &str = "application/problem+json";

/// What went wrong with a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// The kind of problem as a URI: `urn:wgrelay:problem:CODE`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The kind of problem in words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// The kind of problem, for programs. It stays the same whatever the texts become.
    #[schema(value_type = String)]
    pub code: Cow<'static, str>,
    /// What is wrong in this case, and what can be done.
    pub detail: String,
    /// After how many seconds it may go better.
    #[serde(skip)]
    retry_after: Option<u64>,
}

impl Problem {
    /// A problem with its status, code and detail.
    pub fn new(status: u16, code: &'static str, detail: impl fmt::Display) -> Self {
        Self {
            kind: format!("urn:wgrelay:problem:{code}"),
            title: code.replace('_', " "),
            status,
            code: code.into(),
            detail: detail.to_string(),
            retry_after: None,
        }
    }

    /// The same, and that it may go better after a while.
    pub(super) fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait.as_secs() + 1);
        self
    }

    /// Why a command was refused. That its subject, or a host that is to be released, does not exist means that there is
    /// nothing at the path; if it is something else that the command names, the request is wrong.
    pub(super) fn refused(refusal: &Refusal, command: &Command) -> Self {
        let status = match (refusal.class(), refusal) {
            (Class::NotFound, Refusal::NotFound(key)) => {
                let in_path = command.subject().is_some_and(|subject| subject == *key)
                    || matches!(command, Command::ReleaseHosts { .. });
                if in_path { 404 } else { 422 }
            }
            (Class::NotFound, _) => 404,
            (Class::Invalid, _) => 422,
            (Class::Conflict, _) => 409,
            (Class::Denied, _) => 403,
            (Class::Stale, _) => 412,
        };
        Self::new(status, refusal.code(), refusal)
    }

    /// Why a command was not done.
    pub(super) fn not_done(error: &WriteError, command: &Command) -> Self {
        let (status, code) = match error {
            WriteError::Refused(refusal) => return Self::refused(refusal, command),
            WriteError::Stopped => return Self::stopping(),
            WriteError::Store(error) => match error {
                StoreError::Conflict(_) => (503, "store_busy"),
                StoreError::Unavailable(_) => (503, "store_unavailable"),
                StoreError::Denied(_) => (503, "store_denied"),
                StoreError::InUse(_) => (503, "store_in_use"),
                StoreError::Full(_) => (507, "store_full"),
                StoreError::TooLarge(_) => (500, "store_too_large"),
                StoreError::Corrupt(_) => (500, "store_corrupt"),
            },
        };
        Self::new(status, code, format!("{error}; the last good state stays"))
            .retry_after(Duration::from_secs(1))
    }

    /// wgrelay is about to end.
    pub(super) fn stopping() -> Self {
        Self::new(503, "stopping", "wgrelay is being stopped").retry_after(Duration::from_secs(1))
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.detail, self.code)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&self).expect("a problem is plain");
        let mut response = (status, [(CONTENT_TYPE, MEDIA_TYPE)], body).into_response();
        if status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(RETRY_AFTER, seconds.into());
        }
        response
    }
}

/// Makes problems of the errors that come from below our handlers, and keeps all answers out of caches.
pub(super) async fn tidy(mut response: Response) -> Response {
    response.headers_mut().entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    let status = response.status();
    let ours = response.headers().get(CONTENT_TYPE).is_some_and(|kind| kind == MEDIA_TYPE);
    if ours || !(status.is_client_error() || status.is_server_error()) {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    let text = to_bytes(body, 1 << 10).await.unwrap_or_default();
    let (code, detail) = match status {
        StatusCode::NOT_FOUND => ("no_such_path", "there is nothing at this path: see /v1/openapi.json"),
        StatusCode::METHOD_NOT_ALLOWED => ("method_not_allowed", "this path has other methods: see Allow"),
        _ => ("bad_request", "the request can't be understood"),
    };
    let said = std::str::from_utf8(&text).ok().filter(|text| !text.is_empty());
    let problem = Problem::new(status.as_u16(), code, said.unwrap_or(detail)).into_response().into_parts();
    parts.headers.remove("content-length");
    parts.headers.extend(problem.0.headers);
    Response::from_parts(parts, Body::new(problem.1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_that_fails_is_no_fault_of_the_request() {
        let text = || "why".to_owned();
        for (error, status, code) in [
            (StoreError::Unavailable(text()), 503, "store_unavailable"),
            (StoreError::Denied(text()), 503, "store_denied"),
            (StoreError::Full(text()), 507, "store_full"),
            (StoreError::Corrupt(text()), 500, "store_corrupt"),
        ] {
            let problem = Problem::not_done(&error.into(), &Command::Sweep);
            assert_eq!((problem.status, &*problem.code), (status, code));
            assert!(problem.detail.ends_with("the last good state stays"), "{problem}");
            assert!(problem.into_response().headers().contains_key(RETRY_AFTER));
        }
    }
}
