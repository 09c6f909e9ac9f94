//! What the disk gives for a receiver's pattern: temporary file, fsync, rename, directory fsync, one object after the other
//! on each thread.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::Instant;

use serde_json::{Value, json};

use super::objects;

/// Writes `count` images with so many threads; with `full` they are synced, without they are only renamed.
pub(crate) fn run(root: &Path, count: usize, threads: usize, full: bool) -> Value {
    let images = [objects::data_set(0), objects::data_set(1)];
    std::fs::create_dir_all(root.join("incoming")).unwrap();
    std::fs::create_dir_all(root.join("final")).unwrap();
    let begin = Instant::now();
    let bytes: u64 = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|worker| {
                let images = &images;
                scope.spawn(move || {
                    let numbers = (worker..count).step_by(threads);
                    numbers.map(|n| write(root, n, images.get(n % 2).expect("two"), full)).sum::<u64>()
                })
            })
            .collect();
        workers.into_iter().map(|w| w.join().expect("a writer")).sum()
    });
    json!({"images": count, "bytes": bytes, "seconds": begin.elapsed().as_secs_f64()})
}

fn write(root: &Path, n: usize, bytes: &[u8], full: bool) -> u64 {
    let temporary = root.join(format!("incoming/{n}.part"));
    let mut file = File::create_new(&temporary).unwrap();
    file.write_all(bytes).unwrap();
    if full {
        file.sync_all().unwrap();
    }
    let directory = root.join("final");
    std::fs::rename(&temporary, directory.join(format!("{n}.dcm"))).unwrap();
    if full && cfg!(unix) {
        File::open(&directory).unwrap().sync_all().unwrap();
    }
    bytes.len() as u64
}
