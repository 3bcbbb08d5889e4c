//! The `wgrelay` command.

use std::{
    io::IsTerminal as _,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, Result};
use clap::{Args, Parser, Subcommand};
use relay_user::{
    api,
    config::{self, Config},
    members::PublicKey,
    program::{self, Claim},
    run,
    status::{Host, SessionDirection, Status, UnknownSource},
};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

mod show;

/// A blind WireGuard relay: forwards encrypted packets between hosts that can't reach each other, in the kernel.
///
/// Relayed hosts run stock WireGuard: the relay is one more peer with a persistent keepalive, and the endpoint of all
/// their peers. The relay never holds their keys and never sees plaintext.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the relay.
    ///
    /// Loads the XDP program, attaches it, and follows handshakes until SIGTERM or SIGINT; then it removes all that it has
    /// made. Members are followed live: the file may be changed at any time (SIGHUP makes it read at once).
    Run {
        /// The configuration file.
        #[arg(long, short, value_name = "FILE", default_value = "/etc/wgrelay/relay.toml")]
        config: PathBuf,
    },
    /// Check a configuration file: prints what is wrong with it, with the line, and does nothing else.
    Check {
        /// The configuration file.
        #[arg(value_name = "FILE")]
        config: PathBuf,
    },
    /// Show the running relay: where it is attached, how many hosts and sessions, packets by reason.
    Status(Show),
    /// Show the members: where they are, their last handshake with the relay, and what was forwarded for them.
    Hosts(Show),
    /// Show the live sessions, a row for each direction.
    Sessions(Show),
    /// Show the unknown sources that sent something to the relay port lately, those with the most packets first.
    ///
    /// An IPv6 source is a network of 64 bits. Sources that were never admitted, since all unknown sources together had
    /// used up their budget, are not among them.
    Sources(Show),
    /// Remove what a relay that was killed has left: its XDP program and its maps. Its sessions end.
    Unload {
        /// The directory of the pins (`pin_dir` of its configuration).
        #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf/wgrelay")]
        pin_dir: PathBuf,
    },
}

#[derive(Args)]
struct Show {
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
    /// The socket of the running relay (`socket` of its configuration).
    #[arg(long, value_name = "PATH", default_value_os_t = config::default_socket())]
    socket: PathBuf,
}

fn main() -> ExitCode {
    match execute(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("wgrelay: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn execute(command: Command) -> Result<()> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("start tokio")?;
    let result = runtime.block_on(async {
        match command {
            Command::Run { config } => run_relay(&config).await,
            Command::Check { config } => check(&config),
            Command::Status(show) => print::<Status>(&show, "/v1/status", show::status).await,
            Command::Hosts(show) => print::<Vec<Host>>(&show, "/v1/hosts", |hosts| show::hosts(hosts)).await,
            Command::Sessions(show) => {
                print::<Vec<SessionDirection>>(&show, "/v1/sessions", |sessions| show::sessions(sessions))
                    .await
            }
            Command::Sources(show) => {
                print::<Vec<UnknownSource>>(&show, "/v1/sources", |sources| show::sources(sources)).await
            }
            Command::Unload { pin_dir } => unload(&pin_dir),
        }
    });
    // A call to a WireGuard that hangs must not keep the process.
    runtime.shutdown_background();
    result
}

async fn run_relay(config: &Path) -> Result<()> {
    let filter =
        EnvFilter::try_from_env("WGRELAY_LOG").unwrap_or_else(|_| EnvFilter::new("info,netlink_proto=error"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
    // Before the file is followed, a SIGHUP would otherwise end the process.
    let _hangup = signal(SignalKind::hangup()).context("listen for SIGHUP")?;
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    run::run(config, async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
    .await
}

fn check(path: &Path) -> Result<()> {
    let config = Config::read(path)?;
    // Any key that is not a member's will do: which one the relay has is not known before it runs.
    let members = config.members(PublicKey([0; 32])).map_err(|(_, reason)| anyhow::anyhow!(reason))?;
    println!(
        "{} is in order: relay {:?} on port {}, {} members",
        path.display(),
        config.relay.name,
        config.relay.port,
        members.iter().len()
    );
    Ok(())
}

fn unload(pin_dir: &Path) -> Result<()> {
    let _claim = Claim::new(pin_dir)?;
    if program::unload(pin_dir)? {
        println!("removed what was pinned in {}", pin_dir.display());
    } else {
        println!("nothing is pinned in {}", pin_dir.display());
    }
    Ok(())
}

async fn print<T>(show: &Show, path: &str, table: impl Fn(&T) -> String) -> Result<()>
where
    T: serde::Serialize + serde::de::DeserializeOwned,
{
    let answer: T = api::fetch(&show.socket, path).await?;
    if show.json {
        println!("{}", serde_json::to_string_pretty(&answer)?);
    } else {
        print!("{}", table(&answer));
    }
    Ok(())
}
