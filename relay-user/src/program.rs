//! Loads, pins and attaches the XDP program.
//!
//! Maps and links are pinned in `PIN_DIR/abi-N`, N being the version of the kernel/user contract. While they are pinned,
//! forwarding does not depend on this process: if it is killed, the next start takes maps and links over and only
//! swaps the program.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, anyhow, bail};
use aya::{
    EbpfLoader,
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
    maps::Maps,
    netlink::Netlink,
    object::object,
    sockets::Sockets,
};

/// The name of the program in the object.
const PROGRAM: &str = "wgrelay";

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

/// The program in place.
pub struct Loaded {
    /// The maps.
    pub maps: Maps,
    /// What the program sends up.
    pub events: RingBuf<MapData>,
    /// The raw sockets, with their filters.
    pub sockets: Sockets,
    /// Where it is attached.
    pub attached: Vec<Attached>,
    /// Whether maps of an earlier run were taken over.
    pub adopted: bool,
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

/// Loads the program, taking over what an earlier run has left pinned, and attaches it to every interface that the
/// configuration names. After an error nothing is left that was not there before.
pub async fn load(config: &Config, netlink: &Netlink) -> Result<Loaded> {
    let pin_dir = &config.relay.pin_dir;
    let dir = versioned(pin_dir);
    check_other_versions(pin_dir, &dir)?;
    let adopted = check_pins(&dir, config)?;
    fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    let result = load_and_attach(config, netlink, &dir, adopted).await;
    if result.is_err()
        && !adopted
        && let Err(error) = unload(pin_dir)
    {
        warn!("{error:#}");
    }
    result
}

/// Detaches the program and removes all pins of this and of other versions. Returns whether there were any.
pub fn unload(pin_dir: &Path) -> Result<bool> {
    let mut found = false;
    for version in subdirectories(pin_dir)? {
        for entry in fs::read_dir(&version).with_context(|| format!("read {}", version.display()))? {
            // Removing the last reference to a link detaches it.
            let path = entry?.path();
            fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
        }
        fs::remove_dir(&version).with_context(|| format!("remove {}", version.display()))?;
        found = true;
    }
    Ok(found)
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

fn check_bpffs(pin_dir: &Path) -> Result<()> {
    let existing = pin_dir.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let kind = statfs(existing).with_context(|| format!("look at {}", existing.display()))?.filesystem_type();
    if kind != BPF_FS_MAGIC {
        bail!(
            "{} is not on a BPF file system: mount one (`mount -t bpf bpf /sys/fs/bpf`) or set relay.pin_dir to a \
             directory on one",
            pin_dir.display()
        );
    }
    Ok(())
}

fn check_other_versions(pin_dir: &Path, ours: &Path) -> Result<()> {
    if let Some(other) = subdirectories(pin_dir)?.into_iter().find(|dir| dir != ours) {
        bail!(
            "another version of wgrelay has left its maps in {}: `wgrelay unload --pin-dir {}` removes them (its sessions \
             end)",
            other.display(),
            pin_dir.display()
        );
    }
    Ok(())
}

/// Whether maps are pinned already; an error if they don't fit. aya would take a stale pin as it is.
fn check_pins(dir: &Path, config: &Config) -> Result<bool> {
    let mut any = false;
    for name in tables::ALL {
        let path = dir.join(name);
        if !path.exists() {
            continue;
        }
        any = true;
        let map = MapData::from_pin(&path).with_context(|| format!("open {}", path.display()))?;
        let info: MapInfo = map.info().with_context(|| format!("look at {}", path.display()))?;
        let found = (info.key_size(), info.value_size(), info.max_entries());
        let (key, value, entries) = expected_shape(name, config);
        if found.0 != key || found.1 != value || entries.is_some_and(|entries| entries != found.2) {
            bail!(
                "the pinned map {} does not fit (key {}, value {} bytes, {} entries): it is left from a run with other \
                 limits; `wgrelay unload --pin-dir {}` removes it (its sessions end)",
                path.display(),
                found.0,
                found.1,
                found.2,
                config.relay.pin_dir.display()
            );
        }
    }
    Ok(any)
}

/// Size of key and value in bytes, and number of entries where it depends on the configuration or on the contract.
fn expected_shape(name: &str, config: &Config) -> (u32, u32, Option<u32>) {
    use relay_ebpf::{reason::COUNTERS_LEN, tables as t};
    let size = |size: usize| size as u32;
    let limits = &config.limits;
    match name {
        t::SESSIONS => (4, size(size_of::<t::Session>()), Some(t::slots(limits.sessions))),
        t::LEDGER => (4, size(size_of::<t::Ledger>()), Some(t::ledger_entries(limits.sessions))),
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

async fn load_and_attach(config: &Config, netlink: &Netlink, dir: &Path, adopted: bool) -> Result<Loaded> {
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
    let mut loader = EbpfLoader::new();
    loader
        .map_max_entries(tables::SESSIONS, tables::slots(limits.sessions))
        .map_max_entries(tables::LEDGER, tables::ledger_entries(limits.sessions))
        .map_max_entries(tables::PENDING, limits.pending)
        .map_max_entries(tables::ENDPOINTS, limits.endpoints)
        .override_global(tables::CONFIG, &constants, true);
    for name in tables::ALL {
        loader.map_pin_path(name, dir.join(name));
    }
    let mut ebpf = loader.load(object()?).context("load the BPF maps")?;
    let program: &mut Xdp = ebpf
        .program_mut(PROGRAM)
        .with_context(|| format!("the BPF object has no program {PROGRAM}"))?
        .try_into()
        .context("the BPF object's program is no XDP program")?;
    program.load().map_err(explain_load)?;
    let mut attached = Vec::new();
    for interface in &config.relay.attach {
        attached.push(attach(program, interface, config.relay.xdp_mode, dir, netlink).await?);
    }
    remove_other_links(dir, &attached)?;
    let events = ebpf.take_map(tables::EVENTS).context("the BPF object has no map EVENTS")?.try_into()?;
    let sockets = Sockets::open(config.relay.port, &mut ebpf)?;
    Ok(Loaded { maps: Maps::take(&mut ebpf, seed)?, events, sockets, attached, adopted })
}

/// Detaches from the interfaces that an earlier run was attached to and this one is not.
fn remove_other_links(dir: &Path, attached: &[Attached]) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("read {}", dir.display()))? {
        let path = entry?.path();
        let link =
            path.file_name().and_then(|name| name.to_str()?.strip_prefix("link-")?.parse::<u32>().ok());
        if link.is_some_and(|ifindex| attached.iter().all(|a| a.ifindex != ifindex)) {
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
    mode: XdpMode,
    dir: &Path,
    netlink: &Netlink,
) -> Result<Attached> {
    let ifindex = netlink.ifindex(interface).await?;
    let pin = dir.join(format!("link-{ifindex}"));
    let swapped = pin.exists() && swap(program, interface, mode, &pin, netlink).await?;
    if !swapped {
        let modes: &[AyaMode] = match mode {
            XdpMode::Auto => &[AyaMode::Driver, AyaMode::Skb],
            XdpMode::Driver => &[AyaMode::Driver],
            XdpMode::Generic => &[AyaMode::Skb],
        };
        attach_anew(program, interface, ifindex, modes, &pin)?;
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
                 whatever attached it)"
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
