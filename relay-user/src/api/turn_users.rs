//! Users of the relays' TURN servers.

use axum::{extract::State, http::StatusCode};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    Api,
    auth::{Admin, Reader},
    extract::{Body, IfMatch, IfNoneMatch, Path, Query},
    problem::Problem,
    shape::{DryRun, NewTurnUser, OrDryRun, TurnUser, TurnUserChange},
    write::{Answer, Change, created, gone, list, missing, record, record_unless},
};
use crate::model::{self, Command, Key, Name};

pub(super) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(list_turn_users, create_turn_user)).routes(routes!(
        show_turn_user,
        change_turn_user,
        delete_turn_user
    ))
}

/// List the users of the TURN servers, by name
#[utoipa::path(get, path = "/turn-users", tag = "TURN", responses((status = 200, body = Vec<TurnUser>)))]
async fn list_turn_users(_: Reader, State(api): State<Api>) -> Answer {
    list(api.control()?.writer.state(), |state| Ok(state.turn_users().values().map(TurnUser::of).collect()))
        .await
}

/// Make a user of the TURN servers
///
/// It may use the TURN server of every relay that has its realm.
#[utoipa::path(
    post,
    path = "/turn-users",
    tag = "TURN",
    params(Change),
    request_body = NewTurnUser,
    responses((status = 201, body = TurnUser), (status = 200, body = DryRun, description = "Of a dry run"))
)]
async fn create_turn_user(
    _: Admin,
    State(api): State<Api>,
    Query(query): Query<Change>,
    Body(NewTurnUser { name, realm, key }): Body<NewTurnUser>,
) -> Answer {
    let command = Command::CreateTurnUser(model::TurnUser { name: name.clone(), realm, key });
    api.control()?
        .write(command, query.dry_run, |state| {
            let user = shown(state, &name)?;
            created("turn-users", &name, user.revision, &user)
        })
        .await
}

/// Show a user of the TURN servers, without its key
#[utoipa::path(
    get,
    path = "/turn-users/{name}",
    tag = "TURN",
    params(("name" = Name, Path), ("If-None-Match" = String, Header, description = "Only if the answer has none of these ETags")),
    responses((status = 200, body = TurnUser))
)]
async fn show_turn_user(
    _: Reader,
    State(api): State<Api>,
    Path(name): Path<Name>,
    known: IfNoneMatch,
) -> Answer {
    let user = shown(&api.control()?.writer.state(), &name)?;
    record_unless(&known, user.revision, &user)
}

/// Give a user of the TURN servers another key
///
/// Its allocations end.
#[utoipa::path(
    put,
    path = "/turn-users/{name}",
    tag = "TURN",
    params(("name" = Name, Path), Change, ("If-Match" = String, Header, description = "Only if the record still has one of these ETags")),
    request_body = TurnUserChange,
    responses((status = 200, body = OrDryRun<TurnUser>))
)]
async fn change_turn_user(
    _: Admin,
    State(api): State<Api>,
    Path(name): Path<Name>,
    Query(query): Query<Change>,
    if_match: IfMatch,
    Body(TurnUserChange { realm, key }): Body<TurnUserChange>,
) -> Answer {
    let user = model::TurnUser { name: name.clone(), realm, key };
    let request = if_match.request(&api, Command::ChangeTurnUser(user))?;
    api.control()?
        .write(request, query.dry_run, |state| {
            let user = shown(state, &name)?;
            record(StatusCode::OK, user.revision, &user)
        })
        .await
}

/// Delete a user of the TURN servers
///
/// Its allocations end.
#[utoipa::path(
    delete,
    path = "/turn-users/{name}",
    tag = "TURN",
    params(("name" = Name, Path), Change, ("If-Match" = String, Header, description = "Only if the record still has one of these ETags")),
    responses((status = 204), (status = 200, body = DryRun, description = "Of a dry run"))
)]
async fn delete_turn_user(
    _: Admin,
    State(api): State<Api>,
    Path(name): Path<Name>,
    Query(query): Query<Change>,
    if_match: IfMatch,
) -> Answer {
    let request = if_match.request(&api, Command::DeleteTurnUser(name))?;
    api.control()?.write(request, query.dry_run, gone).await
}

fn shown(state: &model::State, name: &Name) -> Result<TurnUser, Problem> {
    let kept = state.turn_users().get(name).ok_or_else(|| missing(Key::TurnUser(name.clone())))?;
    Ok(TurnUser::of(kept))
}
