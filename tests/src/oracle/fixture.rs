//! Disagreements of the past: one file each in `fixtures`, replayed first in each run.

use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

use super::{check::hex, grammar::Case, tables::Tables};

/// A frame, and the tables that it meets.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Fixture {
    /// What it is about.
    pub about: String,
    /// The frame in hexadecimal.
    pub frame: String,
    /// Metadata before the frame, in bytes.
    pub metadata: usize,
    /// The tables.
    pub tables: Tables,
}

impl Fixture {
    /// From what was found.
    pub fn new(about: String, tables: &Tables, case: &Case) -> Self {
        Self { about, frame: hex(&case.frame), metadata: case.metadata, tables: tables.clone() }
    }

    /// The frame.
    pub fn case(&self) -> Result<Case> {
        ensure!(self.frame.is_ascii() && self.frame.len().is_multiple_of(2), "two digits make a byte");
        let byte = |at| u8::from_str_radix(&self.frame[at..at + 2], 16);
        let frame = (0..self.frame.len()).step_by(2).map(byte).collect::<Result<_, _>>()?;
        Ok(Case { frame, metadata: self.metadata })
    }
}

/// Where they are kept.
pub fn directory() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "src/oracle/fixtures"].iter().collect()
}

/// All of them, by the names of their files.
pub fn all() -> Result<Vec<(String, Fixture)>> {
    let directory = directory();
    let entries = fs::read_dir(&directory).with_context(|| format!("list {}", directory.display()))?;
    let mut all = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "json") {
            let read = || anyhow::Ok(serde_json::from_str(&fs::read_to_string(&path)?)?);
            let fixture = read().with_context(|| format!("read {}", path.display()))?;
            all.push((path.file_stem().unwrap_or_default().to_string_lossy().into_owned(), fixture));
        }
    }
    all.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(all)
}
