//! Collecting from directories: what is copied, what goes on after a stop, what is refused, what is kept.

use std::io::Write;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;

use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use super::*;
use crate::writer::NewRecord;

/// A linac's share and our directories.
struct Site {
    dir: tempfile::TempDir,
    options: Options,
}

impl Site {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("share/4299")).unwrap();
        let mut options = Options::new(dir.path().join("trf"));
        options.keep_free_bytes = 0;
        Self { dir, options }
    }

    fn share(&self, linac: &str) -> PathBuf {
        self.dir.path().join("share").join(linac)
    }

    fn put(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.share("4299").join(name), bytes).unwrap();
    }

    fn linac(&self, name: &str) -> Linac {
        Linac { name: name.into(), share: Some(Ok(Share::Path(self.share(name)))) }
    }

    fn run(&self, steps: Steps) -> LinacRun {
        self.run_with(steps, &(Arc::new(|_: &str, _: &Progress| {}) as Watch), &CancellationToken::new())
    }

    fn run_with(&self, steps: Steps, watch: &Watch, cancel: &CancellationToken) -> LinacRun {
        let mut collected = collect(vec![self.linac("4299")], &self.options, steps, watch, cancel);
        assert_eq!(collected.linacs.len(), 1);
        collected.linacs.remove(0)
    }

    /// Files below our root, relative, with their sizes; without what is remembered.
    fn files(&self) -> Vec<String> {
        fn walk(directory: &Path, found: &mut Vec<PathBuf>) {
            for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
                if entry.path().is_dir() { walk(&entry.path(), found) } else { found.push(entry.path()) }
            }
        }
        let mut found = Vec::new();
        walk(&self.options.root, &mut found);
        let mut names: Vec<String> = (found.iter())
            .map(|path| path.strip_prefix(&self.options.root).unwrap().to_str().unwrap().replace('\\', "/"))
            .filter(|name| !name.starts_with("diagnostics/state/"))
            .collect();
        names.sort();
        names
    }
}

fn record(field: &str) -> Vec<u8> {
    NewRecord { field: field.into(), ..NewRecord::agility(crate::Version::V3) }.to_bytes().unwrap()
}

/// A zip with these members, and half a megabyte that deflate cannot shorten.
fn zip_of(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut zip = ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let deflated = SimpleFileOptions::default().compression_method(CompressionMethod::Deflated);
    zip.start_file("logs/system.bin", deflated).unwrap();
    let mut state = 1_u64;
    let noise = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    });
    zip.write_all(&noise.take(500_000).collect::<Vec<_>>()).unwrap();
    for (name, bytes) in members {
        zip.start_file(*name, deflated).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

#[test]
fn records_come_from_the_share_to_the_index_once() {
    let site = Site::new();
    let (a, b) = (record("1-1/A"), record("1-2/B"));
    let zip = zip_of(&[("TCS/logs/20_01_31 07_00_00 Z 1-1_A.trf", &a), ("TCS\\logs\\b.TRF", &b)]);
    site.put("SDD+2026-11-20.zip", &zip);
    site.put("readme.txt", b"no zip");
    let run = site.run(Steps::Both);
    assert_eq!((run.errors, run.refused, run.warnings), (vec![], vec![], vec![]));
    assert_eq!(run.zips_on_share, Some(1));
    assert_eq!((run.fetched[0].bytes, run.fetched[0].resumed_bytes), (zip.len() as u64, 0));
    assert_eq!(run.fetched[0].sha256, hex(Sha256::new_with_prefix(&zip)));
    assert_eq!((run.extracted[0].records, run.extracted[0].known), (2, 0));
    assert_eq!(run.freshness.unwrap().text, "fetched today");
    let expected = [
        "diagnostics/already_indexed/4299/SDD+2026-11-20.zip",
        "to_be_indexed/4299/20_01_31 07_00_00 Z 1-1_A.trf",
        "to_be_indexed/4299/b.trf",
    ];
    assert_eq!(site.files(), expected);
    let records = Layout::new(&site.options.root).records("4299");
    assert_eq!(std::fs::read(records.join("b.trf")).unwrap(), b);
    // The index has taken a record; it does not come back.
    std::fs::remove_file(records.join("b.trf")).unwrap();
    let again = site.run(Steps::Both);
    assert_eq!((again.fetched.len(), again.extracted.len(), again.errors.len()), (0, 0, 0));
    assert_eq!(site.files(), expected[..2]);
}

#[test]
fn a_stopped_copy_goes_on_where_it_stopped() {
    let mut site = Site::new();
    site.options.read_twice = true;
    let noise: Vec<u8> =
        (0..40_000_000_u32).map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect();
    let mut zip = ZipWriter::new(std::io::Cursor::new(Vec::new()));
    zip.start_file("x.trf", SimpleFileOptions::default().compression_method(CompressionMethod::Stored))
        .unwrap();
    zip.write_all(&noise).unwrap();
    let zip = zip.finish().unwrap().into_inner();
    site.put("SDD+1.zip", &zip);
    let cancel = CancellationToken::new();
    let copied = Arc::new(AtomicU64::new(0));
    let (counter, stop) = (Arc::clone(&copied), cancel.clone());
    let watch: Watch = Arc::new(move |_, progress| {
        if let Progress::Copied { bytes } = progress
            && counter.fetch_add(*bytes, Ordering::SeqCst) > 20_000_000
        {
            stop.cancel();
        }
    });
    let run = site.run_with(Steps::Both, &watch, &cancel);
    assert_eq!((run.errors[0].text.as_str(), run.fetched.len()), ("stopped before its end", 0));
    let part = site.options.root.join("diagnostics/to_be_indexed/4299/SDD+1.zip.part");
    let have = std::fs::metadata(&part).unwrap().len();
    assert!((20_000_000..40_000_000).contains(&have));

    // Killed rather than stopped: what lies behind the last sure byte is not trusted.
    let mut bytes = std::fs::read(&part).unwrap();
    bytes.extend_from_slice(&[0xff; 1000]);
    std::fs::write(&part, &bytes).unwrap();
    let run = site.run(Steps::Both);
    assert_eq!(run.errors, vec![]);
    assert_eq!(run.fetched[0].resumed_bytes, have);
    assert_eq!(run.fetched[0].sha256, hex(Sha256::new_with_prefix(&zip)));
    let record = Layout::new(&site.options.root).records("4299").join("x.trf");
    assert!(std::fs::read(record).unwrap() == noise);
}

#[test]
fn a_copy_whose_sure_bytes_changed_or_whose_source_changed_begins_anew() {
    for damage_source in [false, true] {
        let site = Site::new();
        let zip = zip_of(&[("x.trf", &record("1-1/A"))]);
        site.put("SDD+1.zip", &zip);
        let cancel = CancellationToken::new();
        let stop = cancel.clone();
        let watch: Watch = Arc::new(move |_, progress| {
            if matches!(progress, Progress::Copied { .. }) {
                stop.cancel();
            }
        });
        site.run_with(Steps::Fetch, &watch, &cancel);
        let part = site.options.root.join("diagnostics/to_be_indexed/4299/SDD+1.zip.part");
        assert!(std::fs::metadata(&part).unwrap().len() > 0);
        let zip = if damage_source {
            let other = zip_of(&[("x.trf", &record("1-1/LONGER"))]);
            site.put("SDD+1.zip", &other);
            other
        } else {
            let mut bytes = std::fs::read(&part).unwrap();
            bytes[1000] ^= 1;
            std::fs::write(&part, bytes).unwrap();
            zip
        };
        let run = site.run(Steps::Both);
        assert_eq!((run.errors, run.fetched[0].resumed_bytes), (vec![], 0));
        assert_eq!(run.fetched[0].sha256, hex(Sha256::new_with_prefix(&zip)));
    }
}

#[test]
fn half_a_zip_that_another_program_left_is_replaced() {
    let site = Site::new();
    let zip = zip_of(&[("x.trf", &record("1-1/A"))]);
    site.put("SDD+1.zip", &zip);
    let waiting = site.options.root.join("diagnostics/to_be_indexed/4299");
    make_directory(&waiting).unwrap();
    std::fs::write(waiting.join("SDD+1.zip"), &zip[..300_000]).unwrap();
    let run = site.run(Steps::Fetch);
    assert_eq!((run.errors, run.fetched.len()), (vec![], 1));
    assert!(std::fs::read(waiting.join("SDD+1.zip")).unwrap() == zip);
    // A whole one is taken for known, wherever it lies.
    let site = Site::new();
    site.put("SDD+1.zip", &zip);
    let done = site.options.root.join("diagnostics/already_indexed/4299");
    make_directory(&done).unwrap();
    std::fs::write(done.join("SDD+1.zip"), &zip).unwrap();
    assert_eq!(site.run(Steps::Both).fetched, vec![]);
}

#[test]
fn zips_are_kept_moved_or_removed_as_set() {
    for (after, expected) in [
        (After::Keep, Some("diagnostics/to_be_indexed/4299/SDD+1.zip")),
        (After::Move, Some("diagnostics/already_indexed/4299/SDD+1.zip")),
        (After::Remove, None),
    ] {
        let mut site = Site::new();
        site.options.after = after;
        site.put("SDD+1.zip", &zip_of(&[("x.trf", &record("1-1/A"))]));
        for run in 0..2 {
            let done = site.run(Steps::Both);
            assert_eq!((done.errors, done.extracted.len()), (vec![], 1 - run), "{after:?}");
        }
        let zips: Vec<_> = site.files().into_iter().filter(|name| name.ends_with(".zip")).collect();
        assert_eq!(zips, expected.into_iter().collect::<Vec<_>>(), "{after:?}");
    }
}

#[test]
fn records_of_one_name_are_told_apart_and_the_same_record_is_written_once() {
    let site = Site::new();
    let (a, b) = (record("1-1/A"), record("1-2/B"));
    site.put("SDD+1.zip", &zip_of(&[("one/x.trf", &a), ("two/x.trf", &b), ("three/x.trf", &a)]));
    let run = site.run(Steps::Both);
    assert_eq!((run.extracted[0].records, run.extracted[0].known), (2, 1));
    let other = format!("to_be_indexed/4299/x~{}.trf", &hex(Sha256::new_with_prefix(&b))[..8]);
    assert_eq!(site.files()[1..], ["to_be_indexed/4299/x.trf".to_owned(), other]);
}

#[test]
fn a_damaged_record_costs_itself_only_and_the_zip_is_fetched_once_more() {
    let site = Site::new();
    let (a, b) = (record("1-1/A"), record("1-2/B"));
    let mut zip = ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let stored = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    for (name, bytes) in [("a.trf", &a), ("b.trf", &b)] {
        zip.start_file(name, stored).unwrap();
        zip.write_all(bytes).unwrap();
    }
    let mut zip = zip.finish().unwrap().into_inner();
    let at = zip.windows(5).position(|w| w == b"1-1/A").unwrap();
    zip[at] ^= 1;
    site.put("SDD+1.zip", &zip);
    for attempt in 1..=3 {
        let run = site.run(Steps::Both);
        assert_eq!(run.errors, vec![]);
        assert_eq!(run.fetched.len(), usize::from(attempt < 3), "attempt {attempt}");
        if let Some(refused) = run.refused.first() {
            assert!(
                refused.reason.starts_with("1 of 2 records are damaged: member 1 is damaged"),
                "{}",
                refused.reason
            );
            assert_eq!(refused.records, 1);
        }
    }
    assert_eq!(site.files(), ["diagnostics/refused/4299/SDD+1.zip", "to_be_indexed/4299/b.trf"]);
}

#[test]
fn a_zip_that_is_still_being_written_waits_for_the_next_run() {
    let site = Site::new();
    let zip = zip_of(&[("x.trf", &record("1-1/A"))]);
    site.put("SDD+1.zip", &zip[..400_000]);
    let run = site.run(Steps::Both);
    assert!(run.fetched.is_empty() && run.warnings[0].contains("still writing it"), "{run:?}");
    assert_eq!(site.files(), Vec::<String>::new());
    site.put("SDD+1.zip", &zip);
    let run = site.run(Steps::Both);
    assert_eq!((run.fetched.len(), run.extracted.len(), run.warnings), (1, 1, vec![]));
    // One that never gets an end is taken the second time, and refused with a reason.
    site.put("SDD+2.zip", &zip[..400_000]);
    assert!(site.run(Steps::Both).refused.is_empty());
    let run = site.run(Steps::Both);
    assert!(run.refused[0].reason.contains("expected a whole zip"), "{:?}", run.refused);
    assert!(run.refused[0].kept_at.exists());
}

#[test]
fn a_zip_that_was_damaged_on_this_disk_is_fetched_again() {
    let site = Site::new();
    let zip = zip_of(&[("x.trf", &record("1-1/A"))]);
    site.put("SDD+1.zip", &zip);
    site.run(Steps::Fetch);
    let here = site.options.root.join("diagnostics/to_be_indexed/4299/SDD+1.zip");
    let mut bytes = std::fs::read(&here).unwrap();
    bytes[1000] ^= 1;
    std::fs::write(&here, bytes).unwrap();
    let run = site.run(Steps::Extract);
    assert!(run.refused[0].reason.contains("not the one that was fetched"), "{:?}", run.refused);
    let run = site.run(Steps::Both);
    assert_eq!((run.fetched.len(), run.extracted.len(), run.refused.len()), (1, 1, 0));
}

#[test]
fn one_linac_that_fails_or_hangs_or_panics_takes_no_other_with_it() {
    let mut site = Site::new();
    site.options.stall = Duration::from_millis(1500);
    site.options.at_once = 2;
    for linac in ["hangs", "panics", "works"] {
        std::fs::create_dir_all(site.share(linac)).unwrap();
        std::fs::write(site.share(linac).join("SDD+1.zip"), zip_of(&[("x.trf", &record("1-1/A"))])).unwrap();
    }
    let release = Arc::new(AtomicBool::new(false));
    let (hold, panicked) = (Arc::clone(&release), Mutex::new(false));
    let watch: Watch = Arc::new(move |linac, progress| {
        while linac == "hangs" && !hold.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(10));
        }
        if linac == "panics" && matches!(progress, Progress::Connecting) {
            let mut panicked = panicked.lock().unwrap();
            assert!(std::mem::replace(&mut *panicked, true), "as meant by the test");
        }
    });
    let linacs = ["hangs", "absent", "panics", "works"].map(|name| site.linac(name)).to_vec();
    let collected = collect(linacs, &site.options, Steps::Both, &watch, &CancellationToken::new());
    release.store(true, Ordering::SeqCst);
    let texts: Vec<_> = (collected.linacs.iter())
        .map(|run| {
            (
                run.linac.as_str(),
                run.errors.first().map_or("", |trouble| trouble.text.as_str()),
                run.extracted.len(),
            )
        })
        .collect();
    assert!(matches!(texts[0], ("hangs", text, 0) if text.contains("no sign of life")), "{texts:?}");
    assert!(
        matches!(texts[1], ("absent", text, 0) if text.contains("no such file or directory")),
        "{texts:?}"
    );
    assert!(matches!(texts[2], ("panics", text, 0) if text.contains("the program failed")), "{texts:?}");
    assert_eq!(texts[3], ("works", "", 1));
    assert!(!collected.is_clean());
}

#[test]
fn a_name_that_leads_elsewhere_is_no_linac_and_no_zip() {
    let site = Site::new();
    let watch: Watch = Arc::new(|_, _| {});
    let linac = Linac { name: "../4299".into(), ..site.linac("4299") };
    let run = collect(vec![linac], &site.options, Steps::Both, &watch, &CancellationToken::new());
    assert!(run.linacs[0].errors[0].text.contains("cannot be the name of a linac"), "{run:?}");
    assert_eq!(site.files(), Vec::<String>::new());
    if cfg!(unix) {
        site.put("SDD+a:b.zip", &zip_of(&[]));
        let run = site.run(Steps::Fetch);
        assert!(run.warnings[0].contains("cannot be the name of a zip") && run.fetched.is_empty(), "{run:?}");
    }
}

#[test]
fn a_disk_without_room_is_said_before_anything_is_copied() {
    let mut site = Site::new();
    site.put("SDD+1.zip", &zip_of(&[("x.trf", &record("1-1/A"))]));
    site.options.keep_free_bytes = u64::MAX / 2;
    let run = site.run(Steps::Both);
    assert!(run.errors[0].text.contains("the disk is full: SDD+1.zip needs 1 MB"), "{:?}", run.errors);
    assert_eq!(run.errors[0].hint, "free space on the disk, then try again");
    assert!(run.fetched.is_empty() && run.freshness.unwrap().last_fetch_utc.is_none());
}
