//! `wgrelay top`: what the relay does now, again and again. [`view`] is what is shown, without a terminal.

mod view;

use std::{
    io::IsTerminal as _,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use ratatui::{
    DefaultTerminal,
    crossterm::event::{self, Event, KeyCode, KeyModifiers},
};
use relay_user::client::Client;

use super::asking::Asking;
use view::{Order, Snapshot, View};

/// Show members, rates and reasons, live, until `q` is pressed.
#[derive(Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    asking: Asking,
    /// How often to ask, in seconds.
    #[arg(long, short, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=3600))]
    interval: u64,
}

impl Arguments {
    pub(crate) async fn run(self) -> Result<()> {
        if !std::io::stdout().is_terminal() {
            bail!(
                "`wgrelay top` needs a terminal: `wgrelay status` and `wgrelay hosts`, with --json, are for programs"
            );
        }
        let client = self.asking.client()?;
        // Asked once before the terminal is taken over, so that whoever can't be asked is told as always.
        let first = ask(&client).await?;
        let mut terminal = ratatui::try_init().context("take the terminal over")?;
        let result = follow(&mut terminal, &client, first, Duration::from_secs(self.interval)).await;
        ratatui::restore();
        result
    }
}

async fn ask(client: &Client) -> Result<Snapshot> {
    let status = client.get("/v1/status").await?;
    let hosts = client.get("/v1/hosts").await?;
    Ok(Snapshot { at: relay_user::clock::now(), status, hosts })
}

async fn follow(
    terminal: &mut DefaultTerminal,
    client: &Client,
    first: Snapshot,
    interval: Duration,
) -> Result<()> {
    let (mut before, mut now, mut order, mut trouble) = (None, first, Order::default(), None);
    loop {
        let until = deadline(interval);
        while let Some(left) = until.checked_duration_since(moment()) {
            let shown = View::new(before.as_ref(), &now, order, trouble.as_deref());
            terminal.draw(|frame| shown.draw(frame)).context("draw")?;
            match key(left)? {
                Some(Key::Quit) => return Ok(()),
                Some(Key::Order) => order = order.next(),
                None => {}
            }
        }
        match ask(client).await {
            Ok(next) => {
                before = Some(std::mem::replace(&mut now, next));
                trouble = None;
            }
            // A relay that is started again comes back.
            Err(error) => trouble = Some(format!("{error:#}")),
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "paces a terminal; nothing is decided by it")]
fn moment() -> Instant {
    Instant::now()
}

fn deadline(interval: Duration) -> Instant {
    moment() + interval
}

enum Key {
    Quit,
    Order,
}

/// What was pressed within a time; a change of the terminal's size is nothing, but ends the waiting.
fn key(within: Duration) -> Result<Option<Key>> {
    if !event::poll(within).context("wait for a key")? {
        return Ok(None);
    }
    let Event::Key(key) = event::read().context("read a key")? else { return Ok(None) };
    let control = key.modifiers.contains(KeyModifiers::CONTROL);
    Ok(match key.code {
        KeyCode::Char('q') | KeyCode::Esc => Some(Key::Quit),
        KeyCode::Char('c') if control => Some(Key::Quit),
        KeyCode::Char('s') => Some(Key::Order),
        _ => None,
    })
}
