//! What is admitted: budgets, lists of prefixes, what is kept of the ring buffer, and members' rate limits.

use std::{
    net::{IpAddr, SocketAddr},
    thread,
    time::Duration,
};

use aya::maps::lpm_trie::Key;
use etherparse::Ipv4Options;
use relay_ebpf::{
    bucket::{Bucket, LONGEST_NS, byte_cost, cost},
    event::HANDSHAKE,
    reason::{Family, Reason, Verdict},
    tables::{
        ALLOWED, Address, Buckets, Budgets, Costs, Counter, DENIED, Endpoint, Known, NOT_ALLOWED, Rate,
        RateBuckets, Source, source_key,
    },
};
use relay_tests::{oracle::pace::now, wait};

use crate::{
    datagram::{Datagram, cookie_reply, initiation, response, transport_data},
    fixture::{Fixture, event, run_in, shown},
    relay::{FAMILIES, Hop, Hosts, IPV4, IPV6, Relay, session},
};

/// Fixtures, and what the relay is like that they meet.
struct Group {
    prepare: fn(&mut Relay),
    fixtures: Vec<Fixture>,
}

#[test]
fn what_is_not_admitted_goes_no_further() {
    for Group { prepare, fixtures } in groups() {
        let mut relay = Relay::new();
        prepare(&mut relay);
        run_in(&mut relay, &fixtures);
    }
}

pub fn fixtures() -> Vec<Fixture> {
    groups().into_iter().flat_map(|group| group.fixtures).collect()
}

fn groups() -> Vec<Group> {
    let of_both = |of: fn(&Hosts) -> Vec<Fixture>| FAMILIES.iter().flat_map(of).collect();
    vec![
        Group {
            prepare: |relay| use_up(relay, BOTH, BOTH, NONE),
            fixtures: of_both(|hosts| {
                refused(hosts, hosts.alice, BOTH, Reason::KnownOverBudget)
                    .chain(refused(hosts, hosts.stranger, BOTH, Reason::SourceOverBudget))
                    .chain(relayed(hosts))
                    .collect()
            }),
        },
        Group {
            prepare: |relay| use_up(relay, NONE, NONE, BOTH),
            fixtures: of_both(|hosts| {
                refused(hosts, hosts.stranger, BOTH, Reason::UnknownOverBudget)
                    .chain(admitted_by_port(hosts))
                    .collect()
            }),
        },
        Group {
            prepare: |relay| use_up(relay, BULK, BULK, BULK),
            fixtures: of_both(|hosts| {
                refused(hosts, hosts.alice, BULK, Reason::KnownOverBudget)
                    .chain(refused(hosts, hosts.stranger, BULK, Reason::SourceOverBudget))
                    .chain(admitted(hosts, hosts.alice, SIGNAL))
                    .chain(admitted(hosts, hosts.stranger, SIGNAL))
                    .collect()
            }),
        },
        Group {
            prepare: |relay| use_up(relay, SIGNAL, SIGNAL, SIGNAL),
            fixtures: of_both(|hosts| {
                refused(hosts, hosts.alice, SIGNAL, Reason::KnownOverBudget)
                    .chain(refused(hosts, hosts.stranger, SIGNAL, Reason::SourceOverBudget))
                    .chain(admitted(hosts, hosts.alice, BULK))
                    .chain(admitted(hosts, hosts.stranger, BULK))
                    .collect()
            }),
        },
        Group {
            prepare: |relay| list(relay, &[("203.0.113.0", 24, DENIED), ("2001:db8:c::", 48, DENIED)]),
            fixtures: of_both(|hosts| {
                refused(hosts, hosts.stranger, BOTH, Reason::SourceDenied)
                    .chain(admitted(hosts, hosts.alice, BOTH))
                    .chain(relayed(hosts))
                    .collect()
            }),
        },
        Group {
            prepare: |relay| {
                let all = [("0.0.0.0", 0, NOT_ALLOWED), ("::", 0, NOT_ALLOWED)];
                list(
                    relay,
                    &[all[0], all[1], ("203.0.113.66", 32, ALLOWED), ("2001:db8:c::66", 128, ALLOWED)],
                );
            },
            fixtures: of_both(|hosts| {
                refused(hosts, beside(hosts.stranger), BOTH, Reason::SourceNotAllowed)
                    .chain(admitted(hosts, hosts.stranger, BOTH))
                    .chain(admitted_by_port(hosts))
                    .collect()
            }),
        },
        Group {
            prepare: |relay| limit(relay, true, false),
            fixtures: of_both(|hosts| rate_limited(hosts, Reason::OverRateLimit, Reason::ForwardedTx)),
        },
        Group {
            prepare: |relay| limit(relay, false, true),
            fixtures: of_both(|hosts| rate_limited(hosts, Reason::ForwardedTx, Reason::OverRateLimit)),
        },
    ]
}

/// Which classes: handshake messages and keepalives, all else.
type Classes = [bool; 2];
const NONE: Classes = [false, false];
const SIGNAL: Classes = [true, false];
const BULK: Classes = [false, true];
const BOTH: Classes = [true, true];

/// Empty for some seconds to come.
fn empty() -> Bucket {
    Bucket { full_at_ns: now() + LONGEST_NS - 1_000_000_000 }
}

fn buckets([signal, bulk]: Classes) -> Buckets {
    let bucket = |used_up| if used_up { empty() } else { Bucket::default() };
    Buckets { signal: bucket(signal), bulk: bucket(bulk) }
}

/// Uses up what alice has, what the stranger has, and what all strangers have together.
fn use_up(relay: &mut Relay, alice: Classes, stranger: Classes, all: Classes) {
    let costs = Costs { signal: 1, bulk: 1 };
    let budgets =
        Budgets { member: costs, relay: costs, source: costs, unknown: costs, buckets: buckets(all) };
    relay.budgets().set(0, budgets, 0).unwrap();
    for hosts in FAMILIES {
        relay
            .endpoints()
            .insert(Endpoint::from(hosts.alice), Known { member: 1, buckets: buckets(alice) }, 0)
            .unwrap();
        let source = Source { buckets: buckets(stranger), ..Source::default() };
        relay.sources().insert(source_key(hosts.stranger.ip().into()), source, 0).unwrap();
        // What hides its port is unknown whoever sent it.
        let source = Source { buckets: buckets(alice), ..Source::default() };
        relay.sources().insert(source_key(hosts.alice.ip().into()), source, 0).unwrap();
    }
}

fn list(relay: &mut Relay, prefixes: &[(&str, u32, u64)]) {
    for &(address, length, verdict) in prefixes {
        let address: IpAddr = address.parse().unwrap();
        let mut data = [0; 20];
        data[4..].copy_from_slice(&Address::from(address).octets());
        let of_family = if address.is_ipv4() { 96 } else { 0 };
        relay.prefixes().insert(&Key::new(32 + of_family + length, data), verdict, 0).unwrap();
    }
}

/// A neighbour: another address in the same prefix.
fn beside(source: SocketAddr) -> SocketAddr {
    let ip = match source.ip() {
        IpAddr::V4(ip) => IpAddr::V4((u32::from(ip) ^ 1).into()),
        IpAddr::V6(ip) => IpAddr::V6((u128::from(ip) ^ 1 << 64).into()),
    };
    SocketAddr::new(ip, source.port())
}

/// One packet of either class of every kind that is not relayed data, its reason if it is admitted, and the event that it
/// then raises.
fn kinds(hosts: &Hosts, source: SocketAddr, [signal, bulk]: Classes) -> Vec<Fixture> {
    let mut fixtures = Vec::new();
    let known = source == hosts.alice;
    let name = |what: &str| {
        format!("{what} from {}, {}", if known { "alice" } else { "a stranger" }, hosts.family.label())
    };
    let mut own = |name: String, datagram: &Datagram, reason| {
        let fixture = Fixture::datagram(name, hosts, datagram, reason);
        fixtures.push(if known { fixture } else { fixture.hinted(datagram) });
    };
    let datagram = |payload| hosts.datagram(source, payload);
    if signal {
        own(name("a keepalive"), &datagram(transport_data(hosts.unknown(), 32)), Reason::DataOwn);
        own(name("a response"), &datagram(response(1, hosts.unknown())), Reason::ResponseOwn);
        own(name("a cookie reply"), &datagram(cookie_reply(hosts.unknown())), Reason::CookieReplyOwn);
    }
    if bulk {
        own(name("data"), &datagram(transport_data(hosts.unknown(), 33)), Reason::DataOwn);
    }
    let mut fixture =
        |what: &str, frame, reason| fixtures.push(Fixture::new(name(what), hosts.family, frame, reason));
    if signal {
        let wrong = datagram(response(1, hosts.pending()));
        fixture("a response in another's place", wrong.frame(), Reason::ResponseWrongSource);
        if !known {
            let keepalive = datagram(transport_data(hosts.session(Hop::Back), 32));
            fixture("a session's keepalive", keepalive.frame(), Reason::DataWrongSource);
        }
    }
    if bulk {
        if !known {
            let wrong = datagram(transport_data(hosts.session(Hop::Back), 64));
            fixture("a session's data", wrong.frame(), Reason::DataWrongSource);
        }
        fixture("no WireGuard", datagram(vec![9; 64]).frame(), Reason::NotWireguard);
        fixture("a short one", datagram(vec![1, 0, 0]).frame(), Reason::NotWireguard);
        // The kernel cuts off what UDP's length does not cover.
        let mut trailing = datagram(transport_data(hosts.unknown(), 64)).frame();
        let udp_len = datagram(vec![]).message_at() - 4;
        trailing[udp_len + 1] -= 1;
        fixture("data with something behind it", trailing, Reason::Malformed);
        let whole = datagram(transport_data(hosts.unknown(), 64));
        if hosts.family == Family::Ipv4 {
            fixture("the first fragment", whole.fragment(0, true), Reason::Fragment);
            let options = Ipv4Options::try_from(&[1_u8, 1, 1, 1][..]).unwrap();
            fixture("one with options", whole.frame_with_options(options), Reason::IpOptions);
        } else {
            fixture("the first fragment", whole.frame_with_extension(44), Reason::Fragment);
            fixture("one with options", whole.frame_with_extension(60), Reason::IpOptions);
            fixture("data without a checksum", whole.frame_with_checksum(0), Reason::NoUdpChecksum);
        }
    }
    if signal {
        let datagram = datagram(initiation(7));
        let fixture = Fixture::datagram(name("an initiation"), hosts, &datagram, Reason::Initiation);
        fixtures.push(fixture.copied_up(&datagram));
    }
    fixtures
}

fn admitted(hosts: &Hosts, source: SocketAddr, classes: Classes) -> impl Iterator<Item = Fixture> {
    kinds(hosts, source, classes).into_iter()
}

/// What alice sends, but for what hides its port: that is of nobody that we know.
fn admitted_by_port(hosts: &Hosts) -> impl Iterator<Item = Fixture> {
    admitted(hosts, hosts.alice, BOTH).filter(|fixture| fixture.reason() != Reason::IpOptions)
}

/// None of them is, nor is anything copied up; what goes nowhere in any case does not matter.
fn refused(
    hosts: &Hosts,
    source: SocketAddr,
    classes: Classes,
    why: Reason,
) -> impl Iterator<Item = Fixture> {
    let unknown = |reason| if reason == Reason::KnownOverBudget { Reason::SourceOverBudget } else { reason };
    let later = hosts.datagram(source, transport_data(hosts.unknown(), 64));
    let mut others = Vec::new();
    if hosts.family == Family::Ipv4 {
        others.push(Fixture::new(
            "a later fragment",
            hosts.family,
            later.fragment(7, true),
            Reason::Fragment,
        ));
    }
    let mut elsewhere = later;
    elsewhere.destination = hosts.elsewhere;
    others.push(Fixture::datagram("to another address", hosts, &elsewhere, Reason::OtherDestination));
    kinds(hosts, source, classes)
        .into_iter()
        .map(move |fixture| {
            let hides_its_port = fixture.reason() == Reason::IpOptions;
            fixture.refused(if hides_its_port { unknown(why) } else { why })
        })
        .chain(others)
}

/// Data of sessions pays nothing.
fn relayed(hosts: &Hosts) -> Vec<Fixture> {
    [Hop::Back, Hop::Across, Hop::BackTagged]
        .map(|hop| {
            let datagram = hosts.datagram(hosts.alice, transport_data(hosts.session(hop), 96));
            Fixture::relayed(format!("data by {hop:?}"), hosts, &datagram, hop)
        })
        .into()
}

/// Sessions of a member with a rate limit: one in which it sends, one in which it receives.
const SENDS: u32 = 0x51;
const RECEIVES: u32 = 0x52;

/// A rate limit: whether what may be sent, and received, is used up.
pub fn rate(sent: bool, received: bool) -> Rate {
    let buckets = |used_up: bool| {
        let [packets, bytes] =
            [used_up, false].map(|used_up| if used_up { empty() } else { Bucket::default() });
        RateBuckets { packets, bytes }
    };
    Rate { member: 1, packet_cost: 1, byte_cost: 1, sent: buckets(sent), received: buckets(received) }
}

/// Gives it what it needs: whether what it may send, and receive, is used up.
fn limit(relay: &mut Relay, sent: bool, received: bool) {
    relay.rates().set(3, rate(sent, received), 0).unwrap();
    for hosts in FAMILIES {
        let base = session(0, hosts.alice, hosts.relay, hosts.relay, hosts.bob, Hop::Back);
        let of_family = hosts.unknown() & 0xff00_0000;
        relay.open(&relay_ebpf::tables::Session { index: of_family | SENDS, sender_rate: 3, ..base });
        relay.open(&relay_ebpf::tables::Session { index: of_family | RECEIVES, receiver_rate: 3, ..base });
    }
}

fn rate_limited(hosts: &Hosts, sends: Reason, receives: Reason) -> Vec<Fixture> {
    let of_family = hosts.unknown() & 0xff00_0000;
    let mut fixtures = relayed(hosts);
    for (index, reason) in [(of_family | SENDS, sends), (of_family | RECEIVES, receives)] {
        let datagram = hosts.datagram(hosts.alice, transport_data(index, 96));
        let fixture = Fixture::datagram(format!("limited, {index:#x}"), hosts, &datagram, reason);
        fixtures.push(if reason == Reason::ForwardedTx {
            fixture.sent_on(&datagram, index, hosts.sent_on(&datagram, Hop::Back).frame())
        } else {
            fixture
        });
    }
    fixtures
}

/// Runs a frame so often; how often it met each of these ends.
fn ends<const N: usize>(relay: &mut Relay, frame: &[u8], times: usize, reasons: [Reason; N]) -> [u64; N] {
    let count = |relay: &Relay| {
        reasons.map(|reason| {
            Family::ALL.iter().map(|&family| relay.counter(reason, family).packets).sum::<u64>()
        })
    };
    let before = count(relay);
    for _ in 0..times {
        relay.verdict(frame);
    }
    let after = count(relay);
    std::array::from_fn(|n| after[n] - before[n])
}

#[test]
fn each_budget_holds_what_may_pass_in_a_second() {
    let mut relay = Relay::new();
    let costs = |per_second| Costs { signal: cost(per_second), bulk: cost(per_second) };
    let (member, other_relay, source, unknown) = (costs(20), costs(40), costs(5), costs(12));
    let budgets = Budgets { member, relay: other_relay, source, unknown, buckets: Buckets::default() };
    relay.budgets().set(0, budgets, 0).unwrap();
    relay.endpoints().insert(Endpoint::from(IPV6.alice), Known::default(), 0).unwrap();
    let frame = |hosts: &Hosts, source| hosts.datagram(source, transport_data(hosts.unknown(), 64)).frame();
    let start = wait::now();
    let mut check = |hosts: &Hosts, source, [of_own, of_source, of_all]: [u64; 3], why: [u64; 3]| {
        let reasons = [Reason::KnownOverBudget, Reason::SourceOverBudget, Reason::UnknownOverBudget];
        let [passed] = [Reason::DataOwn];
        let [admitted, known, one, all] =
            ends(&mut relay, &frame(hosts, source), 60, [passed, reasons[0], reasons[1], reasons[2]]);
        assert_eq!(admitted + known + one + all, 60);
        // What has come in while we looked.
        let more = start.elapsed().as_millis() as u64 * 40 / 1000 + 1;
        let wanted = [of_own, of_source, of_all].into_iter().max().unwrap();
        assert!((wanted..=wanted + more).contains(&admitted), "{admitted} of {source}, wanted {wanted}");
        assert_eq!([known > 0, one > 0, all > 0], why.map(|why| why > 0), "{source}: {known}, {one}, {all}");
    };
    check(&IPV4, IPV4.alice, [20, 0, 0], [1, 0, 0]);
    check(&IPV6, IPV6.alice, [40, 0, 0], [1, 0, 0]);
    check(&IPV4, IPV4.stranger, [0, 5, 0], [0, 1, 0]);
    check(&IPV6, IPV6.stranger, [0, 5, 0], [0, 1, 0]);
    // Of the twelve of all strangers two are left for the third.
    let third = SocketAddr::new([203, 0, 113, 67].into(), 1);
    let [admitted, all] =
        ends(&mut relay, &frame(&IPV4, third), 60, [Reason::DataOwn, Reason::UnknownOverBudget]);
    assert!((2..=2 + start.elapsed().as_millis() as u64 * 12 / 1000 + 1).contains(&admitted), "{admitted}");
    assert_eq!(all, 60 - admitted, "it has not used up its own");
    assert!(start.elapsed() < Duration::from_millis(500), "too slow to tell");
}

#[test]
fn a_source_is_an_ipv4_address_or_an_ipv6_network_and_what_it_sent_is_counted() {
    let mut relay = Relay::new();
    let costs = |per_second| Costs { signal: cost(per_second), bulk: cost(per_second) };
    let budgets = Budgets { source: costs(6), unknown: costs(1_000_000), ..Budgets::default() };
    relay.budgets().set(0, budgets, 0).unwrap();
    for (hosts, others) in [
        (IPV4, [IPV4.stranger, SocketAddr::new(IPV4.stranger.ip(), 9)]),
        (IPV6, [IPV6.stranger, "[2001:db8:c::ffff:1:2:3]:9".parse().unwrap()]),
    ] {
        let before = now();
        let [mut admitted, mut dropped] = [0; 2];
        for source in others {
            let frame = hosts.datagram(source, transport_data(hosts.unknown(), 64)).frame();
            let ends = ends(&mut relay, &frame, 5, [Reason::DataOwn, Reason::SourceOverBudget]);
            (admitted, dropped) = (admitted + ends[0], dropped + ends[1]);
        }
        assert!(admitted >= 6 && dropped >= 1, "{admitted}, {dropped}");
        let source = relay.sources().get(&source_key(hosts.stranger.ip().into()), 0).unwrap();
        assert_eq!((source.admitted, source.dropped), (admitted, dropped));
        assert!((before..=now()).contains(&source.seen_ns));
    }
    assert_eq!(relay.sources().keys().count(), 2);
}

#[test]
fn sources_that_are_not_admitted_take_no_place() {
    let mut relay = Relay::new();
    use_up(&mut relay, NONE, NONE, BULK);
    let before = relay.sources().keys().count();
    for n in 0..100 {
        let source = SocketAddr::new([198, 18, 0, n].into(), 7);
        relay.verdict(&IPV4.datagram(source, transport_data(IPV4.unknown(), 64)).frame());
    }
    assert_eq!(relay.counter(Reason::UnknownOverBudget, Family::Ipv4).packets, 100);
    assert_eq!(relay.sources().keys().count(), before);
}

#[test]
fn what_comes_in_at_the_limit_passes_and_what_is_beyond_does_not() {
    let mut relay = Relay::new();
    let rate = Rate { member: 1, packet_cost: 0, byte_cost: byte_cost(8_000_000), ..Rate::default() };
    relay.rates().set(3, rate, 0).unwrap();
    let base = session(0x77, IPV4.alice, IPV4.relay, IPV4.relay, IPV4.bob, Hop::Back);
    relay.open(&relay_ebpf::tables::Session { sender_rate: 3, ..base });
    let frame = IPV4.datagram(IPV4.alice, transport_data(0x77, 1000)).frame();
    // 1000 packets a second: a hundred at once, then one in a millisecond.
    let start = wait::now();
    let [first, _] = ends(&mut relay, &frame, 200, [Reason::ForwardedTx, Reason::OverRateLimit]);
    let took = start.elapsed().as_millis() as u64;
    assert!((99..=101 + took).contains(&first), "{first} in {took} ms");
    thread::sleep(Duration::from_millis(20));
    let [later, over] = ends(&mut relay, &frame, 200, [Reason::ForwardedTx, Reason::OverRateLimit]);
    let took = start.elapsed().as_millis() as u64;
    assert!(later >= 20 && first + later <= 102 + took, "{later} in {took} ms");
    assert_eq!(later + over, 200);
}

#[test]
fn half_of_the_ring_buffer_is_kept_for_known_sources() {
    let mut relay = Relay::new();
    let stranger = IPV4.datagram(IPV4.stranger, initiation(2));
    let copied = |relay: &mut Relay| {
        let ends = ends(relay, &stranger.frame(), 40, [Reason::Initiation, Reason::InitiationNotCopied]);
        assert_eq!(ends[0] + ends[1], 40);
        ends[0]
    };
    let strangers = copied(&mut relay);
    assert!((9..=11).contains(&strangers), "{strangers} of a stranger");
    let members = relay.fill_events();
    assert!((8..=10).contains(&members), "{members} of a member");
    let events = relay.events();
    assert_eq!(events.len(), strangers as usize + members);
    assert_eq!(shown(&events[0]), shown(&event(HANDSHAKE, &stranger)));
    assert_eq!(copied(&mut relay), strangers, "there is room again");
    // Hints are of unknown sources as well.
    let data = IPV4.datagram(IPV4.stranger, transport_data(IPV4.unknown(), 64));
    relay.forget_hints();
    assert_eq!(relay.run(&data.frame()).events.len(), strangers as usize, "no hint beside what waits");
    assert_eq!(relay.run(&data.frame()).events.len(), 1);
}

/// CPUs that take from one bucket at once let a little more pass than they should, and don't spoil it.
#[test]
fn cpus_share_a_bucket_without_spoiling_it() {
    const TIME: Duration = Duration::from_millis(500);
    let mut relay = Relay::new();
    let costs = Costs { signal: cost(2_000), bulk: cost(2_000) };
    let budgets = Budgets { unknown: costs, ..Budgets::default() };
    relay.budgets().set(0, budgets, 0).unwrap();
    let frame = IPV4.datagram(IPV4.stranger, transport_data(IPV4.unknown(), 64)).frame();
    let threads = 4;
    let start = wait::now();
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while start.elapsed() < TIME {
                    relay.verdict(&frame);
                }
            });
        }
    });
    let took = start.elapsed();
    let all = |relay: &Relay, reason| -> Counter { relay.counter(reason, Family::Ipv4) };
    let admitted = all(&relay, Reason::DataOwn).packets;
    let dropped = all(&relay, Reason::UnknownOverBudget).packets;
    let share = 2_000.0 * (1.0 + took.as_secs_f64());
    assert!(admitted as f64 >= share * 0.95 - 2.0, "{admitted} admitted, {dropped} dropped in {took:?}");
    assert!(admitted as f64 <= share * 1.5, "{admitted} admitted, {dropped} dropped in {took:?}");
    assert!(dropped > 0, "{admitted} admitted and nothing dropped: too slow to tell");
    thread::sleep(Duration::from_millis(5));
    assert_eq!(relay.verdict(&frame), Verdict::Pass as u32, "it fills again");
}
