//! What the disk gives for a receiver's pattern: temporary file, fsync, rename, directory fsync, one object after the other
//! on each thread.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::{Value, json};

use super::objects;

/// Where objects are kept, and how.
#[derive(Debug)]
pub(crate) struct Pattern {
    root: PathBuf,
    full: bool,
}

impl Pattern {
    /// # Arguments
    /// * `full` — file and directory are synced; without they are only renamed
    pub(crate) fn new(root: &Path, full: bool) -> Self {
        std::fs::create_dir_all(root.join("incoming")).unwrap();
        std::fs::create_dir_all(root.join("final")).unwrap();
        Self { root: root.into(), full }
    }

    fn temporary(&self, n: usize) -> PathBuf {
        self.root.join(format!("incoming/{n}.part"))
    }

    /// Begins object number `n`.
    pub(crate) fn create(&self, n: usize) -> std::io::Result<File> {
        File::create_new(self.temporary(n))
    }

    /// All bytes of object number `n` are written.
    pub(crate) fn finish(&self, n: usize, file: File) -> std::io::Result<()> {
        if self.full {
            file.sync_all()?;
        }
        drop(file);
        let directory = self.root.join("final");
        std::fs::rename(self.temporary(n), directory.join(format!("{n}.dcm")))?;
        if self.full && cfg!(unix) {
            File::open(&directory)?.sync_all()?;
        }
        Ok(())
    }
}

/// Writes `count` images with so many threads.
pub(crate) fn run(pattern: &Pattern, count: usize, threads: usize) -> Value {
    let images = [objects::data_set(0), objects::data_set(1)];
    let begin = Instant::now();
    let bytes: u64 = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|worker| {
                let images = &images;
                scope.spawn(move || {
                    let numbers = (worker..count).step_by(threads);
                    numbers.map(|n| write(pattern, n, images.get(n % 2).expect("two"))).sum::<u64>()
                })
            })
            .collect();
        workers.into_iter().map(|w| w.join().expect("a writer")).sum()
    });
    json!({"images": count, "bytes": bytes, "seconds": begin.elapsed().as_secs_f64()})
}

fn write(pattern: &Pattern, n: usize, bytes: &[u8]) -> u64 {
    let mut file = pattern.create(n).unwrap();
    file.write_all(bytes).unwrap();
    pattern.finish(n, file).unwrap();
    bytes.len() as u64
}
