//! Taking over the loaded program, and what an earlier run has left in its maps.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use anyhow::{Context as _, Result};
use aya::maps::{MapData, RingBuf};
use rand::{SeedableRng as _, rngs::StdRng};
use relay_ebpf::tables::{Ledger, NEXT_HOPS_MAX, Session as Entry};
use tracing::info;

use super::{Engine, Reads, SourceState, relayed};
use crate::{
    clock,
    config::Config,
    forwarding::{Locals, restore},
    handshake::{Action, Limits, Settings, Tracker},
    interface::Interface,
    members::{MemberId, Members},
    netlink::Netlink,
    next_hops::{NOWHERE, NextHops},
    program::Loaded,
    status::Userspace,
};

impl Engine {
    /// Takes over the loaded program, and what an earlier run has left in its maps.
    pub async fn new(
        config: Config,
        loaded: Loaded,
        interface: Interface,
        netlink: Netlink,
        members: Arc<Members>,
        source: SourceState,
    ) -> Result<(Self, RingBuf<MapData>)> {
        let Loaded { mut maps, mut events, sockets, attached, adopted } = loaded;
        let now = clock::now();
        let table = maps.locals();
        let left = if adopted { maps.sessions() } else { HashMap::new() };
        let in_use = left.values().map(|(entry, _)| entry.next_hop).collect();
        let settings = Settings {
            public_key: interface.public_key(),
            addresses: config.relay.addresses.clone(),
            port: config.relay.port,
            denied: config.relay.deny.clone(),
            limits: Limits {
                sessions: config.limits.sessions as usize / 2,
                sessions_per_responder: config.limits.sessions_per_member as usize,
                pending: config.limits.pending as usize,
                ..Limits::default()
            },
        };
        let ports: Vec<u32> = attached.iter().map(|a| a.ifindex).collect();
        maps.write_tx_ports(&ports).context("write the egress interfaces")?;
        maps.forget_all().context("clear the handshakes of an earlier run")?;
        if adopted {
            // Messages that came while nobody was there have been repeated since.
            while events.next().is_some() {}
            let unused =
                (1..NEXT_HOPS_MAX as u16).filter(|id| !left.values().any(|(e, _)| e.next_hop == *id));
            for id in unused {
                maps.write_next_hop(id, NOWHERE).context("clear the next hops of an earlier run")?;
            }
        }
        let mut engine = Self {
            tracker: Tracker::new(settings, StdRng::from_os_rng()),
            locals: Locals::assign(&table, &config.relay.addresses),
            config,
            next_hops: NextHops::new(ports, in_use),
            netlink,
            sockets,
            interface,
            attached,
            members,
            source,
            handshakes: HashMap::new(),
            beside: HashMap::new(),
            endpoints: maps.endpoints(),
            maps,
            endpoints_version: None,
            counts: Userspace::default(),
            started: now,
            reads: Reads::new(now),
            resync: false,
        };
        engine.read_neighbours().await?;
        engine.restore(left, &Locals::read(&table)).await?;
        engine.interface.set_peers(&relayed(&engine.members), &BTreeSet::new()).await?;
        // Hosts may have moved while nobody looked: their sessions follow.
        let peers = engine.interface.peers().await?;
        engine.take_in(peers).await;
        Ok((engine, events))
    }

    /// Puts back the sessions that an earlier run has left, as far as they are still allowed, and removes the rest.
    /// `locals` are the relay's addresses by the keys that those sessions name.
    async fn restore(&mut self, left: HashMap<u32, (Entry, Ledger)>, locals: &Locals) -> Result<()> {
        let now = clock::now();
        let mut actions = Vec::new();
        self.tracker.set_members(now, Arc::clone(&self.members), &mut actions);
        let mut kept = 0;
        for (&index, (entry, ledger)) in &left {
            let twin = left.get(&ledger.twin);
            let session = twin.and_then(|(e, l)| restore(index, (entry, ledger), (e, l), locals));
            if let Some(session) = session
                && self.tracker.restore(session)
            {
                actions.push(Action::Open(session));
                kept += 1;
            }
        }
        // First those go that name an address which is the relay's no more, then another address may take its key.
        self.maps
            .retain_sessions(|index| self.tracker.session_by_index(index).is_some())
            .context("remove the sessions of an earlier run that have ended")?;
        self.maps.write_locals(&self.locals.table()).context("write the relay's addresses")?;
        for (endpoint, member) in self.endpoints.clone() {
            self.tracker.set_endpoint(now, MemberId(member), Some(endpoint.into()), &mut actions);
        }
        self.tracker.expire(now, &mut actions);
        self.carry_out(actions).await;
        for (id, next_hop) in self.next_hops.release_reserved() {
            self.maps.write_next_hop(id, next_hop)?;
        }
        if !left.is_empty() {
            info!(sessions = kept, "sessions of an earlier run taken over");
        }
        Ok(())
    }
}
