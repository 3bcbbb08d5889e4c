//! Three implementations of WireGuard meet over one relay.

use relay_tests::{World, host::Implementation, relay::Outer};

use crate::in_the_kernel::{assert_all_talk, assert_kernel_registrar};

/// boringtun sends nothing until it has something to send: it registers with its first keepalive.
const KEEPALIVE_SECONDS: u16 = 5;

/// One behind a NAT, one behind two, one public.
fn three_implementations(each: [Implementation; 3]) {
    for outer in Outer::BOTH {
        let mut world = World::new();
        for (host, implementation) in [&mut world.a, &mut world.b, &mut world.p].into_iter().zip(each) {
            host.implementation = implementation;
        }
        world.relay.start();
        assert_kernel_registrar(&world);
        world.point_hosts(outer, KEEPALIVE_SECONDS);
        world.start_hosts();
        assert_all_talk(&world);
    }
}

#[test]
fn boringtun_is_relayed() {
    three_implementations([Implementation::Kernel, Implementation::BoringTun, Implementation::Go]);
}

#[test]
fn boringtun_is_public() {
    three_implementations([Implementation::Go, Implementation::Kernel, Implementation::BoringTun]);
}
