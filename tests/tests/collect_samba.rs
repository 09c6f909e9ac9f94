//! Diagnostics zips from a real SMB server: logins, missing shares, cut connections, resumed copies, hashes.

#![expect(clippy::unwrap_used, reason = "a set-up that fails fails its test")]

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tests::peers::{PASSWORD, Samba, Tunnel, USER, free_port, require, until};
use tests::zips::{record, sha256, zip_of};
use tokio_util::sync::CancellationToken;
use trf_core::collect::{Linac, LinacRun, Options, Progress, Steps, Watch, collect};
use trf_core::share::{Password, Share, SmbAddress};

/// A running samba and our directories; `None` where there is none.
struct Site {
    dir: tempfile::TempDir,
    samba: Samba,
}

impl Site {
    fn start() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let samba = require("samba", Samba::start(dir.path()))?;
        Some(Self { dir, samba })
    }

    fn address(&self) -> SmbAddress {
        SmbAddress {
            host: "127.0.0.1".into(),
            port: self.samba.port(),
            share: "Backup".into(),
            directory: "TCS".into(),
            user: USER.into(),
            password: Password(PASSWORD.into()),
            encrypt: false,
        }
    }

    fn options(&self) -> Options {
        let mut options = Options::new(self.dir.path().join("trf"));
        options.keep_free_bytes = 0;
        options
    }

    fn put(&self, name: &str, zip: &[u8]) {
        std::fs::write(self.samba.tcs().join(name), zip).unwrap();
    }

    fn run(&self, address: SmbAddress) -> LinacRun {
        self.run_with(address, &self.options(), &(Arc::new(|_: &str, _: &Progress| {}) as Watch))
    }

    fn run_with(&self, address: SmbAddress, options: &Options, watch: &Watch) -> LinacRun {
        let linac = Linac { name: "4299".into(), share: Some(Ok(Share::Smb(address))) };
        let collected = collect(vec![linac], options, Steps::Both, watch, &CancellationToken::new());
        collected.linacs.into_iter().next().unwrap()
    }

    fn n_records(&self) -> usize {
        std::fs::read_dir(self.dir.path().join("trf/to_be_indexed/4299")).map_or(0, Iterator::count)
    }
}

fn zip(n: u32, noise_bytes: usize) -> Vec<u8> {
    zip_of(noise_bytes, (0..5).map(|k| (format!("{n}_{k}.trf"), record(10 * n + k, 50))))
}

fn new_bytes(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |metadata| metadata.len())
}

#[test]
fn only_new_zips_are_copied_whole_and_verified_plain_and_encrypted() {
    let Some(site) = Site::start() else { return };
    site.put("SDD+2026-11-19.zip", &zip(1, 5_000_000));
    site.put("SDD+2026-11-20.zip", &zip(2, 3_000_000));
    site.put("other.zip", b"not ours");
    let run = site.run(site.address());
    assert_eq!((run.errors, run.warnings), (vec![], vec![]), "{}", site.samba.log());
    assert_eq!(run.zips_on_share, Some(2));
    let hashes: BTreeSet<_> = run.fetched.iter().map(|zip| zip.sha256.clone()).collect();
    assert_eq!(hashes, BTreeSet::from([sha256(&zip(1, 5_000_000)), sha256(&zip(2, 3_000_000))]));
    assert_eq!((run.extracted.len(), site.n_records()), (2, 10));

    site.put("SDD+2026-11-21.zip", &zip(3, 1_000_000));
    let mut encrypted = SmbAddress { share: "Encrypted".into(), encrypt: true, ..site.address() };
    encrypted.user = format!(".\\{USER}");
    let mut options = site.options();
    options.read_twice = true;
    let run = site.run_with(encrypted, &options, &(Arc::new(|_: &str, _: &Progress| {}) as Watch));
    assert_eq!(run.errors, vec![]);
    assert_eq!(run.fetched.iter().map(|zip| zip.name.as_str()).collect::<Vec<_>>(), ["SDD+2026-11-21.zip"]);
    assert_eq!(site.n_records(), 15);
}

#[test]
fn each_way_to_be_refused_has_its_own_sentence() {
    let Some(site) = Site::start() else { return };
    let good = site.address();
    let deaf = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let deaf_port = deaf.local_addr().unwrap().port();
    std::thread::spawn(move || deaf.incoming().for_each(drop));
    let closed = free_port();
    let cases = [
        (SmbAddress { password: Password("wrong".into()), ..good.clone() }, "wrong user or password"),
        (SmbAddress { user: "somebody".into(), ..good.clone() }, "`somebody`: wrong user or password"),
        (SmbAddress { share: "Backap".into(), ..good.clone() }, "there is no share `Backap` on this host"),
        (SmbAddress { share: "Private".into(), ..good.clone() }, "may not use this share"),
        (SmbAddress { directory: "TCSS".into(), ..good.clone() }, "there is no such directory on the share"),
        (SmbAddress { port: closed, ..good.clone() }, "nothing listens on port"),
        (SmbAddress { port: deaf_port, ..good.clone() }, "did not go through with the login"),
        (
            SmbAddress { host: "no-such-host.invalid".into(), ..good.clone() },
            "the host `no-such-host.invalid` is unknown",
        ),
    ];
    let mut texts = BTreeSet::new();
    let (day, utc_day) = (chrono::Local::now().date_naive(), chrono::Utc::now().date_naive());
    for (address, expected) in cases {
        let run = site.run(address);
        let trouble = &run.errors[0];
        eprintln!("{}\n  hint: {}", trouble.text, trouble.hint);
        assert!(trouble.text.contains(expected), "{expected}: {}", trouble.text);
        assert_eq!((trouble.kind, trouble.text.lines().count()), ("unreachable", 1));
        assert!(!trouble.hint.is_empty() && !trouble.text.contains(PASSWORD));
        let freshness = run.freshness.unwrap().text;
        let is_next_day =
            chrono::Local::now().date_naive() != day || chrono::Utc::now().date_naive() != utc_day;
        assert!(freshness == "never fetched, tried for 0 days" || is_next_day, "{freshness}");
        assert!(texts.insert(trouble.text.clone()), "said twice: {}", trouble.text);
    }
    let empty = site.run(good);
    assert!(empty.errors.is_empty() && empty.warnings[0].contains("holds no zip"), "{empty:?}");
}

#[test]
fn a_cut_connection_is_taken_up_where_it_was_cut() {
    let Some(site) = Site::start() else { return };
    let whole = zip(1, 40_000_000);
    site.put("SDD+1.zip", &whole);
    let tunnel = Tunnel::to(site.samba.port());
    tunnel.cut_after(12_000_000);
    let (reconnects, copied) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(0)));
    let (count, sum) = (Arc::clone(&reconnects), Arc::clone(&copied));
    let again = Arc::new(tunnel);
    let cut = Arc::clone(&again);
    let watch: Watch = Arc::new(move |_, progress| match progress {
        // Once more, later.
        Progress::Reconnecting if count.fetch_add(1, Ordering::SeqCst) == 0 => cut.cut_after(12_000_000),
        Progress::Copied { bytes } => *sum.lock().unwrap() += bytes,
        _ => {}
    });
    let began = Instant::now();
    let run = site.run_with(SmbAddress { port: again.port(), ..site.address() }, &site.options(), &watch);
    assert_eq!((run.errors, run.fetched.len()), (vec![], 1));
    assert_eq!(run.fetched[0].sha256, sha256(&whole));
    // Each of two cuts, and where a busy machine lets the client stall, after 20 s of silence of its own accord.
    let stalls = began.elapsed().as_secs() as usize / 20;
    let reconnects = reconnects.load(Ordering::SeqCst);
    assert!((2..=2 + stalls).contains(&reconnects), "{reconnects} reconnects in {:?}", began.elapsed());
    assert_eq!(*copied.lock().unwrap(), whole.len() as u64, "bytes were copied twice");
}

#[test]
fn a_share_that_goes_away_costs_nothing_that_was_copied() {
    let Some(site) = Site::start() else { return };
    let whole = zip(1, 40_000_000);
    // The oldest goes first.
    site.put("SDD+0.zip", &zip(2, 100_000));
    site.put("SDD+1.zip", &whole);
    let tunnel = Arc::new(Tunnel::to(site.samba.port()));
    tunnel.cut_after(20_000_000);
    let cut = Arc::clone(&tunnel);
    let watch: Watch = Arc::new(move |_, progress| {
        if matches!(progress, Progress::Reconnecting) {
            // And every new connection at once.
            cut.cut_after(0);
        }
    });
    let address = SmbAddress { port: tunnel.port(), ..site.address() };
    let run = site.run_with(address.clone(), &site.options(), &watch);
    let text = &run.errors[0].text;
    eprintln!("{text}");
    assert!(
        text.contains("did not go through with the login") || text.contains("cut while reading"),
        "{text}"
    );
    assert_eq!(run.extracted.len(), 1, "what was complete is of use all the same");
    let part = site.dir.path().join("trf/diagnostics/to_be_indexed/4299/SDD+1.zip.part");
    let have = new_bytes(&part);
    assert!((1..whole.len() as u64).contains(&have));

    tunnel.cut_after(i64::MAX);
    let run = site.run(address);
    assert_eq!((run.errors, run.fetched.len()), (vec![], 1));
    assert_eq!((run.fetched[0].resumed_bytes, run.fetched[0].sha256.clone()), (have, sha256(&whole)));
}

#[test]
fn a_share_that_falls_silent_is_given_up() {
    let Some(site) = Site::start() else { return };
    site.put("SDD+1.zip", &zip(1, 40_000_000));
    let tunnel = Arc::new(Tunnel::to(site.samba.port()));
    let hole = Arc::clone(&tunnel);
    let watch: Watch = Arc::new(move |_, progress| hole.swallow(matches!(progress, Progress::Copied { .. })));
    let mut options = site.options();
    options.stall = Duration::from_secs(3);
    let started = Instant::now();
    let run = site.run_with(SmbAddress { port: tunnel.port(), ..site.address() }, &options, &watch);
    assert!(run.errors[0].text.contains("no sign of life for 3 s"), "{:?}", run.errors);
    assert!(started.elapsed() < Duration::from_secs(20), "it took {:?}", started.elapsed());
}

#[test]
fn two_runs_at_once_take_turns() {
    let Some(site) = Site::start() else { return };
    for n in 0..4 {
        site.put(&format!("SDD+{n}.zip"), &zip(n, 2_000_000));
    }
    let waited = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&waited);
    let watch: Watch = Arc::new(move |_, progress| match progress {
        Progress::Waiting => {
            count.fetch_add(1, Ordering::SeqCst);
        }
        // Who has the turn keeps it until somebody waits.
        _ => until("another one waits", Duration::from_secs(60), || count.load(Ordering::SeqCst) > 0),
    });
    let runs: Vec<LinacRun> = std::thread::scope(|scope| {
        let run = || site.run_with(site.address(), &site.options(), &watch);
        let threads: Vec<_> = (0..3).map(|_| scope.spawn(run)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(runs.iter().all(|run| run.errors.is_empty()), "{runs:?}");
    assert_eq!(runs.iter().map(|run| run.fetched.len()).sum::<usize>(), 4);
    assert_eq!(runs.iter().map(|run| run.extracted.len()).sum::<usize>(), 4);
    assert_eq!(site.n_records(), 20);
    assert!(waited.load(Ordering::SeqCst) > 0, "nobody had to wait");
}
