//! What requests bring, with problems instead of axum's own rejections.

use std::convert::Infallible;

use axum::{
    Json, RequestPartsExt as _,
    extract::{FromRequest, FromRequestParts, Request as HttpRequest, rejection::JsonRejection},
    http::{
        HeaderMap,
        header::{HeaderName, IF_MATCH, IF_NONE_MATCH},
        request::Parts,
    },
};
use serde::de::DeserializeOwned;

use super::{Api, problem::Problem, write::etag};
use crate::model::{Command, Request, Revision};

/// A JSON body.
pub(super) struct Body<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequest<Api> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: HttpRequest, api: &Api) -> Result<Self, Problem> {
        match Json::from_request(request, api).await {
            Ok(Json(body)) => Ok(Self(body)),
            Err(rejection) => Err(match &rejection {
                JsonRejection::JsonSyntaxError(_) => Problem::new(400, "bad_json", rejection.body_text()),
                JsonRejection::JsonDataError(_) => Problem::new(422, "bad_body", rejection.body_text()),
                JsonRejection::MissingJsonContentType(_) => {
                    Problem::new(415, "not_json", "send JSON, with Content-Type: application/json")
                }
                _ if rejection.status() == 413 => {
                    let detail = format!("the body has more than {} bytes", super::BODY_BYTES);
                    Problem::new(413, "too_large", detail)
                }
                _ => Problem::new(400, "broken_body", rejection.body_text()),
            }),
        }
    }
}

/// What stands behind the question mark.
pub(super) struct Query<T>(pub(super) T);

impl<T: DeserializeOwned + 'static> FromRequestParts<Api> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &Api) -> Result<Self, Problem> {
        let query = parts.extract::<axum::extract::Query<T>>().await;
        query.map(|query| Self(query.0)).map_err(|error| Problem::new(400, "bad_query", error.body_text()))
    }
}

/// What stands in the path.
pub(super) struct Path<T>(pub(super) T);

impl<T: DeserializeOwned + Send + 'static> FromRequestParts<Api> for Path<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &Api) -> Result<Self, Problem> {
        let path = parts.extract::<axum::extract::Path<T>>().await;
        path.map(|path| Self(path.0)).map_err(|error| Problem::new(400, "bad_path", error.body_text()))
    }
}

/// The ETags of which the record must still have one, if the caller cares.
pub(super) struct IfMatch(Option<Vec<String>>);

/// A revision that no record has.
const NO_REVISION: Revision = Revision(u64::MAX - 1);

impl IfMatch {
    /// A command that is done only if its subject still is as the caller thinks. `*` asks for any record, which is what all
    /// changes of one do by themselves.
    pub(super) fn request(&self, api: &Api, command: Command) -> Result<Request, Problem> {
        let expected = match &self.0 {
            Some(tags) if tags.iter().all(|tag| tag != "*") => {
                let state = api.control()?.writer.state();
                let now = command.subject().and_then(|subject| state.revision_of(&subject));
                // Weak tags, and those that we never gave out, are that of no record.
                let fits = now.filter(|now| tags.contains(&etag(now.0)));
                Some(fits.unwrap_or(NO_REVISION))
            }
            _ => None,
        };
        Ok(Request { command, expected })
    }
}

impl FromRequestParts<Api> for IfMatch {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &Api) -> Result<Self, Infallible> {
        Ok(Self(tags(&parts.headers, &IF_MATCH)))
    }
}

/// The representations that the caller has already.
pub(super) struct IfNoneMatch(Vec<String>);

impl IfNoneMatch {
    /// Whether it stands for any.
    pub(super) fn is_any(&self) -> bool {
        self.0.iter().any(|given| given == "*")
    }

    /// Whether it has this one.
    pub(super) fn has(&self, tag: &str) -> bool {
        self.0.iter().any(|given| given == "*" || given.strip_prefix("W/").unwrap_or(given) == tag)
    }
}

impl FromRequestParts<Api> for IfNoneMatch {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &Api) -> Result<Self, Infallible> {
        Ok(Self(tags(&parts.headers, &IF_NONE_MATCH).unwrap_or_default()))
    }
}

/// The ETags in a header, if there is that. What is none does no harm: it is no record's.
fn tags(headers: &HeaderMap, name: &HeaderName) -> Option<Vec<String>> {
    let texts = headers.get_all(name).iter().map(|value| value.to_str().unwrap_or_default());
    let tags = texts.flat_map(|text| text.split(',')).map(|tag| tag.trim().to_owned());
    headers.contains_key(name).then(|| tags.collect())
}
