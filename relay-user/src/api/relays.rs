//! Relays, and the hosts that they relay.

use std::collections::HashMap;

use axum::{extract::State, http::StatusCode};
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    Api, Control, Own,
    auth::{Admin, Reader},
    extract::{Body, IfMatch, IfNoneMatch, Path, Query},
    problem::Problem,
    shape::{DryRun, NewRelay, OrDryRun, Relay, RelayChange, RelayHosts, RelayedHost, memberships},
    write::{Answer, Change, created, gone, list, missing, record, record_unless, told},
};
use crate::{
    engine,
    members::RateLimit,
    model::{self, Command, Consequence, Hosts, Key, Name, Request, State as Records},
    status::Host,
};

pub(super) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(list_relays, create_relay))
        .routes(routes!(show_relay, change_relay, delete_relay))
        .routes(routes!(list_relayed_hosts, relay_hosts, release_hosts))
        .routes(routes!(release_host))
}

/// List the relays
#[utoipa::path(get, path = "/relays", tag = "relays", responses((status = 200, body = Vec<Relay>)))]
async fn list_relays(_: Reader, State(api): State<Api>) -> Answer {
    let control = api.control()?;
    let alive = control.alive.borrow().clone();
    list(control.writer.state(), move |state| {
        state.relays().map(|kept| of(state, kept, alive.contains(kept.name.as_str()))).collect()
    })
    .await
}

/// Make a member a relay
///
/// If there is no such member, it is made of the public key and the networks that are given. The relay of the process that
/// is asked knows its own key, addresses and port: for that one the name is enough.
#[utoipa::path(
    post,
    path = "/relays",
    tag = "relays",
    params(Change),
    request_body = NewRelay,
    responses((status = 201, body = Relay), (status = 200, body = DryRun, description = "Of a dry run"))
)]
async fn create_relay(
    _: Admin,
    State(api): State<Api>,
    Query(query): Query<Change>,
    Body(mut new): Body<NewRelay>,
) -> Answer {
    let control = api.control()?;
    let own = control.own.as_ref().filter(|own| own.name == new.name);
    let state = control.writer.state();
    let name = new.name.clone();
    let member = new_member(&state, own, &mut new)?;
    let relay = model::Relay {
        name: new.name,
        port: new.port.or(own.filter(|_| new.addresses.is_empty()).map(|own| own.port)).unwrap_or_default(),
        addresses: match own {
            Some(own) if new.addresses.is_empty() => own.addresses.clone(),
            _ => new.addresses,
        },
        private: new.private,
    };
    let hosts = which(new.hosts, new.all)?;
    let command = Command::CreateRelay(model::NewRelay { relay, hosts });
    if let Some(member) = member {
        // Both or none, but for what others do in between: so all is planned before anything is done.
        let member = Command::CreateMember(member);
        let mut consequences = control.plan(&control.after(&state, &member)?, &command.clone().into())?;
        if query.dry_run {
            consequences.insert(0, Consequence::Changed(Key::Member(name)));
            return Ok(told(consequences));
        }
        control.write(member, false, gone).await?;
    }
    control
        .write(command, query.dry_run, |state| {
            let relay = control.shown(state, &name)?;
            created("relays", &name, relay.revision, &relay)
        })
        .await
}

/// The member that has to be made first, if there is none that can become the relay.
fn new_member(
    state: &Records,
    own: Option<&Own>,
    new: &mut NewRelay,
) -> Result<Option<model::NewMember>, Problem> {
    let name = &new.name;
    let key = new.public_key.or(own.map(|own| own.public_key));
    let networks: Vec<model::Membership> = new.networks.drain(..).map(Into::into).collect();
    if let Some(member) = state.member(name.as_str()) {
        if key.is_some_and(|key| key != member.public_key) {
            let detail = format!("the member {name} has another public key: a key is one host");
            return Err(Problem::new(409, "other_public_key", detail));
        }
        if let Some(place) = networks.iter().find(|place| member.membership(&place.network).is_none()) {
            let detail =
                format!("the member {name} is not in network {}: change the member first", place.network);
            return Err(Problem::new(409, "other_networks", detail));
        }
        return Ok(None);
    }
    let Some(public_key) = key.filter(|_| !networks.is_empty()) else {
        let detail = format!(
            "there is no member {name}: make it first, or give networks and (unless it is the relay that is asked) its \
             public key, so that it is made"
        );
        return Err(Problem::new(422, "no_member", detail));
    };
    let name = name.clone();
    let (endpoints, tags) = (Vec::new(), Vec::new());
    Ok(Some(model::NewMember {
        name,
        public_key,
        networks,
        endpoints,
        rate_limit: RateLimit::default(),
        tags,
        owner: None,
    }))
}

/// Show a relay
#[utoipa::path(
    get,
    path = "/relays/{name}",
    tag = "relays",
    params(("name" = Name, Path), ("If-None-Match" = String, Header, description = "Only if the answer has none of these ETags")),
    responses((status = 200, body = Relay))
)]
async fn show_relay(_: Reader, State(api): State<Api>, Path(name): Path<Name>, known: IfNoneMatch) -> Answer {
    let control = api.control()?;
    let relay = control.shown(&control.writer.state(), &name)?;
    record_unless(&known, relay.revision, &relay)
}

/// Give a relay other public addresses
#[utoipa::path(
    put,
    path = "/relays/{name}",
    tag = "relays",
    params(("name" = Name, Path), Change, ("If-Match" = String, Header, description = "Only if the record still has one of these ETags")),
    request_body = RelayChange,
    responses((status = 200, body = OrDryRun<Relay>))
)]
async fn change_relay(
    _: Admin,
    State(api): State<Api>,
    Path(name): Path<Name>,
    Query(query): Query<Change>,
    if_match: IfMatch,
    Body(RelayChange { addresses, port, private }): Body<RelayChange>,
) -> Answer {
    let relay = model::Relay { name: name.clone(), addresses, port, private };
    let request = if_match.request(&api, Command::ChangeRelay(relay))?;
    api.control()?.write_relay(request, query.dry_run, &name).await
}

/// What becomes of a relay's hosts.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Deletion {
    /// The relay that relays its hosts from then on, and the new ones of its enrolment keys. Without it they have none.
    #[serde(default)]
    move_to: Option<Name>,
    /// Only tell what the change would bring with it.
    #[serde(default)]
    #[param(required = false)]
    dry_run: bool,
}

/// Make a relay an ordinary member again
#[utoipa::path(
    delete,
    path = "/relays/{name}",
    tag = "relays",
    params(("name" = Name, Path), Deletion, ("If-Match" = String, Header, description = "Only if the record still has one of these ETags")),
    responses((status = 204), (status = 200, body = DryRun, description = "Of a dry run"))
)]
async fn delete_relay(
    _: Admin,
    State(api): State<Api>,
    Path(name): Path<Name>,
    Query(query): Query<Deletion>,
    if_match: IfMatch,
) -> Answer {
    let command = Command::DeleteRelay { name, move_to: query.move_to };
    api.control()?.write(if_match.request(&api, command)?, query.dry_run, gone).await
}

/// Which of a relay's hosts.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Page {
    /// Those behind this name, for the next page.
    after: Option<Name>,
    /// At most so many.
    #[param(value_type = Option<u64>, minimum = 0, maximum = 4294967295u64)]
    limit: Option<u32>,
}

/// List the hosts that a relay relays, with their state
#[utoipa::path(
    get,
    path = "/relays/{name}/hosts",
    tag = "relays",
    params(("name" = Name, Path), Page),
    responses((status = 200, body = Vec<RelayedHost>))
)]
async fn list_relayed_hosts(
    _: Reader,
    State(api): State<Api>,
    Path(name): Path<Name>,
    Query(Page { after, limit }): Query<Page>,
) -> Answer {
    let control = api.control()?;
    let state = control.writer.state();
    control.shown(&state, &name)?;
    let mut seen: HashMap<String, Host> = HashMap::new();
    if control.own.as_ref().is_some_and(|own| own.name == name)
        && let Some(engine) = &api.engine
    {
        let hosts = engine.ask(engine::Request::Hosts).await.ok_or_else(Problem::stopping)?;
        seen.extend(hosts.into_iter().map(|host| (host.name.clone(), host)));
    }
    list(state, move |state| {
        let hosts = state.hosts(name.as_str()).filter_map(|host| state.member(host.as_str()));
        let hosts = hosts.filter(|host| after.as_ref().is_none_or(|after| host.name > *after));
        let hosts = hosts.take(limit.map_or(usize::MAX, |limit| limit as usize));
        Ok(hosts
            .map(|host| RelayedHost {
                name: host.name.clone(),
                public_key: host.public_key,
                active: host.active,
                networks: memberships(&host.networks),
                relay_endpoint: state.home(host),
                seen: seen.remove(host.name.as_str()),
            })
            .collect())
    })
    .await
}

/// Have hosts relayed
///
/// Hosts of other relays come too if they are named. It is edited live: sessions go on.
#[utoipa::path(
    post,
    path = "/relays/{name}/hosts",
    tag = "relays",
    params(("name" = Name, Path), Change, ("If-Match" = String, Header, description = "Only if the record still has one of these ETags")),
    request_body = RelayHosts,
    responses((status = 200, body = OrDryRun<Relay>))
)]
async fn relay_hosts(
    _: Admin,
    State(api): State<Api>,
    Path(name): Path<Name>,
    Query(query): Query<Change>,
    if_match: IfMatch,
    Body(RelayHosts { hosts, all, address }): Body<RelayHosts>,
) -> Answer {
    let command = Command::RelayHosts { relay: name.clone(), hosts: which(hosts, all)?, address };
    api.control()?.write_relay(if_match.request(&api, command)?, query.dry_run, &name).await
}

/// Have all hosts of a relay relayed no more
#[utoipa::path(
    delete,
    path = "/relays/{name}/hosts",
    tag = "relays",
    params(("name" = Name, Path), Change, ("If-Match" = String, Header, description = "Only if the record still has one of these ETags")),
    responses((status = 204), (status = 200, body = DryRun, description = "Of a dry run"))
)]
async fn release_hosts(
    _: Admin,
    State(api): State<Api>,
    Path(name): Path<Name>,
    Query(query): Query<Change>,
    if_match: IfMatch,
) -> Answer {
    let command = Command::ReleaseHosts { relay: name, hosts: Hosts::All };
    api.control()?.write(if_match.request(&api, command)?, query.dry_run, gone).await
}

/// Have a host relayed no more
#[utoipa::path(
    delete,
    path = "/relays/{name}/hosts/{host}",
    tag = "relays",
    params(("name" = Name, Path), ("host" = Name, Path), Change, ("If-Match" = String, Header, description = "Only if the record still has one of these ETags")),
    responses((status = 204), (status = 200, body = DryRun, description = "Of a dry run"))
)]
async fn release_host(
    _: Admin,
    State(api): State<Api>,
    Path((name, host)): Path<(Name, Name)>,
    Query(query): Query<Change>,
    if_match: IfMatch,
) -> Answer {
    let command = Command::ReleaseHosts { relay: name, hosts: Hosts::Named(vec![host]) };
    api.control()?.write(if_match.request(&api, command)?, query.dry_run, gone).await
}

impl Control {
    fn shown(&self, state: &Records, name: &Name) -> Result<Relay, Problem> {
        let kept = state.relay(name.as_str()).ok_or_else(|| missing(Key::Relay(name.clone())))?;
        of(state, kept, self.alive.borrow().contains(name.as_str()))
    }

    async fn write_relay(&self, request: Request, dry_run: bool, name: &Name) -> Answer {
        self.write(request, dry_run, |state| {
            let relay = self.shown(state, name)?;
            record(StatusCode::OK, relay.revision, &relay)
        })
        .await
    }
}

fn of(state: &Records, kept: &model::Kept<model::Relay>, alive: bool) -> Result<Relay, Problem> {
    let member = state.member(kept.name.as_str());
    let member = member.ok_or_else(|| missing(Key::Member(kept.name.clone())))?;
    Ok(Relay {
        name: kept.name.clone(),
        public_key: member.public_key,
        networks: member.networks.iter().map(|place| place.network.clone()).collect(),
        addresses: kept.addresses.clone(),
        port: kept.port,
        private: kept.private,
        hosts: state.hosts(kept.name.as_str()).len(),
        alive,
        revision: kept.revision.0,
    })
}

fn which(named: Vec<Name>, all: bool) -> Result<Hosts, Problem> {
    match (named.is_empty(), all) {
        (false, true) => Err(Problem::new(422, "all_or_named", "give `hosts` or `all`, not both")),
        (_, true) => Ok(Hosts::All),
        (_, false) => Ok(Hosts::Named(named)),
    }
}
