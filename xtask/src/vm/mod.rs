//! `cargo xtask vm`: the tests on other kernels than this machine's, in virtual machines.
//!
//! ```text
//! kernel ── a package of Debian's ─┐
//! modules ─ what the tests need ───┤
//! guest ─── our programs, others ──┼── initramfs ── machine (QEMU) ── report: kernel × step × result
//! steps ─── what is run on which ──┘
//! ```

mod guest;
mod kernel;
mod machine;
mod modules;
mod report;
mod steps;

use std::{
    fs::File,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use self::{
    guest::Tree,
    kernel::{Apt, Kernel, Unpacked},
    report::Report,
    steps::Step,
};
use crate::{
    build,
    process::find,
    setup::{self, Part},
    target_directory,
};

/// On which kernels, and what.
#[derive(clap::Args, Default)]
pub struct Arguments {
    /// Only this kernel, as the table calls it (6.1-cloud, 6.1, …); may be given several times
    #[arg(long, value_name = "NAME")]
    kernel: Vec<String>,
    /// The newest kernel of every long-term series and of the newest one; on the oldest and the newest (or those named) all
    /// steps: three implementations of WireGuard, a renewal in real time, roaming, drivers. Needs root
    #[arg(long)]
    full: bool,
    /// Only this step, as the table calls it; may be given several times
    #[arg(long, value_name = "NAME", conflicts_with = "write")]
    step: Vec<String>,
    /// Boot one kernel into a shell, with all that the steps need and a list of these in /steps
    #[arg(long)]
    shell: bool,
    /// Write the result into docs/kernels.md
    #[arg(long, requires = "full", conflicts_with = "shell")]
    write: bool,
}

/// Where the kernel comes from if none is named.
const USUAL: &str = "6.1-cloud";

/// Builds what is needed, boots the kernels one after the other, and shows what came of it.
///
/// # Errors
/// If a step fails on any kernel.
pub fn run(workspace: &Path, arguments: &Arguments) -> Result<()> {
    guest::check()?;
    let tools = setup::setup(workspace, &[Part::Bpf, Part::Lab, Part::Vm])?;
    let directory = target_directory()?.join("vm");
    let (apt, kernels) = choose(&directory.join("apt"), arguments)?;
    build::object(workspace, &tools)?;
    let common = Common::build(workspace, &directory, arguments.full)?;
    let mut report = Report::default();
    for kernel in &kernels {
        let full = arguments.full && (!arguments.kernel.is_empty() || is_end(kernel, &kernels));
        let mut steps = steps::of(kernel, full);
        steps.retain(|step| arguments.step.is_empty() || arguments.step.iter().any(|name| name == step.name));
        if steps.is_empty() {
            bail!("Linux {kernel} has no step {}", arguments.step.join(" or "));
        }
        let unpacked = kernel::unpack(kernel, &apt, &directory.join("kernels"))?;
        let initramfs = common.initramfs(kernel, &unpacked, &steps)?;
        let machine = machine::command(kernel, &unpacked.image, &initramfs, full);
        if arguments.shell {
            return machine::shell(machine);
        }
        println!("==> Linux {}", kernel.release);
        report.run(kernel, &steps, machine, &directory.join(format!("{kernel}.log")));
        if arguments.write {
            // Of a run that is interrupted, what it has seen stays.
            report.write(&workspace.join("docs/kernels.md"))?;
        }
    }
    print!("\n{report}");
    report.verdict()
}

/// The kernels that were asked for, and where they are to be had. The usual one is this machine's own Debian's, if that
/// has it; else all of Debian is looked through.
fn choose(directory: &Path, arguments: &Arguments) -> Result<(Apt, Vec<Kernel>)> {
    let usual = [USUAL.to_owned()];
    let names = if arguments.kernel.is_empty() && !arguments.full { &usual } else { &arguments.kernel[..] };
    if arguments.shell && names.len() != 1 {
        bail!("a shell is for one kernel: name it with --kernel");
    }
    if !names.is_empty() {
        let apt = Apt::of_this_machine()?;
        if let Ok(kernels) = named(names, &apt.kernels()) {
            return Ok((apt, kernels));
        }
    }
    let apt = Apt::of_all_suites(directory)?;
    let offered = apt.kernels();
    let kernels = if names.is_empty() { kernel::lasting(offered) } else { named(names, &offered)? };
    Ok((apt, kernels))
}

fn named(names: &[String], offered: &[Kernel]) -> Result<Vec<Kernel>> {
    let find = |name: &String| {
        let found = offered.iter().find(|kernel| kernel.to_string() == *name).cloned();
        let all = offered.iter().map(Kernel::to_string).collect::<Vec<_>>().join(", ");
        found.with_context(|| format!("no package has a kernel {name}: there are {all}"))
    };
    names.iter().map(find).collect()
}

/// Whether it is the oldest or the newest kernel with all drivers.
fn is_end(kernel: &Kernel, kernels: &[Kernel]) -> bool {
    let mut with_drivers = kernels.iter().filter(|kernel| !kernel.cloud && steps::is_new_enough(kernel));
    let first = with_drivers.next();
    [first, with_drivers.next_back()].contains(&Some(kernel))
}

/// What is the same in all guests.
struct Common {
    tree: Tree,
    directory: PathBuf,
}

impl Common {
    fn build(workspace: &Path, directory: &Path, full: bool) -> Result<Self> {
        let tree = Tree::new(directory.join("common"))?;
        tree.ours(&build::host("wgrelay", false)?, "wgrelay")?;
        tree.ours(&build::host("fuzz", true)?, "fuzz")?;
        for (name, test) in build::tests(&["lab", "program", "vm"])? {
            tree.ours(&test, &name)?;
        }
        // The oracle reads them when it runs.
        tree.files_in(&workspace.join("tests/src/oracle/fixtures"))?;
        let mut programs = setup::guest_programs();
        if full {
            programs.push("boringtun-cli");
            setup::boringtun(workspace)?;
        }
        let path = |program| {
            let path = find(program).or_else(|| setup::unpacked(workspace, program));
            path.with_context(|| format!("{program} is not installed"))
        };
        tree.busybox(&path("busybox")?)?;
        programs.into_iter().try_for_each(|program| tree.program(&path(program)?))?;
        Ok(Self { tree, directory: directory.to_owned() })
    }

    /// Makes the initramfs for a kernel.
    fn initramfs(&self, kernel: &Kernel, unpacked: &Unpacked, steps: &[Step]) -> Result<PathBuf> {
        let own = Tree::new(self.directory.join("own"))?;
        own.for_kernel(unpacked, &kernel.release, steps)?;
        let path = self.directory.join("initramfs");
        let archive = File::create(&path).with_context(|| format!("create {}", path.display()))?;
        self.tree.pack(&archive)?;
        own.pack(&archive)?;
        Ok(path)
    }
}

/// The longest that a guest may take with these steps, and a minute to boot.
fn limit(steps: &[Step]) -> Duration {
    Duration::from_secs(60 + steps.iter().map(|step| u64::from(step.seconds)).sum::<u64>())
}
