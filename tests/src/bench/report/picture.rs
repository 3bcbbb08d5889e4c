//! docs/benchmarks.svg: the net cost of a packet, for all relays, at a glance.

use super::{Report, net_cost::NetCost};

/// Where bars begin, in pixels from the left.
const LEFT: f64 = 170.0;
/// What the longest bar is long.
const LONGEST: f64 = 470.0;
/// From one bar to the next.
const STEP: f64 = 34.0;
/// Above the first bar.
const TOP: f64 = 58.0;
const WIDTH: f64 = LEFT + LONGEST + 140.0;

/// The picture: a bar for each contender on a logarithmic scale that starts at 1 ns. Colours are for dark pages too.
pub fn svg(report: &Report, cost: &NetCost) -> String {
    let own = cost.own().map(|(name, ns)| (name, ns, None));
    let others = cost.rows.iter().map(|row| (row.contender.as_str(), row.ns, Some(1.0 / row.wgrelay_to_it)));
    let mut bars: Vec<_> = own.chain(others).collect();
    bars.sort_by(|(_, one, _), (_, other, _)| one.total_cmp(other));
    let most = bars.iter().fold(10.0, |most: f64, &(_, ns, _)| most.max(ns));
    let decades = most.log10().ceil();
    let length = |ns: f64| (ns.max(1.0).log10() / decades * LONGEST).max(2.0);
    let bottom = TOP + STEP * bars.len() as f64;
    let mut shapes = String::new();
    for decade in 0..=decades as i32 {
        let x = LEFT + LONGEST * f64::from(decade) / decades;
        let ns = super::tables::thousands(10_f64.powi(decade));
        shapes += &format!(
            "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{TOP}\" y2=\"{bottom}\"/>\n\
             <text class=\"axis\" x=\"{x:.1}\" y=\"{:.1}\">{ns} ns</text>\n",
            bottom + 18.0
        );
    }
    for (number, (name, ns, times)) in (0_u32..).zip(bars) {
        let top = TOP + STEP * f64::from(number);
        let class = if name.starts_with("wgrelay") { "bar us" } else { "bar" };
        let value = if ns < 100.0 { format!("{ns:.1}") } else { super::tables::thousands(ns) };
        let times = times.map_or_else(String::new, |times| format!(" ({times:.0} ×)"));
        shapes += &format!(
            "<text class=\"name\" x=\"{:.1}\" y=\"{:.1}\">{}</text>\n\
             <rect class=\"{class}\" x=\"{LEFT}\" y=\"{:.1}\" width=\"{:.1}\" height=\"22\" rx=\"2\"/>\n\
             <text x=\"{:.1}\" y=\"{:.1}\">{value} ns{times}</text>\n",
            LEFT - 10.0,
            top + 22.0,
            escaped(name),
            top + 6.0,
            length(ns),
            LEFT + length(ns) + 8.0,
            top + 22.0,
        );
    }
    let (height, machine) = (bottom + 32.0, escaped(&report.machine.cpu));
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" \
         role=\"img\" aria-label=\"Net cost of a relayed packet\">\n\
         <style>\n\
         text {{ font: 14px system-ui, sans-serif; fill: #24292f }}\n\
         .title {{ font-size: 16px; font-weight: 600 }}\n\
         .name {{ text-anchor: end }}\n\
         .note, .axis {{ font-size: 12px; fill: #6e7781 }}\n\
         .axis {{ text-anchor: middle }}\n\
         .bar {{ fill: #8c959f }}\n\
         .us {{ fill: #0969da }}\n\
         .grid {{ stroke: #8c959f; stroke-opacity: 0.3 }}\n\
         @media (prefers-color-scheme: dark) {{\n\
         text {{ fill: #e6edf3 }}\n\
         .note, .axis {{ fill: #9198a1 }}\n\
         .us {{ fill: #4493f8 }}\n\
         }}\n\
         </style>\n\
         <text class=\"title\" x=\"10\" y=\"22\">Net cost of a relayed packet, ns of CPU time</text>\n\
         <text class=\"note\" x=\"10\" y=\"42\">{machine}; a logarithmic scale, less is better</text>\n\
         {shapes}</svg>\n"
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::report::tests::made_up;

    #[test]
    fn every_contender_has_a_bar() {
        let mut report = made_up();
        report.machine.cpu = "A & B <C>".to_owned();
        let cost = report.net_cost.clone().unwrap();
        let picture = svg(&report, &cost);
        assert_eq!(picture.matches("<rect ").count(), 7);
        assert_eq!(picture.matches("class=\"bar us\"").count(), 2);
        assert!(picture.contains(">8,000 ns (800 ×)</text>") && picture.contains("A &amp; B &lt;C&gt;"));
        // 1,000 ns are three of the four decades.
        assert!(picture.contains("width=\"352.5\""), "{picture}");
    }
}
