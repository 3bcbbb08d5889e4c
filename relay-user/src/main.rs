//! The `wgrelay` command.

use std::{
    io::IsTerminal as _,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, Result};
use clap::{Args, CommandFactory as _, Parser, Subcommand, ValueEnum};
use relay_user::{
    config::{Config, ServeConfig},
    interface::Interface,
    join,
    members::PublicKey,
    netlink::Netlink,
    program::{self, Claim},
    run, serve,
    status::{Host, SessionDirection, UnknownSource},
};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

mod cli;

use cli::{
    asking::Asking, configuration, doctor, keys, manual, members, networks, relays, show, status, tokens,
    top, turn_users,
};

/// A blind WireGuard relay: forwards encrypted packets between hosts that can't reach each other, in the kernel.
///
/// Relayed hosts run stock WireGuard: the relay is one more peer with a persistent keepalive, and the endpoint of all
/// their peers. The relay never holds their keys and never sees plaintext.
#[derive(Parser)]
#[command(name = "wgrelay", version, after_long_help = EXAMPLE)]
struct Cli {
    /// How `run`, `serve`, `join` and `leave` log.
    #[arg(
        long,
        global = true,
        value_enum,
        value_name = "FORMAT",
        env = "WGRELAY_LOG_FORMAT",
        default_value_t
    )]
    log_format: LogFormat,
    #[command(subcommand)]
    command: Command,
}

/// How it is logged.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum LogFormat {
    /// A line for people.
    #[default]
    Text,
    /// A JSON object in a line: `timestamp`, `level`, `fields`.
    Json,
}

const EXAMPLE: &str = "\
From nothing to two relayed hosts, on the relay host (with `source = \"store\"` in [control] of relay.toml):

    wgrelay network create mesh --ipv4 10.10.0.0/16
    wgrelay relay create relay-1 --network mesh
    wgrelay key create --network mesh --relay relay-1 --uses 2

and the hosts join with that key; or, with public keys that are known:

    wgrelay member create host-a --network mesh --public-key KEY
    wgrelay relay add-host relay-1 host-a
    wgrelay config host-a > wg0.conf

Another host's wgrelay is asked with --api https://HOST:9587 and a token, which `wgrelay token create` makes there.";

#[derive(Subcommand)]
enum Command {
    /// Run the relay.
    ///
    /// Loads the XDP program, attaches it, and follows handshakes until SIGTERM or SIGINT; then it removes all that it has
    /// made, or keeps it for the next start. Members are followed live: the file may be changed at any time (SIGHUP makes it read at once).
    Run {
        /// The configuration file.
        #[arg(long, short, value_name = "FILE", default_value = "/etc/wgrelay/relay.toml")]
        config: PathBuf,
        /// At the end leave XDP program, sessions and WireGuard interface as they are: data goes on, and the next start takes
        /// them over. `keep` in the file does the same; it is the default when systemd has started wgrelay.
        #[arg(long)]
        keep: bool,
    },
    /// Serve the control plane alone: its store and its API, without a relay. Takes no privileges.
    ///
    /// Relays on other hosts follow it if the store is etcd. Of the configuration file it reads [control], and the socket in
    /// [relay]; all else is for `wgrelay run`.
    Serve(Serve),
    /// Check a configuration file: prints what is wrong with it, with the line, and does nothing else.
    Check {
        /// The configuration file.
        #[arg(value_name = "FILE")]
        config: PathBuf,
    },
    Doctor(doctor::Arguments),
    Status(status::Arguments),
    Top(top::Arguments),
    /// Show the members: where they are, their last handshake with the relay, and what was forwarded for them.
    Hosts(Show),
    /// Show the live sessions, a row for each direction.
    Sessions(Show),
    /// Show the unknown sources that sent something to the relay port lately, those with the most packets first.
    ///
    /// An IPv6 source is a network of 64 bits. Sources that were never admitted, since all unknown sources together had
    /// used up their budget, are not among them.
    Sources(Show),
    /// Networks: who is in one may talk, at addresses of its prefixes.
    Network(networks::Arguments),
    /// Members: hosts with a WireGuard key.
    Member(members::Arguments),
    /// Relays, and the hosts that they relay.
    Relay(relays::Arguments),
    /// Enrolment keys, with which hosts join a network by themselves.
    Key(keys::Arguments),
    /// Tokens, with which others use the API over TCP.
    Token(tokens::Arguments),
    /// Users of the relays' TURN servers, with passwords.
    TurnUser(turn_users::Arguments),
    /// Print what a member's WireGuard interface needs, for wg-quick or a phone.
    Config(configuration::Arguments),
    Join(join::Join),
    Leave(join::Leave),
    /// Remove what a relay has kept, or left when it was killed: its XDP program, its maps and its WireGuard interface. Its
    /// sessions end.
    Unload {
        /// The directory of the pins (`pin_dir` of its configuration).
        #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf/wgrelay")]
        pin_dir: PathBuf,
    },
    /// Print a TURN user's key, for `[[turn.user]]`. The password is the first line of the standard input.
    TurnKey {
        /// The realm, as in [turn].
        #[arg(long)]
        realm: String,
        /// The user's name.
        name: String,
    },
    #[command(hide = true)]
    Manual(manual::Arguments),
    /// Print a script that has a shell complete the commands: `wgrelay completions bash > /etc/bash_completion.d/wgrelay`
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

#[derive(Args)]
struct Show {
    #[command(flatten)]
    asking: Asking,
}

#[derive(Args)]
struct Serve {
    /// The configuration file.
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The unix socket; /run/wgrelay/wgrelay.sock if the file does not say otherwise.
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// The directory of the embedded store; /var/lib/wgrelay if the file does not say otherwise.
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Where to listen for others, with tokens; plain HTTP only on loopback.
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
}

fn main() -> ExitCode {
    let Cli { log_format, command } = Cli::parse();
    match execute(command, log_format) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("wgrelay: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// How long a thread for blocking calls stays without work. Shorter than the time between two of the regular ones, so that
/// none outlives the drop of privileges.
const IDLE_THREAD: Duration = Duration::from_millis(200);

fn execute(command: Command, log_format: LogFormat) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .thread_keep_alive(IDLE_THREAD)
        .build()
        .context("start tokio")?;
    let result = runtime.block_on(async {
        match command {
            // Its status tells what it found.
            Command::Doctor(arguments) => return arguments.run().await,
            Command::Run { config, keep } => {
                log(log_format);
                run::run(&config, keep, terminated()?).await
            }
            Command::Serve(serve) => {
                log(log_format);
                serve.serve().await
            }
            Command::Check { config } => check(&config),
            Command::Status(arguments) => arguments.run().await,
            Command::Top(arguments) => arguments.run().await,
            Command::Hosts(Show { asking }) => {
                asking.show("/v1/hosts", |hosts: &Vec<Host>| show::hosts(hosts)).await
            }
            Command::Sessions(Show { asking }) => {
                asking.show("/v1/sessions", |all: &Vec<SessionDirection>| show::sessions(all)).await
            }
            Command::Sources(Show { asking }) => {
                asking.show("/v1/sources", |all: &Vec<UnknownSource>| show::sources(all)).await
            }
            Command::Network(arguments) => arguments.run().await,
            Command::Member(arguments) => arguments.run().await,
            Command::Relay(arguments) => arguments.run().await,
            Command::Key(arguments) => arguments.run().await,
            Command::Token(arguments) => arguments.run().await,
            Command::TurnUser(arguments) => arguments.run().await,
            Command::Config(arguments) => arguments.run().await,
            Command::Join(options) => {
                log(log_format);
                join::join(options, terminated()?).await
            }
            Command::Leave(options) => {
                log(log_format);
                join::leave(options).await
            }
            Command::Unload { pin_dir } => unload(&pin_dir).await,
            Command::TurnKey { realm, name } => turn_key(&realm, &name),
            Command::Manual(arguments) => arguments.run(Cli::command()),
            Command::Completions { shell } => {
                clap_complete::generate(shell, &mut Cli::command(), "wgrelay", &mut std::io::stdout());
                Ok(())
            }
        }
        .map(|()| ExitCode::SUCCESS)
    });
    // A call to a WireGuard that hangs must not keep the process.
    runtime.shutdown_background();
    result
}

impl Serve {
    async fn serve(self) -> Result<()> {
        let config = self.config.as_deref().map(ServeConfig::read).transpose()?.unwrap_or_default();
        let config = config.with(self.socket, self.state_dir, self.listen).map_err(anyhow::Error::msg)?;
        serve::serve(config, terminated()?).await
    }
}

fn turn_key(realm: &str, name: &str) -> Result<()> {
    println!("{}", turn_users::key(name, realm, Path::new("-"))?.to_hex());
    Ok(())
}

fn log(format: LogFormat) {
    let filter = EnvFilter::try_from_env("WGRELAY_LOG")
        .unwrap_or_else(|_| EnvFilter::new("info,netlink_proto=error,stun_types=error,rustls=error"));
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    match format {
        LogFormat::Text => subscriber.init(),
        LogFormat::Json => subscriber.json().with_current_span(false).with_span_list(false).init(),
    }
}

/// Waits for a signal that ends the process.
fn terminated() -> Result<impl Future<Output = ()>> {
    // Before anybody follows it, a SIGHUP would otherwise end the process.
    let hangup = signal(SignalKind::hangup()).context("listen for SIGHUP")?;
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    Ok(async move {
        let _hangup = hangup;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
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

async fn unload(pin_dir: &Path) -> Result<()> {
    let _claim = Claim::new(pin_dir)?;
    if program::unload(pin_dir)? {
        println!("removed what was pinned in {}", pin_dir.display());
    } else {
        println!("nothing is pinned in {}", pin_dir.display());
    }
    for interface in Interface::remove_kept(pin_dir, &Netlink::for_questions()?).await? {
        println!("removed the WireGuard interface {interface}");
    }
    Ok(())
}
