//! Waiting for events.

use std::time::{Duration, Instant};

/// The time now. The harness measures real hosts, so it reads a real clock.
#[expect(clippy::disallowed_methods, reason = "the lab runs real programs in real time")]
pub fn now() -> Instant {
    Instant::now()
}

/// Asks `probe` until it has an answer.
///
/// # Panics
/// If there is none within `limit`; `what` says what was awaited.
#[track_caller]
pub fn until<T>(what: &str, limit: Duration, probe: impl FnMut() -> Option<T>) -> T {
    match within(limit, probe) {
        Some(answer) => answer,
        None => panic!("no {what} within {limit:?}"),
    }
}

/// Asks `probe` until it has an answer, or until the time is up.
pub fn within<T>(limit: Duration, mut probe: impl FnMut() -> Option<T>) -> Option<T> {
    let start = now();
    loop {
        let answer = probe();
        if answer.is_some() || start.elapsed() >= limit {
            return answer;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
