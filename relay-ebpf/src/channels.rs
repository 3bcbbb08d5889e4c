//! The table of channels: flat, like that of sessions.

use core::sync::atomic::{Ordering, compiler_fence};

use relay_ebpf::tables::{CHANNEL_WINDOW, Channel, channel_home};

use crate::maps::CHANNELS;

/// The direction of a channel with this key, if there is one.
#[inline(always)]
pub fn find(key: u64) -> Option<*mut Channel> {
    let home = channel_home(key);
    let slot = CHANNELS.get_ptr_mut(home)?;
    if holds(slot, key) {
        return Some(slot);
    }
    let slot = find_further(key, home);
    (!slot.is_null()).then_some(slot)
}

/// Looks into the rest of the window; null if it isn't there.
#[inline(never)]
fn find_further(key: u64, home: u32) -> *mut Channel {
    for n in 1..CHANNEL_WINDOW {
        match CHANNELS.get_ptr_mut(home + n) {
            Some(slot) if holds(slot, key) => return slot,
            _ => {}
        }
    }
    core::ptr::null_mut()
}

/// Whether the slot is that of the direction with this key; then the rest of it may be read.
#[inline(always)]
fn holds(slot: *mut Channel, key: u64) -> bool {
    // SAFETY: a map value stays readable as long as the program runs. Volatile, since userspace writes it meanwhile.
    let found = unsafe { (&raw const (*slot).key).read_volatile() };
    // What follows is read after it.
    compiler_fence(Ordering::Acquire);
    found == key
}

/// Counts a packet. As with sessions, no atomic addition.
#[inline(always)]
pub fn count(channel: *mut Channel, data_len: usize) {
    // SAFETY: `channel` is a map value, and `packets` and `bytes` are aligned in it.
    unsafe {
        (*channel).packets = (*channel).packets.wrapping_add(1);
        (*channel).bytes = (*channel).bytes.wrapping_add(data_len as u64);
    }
}
