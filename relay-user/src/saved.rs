//! What of a relay outlives its host's reboot: where its hosts were last seen, what was forwarded for them, and, after an
//! orderly end, its sessions. A file in the state directory holds it. Pure, but for the file.
//!
//! While maps are pinned they are the truth, and of the file nothing is taken that they hold.

use std::{
    collections::BTreeMap,
    fs::DirBuilder,
    net::SocketAddr,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::{
    clock::Moment,
    handshake::{LIFETIME, Session},
    members::PublicKey,
    state_file,
};

/// Where a host was seen this long ago it is not looked for any more: somebody else may have that address by now.
const FORGOTTEN: Duration = Duration::from_secs(24 * 3600);

/// The content of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    written: Moment,
    /// The relay port.
    port: u16,
    /// By their public keys.
    hosts: BTreeMap<String, SavedHost>,
    /// How the relay ended; `None` while it runs, and so after it was killed.
    end: Option<End>,
}

/// An orderly end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// Whether the maps were left in place.
    pub kept: bool,
    /// The sessions that were live.
    pub sessions: Vec<Session>,
}

/// What is kept of a member.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedHost {
    /// Where it was last seen, if it is relayed here.
    pub seen: Option<Seen>,
    /// Packets and bytes from it.
    pub sent: (u64, u64),
    /// Packets and bytes to it.
    pub received: (u64, u64),
}

/// An endpoint that WireGuard had authenticated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// The endpoint.
    pub endpoint: SocketAddr,
    /// When, by the calendar: since 1970.
    pub at: Duration,
}

impl Saved {
    /// What is to be kept of a relay with this port.
    pub fn new(
        written: Moment,
        port: u16,
        hosts: impl IntoIterator<Item = (PublicKey, SavedHost)>,
        end: Option<End>,
    ) -> Self {
        let hosts = hosts.into_iter().filter(|(_, host)| *host != SavedHost::default());
        let hosts = hosts.map(|(key, host)| (key.to_string(), host)).collect();
        Self { written, port, hosts, end }
    }

    /// The file of the relay with this interface.
    pub fn file(state_dir: &Path, interface: &str) -> PathBuf {
        state_dir.join(format!("relay-{interface}.json"))
    }

    /// Reads the file; the default if there is none.
    ///
    /// # Errors
    /// If it can't be read or understood.
    pub fn read(file: &Path) -> Result<Self> {
        Ok(state_file::read(file)?.unwrap_or_default())
    }

    /// Replaces the file; its directory is made, for its owner alone, if it is not there.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn write(&self, file: &Path) -> Result<()> {
        let dir = file.parent().context("the state file is in no directory")?;
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .with_context(|| format!("create {}", dir.display()))?;
        state_file::write(file, self)
    }

    /// Whether it says the same, at whatever time it was written.
    pub fn same(&self, other: &Self) -> bool {
        (&self.hosts, &self.end, self.port) == (&other.hosts, &other.end, other.port)
    }

    /// What is kept of each member.
    pub fn hosts(&self) -> impl Iterator<Item = (PublicKey, SavedHost)> {
        self.hosts.iter().filter_map(|(key, host)| Some((PublicKey::from_base64(key)?, *host)))
    }

    /// Where hosts may be found at `now`.
    pub fn seen(&self, now: &Moment) -> impl Iterator<Item = (PublicKey, Seen)> {
        let since_epoch = now.since_epoch;
        self.hosts().filter_map(move |(key, host)| {
            let seen = host.seen?;
            (since_epoch.saturating_sub(seen.at) < FORGOTTEN).then_some((key, seen))
        })
    }

    /// Whether the relay came to an orderly end, and no other has run since: all that was to be known is in here.
    pub fn is_complete(&self) -> bool {
        self.end.is_some()
    }

    /// Whether maps that are found at `now` can't be those of the run that has written this: they are of a start that came
    /// to nothing, and not all may be in them.
    pub fn knows_better(&self, now: &Moment) -> bool {
        self.end.as_ref().is_some_and(|end| !end.kept || !self.written.is_of_the_boot_of(now))
    }

    /// The sessions that are still valid at `now`, by the clock of `now`.
    ///
    /// The clock since boot starts anew with every boot, so over one the calendar has to tell how old they are. It is not
    /// believed if it says that the file is from a time after this boot. A session that was opened before the boot counts
    /// as opened with it, as there is no earlier time: it is forgotten later than WireGuard itself forgets it, but no later
    /// than one that was opened at the boot would be.
    pub fn sessions(&self, now: &Moment, port: u16) -> Vec<Session> {
        let sessions = self.end.iter().flat_map(|end| &end.sessions);
        let sessions = sessions.filter(|s| self.port == port && s.opened <= self.written.since_boot);
        if self.written.is_of_the_boot_of(now) {
            return sessions.copied().collect();
        }
        let Some(elapsed) = now.since_epoch.checked_sub(self.written.since_epoch) else { return Vec::new() };
        if elapsed < now.since_boot {
            return Vec::new();
        }
        let aged = sessions.filter_map(|session| {
            let age = self.written.since_boot.saturating_sub(session.opened) + elapsed;
            (age < LIFETIME).then(|| Session { opened: now.since_boot.saturating_sub(age), ..*session })
        });
        aged.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{handshake::Side, members::MemberId};

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn moment(boot: &str, since_boot: u64, since_epoch: u64) -> Moment {
        let (since_boot, since_epoch) = (seconds(since_boot), seconds(since_epoch));
        Moment { boot: boot.to_owned(), since_boot, since_epoch }
    }

    fn session(opened: u64) -> Session {
        let side = |index, endpoint: &str| Side {
            index,
            endpoint: endpoint.parse().unwrap(),
            local: "198.51.100.1".parse().unwrap(),
            member: Some(MemberId(index.into())),
        };
        let (initiator, responder) = (side(1, "192.0.2.1:1"), side(2, "192.0.2.2:2"));
        Session { initiator, responder, opened: seconds(opened) }
    }

    fn end(kept: bool) -> End {
        End { kept, sessions: vec![session(990), session(900)] }
    }

    /// Written 1000 s after its boot, at 50000 s by the calendar.
    fn saved() -> Saved {
        let host = SavedHost {
            seen: Some(Seen { endpoint: "192.0.2.1:1".parse().unwrap(), at: seconds(49_990) }),
            sent: (1, 2),
            received: (u64::MAX, 4),
        };
        let hosts = [(PublicKey([7; 32]), host), (PublicKey([8; 32]), SavedHost::default())];
        Saved::new(moment("one", 1000, 50_000), 51820, hosts, Some(end(true)))
    }

    #[test]
    fn what_is_written_can_be_read() {
        let directory = tempfile::tempdir().unwrap();
        let dir = directory.path().join("made");
        let file = Saved::file(&dir, "wgr0");
        assert_eq!(Saved::read(&file).unwrap(), Saved::default());
        saved().write(&file).unwrap();
        let read = Saved::read(&file).unwrap();
        assert_eq!(read, saved());
        assert_eq!(read.hosts().count(), 1, "of a host of which nothing is known nothing is kept");
        use std::os::unix::fs::PermissionsExt as _;
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&file), mode(&dir)), (0o600, 0o700));
        std::fs::write(&file, "{").unwrap();
        assert!(Saved::read(&file).is_err());
    }

    #[test]
    fn within_a_boot_sessions_are_as_they_were() {
        let now = moment("one", 1100, 7);
        assert_eq!(saved().sessions(&now, 51820), [session(990), session(900)]);
        assert_eq!(saved().sessions(&now, 51821), [], "hosts send to the old port");
    }

    #[test]
    fn over_a_reboot_sessions_age_by_the_calendar() {
        // 60 s later, 20 s after the boot: they are 70 and 160 s old.
        assert_eq!(saved().sessions(&moment("two", 20, 50_060), 51820), [session(0), session(0)]);
        // 90 s later: 100 and 190 s old.
        assert_eq!(saved().sessions(&moment("two", 20, 50_090), 51820), [session(0)]);
        assert_eq!(saved().sessions(&moment("two", 20, 50_180), 51820), []);
    }

    #[test]
    fn a_boot_that_is_not_known_is_another() {
        let unknown = Saved { written: moment("", 1000, 50_000), ..saved() };
        assert_eq!(unknown.sessions(&moment("", 1100, 50_060), 51820), []);
        assert!(unknown.knows_better(&moment("", 1100, 50_060)));
    }

    #[test]
    fn a_session_from_the_future_is_none() {
        let later = End { sessions: vec![session(1001), session(1000)], kept: true };
        let saved = Saved { end: Some(later), ..saved() };
        assert_eq!(saved.sessions(&moment("one", 2000, 7), 51820), [session(1000)]);
    }

    #[test]
    fn a_calendar_that_can_not_be_right_is_not_believed() {
        assert_eq!(saved().sessions(&moment("two", 20, 49_999), 51820), [], "before it was written");
        assert_eq!(saved().sessions(&moment("two", 20, 50_010), 51820), [], "written after this boot");
    }

    #[test]
    fn maps_that_are_found_after_an_end_without_any_are_not_whole() {
        let (here, elsewhere) = (moment("one", 1100, 50_100), moment("two", 20, 50_100));
        let gone = Saved { end: Some(end(false)), ..saved() };
        let killed = Saved { end: None, ..saved() };
        let better = |saved: &Saved| (saved.knows_better(&here), saved.knows_better(&elsewhere));
        assert_eq!(better(&saved()), (false, true));
        assert_eq!(better(&gone), (true, true));
        assert_eq!(better(&killed), (false, false));
        assert_eq!((saved().is_complete(), killed.is_complete()), (true, false));
    }

    #[test]
    fn endpoints_are_forgotten_after_a_day() {
        let later = |after: u64| saved().seen(&moment("two", 20, 50_000 + after)).count();
        assert_eq!((later(60), later(24 * 3600)), (1, 0));
    }

    #[test]
    fn the_time_of_writing_makes_no_difference() {
        let later = Saved { written: moment("one", 2000, 60_000), ..saved() };
        assert!(later.same(&saved()) && !Saved::default().same(&saved()));
    }
}
