//! Channels of the TURN server: from what the server has bound to what the XDP program forwards.

use std::{
    collections::{HashMap, hash_map::Entry},
    mem,
    net::SocketAddr,
};

use relay_ebpf::tables::Channel;
use tokio::sync::watch;

use super::Engine;
use crate::{
    clock,
    maps::Traffic,
    members::{MemberId, RateLimit},
    next_hops::Flow,
    status::TurnStatus,
    turn::{
        allocation::BothWays,
        entries::{entries, flows},
        server::{Binding, FiveTuple},
    },
};

/// What the engine knows of channels.
#[derive(Default)]
pub(super) struct Channels {
    live: HashMap<(FiveTuple, u16), Live>,
    /// Whose they are.
    users: HashMap<MemberId, User>,
    /// What the server says of itself.
    pub figures: Option<watch::Receiver<Option<TurnStatus>>>,
}

struct Live {
    binding: Binding,
    /// Of what the client sends, and of what its peer sends; as far as they are in the table.
    keys: [Option<u64>; 2],
    /// What was told already of what they carried.
    told: BothWays,
}

#[derive(Default)]
struct User {
    channels: usize,
    limit: Option<RateLimit>,
}

impl Channels {
    /// The limits of users.
    pub fn limits(&self) -> impl Iterator<Item = (MemberId, RateLimit)> {
        self.users.iter().filter_map(|(&id, user)| Some((id, user.limit?)))
    }

    /// All that is sent for channels.
    pub fn flows(&self) -> impl Iterator<Item = Flow> {
        self.live.values().flat_map(|live| flows(&live.binding))
    }

    /// The channels that something is sent for by one of these.
    pub fn by(&self, concerned: impl Fn(&Flow) -> bool) -> Vec<Binding> {
        let found = self.live.values().filter(|live| flows(&live.binding).iter().any(&concerned));
        found.map(|live| live.binding).collect()
    }
}

impl Engine {
    /// Has the program forward a channel, or do so for longer. When this returns it does, if it can: what it does not
    /// forward the server does.
    pub(super) async fn bind(&mut self, binding: Binding) {
        for flow in flows(&binding) {
            self.ensure_route(flow).await;
        }
        self.write_next_hops();
        self.write_channel(binding);
    }

    /// Writes both directions of a channel.
    pub(super) fn write_channel(&mut self, binding: Binding) {
        let id = (binding.tuple, binding.number);
        if self.channels.live.get(&id).is_some_and(|live| live.binding.peer != binding.peer) {
            self.unbind(id.0, id.1);
        }
        let user = self.channels.users.entry(binding.user).or_default();
        user.channels += usize::from(!self.channels.live.contains_key(&id));
        if mem::replace(&mut user.limit, binding.limit) != binding.limit {
            self.apply_rate(binding.user, binding.limit);
        }
        let mut keys = [None; 2];
        for (key, direction) in keys.iter_mut().zip(self.directions(&binding).iter().flatten()) {
            *key = self.maps.write_channel(direction).is_ok().then_some(direction.key);
        }
        let told = self.channels.live.get(&id).map(|live| live.told).unwrap_or_default();
        self.channels.live.insert(id, Live { binding, keys, told });
    }

    /// Ends a channel; what it carried and was not told yet comes back.
    pub(super) fn unbind(&mut self, tuple: FiveTuple, number: u16) -> BothWays {
        let Some(live) = self.channels.live.remove(&(tuple, number)) else { return BothWays::default() };
        let [sent, received] =
            live.keys.map(|key| key.map_or_else(Traffic::default, |key| self.maps.remove_channel(key)));
        if let Entry::Occupied(mut user) = self.channels.users.entry(live.binding.user) {
            user.get_mut().channels -= 1;
            if user.get().channels == 0 {
                user.remove();
                self.apply_rate(live.binding.user, None);
            }
        }
        since(BothWays { sent, received }, live.told)
    }

    /// What channels have carried since it was last asked, by whose they are.
    pub(super) fn channel_traffic(&mut self) -> Vec<(FiveTuple, BothWays)> {
        let mut passed = Vec::new();
        for ((tuple, _), live) in &mut self.channels.live {
            let [sent, received] =
                live.keys.map(|key| key.map_or_else(Traffic::default, |key| self.maps.channel_traffic(key)));
            let now = BothWays { sent, received };
            if now != live.told {
                passed.push((*tuple, since(now, live.told)));
                live.told = now;
            }
        }
        passed
    }

    /// The two directions; none if the program must not forward them: what goes to the relay host itself would come back
    /// to it.
    fn directions(&self, binding: &Binding) -> Option<[Channel; 2]> {
        let own = |endpoint: SocketAddr| self.config.relay.addresses.contains(&endpoint.ip());
        if own(binding.tuple.client) || own(binding.peer) {
            return None;
        }
        // After that the server still forwards it to the moment.
        let left = binding.until.saturating_sub(clock::now());
        let until = self.ticks.by(clock::monotonic() + left);
        let rate = self.rates.id(Some(binding.user));
        entries(binding, &self.locals, self.maps.seed(), until, rate, |flow| self.next_hops.id(flow))
    }
}

fn since(now: BothWays, told: BothWays) -> BothWays {
    let since = |now: Traffic, told: Traffic| Traffic {
        packets: now.packets.saturating_sub(told.packets),
        bytes: now.bytes.saturating_sub(told.bytes),
    };
    BothWays { sent: since(now.sent, told.sent), received: since(now.received, told.received) }
}
