//! `wgrelay manual`: the manual pages, made of what the command line itself says.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Args;

/// Write the manual pages into a directory, one for each command: for those who make packages.
#[derive(Args)]
pub(crate) struct Arguments {
    /// The directory, which is made if it is not there.
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

impl Arguments {
    pub(crate) fn run(self, command: clap::Command) -> Result<()> {
        let directory = self.directory;
        std::fs::create_dir_all(&directory).with_context(|| format!("create {}", directory.display()))?;
        clap_mangen::generate_to(command, &directory)
            .with_context(|| format!("write the manual pages into {}", directory.display()))
    }
}
