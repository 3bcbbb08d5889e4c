//! For the moment.
use relay_tests::bench::{hub, relays, row::Row, throughput};
fn show(rows: &[Row]) {
    for row in rows {
        println!("{:16} {:5} all {:6.0} [{:6.0} {:6.0}] tasks {:6.0} [{:6.0} {:6.0}] net {:6.0} nettasks {:6.0} ratio {:.3} [{:.3} {:.3}] {:.3} s/Gbit {:9.0} pps del {} lost {}", row.contender, row.sessions, row.ns_per_packet.median, row.ns_per_packet.min, row.ns_per_packet.max,
            row.tasks_ns_per_packet.median, row.tasks_ns_per_packet.min, row.tasks_ns_per_packet.max,
            row.net_ns_per_packet.median, row.net_tasks_ns_per_packet.median, row.to_reflect.median, row.to_reflect.low, row.to_reflect.high, row.net_cpu_seconds_per_gbit, row.packets_per_second.median, row.delivered, row.lost);
    }
}
fn main() -> anyhow::Result<()> {
    let short = !std::env::args().any(|a| a == "long");
    let what = std::env::args().nth(1).unwrap_or_default();
    let progress = |t: &str| eprintln!("{t}");
    match &*what {
        "relays" => show(&relays::run(short, &progress)?),
        "hub" => show(&hub::run(short, &progress)?),
        _ => throughput::run(short, &progress)?.iter().for_each(|r| println!("{r:?}")),
    }
    Ok(())
}
