//! Hosts move away from a relay that is gone.

use std::{collections::BTreeSet, time::Duration};

use relay_user::{
    model::{Command, Hosts, NewRelay, Relay, State},
    store::{Followers, Store, Writer, fail_over},
};
use tokio_util::sync::CancellationToken;

use super::{member, name, network, soon, until};

/// How long a relay must be gone.
const AFTER: Duration = Duration::from_secs(1);
/// How soon its death is seen.
const TTL: Duration = Duration::from_secs(2);

/// Makes two relays, and hosts a and b of the first.
async fn fill(writer: &Writer) {
    let relay = |text: &str, address: &str, hosts: &[&str]| {
        let addresses = vec![address.parse().expect("an address")];
        let relay = Relay { name: name(text), addresses, port: 51820, private: false };
        let hosts = Hosts::Named(hosts.iter().map(|host| name(host)).collect());
        Command::CreateRelay(NewRelay { relay, hosts })
    };
    let members = ["r1", "r2", "a", "b"].into_iter().zip(1..).map(|(text, number)| member(text, number));
    let relays = [relay("r1", "198.51.100.1", &["a", "b"]), relay("r2", "198.51.100.2", &[])];
    for command in [network("net")].into_iter().chain(members).chain(relays) {
        writer.write(command).await.expect("a good command");
    }
}

fn is_with(state: &State, host: &str, relay: &str) -> bool {
    let relayed = state.member(host).and_then(|host| host.relayed.as_ref());
    relayed.is_some_and(|relayed| relayed.by.as_str() == relay)
}

/// `here` is the store as the process with the API has it, `there` as the other relay's.
pub(super) async fn followers_move_and_others_stay<S: Store + 'static>(here: S, there: S) {
    let (all, first) = (CancellationToken::new(), CancellationToken::new());
    let _all = all.clone().drop_guard();
    let (own, other) =
        (here.announce("r2".into(), TTL, all.clone()), there.announce("r1".into(), TTL, first.clone()));
    tokio::spawn(own);
    tokio::spawn(other);
    let mut alive = here.alive();
    let both = BTreeSet::from(["r1".to_owned(), "r2".to_owned()]);
    soon("two relays", alive.wait_for(|alive| *alive == both)).await.expect("it is followed");
    let (writer, _guard) = super::writer(here).await;
    fill(&writer).await;
    let followers = Followers::default();
    let following = followers.follow(name("a"));
    tokio::spawn(fail_over(writer.clone(), alive, followers.clone(), AFTER, all.clone()));
    // As long as it lives nothing happens.
    tokio::time::sleep(AFTER * 2).await;
    assert!(is_with(&writer.state(), "a", "r1") && is_with(&writer.state(), "b", "r1"));
    first.cancel();
    until(&writer, "other relay of a", |state| is_with(state, "a", "r2")).await;
    assert!(is_with(&writer.state(), "b", "r1"), "b does not follow, so it would be lost");
    // It begins to follow later.
    drop(following);
    let _following = followers.follow(name("b"));
    until(&writer, "other relay of b", |state| is_with(state, "b", "r2")).await;
    // The first is back: nobody is moved to and fro.
    tokio::spawn(there.announce("r1".into(), TTL, all.clone()));
    tokio::time::sleep(AFTER * 2).await;
    assert!(is_with(&writer.state(), "a", "r2") && is_with(&writer.state(), "b", "r2"));
}
