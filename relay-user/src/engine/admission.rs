//! What is admitted, and members' rate limits, made to stand in the maps.

use tracing::warn;

use super::Engine;
use crate::{
    admission::Admission,
    clock,
    handshake::{Session, Timestamp},
    members::{MemberId, RateLimit},
    rates::Changes,
    status::UnknownSource,
};

impl Engine {
    /// Makes the maps say what is admitted.
    pub(super) fn write_admission(&mut self) {
        let written = self.maps.write_prefixes(&self.admission.filter.entries());
        self.check(written, "write the prefixes of allowed and denied sources");
        let written = self.maps.write_budgets(&self.admission.packets.budgets());
        self.check(written, "write what is admitted");
    }

    /// Makes the maps and the tracker go by this. What is denied now ends at once.
    pub(super) async fn apply_admission(&mut self, admission: Admission) {
        if self.admission == admission {
            return;
        }
        self.admission = admission;
        self.write_admission();
        let (filter, work) = (self.admission.filter.clone(), self.admission.work);
        let mut actions = Vec::new();
        self.tracker.set_admission(clock::now(), filter, work, &mut actions);
        self.carry_out(actions).await;
        // What is denied no more is found at its endpoint again.
        self.reads.hint(clock::now());
    }

    /// Makes the rate limits those of the members, and their sessions name them.
    pub(super) fn apply_rates(&mut self) {
        let changes = self.rates.update(&self.desired.members, self.channels.limits());
        self.write_rates(&changes);
        if changes.members.is_empty() {
            return;
        }
        let named = |session: &Session| {
            let sides = [session.initiator.member, session.responder.member];
            sides.into_iter().flatten().any(|member| changes.members.contains(&member))
        };
        let sessions: Vec<Session> =
            self.tracker.sessions().filter(|session| named(session)).copied().collect();
        for session in sessions {
            self.write(&session);
        }
    }

    /// Gives a user of the TURN server a rate limit, or takes it away. No session names it.
    pub(super) fn apply_rate(&mut self, user: MemberId, limit: Option<RateLimit>) {
        let mut changes = Changes::default();
        self.rates.set(user, limit, &mut changes);
        self.write_rates(&changes);
    }

    fn write_rates(&mut self, changes: &Changes) {
        for (&id, rate) in &changes.entries {
            self.maps.write_rate(id, rate);
        }
        if changes.left_out > 0 {
            warn!(
                left_out = changes.left_out,
                "too many members and TURN users have a rate limit: these have none; give fewer one"
            );
        }
    }

    /// The unknown sources that were admitted lately, those with the most packets first.
    pub(super) fn unknown_sources(&self) -> Vec<UnknownSource> {
        let now = clock::now();
        let mut sources: Vec<UnknownSource> = (self.maps.sources().into_iter())
            .map(|(address, source)| {
                let address: std::net::IpAddr = address.into();
                UnknownSource {
                    source: if address.is_ipv4() { address.to_string() } else { format!("{address}/64") },
                    admitted_packets: source.admitted,
                    dropped_packets: source.dropped,
                    seen_seconds_ago: now.saturating_sub(Timestamp::from_nanos(source.seen_ns)).as_secs_f64(),
                }
            })
            .collect();
        sources.sort_by(|a, b| b.packets().cmp(&a.packets()).then_with(|| a.source.cmp(&b.source)));
        sources
    }
}
