//! Who asks, and what that allows.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    num::NonZeroU32,
    time::Duration,
};

use axum::{
    extract::{ConnectInfo, FromRequestParts},
    http::{header::AUTHORIZATION, request::Parts},
};
use governor::{
    DefaultKeyedRateLimiter, Quota, RateLimiter,
    clock::{Clock as _, DefaultClock},
};

use super::{Api, problem::Problem};
use crate::{
    model::{Credential, Name, Role, State},
    store::unix_time,
};

/// Who may ask at a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Whoever can open it, and everything: the unix socket, which has permissions.
    Everybody,
    /// Who shows a credential.
    Credentials,
}

/// Who asks.
#[derive(Clone, Debug)]
pub(super) enum Caller {
    /// Somebody who could open the unix socket.
    Local,
    /// The bearer of a token.
    Token(Name, Role),
    /// The owner of a member.
    Owner(Name),
}

impl Caller {
    /// Whether it may still do what it could when it came: a token may be deleted or expire while it waits.
    pub(super) fn is_still_known(&self, state: &State) -> bool {
        match self {
            Self::Local => true,
            Self::Token(id, _) => state
                .token_record(id.as_str())
                .is_some_and(|token| token.expires.is_none_or(|expires| unix_time() < expires)),
            Self::Owner(name) => state.member(name.as_str()).is_some_and(|member| member.owner.is_some()),
        }
    }

    fn needs(&self, what: &str, enough: impl Fn(Role) -> bool) -> Result<(), Problem> {
        let who = match self {
            Self::Local => return Ok(()),
            Self::Token(_, role) if enough(*role) => return Ok(()),
            Self::Token(id, role) => format!("the token {id} has the role {role}"),
            Self::Owner(name) => {
                format!("the secret of the owner of {name} is good for that member alone")
            }
        };
        Err(Problem::new(403, "not_allowed", format!("{who}; this takes {what}")))
    }

    /// Whether it is a member's owner.
    pub(super) fn owns(&self, member: &Name) -> bool {
        matches!(self, Self::Owner(name) if name == member)
    }

    /// Whether it may delete a member.
    pub(super) fn may_delete(&self, member: &Name) -> Result<(), Problem> {
        if self.owns(member) {
            return Ok(());
        }
        self.needs("a token with the role admin, or the owner's secret", |role| role == Role::Admin)
    }

    /// Whether it may see a member's configuration.
    pub(super) fn may_configure(&self, member: &Name) -> Result<(), Problem> {
        if self.owns(member) {
            return Ok(());
        }
        self.needs("a token with the role admin or read, or the owner's secret", reads)
    }
}

fn reads(role: Role) -> bool {
    matches!(role, Role::Admin | Role::Read)
}

/// Stands for somebody who may do everything.
pub(super) struct Admin;
/// Stands for somebody who may see everything but secrets.
pub(super) struct Reader;
/// Stands for somebody who may make enrolment keys.
pub(super) struct KeyMaker;

impl FromRequestParts<Api> for Admin {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Problem> {
        let caller = Caller::from_request_parts(parts, api).await?;
        caller.needs("a token with the role admin", |role| role == Role::Admin).map(|()| Self)
    }
}

impl FromRequestParts<Api> for Reader {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Problem> {
        let caller = Caller::from_request_parts(parts, api).await?;
        caller.needs("a token with the role admin or read", reads).map(|()| Self)
    }
}

impl FromRequestParts<Api> for KeyMaker {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Problem> {
        let caller = Caller::from_request_parts(parts, api).await?;
        let enough = |role| matches!(role, Role::Admin | Role::Enrol);
        caller.needs("a token with the role admin or enrol", enough).map(|()| Self)
    }
}

impl FromRequestParts<Api> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Problem> {
        if api.access == Access::Everybody {
            return Ok(Self::Local);
        }
        let Some(header) = parts.headers.get(AUTHORIZATION) else {
            return Err(Problem::new(401, "no_token", "this takes a token: Authorization: Bearer ID.SECRET"));
        };
        let shown = header.to_str().ok().and_then(|text| {
            let (scheme, credential) = text.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then(|| credential.trim().parse::<Credential>().ok())?
        });
        // Without a store there are no tokens either.
        let state = api.control().ok().map(|control| control.writer.state());
        let known = shown.zip(state).and_then(|(Credential { id, secret }, state)| {
            if let Some(token) = state.token(id.as_str(), &secret, unix_time()) {
                return Some(Self::Token(id, token.role));
            }
            state.owns(id.as_str(), &secret).then_some(Self::Owner(id))
        });
        let wrong = || {
            Problem::new(401, "wrong_token", "there is no such token, or it has expired: ask for a new one")
        };
        known.ok_or_else(|| api.failures.count(Source::of(parts)).unwrap_or_else(wrong))
    }
}

/// Where somebody asks from: those who can choose among many addresses count as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Source(IpAddr);

impl Source {
    pub(super) fn of(parts: &Parts) -> Self {
        let peer = parts.extensions.get::<ConnectInfo<SocketAddr>>();
        Self::new(peer.map_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED), |ConnectInfo(peer)| peer.ip()))
    }

    fn new(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            // A network of 64 bits is one site's.
            IpAddr::V6(ip) => IpAddr::V6((u128::from(ip) >> 64 << 64).into()),
            v4 => v4,
        })
    }
}

/// Counts wrong credentials by where they come from.
///
/// Too many are told so, cheaply. A right credential is accepted all the same: behind one address there may be a thousand
/// hosts, of which one alone has been removed and still asks; and secrets of 256 bits are not found by trying.
pub(super) struct Failures(DefaultKeyedRateLimiter<Source>);

impl Failures {
    /// At once.
    const BURST: NonZeroU32 = NonZeroU32::new(20).expect("it is not 0");
    const EVERY: Duration = Duration::from_secs(3);
    /// How many sources are remembered before those of long ago are looked for.
    const SOURCES: usize = 10_000;

    pub(super) fn new() -> Self {
        let quota = Quota::with_period(Self::EVERY).expect("it is not 0").allow_burst(Self::BURST);
        Self(RateLimiter::keyed(quota))
    }

    /// Counts one; too many are a problem of their own.
    pub(super) fn count(&self, source: Source) -> Option<Problem> {
        if self.0.len() > Self::SOURCES {
            self.0.retain_recent();
        }
        let wait = self.0.check_key(&source).err()?.wait_time_from(DefaultClock::default().now());
        let detail =
            "too many wrong credentials from this address: see that none is used any more that was deleted";
        Some(Problem::new(429, "too_many_failures", detail).retry_after(wait))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_credentials_are_counted_by_site() {
        let failures = Failures::new();
        let at = |text: &str| Source::new(text.parse().unwrap());
        for n in 0..Failures::BURST.get() {
            assert_eq!(failures.count(at(&format!("2001:db8::{n:x}"))), None);
        }
        let told = failures.count(at("2001:db8::ffff")).expect("it is too much");
        assert_eq!((told.status, &*told.code), (429, "too_many_failures"));
        assert_eq!(failures.count(at("2001:db8:0:1::1")), None, "another site");
        assert_eq!(at("::ffff:192.0.2.1"), at("192.0.2.1"));
    }
}
