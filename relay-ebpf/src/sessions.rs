//! The session table: a flat array, in which a receiver index has a few slots in a row. A look-up touches one cache line
//! in most cases, whatever the table's size (docs/architecture.md says how it is written).

use core::sync::atomic::{Ordering, compiler_fence};

use relay_ebpf::tables::{Session, WINDOW};

use crate::maps::{SESSIONS, home};

/// The session with this receiver index, if there is one.
#[inline(always)]
pub fn find(index: u32) -> Option<*mut Session> {
    let home = home(index);
    let slot = SESSIONS.get_ptr_mut(home)?;
    if index == 0 {
        None
    } else if holds(slot, index) {
        Some(slot)
    } else {
        let slot = find_further(index, home);
        (!slot.is_null()).then_some(slot)
    }
}

/// Looks into the rest of the window; null if it isn't there. A function of its own, so that the way to what is found at
/// once stays short.
#[inline(never)]
fn find_further(index: u32, home: u32) -> *mut Session {
    for n in 1..WINDOW {
        match SESSIONS.get_ptr_mut(home + n) {
            Some(slot) if holds(slot, index) => return slot,
            _ => {}
        }
    }
    core::ptr::null_mut()
}

/// Whether the slot is that of the session with this index; then the rest of it may be read.
#[inline(always)]
fn holds(slot: *mut Session, index: u32) -> bool {
    // SAFETY: a map value stays readable as long as the program runs. Volatile, since userspace writes it meanwhile.
    let found = unsafe { (&raw const (*slot).index).read_volatile() };
    // What follows is read after it.
    compiler_fence(Ordering::Acquire);
    found == index
}

/// Counts a packet as the session's. No atomic addition, which costs more than all else that is done to a packet: the
/// packets of one session come from one endpoint, which network cards keep to one queue and so to one CPU.
#[inline(always)]
pub fn count(session: *mut Session, message_len: usize) {
    // SAFETY: `session` is a map value, and `packets` and `bytes` are aligned in it.
    unsafe {
        (*session).packets = (*session).packets.wrapping_add(1);
        (*session).bytes = (*session).bytes.wrapping_add(message_len as u64);
    }
}
