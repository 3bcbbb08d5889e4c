//! Tokens of the API.

use axum::extract::State;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    Api,
    auth::{Admin, Reader},
    extract::{Body, IfMatch, IfNoneMatch, Path, Query},
    problem::Problem,
    shape::{DryRun, NewToken, Token, TokenWithSecret},
    write::{Answer, Change, created, draw, draw_id, expiry, gone, list, missing, record_unless},
};
use crate::model::{self, Command, Credential, Key, Name};

pub(super) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(list_tokens, create_token)).routes(routes!(show_token, delete_token))
}

/// List the tokens
#[utoipa::path(get, path = "/tokens", tag = "API", responses((status = 200, body = Vec<Token>)))]
async fn list_tokens(_: Reader, State(api): State<Api>) -> Answer {
    list(api.control()?.writer.state(), |state| Ok(state.tokens().map(Token::of).collect())).await
}

/// Make a token
#[utoipa::path(
    post,
    path = "/tokens",
    tag = "API",
    params(Change),
    request_body = NewToken,
    responses((status = 201, body = TokenWithSecret), (status = 200, body = DryRun, description = "Of a dry run"))
)]
async fn create_token(
    _: Admin,
    State(api): State<Api>,
    Query(query): Query<Change>,
    Body(new): Body<NewToken>,
) -> Answer {
    let id = new.id.map_or_else(draw_id, Ok)?;
    let secret = draw()?;
    let command = Command::CreateToken(model::Token {
        id: id.clone(),
        secret: secret.hash(),
        role: new.role,
        expires: expiry(new.valid_seconds),
    });
    api.control()?
        .write(command, query.dry_run, |state| {
            let token = shown(state, &id)?;
            let secret = Credential { id: id.clone(), secret }.reveal();
            created("tokens", &id, token.revision, &TokenWithSecret { token, secret })
        })
        .await
}

/// Show a token, without its secret
#[utoipa::path(
    get,
    path = "/tokens/{id}",
    tag = "API",
    params(("id" = Name, Path), ("If-None-Match" = String, Header, description = "Only if the answer has none of these ETags")),
    responses((status = 200, body = Token))
)]
async fn show_token(_: Reader, State(api): State<Api>, Path(id): Path<Name>, known: IfNoneMatch) -> Answer {
    let token = shown(&api.control()?.writer.state(), &id)?;
    record_unless(&known, token.revision, &token)
}

/// Delete a token
///
/// It is of no use from then on.
#[utoipa::path(
    delete,
    path = "/tokens/{id}",
    tag = "API",
    params(("id" = Name, Path), Change, ("If-Match" = String, Header, description = "Only if the record still has one of these ETags")),
    responses((status = 204), (status = 200, body = DryRun, description = "Of a dry run"))
)]
async fn delete_token(
    _: Admin,
    State(api): State<Api>,
    Path(id): Path<Name>,
    Query(query): Query<Change>,
    if_match: IfMatch,
) -> Answer {
    let request = if_match.request(&api, Command::DeleteToken(id))?;
    api.control()?.write(request, query.dry_run, gone).await
}

fn shown(state: &model::State, id: &Name) -> Result<Token, Problem> {
    let kept = state.token_record(id.as_str()).ok_or_else(|| missing(Key::Token(id.clone())))?;
    Ok(Token::of(kept))
}
