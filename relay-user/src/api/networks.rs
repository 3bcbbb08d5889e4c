//! Networks.

use axum::{extract::State, http::StatusCode};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    Api,
    auth::{Admin, Reader},
    extract::{Body, IfMatch, IfNoneMatch, Path, Query},
    shape::{DryRun, Network, NetworkChange, NewNetwork, OrDryRun},
    write::{Answer, Change, created, gone, list, missing, record, record_unless},
};
use crate::model::{self, Command, Key, Name};

pub(super) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(list_networks, create_network)).routes(routes!(
        show_network,
        change_network,
        delete_network
    ))
}

/// List the networks
#[utoipa::path(get, path = "/networks", tag = "networks", responses((status = 200, body = Vec<Network>)))]
async fn list_networks(_: Reader, State(api): State<Api>) -> Answer {
    list(api.control()?.writer.state(), |state| {
        Ok(state.networks().map(|kept| Network::of(state, kept)).collect())
    })
    .await
}

/// Make a network
#[utoipa::path(
    post,
    path = "/networks",
    tag = "networks",
    params(Change),
    request_body = NewNetwork,
    responses((status = 201, body = Network), (status = 200, body = DryRun, description = "Of a dry run"))
)]
async fn create_network(
    _: Admin,
    State(api): State<Api>,
    Query(query): Query<Change>,
    Body(new): Body<NewNetwork>,
) -> Answer {
    let name = new.name.clone();
    let command = Command::CreateNetwork(model::Network { name: new.name, ipv4: new.ipv4, ipv6: new.ipv6 });
    api.control()?
        .write(command, query.dry_run, |state| {
            let network = shown(state, &name)?;
            created("networks", &name, network.revision, &network)
        })
        .await
}

/// Show a network
#[utoipa::path(
    get,
    path = "/networks/{name}",
    tag = "networks",
    params(("name" = Name, Path), ("If-None-Match" = String, Header, description = "Only if the answer has none of these ETags")),
    responses((status = 200, body = Network))
)]
async fn show_network(
    _: Reader,
    State(api): State<Api>,
    Path(name): Path<Name>,
    known: IfNoneMatch,
) -> Answer {
    let network = shown(&api.control()?.writer.state(), &name)?;
    record_unless(&known, network.revision, &network)
}

/// Give a network other prefixes
///
/// A prefix can only grow while it is in use. Members that lack an address of a new family get one.
#[utoipa::path(
    put,
    path = "/networks/{name}",
    tag = "networks",
    params(("name" = Name, Path), Change, ("If-Match" = String, Header, description = "Only if the record still has one of these ETags")),
    request_body = NetworkChange,
    responses((status = 200, body = OrDryRun<Network>))
)]
async fn change_network(
    _: Admin,
    State(api): State<Api>,
    Path(name): Path<Name>,
    Query(query): Query<Change>,
    if_match: IfMatch,
    Body(new): Body<NetworkChange>,
) -> Answer {
    let network = model::Network { name: name.clone(), ipv4: new.ipv4, ipv6: new.ipv6 };
    let request = if_match.request(&api, Command::ChangeNetwork(network))?;
    api.control()?
        .write(request, query.dry_run, |state| {
            let network = shown(state, &name)?;
            record(StatusCode::OK, network.revision, &network)
        })
        .await
}

/// Delete an empty network, and the enrolment keys for it
#[utoipa::path(
    delete,
    path = "/networks/{name}",
    tag = "networks",
    params(("name" = Name, Path), Change, ("If-Match" = String, Header, description = "Only if the record still has one of these ETags")),
    responses((status = 204), (status = 200, body = DryRun, description = "Of a dry run"))
)]
async fn delete_network(
    _: Admin,
    State(api): State<Api>,
    Path(name): Path<Name>,
    Query(query): Query<Change>,
    if_match: IfMatch,
) -> Answer {
    let request = if_match.request(&api, Command::DeleteNetwork(name))?;
    api.control()?.write(request, query.dry_run, gone).await
}

fn shown(state: &model::State, name: &Name) -> Result<Network, super::Problem> {
    let kept = state.network(name.as_str()).ok_or_else(|| missing(Key::Network(name.clone())))?;
    Ok(Network::of(state, kept))
}
