//! The relay's program with its tables, as the benchmark uses it.

use std::{net::IpAddr, ops::RangeInclusive};

use anyhow::{Context as _, Result};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, PerCpuArray, xdp::DevMapHash},
    programs::Xdp,
};
use relay_ebpf::{
    reason::{Family, Reason, counter_index},
    tables::{self, Address, Channel, Counter, LOCALS_MAX, Locals as LocalsEntry, NextHop},
};
use relay_user::{
    channel_table::ChannelTable,
    forwarding::{Locals, directions},
    next_hops::NOWHERE,
    session_table::SessionTable,
};

use super::traffic::{Macs, PORT, RELAY_V4, RELAY_V6, Traffic};
use crate::sessions::{SEED, constants, constants_with_turn};

/// Where everything goes.
pub const NEXT_HOP: u16 = 1;

/// The loaded program. Nothing of it is pinned.
pub struct Relay {
    ebpf: Ebpf,
}

impl Relay {
    /// Loads the program and fills its tables with all sessions of the traffic. What it sends leaves by the interface
    /// with this index.
    pub fn load(traffic: &Traffic, ifindex: u32) -> Result<Self> {
        let directions = directions_for(traffic.scenario.sessions);
        let config = constants(PORT, directions);
        let mut loader = EbpfLoader::new();
        loader
            .override_global(tables::CONFIG, &config, true)
            .map_max_entries(tables::SESSIONS, tables::slots(directions));
        let object = relay_user::object::object()?;
        let mut ebpf = loader.load(object).context("load the relay's program (root is needed)")?;
        xdp(&mut ebpf)?.load().context("verify the relay's program")?;
        let mut this = Self { ebpf };
        this.fill(traffic, ifindex)?;
        Ok(this)
    }

    /// Loads the program with channels of a TURN server, which are made with the relay's addresses and [`NEXT_HOP`].
    pub fn with_channels(
        macs: Macs,
        ifindex: u32,
        (turn_port, relayed): (u16, RangeInclusive<u16>),
        channels: impl FnOnce(&Locals) -> Vec<Channel>,
    ) -> Result<Self> {
        let directions = tables::SESSIONS_DEFAULT;
        let config = constants_with_turn(PORT, directions, turn_port, relayed);
        let mut loader = EbpfLoader::new();
        loader
            .override_global(tables::CONFIG, &config, true)
            .map_max_entries(tables::SESSIONS, tables::slots(directions));
        let mut ebpf = loader.load(relay_user::object::object()?).context("load the relay's program")?;
        xdp(&mut ebpf)?.load().context("verify the relay's program")?;
        let mut this = Self { ebpf };
        let locals = this.fill_common(macs, ifindex)?;
        let map = this.ebpf.take_map(tables::CHANNELS).context("no map CHANNELS")?;
        let mut table = ChannelTable::new(&map)?;
        for channel in channels(&locals) {
            table.insert(&channel).context("fill CHANNELS")?;
        }
        Ok(this)
    }

    /// Writes the tables as the relay's engine would.
    fn fill(&mut self, traffic: &Traffic, ifindex: u32) -> Result<()> {
        let locals = self.fill_common(traffic.macs, ifindex)?;
        let map = self.ebpf.take_map(tables::SESSIONS).context("no map SESSIONS")?;
        let mut table = SessionTable::new(&map, SEED)?;
        for number in 0..traffic.scenario.sessions {
            let session = traffic.session(number);
            let (both, _) = directions(&session, &locals, PORT, |_| NEXT_HOP, |_| 0)
                .expect("the addresses are the relay's");
            table.insert(&both[0], ()).context("fill SESSIONS")?;
        }
        Ok(())
    }

    /// Writes what sessions and channels refer to.
    fn fill_common(&mut self, macs: Macs, ifindex: u32) -> Result<Locals> {
        let none = LocalsEntry([Address::UNSPECIFIED; LOCALS_MAX as usize]);
        let locals = Locals::assign(&none, &[IpAddr::from(RELAY_V4), IpAddr::from(RELAY_V6)]);
        let mut map: Array<_, LocalsEntry> = self.map(tables::LOCALS)?.try_into()?;
        map.set(0, locals.table(), 0)?;
        let Macs { source: source_mac, destination: destination_mac } = macs.swapped();
        let hop = NextHop { ifindex, mtu: 1_500, destination_mac, source_mac, ..NOWHERE };
        let mut map: Array<_, NextHop> = self.map(tables::NEXT_HOPS)?.try_into()?;
        map.set(NEXT_HOP.into(), hop, 0)?;
        let mut map: DevMapHash<_> = self.map(tables::TX_PORTS)?.try_into()?;
        map.insert(ifindex, ifindex, None, 0).context("name the egress device")?;
        Ok(locals)
    }

    /// The program.
    pub fn program(&mut self) -> Result<&mut Xdp> {
        xdp(&mut self.ebpf)
    }

    /// How many packets it has sent on so far.
    pub fn forwarded(&mut self) -> Result<u64> {
        let counters: PerCpuArray<_, Counter> = self.map(tables::COUNTERS)?.try_into()?;
        let mut packets = 0;
        let forwarded =
            [Reason::ForwardedTx, Reason::ForwardedRedirect, Reason::ChannelTx, Reason::ChannelRedirect];
        for reason in forwarded {
            for &family in Family::ALL {
                let cpus = counters.get(&counter_index(reason, family), 0)?;
                packets += cpus.iter().map(|cpu| cpu.packets).sum::<u64>();
            }
        }
        Ok(packets)
    }

    fn map(&mut self, name: &str) -> Result<&mut aya::maps::Map> {
        self.ebpf.map_mut(name).with_context(|| format!("no map {name}"))
    }
}

fn xdp(ebpf: &mut Ebpf) -> Result<&mut Xdp> {
    Ok(ebpf.program_mut("wgrelay").context("no program `wgrelay`")?.try_into()?)
}

/// What a relay would be configured for that has so many: some more, since a table that is used up refuses one in a
/// million.
fn directions_for(sessions: u32) -> u32 {
    (sessions + sessions / 8).max(tables::SESSIONS_DEFAULT)
}

/// How many cache lines the session table has: `reflmiss` reads an array of so many.
pub fn lines(sessions: u32) -> u32 {
    tables::slots(directions_for(sessions))
}
