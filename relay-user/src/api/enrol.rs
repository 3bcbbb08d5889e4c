//! Hosts that join by themselves.

use axum::{
    extract::{FromRequestParts, State},
    http::{HeaderMap, StatusCode, request::Parts},
    response::IntoResponse as _,
};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    Api,
    auth::Source,
    extract::Body,
    members::wants_text,
    problem::Problem,
    shape::{Configuration, Enrol, EnrolAnswer, Member},
    write::{Answer, aside, draw, record},
};
use crate::{
    model::{self, Command, Credential, Refusal, ViaRelay},
    store::WriteError,
};

pub(super) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(enrol))
}

impl FromRequestParts<Api> for Source {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &Api) -> Result<Self, Problem> {
        Ok(Self::of(parts))
    }
}

/// Join a network with an enrolment key
///
/// The key is the credential: this takes no token. With `Accept: text/plain` the answer is a file for wg-quick, without the
/// private key. A new host is made (201); it has ten minutes to prove its public key by
/// a handshake with a relay. A host that is known already shows its owner's secret as `proof`: it joins the network too,
/// or, if it is in it, is told again what it is (200), which costs no use of the key.
#[utoipa::path(
    post,
    path = "/enrol",
    tag = "enrolment",
    security(()),
    request_body = Enrol,
    responses(
        (status = 201, content((EnrolAnswer = "application/json"), (String = "text/plain"))),
        (
            status = 200,
            description = "A known host",
            content((EnrolAnswer = "application/json"), (String = "text/plain"))
        )
    )
)]
async fn enrol(
    source: Source,
    State(api): State<Api>,
    headers: HeaderMap,
    Body(enrol): Body<Enrol>,
) -> Answer {
    let control = api.control()?;
    // What can't be a credential is a wrong one.
    let wrong_key = || api.failed(source, &Refusal::WrongKey());
    let key: Credential = enrol.key.parse().map_err(|()| wrong_key())?;
    let proof = match &enrol.proof {
        Some(proof) => Some(proof.parse().map_err(|()| api.failed(source, &Refusal::OwnerNeeded()))?),
        None => None,
    };
    // A new host's own secret will do: so it can ask again if it has not heard the answer.
    let secret = match &proof {
        Some(Credential { secret, .. }) => secret.clone(),
        None => draw()?,
    };
    let known = control.writer.state().by_public_key(enrol.public_key).map(|member| member.enrolled.clone());
    let command = Command::Enrol(model::Enrol {
        key,
        name: enrol.name,
        public_key: enrol.public_key,
        endpoints: enrol.endpoints,
        owner: secret.hash(),
        proof,
    });
    let state = match control.writer.write(command.clone()).await {
        Ok(done) => done.state,
        Err(WriteError::Refused(refusal @ (Refusal::WrongKey() | Refusal::OwnerNeeded()))) => {
            return Err(api.failed(source, &refusal));
        }
        Err(error) => return Err(Problem::not_done(&error, &command)),
    };
    let public_key = enrol.public_key;
    let (new, answer, configuration) = aside(move || {
        let gone = || Problem::new(409, "gone", "the host was deleted at the same time: enrol it again");
        let member = state.by_public_key(public_key).ok_or_else(gone)?;
        let new = known.is_none_or(|enrolled| enrolled != member.enrolled);
        let owner = new.then(|| Credential { id: member.name.clone(), secret }.reveal());
        let (shape, configuration) =
            Configuration::of(&state, member.name.as_str(), ViaRelay::Always).map_err(|_| gone())?;
        let answer = EnrolAnswer { member: Member::of(&state, member), owner, configuration: shape };
        Ok((new, answer, configuration))
    })
    .await?;
    let status = if new { StatusCode::CREATED } else { StatusCode::OK };
    if wants_text(&headers) {
        let owner = answer.owner.map(|owner| format!("# The owner's secret, told this once: {owner}\n"));
        let text = format!(
            "# {}\n{}{}",
            answer.member.name,
            owner.unwrap_or_default(),
            configuration.wg_quick(None)
        );
        return Ok((status, text).into_response());
    }
    record(status, answer.member.revision, &answer)
}

impl Api {
    /// A credential was wrong.
    fn failed(&self, source: Source, refusal: &Refusal) -> Problem {
        let told = || Problem::new(403, refusal.code(), refusal);
        // Whoever may open the unix socket may do everything anyway.
        let counted =
            if self.access == super::Access::Credentials { self.failures.count(source) } else { None };
        counted.unwrap_or_else(told)
    }
}
