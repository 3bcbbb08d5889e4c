//! What is run on which kernel.

use super::{kernel::Kernel, machine::Card};

/// Frames that the oracle runs, in the short steps and with all.
const FRAMES: [u32; 2] = [20_000, 400_000];

/// The tests of the program without those that take long on an emulated CPU and say least about a kernel.
const FIXTURES: &str = "program --skip lengths:: --skip race:: --skip reasons::";

/// Something that the guest runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// What it is called in tables.
    pub name: &'static str,
    /// What it proves.
    pub about: &'static str,
    /// After so many seconds it has failed.
    pub seconds: u32,
    command: String,
}

impl Step {
    /// As the guest's first process reads it.
    pub fn line(&self) -> String {
        format!("{} {} {}\n", self.name, self.seconds, self.command)
    }
}

fn step(name: &'static str, about: &'static str, seconds: u32, command: impl Into<String>) -> Step {
    Step { name, about, seconds, command: command.into() }
}

/// The oldest series that has what the XDP program uses.
const OLDEST: (u32, u32) = (5, 18);

/// Whether a kernel has what the XDP program uses.
pub fn is_new_enough(kernel: &Kernel) -> bool {
    kernel.series >= OLDEST
}

/// The steps for a kernel: the short ones, or all that it can do.
pub fn of(kernel: &Kernel, full: bool) -> Vec<Step> {
    if !is_new_enough(kernel) {
        return vec![step(
            "refused",
            "wgrelay says that the kernel is too old",
            120,
            "vm too_old --nocapture",
        )];
    }
    let mut steps = vec![
        step("load", "the verifier takes every program", 60, "vm verifier --nocapture"),
        step("program", "the fixtures", 1200, if full { "program" } else { FIXTURES }),
        step(
            "oracle",
            "random frames against the model",
            300,
            format!("fuzz --frames {}", FRAMES[usize::from(full)]),
        ),
        step("wireguard", "hosts and relay on the kernel's WireGuard", 300, "vm in_the_kernel"),
    ];
    if full {
        steps.extend([
            step(
                "meeting",
                "the kernel's WireGuard, wireguard-go and boringtun over one relay",
                300,
                "vm meeting",
            ),
            step("renewal", "a session is renewed after two minutes, nothing is lost", 400, "vm renewal"),
            step(
                "roaming",
                "hosts that move or start anew come back",
                600,
                "WGRELAY_LAB_WIREGUARD=kernel lab coming_back::",
            ),
        ]);
        steps.extend(Card::ALL.into_iter().filter(|card| card.is_known_to(kernel)).map(|card| {
            let command = format!(
                "WGRELAY_LAB_WIREGUARD=kernel WGRELAY_LAB_CARDS={card} vm drivers --test-threads=1 --nocapture"
            );
            step(card.driver(), "TX and REDIRECT by this driver", 400, command)
        }));
    }
    steps
}

/// A step by its name.
#[cfg(test)]
pub fn named(name: &str) -> Step {
    let all = of(&super::kernel::newest("linux-image-6.1.0-50-amd64")[0], true);
    all.into_iter().find(|step| step.name == name).expect("there is a step of this name")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::kernel::newest;

    #[test]
    fn an_old_kernel_is_only_asked_to_refuse() {
        let names = |package: &str, full| {
            let kernels = newest(package);
            of(&kernels[0], full).into_iter().map(|step| step.name).collect::<Vec<_>>()
        };
        assert_eq!(names("linux-image-5.10.0-30-amd64", true), ["refused"]);
        let short = ["load", "program", "oracle", "wireguard"];
        assert_eq!(names("linux-image-6.1.0-50-cloud-amd64", false), short);
        let full = names("linux-image-6.1.0-50-amd64", true);
        assert!(full.starts_with(&short) && full.contains(&"e1000e"), "{full:?}");
        assert!(!names("linux-image-6.1.0-50-cloud-amd64", true).contains(&"e1000e"));
    }
}
