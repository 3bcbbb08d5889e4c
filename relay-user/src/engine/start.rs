//! Taking over the loaded program, and what an earlier run has left in its maps.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use anyhow::{Context as _, Result};
use aya::maps::{MapData, RingBuf};
use rand::{SeedableRng as _, rngs::StdRng};
use relay_ebpf::tables::{Ledger, NEXT_HOPS_MAX, Session as Entry};
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::{Change, Engine, Proofs, Reads, channels::Channels};
use crate::{
    clock,
    config::Config,
    forwarding::{Locals, restore},
    handshake::{Action, Limits, Quotas, Settings, Tracker},
    interface::Interface,
    members::MemberId,
    netlink::Netlink,
    next_hops::{NOWHERE, NextHops},
    program::Loaded,
    rates::Rates,
    registrar::Registrar,
    status::Userspace,
};

impl Engine {
    /// Takes over the loaded program, and what an earlier run has left in its maps.
    pub async fn new(
        config: Config,
        loaded: Loaded,
        interface: Interface,
        netlink: Netlink,
        Change { desired, source }: Change,
        proofs: Proofs,
        stop: CancellationToken,
    ) -> Result<(Self, RingBuf<MapData>)> {
        let Loaded { mut maps, mut events, sockets, attached, adopted } = loaded;
        let now = clock::now();
        let table = maps.locals().context("read the relay's addresses of an earlier run")?;
        let (left, ledger) = maps.sessions();
        let in_use: HashSet<u16> = left.values().map(|direction| direction.next_hop).collect();
        let admission = config.admission();
        let settings = Settings {
            public_key: interface.public_key(),
            addresses: config.relay.addresses.clone(),
            port: config.relay.port,
            filter: admission.filter.clone(),
            work: admission.work,
            limits: Limits {
                sessions: config.limits.sessions as usize / 2,
                sessions_per_responder: config.limits.sessions_per_member as usize,
                pending: config.limits.pending as usize,
                pending_quotas: Quotas::of(config.limits.pending as usize),
                ..Limits::default()
            },
        };
        let rates = Rates::adopt(maps.rates());
        let ports: Vec<u32> = attached.iter().map(|a| a.ifindex).collect();
        maps.write_tx_ports(&ports).context("write the egress interfaces")?;
        maps.forget_all().context("clear the handshakes of an earlier run")?;
        if adopted {
            // Messages that came while nobody was there have been repeated since.
            while events.next().is_some() {}
            for id in (1..NEXT_HOPS_MAX as u16).filter(|id| !in_use.contains(id)) {
                maps.write_next_hop(id, NOWHERE);
            }
        }
        interface.set_peers(&desired.peers).await?;
        let mut engine = Self {
            tracker: Tracker::new(settings, StdRng::from_os_rng()),
            locals: Locals::assign(&table, &config.relay.addresses),
            config,
            next_hops: NextHops::new(ports, in_use),
            netlink,
            sockets,
            registrar: Registrar::start(interface.clone(), desired.peers.clone(), stop),
            interface,
            proofs,
            attached,
            desired,
            source,
            handshakes: HashMap::new(),
            beside: HashMap::new(),
            endpoints: maps.endpoints(),
            maps,
            rates,
            admission,
            needs_restart: Vec::new(),
            not_configured: None,
            counts: Userspace::default(),
            channels: Channels::default(),
            started: now,
            reads: Reads::new(now),
            resync: false,
        };
        // Before any session is written.
        engine.apply_rates();
        engine.write_admission();
        engine.read_neighbours().await?;
        engine.restore(&left, &ledger, &Locals::read(&table)).await?;
        // Hosts may have moved while nobody looked: their sessions follow.
        let peers = engine.interface.peers().await?;
        engine.take_in(peers).await;
        Ok((engine, events))
    }

    /// Puts back the sessions that an earlier run has left, as far as they are still allowed, and removes the rest.
    /// `locals` are the relay's addresses by the keys that those sessions name.
    async fn restore(
        &mut self,
        left: &HashMap<u32, Entry>,
        ledger: &[Ledger],
        locals: &Locals,
    ) -> Result<()> {
        let now = clock::now();
        let mut actions = Vec::new();
        self.tracker.set_members(now, Arc::clone(&self.desired.members), &mut actions);
        let mut kept = 0;
        for ledger in ledger {
            let both = left.get(&ledger.responder_index).zip(left.get(&ledger.initiator_index));
            let session = both.and_then(|(there, back)| restore(there, back, ledger, locals));
            if let Some(session) = session
                && self.tracker.restore(session)
            {
                actions.push(Action::Open(session));
                kept += 1;
            }
        }
        // First those go that name an address which is the relay's no more, then another address may take its key.
        self.maps.retain_sessions(|index| self.tracker.session_by_index(index).is_some());
        self.maps.write_locals(&self.locals.table()).context("write the relay's addresses")?;
        for (endpoint, member) in self.endpoints.clone() {
            self.tracker.set_endpoint(now, MemberId(member), Some(endpoint.into()), &mut actions);
        }
        self.tracker.expire(now, &mut actions);
        self.carry_out(actions).await;
        self.reconcile_endpoints();
        for (id, next_hop) in self.next_hops.release_reserved() {
            self.maps.write_next_hop(id, next_hop);
        }
        if !left.is_empty() {
            info!(sessions = kept, "sessions of an earlier run taken over");
        }
        Ok(())
    }
}
