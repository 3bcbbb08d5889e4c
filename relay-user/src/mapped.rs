//! BPF arrays in this process's own memory: made with BPF_F_MMAPABLE, they are read and written without system calls.

use std::{
    marker::PhantomData,
    os::fd::{AsFd as _, AsRawFd as _},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use anyhow::{Context as _, Result, bail, ensure};
use aya::maps::Map;
use memmap2::{MmapOptions, MmapRaw};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// An array whose values are `T`, which the XDP program reads and writes at the same time. So its values are touched by
/// words, each of which is always whole.
pub struct Mapped<T> {
    memory: MmapRaw,
    len: u32,
    values: PhantomData<T>,
}

impl<T: FromBytes + IntoBytes + Immutable> Mapped<T> {
    /// How many words a value has.
    const WORDS: usize = size_of::<T>() / size_of::<u64>();

    /// Maps the array into memory, where it stays when `map` is closed.
    ///
    /// # Errors
    /// If it is no array, its values are not as large as a `T`, or the kernel does not map it.
    pub fn new(map: &Map) -> Result<Self> {
        const { assert!(size_of::<T>() > 0 && size_of::<T>().is_multiple_of(size_of::<u64>())) };
        let Map::Array(map) = map else { bail!("a map of the BPF object is no array") };
        let info = map.info().context("look at a BPF array")?;
        ensure!(info.value_size() as usize == size_of::<T>(), "a BPF array has values of another size");
        let len = info.max_entries();
        let memory = MmapOptions::new()
            .len(len as usize * size_of::<T>())
            .map_raw(map.fd().as_fd().as_raw_fd())
            .context("map a BPF array into memory (its BPF_F_MMAPABLE needs Linux 5.5)")?;
        Ok(Self { memory, len, values: PhantomData })
    }

    /// How many values it has.
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The words of a value.
    ///
    /// # Panics
    /// If there is no such value.
    pub fn words(&self, at: u32) -> &[AtomicU64] {
        assert!(at < self.len, "value {at} of {}", self.len);
        // SAFETY: the values lie in the mapped memory one after the other (their size is a multiple of eight, to which the
        // kernel rounds), which is aligned to pages, lives as long as `self` and is touched through atomic words only.
        unsafe {
            let first = self.memory.as_mut_ptr().cast::<AtomicU64>().add(at as usize * Self::WORDS);
            std::slice::from_raw_parts(first, Self::WORDS)
        }
    }

    /// A value as it stands. Of one that is being written its words may be of different times.
    pub fn read(&self, at: u32) -> T {
        let mut value = T::new_zeroed();
        let bytes = value.as_mut_bytes().chunks_exact_mut(size_of::<u64>());
        for (bytes, word) in bytes.zip(self.words(at)) {
            bytes.copy_from_slice(&word.load(Relaxed).to_ne_bytes());
        }
        value
    }

    /// Writes a value.
    pub fn set(&self, at: u32, value: &T) {
        self.write(at, value, 0..Self::WORDS);
    }

    /// Writes some words of a value.
    pub fn write(&self, at: u32, value: &T, words: impl IntoIterator<Item = usize>) {
        let slot = self.words(at);
        for n in words {
            slot[n].store(word(value, n), Relaxed);
        }
    }
}

/// A word of a value.
pub fn word<T: IntoBytes + Immutable>(value: &T, n: usize) -> u64 {
    let bytes = &value.as_bytes()[n * size_of::<u64>()..][..size_of::<u64>()];
    u64::from_ne_bytes(bytes.try_into().expect("eight bytes"))
}
