//! For the moment.
fn main() -> anyhow::Result<()> {
    let short = !std::env::args().any(|a| a == "long");
    let what = std::env::args().nth(1).unwrap_or_default();
    let progress = |t: &str| eprintln!("{t}");
    if what == "relays" {
    for row in relay_tests::bench::relays::run(short, &progress)? {
        println!("{:14} {:5} {:7.0} [{:6.0} {:6.0}] net {:7.0} [{:6.0} {:6.0}] ratio {:.3} [{:.3} {:.3}] {:.3} s/Gbit {:9.0} pps del {} lost {}", row.contender, row.sessions, row.ns_per_packet.median, row.ns_per_packet.min, row.ns_per_packet.max, row.net_ns_per_packet.median, row.net_ns_per_packet.min, row.net_ns_per_packet.max, row.to_reflect.median, row.to_reflect.low, row.to_reflect.high, row.net_cpu_seconds_per_gbit, row.packets_per_second.median, row.delivered, row.lost);
    }
    }
    Ok(())
}
