//! The relay is stopped and kept, killed, upgraded and reloaded, time and again, while hosts talk.

use std::{fs, path::PathBuf, time::Duration};

use rustix::process::Signal;
use serde::Serialize;

use crate::{
    World,
    relay::{Outer, wgrelay},
    stream::{Stream, Streamed},
    traffic::connect,
    until,
    world::REGISTRATION,
};

/// Datagrams a second, each way.
const RATE: u32 = 500;

/// What is done to the relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Stopped by SIGTERM, with `keep`, and started.
    Stop,
    /// Killed by SIGKILL and started.
    Kill,
    /// Stopped, and started from another file: that of another version.
    Upgrade,
    /// Reloaded by SIGHUP, with another configuration.
    Reload,
}

impl Event {
    /// One after the other.
    pub const ALL: [Self; 4] = [Self::Stop, Self::Kill, Self::Upgrade, Self::Reload];
}

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// Nothing was lost, and every start has put its own program in the place of the last one's.
    pub ok: bool,
    /// Datagrams sent, both ways together.
    pub sent: u64,
    /// Those that came.
    pub received: u64,
    /// How often the relay was stopped or killed, and started; upgrades among them.
    pub restarts: u32,
    /// How often it was started from another file.
    pub upgrades: u32,
    /// How often it was reloaded.
    pub reloads: u32,
    /// The rest of what is known of the datagrams.
    pub streams: Streamed,
}

/// A world whose relay is kept when it stops, with a and b talking.
pub fn world() -> World {
    let mut world = World::new();
    world.relay.keep = Some(true);
    world.relay.start();
    world.point_hosts(Outer::Ipv4, 25);
    world.start_hosts();
    connect(&world.a, &world.b, REGISTRATION);
    world
}

/// Starts a stream each way between a and b.
pub fn streams(world: &World) -> [Stream; 2] {
    [Stream::start(&world.a, &world.b, RATE), Stream::start(&world.b, &world.a, RATE)]
}

/// Makes these events happen while streams go both ways between a and b. `progress` is told of each.
///
/// # Panics
/// If the relay does not come back, or has lost its sessions.
pub fn run(world: &mut World, events: impl IntoIterator<Item = Event>, progress: &dyn Fn(Event)) -> Outcome {
    let streams = streams(world);
    let (mut restarts, mut upgrades, mut reloads, mut swapped) = (0, 0, 0, true);
    for event in events {
        progress(event);
        let (program, pins) = (world.relay.program_id(), world.relay.links());
        match event {
            Event::Stop => world.relay.restart(Signal::TERM),
            Event::Kill => world.relay.restart(Signal::KILL),
            Event::Upgrade => {
                world.relay.stop(Signal::TERM);
                world.relay.binary = Some(other_file(world, upgrades));
                upgrades += 1;
                world.relay.start();
            }
            Event::Reload => {
                reload(world, reloads);
                reloads += 1;
            }
        }
        if event != Event::Reload {
            restarts += 1;
            swapped &= world.relay.program_id() != program;
        }
        // The links are those of the first start: the program was swapped on them, and never detached.
        assert_eq!(world.relay.links(), pins, "{event:?}");
        assert!(world.relay.status().sessions >= 1, "{event:?}: the sessions are gone");
    }
    let streams: Streamed = streams.into_iter().map(Stream::stop).sum();
    let (sent, received) = (streams.sent, streams.received);
    Outcome {
        ok: swapped && sent > 0 && sent == received,
        sent,
        received,
        restarts,
        upgrades,
        reloads,
        streams,
    }
}

/// A copy of wgrelay, as an upgrade would put it into the place of the old one.
fn other_file(world: &World, number: u32) -> PathBuf {
    let file = world.lab.file(&format!("wgrelay-{}", number % 2));
    if !file.exists() {
        fs::copy(wgrelay(), &file).expect("copy wgrelay");
    }
    file
}

/// Changes what may be changed live, and waits until that holds.
fn reload(world: &mut World, number: u32) {
    let denied = format!("deny = [\"203.0.113.{}/32\"]", number % 200);
    world.relay.changes = vec![("deny = []".to_owned(), denied)];
    let before = world.relay.taken_over();
    world.relay.write_configuration();
    world.relay.signal(Signal::HUP);
    until("another configuration", Duration::from_secs(5), || {
        (world.relay.taken_over() > before).then_some(())
    });
}
