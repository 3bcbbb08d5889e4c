//! What systemd is told of this process, if it has asked to be told (`Type=notify`, `WatchdogSec=`). Elsewhere nothing
//! happens.

use sd_notify::NotifyState;
use tracing::debug;

/// It forwards.
pub fn ready() {
    tell(&[NotifyState::Ready]);
}

/// It reads its configuration again; [`ready`] ends that.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => debug!(%error, "read the monotonic clock"),
    }
}

/// It comes to its end in order.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// The engine has come round again. Whoever calls this vouches that packets are followed; systemd restarts a process that
/// has not called for longer than `WatchdogSec=`.
pub fn alive() {
    tell(&[NotifyState::Watchdog]);
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        debug!(%error, "tell systemd");
    }
}
