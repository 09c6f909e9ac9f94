//! `trf fetch` and `trf extract` as a person and a script run them; kills, memory, a full disk.

#![expect(clippy::unwrap_used, reason = "a set-up that fails fails its test")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use tests::disk::Tmpfs;
use tests::node::node_binary;

use tests::zips::{noise, record, sha256, write, zip_of};

/// Shares as directories, settings, our root.
struct Site {
    dir: tempfile::TempDir,
    root: PathBuf,
}

impl Site {
    fn new(linacs: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("trf");
        Self::at(dir, root, linacs)
    }

    fn at(dir: tempfile::TempDir, root: PathBuf, linacs: &[&str]) -> Self {
        let mut text =
            format!("[trf]\nroot = '{}'\nkeep_free_bytes = 0\n[[site]]\nname = 'main'\n", root.display());
        for linac in linacs {
            std::fs::create_dir_all(dir.path().join(linac)).unwrap();
            let share = dir.path().join(linac);
            text += &format!("[[site.linac]]\nname = '{linac}'\nnss_path = '{}'\n", share.display());
        }
        std::fs::write(dir.path().join("config.toml"), text).unwrap();
        Self { dir, root }
    }

    fn put(&self, linac: &str, name: &str, zip: &[u8]) {
        std::fs::write(self.dir.path().join(linac).join(name), zip).unwrap();
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(node_binary());
        command.arg("--config").arg(self.dir.path().join("config.toml")).args(words);
        command.stdin(Stdio::null());
        command
    }

    fn run(&self, words: &[&str]) -> (Output, String, String) {
        let output = self.command(words).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        (output, out, err)
    }

    /// Files below our root with the hashes of their bytes, by relative name.
    fn files(&self, below: &str) -> BTreeMap<String, String> {
        let mut found = BTreeMap::new();
        let mut open = vec![self.root.join(below)];
        while let Some(directory) = open.pop() {
            for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
                let path = entry.path();
                if path.is_dir() {
                    open.push(path);
                } else {
                    let name = path.strip_prefix(&self.root).unwrap().to_str().unwrap().replace('\\', "/");
                    found.insert(name, sha256(&std::fs::read(&path).unwrap()));
                }
            }
        }
        found
    }
}

#[test]
fn fetch_and_extract_tell_people_and_scripts_what_they_did() {
    let site = Site::new(&["4299", "4300"]);
    site.put(
        "4299",
        "SDD+2026-11-20.zip",
        &zip_of(200_000, (0..3).map(|n| (format!("{n}.trf"), record(n, 10)))),
    );
    std::fs::remove_dir(site.dir.path().join("4300")).unwrap();
    let (output, out, err) = site.run(&["trf", "fetch"]);
    assert_eq!(output.status.code(), Some(1), "one linac failed\n{out}{err}");
    assert!(out.contains("4299: 1 zips on the share, 1 fetched (0.2 MB)"), "{out}");
    assert!(err.contains("error: 4300: ") && err.contains("there is no such file or directory"), "{err}");
    assert!(err.contains("hint: check nss_path, and that the share is mounted"), "{err}");

    let (output, out, _) = site.run(&["trf", "fetch", "4299"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(out.contains("4299: 1 zips on the share, 0 fetched"), "{out}");

    let (output, out, _) = site.run(&["--json", "trf", "extract"]);
    assert_eq!(output.status.code(), Some(0));
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(report["clean"], true);
    assert_eq!(report["linacs"][0]["extracted"][0]["records"], 3);
    assert_eq!(site.files("to_be_indexed").len(), 3);
    assert_eq!(site.files("reports").len(), 3, "each run keeps its report");

    let (output, _, err) = site.run(&["trf", "fetch", "4301"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(err.contains("no linac `4301`") && err.contains("there are: 4299, 4300"), "{err}");
}

#[test]
fn hostile_zips_are_refused_with_a_reason_and_the_rest_goes_on() {
    let site = Site::new(&["4299"]);
    let waiting = site.root.join("diagnostics/to_be_indexed/by hand");
    std::fs::create_dir_all(&waiting).unwrap();
    let good = zip_of(1000, std::iter::once(("x.trf".to_owned(), record(1, 10))));
    let mut hostile = good.clone();
    while let Some(at) = hostile.windows(14).position(|w| w == b"TCS/logs/x.trf") {
        hostile[at..at + 14].copy_from_slice(b"../../../x.trf");
    }
    std::fs::write(waiting.join("SDD+1.zip"), hostile).unwrap();
    std::fs::write(waiting.join("SDD+2.zip"), &good[..good.len() - 30]).unwrap();
    std::fs::write(waiting.join("SDD+3.zip"), good).unwrap();
    let (output, out, err) = site.run(&["trf", "extract"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(err.contains("SDD+1.zip is refused: ") && err.contains("a name with `..`"), "{err}");
    assert!(err.contains("SDD+2.zip is refused: ") && err.contains("expected a whole zip"), "{err}");
    assert!(out.contains("by hand: 1 records out of 1 zips"), "{out}");
    assert_eq!(site.files("to_be_indexed").into_keys().collect::<Vec<_>>(), ["to_be_indexed/by hand/x.trf"]);
    assert_eq!(site.files("diagnostics/refused").len(), 2);
}

/// A command that is killed at random moments of its work.
struct Killed {
    words: [&'static str; 2],
    /// Kills fall within this time of its start. It follows how long the work takes on this machine.
    reach: Duration,
    at_work: u32,
}

impl Killed {
    fn new(words: [&'static str; 2]) -> Self {
        Self { words, reach: Duration::from_millis(40), at_work: 0 }
    }

    /// Starts it and kills it after a part of its reach, of 256. True when it had ended by itself.
    fn run(&mut self, site: &Site, part: u8) -> bool {
        let mut child =
            site.command(&self.words).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        // Not a wait for a condition: the moment of the kill is the test's input.
        std::thread::sleep(self.reach * u32::from(part) / 256);
        let ended = child.try_wait().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        if ended.is_none() {
            self.at_work += 1;
            self.reach = self.reach * 9 / 8;
        } else {
            assert!(ended.is_some_and(|status| status.success()), "{:?}: {ended:?}", self.words);
            self.reach = self.reach * 3 / 4;
        }
        ended.is_some()
    }
}

#[test]
fn forty_kills_lose_nothing_and_double_nothing() {
    let site = Site::new(&["4299", "4300"]);
    let mut zips = BTreeMap::new();
    let mut records = BTreeMap::new();
    let mut moments = noise(3);
    let mut fetch = Killed::new(["trf", "fetch"]);
    let mut extract = Killed::new(["trf", "extract"]);
    let mut runs = 0;
    for n in 0.. {
        // The linac has made another one.
        let linac = if n % 2 == 0 { "4299" } else { "4300" };
        let made: Vec<_> =
            (0..60).map(|k| (format!("{n}_{k}.trf"), record(100 * n + k, 60 + k as usize))).collect();
        for (name, bytes) in &made {
            records.insert(format!("to_be_indexed/{linac}/{name}"), sha256(bytes));
        }
        let zip = zip_of(20_000_000, made.into_iter());
        site.put(linac, &format!("SDD+{n}.zip"), &zip);
        zips.insert(format!("diagnostics/already_indexed/{linac}/SDD+{n}.zip"), sha256(&zip));
        // Each is started again until it gets to its end.
        for command in [&mut fetch, &mut extract] {
            loop {
                runs += 1;
                let ended = command.run(&site, moments.next().unwrap());
                // What is there under a final name is whole at every moment.
                let shown = site.files("to_be_indexed");
                for (name, hash) in shown.into_iter().filter(|(name, _)| name.ends_with(".trf")) {
                    assert_eq!(records.get(&name), Some(&hash), "{name} after {runs} runs");
                }
                for (name, hash) in site.files("diagnostics/already_indexed") {
                    assert_eq!(zips.get(&name), Some(&hash), "{name} after {runs} runs");
                }
                if ended {
                    break;
                }
            }
        }
        if fetch.at_work >= 20 && extract.at_work >= 20 {
            break;
        }
        assert!(
            runs < 400,
            "{} fetches and {} extracts killed in {runs} runs",
            fetch.at_work,
            extract.at_work
        );
    }
    eprintln!("{runs} runs, killed at work: {} fetches, {} extracts", fetch.at_work, extract.at_work);
    for words in [["trf", "fetch"], ["trf", "extract"]] {
        let (output, out, err) = site.run(&words);
        assert!(output.status.success(), "{out}{err}");
    }
    assert_eq!(site.files("to_be_indexed"), records);
    assert_eq!(site.files("diagnostics/already_indexed"), zips);
    assert!(site.files("diagnostics/to_be_indexed").is_empty());
}

/// The most memory that the process has had so far, in kB, while it lives.
#[cfg(target_os = "linux")]
fn peak_kb(child: &Child) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

#[test]
#[cfg(target_os = "linux")]
fn a_zip_of_300_mb_is_unpacked_in_the_memory_of_a_small_one() {
    let peak = |noise_bytes: usize, n_records: u32| {
        let site = Site::new(&["4299"]);
        let waiting = site.root.join("diagnostics/to_be_indexed/4299");
        std::fs::create_dir_all(&waiting).unwrap();
        let zip = waiting.join("SDD+1.zip");
        let file = std::io::BufWriter::new(std::fs::File::create(&zip).unwrap());
        write(file, noise_bytes, (0..n_records).map(|n| (format!("{n}.trf"), record(n, 1500))));
        let bytes = std::fs::metadata(&zip).unwrap().len();
        let mut child = site.command(&["trf", "extract"]).stdout(Stdio::null()).spawn().unwrap();
        let mut peak = 0;
        while child.try_wait().unwrap().is_none() {
            peak = peak_kb(&child).unwrap_or(0).max(peak);
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(child.wait().unwrap().success());
        assert_eq!(site.files("to_be_indexed").len(), n_records as usize);
        eprintln!("{:.1} MB zip, {n_records} records: peak {peak} kB", bytes as f64 / 1e6);
        peak
    };
    // A short run's peak may come between two looks: several of them.
    let small = (0..4).map(|_| peak(3_000_000, 1)).max().unwrap();
    let large = peak(290_000_000, 57);
    assert!(small > 1000, "nothing was measured");
    assert!(large < small + 4096, "{small} kB for a small zip, {large} kB for 300 MB");
}

#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_is_said_and_what_was_there_stays() {
    let Some(disk) = Tmpfs::mount(12) else { return };
    let site = Site::at(tempfile::tempdir().unwrap(), disk.path().join("trf"), &["4299"]);
    site.put("4299", "SDD+1.zip", &zip_of(2_000_000, (0..2).map(|n| (format!("{n}.trf"), record(n, 1500)))));
    site.put("4299", "SDD+2.zip", &zip_of(30_000_000, std::iter::empty()));
    let (output, out, err) = site.run(&["trf", "fetch"]);
    assert_eq!(output.status.code(), Some(1), "{out}");
    assert!(err.contains("the disk is full: SDD+2.zip needs"), "{err}");
    assert!(err.contains("hint: free space on the disk, then try again"), "{err}");
    assert_eq!(site.files("diagnostics/to_be_indexed").len(), 1, "the one that fits is here");

    // No room for the records: the zip stays, no partial record is left.
    std::fs::write(disk.path().join("ballast"), vec![1; 9_300_000]).unwrap();
    let (output, _, err) = site.run(&["trf", "extract"]);
    assert_eq!(output.status.code(), Some(1), "{err}");
    assert!(err.contains("the disk is full: unpacking the records needs"), "{err}");
    assert_eq!(site.files("diagnostics/to_be_indexed").len(), 1);
    assert!(site.files("to_be_indexed").keys().all(|name| name.ends_with(".trf")));
    std::fs::remove_file(disk.path().join("ballast")).unwrap();
    let (output, out, err) = site.run(&["trf", "extract"]);
    assert!(output.status.success(), "{out}{err}");
    assert_eq!(site.files("to_be_indexed").len(), 2);
}

#[test]
fn passwords_are_never_shown() {
    let site = Site::new(&[]);
    let config = site.dir.path().join("config.toml");
    let linac = "[[site.linac]]\nname = '4299'\nnss_host = '127.0.0.1'\nnss_port = 1\nnss_user = 'physics'\nnss_password = 'tr0ub4dor'\n";
    let text = std::fs::read_to_string(&config).unwrap() + linac;
    std::fs::write(&config, text).unwrap();
    let shown = [
        site.run(&["config", "show"]),
        site.run(&["--set", "log.level=trace", "trf", "fetch"]),
        site.run(&["--json", "trf", "fetch"]),
    ];
    for (_, out, err) in &shown {
        assert!(!out.contains("tr0ub4dor") && !err.contains("tr0ub4dor"), "{out}{err}");
    }
    assert!(shown[1].2.contains("nothing listens on port 1 of 127.0.0.1"), "{}", shown[1].2);
}

/// Keeps the compiler from calling what only Linux uses unused elsewhere.
#[expect(dead_code, reason = "types of tests that run on Linux only")]
fn used_on_linux(_: Child, _: &Path, _: Tmpfs) {}
