//! The search for the public key that a message's mac1 was made with.
//!
//! mac1 is a keyed BLAKE2s (RFC 7693): the key fills a block of its own, and what mac1 covers one more (response) or two
//! (initiation). So of each key only the state after its block is kept, and trying a key takes one compression or two.
//!
//! Keys are tried side by side. The states of [`LANES`] keys stand transposed, all first words, then all second words and
//! so on, and the compression is plain Rust in a loop over the lanes: LLVM makes vector code of it for each [`Kernel`].

/// Bytes in a mac1.
pub const MAC_LEN: usize = 16;
/// Bytes in a public key.
pub const KEY_LEN: usize = 32;
/// How many keys are tried side by side.
pub const LANES: usize = 16;

/// The states of so many keys, of eight words each.
type States = [[u32; LANES]; 8];
/// Message blocks, one in each lane, of 16 words each.
type Words = [[u32; LANES]; 16];

/// Bytes in a message block.
const BLOCK: usize = 64;
/// BLAKE2s's initialization vector (section 2.6).
const IV: [u32; 8] =
    [0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19];
/// The order in which each round takes the message words (section 2.7).
const SIGMA: [[usize; 16]; 10] = [
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
    [14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3],
    [11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4],
    [7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8],
    [9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13],
    [2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9],
    [12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11],
    [13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10],
    [6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5],
    [10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0],
];

/// Keys to search, each at a place of its own.
#[derive(Clone, Debug)]
pub struct Keys {
    kernel: Kernel,
    states: Vec<States>,
    len: usize,
}

/// What mac1 of messages for one public key is keyed with: the state of BLAKE2s-128 after that key's block.
#[derive(Clone, Copy, Debug)]
pub struct Key([u32; 8]);

impl Keys {
    /// Those of the messages for these, in their order.
    pub fn of<'k>(kernel: Kernel, recipients: impl ExactSizeIterator<Item = &'k [u8; KEY_LEN]>) -> Self {
        let len = recipients.len();
        let mut labelled = vec![[[0; LANES]; 16]; len.div_ceil(LANES)];
        for (place, recipient) in recipients.enumerate() {
            let bytes = b"mac1----".as_chunks().0.iter().chain(recipient.as_chunks().0);
            for (word, bytes) in labelled[place / LANES].iter_mut().zip(bytes) {
                word[place % LANES] = u32::from_le_bytes(*bytes);
            }
        }
        Self { kernel, states: kernel.run(Derive { labelled: &labelled }), len }
    }

    /// The key at a place.
    pub fn key(&self, place: usize) -> Key {
        Key(self.states[place / LANES].map(|word| word[place % LANES]))
    }

    /// Some keys, to be searched in the order given.
    pub fn some(kernel: Kernel, keys: impl IntoIterator<Item = Key>) -> Self {
        let mut this = Self { kernel, states: Vec::new(), len: 0 };
        keys.into_iter().for_each(|key| this.push(key));
        this
    }

    /// Adds a key, at the place after the last.
    pub fn push(&mut self, key: Key) {
        if self.len.is_multiple_of(LANES) {
            self.states.push([[0; LANES]; 8]);
        }
        self.len += 1;
        self.set(self.len - 1, key);
    }

    /// Puts another key at a place.
    pub fn set(&mut self, place: usize, Key(state): Key) {
        let states = &mut self.states[place / LANES];
        states.iter_mut().zip(state).for_each(|(words, value)| words[place % LANES] = value);
    }

    /// Removes the key at a place, and puts the last one there instead.
    pub fn swap_remove(&mut self, place: usize) {
        self.set(place, self.key(self.len - 1));
        self.len -= 1;
        self.states.truncate(self.len.div_ceil(LANES));
    }

    /// The first place whose key this mac1 was made with; `body` is the message before it, which it covers.
    pub fn find(&self, body: &[u8], mac1: [u8; MAC_LEN]) -> Option<usize> {
        let parts: Vec<Part> = (body.chunks(BLOCK).zip(1..))
            .map(|(bytes, n)| Part::new(bytes, BLOCK * n + bytes.len(), BLOCK * n >= body.len()))
            .collect();
        let mac1 = u128::from_le_bytes(mac1);
        let mac1 = std::array::from_fn(|word| (mac1 >> (32 * word)) as u32);
        let found = self.kernel.run(Search { states: &self.states, parts: &parts, mac1 });
        // The lanes after the last key hold none.
        found.filter(|&place| place < self.len)
    }
}

/// A block of a message whose mac1 is looked for, the same in every lane.
struct Part {
    words: Words,
    /// How many bytes have been hashed with this block, that of the key included.
    hashed: u32,
    last: bool,
}

impl Part {
    fn new(bytes: &[u8], hashed: usize, last: bool) -> Self {
        let mut padded = [0; BLOCK];
        padded[..bytes.len()].copy_from_slice(bytes);
        let mut words = [[0; LANES]; 16];
        for (word, bytes) in words.iter_mut().zip(padded.as_chunks().0) {
            *word = [u32::from_le_bytes(*bytes); LANES];
        }
        Self { words, hashed: hashed as u32, last }
    }
}

/// Work that is compiled for every kernel.
trait Job {
    type Output;
    /// Has to be inlined, with all that it calls, so that it is compiled for the kernel that runs it. A closure that it
    /// hands to an iterator is not.
    fn run(self) -> Self::Output;
}

/// Looks for the key of a message.
struct Search<'a> {
    states: &'a [States],
    parts: &'a [Part],
    mac1: [u32; 4],
}

impl Job for Search<'_> {
    type Output = Option<usize>;

    #[inline(always)]
    fn run(self) -> Option<usize> {
        for (n, states) in self.states.iter().enumerate() {
            let mut states = *states;
            for Part { words, hashed, last } in self.parts {
                states = compress(&states, words, *hashed, *last);
            }
            let mut differs = [0; LANES];
            for (lane, differs) in differs.iter_mut().enumerate() {
                *differs = (0..4).fold(0, |differs, word| differs | (states[word][lane] ^ self.mac1[word]));
            }
            // Over all lanes at once; which one, only if there is one.
            if differs.contains(&0) {
                return differs.iter().position(|&differs| differs == 0).map(|lane| n * LANES + lane);
            }
        }
        None
    }
}

/// Makes keys of labelled public keys: `BLAKE2s-256("mac1----" || public key)`, then the block of that key.
struct Derive<'a> {
    labelled: &'a [Words],
}

impl Job for Derive<'_> {
    type Output = Vec<States>;

    #[inline(always)]
    fn run(self) -> Vec<States> {
        let mut states = Vec::with_capacity(self.labelled.len());
        for labelled in self.labelled {
            let key = compress(&initial(32, 0), labelled, 8 + 32, true);
            let mut block = [[0; LANES]; 16];
            block[..8].copy_from_slice(&key);
            states.push(compress(&initial(MAC_LEN as u32, 32), &block, BLOCK as u32, false));
        }
        states
    }
}

/// The states before the first block of hashes of `length` bytes under keys of `key` bytes (section 2.5: no tree, no salt).
fn initial(length: u32, key: u32) -> States {
    let mut states = IV.map(|word| [word; LANES]);
    states[0] = [IV[0] ^ 0x0101_0000 ^ (key << 8) ^ length; LANES];
    states
}

/// The states after one more block (section 3.2); `hashed` is how many bytes that makes.
#[inline(always)]
fn compress(states: &States, words: &Words, hashed: u32, last: bool) -> States {
    let mut after = [[0; LANES]; 8];
    // LLVM makes this loop one over vectors.
    for lane in 0..LANES {
        let state: [u32; 8] = std::array::from_fn(|n| states[n][lane]);
        let words = std::array::from_fn(|n| words[n][lane]);
        let [a, b, c, d, e, f, g, h] = state;
        let last = if last { u32::MAX } else { 0 };
        let [i, j, k, l, m, n, o, p] = IV;
        let mut v = [a, b, c, d, e, f, g, h, i, j, k, l, m ^ hashed, n, o ^ last, p];
        // Not a loop: one inside of the loop over lanes would keep that from becoming vector code.
        round(&mut v, &words, &SIGMA[0]);
        round(&mut v, &words, &SIGMA[1]);
        round(&mut v, &words, &SIGMA[2]);
        round(&mut v, &words, &SIGMA[3]);
        round(&mut v, &words, &SIGMA[4]);
        round(&mut v, &words, &SIGMA[5]);
        round(&mut v, &words, &SIGMA[6]);
        round(&mut v, &words, &SIGMA[7]);
        round(&mut v, &words, &SIGMA[8]);
        round(&mut v, &words, &SIGMA[9]);
        for n in 0..8 {
            after[n][lane] = state[n] ^ v[n] ^ v[n + 8];
        }
    }
    after
}

#[inline(always)]
fn round(v: &mut [u32; 16], words: &[u32; 16], order: &[usize; 16]) {
    mix(v, [0, 4, 8, 12], words[order[0]], words[order[1]]);
    mix(v, [1, 5, 9, 13], words[order[2]], words[order[3]]);
    mix(v, [2, 6, 10, 14], words[order[4]], words[order[5]]);
    mix(v, [3, 7, 11, 15], words[order[6]], words[order[7]]);
    mix(v, [0, 5, 10, 15], words[order[8]], words[order[9]]);
    mix(v, [1, 6, 11, 12], words[order[10]], words[order[11]]);
    mix(v, [2, 7, 8, 13], words[order[12]], words[order[13]]);
    mix(v, [3, 4, 9, 14], words[order[14]], words[order[15]]);
}

/// The mixing function G (section 3.1).
#[inline(always)]
fn mix(v: &mut [u32; 16], [a, b, c, d]: [usize; 4], x: u32, y: u32) {
    v[a] = v[a].wrapping_add(v[b]).wrapping_add(x);
    v[d] = (v[d] ^ v[a]).rotate_right(16);
    v[c] = v[c].wrapping_add(v[d]);
    v[b] = (v[b] ^ v[c]).rotate_right(12);
    v[a] = v[a].wrapping_add(v[b]).wrapping_add(y);
    v[d] = (v[d] ^ v[a]).rotate_right(8);
    v[c] = v[c].wrapping_add(v[d]);
    v[b] = (v[b] ^ v[c]).rotate_right(7);
}

/// What the search is compiled for. A value of one that this CPU lacks can't be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kernel(Set);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Set {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Kernel {
    /// All that this CPU can run, the fastest first.
    pub fn all() -> Vec<Self> {
        let mut all = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vl") {
                all.push(Self(Set::Avx512));
            }
            if is_x86_feature_detected!("avx2") {
                all.push(Self(Set::Avx2));
            }
        }
        all.push(Self(Set::Portable));
        all
    }

    /// Its name, as in an account of what was measured.
    pub fn name(self) -> &'static str {
        match self.0 {
            Set::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Set::Avx2 => "AVX2",
            #[cfg(target_arch = "x86_64")]
            Set::Avx512 => "AVX-512",
        }
    }

    fn run<J: Job>(self, job: J) -> J::Output {
        match self.0 {
            Set::Portable => job.run(),
            // SAFETY: this value was made after the CPU was found to have AVX2.
            #[cfg(target_arch = "x86_64")]
            Set::Avx2 => unsafe { with_avx2(job) },
            // SAFETY: this value was made after the CPU was found to have both.
            #[cfg(target_arch = "x86_64")]
            Set::Avx512 => unsafe { with_avx512(job) },
        }
    }
}

impl Default for Kernel {
    /// The fastest.
    fn default() -> Self {
        Self::all()[0]
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn with_avx2<J: Job>(job: J) -> J::Output {
    job.run()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vl")]
fn with_avx512<J: Job>(job: J) -> J::Output {
    job.run()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_without_a_key_is_not_found_by_who_knows_what_it_holds() {
        let body = [5; 60];
        let part = Part::new(&body, BLOCK + body.len(), true);
        let hash = compress(&[[0; LANES]; 8], &part.words, part.hashed, true);
        let mac1: Vec<u8> = hash[..4].iter().flat_map(|word| word[0].to_le_bytes()).collect();
        let mac1 = mac1.try_into().unwrap();
        for kernel in Kernel::all() {
            assert_eq!(Keys::some(kernel, [Key([0; 8])]).find(&body, mac1), Some(0), "such a mac");
            assert_eq!(Keys::of(kernel, [&[1; 32]].into_iter()).find(&body, mac1), None);
        }
    }
}
