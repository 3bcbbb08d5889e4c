//! The ring buffer over several packets: rate, order, and what happens when nobody reads.

use aya::maps::PerCpuValues;
use relay_ebpf::{
    event::{HANDSHAKE, NEW_SOURCE, TOO_BIG},
    reason::{Family, Reason},
    tables::{Endpoint, HINT_NEW_SOURCE, HINT_TOO_BIG, NEW_SOURCE_INTERVAL_NS, TOO_BIG_INTERVAL_NS},
};
use rustix::{
    thread::{CpuSet, sched_getaffinity, sched_setaffinity},
    time::{ClockId, clock_gettime},
};

use crate::{
    datagram::{Datagram, initiation, transport_data},
    fixture::{event, shown},
    relay::{FAMILIES, Hop, IPV4, MTU, Relay},
};

/// ns since boot, as the program reads them.
fn since_boot() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Keeps this thread on the first CPU that it may use: the limit is one for each CPU.
fn stay_on_one_cpu() -> usize {
    let may = sched_getaffinity(None).unwrap();
    let cpu = (0..CpuSet::MAX_CPU).find(|&cpu| may.is_set(cpu)).unwrap();
    let mut only = CpuSet::new();
    only.set(cpu);
    sched_setaffinity(None, &only).unwrap();
    cpu
}

/// What is raised at most once in an interval on each CPU.
struct Limited {
    kind: u32,
    key: u32,
    interval_ns: u64,
    datagram: Datagram,
}

impl Limited {
    fn check(&self) {
        let Self { kind, key, interval_ns, ref datagram } = *self;
        let cpu = stay_on_one_cpu();
        let mut relay = Relay::new();
        let frame = datagram.frame();

        // Every round: how long ago the last one was when the packet was certainly done, or certainly not begun.
        let (mut raised, mut held_back) = (0, 0);
        for _ in 0..100 {
            let last = relay.hints(key)[cpu];
            let before = since_boot();
            relay.verdict(&frame);
            let after = since_boot();
            let events = relay.events();
            if before - last >= interval_ns {
                assert_eq!(events.len(), 1, "{} ns after the last", before - last);
            } else if after - last < interval_ns {
                assert_eq!(events.len(), 0, "{} ns after the last", after - last);
                held_back += 1;
            }
            for one in &events {
                assert_eq!(shown(one), shown(&event(kind, datagram)));
                assert!((before..=after).contains(&relay.hints(key)[cpu]));
                raised += 1;
            }
        }
        assert!(raised >= 1 && held_back >= 1, "{raised} raised, {held_back} held back");

        // An interval later.
        let mut times: Vec<_> = relay.hints(key).to_vec();
        times[cpu] = since_boot() - interval_ns;
        relay.set_hints(key, PerCpuValues::try_from(times).unwrap());
        assert_eq!(relay.run(&frame).events.len(), 1);
    }
}

#[test]
fn a_new_source_is_hinted_at_once_in_an_interval() {
    let datagram = IPV4.datagram(IPV4.stranger, transport_data(IPV4.unknown(), 32));
    Limited { kind: NEW_SOURCE, key: HINT_NEW_SOURCE, interval_ns: NEW_SOURCE_INTERVAL_NS, datagram }.check();
}

#[test]
fn what_is_too_big_is_told_once_in_an_interval() {
    for hosts in &FAMILIES {
        let datagram =
            hosts.datagram(hosts.alice, transport_data(hosts.session(Hop::Back), usize::from(MTU)));
        Limited { kind: TOO_BIG, key: HINT_TOO_BIG, interval_ns: TOO_BIG_INTERVAL_NS, datagram }.check();
    }
}

#[test]
fn a_known_source_is_never_hinted_at() {
    let mut relay = Relay::new();
    for hosts in &FAMILIES {
        relay.forget_hints();
        let frame = hosts.datagram(hosts.alice, transport_data(hosts.unknown(), 32)).frame();
        assert_eq!(relay.run(&frame).events.len(), 0);
        relay.endpoints().remove(&Endpoint::from(hosts.alice)).unwrap();
        assert_eq!(relay.run(&frame).events.len(), 1, "no longer known");
    }
}

#[test]
fn a_full_ring_buffer_loses_only_what_does_not_fit() {
    let mut relay = Relay::new();
    let copied = relay.fill_events();
    assert!((10..30).contains(&copied), "{copied} records in a page");
    assert_eq!(relay.counter(Reason::Initiation, Family::Ipv4).packets, copied as u64);
    assert_eq!(relay.counter(Reason::InitiationNotCopied, Family::Ipv4).packets, 1);

    let waiting = relay.events();
    assert_eq!(waiting.len(), copied);
    let datagram = IPV4.datagram(IPV4.alice, initiation(1));
    assert!(waiting.iter().all(|e| shown(e) == shown(&event(HANDSHAKE, &datagram))));

    let ran = relay.run(&datagram.frame());
    assert_eq!(ran.counted[0].0, Reason::Initiation, "there is room again");
    assert_eq!(ran.events.len(), 1);
}
