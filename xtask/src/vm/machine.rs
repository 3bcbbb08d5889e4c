//! The virtual machine: QEMU, on a CPU that it emulates. KVM would be faster, but where it is there it does not always work,
//! in virtual machines for one.

use std::{
    fmt,
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use super::kernel::Kernel;

/// CPUs of the guest.
const CPUS: u32 = 2;
/// Queues of its virtio cards: one for each CPU, and as many again, as XDP sends by queues of its own.
const QUEUES: u32 = 2 * CPUS;

/// A network card that the relay in the guest may have, besides veth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Card {
    /// virtio, with several queues.
    Virtio,
    /// Intel's 82574L.
    E1000e,
}

impl fmt::Display for Card {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.driver())
    }
}

impl Card {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Virtio, Self::E1000e];

    /// Its driver.
    pub fn driver(self) -> &'static str {
        match self {
            Self::Virtio => "virtio_net",
            Self::E1000e => "e1000e",
        }
    }

    /// Whether a kernel has a driver for it.
    pub fn is_known_to(self, kernel: &Kernel) -> bool {
        self == Self::Virtio || !kernel.cloud
    }

    fn device(self) -> String {
        match self {
            Self::Virtio => format!("virtio-net-pci,mq=on,vectors={}", 2 * QUEUES + 2),
            Self::E1000e => "e1000e".to_owned(),
        }
    }

    fn queues(self) -> u32 {
        if self == Self::Virtio { QUEUES } else { 1 }
    }
}

/// A cable between a card of this kind for the relay, and a virtio card. There are two for each kind.
#[derive(Clone, Copy)]
struct Cable {
    number: usize,
    card: Card,
}

impl Cable {
    fn all() -> impl Iterator<Item = Self> {
        Card::ALL
            .into_iter()
            .flat_map(|card| [card; 2])
            .enumerate()
            .map(|(number, card)| Self { number, card })
    }

    /// The relay's end and the far one: name of the tap, card, and a MAC address that tells the guest what belongs together.
    fn ends(self) -> [(String, Card, String); 2] {
        let Self { number, card } = self;
        let end = |name: char, card: Card, end: usize| {
            (format!("{name}{number}"), card, format!("52:54:00:77:{number:02x}:{end:02x}"))
        };
        [end('r', card, 1), end('f', Card::Virtio, 2)]
    }

    /// What makes the taps, and a bridge as the cable between them.
    fn script(self) -> String {
        let bridge = format!("b{}", self.number);
        let mut script =
            format!("ip link add {bridge} type bridge mcast_snooping 0; ip link set {bridge} up; ");
        for (tap, card, _) in self.ends() {
            let queues = if card.queues() > 1 { " multi_queue" } else { "" };
            script +=
                &format!("ip tuntap add {tap} mode tap{queues}; ip link set {tap} master {bridge} up; ");
        }
        script
    }

    fn arguments(self) -> impl Iterator<Item = String> {
        self.ends().into_iter().flat_map(|(tap, card, mac)| {
            let queues = card.queues();
            [
                "-netdev".to_owned(),
                format!("tap,id={tap},ifname={tap},script=no,downscript=no,vhost=off,queues={queues}"),
                "-device".to_owned(),
                format!("{},netdev={tap},mac={mac}", card.device()),
            ]
        })
    }
}

/// The command that boots a guest. With cards it needs root: it makes taps, in a network namespace of its own.
pub fn command(kernel: &Kernel, image: &Path, initramfs: &Path, cards: bool) -> Command {
    let mut command = if cards {
        let cables: String = Cable::all().map(Cable::script).collect();
        let mut command = Command::new("unshare");
        // Nobody speaks IPv6 on the host's side.
        let script = format!(
            "set -e; echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6; \
                              echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6; {cables} exec \"$@\""
        );
        command.args(["--net", "sh", "-c", &script, "sh", "qemu-system-x86_64"]);
        command
    } else {
        Command::new("qemu-system-x86_64")
    };
    command.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
    // Newer kernels get both CPUs in one thread: with a thread each, one sometimes runs code that the other is about to
    // patch, and the kernel crashes (an int3 that is nobody's).
    let accelerator = if kernel.series < (6, 12) { "tcg,thread=multi" } else { "tcg,thread=single" };
    command.args(["-machine", "q35", "-accel", accelerator, "-m", "2048", "-smp", &CPUS.to_string()]);
    // Without CMPXCHG16B, which kernels from 6.2 on allocate memory with: emulated, it sometimes writes an operand into the
    // flags, and the kernel crashes.
    command.args(["-cpu", "qemu64,-cx16"]);
    command.arg("-kernel").arg(image).arg("-initrd").arg(initramfs);
    if cards {
        command.args(Cable::all().flat_map(Cable::arguments));
    }
    command
}

/// The kernel's command line: a panic ends the guest.
const KERNEL_LINE: &str = "console=ttyS0 panic=-1 oops=panic mitigations=off net.ifnames=0";

/// Boots it with a shell, on this terminal.
pub fn shell(mut command: Command) -> Result<()> {
    command.args(["-serial", "mon:stdio", "-append", &format!("{KERNEL_LINE} quiet guest=shell")]);
    crate::process::run(&mut command)
}

/// Boots it, gives every line that the steps print to `line`, and waits for its end.
///
/// # Errors
/// If it does not end by itself within `limit`.
#[expect(clippy::disallowed_methods, reason = "bounds the time of a real machine")]
pub fn boot(mut command: Command, console: &Path, limit: Duration, mut line: impl FnMut(&str)) -> Result<()> {
    command.arg("-serial").arg(format!("file:{}", console.display()));
    command.args(["-serial", "stdio", "-append", KERNEL_LINE]);
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
    let mut child = Ending(child.with_context(|| format!("start {:?}", command.get_program()))?);
    let printed = BufReader::new(child.0.stdout.take().expect("standard output is piped"));
    let (send, lines) = mpsc::channel();
    std::thread::spawn(move || {
        for line in printed.split(b'\n').map_while(Result::ok) {
            if send.send(String::from_utf8_lossy(&line).trim_end().to_owned()).is_err() {
                break;
            }
        }
    });
    let end = Instant::now() + limit;
    loop {
        match lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok(text) => line(&text),
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
            Err(mpsc::RecvTimeoutError::Timeout) => bail!("it has not ended within {limit:?}"),
        }
    }
    let status = child.0.wait().context("wait for QEMU")?;
    if !status.success() {
        bail!("QEMU: {status}");
    }
    std::io::stdout().flush().context("flush")
}

/// A process that does not outlive this value.
struct Ending(Child);

impl Drop for Ending {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
