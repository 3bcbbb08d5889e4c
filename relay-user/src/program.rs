//! Loads, pins and attaches the XDP program.
//!
//! Maps and links are pinned in `PIN_DIR/abi-N`, N being the version of the kernel/user contract. While they are pinned,
//! forwarding does not depend on this process: if it is gone, the next start takes maps and links over and only swaps the
//! program. That comes last, when the maps hold what they should. So maps of another size can be made beside the old ones,
//! filled with what those hold, and the new program goes on with them from one packet to the next.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, anyhow, bail};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, Map, MapData, MapInfo, RingBuf},
    programs::{
        ProgramError, Xdp, XdpMode as AyaMode,
        links::{FdLink, PinnedLink},
        xdp::XdpLink,
    },
};
use nix::{
    fcntl::{Flock, FlockArg},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};
use relay_ebpf::{
    ABI_VERSION,
    tables::{self, Config as Constants},
};
use tracing::{info, warn};

use crate::{
    admission::PrefixKey,
    config::{Config, XdpMode},
    left::Left,
    maps::Maps,
    netlink::Netlink,
    object::object,
    sockets::Sockets,
    ticks::Ticks,
};

/// The name of the program in the object.
pub(crate) const PROGRAM: &str = "wgrelay";

/// An interface that has the program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    /// Its name.
    pub interface: String,
    /// Its index.
    pub ifindex: u32,
    /// How the kernel says that the program is attached: `driver` or `generic`.
    pub mode: &'static str,
}

/// What a loaded program works with.
pub struct Loaded {
    /// The maps.
    pub maps: Maps,
    /// What the program sends up.
    pub events: RingBuf<MapData>,
    /// The raw sockets, with their filters.
    pub sockets: Sockets,
    /// The time as the program has it.
    pub ticks: Ticks,
    /// What an earlier run has left, if maps of one were taken over.
    pub left: Option<Left>,
    /// The indices of the interfaces that the program goes to.
    pub interfaces: Vec<u32>,
    /// Maps of another version are replaced, which ours know nothing of.
    pub replaces: bool,
}

/// The program, to be attached.
pub struct Program {
    ebpf: Ebpf,
    /// Where it and its maps are pinned.
    dir: PathBuf,
    /// Where it goes: names and indices of interfaces.
    interfaces: Vec<(String, u32)>,
    /// Maps that take the place of others of another size.
    replaced: Vec<&'static str>,
    /// Directories of other versions, whose links are taken over.
    others: Vec<PathBuf>,
}

/// The directory of the pins of this version.
fn versioned(pin_dir: &Path) -> PathBuf {
    pin_dir.join(format!("abi-{ABI_VERSION}"))
}

/// The right to the pins of a directory: two processes would write the same maps. It ends with the process, however that
/// ends.
pub struct Claim {
    pin_dir: PathBuf,
    _lock: Flock<fs::File>,
}

impl Claim {
    /// Whether somebody has the directory.
    pub fn is_held(pin_dir: &Path) -> bool {
        let Ok(dir) = fs::File::open(pin_dir) else { return false };
        Flock::lock(dir, FlockArg::LockExclusiveNonblock).is_err()
    }

    /// Claims the directory, which is made if it is not there.
    pub fn new(pin_dir: &Path) -> Result<Self> {
        check_bpffs(pin_dir)?;
        fs::create_dir_all(pin_dir).with_context(|| format!("create {}", pin_dir.display()))?;
        let dir = fs::File::open(pin_dir).with_context(|| format!("open {}", pin_dir.display()))?;
        match Flock::lock(dir, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Self { pin_dir: pin_dir.to_owned(), _lock: lock }),
            Err(_) => bail!(
                "wgrelay is running already: it has {} (give each its own `pin_dir`)",
                pin_dir.display()
            ),
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // Fails, as it should, if anything is pinned in it.
        let _ = fs::remove_dir(&self.pin_dir);
    }
}

/// Loads the program, taking over the maps that an earlier run has left pinned. `complete` says that whatever another
/// version has left in its maps is known from elsewhere. After an error nothing is left that was not there before.
pub async fn load(config: &Config, netlink: &Netlink, complete: bool) -> Result<(Loaded, Program)> {
    let pin_dir = &config.relay.pin_dir;
    let dir = versioned(pin_dir);
    let others = other_versions(pin_dir)?;
    if let Some(other) = others.first()
        && !complete
    {
        bail!(
            "another version of wgrelay has left its maps in {}, and was not stopped in order: `wgrelay unload --pin-dir {}` \
             removes them (its sessions end)",
            other.display(),
            pin_dir.display()
        );
    }
    let pins = Pins::check(&dir, config)?;
    let existed = dir.exists();
    fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    let result = load_maps(config, netlink, &dir, pins, others).await;
    if result.is_err()
        && !existed
        && let Err(error) = remove(&dir)
    {
        warn!("{error:#}");
    }
    result
}

/// Detaches the program and removes all pins of this and of other versions. Returns whether there were any.
pub fn unload(pin_dir: &Path) -> Result<bool> {
    let versions = subdirectories(pin_dir)?;
    versions.iter().try_for_each(|version| remove(version))?;
    Ok(!versions.is_empty())
}

/// Removes a directory of pins.
fn remove(version: &Path) -> Result<()> {
    let entries = fs::read_dir(version).with_context(|| format!("read {}", version.display()))?;
    let mut pins = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    // Removing the last reference to a link detaches it: that comes before anything that the program needs.
    pins.sort_by_key(|path| link_of(path).is_none());
    for pin in pins {
        fs::remove_file(&pin).with_context(|| format!("remove {}", pin.display()))?;
    }
    fs::remove_dir(version).with_context(|| format!("remove {}", version.display()))
}

/// The directories `abi-*`.
fn subdirectories(pin_dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(pin_dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.with_context(|| format!("read {}", pin_dir.display()))?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with("abi-") {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// Whether a directory is, or would be, on a BPF file system.
pub fn is_on_bpffs(pin_dir: &Path) -> Result<bool> {
    let existing = pin_dir.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let kind = statfs(existing).with_context(|| format!("look at {}", existing.display()))?.filesystem_type();
    Ok(kind == BPF_FS_MAGIC)
}

fn check_bpffs(pin_dir: &Path) -> Result<()> {
    if !is_on_bpffs(pin_dir)? {
        bail!(
            "{} is not on a BPF file system: mount one (`mount -t bpf bpf /sys/fs/bpf`) or set relay.pin_dir to a \
             directory on one",
            pin_dir.display()
        );
    }
    Ok(())
}

/// What other versions have left.
pub fn other_versions(pin_dir: &Path) -> Result<Vec<PathBuf>> {
    let ours = versioned(pin_dir);
    Ok(subdirectories(pin_dir)?.into_iter().filter(|dir| *dir != ours).collect())
}

/// Whether there are pins of this version.
pub fn is_pinned(pin_dir: &Path) -> bool {
    versioned(pin_dir).exists()
}

/// What is pinned already.
struct Pins {
    /// Whether any map is.
    any: bool,
    /// Maps of a size that is not the configured one any more.
    other_size: Vec<&'static str>,
}

impl Pins {
    /// Looks at the pinned maps; an error if they are none of ours. aya would take a stale pin as it is.
    fn check(dir: &Path, config: &Config) -> Result<Self> {
        let mut this = Self { any: false, other_size: Vec::new() };
        for name in tables::ALL {
            let path = dir.join(name);
            if !path.exists() {
                continue;
            }
            this.any = true;
            let map = MapData::from_pin(&path).with_context(|| format!("open {}", path.display()))?;
            let info: MapInfo = map.info().with_context(|| format!("look at {}", path.display()))?;
            let (key, value, entries) = expected_shape(name, config);
            if (info.key_size(), info.value_size()) != (key, value) {
                bail!(
                    "the pinned map {} is not wgrelay's (key {}, value {} bytes): `wgrelay unload --pin-dir {}` removes it \
                     (sessions end)",
                    path.display(),
                    info.key_size(),
                    info.value_size(),
                    config.relay.pin_dir.display()
                );
            }
            if entries.is_some_and(|entries| entries != info.max_entries()) {
                this.other_size.push(name);
            }
        }
        Ok(this)
    }
}

/// Where a map is made that is to take the place of another.
fn successor(dir: &Path, name: &str) -> PathBuf {
    // A dot would be refused: the BPF file system keeps names with one for itself.
    dir.join(format!("{name}-new"))
}

/// The interface whose link is pinned there, if it is a link.
fn link_of(pin: &Path) -> Option<u32> {
    pin.file_name()?.to_str()?.strip_prefix("link-")?.parse().ok()
}

/// Whether this process, as it is, may open a pinned map and read it.
pub fn can_use_pins(pin_dir: &Path) -> bool {
    let read = || -> Result<u64> {
        let map = MapData::from_pin(versioned(pin_dir).join(tables::SEED))?;
        Ok(Array::<_, u64>::try_from(Map::Array(map))?.get(&0, 0)?)
    };
    read().is_ok()
}

/// Size of key and value in bytes, and number of entries where it depends on the configuration or on the contract.
fn expected_shape(name: &str, config: &Config) -> (u32, u32, Option<u32>) {
    use relay_ebpf::{reason::COUNTERS_LEN, tables as t};
    let size = |size: usize| size as u32;
    let limits = &config.limits;
    match name {
        t::SESSIONS => (4, size(size_of::<t::Session>()), Some(t::slots(limits.sessions))),
        t::LEDGER => (4, size(size_of::<t::Ledger>()), Some(t::ledger_entries(limits.sessions))),
        t::TOTALS => (4, size(size_of::<t::Total>()), Some(limits.endpoints)),
        t::SEED => (4, 8, Some(1)),
        t::PENDING => (4, size(size_of::<t::Endpoint>()), Some(limits.pending)),
        t::ENDPOINTS => (size(size_of::<t::Endpoint>()), size(size_of::<t::Known>()), Some(limits.endpoints)),
        t::SOURCES => (size(size_of::<t::Address>()), size(size_of::<t::Source>()), Some(t::SOURCES_MAX)),
        t::BUDGETS => (4, size(size_of::<t::Budgets>()), Some(1)),
        t::PREFIXES => (size(size_of::<PrefixKey>()), 8, Some(t::PREFIXES_MAX)),
        t::RATES => (4, size(size_of::<t::Rate>()), Some(t::RATES_MAX)),
        t::NEXT_HOPS => (4, size(size_of::<t::NextHop>()), Some(t::NEXT_HOPS_MAX)),
        t::TX_PORTS => (4, 8, Some(t::TX_PORTS_MAX)),
        t::LOCALS => (4, size(size_of::<t::Locals>()), Some(1)),
        t::CHANNELS => (4, size(size_of::<t::Channel>()), Some(t::CHANNELS_MAX)),
        t::COUNTERS => (4, size(size_of::<t::Counter>()), Some(COUNTERS_LEN)),
        t::EVENTS => (0, 0, Some(t::EVENTS_BYTES)),
        t::HINTS => (4, 8, Some(t::HINTS_LEN)),
        _ => unreachable!("every pinned map is listed"),
    }
}

/// What the session table is addressed with: as the pinned one is, or a new secret.
fn seed(dir: &Path) -> Result<u64> {
    let path = dir.join(tables::SEED);
    let pinned = if path.exists() {
        let map = MapData::from_pin(&path).with_context(|| format!("open {}", path.display()))?;
        let array = Array::<_, u64>::try_from(Map::Array(map)).context(tables::SEED)?;
        array.get(&0, 0).with_context(|| format!("read {}", path.display()))?
    } else {
        0
    };
    Ok(if pinned == 0 { rand::random::<u64>() | 1 } else { pinned })
}

async fn load_maps(
    config: &Config,
    netlink: &Netlink,
    dir: &Path,
    Pins { any: adopted, other_size: replaced }: Pins,
    others: Vec<PathBuf>,
) -> Result<(Loaded, Program)> {
    let limits = &config.limits;
    let seed = seed(dir)?;
    let constants = Constants {
        port_be: config.relay.port.to_be_bytes(),
        turn_port_be: config.turn.as_ref().map_or(0, |turn| turn.port).to_be_bytes(),
        homes: tables::homes(limits.sessions),
        seed,
        relayed_first: config.turn.as_ref().map_or(0, |turn| *turn.ports().start()),
        relayed_last: config.turn.as_ref().map_or(0, |turn| *turn.ports().end()),
        reserved: 0,
    };
    let left = if adopted { Some(Left::read(dir)?) } else { None };
    let mut loader = EbpfLoader::new();
    loader
        .map_max_entries(tables::SESSIONS, tables::slots(limits.sessions))
        .map_max_entries(tables::LEDGER, tables::ledger_entries(limits.sessions))
        .map_max_entries(tables::TOTALS, limits.endpoints)
        .map_max_entries(tables::PENDING, limits.pending)
        .map_max_entries(tables::ENDPOINTS, limits.endpoints)
        .override_global(tables::CONFIG, &constants, true);
    for name in tables::ALL {
        let new = successor(dir, name);
        // A start that was killed may have left it.
        if new.exists() {
            fs::remove_file(&new).with_context(|| format!("remove {}", new.display()))?;
        }
        loader.map_pin_path(name, if replaced.contains(&name) { new } else { dir.join(name) });
    }
    let mut ebpf = loader.load(object()?).context("load the BPF maps")?;
    xdp(&mut ebpf)?.load().map_err(explain_load)?;
    let events = ebpf.take_map(tables::EVENTS).context("the BPF object has no map EVENTS")?.try_into()?;
    let sockets = Sockets::open(config.relay.port, &mut ebpf)?;
    let ticks = Ticks::read(&mut ebpf)?;
    let maps = Maps::take(&mut ebpf, seed)?;
    let mut interfaces = Vec::new();
    for interface in &config.relay.attach {
        interfaces.push((interface.clone(), netlink.ifindex(interface).await?));
    }
    let indices = interfaces.iter().map(|(_, ifindex)| *ifindex).collect();
    let replaces = !others.is_empty();
    let loaded = Loaded { maps, events, sockets, ticks, left, interfaces: indices, replaces };
    Ok((loaded, Program { ebpf, dir: dir.to_owned(), interfaces, replaced, others }))
}

fn xdp(ebpf: &mut Ebpf) -> Result<&mut Xdp> {
    ebpf.program_mut(PROGRAM)
        .with_context(|| format!("the BPF object has no program {PROGRAM}"))?
        .try_into()
        .context("the BPF object's program is no XDP program")
}

impl Program {
    /// Attaches it, in the place of an earlier run's where there is one. If that is killed half-way, the next start finds
    /// either the old maps or the new ones under each name, and both know of all sessions.
    pub async fn attach(mut self, mode: XdpMode, netlink: &Netlink) -> Result<Vec<Attached>> {
        let mut attached = Vec::new();
        for (interface, ifindex) in &self.interfaces {
            let pin = self.dir.join(format!("link-{ifindex}"));
            for other in &self.others {
                let theirs = other.join(format!("link-{ifindex}"));
                if theirs.exists() && !pin.exists() {
                    fs::rename(&theirs, &pin).with_context(|| format!("take over {}", theirs.display()))?;
                }
            }
            attached.push(attach(xdp(&mut self.ebpf)?, interface, *ifindex, mode, &pin, netlink).await?);
        }
        for name in &self.replaced {
            let (new, old) = (successor(&self.dir, name), self.dir.join(name));
            fs::rename(&new, &old).with_context(|| format!("put the new {name} in place"))?;
            info!(map = name, "has another size now, and what the old one held");
        }
        remove_other_links(&self.dir, &attached)?;
        for other in &self.others {
            remove(other)?;
            info!(version = %other.display(), "another version's program and maps replaced");
        }
        Ok(attached)
    }
}

/// Detaches from the interfaces that an earlier run was attached to and this one is not.
fn remove_other_links(dir: &Path, attached: &[Attached]) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("read {}", dir.display()))? {
        let path = entry?.path();
        if link_of(&path).is_some_and(|ifindex| attached.iter().all(|a| a.ifindex != ifindex)) {
            fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
        }
    }
    Ok(())
}

fn explain_load(error: ProgramError) -> anyhow::Error {
    match error {
        ProgramError::LoadError { io_error, verifier_log } => {
            let log = verifier_log.to_string();
            let last =
                log.lines().rev().find(|line| !line.trim().is_empty() && !line.starts_with("processed"));
            anyhow!(
                "the kernel refused the XDP program: {io_error}; {} (docs/kernels.md lists the kernels that take it)",
                last.unwrap_or("it gave no reason")
            )
        }
        other => anyhow::Error::new(other).context("load the XDP program"),
    }
}

async fn attach(
    program: &mut Xdp,
    interface: &str,
    ifindex: u32,
    mode: XdpMode,
    pin: &Path,
    netlink: &Netlink,
) -> Result<Attached> {
    let swapped = pin.exists() && swap(program, interface, mode, pin, netlink).await?;
    if !swapped {
        let modes: &[AyaMode] = match mode {
            XdpMode::Auto => &[AyaMode::Driver, AyaMode::Skb],
            XdpMode::Driver => &[AyaMode::Driver],
            XdpMode::Generic => &[AyaMode::Skb],
        };
        attach_anew(program, interface, ifindex, modes, pin)?;
    }
    let mode = match netlink.xdp_in_driver(interface).await? {
        Some(true) => "driver",
        Some(false) => "generic",
        None => bail!("the kernel reports no XDP program on {interface} although it was attached"),
    };
    info!(interface, mode, taken_over = swapped, "XDP program attached");
    Ok(Attached { interface: interface.to_owned(), ifindex, mode })
}

/// Puts the program in the place of an earlier run's, without a gap. `false` if the old link is of no use: its interface
/// has gone, or it is attached in another mode than is wanted now.
async fn swap(
    program: &mut Xdp,
    interface: &str,
    mode: XdpMode,
    pin: &Path,
    netlink: &Netlink,
) -> Result<bool> {
    let in_driver = netlink.xdp_in_driver(interface).await?;
    let fits = match mode {
        XdpMode::Auto => in_driver.is_some(),
        XdpMode::Driver => in_driver == Some(true),
        XdpMode::Generic => in_driver == Some(false),
    };
    if fits {
        let link =
            FdLink::from(PinnedLink::from_pin(pin).with_context(|| format!("open {}", pin.display()))?);
        if program.attach_to_link(XdpLink::try_from(link)?).is_ok() {
            return Ok(true);
        }
    }
    fs::remove_file(pin).with_context(|| format!("remove {}", pin.display()))?;
    Ok(false)
}

fn attach_anew(
    program: &mut Xdp,
    interface: &str,
    ifindex: u32,
    modes: &[AyaMode],
    pin: &Path,
) -> Result<()> {
    for (n, &mode) in modes.iter().enumerate() {
        let link = match program.attach_to_if_index(ifindex, mode) {
            Ok(link) => link,
            Err(error) if n + 1 < modes.len() && !is_busy(&error) => {
                warn!(
                    "{interface} can't run XDP in its driver ({}): attached in generic mode, which is MUCH SLOWER; \
                     docs/kernels.md says what drivers need",
                    chain(&error)
                );
                continue;
            }
            Err(error) if is_busy(&error) => bail!(
                "{interface} has another XDP program already: detach it (`ip link set dev {interface} xdp off`, or stop \
                 whatever attached it; what a wgrelay with another pin_dir has kept, `wgrelay unload --pin-dir DIR` removes)"
            ),
            Err(error) => {
                return Err(anyhow::Error::new(error).context(format!(
                    "attach XDP to {interface} ({} mode): try xdp_mode = \"auto\" or \"generic\"",
                    if mode == AyaMode::Driver { "driver" } else { "generic" }
                )));
            }
        };
        let link: FdLink = program.take_link(link)?.try_into().map_err(|_| {
            anyhow!("{interface}: the kernel has no BPF links for XDP (needs Linux 5.9), so the program can't be pinned")
        })?;
        link.pin(pin).with_context(|| format!("pin the link of {interface} at {}", pin.display()))?;
        return Ok(());
    }
    unreachable!("the last mode either attaches or returns its error")
}

fn is_busy(error: &ProgramError) -> bool {
    matches!(error, ProgramError::SyscallError(error) if error.io_error.kind() == io::ErrorKind::ResourceBusy)
}

/// An error and its causes, on one line.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
