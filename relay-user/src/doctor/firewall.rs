//! Which of the host's nftables rules would bite. Pure: the ruleset, as `nft -j list ruleset` tells it, goes in.
//!
//! Relayed data never comes to netfilter, but registrations, handshake messages and the slow path do. So two packets are
//! followed through the rules: one to the relay port from a source that nobody knows, and one from the relay port. Of a
//! rule that looks at something that is not known of them it is not known whether it matches; then neither is the verdict,
//! unless all ways lead to the same one.

use std::{collections::BTreeSet, net::IpAddr};

use ipnet::IpNet;
use serde_json::Value;

use super::{Findings, Level};

/// What the checks need to know besides the rules.
#[derive(Clone, Debug, Default)]
pub struct Place {
    /// The relay port.
    pub port: u16,
    /// The relay's addresses.
    pub addresses: Vec<IpAddr>,
    /// The interfaces that relayed packets come and leave by.
    pub interfaces: Vec<String>,
    /// Whether `iptables-legacy` has tables of its own, which nftables does not show.
    pub legacy: bool,
}

/// How the rules were asked for.
#[derive(Clone, Debug)]
pub enum Ruleset {
    /// As `nft -j list ruleset` printed them.
    Known(Value),
    /// They can't be seen, and why.
    Unknown(String),
}

const CHECK: &str = "firewall";
/// Raw tables, in which `notrack` is of use, come before connection tracking.
const CONNTRACK_PRIORITY: i64 = -200;
/// How deep chains may call each other: as the kernel allows.
const DEPTH: usize = 16;

/// Looks for rules that bite.
pub fn check(ruleset: &Ruleset, place: &Place, findings: &mut Findings) {
    let rules = match ruleset {
        Ruleset::Known(rules) => Rules(rules["nftables"].as_array().map_or(&[], Vec::as_slice)),
        Ruleset::Unknown(why) => {
            findings.add(
                CHECK,
                Level::Warning,
                format!("nftables' rules could not be looked at: {why}"),
                "install nftables, and run this as root",
            );
            return;
        }
    };
    if place.legacy {
        findings.add(
            CHECK,
            Level::Warning,
            "there are tables of iptables-legacy, whose rules are not looked at",
            format!(
                "check by hand that UDP to port {0} is accepted, and not masqueraded: `iptables-legacy-save | grep -e {0} -e \
                 MASQUERADE -e SNAT -e DROP`",
                place.port
            ),
        );
    }
    let before = findings.len();
    incoming(&rules, place, findings);
    outgoing(&rules, place, findings);
    tracking(&rules, place, findings);
    if findings.len() == before {
        findings.ok(CHECK, format!("no nftables rule is in the way of UDP port {}", place.port));
    }
}

/// Is what comes to the relay port let in, and to this port?
fn incoming(rules: &Rules<'_>, place: &Place, findings: &mut Findings) {
    let packet = Packet { place, out: false };
    for chain in rules.hooked(&["ingress", "prerouting", "input"]) {
        let (table, fate) = (chain.table(), rules.fate(&chain, &packet, 0));
        let accept = format!(
            "nft insert rule {} {} {} udp dport {} accept",
            chain.family(),
            chain.name_of_table(),
            chain.name(),
            place.port
        );
        if fate.drops == Some(true) {
            findings.add(
                CHECK,
                Level::Error,
                format!(
                    "chain {} of {table} drops what comes to UDP port {}: hosts can't register",
                    chain.name(),
                    place.port
                ),
                accept.as_str(),
            );
        } else if fate.drops.is_none() {
            findings.add(
                CHECK,
                Level::Warning,
                format!(
                    "chain {} of {table} may drop what comes to UDP port {}: it depends on more than the port",
                    chain.name(),
                    place.port
                ),
                format!("unless this is meant: {accept}"),
            );
        }
        if fate.translates != Some(false) {
            findings.add(
                CHECK,
                if fate.translates.is_none() { Level::Warning } else { Level::Error },
                format!(
                    "chain {} of {table} redirects UDP port {} elsewhere (DNAT): registrations and handshakes go there",
                    chain.name(),
                    place.port
                ),
                format!("exempt it before that rule: {accept}"),
            );
        }
    }
}

/// Does what leaves from the relay port leave, and from that port?
fn outgoing(rules: &Rules<'_>, place: &Place, findings: &mut Findings) {
    let packet = Packet { place, out: true };
    let untracked = rules.untracked("output", &packet);
    for chain in rules.hooked(&["output", "postrouting"]) {
        let (table, fate) = (chain.table(), rules.fate(&chain, &packet, 0));
        if fate.drops != Some(false) {
            findings.add(
                CHECK,
                if fate.drops.is_none() { Level::Warning } else { Level::Error },
                format!(
                    "chain {} of {table} {} what leaves from UDP port {}: handshakes are not sent on",
                    chain.name(),
                    if fate.drops.is_none() { "may drop" } else { "drops" },
                    place.port
                ),
                format!(
                    "nft insert rule {} {} {} udp sport {} accept",
                    chain.family(),
                    chain.name_of_table(),
                    chain.name(),
                    place.port
                ),
            );
        }
        if fate.translates != Some(false) && !untracked {
            findings.add(
                CHECK,
                Level::Warning,
                format!(
                    "chain {} of {table} {} what leaves from UDP port {}: answers to relayed handshakes come to another port",
                    chain.name(),
                    if fate.translates.is_none() { "may masquerade" } else { "masquerades" },
                    place.port
                ),
                notrack(place.port),
            );
        }
    }
}

/// Is the relay port kept out of connection tracking, where there is any?
fn tracking(rules: &Rules<'_>, place: &Place, findings: &mut Findings) {
    let kept_out = rules.untracked("prerouting", &Packet { place, out: false })
        && rules.untracked("output", &Packet { place, out: true });
    if rules.track() && !kept_out {
        findings.add(
            CHECK,
            Level::Warning,
            "connections are tracked, those of the relay port too: a flood fills the table, and the slow path pays for it",
            notrack(place.port),
        );
    }
}

/// The command that keeps a port out of connection tracking.
fn notrack(port: u16) -> String {
    format!(
        "nft 'table inet wgrelay {{ chain output {{ type filter hook output priority raw; udp sport {port} notrack; }}; chain \
         prerouting {{ type filter hook prerouting priority raw; udp dport {port} notrack; }}; }}', and in the file that is \
         loaded at boot"
    )
}

/// A packet to or from the relay port that begins a connection.
struct Packet<'a> {
    place: &'a Place,
    out: bool,
}

/// What a chain does with a packet: `None` if that can't be said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fate {
    drops: Option<bool>,
    translates: Option<bool>,
}

/// Where the walk through a chain stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// The next rule's turn.
    Next,
    /// Back to the chain that called.
    Return,
    /// The verdict of the base chain.
    Drop,
    Accept,
    Translate,
}

struct Rules<'a>(&'a [Value]);

#[derive(Clone, Copy)]
struct Chain<'a>(&'a Value);

impl<'a> Chain<'a> {
    fn text(self, key: &str) -> &'a str {
        self.0[key].as_str().unwrap_or_default()
    }

    fn name(self) -> &'a str {
        self.text("name")
    }

    fn family(self) -> &'a str {
        self.text("family")
    }

    fn name_of_table(self) -> &'a str {
        self.text("table")
    }

    fn table(self) -> String {
        format!("table {} {}", self.family(), self.name_of_table())
    }
}

impl<'a> Rules<'a> {
    fn objects(&self, kind: &'static str) -> impl Iterator<Item = &'a Value> + use<'a> {
        self.0.iter().map(move |object| &object[kind]).filter(|object| object.is_object())
    }

    /// The chains at these hooks.
    fn hooked(&self, hooks: &'static [&str]) -> impl Iterator<Item = Chain<'a>> + use<'a> {
        self.objects("chain").map(Chain).filter(move |chain| hooks.contains(&chain.text("hook")))
    }

    /// The statements of each rule of a chain, in their order.
    fn of(&self, chain: Chain<'a>) -> impl Iterator<Item = &'a [Value]> + use<'a> {
        let here = move |rule: &&Value| {
            rule["family"] == chain.0["family"]
                && rule["table"] == chain.0["table"]
                && rule["chain"] == chain.0["name"]
        };
        self.objects("rule").filter(here).map(|rule| rule["expr"].as_array().map_or(&[][..], Vec::as_slice))
    }

    fn called(&self, from: Chain<'a>, name: &str) -> Option<Chain<'a>> {
        let here =
            |chain: &Chain<'_>| chain.0["family"] == from.0["family"] && chain.0["table"] == from.0["table"];
        self.objects("chain").map(Chain).find(|chain| here(chain) && chain.name() == name)
    }

    /// Whether anything here makes the kernel track connections.
    fn track(&self) -> bool {
        let nat = self.objects("chain").any(|chain| chain["type"] == "nat");
        nat || self.objects("rule").any(|rule| {
            let text = rule["expr"].to_string();
            ["\"ct\":", "\"masquerade\":", "\"flow\":", "conntrack"].iter().any(|word| text.contains(word))
        })
    }

    /// Whether a packet is surely kept out of connection tracking at this hook.
    fn untracked(&self, hook: &str, packet: &Packet<'_>) -> bool {
        let early = |chain: &Chain<'_>| {
            chain.text("hook") == hook && chain.0["prio"].as_i64().is_some_and(|p| p < CONNTRACK_PRIORITY)
        };
        self.objects("chain").map(Chain).filter(early).any(|chain| {
            self.of(chain).any(|rule| {
                rule.iter().any(|statement| statement.get("notrack").is_some())
                    && packet.matches(rule) == Some(true)
            })
        })
    }

    fn fate(&self, chain: &Chain<'a>, packet: &Packet<'_>, depth: usize) -> Fate {
        let mut ends = Vec::new();
        self.walk(*chain, packet, depth, &mut ends);
        let by_policy = if chain.text("policy") == "drop" { End::Drop } else { End::Accept };
        let ends: Vec<End> = ends
            .into_iter()
            .map(|end| if matches!(end, End::Next | End::Return) { by_policy } else { end })
            .collect();
        let is = |wanted| match ends.iter().filter(|&&end| end == wanted).count() {
            0 => Some(false),
            n if n == ends.len() => Some(true),
            _ => None,
        };
        Fate { drops: is(End::Drop), translates: is(End::Translate) }
    }

    /// All the ends that a packet may come to in a chain; the last is where it surely comes if nothing doubtful matches.
    fn walk(&self, chain: Chain<'a>, packet: &Packet<'_>, depth: usize, ends: &mut Vec<End>) {
        for rule in self.of(chain) {
            let sure = match packet.matches(rule) {
                Some(false) => continue,
                matches => matches == Some(true),
            };
            let may = self.end_of(rule, chain, packet, depth);
            ends.extend(may.iter().filter(|&&end| end != End::Next));
            if sure && !may.contains(&End::Next) {
                return;
            }
        }
        ends.push(End::Next);
    }

    /// What a rule that matches does.
    fn end_of(&self, rule: &[Value], chain: Chain<'a>, packet: &Packet<'_>, depth: usize) -> Vec<End> {
        for statement in rule {
            let Some((word, value)) = statement.as_object().and_then(|s| s.iter().next()) else { continue };
            let target = value["target"].as_str();
            match (word.as_str(), target) {
                ("accept", _) => return vec![End::Accept],
                ("drop" | "reject", _) => return vec![End::Drop],
                ("return", _) => return vec![End::Return],
                ("masquerade" | "snat" | "dnat" | "redirect", _) => return vec![End::Translate],
                ("jump" | "goto", Some(name)) if depth < DEPTH => {
                    let Some(called) = self.called(chain, name) else { return vec![End::Next] };
                    let mut ends = Vec::new();
                    self.walk(called, packet, depth + 1, &mut ends);
                    return ends.into_iter().map(|e| if e == End::Return { End::Next } else { e }).collect();
                }
                // What iptables has put there.
                ("xt", _) => match value["name"].as_str() {
                    Some("MASQUERADE" | "SNAT" | "DNAT" | "REDIRECT") => return vec![End::Translate],
                    Some("REJECT") => return vec![End::Drop],
                    _ => {}
                },
                _ => {}
            }
        }
        vec![End::Next]
    }
}

impl Packet<'_> {
    /// Whether all of a rule's conditions hold.
    fn matches(&self, rule: &[Value]) -> Option<bool> {
        let conditions = rule.iter().map(|statement| match statement.as_object()?.iter().next()? {
            (word, condition) if word == "match" => self.holds(condition),
            (word, xt) if word == "xt" && xt["type"] == "target" => Some(true),
            // A limit, a match of iptables, a map of verdicts: it depends.
            (word, _) if ["limit", "xt", "vmap", "quota", "meter"].contains(&word.as_str()) => None,
            _ => Some(true),
        });
        let all: Vec<Option<bool>> = conditions.collect();
        if all.contains(&Some(false)) {
            Some(false)
        } else if all.contains(&None) {
            None
        } else {
            Some(true)
        }
    }

    fn holds(&self, condition: &Value) -> Option<bool> {
        let (left, right) = (&condition["left"], &condition["right"]);
        let is = match left.as_object()?.iter().next()? {
            (word, payload) if word == "payload" => {
                self.payload(payload["protocol"].as_str()?, payload["field"].as_str()?, right)?
            }
            (word, meta) if word == "meta" => match meta["key"].as_str()? {
                "l4proto" => any(right, |value| value == "udp" || value == 17),
                "iifname" | "iif" if !self.out => self.interface(right)?,
                "oifname" | "oif" if self.out => self.interface(right)?,
                "nfproto" | "protocol" => {
                    // One of the families will do: the other has a packet of its own.
                    any(right, |value| value == "ipv4" || value == "ipv6" || value == "ip" || value == "ip6")
                        .then_some(true)?
                }
                _ => return None,
            },
            (word, ct) if word == "ct" && ct["key"] == "state" => {
                any(right, |state| state == "new" || state == "untracked")
            }
            _ => return None,
        };
        Some(is != (condition["op"] == "!="))
    }

    fn payload(&self, protocol: &str, field: &str, right: &Value) -> Option<bool> {
        let Place { port, addresses, .. } = self.place;
        let ours = if self.out { "sport" } else { "dport" };
        match (protocol, field) {
            ("udp" | "th", field) if field == ours => any_known(right, |value| in_range(value, *port)),
            ("tcp" | "icmp" | "icmpv6" | "sctp" | "dccp" | "igmp" | "esp" | "ah", _) => Some(false),
            ("ip", "protocol") | ("ip6", "nexthdr") => {
                Some(any(right, |value| value == "udp" || value == 17))
            }
            ("ip" | "ip6", field) if field == if self.out { "saddr" } else { "daddr" } => {
                let family = addresses.iter().filter(|address| address.is_ipv4() == (protocol == "ip"));
                let each: BTreeSet<Option<bool>> =
                    family.map(|address| any_known(right, |value| covers(value, *address))).collect();
                match each.len() {
                    0 => Some(false),
                    1 => each.into_iter().next()?,
                    _ => None,
                }
            }
            _ => None,
        }
    }

    /// Whether a name is that of an interface of ours. Of several interfaces all must agree.
    fn interface(&self, right: &Value) -> Option<bool> {
        let is = |name: &str| {
            any_known(right, |value| {
                let value = value.as_str()?;
                Some(value.strip_suffix('*').map_or(value == name, |prefix| name.starts_with(prefix)))
            })
        };
        let each: BTreeSet<Option<bool>> = self.place.interfaces.iter().map(|name| is(name)).collect();
        if each.len() == 1 { each.into_iter().next()? } else { None }
    }
}

/// The values that a right side stands for: itself, or those of an anonymous set or a list.
fn values(right: &Value) -> Vec<&Value> {
    match (right["set"].as_array(), right.as_array()) {
        (Some(all), _) | (None, Some(all)) => all.iter().collect(),
        (None, None) => vec![right],
    }
}

fn any(right: &Value, is: impl Fn(&Value) -> bool) -> bool {
    values(right).into_iter().any(is)
}

/// Likewise, where of some values it can't be said.
fn any_known(right: &Value, is: impl Fn(&Value) -> Option<bool>) -> Option<bool> {
    let all: Vec<Option<bool>> = values(right).into_iter().map(is).collect();
    if all.contains(&Some(true)) {
        Some(true)
    } else if all.contains(&None) {
        None
    } else {
        Some(false)
    }
}

fn in_range(value: &Value, port: u16) -> Option<bool> {
    if let Some(bounds) = value["range"].as_array() {
        let (from, to) = (bounds.first()?.as_u64()?, bounds.get(1)?.as_u64()?);
        return Some((from..=to).contains(&port.into()));
    }
    // A named set (`@name`) is a text.
    Some(value.as_u64()? == u64::from(port))
}

fn covers(value: &Value, address: IpAddr) -> Option<bool> {
    if let Some(text) = value.as_str() {
        return Some(text.parse::<IpAddr>().ok()? == address);
    }
    let prefix = value.get("prefix")?;
    let len = prefix["len"].as_u64().and_then(|len| u8::try_from(len).ok())?;
    let network = IpNet::new(prefix["addr"].as_str()?.parse().ok()?, len).ok()?;
    Some(network.contains(&address))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn place() -> Place {
        Place {
            port: 51820,
            addresses: vec!["198.51.100.1".parse().unwrap()],
            interfaces: vec!["eth0".to_owned()],
            legacy: false,
        }
    }

    fn chain(hook: &str, kind: &str, prio: i64, policy: &str) -> Value {
        json!({"chain": {"family": "inet", "table": "t", "name": hook, "type": kind, "hook": hook, "prio": prio,
               "policy": policy}})
    }

    fn rule(chain: &str, expr: Value) -> Value {
        json!({"rule": {"family": "inet", "table": "t", "chain": chain, "expr": expr}})
    }

    fn udp(field: &str, right: Value) -> Value {
        json!({"match": {"op": "==", "left": {"payload": {"protocol": "udp", "field": field}}, "right": right}})
    }

    #[track_caller]
    fn found(objects: Vec<Value>) -> Vec<(Level, String)> {
        let mut findings = Findings::default();
        check(&Ruleset::Known(json!({ "nftables": objects })), &place(), &mut findings);
        findings.into_iter().map(|finding| (finding.level, finding.what)).collect()
    }

    #[track_caller]
    fn levels(objects: Vec<Value>) -> Vec<Level> {
        found(objects).into_iter().map(|(level, _)| level).collect()
    }

    #[test]
    fn no_rules_are_fine() {
        assert_eq!(levels(vec![]), [Level::Ok]);
    }

    #[test]
    fn a_policy_of_drop_wants_a_rule_that_accepts() {
        let input = || chain("input", "filter", 0, "drop");
        let state = json!({"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": ["established", "related"]}});
        let established = || rule("input", json!([state, {"accept": null}]));
        let all = found(vec![input(), established()]);
        assert_eq!(all[0].0, Level::Error);
        assert!(all[0].1.contains("hosts can't register"), "{}", all[0].1);
        for right in [
            json!(51820),
            json!({"set": [53, 51820]}),
            json!({"range": [50000, 60000]}),
            json!({"set": [22, {"range": [51800, 51900]}]}),
        ] {
            let accept = rule("input", json!([udp("dport", right), {"accept": null}]));
            assert_eq!(levels(vec![input(), accept]), [Level::Ok]);
        }
        let other = rule("input", json!([udp("dport", json!(53)), {"accept": null}]));
        assert_eq!(levels(vec![input(), other]), [Level::Error]);
    }

    #[test]
    fn a_rule_that_depends_on_what_is_not_known_is_a_warning() {
        let from = json!({"match": {"op": "==", "left": {"payload": {"protocol": "ip", "field": "saddr"}},
                          "right": {"prefix": {"addr": "203.0.113.0", "len": 24}}}});
        let some = rule("input", json!([from, udp("dport", json!(51820)), {"accept": null}]));
        assert_eq!(levels(vec![chain("input", "filter", 0, "drop"), some]), [Level::Warning]);
        let named = rule("input", json!([udp("dport", json!("@ports")), {"drop": null}]));
        assert_eq!(levels(vec![chain("input", "filter", 0, "accept"), named]), [Level::Warning]);
    }

    #[test]
    fn chains_that_are_called_are_followed() {
        let sub = json!({"chain": {"family": "inet", "table": "t", "name": "sub"}});
        let jump = rule("input", json!([{"jump": {"target": "sub"}}]));
        let accept = rule("sub", json!([udp("dport", json!(51820)), {"accept": null}]));
        let objects = vec![chain("input", "filter", 0, "drop"), sub.clone(), jump.clone(), accept];
        assert_eq!(levels(objects), [Level::Ok]);
        let back = rule("sub", json!([udp("dport", json!(51820)), {"return": null}]));
        let objects = vec![chain("input", "filter", 0, "drop"), sub.clone(), jump.clone(), back];
        assert_eq!(levels(objects), [Level::Error]);
        let endless = rule("sub", json!([{"jump": {"target": "sub"}}]));
        assert_eq!(levels(vec![chain("input", "filter", 0, "accept"), sub, jump, endless]), [Level::Ok]);
    }

    #[test]
    fn masquerading_bites_unless_the_port_is_not_tracked() {
        let nat = || chain("postrouting", "nat", 100, "accept");
        let out = |name: &str| {
            let oif = json!({"match": {"op": "==", "left": {"meta": {"key": "oifname"}}, "right": name}});
            rule("postrouting", json!([oif, {"masquerade": null}]))
        };
        let all = found(vec![nat(), out("eth0")]);
        assert!(all[0].1.contains("masquerades"), "{all:?}");
        assert!(all[1].1.contains("tracked"), "{all:?}");
        assert_eq!(all.len(), 2);
        let elsewhere = found(vec![nat(), out("wlan0")]);
        assert_eq!(elsewhere.len(), 1, "connections are tracked all the same: {elsewhere:?}");
        let raw = |hook: &str, field: &str| {
            let statements = json!([udp(field, json!(51820)), {"notrack": null}]);
            vec![chain(hook, "filter", -300, "accept"), rule(hook, statements)]
        };
        let untracked =
            [vec![nat(), out("eth0")], raw("output", "sport"), raw("prerouting", "dport")].concat();
        assert_eq!(levels(untracked), [Level::Ok]);
    }

    #[test]
    fn rules_for_containers_do_not_concern_the_relay() {
        let saddr = json!({"match": {"op": "==", "left": {"payload": {"protocol": "ip", "field": "saddr"}},
                           "right": {"prefix": {"addr": "172.17.0.0", "len": 16}}}});
        let target = json!({"xt": {"type": "target", "name": "MASQUERADE"}});
        let objects =
            vec![chain("postrouting", "nat", 100, "accept"), rule("postrouting", json!([saddr, target]))];
        let all = found(objects);
        assert!(all.iter().all(|(_, what)| !what.contains("masquerade")), "{all:?}");
    }

    #[test]
    fn a_port_that_is_redirected_is_an_error() {
        let redirect = rule("prerouting", json!([udp("dport", json!(51820)), {"redirect": {"port": 53}}]));
        let all = found(vec![chain("prerouting", "nat", -100, "accept"), redirect]);
        assert_eq!(all[0].0, Level::Error);
        assert!(all[0].1.contains("DNAT"), "{all:?}");
    }

    #[test]
    fn rules_that_can_not_be_seen_are_said_so() {
        let mut findings = Findings::default();
        check(&Ruleset::Unknown("nft is not installed".into()), &place(), &mut findings);
        assert_eq!(findings.into_iter().map(|f| f.level).collect::<Vec<_>>(), [Level::Warning]);
    }

    #[test]
    fn the_rule_that_is_offered_is_one_that_is_recognised() {
        assert!(notrack(51820).contains("udp sport 51820 notrack"));
    }
}
