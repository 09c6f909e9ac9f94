//! Several fetches at once, and the service: who hosts the receiver, what becomes of those who use it, who waits for whom.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Output};
use std::time::{Duration, Instant};

use scp_node::demo::{Faults, PatientOptions};
use scp_node::fetch::{FetchRequest, Fetched, Step, fetch};
use tests::peers::until;
use tests::site::{Guarded, Site};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

/// Longest wait for something that happens within a second on an idle machine.
const LONG: Duration = Duration::from_secs(60);

/// What a host gets whose time is limited.
const HOST: Duration = Duration::from_secs(6);

async fn start(faults: Faults) -> Site {
    Site::start(&PatientOptions::small(), faults, 60.0).await
}

/// As a thread of a web worker does it; `moving` hears of the first image that arrived.
fn spawn(site: &Site, request: FetchRequest, cancel: &CancellationToken) -> Running {
    let (settings, cancel) = (site.settings.clone(), cancel.clone());
    let (moving, moves) = oneshot::channel();
    let mut moving = Some(moving);
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let mut progress = |step| {
            if matches!(step, Step::Moving { done: 1.., .. })
                && let Some(moving) = moving.take()
            {
                let _ = moving.send(());
            }
        };
        runtime.block_on(fetch(&request, &settings, &cancel, &mut progress))
    });
    Running { thread, moves }
}

/// A `fetch` process that hosts the receiver: it listens by the time this returns.
fn host(site: &Site, args: &[&str]) -> Child {
    let child = site.command(args).spawn().unwrap();
    until("the fetch hosts a receiver", LONG, || {
        std::net::TcpStream::connect(("127.0.0.1", site.settings.node.port)).is_ok()
    });
    child
}

fn stored(site: &Site) -> usize {
    tests::node::files_below(&site.settings.images.root, ".dcm").len()
}

struct Running {
    thread: std::thread::JoinHandle<scp_node::Result<Fetched>>,
    moves: oneshot::Receiver<()>,
}

impl Running {
    fn end(self) -> scp_node::Result<Fetched> {
        self.thread.join().unwrap()
    }
}

fn one() -> FetchRequest {
    FetchRequest::new("QA_TB_WL", "WL_10MV")
}

/// Twelve images in three moves.
fn long() -> FetchRequest {
    FetchRequest { all_dates: true, ..FetchRequest::new("QA_TB_WL", "WL_6FFF") }
}

fn images(fetched: &Fetched) -> usize {
    fetched.sessions.iter().map(|s| s.instances.len()).sum()
}

fn slow() -> Faults {
    Faults { sub_operation_delay: Duration::from_millis(250), ..Faults::default() }
}

fn signal(child: &Child, name: &str) {
    let status = Command::new("kill").args([format!("-{name}"), child.id().to_string()]).status().unwrap();
    assert!(status.success());
}

fn texts(output: Output) -> (Option<i32>, String, String) {
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_whose_work_is_done_hands_it_out_at_once_and_its_guest_gets_all() {
    let site = start(slow()).await;
    let cancel = CancellationToken::new();
    let limited = FetchRequest { timeout: Some(LONG), ..one() };
    let mut host = spawn(&site, limited, &cancel);
    (&mut host.moves).await.unwrap();
    let guest = spawn(&site, long(), &cancel);
    let fetched = host.end().unwrap();
    assert_eq!((images(&fetched), fetched.moved), (4, 4));
    assert!(!guest.thread.is_finished(), "the host does not wait for its guest before it hands out");
    let fetched = guest.end().unwrap();
    assert_eq!((images(&fetched), fetched.moved), (12, 12));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_gets_all_whose_host_runs_out_of_time() {
    // The host's move never ends, its guest's does, but not within the host's time.
    let site = start(Faults { stall_after_sub_operations: Some(1), ..Faults::default() }).await;
    let cancel = CancellationToken::new();
    let limited = FetchRequest { timeout: Some(HOST), all_dates: true, ..one() };
    let mut host = spawn(&site, limited, &cancel);
    (&mut host.moves).await.unwrap();
    site.aria.set_faults(Faults { sub_operation_delay: HOST / 8, ..Faults::default() });
    let guest = spawn(&site, long(), &cancel);
    let error = host.end().unwrap_err();
    assert_eq!(error.kind(), "timeout", "{error}");
    let fetched = guest.end().unwrap();
    assert_eq!((images(&fetched), fetched.moved), (12, 12));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_whose_host_is_cancelled_receives_by_itself_what_is_missing() {
    let site = start(slow()).await;
    let (cancel, never) = (CancellationToken::new(), CancellationToken::new());
    let mut host = spawn(&site, long(), &cancel);
    (&mut host.moves).await.unwrap();
    let mut guest = spawn(&site, one(), &never);
    (&mut guest.moves).await.unwrap();
    let start = Instant::now();
    cancel.cancel();
    assert_eq!(host.end().unwrap_err().kind(), "cancelled");
    assert!(start.elapsed() < Duration::from_secs(5), "it waited {:?} for its guest", start.elapsed());
    let fetched = guest.end().unwrap();
    assert_eq!((images(&fetched), fetched.moved), (4, 4));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_process_gets_all_however_its_host_ends() {
    for (ending, code) in [("INT", Some(1)), ("KILL", None), ("", Some(0))] {
        let site = start(slow()).await;
        let host = host(&site, &["fetch", "--patient", "QA_TB_WL", "--plan", "WL_10MV", "--all-dates"]);
        let guest = site.command(&["fetch", "--patient", "QA_TB_WL", "--plan", "WL_6FFF"]).spawn().unwrap();
        until("both receive", LONG, || stored(&site) >= 3);
        if !ending.is_empty() {
            signal(&host, ending);
        }
        let host = texts(host.wait_with_output().unwrap());
        assert_eq!(host.0, code, "{ending}: {host:?}");
        let guest = texts(guest.wait_with_output().unwrap());
        assert_eq!((guest.0, guest.1.lines().count()), (Some(0), 1), "{ending}: {guest:?}");
        let directory = PathBuf::from(guest.1.trim());
        assert_eq!(tests::node::files_below(&directory, ".dcm").len(), 4, "{ending}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_waits_for_a_fetch_that_hosts_the_receiver_and_hears_a_stop_meanwhile() {
    // Twelve seconds, in which two services come up.
    let site = start(Faults { sub_operation_delay: Duration::from_secs(1), ..Faults::default() }).await;
    let host = host(&site, &["fetch", "--patient", "QA_TB_WL", "--plan", "WL_6FFF", "--all-dates"]);
    let log = |name: &str| std::fs::File::create(site.directory.path().join(name)).unwrap();
    let waits = |name: &str| {
        let text = std::fs::read_to_string(site.directory.path().join(name)).unwrap();
        text.contains("waiting for a fetch that hosts the receiver")
    };
    let mut stopped = Guarded(site.command(&["serve"]).stderr(log("stopped")).spawn().unwrap());
    let mut service = Guarded(site.command(&["serve"]).stderr(log("service")).spawn().unwrap());
    until("both services wait", LONG, || waits("stopped") && waits("service"));
    signal(&stopped.0, "TERM");
    assert_eq!(stopped.0.wait().unwrap().code(), Some(0));
    let mut line = String::new();
    BufReader::new(service.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let fetched = texts(host.wait_with_output().unwrap());
    assert_eq!((fetched.0, fetched.1.lines().count()), (Some(0), 3), "{fetched:?}");
    assert!(line.contains("receives on"), "{line}");
    // Another service is no fetch: that is told at once.
    let second = texts(site.command(&["serve"]).output().unwrap());
    assert!(second.0 == Some(1) && second.2.contains("another receiver files into"), "{second:?}");
    signal(&service.0, "TERM");
    assert_eq!(service.0.wait().unwrap().code(), Some(0));
}
