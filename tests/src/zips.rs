//! Diagnostics zips as a linac's share holds them: records, and much else.

use std::io::{Seek, Write};

use sha2::{Digest, Sha256};
use trf_core::writer::{NewRecord, NewRow};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

/// A record of so many rows, made different by `n`.
pub fn record(n: u32, rows: usize) -> Vec<u8> {
    let mut record = NewRecord::agility(trf_core::Version::V3);
    record.field = format!("{n}-1/QA {n}");
    let items = record.items.len();
    record.rows = (0..rows)
        .map(|row| {
            let timestamp_ms = 1_600_000_000_000 + 40 * i64::try_from(row).unwrap();
            let value = |item: usize| i32::try_from((row * 7 + item * 13 + n as usize) % 3000).unwrap();
            NewRow { timestamp_ms, values: (0..items).map(value).collect() }
        })
        .collect();
    record.to_bytes().unwrap()
}

/// Bytes that deflate cannot shorten.
pub fn noise(seed: u64) -> impl Iterator<Item = u8> {
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    std::iter::repeat_with(move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        u8::try_from(state >> 56).unwrap()
    })
}

/// Writes a zip: `noise_bytes` of other files, then the records under `TCS/logs`.
pub fn write(to: impl Write + Seek, noise_bytes: usize, records: impl Iterator<Item = (String, Vec<u8>)>) {
    let mut zip = ZipWriter::new(to);
    let with = |method| SimpleFileOptions::default().compression_method(method);
    let mut left = noise_bytes;
    let block: Vec<u8> = noise(7).take(1 << 20).collect();
    for n in 0.. {
        if left == 0 {
            break;
        }
        zip.start_file(format!("TCS/dump/{n}.bin"), with(CompressionMethod::Stored)).unwrap();
        let bytes = left.min(16 << 20);
        for start in (0..bytes).step_by(block.len()) {
            let part = block.len().min(bytes - start);
            zip.write_all(block.get(..part).unwrap()).unwrap();
        }
        left -= bytes;
    }
    for (name, bytes) in records {
        zip.start_file(format!("TCS/logs/{name}"), with(CompressionMethod::Deflated)).unwrap();
        zip.write_all(&bytes).unwrap();
    }
    zip.finish().unwrap();
}

/// A zip in memory: see [`write()`].
pub fn zip_of(noise_bytes: usize, records: impl Iterator<Item = (String, Vec<u8>)>) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    write(&mut bytes, noise_bytes, records);
    bytes.into_inner()
}

/// SHA-256, hex.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
