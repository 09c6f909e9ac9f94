//! What reading costs in memory: a small multiple of the file, whatever its lengths and counts claim.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use trf_core::writer::{NewRecord, NewRow};
use trf_core::{Record, Version};

/// The system's allocator, which remembers the most that was in use.
struct Counting;

static IN_USE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

#[expect(unsafe_code, reason = "an allocator is unsafe by nature; this one only counts")]
// SAFETY: every call is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = IN_USE.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(now, Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        IN_USE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Bytes that any reading may take: names of columns, threads, errors.
const BASE_BYTES: usize = 1 << 20;

/// Most that `work` had in use beyond what was in use before.
fn peak(work: impl FnOnce()) -> usize {
    let before = IN_USE.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    work();
    PEAK.load(Ordering::Relaxed).saturating_sub(before)
}

/// Reads and decodes everything that a file has.
fn read(path: &std::path::Path) {
    if let Ok(record) = Record::open(path) {
        assert_eq!(record.table().n_rows(), record.n_rows());
    }
}

/// One test, because the allocator is one for all threads.
#[test]
fn memory_is_a_small_multiple_of_the_file() {
    let directory = tempfile::tempdir().unwrap();
    for version in [Version::V1, Version::V2, Version::V3, Version::V4] {
        let mut new = NewRecord::agility(version);
        let values = vec![7; new.items.len()];
        new.rows = vec![NewRow { timestamp_ms: 0, values }; 10_000];
        let path = directory.path().join("many.trf");
        let bytes = new.to_bytes().unwrap();
        let (file, table) = (bytes.len(), new.rows.len() * new.items.len() * size_of::<f64>());
        std::fs::write(&path, bytes).unwrap();
        let used = peak(|| read(&path));
        assert!(used <= file + table + BASE_BYTES, "{version:?}: {used} bytes for a file of {file}");
    }
    // Lengths and counts of up to 2 GiB in small files.
    let good = NewRecord::agility(Version::V3).to_bytes().unwrap();
    let path = directory.path().join("hostile.trf");
    for at in 0..good.len() {
        let mut bytes = good.clone();
        let end = bytes.len().min(at + 4);
        bytes[at..end].fill(0xff);
        std::fs::write(&path, &bytes).unwrap();
        let used = peak(|| read(&path));
        assert!(
            used <= 8 * bytes.len() + BASE_BYTES,
            "byte {at}: {used} bytes for a file of {}",
            bytes.len()
        );
    }
}
