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
pub fn until<T>(what: &str, limit: Duration, mut probe: impl FnMut() -> Option<T>) -> T {
    let start = now();
    loop {
        if let Some(answer) = probe() {
            return answer;
        }
        assert!(start.elapsed() < limit, "no {what} within {limit:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
