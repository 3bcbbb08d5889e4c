//! What a Netmaker server answers, as far as it is used. Its versions differ: what is missing or null is left at its
//! default, what is unknown is passed over, and an entry that can't be read is left out by itself.

use std::net::IpAddr;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

/// A host: one WireGuard key and socket, whatever the number of its networks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Host {
    /// Its id.
    #[serde(deserialize_with = "nullable")]
    pub id: String,
    /// Its name, not always unique.
    #[serde(deserialize_with = "nullable")]
    pub name: String,
    /// Its WireGuard public key.
    #[serde(deserialize_with = "nullable")]
    pub publickey: String,
    /// Its public address, of either family.
    #[serde(deserialize_with = "nullable")]
    endpointip: String,
    /// Its public IPv6 address, where the server knows both.
    #[serde(deserialize_with = "nullable")]
    endpointipv6: String,
    /// Where its WireGuard listens.
    #[serde(deserialize_with = "nullable")]
    listenport: i64,
    /// Where that is seen from outside.
    #[serde(deserialize_with = "nullable")]
    wg_public_listen_port: i64,
    /// Whether its address was given by hand.
    #[serde(deserialize_with = "nullable")]
    isstatic: bool,
    /// Whether its port was. Older servers have one flag for both.
    isstaticport: Option<bool>,
}

/// A host in one network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Node {
    /// Its id.
    #[serde(deserialize_with = "nullable")]
    pub id: String,
    /// The host that it belongs to.
    #[serde(deserialize_with = "nullable")]
    pub hostid: String,
    /// Its network.
    #[serde(deserialize_with = "nullable")]
    pub network: String,
    /// The node that relays it.
    #[serde(deserialize_with = "nullable")]
    pub relayedby: String,
    /// Whether it takes part; older servers don't say.
    pub connected: Option<bool>,
    /// Whether it is about to go.
    #[serde(deserialize_with = "nullable")]
    pub pendingdelete: bool,
    /// Whether it is no host but a client of a gateway.
    #[serde(deserialize_with = "nullable")]
    pub is_static: bool,
    /// When it was last heard of, in seconds since 1970.
    #[serde(deserialize_with = "nullable")]
    pub lastcheckin: i64,
    /// Its tags, as `NETWORK.NAME`.
    #[serde(deserialize_with = "tags")]
    pub tags: Vec<String>,
}

impl Host {
    /// Its public addresses, at most one of a family, and its port.
    pub fn reached_at(&self) -> (Vec<IpAddr>, Option<u16>) {
        let mut addresses: Vec<IpAddr> = Vec::new();
        for text in [&self.endpointip, &self.endpointipv6] {
            // An address that is not known may be "", or what Go prints for none.
            let Ok(address) = text.parse::<IpAddr>().map(|address| address.to_canonical()) else { continue };
            if addresses.iter().all(|earlier| earlier.is_ipv4() != address.is_ipv4()) {
                addresses.push(address);
            }
        }
        let fixed = self.isstaticport.unwrap_or(self.isstatic);
        let port = if fixed || self.wg_public_listen_port == 0 {
            self.listenport
        } else {
            self.wg_public_listen_port
        };
        (addresses, u16::try_from(port).ok().filter(|port| *port != 0))
    }
}

fn nullable<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// Servers give them as the keys of an object.
fn tags<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    Ok(match Value::deserialize(deserializer)? {
        Value::Object(tags) => tags.into_iter().map(|(tag, _)| tag).collect(),
        Value::Array(tags) => tags.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        _ => Vec::new(),
    })
}

/// An array, or null for an empty one.
pub(super) fn list(answer: Value) -> Option<Vec<Value>> {
    match answer {
        Value::Array(entries) => Some(entries),
        Value::Null => Some(Vec::new()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn port(host: Value) -> Option<u16> {
        serde_json::from_value::<Host>(host).unwrap().reached_at().1
    }

    #[test]
    fn the_port_is_the_public_one_unless_it_is_fixed() {
        let both = json!({"listenport": 51821, "wg_public_listen_port": 40112});
        let with = |key: &str, value: Value| {
            let mut host = both.clone();
            host[key] = value;
            host
        };
        assert_eq!(port(both.clone()), Some(40112));
        assert_eq!(port(with("wg_public_listen_port", json!(0))), Some(51821));
        assert_eq!(port(with("wg_public_listen_port", Value::Null)), Some(51821));
        assert_eq!(port(with("isstaticport", json!(true))), Some(51821));
        // An address that was given by hand, with a port that was not.
        let address_only = with("isstatic", json!(true));
        assert_eq!(port(address_only.clone()), Some(51821), "servers without isstaticport");
        let mut newer = address_only;
        newer["isstaticport"] = json!(false);
        assert_eq!(port(newer), Some(40112));
        assert_eq!(port(json!({"listenport": 0})), None);
        assert_eq!(port(json!({"listenport": 70000})), None);
        assert_eq!(port(json!({"listenport": -1})), None);
    }

    #[test]
    fn an_address_may_be_missing_null_or_of_either_family() {
        let addresses = |v4: Value, v6: Value| {
            let host = json!({"endpointip": v4, "endpointipv6": v6, "listenport": 1});
            serde_json::from_value::<Host>(host).unwrap().reached_at().0
        };
        let (v4, v6): (IpAddr, IpAddr) = ("203.0.113.7".parse().unwrap(), "2001:db8::7".parse().unwrap());
        assert_eq!(addresses(json!("203.0.113.7"), json!("2001:db8::7")), [v4, v6]);
        assert_eq!(addresses(json!("2001:db8::7"), json!("")), [v6]);
        assert_eq!(addresses(json!("2001:db8::7"), json!("2001:db8::8")), [v6]);
        assert_eq!(addresses(json!("::ffff:203.0.113.7"), Value::Null), [v4]);
        assert!(addresses(json!("<nil>"), Value::Null).is_empty());
    }

    #[test]
    fn tags_are_an_object_a_list_or_nothing() {
        let tags = |tags: Value| serde_json::from_value::<Node>(json!({"tags": tags})).unwrap().tags;
        assert_eq!(tags(json!({"net.a": {}, "net.b": {}})), ["net.a", "net.b"]);
        assert_eq!(tags(json!(["a"])), ["a"]);
        assert!(tags(Value::Null).is_empty());
    }
}
