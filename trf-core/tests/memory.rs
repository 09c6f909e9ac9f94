//! What reading costs in memory: a small multiple of the file, whatever its lengths and counts claim.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a set-up that fails fails its test")]

#[path = "physics/made.rs"]
mod made;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use trf_core::rtplan::{RtPlan, Scope};
use trf_core::writer::NewRecord;
use trf_core::{Error, Record, Version};

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
    let beam = made::sliding_window(200, 0.0, 0.0, 0.25);
    for version in [Version::V1, Version::V2, Version::V3, Version::V4] {
        let path = directory.path().join("many.trf");
        let bytes = made::record(&[&beam; 20], version);
        let (file, table) = (bytes.len(), 4000 * 351 * size_of::<f64>());
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
    let plan = made::plan(&[(1, &made::sliding_window(2, 0.0, 0.0, 1.0))], &["ASYMY"]);
    for at in 0..plan.len() {
        let mut bytes = plan.clone();
        let end = bytes.len().min(at + 4);
        bytes[at..end].fill(0xfe);
        let used =
            peak(|| drop(RtPlan::from_bytes(&bytes).and_then(|plan| plan.delivery(None, Scope::Full))));
        assert!(
            used <= 64 * bytes.len() + BASE_BYTES,
            "byte {at}: {used} bytes for a plan of {}",
            bytes.len()
        );
    }
    // Sequences in sequences, as deep as the file is long: no call for each of them.
    let mut deep = plan[..plan.len() - 16].to_vec();
    for _ in 0..200_000 {
        deep.extend([0x0a, 0x30, 0xb0, 0, b'S', b'Q', 0, 0, 0xff, 0xff, 0xff, 0xff]);
        deep.extend([0xfe, 0xff, 0, 0xe0, 0xff, 0xff, 0xff, 0xff]);
    }
    assert!(matches!(RtPlan::from_bytes(&deep), Err(Error::Limit { .. })));
}
