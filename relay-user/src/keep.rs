//! What becomes of what forwards when this process ends: it goes, or it is kept for the next start.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::Relaxed},
};

/// Whether program, maps and interface are left in place. Clones say the same.
#[derive(Clone, Debug)]
pub struct Keep {
    /// By the command line, whatever the configuration says.
    asked: bool,
    /// By the configuration, which may change meanwhile.
    configured: Arc<AtomicBool>,
    /// There is something to keep.
    forwarding: Arc<AtomicBool>,
}

impl Keep {
    /// As the command line and the configuration have it.
    pub fn new(asked: bool, configured: Option<bool>) -> Self {
        let this = Self { asked, configured: Arc::default(), forwarding: Arc::default() };
        this.configure(configured);
        this
    }

    /// The configuration says this now; if it says nothing, what systemd started is kept.
    pub fn configure(&self, configured: Option<bool>) {
        self.configured.store(configured.unwrap_or_else(started_by_systemd), Relaxed);
    }

    /// The relay forwards: from now on there is something to keep. What a start that fails has made never is.
    pub fn forwarding(&self) {
        self.forwarding.store(true, Relaxed);
    }

    /// Whether all is to be left in place if the process ends now.
    pub fn leaves(&self) -> bool {
        self.forwarding.load(Relaxed) && (self.asked || self.configured.load(Relaxed))
    }
}

/// Whether this process is that of a systemd service.
fn started_by_systemd() -> bool {
    let (notify, exec_pid) = (std::env::var_os("NOTIFY_SOCKET"), std::env::var("SYSTEMD_EXEC_PID").ok());
    is_service(notify.is_some(), exec_pid.as_deref(), std::process::id())
}

/// The same by what systemd tells a service: where it wants notices, and the id of its process. (INVOCATION_ID would not
/// do: whatever a service starts, a shell too, inherits it.)
fn is_service(notify: bool, exec_pid: Option<&str>, own: u32) -> bool {
    let own = own.to_string();
    notify || exec_pid == Some(own.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_kept_before_there_is_anything() {
        let keep = Keep::new(true, None);
        assert!(!keep.leaves());
        keep.clone().forwarding();
        assert!(keep.leaves());
    }

    #[test]
    fn a_service_is_known_by_its_process_and_not_by_what_it_has_started() {
        assert!(is_service(true, None, 7) && is_service(false, Some("7"), 7));
        assert!(!is_service(false, Some("6"), 7) && !is_service(false, None, 7));
    }

    #[test]
    fn the_command_line_goes_before_the_configuration_which_may_change() {
        let asked = Keep::new(true, Some(false));
        asked.forwarding();
        assert!(asked.leaves());
        let keep = Keep::new(false, Some(false));
        keep.forwarding();
        assert!(!keep.leaves());
        keep.configure(Some(true));
        assert!(keep.leaves());
    }
}
