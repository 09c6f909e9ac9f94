//! Zips that are meant to harm, damaged ones, and unusual but honest ones.

use std::io::{Cursor, Write};

use proptest::prelude::*;
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use super::*;

const EOCD: &[u8] = b"PK\x05\x06";
const CENTRAL: &[u8] = b"PK\x01\x02";

fn stored() -> SimpleFileOptions {
    SimpleFileOptions::default().compression_method(CompressionMethod::Stored)
}

fn deflated() -> SimpleFileOptions {
    SimpleFileOptions::default().compression_method(CompressionMethod::Deflated)
}

fn zip_of(members: &[(&str, &[u8])], options: SimpleFileOptions) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes) in members {
        zip.start_file(*name, options).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

/// Where the `n`th (from 0) central header begins.
fn central(zip: &[u8], n: usize) -> usize {
    zip.windows(4).enumerate().filter(|(_, w)| *w == CENTRAL).nth(n).unwrap().0
}

fn in_file<T>(zip: &[u8], use_it: impl FnOnce(&Path) -> T) -> T {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("SDD+1.zip");
    std::fs::write(&path, zip).unwrap();
    use_it(&path)
}

/// Each record's name, and its bytes or the reason why not.
type Found = Vec<(String, Result<Vec<u8>, String>)>;

fn records(zip: &[u8]) -> Result<Found> {
    in_file(zip, |path| {
        examine(path)?;
        let mut found = Found::new();
        each_record(path, |member, content| {
            let mut bytes = Vec::new();
            let read = content.read_to_end(&mut bytes);
            let result = read.map(|_| bytes).map_err(|error| damage(&error).expect("damage, not the disk"));
            found.push((member.file_name.clone(), result));
            Ok(())
        })?;
        Ok(found)
    })
}

fn refusal(zip: &[u8]) -> String {
    let error = in_file(zip, examine).expect_err("it must be refused");
    assert!(!matches!(error, Error::Io { .. }), "{error}");
    assert!(!error.hint().is_empty());
    error.to_string()
}

#[test]
fn names_that_lead_elsewhere_are_refused_on_every_system() {
    for (name, reason) in [
        ("../x.trf", "a name with `..` (member 2)"),
        ("a/../../x.trf", "`..`"),
        (r"a\..\..\x.trf", "`..`"),
        ("/etc/x.trf", "an absolute name"),
        (r"\\host\share\x.trf", "an absolute name"),
        ("C:x.trf", "a name with a drive"),
        ("x.trf\0.txt", "a NUL"),
        ("../not-even-a-record", "`..`"),
    ] {
        // The writer cleans names; so a name of the same length is overwritten.
        let clean = "n".repeat(name.len());
        let mut zip = zip_of(&[("good.trf", b"1"), (&clean, b"2")], stored());
        let places: Vec<usize> =
            (0..zip.len() - clean.len()).filter(|at| zip[*at..].starts_with(clean.as_bytes())).collect();
        assert!(places.len() >= 2);
        for at in places {
            zip[at..at + name.len()].copy_from_slice(name.as_bytes());
        }
        let found = refusal(&zip);
        assert!(found.contains(reason), "{name:?}: {found}");
        assert!(!found.contains("etc"), "the reason shows the name: {found}");
    }
}

#[test]
fn links_duplicates_and_overlaps_are_refused() {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    zip.add_symlink("x.trf", "/etc/passwd", stored()).unwrap();
    assert!(refusal(&zip.finish().unwrap().into_inner()).contains("a link"));

    let mut twice = zip_of(&[("a.trf", b"1"), ("b.trf", b"2")], stored());
    let at = central(&twice, 1) + 46;
    twice[at..at + 5].copy_from_slice(b"A.trf");
    assert!(refusal(&twice).contains("the name of an earlier member (member 2)"));

    // Both entries point at the same bytes: how a small zip holds terabytes.
    let mut overlapping = zip_of(&[("a.trf", b"1"), ("b.trf", b"2")], stored());
    let at = central(&overlapping, 1) + 42;
    overlapping[at..at + 4].copy_from_slice(&[0; 4]);
    assert!(refusal(&overlapping).contains("overlapping"));
}

#[test]
fn bombs_are_refused_by_what_they_say_or_stopped_at_it() {
    // A megabyte of zeros that says it is 4 GB less one, and one that says it is ten bytes.
    let honest = zip_of(&[("x.trf", &vec![0; 1 << 20])], deflated());
    let size_at = central(&honest, 0) + 24;
    let says = |bytes: u32| {
        let mut zip = honest.clone();
        zip[size_at..size_at + 4].copy_from_slice(&bytes.to_le_bytes());
        zip
    };
    assert!(refusal(&says(0xffff_fffe)).contains("limit of 2147483648"));
    assert!(refusal(&says(0x7000_0000)).contains("a size that deflate can reach"));
    let found = records(&says(10)).unwrap();
    let reason = found[0].1.as_ref().unwrap_err();
    assert!(reason.contains("larger than its declared uncompressed size"), "{reason}");
    let reason = records(&says((1 << 20) + 5)).unwrap()[0].1.clone().unwrap_err();
    assert!(reason.contains("5 bytes are missing") || reason.contains("damaged"), "{reason}");
}

#[test]
fn a_directory_that_lists_more_than_it_holds_is_refused() {
    let mut zip = zip_of(&[("x.trf", b"1")], stored());
    let at = zip.windows(4).rposition(|w| w == EOCD).unwrap() + 8;
    zip[at..at + 4].copy_from_slice(&[0xfe, 0xff, 0xfe, 0xff]);
    let found = refusal(&zip);
    assert!(found.contains("diagnostics zip"), "{found}");
}

#[test]
fn encryption_and_other_compressions_are_named() {
    let mut zip = zip_of(&[("x.trf", b"12345")], stored());
    let flags = central(&zip, 0) + 8;
    zip[flags] |= 1;
    assert!(refusal(&zip).contains("an encrypted record in the zip (member 1)"));
    let mut zip = zip_of(&[("x.trf", b"12345")], stored());
    let method = central(&zip, 0) + 10;
    zip[method] = 12;
    assert!(refusal(&zip).contains("the compression of a record"));
    // What is no record may be as it likes.
    let mut zip = zip_of(&[("x.log", b"12345"), ("y.trf", b"1")], stored());
    let method = central(&zip, 0) + 10;
    zip[method] = 12;
    assert_eq!(records(&zip).unwrap(), [("y.trf".to_owned(), Ok(b"1".to_vec()))]);
}

#[test]
fn what_is_no_zip_is_refused() {
    for bytes in [&b""[..], b"PK", b"Rar!\x1a\x07\x00", &[0; 100_000]] {
        assert!(refusal(bytes).contains("expected a whole zip"));
        assert!(!in_file(bytes, has_end));
    }
    assert!(in_file(&zip_of(&[("x.trf", b"1")], stored()), has_end));
}

#[test]
fn zip64_is_read() {
    // More members than 16 bits count, and sizes in the 64-bit field.
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    for n in 0..65_600 {
        zip.start_file(format!("logs/{n}.txt"), stored()).unwrap();
    }
    zip.start_file("x.trf", deflated().large_file(true)).unwrap();
    zip.write_all(b"record").unwrap();
    let zip = zip.finish().unwrap().into_inner();
    assert_eq!(records(&zip).unwrap(), [("x.trf".to_owned(), Ok(b"record".to_vec()))]);
}

#[test]
fn too_many_members_are_refused_before_they_are_read() {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    for n in 0..=MAX_MEMBERS {
        zip.start_file(format!("{n}"), stored()).unwrap();
    }
    assert!(refusal(&zip.finish().unwrap().into_inner()).contains("more than the limit of 200000"));
}

#[test]
fn names_become_file_names_that_every_system_takes() {
    let long = format!("{}.trf", "x".repeat(400));
    for (name, expected) in [
        ("a/b/17_04_19 21_59_24 Z 2-2_DIR SCALP.trf", "17_04_19 21_59_24 Z 2-2_DIR SCALP.trf"),
        (r"a\b\x.TRF", "x.trf"),
        ("a:b?.trf", "a_b_.trf"),
        ("con.trf", "_con.trf"),
        ("COM1.x.trf", "_COM1.x.trf"),
        (".trf", "_.trf"),
        ("Süd 1.trf", "Süd 1.trf"),
    ] {
        assert_eq!(file_name(name), expected);
    }
    let cut = file_name(&long);
    assert!(cut.len() < 220 && cut.starts_with("xxx") && cut.contains('~') && cut.ends_with(".trf"));
    assert_ne!(cut, file_name(&format!("{}y.trf", "x".repeat(400))));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Any byte changed or any cut: a refusal, a damaged record, or the record as it was. Never other bytes.
    #[test]
    fn damage_never_passes_for_a_record(at in 0.0..1.0_f64, bit in 0..8_u32, cut in any::<bool>()) {
        let content: Vec<u8> = (0..2000_u32).map(|n| (n * n % 251) as u8).collect();
        let mut zip = zip_of(&[("a.log", b"log"), ("x.trf", &content)], deflated());
        let place = (at * zip.len() as f64) as usize;
        if cut { zip.truncate(place) } else { zip[place] ^= 1 << bit }
        if let Ok(found) = records(&zip) {
            for (_, result) in found {
                if let Ok(bytes) = result {
                    prop_assert!(bytes == content || bytes == b"log", "other bytes passed");
                }
            }
        }
    }
}
