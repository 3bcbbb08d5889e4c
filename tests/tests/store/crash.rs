//! A process that writes is killed, again and again: nothing that was acknowledged is lost.

use std::{
    collections::BTreeSet,
    env,
    io::{BufRead as _, BufReader, Write as _},
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use relay_user::{
    model::State,
    store::{Embedded, Store as _},
};

use super::{member, name, network, writer};

const DIRECTORY: &str = "WGRELAY_TEST_STORE";
const ROUNDS: u64 = 12;

/// The process that is killed: it makes members as fast as it can, and prints each when it is done.
#[tokio::test]
#[ignore = "started by the test below"]
async fn writes_until_it_is_killed() {
    let directory = PathBuf::from(env::var_os(DIRECTORY).expect("the parent names the directory"));
    let (writer, _stop) = writer(Embedded::open(&directory).await.unwrap()).await;
    let _ = writer.write(network("net")).await;
    let start = writer.state().members().len() as u64;
    let mut tasks = tokio::task::JoinSet::new();
    for n in start.. {
        let writer = writer.clone();
        tasks.spawn(async move {
            // Names go on in each round; what was not acknowledged may be there all the same.
            let text = format!("m{n}-{}", std::process::id());
            writer.write(member(&text, n << 32 | u64::from(std::process::id()))).await.unwrap();
            text
        });
        if tasks.len() >= 16 {
            let done = tasks.join_next().await.unwrap().unwrap();
            println!("done {done}");
            std::io::stdout().flush().unwrap();
        }
    }
}

#[tokio::test]
async fn loses_nothing_that_was_acknowledged() {
    let directory = tempfile::tempdir().unwrap();
    let mut acknowledged = BTreeSet::new();
    for round in 0..ROUNDS {
        let mut child = Writing::start(directory.path().into());
        let lines = BufReader::new(child.0.stdout.take().unwrap()).lines();
        // Killed in the middle of whatever it does then; what it had printed before still comes.
        for line in lines {
            let Some((_, done)) = line.as_ref().unwrap().split_once("done ") else { continue };
            acknowledged.insert(done.to_owned());
            if acknowledged.len() as u64 >= (round + 1) * 40 + fastrand::u64(0..30) {
                child.0.kill().unwrap();
            }
        }
        drop(child);
        let store = Embedded::open(directory.path()).await.unwrap();
        let snapshot = store.snapshot().await.unwrap();
        let entries = snapshot.entries.iter().map(|e| (e.key.as_str(), e.value.as_slice(), e.revision));
        let state = State::load(snapshot.revision, entries).unwrap();
        for done in &acknowledged {
            assert!(state.member(name(done).as_str()).is_some(), "round {round}: {done} is lost");
        }
    }
    assert!(acknowledged.len() as u64 >= ROUNDS * 40, "{}", acknowledged.len());
}

struct Writing(Child);

impl Writing {
    fn start(directory: PathBuf) -> Self {
        let test = ["crash::writes_until_it_is_killed", "--exact", "--ignored", "--nocapture"];
        let mut command = Command::new(env::current_exe().unwrap());
        let command = command.args(test).env(DIRECTORY, directory).stdout(Stdio::piped());
        Self(command.spawn().unwrap())
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
