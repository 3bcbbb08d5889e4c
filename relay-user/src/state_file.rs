//! Files with a process's own state: JSON, for root alone, replaced as a whole.

use std::{fs, io, io::Write as _, path::Path};

use anyhow::{Context as _, Result};
use serde::{Serialize, de::DeserializeOwned};

/// Reads a file; `None` if there is none. One that can't be understood is an error: it may hold what can't be had again.
pub(crate) fn read<T: DeserializeOwned>(file: &Path) -> Result<Option<T>> {
    let text = match fs::read(file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("read {}", file.display())),
    };
    serde_json::from_slice(&text)
        .map(Some)
        .with_context(|| format!("understand {}: restore it or remove it", file.display()))
}

/// Replaces a file. Whatever happens, it has the old content or the new.
pub(crate) fn write<T: Serialize>(file: &Path, content: &T) -> Result<()> {
    let replace = || -> Result<()> {
        let dir = file.parent().context("it is in no directory")?;
        fs::create_dir_all(dir)?;
        let mut new = tempfile::NamedTempFile::new_in(dir)?;
        new.write_all(&serde_json::to_vec(content)?)?;
        new.as_file().sync_all()?;
        new.persist(file)?;
        fs::File::open(dir)?.sync_all()?;
        Ok(())
    };
    replace().with_context(|| format!("write {}", file.display()))
}
