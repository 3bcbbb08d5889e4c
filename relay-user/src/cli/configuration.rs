//! `wgrelay config`

use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};
use qrcode::{EcLevel, QrCode, render::unicode::Dense1x2};
use relay_user::{
    api::shape::{Configuration, Member},
    client::Client,
    members::PublicKey,
    model::{self, Name},
};

use super::asking::Asking;

#[derive(Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    asking: Asking,
    /// The member.
    member: Name,
    /// Which way a relayed host's traffic takes: all of it over its relay, or only where it must.
    #[arg(long, value_enum, default_value_t = ViaRelay::Always)]
    via_relay: ViaRelay,
    /// Put the private key from this file in. It must be the member's; it does not leave this host.
    #[arg(long, value_name = "FILE")]
    private_key_file: Option<PathBuf>,
    /// Draw a QR code for WireGuard on a phone.
    #[arg(long, requires = "private_key_file", conflicts_with = "json")]
    qr: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum ViaRelay {
    /// All of it.
    Always,
    /// Public peers are reached directly.
    Needed,
}

impl Arguments {
    pub(crate) async fn run(self) -> Result<()> {
        let client = self.asking.client()?;
        let private_key = match &self.private_key_file {
            Some(path) => Some(self.private_key(path, &client).await?),
            None => None,
        };
        let via = match self.via_relay {
            ViaRelay::Always => "always",
            ViaRelay::Needed => "needed",
        };
        let path = format!("/v1/members/{}/configuration?via_relay={via}", self.member);
        let configuration: Configuration = client.get(&path).await?;
        if self.asking.is_json() {
            return self.asking.print(&configuration, |_| String::new());
        }
        let text = model::Configuration::from(configuration).wg_quick(private_key.as_deref()).to_string();
        if self.qr {
            print!("{}", qr(&text)?);
        } else {
            print!("{text}");
        }
        Ok(())
    }

    /// Reads the private key, and sees that it is the member's.
    async fn private_key(&self, path: &std::path::Path, client: &Client) -> Result<String> {
        let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        let text = text.trim();
        let Ok(key) = wireguard_control::Key::from_base64(text) else {
            bail!("{} holds no private key: give a file with what `wg genkey` prints", path.display());
        };
        let member: Member = client.get(&format!("/v1/members/{}", self.member)).await?;
        if PublicKey(key.get_public().0) != member.public_key {
            bail!("the private key in {} is not that of {}", path.display(), self.member);
        }
        Ok(text.to_owned())
    }
}

fn qr(text: &str) -> Result<String> {
    let code = QrCode::with_error_correction_level(text, EcLevel::L).map_err(|_| {
        let bytes = text.len();
        anyhow::anyhow!(
            "the configuration has {bytes} bytes, and a QR code holds 2953: there are too many peers"
        )
    })?;
    Ok(format!("{}\n", code.render::<Dense1x2>().build()))
}
