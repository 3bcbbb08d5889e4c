//! The renewal of a session, in real time.

use std::time::Duration;

use relay_tests::{
    relay::Outer,
    traffic::{Pinging, connect},
    until,
    world::REGISTRATION,
};

/// WireGuard renews a session after 120 s; then it starts with the next packet that is sent.
const RENEWAL: Duration = Duration::from_secs(150);

#[test]
fn a_session_is_renewed_with_traffic_running_and_nothing_is_lost() {
    let world = crate::in_the_kernel::world(Outer::Ipv4);
    connect(&world.a, &world.b, REGISTRATION);
    let indices = || world.relay.sessions().iter().map(|session| session.index()).collect::<Vec<_>>();
    let before = indices();
    let opened = world.relay.status().handshakes("session_opened");
    let pings = Pinging::start(&world.a, &world.b, Duration::from_millis(20));
    let carried =
        |status: &relay_tests::relay::SessionStatus| !before.contains(&status.index()) && status.packets > 20;
    until("new session that carries data", RENEWAL, || {
        world.relay.sessions().iter().any(carried).then_some(())
    });
    pings.more(100, Duration::from_secs(10));
    assert!(world.relay.status().handshakes("session_opened") > opened);
    assert_eq!(pings.lost(), Vec::<u32>::new(), "a → b lost some at the switch");
}
