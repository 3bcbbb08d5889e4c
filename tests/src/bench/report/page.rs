//! docs/benchmarks.md: what is between the markers is written from a result, the rest by people.

use anyhow::{Result, bail};
use clap::ValueEnum as _;

use super::{Part, Report, tables};

/// Where the written part begins.
pub const BEGIN: &str = "<!-- measured: begin -->";
/// Where it ends.
pub const END: &str = "<!-- measured: end -->";

/// The page with what was measured between its markers, which stay.
///
/// # Errors
/// If the markers are not there, once each and in their order.
pub fn updated(page: &str, report: &Report) -> Result<String> {
    let (Some((before, rest)), 1, 1) =
        (page.split_once(BEGIN), page.matches(BEGIN).count(), page.matches(END).count())
    else {
        bail!("{MISSING}")
    };
    let Some((_, after)) = rest.split_once(END) else { bail!("{MISSING}") };
    Ok(format!("{before}{BEGIN}\n\n{}\n{END}{after}", measured(report)))
}

const MISSING: &str = "the page needs `<!-- measured: begin -->` and after it `<!-- measured: end -->`, once each: what \
                       was measured goes between them";

/// What was measured, as Markdown.
fn measured(report: &Report) -> String {
    let machine = &report.machine;
    let mut text = format!("Machine: {}, {} CPUs, Linux {}.\n", machine.cpu, machine.cores, machine.kernel);
    if report.short {
        text += "\n**This is the short form's result: its figures are rough.**\n";
    }
    let failed = report.controls.iter().filter(|control| !control.held);
    let failed: Vec<String> =
        failed.map(|c| format!("{}, {} ({:.3})", c.part, c.scenario, c.ratio.median)).collect();
    let controls = report.controls.len();
    text += &if failed.is_empty() {
        format!("\nAll {controls} A/A controls are within 3 %.\n")
    } else {
        format!(
            "\nOf {controls} A/A controls these are not within 3 %, so what was measured there does not count: {}.\n",
            failed.join("; ")
        )
    };
    if let Some(cost) = &report.net_cost {
        text += "\n### Net cost of a packet, all relays\n\n![Net cost of a packet](benchmarks.svg)\n\n";
        text += &tables::net_cost(cost);
        if let Some(ns) = cost.wgrelay_under_load_ns {
            text += &format!(
                "\nwgrelay as a whole under the load of the others, by their method: {ns:.0} ns, the uncertainty of \
                 that load and `reflect` included.\n"
            );
        }
    }
    for &part in Part::value_variants() {
        let table = tables::of_part(report, part);
        if !table.is_empty() {
            text += &format!("\n### {}\n\n{table}", title(part));
        }
    }
    text
}

fn title(part: Part) -> &'static str {
    match part {
        Part::Programs => "A run of the program",
        Part::Channels => "A run of the program for TURN channels",
        Part::Packets => "A packet from end to end",
        Part::Latency => "Latency",
        Part::Handshakes => "Handshakes",
        Part::Flood => "A handshake behind a burst of others",
        Part::Relays => "Relays of all kinds under one load",
        Part::Hub => "A hub that decrypts and encrypts again",
        Part::Throughput => "TCP through WireGuard",
        Part::Members => "The control plane with very many members",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::report::tests::made_up;

    #[test]
    fn markers_and_prose_stay() {
        let page = format!("# Benchmarks\n\nProse.\n\n{BEGIN}\nold\n{END}\n\nMore.\n");
        let once = updated(&page, &made_up()).unwrap();
        assert!(once.starts_with(&format!("# Benchmarks\n\nProse.\n\n{BEGIN}\n\nMachine: ")));
        assert!(once.ends_with(&format!("\n{END}\n\nMore.\n")));
        assert!(once.contains("### A run of the program") && !once.contains("old"));
        assert!(!once.contains("### Handshakes"), "there were none");
        assert_eq!(updated(&once, &made_up()).unwrap(), once, "a second time changes nothing");
    }

    #[test]
    fn a_page_without_markers_is_left_alone() {
        for page in ["", BEGIN, END, &format!("{END}{BEGIN}"), &format!("{END}{BEGIN}{END}")] {
            assert!(updated(page, &made_up()).is_err(), "{page}");
        }
    }
}
