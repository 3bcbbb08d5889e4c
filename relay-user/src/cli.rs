//! The commands that talk to the API, and those that look at this host.

pub(crate) mod asking;
pub(crate) mod configuration;
pub(crate) mod doctor;
pub(crate) mod keys;
pub(crate) mod manual;
pub(crate) mod members;
pub(crate) mod networks;
pub(crate) mod relays;
pub(crate) mod show;
pub(crate) mod status;
pub(crate) mod tokens;
pub(crate) mod top;
pub(crate) mod turn_users;

use std::{net::IpAddr, str::FromStr};

use relay_user::{api::shape::Membership, model::Name};

/// A network, and the addresses in it that are wished: `NETWORK[=ADDRESS[,ADDRESS]]`.
#[derive(Clone, Debug)]
pub(crate) struct Place(Membership);

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (network, addresses) = text.split_once('=').unwrap_or((text, ""));
        let mut place = Membership::of(network.parse::<Name>().map_err(|refusal| refusal.to_string())?);
        for address in addresses.split(',').filter(|address| !address.is_empty()) {
            match address.parse().map_err(|error| format!("{address}: {error}"))? {
                IpAddr::V4(ip) if place.ipv4.is_none() => place.ipv4 = Some(ip),
                IpAddr::V6(ip) if place.ipv6.is_none() => place.ipv6 = Some(ip),
                _ => return Err(format!("{text}: one address of each family")),
            }
        }
        Ok(Self(place))
    }
}

/// Ranges behind a member: `NETWORK=PREFIX`.
#[derive(Clone, Debug)]
pub(crate) struct Route(Name, ipnet::IpNet);

impl FromStr for Route {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (network, prefix) = text.split_once('=').ok_or("give it as NETWORK=PREFIX")?;
        let network = network.parse::<Name>().map_err(|refusal| refusal.to_string())?;
        Ok(Self(network, prefix.parse().map_err(|error| format!("{prefix}: {error}"))?))
    }
}

/// Networks with their routes.
fn memberships(places: Vec<Place>, routes: Vec<Route>) -> anyhow::Result<Vec<Membership>> {
    let mut places: Vec<Membership> = places.into_iter().map(|Place(place)| place).collect();
    for Route(network, prefix) in routes {
        match places.iter_mut().find(|place| place.network == network) {
            Some(place) => place.routes.push(prefix),
            None => anyhow::bail!("a route in {network} takes --network {network}"),
        }
    }
    Ok(places)
}
