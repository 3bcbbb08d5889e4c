//! Admission: how much of what goes to the relay port gets any further, to userspace or to WireGuard's socket. That socket
//! is where hosts register, so a flood in its buffer would cost them their keepalives.
//!
//! A known endpoint pays from its own buckets, whatever others do: that costs one look-up. An unknown source pays from its
//! own and from the ones of all unknown sources together. It gets into the table of sources only if it is admitted, so
//! however many there are, the table changes no faster than that.

use aya_ebpf::{helpers::bpf_ktime_get_boot_ns, maps::lpm_trie::Key};
use relay_ebpf::{
    bucket::{ADMISSION_DEPTH_NS, Bucket},
    tables::{
        self, ALLOWED, Address, Buckets, Class, DENIED, Endpoint, NOT_ALLOWED, Rate, RateBuckets, Session,
        Source,
    },
};

use crate::maps::{BUDGETS, ENDPOINTS, PREFIXES, RATES, SOURCES};

/// Whether a packet is admitted.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Admission {
    /// Yes: it comes from a member's or another relay's endpoint.
    Known,
    /// Yes, though its source is unknown.
    Unknown,
    /// No: the endpoint has used up its budget.
    KnownOverBudget,
    /// No: the source has used up its budget.
    SourceOverBudget,
    /// No: all unknown sources together have used up theirs.
    UnknownOverBudget,
    /// No: the source is on the deny list.
    Denied,
    /// No: it is not on the allow list.
    NotAllowed,
}

/// Whether a packet from `source` is admitted; if so, it is paid for.
#[inline(never)]
pub fn admit(source: &Endpoint, class: Class) -> Admission {
    let Some(budgets) = BUDGETS.get_ptr_mut(0) else { return Admission::Unknown };
    let now = now();
    if let Some(known) = ENDPOINTS.get_ptr_mut(source) {
        // SAFETY: a map value stays there as long as the program runs. Userspace writes the costs and ids as whole words.
        let (costs, buckets) = unsafe {
            let costs = if (*known).member == 0 { &(*budgets).relay } else { &(*budgets).member };
            (costs, &raw mut (*known).buckets)
        };
        let bucket = of_class(buckets, class);
        return if take(bucket, now, costs.of(class), ADMISSION_DEPTH_NS) {
            Admission::Known
        } else {
            Admission::KnownOverBudget
        };
    }
    match prefix_verdict(source.address) {
        DENIED => return Admission::Denied,
        NOT_ALLOWED => return Admission::NotAllowed,
        _ => {}
    }
    // SAFETY: as above.
    let (cost, all_cost, all) = unsafe {
        let all = of_class(&raw mut (*budgets).buckets, class);
        ((*budgets).source.of(class), (*budgets).unknown.of(class), all)
    };
    let key = tables::source_key(source.address);
    let Some(source) = SOURCES.get_ptr_mut(key) else {
        if !take(all, now, all_cost, ADMISSION_DEPTH_NS) {
            return Admission::UnknownOverBudget;
        }
        // The first of a source costs as much as any other, but a new bucket is full.
        let paid = Bucket { full_at_ns: now + cost };
        let buckets = match class {
            Class::Signal => Buckets { signal: paid, ..Buckets::default() },
            Class::Bulk => Buckets { bulk: paid, ..Buckets::default() },
        };
        // Where there is no room for it, it is new once more the next time.
        let _ = SOURCES.insert(key, Source { buckets, admitted: 1, dropped: 0, seen_ns: now }, 0);
        return Admission::Unknown;
    };
    // SAFETY: as above. The counters are for people: of two CPUs that count at once one may not be counted.
    unsafe {
        (*source).seen_ns = now;
        let own = of_class(&raw mut (*source).buckets, class);
        // Asked first and paid last: who is refused for the others' sake pays nothing.
        let after = own.read_volatile().after(now, cost, ADMISSION_DEPTH_NS);
        let admission = match after {
            None => Admission::SourceOverBudget,
            Some(_) if !take(all, now, all_cost, ADMISSION_DEPTH_NS) => Admission::UnknownOverBudget,
            Some(after) => {
                own.write_volatile(after);
                (*source).admitted += 1;
                return Admission::Unknown;
            }
        };
        (*source).dropped += 1;
        admission
    }
}

/// What the prefix lists say of an address.
#[inline(always)]
fn prefix_verdict(address: Address) -> u64 {
    let key = tables::prefix_key(address, 128);
    // SAFETY: both are as large, of plain bytes, and a `Key` has no alignment. (Made of words, see `tables`.)
    let key = unsafe { &*(&raw const key).cast::<Key<[u8; 20]>>() };
    PREFIXES.get(key).copied().unwrap_or(ALLOWED)
}

/// Whether data of the session with so long a message is within the rate limits of its sender and its receiver; if so, it
/// is paid for.
#[inline(never)]
pub fn within_rates(session: &Session, message_len: u16) -> bool {
    let now = now();
    // SAFETY: a map value stays there as long as the program runs. Of a `Rate` nothing but the buckets changes while a
    // session names it.
    unsafe {
        let Some(sent) = Paid::by(session.sender_rate, |rate| &raw mut (*rate).sent, now, message_len) else {
            return false;
        };
        let receiver = session.receiver_rate;
        let Some(received) = Paid::by(receiver, |rate| &raw mut (*rate).received, now, message_len) else {
            return false;
        };
        // Nobody pays for what does not pass.
        sent.settle();
        received.settle();
    }
    true
}

/// Whether so much data of a TURN user's channel is within its limit; if so, it is paid for.
#[inline(never)]
pub fn within_rate(id: u16, from_client: bool, data_len: u16) -> bool {
    // SAFETY: as in `within_rates`.
    unsafe {
        let buckets =
            |rate: *mut Rate| if from_client { &raw mut (*rate).sent } else { &raw mut (*rate).received };
        let Some(paid) = Paid::by(id, buckets, now(), data_len) else { return false };
        paid.settle();
    }
    true
}

/// What one side is to pay.
struct Paid {
    buckets: *mut RateBuckets,
    after: RateBuckets,
}

impl Paid {
    /// `None` if it can't. Nobody has no limit.
    ///
    /// # Safety
    /// `buckets` gives those of the entry.
    #[inline(always)]
    unsafe fn by(
        id: u16,
        buckets: impl FnOnce(*mut Rate) -> *mut RateBuckets,
        now: u64,
        message_len: u16,
    ) -> Option<Self> {
        let rate = if id == 0 { None } else { RATES.get_ptr_mut(id.into()) };
        let Some(rate) = rate else {
            return Some(Self { buckets: core::ptr::null_mut(), after: RateBuckets::default() });
        };
        let buckets = buckets(rate);
        // SAFETY: as the caller says. The words are read as volatile, since other CPUs write them.
        let after = unsafe { (*rate).after(buckets.read_volatile(), now, message_len) }?;
        Some(Self { buckets, after })
    }

    /// Pays.
    ///
    /// # Safety
    /// The program must still run that has made it.
    #[inline(always)]
    unsafe fn settle(self) {
        if !self.buckets.is_null() {
            // SAFETY: as the caller says, it is a map value.
            unsafe { self.buckets.write_volatile(self.after) };
        }
    }
}

#[inline(always)]
fn of_class(buckets: *mut Buckets, class: Class) -> *mut Bucket {
    // SAFETY: `buckets` points to a value, of which no reference is made here.
    unsafe {
        match class {
            Class::Signal => &raw mut (*buckets).signal,
            Class::Bulk => &raw mut (*buckets).bulk,
        }
    }
}

/// Takes something out of a bucket; `false` if it does not hold so much. Volatile, since other CPUs do the same meanwhile
/// ([`relay_ebpf::bucket`] says what comes of that).
#[inline(always)]
fn take(bucket: *mut Bucket, now: u64, cost: u64, depth: u64) -> bool {
    // SAFETY: `bucket` is a word in a map value.
    match unsafe { bucket.read_volatile() }.after(now, cost, depth) {
        Some(after) => {
            // SAFETY: as above.
            unsafe { bucket.write_volatile(after) };
            true
        }
        None => false,
    }
}

#[inline(always)]
fn now() -> u64 {
    // SAFETY: a helper without arguments or conditions.
    unsafe { bpf_ktime_get_boot_ns() }
}
