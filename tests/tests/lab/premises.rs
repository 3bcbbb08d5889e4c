//! The lab itself: what the other tests rely on.

use std::{
    net::{SocketAddr, UdpSocket},
    panic::catch_unwind,
    time::Duration,
};

use relay_tests::{
    Host, Internet, Lab, Namespace, World,
    cleanup::{NETNS, existing},
    command::{Process, program},
    internet::public,
    relay::PORT,
    traffic::{connect, ping},
    until,
};
use rustix::process::Signal;

/// Sends to a service at a public address and gives the source that the service saw.
fn seen_as(socket: &UdpSocket, service: &UdpSocket) -> SocketAddr {
    socket.send_to(b"hello", service.local_addr().unwrap()).unwrap();
    let (_, source) = service.recv_from(&mut [0; 16]).unwrap();
    source
}

fn bind(namespace: &Namespace, address: &str) -> UdpSocket {
    // A program that another test is starting holds copies of all our sockets, also of closed ones, until it is executed.
    let socket = until(&format!("free port for {address}"), Duration::from_secs(5), || {
        namespace.enter(|| UdpSocket::bind(address)).ok()
    });
    socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    socket
}

#[test]
fn a_nat_gives_each_destination_another_port_and_lets_nobody_else_in() {
    let world = World::new();
    let (p, _) = public(relay_tests::world::P);
    for (host, nat) in [(&world.a, 2), (&world.b, 3)] {
        let socket = bind(&host.namespace, "0.0.0.0:4000");
        let (one, two) =
            (bind(&world.p.namespace, &format!("{p}:7001")), bind(&world.p.namespace, &format!("{p}:7002")));
        let (source_one, source_two) = (seen_as(&socket, &one), seen_as(&socket, &two));
        assert_eq!((source_one.ip(), source_two.ip()), (public(nat).0.into(), public(nat).0.into()));
        assert_ne!(source_one.port(), source_two.port(), "a mapping depends on the destination");
        assert_ne!(source_one.port(), 4000, "a port is random");

        one.send_to(b"answer", source_one).unwrap();
        socket.recv_from(&mut [0; 16]).expect("an answer comes in");
        two.send_to(b"stranger", source_one).unwrap();
        assert!(socket.recv_from(&mut [0; 16]).is_err(), "a stranger came in");
        assert_eq!(seen_as(&socket, &one), source_one, "a flow keeps its port");
        world.nat_a.forget();
        world.nat_b_carrier.forget();
        assert_ne!(seen_as(&socket, &one), source_one, "a NAT that forgot gives a new port");
    }
}

#[test]
fn the_ipv6_firewall_lets_in_only_answers() {
    let world = World::new();
    let (_, p) = public(relay_tests::world::P);
    for host in [&world.a, &world.b] {
        let socket = bind(&host.namespace, "[::]:4000");
        let (one, two) = (
            bind(&world.p.namespace, &format!("[{p}]:7001")),
            bind(&world.p.namespace, &format!("[{p}]:7002")),
        );
        let source = seen_as(&socket, &one);
        assert_eq!(source.port(), 4000, "IPv6 is not translated");
        one.send_to(b"answer", source).unwrap();
        socket.recv_from(&mut [0; 16]).expect("an answer comes in");
        two.send_to(b"stranger", source).unwrap();
        assert!(socket.recv_from(&mut [0; 16]).is_err(), "a stranger came in");
    }
}

#[test]
fn a_nat_that_was_off_lets_its_host_out_again() {
    let world = World::new();
    let ((p, p6), a) = (public(relay_tests::world::P), &world.a.namespace);
    for (any, service) in [("0.0.0.0:0", format!("{p}:7001")), ("[::]:0", format!("[{p6}]:7001"))] {
        let service = bind(&world.p.namespace, &service);
        let before = seen_as(&bind(a, any), &service);
        world.nat_a.switch_off();
        let lost = bind(a, any).send_to(b"hello", service.local_addr().unwrap());
        assert!(
            lost.is_err() || service.recv_from(&mut [0; 16]).is_err(),
            "a NAT that is off lets nothing out"
        );
        world.nat_a.switch_on();
        assert_eq!(seen_as(&bind(a, any), &service).ip(), before.ip());
    }
}

#[test]
fn stock_wireguard_works_between_public_hosts() {
    let lab = Lab::new();
    let internet = Internet::new(&lab);
    let [mut one, mut two] = [("one", 11), ("two", 12)].map(|(role, number)| {
        let namespace = lab.namespace(role);
        internet.attach(&namespace, "eth0", number);
        Host::new(&namespace, number).listening_on(PORT)
    });
    one.add_peer(&two, Some(SocketAddr::new(public(12).0.into(), PORT)));
    two.add_peer(&one, None);
    one.start();
    two.start();
    connect(&one, &two, Duration::from_secs(12));
    assert_eq!(ping(&one, &two, 20, Duration::from_millis(10)).loss(), 0.0);
    assert!(one.last_handshake(&two.keys.public).is_some());
    assert_eq!(one.namespace.udp_checksum_errors() + two.namespace.udp_checksum_errors(), 0);
}

#[test]
fn a_lab_is_removed_when_its_process_is_told_to_end() {
    let lab = Lab::new();
    let demo = Process::start(&mut program(env!("CARGO_BIN_EXE_demo")), lab.file("demo.log"));
    let theirs = |id: u32| existing().into_iter().filter(move |lab| lab.process == id).count();
    let id = demo.id();
    until("lab of the demo", Duration::from_secs(10), || {
        let namespaces =
            std::fs::read_dir(NETNS).ok()?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        (namespaces.filter(|name| name.starts_with(&format!("wgr-{id}-"))).count() > 3).then_some(())
    });
    let status = demo.stop(Signal::TERM);
    assert_eq!(status.code(), Some(128 + 15));
    assert_eq!(theirs(id), 0, "something of the demo's lab is still there");
}

#[test]
fn a_lab_whose_process_was_killed_is_removed_by_the_next() {
    let lab = Lab::new();
    let demo = Process::start(&mut program(env!("CARGO_BIN_EXE_demo")), lab.file("demo.log"));
    let id = demo.id();
    let theirs = move || existing().into_iter().any(|lab| lab.process == id);
    until("lab of the demo", Duration::from_secs(10), || theirs().then_some(()));
    demo.stop(Signal::KILL);
    assert!(theirs(), "a killed process removes nothing");
    let next = Process::start(&mut program(env!("CARGO_BIN_EXE_demo")), lab.file("next.log"));
    until("removal of the dead lab", Duration::from_secs(20), || (!theirs()).then_some(()));
    next.stop(Signal::TERM);
}

#[test]
fn a_lab_is_removed_when_its_test_panics() {
    let panicked = catch_unwind(|| {
        let mut world = World::new();
        world.a.start();
        assert!(existing().contains(&world.lab.id()));
        std::panic::panic_any(world.lab.id());
    });
    let id = *panicked.unwrap_err().downcast::<relay_tests::cleanup::LabId>().expect("the lab's id");
    assert!(!existing().contains(&id), "{id} is still there");
    let links = std::fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!links.contains(&id.to_string()), "a mount of {id} is still there");
}
