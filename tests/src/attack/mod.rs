//! The attack corpus: attacks on a running wgrelay with real packets, from outside and as a member.
//!
//! A row counts only if it fails when its defence is switched off. [`defences`] says which changes of the source do that,
//! and `cargo xtask attack --without` tries it.

mod data;
pub mod defences;
mod floods;
mod handshakes;
mod loops;
mod malformed;
mod membership;
mod packets;
mod scene;
mod tap;
pub mod too_big;
mod turn;

use std::panic::catch_unwind;

use anyhow::Result;
use serde::Serialize;

use self::defences::{DEFENCES, Defence};
use crate::wait::now;

/// An attack, and what must hold.
pub struct Row {
    /// Its name.
    pub name: &'static str,
    /// What must hold, whatever the attacker does.
    pub must_hold: &'static str,
    /// Attacks. What has been seen; or what has not held. It panics where the lab itself fails.
    attack: fn() -> Result<String>,
}

/// How an attack has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Ending {
    /// What must hold has held.
    Held,
    /// It has not.
    Broken,
    /// The lab has failed, so nothing is known.
    Unknown,
}

/// What came of an attack.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// The row's name.
    pub name: &'static str,
    /// How it ended.
    pub ending: Ending,
    /// How long it took.
    pub seconds: f64,
    /// What was seen.
    pub evidence: String,
}

impl Row {
    /// The defences without which it fails.
    pub fn defences(&self) -> impl Iterator<Item = &'static Defence> {
        DEFENCES.iter().filter(|defence| defence.rows.contains(&self.name))
    }

    /// Attacks, in a lab of its own, which is removed whatever comes of it.
    pub fn run(&self) -> Outcome {
        let start = now();
        let (ending, evidence) = match catch_unwind(self.attack) {
            Ok(Ok(evidence)) => (Ending::Held, evidence),
            Ok(Err(error)) => (Ending::Broken, format!("{error:#}")),
            Err(panic) => (Ending::Unknown, format!("the lab failed: {}", said(&*panic))),
        };
        Outcome { name: self.name, ending, seconds: start.elapsed().as_secs_f64(), evidence }
    }
}

/// What a panic says.
fn said(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message")
}

macro_rules! rows {
    ($($name:literal: $attack:path, $must_hold:literal;)+) => {
        /// All attacks.
        pub const ROWS: &[Row] = &[$(Row { name: $name, must_hold: $must_hold, attack: $attack },)+];
    };
}

rows! {
    "replay-from-elsewhere": handshakes::replay_from_elsewhere,
        "a host's initiation, sent again by somebody with a proven address before it is answered: the answer goes to the host";
    "replay-from-its-source": handshakes::replay_from_its_source,
        "a host's initiation, repeated in its name: its peer is sent a few of them, and no session comes about";
    "forged-initiations": handshakes::forged_initiations,
        "initiations in the name of a victim, also for a member that conspires: the victim is sent cookie replies only, fewer \
         bytes than were sent in its name, nothing is sent on, and no session leads to it";
    "stranger-initiations": handshakes::initiations_by_a_stranger,
        "a stranger with a proven address and many initiations: a member is sent a few of them";
    "forged-responses": handshakes::forged_responses,
        "responses with right index and mac1 from wrong sources: none is sent on, no session comes about, the genuine one is \
         taken";
    "forged-response-first": handshakes::forged_response_first,
        "a response that nobody can tell from the genuine one, and that comes before it: the genuine one is taken nevertheless";
    "forged-cookies": handshakes::forged_cookies,
        "cookie replies with right indices from wrong sources: none is sent on";
    "many-answers": handshakes::many_answers,
        "a member that answers one initiation a hundred times: three answers are sent back";
    "chosen-indices": membership::chosen_indices,
        "a member that chooses the indices of a live session: the session stays what it is and loses nothing";
    "spoofed-move": membership::spoofed_move,
        "data, handshakes and replays from elsewhere, and a member that answers in a host's name: the host stays where it is";
    "live-index": data::live_index_from_elsewhere,
        "data with live indices from wrong sources, whole and in fragments: none is sent on, the sessions stay where they are";
    "index-guessing": data::index_guessing,
        "100,000 indices guessed from a right source and from a wrong one: nothing is sent on, the live session loses nothing";
    "forged-too-big": too_big::forged_words,
        "\"packet too big\" with a wrong index, wrong addresses or an MTU that can't be: no host is told";
    "relay-loop": loops::two_relays,
        "two relays, of which each says that the other one has a member: an initiation for it does not come back";
    "malformed-ipv4": malformed::over_ipv4,
        "frames that are truncated, whose lengths lie, with impossible headers and options, torn fragments, messages of no \
         shape: all counted, none sent on, the live session loses nothing";
    "malformed-ipv6": malformed::over_ipv6,
        "the same over IPv6, with extension headers, jumbograms and no checksum";
    "turn-stolen-channel": turn::stolen_channel,
        "data for a client's TURN channel, and for its relayed address, from wrong sources: none is carried";
    "turn-private-peers": turn::private_peers,
        "a TURN client that wants to reach the relay itself, private networks or a cloud's metadata: it is refused";
    "initiation-flood": floods::initiations_from_one,
        "initiations as fast as the kernel makes them, from one source: live sessions go on, and a host that starts anew is \
         registered and has a session, each at its first try";
    "initiation-flood-many": floods::initiations_from_many,
        "the same from 262,144 sources";
    "data-flood": floods::data_from_one,
        "the same with data of no session, from one source";
    "data-flood-many": floods::data_from_many,
        "the same with data from 262,144 sources";
    "ring-flood": floods::ring_buffer,
        "a flood while userspace reads nothing: a known host's initiation still finds room, and it has its session at its \
         first try";
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs, path::Path};

    use super::*;

    #[test]
    fn every_row_has_a_defence_and_every_defence_a_row() {
        let names: BTreeSet<_> = ROWS.iter().map(|row| row.name).collect();
        assert_eq!(names.len(), ROWS.len(), "two rows have one name");
        for row in ROWS {
            assert!(row.defences().next().is_some(), "{} has no defence", row.name);
        }
        for defence in DEFENCES {
            assert!(!defence.rows.is_empty(), "{} stops nothing", defence.name);
            assert!(
                defence.rows.iter().all(|row| names.contains(row)),
                "{}: {:?}",
                defence.name,
                defence.rows
            );
        }
    }

    /// The source changes, and the table must change with it.
    #[test]
    fn what_switches_a_defence_off_is_found_in_the_source() {
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        for defence in DEFENCES {
            for edit in defence.edits {
                let file = workspace.join(edit.file);
                let text = fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
                if let Err(error) = edit.apply(&text) {
                    panic!("{}: {error}", defence.name);
                }
            }
        }
    }
}
