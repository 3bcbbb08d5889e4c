//! What requests bring, with problems instead of axum's own rejections.

use axum::{
    Json, RequestPartsExt as _,
    extract::{FromRequest, FromRequestParts, Request, rejection::JsonRejection},
    http::{
        HeaderMap,
        header::{HeaderName, IF_MATCH, IF_NONE_MATCH},
        request::Parts,
    },
};
use serde::de::DeserializeOwned;

use super::{Api, problem::Problem};
use crate::model::Revision;

/// A JSON body.
pub(super) struct Body<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequest<Api> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, api: &Api) -> Result<Self, Problem> {
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

/// The revision that the record must still have, if the caller cares. `*` asks for any, which is what all changes of a
/// record do by themselves.
pub(super) struct IfMatch(pub(super) Option<Revision>);

/// A revision that no record has.
const NO_REVISION: Revision = Revision(u64::MAX - 1);

impl FromRequestParts<Api> for IfMatch {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &Api) -> Result<Self, Problem> {
        let bad = |why| Problem::new(400, "bad_if_match", why);
        match tags(&parts.headers, &IF_MATCH).map_err(bad)?.as_slice() {
            [] => Ok(Self(None)),
            [one] if one == "*" => Ok(Self(None)),
            // One that we never gave out is that of no record, as is a weak one.
            [one] => {
                let revision = one.strip_prefix('"').and_then(|tag| tag.strip_suffix('"')?.parse().ok());
                Ok(Self(Some(revision.map_or(NO_REVISION, Revision))))
            }
            _ => Err(bad("give one ETag, or *")),
        }
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
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &Api) -> Result<Self, Problem> {
        let bad = |why| Problem::new(400, "bad_if_none_match", why);
        tags(&parts.headers, &IF_NONE_MATCH).map_err(bad).map(Self)
    }
}

/// The ETags in a header.
fn tags(headers: &HeaderMap, name: &HeaderName) -> Result<Vec<String>, &'static str> {
    let mut tags = Vec::new();
    for value in headers.get_all(name) {
        let text = value.to_str().map_err(|_| "an ETag has no such characters")?;
        for tag in text.split(',').map(str::trim).filter(|tag| !tag.is_empty()) {
            let quoted = tag.strip_prefix("W/").unwrap_or(tag);
            if tag != "*" && (quoted.len() < 2 || !quoted.starts_with('"') || !quoted.ends_with('"')) {
                return Err("an ETag stands in quotes, as \"17\"");
            }
            tags.push(tag.to_owned());
        }
    }
    if tags.is_empty() && headers.contains_key(name) {
        return Err("there is no ETag in it");
    }
    Ok(tags)
}
