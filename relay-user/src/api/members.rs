//! Members, and their WireGuard configurations.

use std::{sync::Arc, time::Duration};

use axum::{
    extract::State,
    http::{
        HeaderMap, HeaderValue, StatusCode,
        header::{ACCEPT, CONTENT_TYPE, ETAG, VARY},
    },
    response::{IntoResponse as _, Response},
};
use serde::Deserialize;
use tokio::time::timeout;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    Api, LONGEST_WAIT,
    auth::{Admin, Caller, Reader},
    extract::{Body, IfMatch, IfNoneMatch, Path, Query},
    problem::Problem,
    shape::{Configuration, DryRun, Member, MemberChange, MemberWithOwner, NewMember, OrDryRun},
    write::{Answer, Change, aside, created, draw, gone, list, missing, record, record_unless},
};
use crate::model::{self, Command, Credential, Key, Name, Secret, State as Records};

pub(super) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(list_members, create_member)).routes(routes!(
        show_member,
        change_member,
        delete_member
    ))
}

/// Those that may wait for a change.
pub(super) fn waiting_routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(show_configuration))
}

/// Which members.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Filter {
    /// Those of this network.
    network: Option<Name>,
    /// Those that this relay relays.
    relay: Option<Name>,
    /// Those with this tag.
    tag: Option<Name>,
    /// Those behind this name, for the next page.
    after: Option<Name>,
    /// At most so many.
    #[param(value_type = Option<u64>, minimum = 0, maximum = 4294967295u64)]
    limit: Option<u32>,
}

impl Filter {
    fn fits(&self, member: &model::Member) -> bool {
        let Self { network, relay, tag, after, .. } = self;
        network.as_ref().is_none_or(|network| member.membership(network).is_some())
            && relay.as_ref().is_none_or(|relay| member.relayed.as_ref().is_some_and(|r| r.by == *relay))
            && tag.as_ref().is_none_or(|tag| member.tags.contains(tag))
            && after.as_ref().is_none_or(|after| member.name > *after)
    }
}

/// List the members, by name
#[utoipa::path(
    get,
    path = "/members",
    tag = "members",
    params(Filter),
    responses((status = 200, body = Vec<Member>))
)]
async fn list_members(_: Reader, State(api): State<Api>, Query(filter): Query<Filter>) -> Answer {
    list(api.control()?.writer.state(), move |state| {
        let fitting = state.members().filter(|kept| filter.fits(kept));
        let limit = filter.limit.map_or(usize::MAX, |limit| limit as usize);
        Ok(fitting.take(limit).map(|kept| Member::of(state, kept)).collect())
    })
    .await
}

/// Make a member
///
/// It takes part as soon as a relay has seen a handshake of its key. Hosts can also join by themselves, with an enrolment
/// key.
#[utoipa::path(
    post,
    path = "/members",
    tag = "members",
    params(Change),
    request_body = NewMember,
    responses((status = 201, body = MemberWithOwner), (status = 200, body = DryRun, description = "Of a dry run"))
)]
async fn create_member(
    _: Admin,
    State(api): State<Api>,
    Query(query): Query<Change>,
    Body(new): Body<NewMember>,
) -> Answer {
    let (name, secret) = (new.name.clone(), if new.owner { Some(draw()?) } else { None });
    let command = Command::CreateMember(model::NewMember {
        name: new.name,
        public_key: new.public_key,
        networks: new.networks.into_iter().map(Into::into).collect(),
        endpoints: new.endpoints,
        rate_limit: new.rate_limit,
        tags: new.tags,
        owner: secret.as_ref().map(Secret::hash),
    });
    api.control()?
        .write(command, query.dry_run, |state| {
            let answer = with_owner(state, &name, secret)?;
            created("members", &name, answer.member.revision, &answer)
        })
        .await
}

/// Show a member
#[utoipa::path(
    get,
    path = "/members/{name}",
    tag = "members",
    params(("name" = Name, Path), ("If-None-Match" = String, Header, description = "Only if the answer has none of these ETags")),
    responses((status = 200, body = Member))
)]
async fn show_member(
    caller: Caller,
    State(api): State<Api>,
    Path(name): Path<Name>,
    known: IfNoneMatch,
) -> Answer {
    caller.may_configure(&name)?;
    let member = shown(&api.control()?.writer.state(), &name)?;
    record_unless(&known, member.revision, &member)
}

/// Change a member
///
/// Its name and public key always stay: another key is another member.
#[utoipa::path(
    patch,
    path = "/members/{name}",
    tag = "members",
    params(("name" = Name, Path), Change, ("If-Match" = String, Header, description = "Only if the record still has one of these ETags")),
    request_body = MemberChange,
    responses((status = 200, body = OrDryRun<MemberWithOwner>))
)]
async fn change_member(
    _: Admin,
    State(api): State<Api>,
    Path(name): Path<Name>,
    Query(query): Query<Change>,
    if_match: IfMatch,
    Body(change): Body<MemberChange>,
) -> Answer {
    let secret = if change.owner { Some(draw()?) } else { None };
    let change = model::MemberChange {
        networks: change.networks.map(|networks| networks.into_iter().map(Into::into).collect()),
        endpoints: change.endpoints,
        rate_limit: change.rate_limit,
        tags: change.tags,
        owner: secret.as_ref().map(Secret::hash),
    };
    let request = if_match.request(&api, Command::ChangeMember(name.clone(), change))?;
    api.control()?
        .write(request, query.dry_run, |state| {
            let answer = with_owner(state, &name, secret)?;
            record(StatusCode::OK, answer.member.revision, &answer)
        })
        .await
}

/// Delete a member that is no relay
///
/// Its sessions end at once. Its owner may do this too.
#[utoipa::path(
    delete,
    path = "/members/{name}",
    tag = "members",
    params(("name" = Name, Path), Change, ("If-Match" = String, Header, description = "Only if the record still has one of these ETags")),
    responses((status = 204), (status = 200, body = DryRun, description = "Of a dry run"))
)]
async fn delete_member(
    caller: Caller,
    State(api): State<Api>,
    Path(name): Path<Name>,
    Query(query): Query<Change>,
    if_match: IfMatch,
) -> Answer {
    caller.may_delete(&name)?;
    let request = if_match.request(&api, Command::DeleteMember(name))?;
    api.control()?.write(request, query.dry_run, gone).await
}

/// Which configuration, and whether to wait for another.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[derive(Default)]
#[into_params(parameter_in = Query)]
struct Which {
    /// Which way a relayed host's traffic takes.
    #[param(required = false, inline)]
    via_relay: ViaRelay,
    /// With If-None-Match: for how many seconds to wait for another configuration than that. Then, if there is none, the
    /// answer is 304.
    #[param(required = false, minimum = 0, maximum = 60)]
    wait: u8,
}

/// Which way a relayed host's traffic takes.
#[derive(Clone, Copy, Default, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum ViaRelay {
    /// All of it over its relay.
    #[default]
    Always,
    /// Public peers are reached directly.
    Needed,
}

/// Show what a member's WireGuard interface needs
///
/// As JSON, or with `Accept: text/plain` as a file for wg-quick, without the private key. The member's owner may ask too:
/// the owner's secret is then the bearer token.
#[utoipa::path(
    get,
    path = "/members/{name}/configuration",
    tag = "members",
    params(("name" = Name, Path), Which, ("If-None-Match" = String, Header, description = "Only if the answer has none of these ETags")),
    responses((status = 200, content((Configuration = "application/json"), (String = "text/plain"))))
)]
async fn show_configuration(
    caller: Caller,
    State(api): State<Api>,
    Path(name): Path<Name>,
    Query(which): Query<Which>,
    known: IfNoneMatch,
    headers: HeaderMap,
) -> Answer {
    caller.may_configure(&name)?;
    let wait = Duration::from_secs(which.wait.into());
    if wait > LONGEST_WAIT {
        let detail = format!("wait at most {} seconds", LONGEST_WAIT.as_secs());
        return Err(Problem::new(422, "too_long_a_wait", detail));
    }
    let text = wants_text(&headers);
    let via = match which.via_relay {
        ViaRelay::Always => model::ViaRelay::Always,
        ViaRelay::Needed => model::ViaRelay::Needed,
    };
    let control = api.control()?;
    let mut states = control.writer.states();
    let mut state = states.borrow_and_update().clone();
    let first = rendered(state.clone(), name.clone(), via, text).await?;
    if !known.has(&first.tag) || known.is_any() || wait.is_zero() {
        return Ok(first.answer(&known));
    }
    // Who asks for itself will also do what is said then.
    let _following = caller.owns(&name).then(|| control.followers.follow(name.clone()));
    let other = async {
        loop {
            // The writer has ended: the client may ask the next process.
            states.changed().await.map_err(|_| Problem::stopping())?;
            let now = states.borrow_and_update().clone();
            if !caller.is_still_known(&now) {
                return Err(Problem::new(401, "wrong_token", "the credential is not good any more"));
            }
            if concerns(&state, &now, &name) {
                let rendered = rendered(now.clone(), name.clone(), via, text).await?;
                if !known.has(&rendered.tag) {
                    return Ok(rendered);
                }
            }
            state = now;
        }
    };
    match timeout(wait, other).await {
        Ok(other) => Ok(other?.answer(&known)),
        Err(_) => Ok(first.answer(&known)),
    }
}

/// Whether a member's configuration may be different after a change: only who shares a network with it matters.
fn concerns(old: &Records, new: &Records, member: &Name) -> bool {
    let near = |state: &Records, other: &Name| {
        let (own, other) = (state.member(member.as_str()), state.member(other.as_str()));
        own.zip(other).is_some_and(|(own, other)| {
            own.networks.iter().any(|place| other.membership(&place.network).is_some())
        })
    };
    new.changes_since(old).iter().any(|key| match key {
        Key::Member(name) | Key::Relay(name) => name == member || near(old, name) || near(new, name),
        Key::Network(name) => new.member(member.as_str()).is_some_and(|own| own.membership(name).is_some()),
        Key::EnrolmentKey(_) | Key::Token(_) | Key::TurnUser(_) => false,
    })
}

/// A configuration as it is sent.
struct Rendered {
    tag: String,
    text: bool,
    bytes: Vec<u8>,
}

async fn rendered(
    state: Arc<Records>,
    name: Name,
    via: model::ViaRelay,
    text: bool,
) -> Result<Rendered, Problem> {
    aside(move || {
        let (shape, configuration) =
            Configuration::of(&state, name.as_str(), via).map_err(|_| missing(Key::Member(name)))?;
        let bytes = if text {
            configuration.wg_quick(None).to_string().into_bytes()
        } else {
            serde_json::to_vec(&shape).expect("a configuration is plain")
        };
        // It depends on many records, so it is known by what it is.
        let hash = blake2s_simd::Params::new().hash_length(16).hash(&bytes).to_hex();
        Ok(Rendered { tag: format!("\"{hash}\""), text, bytes })
    })
    .await
}

impl Rendered {
    fn answer(self, known: &IfNoneMatch) -> Response {
        let tag = HeaderValue::from_str(&self.tag).expect("digits in quotes");
        let headers = [(ETAG, tag), (VARY, HeaderValue::from_static("accept"))];
        if known.has(&self.tag) {
            return (StatusCode::NOT_MODIFIED, headers).into_response();
        }
        let kind = if self.text { "text/plain; charset=utf-8" } else { "application/json" };
        (headers, [(CONTENT_TYPE, kind)], self.bytes).into_response()
    }
}

/// Whether text is wanted rather than JSON: it is named, and JSON is not.
pub(super) fn wants_text(headers: &HeaderMap) -> bool {
    let accepted = headers.get(ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    accepted.contains("text/plain") && !accepted.contains("application/json")
}

pub(super) fn shown(state: &Records, name: &Name) -> Result<Member, Problem> {
    let kept = state.member(name.as_str()).ok_or_else(|| missing(Key::Member(name.clone())))?;
    Ok(Member::of(state, kept))
}

fn with_owner(state: &Records, name: &Name, secret: Option<Secret>) -> Result<MemberWithOwner, Problem> {
    let owner = secret.map(|secret| Credential { id: name.clone(), secret }.reveal());
    Ok(MemberWithOwner { member: shown(state, name)?, owner })
}
