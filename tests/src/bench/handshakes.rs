//! Handshakes per second on one CPU, by the number of members.
//!
//! The tracker alone: messages in, actions out. What the kernel and the system calls cost is not in it. Messages are made
//! before the clock starts, state that a measurement leaves is removed after it has stopped. The clock is that of the
//! thread's CPU time, so what else the machine does counts only by what it takes from the caches.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use rand::{SeedableRng as _, rngs::StdRng};
use relay_search::Kernel;
use relay_user::{
    admission::{Filter, Work},
    handshake::{Action, Datagram, Limits, Outcome, Quotas, Session, Settings, Side, Timestamp, Tracker},
    members::{Member, Members, Place, Policy, PublicKey},
};

use super::{
    Effort,
    stats::{Samples, Spread, interleave},
};
use crate::{affinity::on_one, message};

/// How many members there are.
const MEMBERS: [usize; 4] = [100, 1_000, 10_000, 100_000];
/// The number of members that the slower kernels are measured with too.
const MEMBERS_FOR_EVERY_KERNEL: usize = 10_000;
/// Pairs of hosts whose handshakes are measured, if there are as many.
const PAIRS: usize = 2_000;
const RELAY: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
const PORT: u16 = 51820;
/// More than anything of a measurement lives: sessions 185 s, cookie secrets 240 s.
const FORGOTTEN: Duration = Duration::from_secs(300);

/// What was measured with so many members and one kernel.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Row {
    /// How many members there are. All are relayed here, in one network, with a session each.
    pub members: usize,
    /// What keys were searched by: the fastest that the CPU has, or a slower one.
    pub kernel: String,
    /// Whole handshakes of hosts that are known and have talked before: initiation, response, session opened, and closed
    /// at its end.
    pub known_per_second: Spread,
    /// Initiations of unknown sources that bring a valid mac2, each for a member at random, sent on.
    pub proven_per_second: Spread,
    /// Initiations of unknown sources that do not, answered with cookie replies.
    pub unknown_per_second: Spread,
    /// An initiation that is for nobody, so that all keys are tried, in microseconds.
    pub full_search_microseconds: Spread,
    /// Which part of an initiation with a valid mac2 is the search. It finds a member after half of the keys on average.
    pub search_share_of_proven: f64,
    /// The same of one without.
    pub search_share_of_unknown: f64,
}

/// Measures on one CPU, to which the thread is tied meanwhile. `progress` is told what is being done.
///
/// # Errors
/// If the tracker does with a message what it should not.
pub fn run(effort: Effort, progress: &dyn Fn(&str)) -> Result<Vec<Row>> {
    let (rounds, at_least) = if effort == Effort::Short {
        (3, Duration::from_millis(30))
    } else {
        (21, Duration::from_millis(100))
    };
    on_one(|| measure(rounds, at_least, progress))
}

fn measure(rounds: usize, at_least: Duration, progress: &dyn Fn(&str)) -> Result<Vec<Row>> {
    let mut worlds = Vec::new();
    for members in MEMBERS {
        for kernel in Kernel::all() {
            if kernel == Kernel::default() || members == MEMBERS_FOR_EVERY_KERNEL {
                progress(&format!("handshakes: {members} members, {}", kernel.name()));
                worlds.push(World::new(members, kernel)?);
            }
        }
    }
    let mut contenders: Vec<(usize, Measurement)> =
        (0..worlds.len()).flat_map(|world| Measurement::ALL.map(|of| (world, of))).collect();
    let samples = interleave(
        &mut contenders,
        rounds,
        |&mut (world, of)| worlds[world].time_of_one(of, at_least),
        |round| progress(&format!("handshakes: round {} of {rounds}", round + 1)),
    )?;
    let row = |(world, samples): (&World, &[Samples])| {
        let per_second = |times: &Samples| Spread::from(&scaled(times, |seconds| 1.0 / seconds));
        let [known, proven, unknown, nobody] = samples else { unreachable!("as many as measurements") };
        let members = world.keys.len() as f64;
        let search = nobody.median() * (members + 1.0) / (2.0 * members);
        Row {
            members: world.keys.len(),
            kernel: world.kernel.name().to_owned(),
            known_per_second: per_second(known),
            proven_per_second: per_second(proven),
            unknown_per_second: per_second(unknown),
            full_search_microseconds: Spread::from(&scaled(nobody, |seconds| seconds * 1e6)),
            search_share_of_proven: search / proven.median(),
            search_share_of_unknown: search / unknown.median(),
        }
    };
    Ok(worlds.iter().zip(samples.chunks(Measurement::ALL.len())).map(row).collect())
}

fn scaled(samples: &Samples, scale: impl Fn(f64) -> f64) -> Samples {
    Samples { values: samples.values.iter().map(|&value| scale(value)).collect() }
}

/// What is measured, in the order of a row.
#[derive(Clone, Copy)]
enum Measurement {
    Known,
    Proven,
    Unknown,
    Nobody,
}

impl Measurement {
    const ALL: [Self; 4] = [Self::Known, Self::Proven, Self::Unknown, Self::Nobody];
}

/// A tracker with its members.
struct World {
    tracker: Tracker,
    kernel: Kernel,
    /// Of the members, in no order. Each is at [`endpoint`] of its place.
    keys: Vec<PublicKey>,
    /// Initiators and responders, by place; nobody is in two pairs.
    pairs: Vec<(usize, usize)>,
    now: Timestamp,
    random: fastrand::Rng,
    indices: u32,
    sources: u32,
    out: Vec<Action>,
}

impl World {
    fn new(members: usize, kernel: Kernel) -> Result<Self> {
        let mut random = fastrand::Rng::with_seed(members as u64);
        let keys: Vec<PublicKey> =
            (0..members).map(|_| PublicKey(std::array::from_fn(|_| random.u8(..)))).collect();
        let public_key = PublicKey([1; 32]);
        let settings = Settings {
            public_key,
            addresses: vec![RELAY],
            port: PORT,
            filter: Filter::default(),
            // What is measured is what all this costs, not when it ends.
            work: Work { searched_keys: 0, initiations: 0, unknown_initiations: 0 },
            limits: Limits {
                sessions: 500_000,
                pending_quotas: Quotas { source: usize::MAX, unknown: usize::MAX },
                ..Limits::default()
            },
        };
        let mut this = Self {
            tracker: Tracker::with_kernel(settings, StdRng::seed_from_u64(1), kernel),
            kernel,
            pairs: Vec::new(),
            keys,
            now: FORGOTTEN,
            random,
            indices: 0,
            sources: 0,
            out: Vec::new(),
        };
        let named = this.keys.iter().enumerate().map(|(n, &public_key)| Member {
            name: format!("host-{n}").into(),
            public_key,
            networks: vec!["net".into()],
            place: Place::Relayed,
            rate_limit: None,
        });
        let named = Members::new(public_key, Policy::Members, [], named)?;
        this.tracker.set_members(this.now, Arc::new(named), &mut this.out);
        for (n, key) in this.keys.iter().enumerate() {
            this.tracker.set_endpoint(this.now, key.id(), Some(endpoint(n)), &mut this.out);
        }
        let mut places: Vec<usize> = (0..members).collect();
        this.random.shuffle(&mut places);
        for pair in places.chunks_exact(2) {
            this.stand(pair[0], pair[1])?;
            this.stand(pair[1], pair[0])?;
        }
        this.pairs = places.chunks_exact(2).take(PAIRS).map(|pair| (pair[0], pair[1])).collect();
        // The first handshake of two hosts is a search of all members.
        this.known()?;
        Ok(this)
    }

    /// A session that stands all the time: one that ends at the end of time.
    fn stand(&mut self, initiator: usize, responder: usize) -> Result<()> {
        let mut side = |host: usize| Side {
            index: self.index(),
            endpoint: endpoint(host),
            local: RELAY,
            member: Some(self.keys[host].id()),
        };
        let (initiator, responder) = (side(initiator), side(responder));
        let opened = Timestamp::from_secs(u64::from(u32::MAX));
        ensure!(self.tracker.restore(Session { initiator, responder, opened }), "a session was refused");
        Ok(())
    }

    /// The mean time of one, in seconds, over so many that it takes this long at least.
    fn time_of_one(&mut self, of: Measurement, at_least: Duration) -> Result<f64> {
        let (mut time, mut count) = (Duration::ZERO, 0);
        while time < at_least {
            let (more, done) = match of {
                Measurement::Known => self.known()?,
                Measurement::Proven => self.proven()?,
                Measurement::Unknown => self.unknown()?,
                Measurement::Nobody => self.nobody()?,
            };
            time += more;
            count += done;
        }
        Ok(time.as_secs_f64() / count as f64)
    }

    fn known(&mut self) -> Result<(Duration, usize)> {
        let mut messages = Vec::new();
        for (initiator, responder) in self.pairs.clone() {
            let (i, j) = (self.index(), self.index());
            messages.push(datagram(endpoint(initiator), message::initiation(i, &self.keys[responder], None)));
            messages.push(datagram(endpoint(responder), message::response(j, i, &self.keys[initiator])));
        }
        let count = self.pairs.len();
        let before = self.tracker.sessions_len();
        let start = cpu_time();
        self.handle(&messages);
        let open = self.tracker.sessions_len();
        self.forget();
        let time = cpu_time() - start;
        ensure!(open == before + count, "of {count} handshakes {} made sessions", open - before);
        ensure!(self.tracker.sessions_len() == before, "sessions were left over");
        Ok((time, count))
    }

    fn unknown(&mut self) -> Result<(Duration, usize)> {
        let (messages, _) = self.unknown_sources();
        let time = self.time(&messages, Outcome::Challenged)?;
        self.forget();
        Ok((time, messages.len()))
    }

    fn proven(&mut self) -> Result<(Duration, usize)> {
        let (mut messages, recipients) = self.unknown_sources();
        self.handle(&messages);
        let answers = std::mem::take(&mut self.out);
        ensure!(answers.len() == messages.len(), "not every initiation was answered with a cookie reply");
        for ((datagram, recipient), answer) in messages.iter_mut().zip(recipients).zip(answers) {
            let Action::Send(reply) = answer else { anyhow::bail!("no cookie reply but {answer:?}") };
            let cookie = message::cookie(&reply.message, &datagram.message, &self.keys[recipient])
                .context("the cookie reply can't be opened")?;
            let other = self.random.usize(..self.keys.len());
            datagram.message = message::initiation(self.index(), &self.keys[other], Some(&cookie));
        }
        let verified = self.tracker.outcomes().count(Outcome::Mac2Verified);
        let time = self.time(&messages, Outcome::InitiationForwarded)?;
        let verified = self.tracker.outcomes().count(Outcome::Mac2Verified) - verified;
        ensure!(verified == messages.len() as u64, "{verified} of {} proofs were taken", messages.len());
        self.forget();
        Ok((time, messages.len()))
    }

    fn nobody(&mut self) -> Result<(Duration, usize)> {
        let nobody = PublicKey([2; 32]);
        let count = self.batch();
        let messages: Vec<_> = (0..count)
            .map(|_| {
                let host = endpoint(self.random.usize(..self.keys.len()));
                datagram(host, message::initiation(self.index(), &nobody, None))
            })
            .collect();
        Ok((self.time(&messages, Outcome::UnknownRecipient)?, count))
    }

    /// Initiations without a cookie, each from another source that was never seen before, and whom they are for.
    fn unknown_sources(&mut self) -> (Vec<Datagram>, Vec<usize>) {
        let batch = (0..self.batch()).map(|_| {
            self.sources += 1;
            let source = SocketAddr::from((Ipv4Addr::from(0x2000_0000 + self.sources), 1024));
            let recipient = self.random.usize(..self.keys.len());
            (datagram(source, message::initiation(self.index(), &self.keys[recipient], None)), recipient)
        });
        batch.unzip()
    }

    /// How many messages are made at a time: fewer where each costs much.
    fn batch(&self) -> usize {
        (2_000_000 / self.keys.len()).clamp(50, 1_000)
    }

    /// What these take, each of which has to have this outcome.
    fn time(&mut self, messages: &[Datagram], outcome: Outcome) -> Result<Duration> {
        let before = self.tracker.outcomes().count(outcome);
        let start = cpu_time();
        self.handle(messages);
        let time = cpu_time() - start;
        let count = self.tracker.outcomes().count(outcome) - before;
        ensure!(count == messages.len() as u64, "{count} of {} were {}", messages.len(), outcome.label());
        Ok(time)
    }

    /// Leaves the actions in `out`.
    fn handle(&mut self, messages: &[Datagram]) {
        self.out.clear();
        for message in messages {
            self.tracker.handle(self.now, message, &mut self.out);
        }
    }

    /// Lets all end that does not stand.
    fn forget(&mut self) {
        self.now += FORGOTTEN;
        self.out.clear();
        self.tracker.expire(self.now, &mut self.out);
    }

    /// An index that was not there before, in no order.
    fn index(&mut self) -> u32 {
        self.indices += 1;
        self.indices.wrapping_mul(0x9e37_79b1)
    }
}

/// What this thread has had of a CPU so far.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Where the member at a place is.
fn endpoint(place: usize) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::from(0x0b00_0000 + place as u32), PORT))
}

fn datagram(remote: SocketAddr, message: Vec<u8>) -> Datagram {
    Datagram { local: RELAY, remote, ttl: 64, message }
}
