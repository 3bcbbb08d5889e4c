//! Enrolment keys.

use axum::extract::State;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    Api,
    auth::{Admin, KeyMaker, Reader},
    extract::{Body, IfMatch, IfNoneMatch, Path, Query},
    problem::Problem,
    shape::{DryRun, EnrolmentKey, KeyWithSecret, NewEnrolmentKey},
    write::{Answer, Change, created, draw, draw_id, expiry, gone, list, missing, record_unless},
};
use crate::model::{self, Command, Credential, Key, Name};

pub(super) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(list_keys, create_key)).routes(routes!(show_key, delete_key))
}

/// List the enrolment keys
#[utoipa::path(get, path = "/keys", tag = "enrolment", responses((status = 200, body = Vec<EnrolmentKey>)))]
async fn list_keys(_: Reader, State(api): State<Api>) -> Answer {
    list(api.control()?.writer.state(), |state| Ok(state.keys().map(EnrolmentKey::of).collect())).await
}

/// Make an enrolment key
///
/// With a relay it is an auto-relay key: who joins with it is relayed at once.
#[utoipa::path(
    post,
    path = "/keys",
    tag = "enrolment",
    params(Change),
    request_body = NewEnrolmentKey,
    responses((status = 201, body = KeyWithSecret), (status = 200, body = DryRun, description = "Of a dry run"))
)]
async fn create_key(
    _: KeyMaker,
    State(api): State<Api>,
    Query(query): Query<Change>,
    Body(new): Body<NewEnrolmentKey>,
) -> Answer {
    let id = new.id.map_or_else(draw_id, Ok)?;
    let secret = draw()?;
    let command = Command::CreateKey(model::EnrolmentKey {
        id: id.clone(),
        secret: secret.hash(),
        network: new.network,
        relay: new.relay,
        tags: new.tags,
        uses_left: new.uses,
        expires: expiry(new.valid_seconds),
    });
    api.control()?
        .write(command, query.dry_run, |state| {
            let key = shown(state, &id)?;
            let secret = Credential { id: id.clone(), secret }.reveal();
            created("keys", &id, key.revision, &KeyWithSecret { key, secret })
        })
        .await
}

/// Show an enrolment key
#[utoipa::path(
    get,
    path = "/keys/{id}",
    tag = "enrolment",
    params(("id" = Name, Path), ("If-None-Match" = String, Header, description = "Only if the answer has none of these ETags")),
    responses((status = 200, body = EnrolmentKey))
)]
async fn show_key(_: Reader, State(api): State<Api>, Path(id): Path<Name>, known: IfNoneMatch) -> Answer {
    let key = shown(&api.control()?.writer.state(), &id)?;
    record_unless(&known, key.revision, &key)
}

/// Delete an enrolment key
///
/// Who has joined with it stays.
#[utoipa::path(
    delete,
    path = "/keys/{id}",
    tag = "enrolment",
    params(("id" = Name, Path), Change, ("If-Match" = String, Header, description = "Only if the record still has one of these ETags")),
    responses((status = 204), (status = 200, body = DryRun, description = "Of a dry run"))
)]
async fn delete_key(
    _: Admin,
    State(api): State<Api>,
    Path(id): Path<Name>,
    Query(query): Query<Change>,
    if_match: IfMatch,
) -> Answer {
    let request = if_match.request(&api, Command::DeleteKey(id))?;
    api.control()?.write(request, query.dry_run, gone).await
}

fn shown(state: &model::State, id: &Name) -> Result<EnrolmentKey, Problem> {
    let kept = state.key(id.as_str()).ok_or_else(|| missing(Key::EnrolmentKey(id.clone())))?;
    Ok(EnrolmentKey::of(kept))
}
