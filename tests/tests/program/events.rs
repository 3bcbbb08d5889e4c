//! The ring buffer over several packets: rate, order, and what happens when nobody reads.

use aya::maps::PerCpuValues;
use relay_ebpf::{
    event::{HANDSHAKE, NEW_SOURCE},
    reason::{Family, Reason},
    tables::{Endpoint, HINT_INTERVAL_NS},
};
use rustix::{
    thread::{CpuSet, sched_getaffinity, sched_setaffinity},
    time::{ClockId, clock_gettime},
};

use crate::{
    datagram::{initiation, transport_data},
    fixture::{event, shown},
    relay::{FAMILIES, IPV4, Relay},
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

#[test]
fn a_new_source_is_hinted_at_once_in_an_interval() {
    let cpu = stay_on_one_cpu();
    let mut relay = Relay::new();
    let datagram = IPV4.datagram(IPV4.stranger, transport_data(IPV4.unknown(), 32));
    let frame = datagram.frame();

    // Every round: how long ago the last hint was when the packet was certainly done, or certainly not begun.
    let (mut hinted, mut held_back) = (0, 0);
    for _ in 0..100 {
        let last = relay.hints()[cpu];
        let before = since_boot();
        let events = relay.run(&frame).events;
        let after = since_boot();
        if before - last >= HINT_INTERVAL_NS {
            assert_eq!(events.len(), 1, "{} ns after the last hint", before - last);
        } else if after - last < HINT_INTERVAL_NS {
            assert_eq!(events.len(), 0, "{} ns after the last hint", after - last);
            held_back += 1;
        }
        for raised in &events {
            assert_eq!(shown(raised), shown(&event(NEW_SOURCE, &datagram)));
            assert!((before..=after).contains(&relay.hints()[cpu]));
            hinted += 1;
        }
    }
    assert!(hinted >= 1 && held_back >= 1, "{hinted} hints, {held_back} held back");

    // An interval later.
    let mut times: Vec<_> = relay.hints().to_vec();
    times[cpu] = since_boot() - HINT_INTERVAL_NS;
    relay.set_hints(PerCpuValues::try_from(times).unwrap());
    assert_eq!(relay.run(&frame).events.len(), 1);
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
