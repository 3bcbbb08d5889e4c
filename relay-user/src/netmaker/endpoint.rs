//! Telling the server that a relayed host is reached at this relay, if that is wished: pure.
//!
//! A host's endpoint is set once, and what it was is kept. If it does not stay as it was set, somebody else wants it
//! otherwise, and it is left alone. When the host is no longer relayed it gets back what it had.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// How many answers may still show the old state after the server has accepted another.
const PATIENCE: u8 = 3;

/// The fields of a host that say where it is reached, as the server has them: others are not made up.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint(Map<String, Value>);

const ADDRESS: &str = "endpointip";
const ADDRESS_V6: &str = "endpointipv6";
const PORT: &str = "listenport";
const FIXED: &str = "isstatic";
const PORT_FIXED: &str = "isstaticport";

impl Endpoint {
    /// That of a host.
    pub fn of(host: &Value) -> Self {
        let fields = [ADDRESS, ADDRESS_V6, PORT, FIXED, PORT_FIXED];
        let present =
            fields.into_iter().filter_map(|field| Some((field.to_owned(), host.get(field)?.clone())));
        Self(present.collect())
    }

    /// What it is to be if the host is reached at these endpoints, at most one of a family and all of one port.
    fn at(&self, endpoints: &[SocketAddr]) -> Self {
        let Some(first) = endpoints.first() else { return self.clone() };
        let v6 = endpoints.iter().find(|endpoint| endpoint.is_ipv6());
        let mut fields = self.0.clone();
        for (field, value) in &mut fields {
            *value = match field.as_str() {
                ADDRESS => first.ip().to_string().into(),
                // Without one of ours it must be empty, or IPv6 would go past the relay.
                ADDRESS_V6 => v6.map(|v6| v6.ip().to_string()).unwrap_or_default().into(),
                PORT => first.port().into(),
                _ => true.into(),
            };
        }
        Self(fields)
    }

    /// The host with this endpoint. The server takes hosts as a whole, so all else stays in it.
    pub fn put_into(&self, host: &Value) -> Value {
        let mut host = host.clone();
        for (field, value) in &self.0 {
            host[field] = value.clone();
        }
        host
    }
}

/// What was done to a host's endpoint. It is kept on disk before anything is asked of the server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Override {
    before: Endpoint,
    set: Endpoint,
    progress: Progress,
    /// Why it is left alone, if it is.
    #[serde(default)]
    pub remark: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Progress {
    /// To be set; perhaps it has been.
    Setting,
    /// The server has accepted it, and so many of its answers did not show it.
    Set(u8),
    /// It was seen as it was set.
    Holds,
    /// Somebody else has changed it, or it never took: it is left alone.
    Yielded,
    /// To be given back; perhaps it has been.
    Restoring,
    /// The server has accepted that, and so many of its answers did not show it.
    Restored(u8),
}

/// What follows for one host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing.
    Nothing,
    /// The server is to be told this.
    Put(Endpoint),
    /// Something that people should know.
    Remark(&'static str),
}

/// Somebody else's will goes before ours.
const CHANGED: &str = "its endpoint was changed by somebody else, so it is left alone";
const NOT_TAKEN: &str = "the server accepted an endpoint but does not show it, so it is left alone";

/// Decides about one host. `now` is its endpoint as the server shows it, `relay` where it is to be reached, if it is
/// relayed and that is to be told. `record` is kept from one time to the next, before the step is taken.
pub fn step(record: &mut Option<Override>, now: &Endpoint, relay: Option<&[SocketAddr]>) -> Step {
    let wanted = relay.map(|relay| now.at(relay));
    let Some(done) = record else {
        return match wanted {
            Some(wanted) if wanted != *now => {
                let progress = Progress::Setting;
                *record = Some(Override { before: now.clone(), set: wanted.clone(), progress, remark: None });
                Step::Put(wanted)
            }
            _ => Step::Nothing,
        };
    };
    let as_set = done.set == *now;
    let Some(wanted) = wanted else {
        return match done.progress {
            // It is as we have not made it.
            _ if !as_set => forget(record),
            Progress::Restored(n) if n < PATIENCE => {
                done.progress = Progress::Restored(n + 1);
                Step::Nothing
            }
            Progress::Restored(_) => {
                *record = None;
                Step::Remark("the server accepted its former endpoint but does not show it")
            }
            _ => {
                done.progress = Progress::Restoring;
                Step::Put(done.before.clone())
            }
        };
    };
    match done.progress {
        Progress::Yielded => Step::Nothing,
        // We are to be reached elsewhere than before.
        _ if as_set && wanted != done.set => {
            done.set = wanted.clone();
            done.progress = Progress::Setting;
            Step::Put(wanted)
        }
        _ if as_set => {
            done.progress = Progress::Holds;
            Step::Nothing
        }
        Progress::Setting | Progress::Restoring | Progress::Restored(_) if *now == done.before => {
            done.progress = Progress::Setting;
            Step::Put(done.set.clone())
        }
        Progress::Set(n) if *now == done.before && n < PATIENCE => {
            done.progress = Progress::Set(n + 1);
            Step::Nothing
        }
        progress => {
            let taken = !matches!(progress, Progress::Set(_)) || *now != done.before;
            let remark = if taken { CHANGED } else { NOT_TAKEN };
            done.give_way(remark.to_owned());
            Step::Remark(remark)
        }
    }
}

fn forget(record: &mut Option<Override>) -> Step {
    *record = None;
    Step::Nothing
}

impl Override {
    /// The server has accepted what it was told.
    pub fn accepted(&mut self) {
        self.progress = match self.progress {
            Progress::Setting => Progress::Set(0),
            Progress::Restoring => Progress::Restored(0),
            other => other,
        };
    }

    /// The server refuses what it was told: it is not asked again. What could not be given back is forgotten.
    pub fn refused(record: &mut Option<Self>, why: String) {
        match record {
            Some(done) if done.progress == Progress::Setting => done.give_way(why),
            _ => *record = None,
        }
    }

    fn give_way(&mut self, why: String) {
        self.progress = Progress::Yielded;
        self.remark = Some(why);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A server that keeps one host, and our record of it.
    struct World {
        host: Value,
        record: Option<Override>,
        puts: usize,
    }

    const RELAY: &str = "198.51.100.1:51820";

    impl World {
        fn new() -> Self {
            let host = json!({
                "id": "h", "name": "b", "endpointip": "203.0.113.7", "endpointipv6": "2001:db8::7",
                "listenport": 51821, "isstatic": false, "isstaticport": false, "mtu": 1420,
            });
            Self { host, record: None, puts: 0 }
        }

        fn decide(&mut self, relayed: bool) -> Step {
            let relay = [RELAY.parse().unwrap()];
            step(&mut self.record, &Endpoint::of(&self.host), relayed.then_some(&relay))
        }

        /// One poll, with a server that takes what it is told.
        fn poll(&mut self, relayed: bool) -> Step {
            let step = self.decide(relayed);
            if let Step::Put(endpoint) = &step {
                self.host = endpoint.put_into(&self.host);
                self.puts += 1;
                self.record.as_mut().unwrap().accepted();
            }
            step
        }
    }

    #[test]
    fn it_is_set_once_and_restored_when_the_host_is_no_longer_relayed() {
        let mut world = World::new();
        let before = world.host.clone();
        world.poll(true);
        assert_eq!(world.host["endpointip"], "198.51.100.1");
        assert_eq!(world.host["endpointipv6"], "", "or IPv6 would go past the relay");
        assert_eq!((&world.host["listenport"], &world.host["isstatic"]), (&json!(51820), &json!(true)));
        assert_eq!((&world.host["isstaticport"], &world.host["mtu"]), (&json!(true), &json!(1420)));
        for _ in 0..5 {
            assert_eq!(world.poll(true), Step::Nothing);
        }
        world.poll(false);
        assert_eq!(world.host, before);
        assert_eq!(world.poll(false), Step::Nothing);
        assert_eq!((world.record, world.puts), (None, 2));
    }

    #[test]
    fn what_the_server_does_not_know_is_not_made_up() {
        let mut world = World::new();
        world.host = json!({"id": "h", "endpointip": "203.0.113.7", "listenport": 51821, "isstatic": false});
        world.poll(true);
        let expected =
            json!({"id": "h", "endpointip": "198.51.100.1", "listenport": 51820, "isstatic": true});
        assert_eq!(world.host, expected);
    }

    #[test]
    fn somebody_elses_change_is_left_alone_for_good() {
        let mut world = World::new();
        world.poll(true);
        world.poll(true);
        world.host["endpointip"] = json!("192.0.2.9");
        assert_eq!(world.poll(true), Step::Remark(CHANGED));
        for relayed in [true, true, false, false] {
            assert_eq!(world.poll(relayed), Step::Nothing);
        }
        assert_eq!((world.host["endpointip"].clone(), world.puts), (json!("192.0.2.9"), 1));
    }

    #[test]
    fn an_endpoint_that_does_not_take_is_not_set_again() {
        let mut world = World::new();
        let deaf = world.host.clone();
        let mut remarks = Vec::new();
        for _ in 0..10 {
            let step = world.poll(true);
            world.host = deaf.clone();
            remarks.extend(matches!(step, Step::Remark(_)).then_some(step));
        }
        assert_eq!((remarks, world.puts), (vec![Step::Remark(NOT_TAKEN)], 1));
    }

    #[test]
    fn what_was_asked_without_an_answer_is_asked_again() {
        let mut world = World::new();
        // The server was told, or wgrelay was killed before it was: nobody knows.
        assert!(matches!(world.decide(true), Step::Put(_)));
        assert!(matches!(world.decide(true), Step::Put(_)));
        world.poll(true);
        // And likewise at the end.
        world.poll(true);
        assert!(matches!(world.decide(false), Step::Put(_)));
        world.poll(false);
        assert_eq!(world.poll(false), Step::Nothing);
        assert_eq!(world.host, World::new().host);
    }

    #[test]
    fn an_endpoint_that_was_ours_all_along_is_neither_set_nor_restored() {
        let mut world = World::new();
        world.host = Endpoint::of(&world.host).at(&[RELAY.parse().unwrap()]).put_into(&world.host);
        for relayed in [true, true, false] {
            assert_eq!(world.poll(relayed), Step::Nothing);
        }
        assert_eq!(world.puts, 0);
    }

    #[test]
    fn a_relay_that_moves_takes_its_hosts_with_it() {
        let mut world = World::new();
        world.poll(true);
        world.poll(true);
        let elsewhere = ["198.51.100.2:51820".parse().unwrap()];
        let Step::Put(endpoint) = step(&mut world.record, &Endpoint::of(&world.host), Some(&elsewhere))
        else {
            panic!("it is told anew");
        };
        world.host = endpoint.put_into(&world.host);
        world.record.as_mut().unwrap().accepted();
        step(&mut world.record, &Endpoint::of(&world.host), Some(&elsewhere));
        world.poll(false);
        assert_eq!(world.host["endpointip"], "203.0.113.7", "what it had at the very first");
    }
}
