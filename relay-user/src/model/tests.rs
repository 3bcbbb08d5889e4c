mod enrolment;
mod failing_over;
mod followed;
mod plans;
mod refusals;
mod torture;
mod views;

use super::*;
use crate::members::{PublicKey, RateLimit};

/// A state and a clock, changed by commands as a store would.
#[derive(Clone, Default)]
struct World {
    state: State,
    now: UnixTime,
}

impl World {
    /// Two networks, a relay in both, and hosts a and b in the first.
    fn new() -> Self {
        let mut world = Self { now: 1_000_000, ..Self::default() };
        world.will(Command::CreateNetwork(network("net", Some("10.1.0.0/24"), Some("fd00:1::/64"))));
        world.will(Command::CreateNetwork(network("other", Some("10.2.0.0/29"), None)));
        world.will(Command::CreateMember(member("relay", 1, &["net", "other"])));
        world.will(Command::CreateMember(member("a", 2, &["net"])));
        world.will(Command::CreateMember(member("b", 3, &["net"])));
        world.will(relay("relay", &["198.51.100.1", "2001:db8::1"]));
        world.will(Command::Activate(vec![key(1), key(2), key(3)]));
        world
    }

    fn plan(&self, request: impl Into<Request>) -> Result<Plan, Refusal> {
        self.state.plan(self.now, &request.into())
    }

    /// Does a command wholly.
    fn does(&mut self, command: Command) -> Result<(), Refusal> {
        let mut rest = Some(command);
        while let Some(command) = rest {
            let plan = self.plan(command)?;
            self.state.apply(Revision(self.state.revision().0 + 1), plan.ops);
            rest = plan.rest;
        }
        self.agrees_with_a_reload();
        Ok(())
    }

    #[track_caller]
    fn will(&mut self, command: Command) {
        self.does(command.clone()).unwrap_or_else(|refusal| panic!("{command:?}: {refusal}"));
    }

    /// The code of the refusal, which must have a text.
    #[track_caller]
    fn refuses(&self, command: Command) -> &'static str {
        let refusal = self.plan(command.clone()).expect_err(&format!("{command:?}"));
        assert!(refusal.to_string().len() > 15, "{refusal}");
        refusal.code()
    }

    fn host(&self, name: &str) -> &Member {
        self.state.member(name).unwrap()
    }

    /// What was applied bit by bit is what is read back as a whole.
    fn agrees_with_a_reload(&self) {
        let state = &self.state;
        let mut records: Vec<(Record, Revision)> = Vec::new();
        records.extend(state.networks().map(|kept| (Record::Network((*kept.record).clone()), kept.revision)));
        records.extend(state.members().map(|kept| (Record::Member((*kept.record).clone()), kept.revision)));
        records.extend(state.relays().map(|kept| (Record::Relay((*kept.record).clone()), kept.revision)));
        records
            .extend(state.keys().map(|kept| (Record::EnrolmentKey((*kept.record).clone()), kept.revision)));
        records.extend(state.tokens().map(|kept| (Record::Token((*kept.record).clone()), kept.revision)));
        let users = state.turn_users().values();
        records.extend(users.map(|kept| (Record::TurnUser((*kept.record).clone()), kept.revision)));
        let texts: Vec<_> = records.iter().map(|(r, at)| (r.key().to_string(), r.encode(), *at)).collect();
        let entries = texts.iter().map(|(key, json, at)| (key.as_str(), json.as_slice(), *at));
        let again = State::load(state.revision(), entries).unwrap();
        assert_eq!(format!("{:?}", state.by_key), format!("{:?}", again.by_key));
        assert_eq!(format!("{:?}", state.endpoints), format!("{:?}", again.endpoints));
        assert_eq!(format!("{:?}", state.relay_endpoints), format!("{:?}", again.relay_endpoints));
        assert_eq!(format!("{:?}", state.pending), format!("{:?}", again.pending));
        assert_eq!(format!("{:?}", state.members), format!("{:?}", again.members));
        assert_eq!(format!("{:?}", state.turn_users), format!("{:?}", again.turn_users));
        for kept in state.networks() {
            let (ours, theirs) = (&state.uses[&kept.name], &again.uses[&kept.name]);
            assert!(ours.members == theirs.members && ours.addresses == theirs.addresses, "{}", kept.name);
            assert_eq!(ours.routes, theirs.routes, "{}", kept.name);
            for prefix in kept.prefixes() {
                assert_eq!(ours.free(prefix), theirs.free(prefix), "{prefix}");
            }
        }
        for kept in state.relays() {
            assert!(state.hosts(kept.name.as_str()).eq(again.hosts(kept.name.as_str())));
        }
    }
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn key(number: u32) -> PublicKey {
    let mut bytes = [7; 32];
    bytes[..4].copy_from_slice(&number.to_be_bytes());
    PublicKey(bytes)
}

fn secret(number: u8) -> Secret {
    Secret([number; 32])
}

fn network(text: &str, ipv4: Option<&str>, ipv6: Option<&str>) -> Network {
    let (ipv4, ipv6) = (ipv4.map(|p| p.parse().unwrap()), ipv6.map(|p| p.parse().unwrap()));
    Network { name: name(text), ipv4, ipv6 }
}

fn places(networks: &[&str]) -> Vec<Membership> {
    networks.iter().map(|network| Membership::of(name(network))).collect()
}

fn member(text: &str, number: u32, networks: &[&str]) -> NewMember {
    NewMember {
        name: name(text),
        public_key: key(number),
        networks: places(networks),
        endpoints: Vec::new(),
        rate_limit: RateLimit::default(),
        tags: Vec::new(),
        owner: None,
    }
}

fn change(change: impl FnOnce(&mut MemberChange)) -> MemberChange {
    let mut all = MemberChange::default();
    change(&mut all);
    all
}

fn turn_user(text: &str, realm: &str) -> TurnUser {
    let key = crate::turn::credentials::Key::of(text, realm, "password");
    TurnUser { name: name(text), realm: realm.parse().unwrap(), key }
}

fn at(mut new: NewMember, endpoints: &[&str]) -> NewMember {
    new.endpoints = endpoints.iter().map(|endpoint| endpoint.parse().unwrap()).collect();
    new
}

fn relay_record(text: &str, addresses: &[&str]) -> Relay {
    let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
    Relay { name: name(text), addresses, port: 51820, private: false }
}

fn relay(text: &str, addresses: &[&str]) -> Command {
    Command::CreateRelay(NewRelay { relay: relay_record(text, addresses), hosts: Hosts::Named(Vec::new()) })
}

fn hosts(names: &[&str]) -> Hosts {
    Hosts::Named(names.iter().map(|text| name(text)).collect())
}

fn relay_hosts(relay: &str, names: &[&str]) -> Command {
    Command::RelayHosts { relay: name(relay), hosts: hosts(names), address: None }
}

fn enrolment_key(id: &str, network: &str, relay: Option<&str>) -> EnrolmentKey {
    EnrolmentKey {
        id: name(id),
        secret: secret(1).hash(),
        network: name(network),
        relay: relay.map(name),
        tags: vec![name("joined")],
        uses_left: None,
        expires: None,
    }
}

fn enrol(id: &str, host: &str, number: u32) -> Enrol {
    Enrol {
        key: Credential { id: name(id), secret: secret(1) },
        name: name(host),
        public_key: key(number),
        endpoints: Vec::new(),
        owner: secret(2).hash(),
        proof: None,
    }
}
