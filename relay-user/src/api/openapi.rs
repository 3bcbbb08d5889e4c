//! The OpenAPI document, and the routes that it describes: both come from the same handlers.

use axum::{Router, http::header::CONTENT_TYPE, routing::get};
use utoipa::{
    OpenApi, PartialSchema as _,
    openapi::{
        Content, ContentBuilder, Header, RefOr, Required, ResponseBuilder,
        path::{Operation, ParameterIn},
        security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme},
    },
};
use utoipa_axum::router::OpenApiRouter;

use super::{
    Api, changes, enrol, here, keys, members, networks,
    problem::{self, Problem},
    relays, schema,
    shape::Changed,
    tokens, turn_users,
};
use crate::model::{Name, Role};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "wgrelay",
        description = "Who is in which network, who relays whom, and who may join.\n\n\
                       Every record has its revision as its ETag: with If-Match a change is made only if the record is \
                       still the same. Every error is a problem (RFC 9457) with a stable `code`.",
        license(name = "MIT OR Apache-2.0", identifier = "MIT OR Apache-2.0")
    ),
    components(schemas(
        Changed,
        Name,
        Role,
        Problem,
        schema::Address,
        schema::Credential,
        schema::ETag,
        schema::Endpoint,
        schema::Ipv4,
        schema::Ipv4Prefix,
        schema::Ipv6,
        schema::Ipv6Prefix,
        schema::Prefix,
        schema::PublicKey,
        schema::Realm,
        schema::TurnKey
    ))
)]
struct Document;

/// Where everything is.
const BASE: &str = "/v1";

/// Routes that answer at once, those that may wait, and the document that describes all.
pub(super) fn routes() -> (Router<Api>, Router<Api>, utoipa::openapi::OpenApi) {
    let quick = OpenApiRouter::with_openapi(Document::openapi()).nest(
        BASE,
        here::routes()
            .merge(networks::routes())
            .merge(members::routes())
            .merge(relays::routes())
            .merge(keys::routes())
            .merge(tokens::routes())
            .merge(turn_users::routes())
            .merge(enrol::routes()),
    );
    let waiting = OpenApiRouter::new().nest(BASE, members::waiting_routes().merge(changes::routes()));
    let ((quick, mut document), (waiting, other)) = (quick.split_for_parts(), waiting.split_for_parts());
    document.merge(other);
    complete(&mut document);
    (quick, waiting, document)
}

/// The document itself, which needs no token.
pub(super) fn served(document: &utoipa::openapi::OpenApi) -> Router<Api> {
    let json: axum::body::Bytes = document.to_json().expect("the document is plain").into();
    let serve = async move || ([(CONTENT_TYPE, "application/json")], json.clone());
    Router::new().route(&format!("{BASE}/openapi.json"), get(serve))
}

/// Adds what is the same everywhere: the token, and that errors are problems.
fn complete(document: &mut utoipa::openapi::OpenApi) {
    let components = document.components.get_or_insert_default();
    let bearer = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some("A token, as ID.SECRET. Not needed on the unix socket."));
    components.add_security_scheme("token", SecurityScheme::Http(bearer.build()));
    document.security = Some(vec![SecurityRequirement::new("token", [""; 0])]);
    let problem = ResponseBuilder::new()
        .description("Something is wrong: see its code")
        .content(problem::MEDIA_TYPE, reference("Problem"))
        .build();
    for item in document.paths.paths.values_mut() {
        let operations = [&mut item.get, &mut item.post, &mut item.put, &mut item.patch, &mut item.delete];
        for operation in operations.into_iter().flatten() {
            let operation: &mut Operation = operation;
            describe(operation);
            operation.responses.responses.insert("default".to_owned(), problem.clone().into());
        }
    }
}

/// Says what the statuses of success mean, and which answers have an ETag.
fn describe(operation: &mut Operation) {
    let takes = |header| operation.parameters.iter().flatten().any(|parameter| parameter.name == header);
    let (may_match, has_tag) = (takes("If-None-Match"), takes("If-None-Match") || takes("If-Match"));
    if may_match {
        let same = ResponseBuilder::new().description("It is still the same");
        operation.responses.responses.insert("304".to_owned(), same.build().into());
    }
    // No header is: utoipa takes all of them to be required that can't be null.
    for parameter in operation.parameters.iter_mut().flatten() {
        if parameter.parameter_in == ParameterIn::Header {
            parameter.required = Required::False;
        }
    }
    for (status, response) in &mut operation.responses.responses {
        let RefOr::T(response) = response else { continue };
        let meaning = match status.as_str() {
            "200" => "What was asked for",
            "201" => "It has been made",
            "204" => "It is gone",
            _ => continue,
        };
        if response.description.is_empty() {
            response.description = meaning.to_owned();
        }
        if status == "201" || (status == "200" && has_tag) {
            response.headers.insert("ETag".to_owned(), Header::new(schema::ETag::schema()));
        }
    }
}

fn reference(schema: &str) -> Content {
    let schema = utoipa::openapi::Ref::from_schema_name(schema);
    ContentBuilder::new().schema(Some(schema)).build()
}
