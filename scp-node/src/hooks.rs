//! Runs the site's command when a session of images has been quiet for a while.
//!
//! Input: what the store tells after each commit, and the settings `[hooks]`. Output: processes, at most `at_once` of
//! them, each ended after `timeout_s`, and one log line for each. No shell is involved, and a command is never trusted
//! with more than a directory: its output is not logged but for the last line of an error, without path and patient ID.
//! A session that gets more images later is run again. One whose command had not ended when the service stopped, or was
//! killed, is run after its next start (`noted`).

mod noted;

use std::collections::{HashMap, HashSet, VecDeque};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::sync::broadcast::{Receiver, error::RecvError};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::images::{Arrived, Catalog, Session};
use crate::settings::{CONFIG_VARIABLE, HookSettings};
use noted::Noted;

/// What stands for the session's directory in an argument.
const DIRECTORY: &str = "{directory}";
/// How often a session is let wait another `settle_s` for its plan's label: its directory is renamed when it comes.
const LABEL_WAITS: u32 = 6;
/// How much of a command's error output is kept.
const OUTPUT_MAX: usize = 64 * 1024;
/// How much of its last line is logged.
const LINE_MAX: usize = 300;

/// Runs until `shutdown`; commands that run then are ended, and run again after the next start.
///
/// # Arguments
/// * `config` — settings file that the command is to use too, as `SCP_NODE_CONFIG`
/// * `arrived` — from [`crate::images::Store::subscribe`]
/// * `catalog` — of the same root
/// * `shutdown` — cancelled when nothing arrives any more
pub async fn run(
    settings: HookSettings,
    config: Option<PathBuf>,
    mut arrived: Receiver<Arrived>,
    catalog: Catalog,
    shutdown: CancellationToken,
) {
    if settings.session_complete.is_empty() {
        return;
    }
    let mut queue = Queue::new(catalog, Duration::from_secs_f64(settings.settle_s));
    let mut running = JoinSet::new();
    loop {
        let due = queue.due();
        tokio::select! {
            () = shutdown.cancelled() => {
                while let Ok(event) = arrived.try_recv() {
                    queue.arrived(event.session);
                }
                return;
            }
            event = arrived.recv() => match event {
                Ok(event) => queue.arrived(event.session),
                Err(RecvError::Lagged(lost)) => {
                    tracing::warn!(lost, "hooks: arrivals came faster than they could be noted; some sessions are not run");
                }
                Err(RecvError::Closed) => return,
            },
            () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => queue.settle(),
            Some(ended) = running.join_next(), if !running.is_empty() => {
                if let Ok(id) = ended {
                    queue.ended(id);
                }
            },
        }
        while running.len() < settings.at_once {
            let Some(next) = queue.next() else { break };
            let (settings, config) = (settings.clone(), config.clone());
            running.spawn(async move {
                one(&settings, config.as_deref(), &next).await;
                next.id
            });
        }
    }
}

/// Sessions on their way to their command, by row id: waiting to be quiet, ready, active.
struct Queue {
    catalog: Catalog,
    settle: Duration,
    waiting: HashMap<i64, Waiting>,
    ready: VecDeque<Session>,
    active: HashSet<i64>,
    noted: Noted,
}

struct Waiting {
    due: Instant,
    label_waits: u32,
}

impl Queue {
    fn new(catalog: Catalog, settle: Duration) -> Self {
        let noted = Noted::read(&catalog);
        let due = Instant::now() + settle;
        let waiting = noted.ids().into_iter().map(|id| (id, Waiting { due, label_waits: 0 })).collect();
        Self { catalog, settle, waiting, ready: VecDeque::new(), active: HashSet::new(), noted }
    }

    fn due(&self) -> Option<Instant> {
        self.waiting.values().map(|waiting| waiting.due).min()
    }

    fn arrived(&mut self, id: i64) {
        self.waiting.insert(id, Waiting { due: Instant::now() + self.settle, label_waits: 0 });
        self.noted.add(id, &self.catalog);
    }

    /// Makes ready what has been quiet for long enough.
    fn settle(&mut self) {
        let now = Instant::now();
        let quiet: Vec<i64> = self.waiting.iter().filter(|(_, w)| w.due <= now).map(|(id, _)| *id).collect();
        for id in quiet {
            let Some(mut waiting) = self.waiting.remove(&id) else { continue };
            match self.catalog.session_by_id(id) {
                Ok(Some(found))
                    if found.plan_label.is_none()
                        && found.plan_uid.is_some()
                        && waiting.label_waits < LABEL_WAITS =>
                {
                    waiting.label_waits += 1;
                    waiting.due = now + self.settle;
                    self.waiting.insert(id, waiting);
                }
                Ok(Some(found)) => {
                    self.ready.retain(|other| other.id != id);
                    self.ready.push_back(found);
                }
                Ok(None) => self.noted.remove(id),
                Err(error) => {
                    tracing::warn!(%error, "hooks: a session cannot be looked up; it is not run");
                }
            }
        }
    }

    /// The next session to run. One session is never run twice at once; its second run waits for the first.
    fn next(&mut self) -> Option<Session> {
        let at = self.ready.iter().position(|session| !self.active.contains(&session.id))?;
        let next = self.ready.remove(at)?;
        self.active.insert(next.id);
        Some(next)
    }

    fn ended(&mut self, id: i64) {
        self.active.remove(&id);
        if !self.waiting.contains_key(&id) && self.ready.iter().all(|session| session.id != id) {
            self.noted.remove(id);
        }
    }
}

async fn one(settings: &HookSettings, config: Option<&Path>, session: &Session) {
    let started = Instant::now();
    let series = session.series_uid.as_str();
    let Some(mut command) = command(settings, config, &session.directory) else { return };
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => {
            tracing::error!(series, %error, "hooks.session_complete cannot be started; check its first word");
            return;
        }
    };
    let errors = child.stderr.take();
    let read = async {
        let mut tail = Vec::new();
        if let Some(errors) = errors {
            tail = tail_of(errors).await;
        }
        (child.wait().await, tail)
    };
    match tokio::time::timeout(Duration::from_secs_f64(settings.timeout_s), read).await {
        Err(_) => {
            tracing::error!(
                series,
                timeout_s = settings.timeout_s,
                "hooks.session_complete took too long and was ended; raise hooks.timeout_s if it needs longer"
            );
        }
        Ok((Ok(status), _)) if status.success() => {
            tracing::info!(
                series,
                took_s = started.elapsed().as_secs_f64(),
                "hooks.session_complete is done"
            );
        }
        Ok((Ok(status), tail)) => {
            let said = last_line(&tail, session);
            tracing::error!(series, %status, said, "hooks.session_complete failed");
        }
        Ok((Err(error), _)) => tracing::error!(series, %error, "hooks.session_complete cannot be waited for"),
    }
}

fn command(settings: &HookSettings, config: Option<&Path>, directory: &Path) -> Option<Command> {
    let (program, arguments) = settings.session_complete.split_first()?;
    let mut command = Command::new(program);
    let mut named = false;
    for argument in arguments {
        if argument.contains(DIRECTORY) {
            named = true;
            // Lossless for every path that `layout` makes: its parts are ASCII; the root came from a TOML text.
            command.arg(argument.replace(DIRECTORY, &directory.to_string_lossy()));
        } else {
            command.arg(argument);
        }
    }
    if !named {
        command.arg(directory);
    }
    if let Some(config) = config {
        command.env(CONFIG_VARIABLE, config);
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    Some(command)
}

/// The last [`OUTPUT_MAX`] bytes; all is read, so that the command never waits for a full pipe.
async fn tail_of(mut errors: tokio::process::ChildStderr) -> Vec<u8> {
    use tokio::io::AsyncReadExt;
    let mut tail = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(n @ 1..) = errors.read(&mut buffer).await {
        tail.extend_from_slice(buffer.get(..n).unwrap_or_default());
        let over = tail.len().saturating_sub(OUTPUT_MAX);
        tail.drain(..over);
    }
    tail
}

fn last_line(output: &[u8], session: &Session) -> String {
    let text = String::from_utf8_lossy(output);
    let line = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("").trim();
    let line = line.replace(&*session.directory.to_string_lossy(), "<directory>");
    let line =
        if session.patient_id.is_empty() { line } else { line.replace(&session.patient_id, "<patient>") };
    line.chars().take(LINE_MAX).collect()
}

#[cfg(test)]
#[cfg(unix)] // the commands of these tests are shell scripts
mod tests {
    use super::*;
    use tokio::sync::broadcast;

    const DEADLINE: Duration = Duration::from_secs(20);

    fn session(id: i64, root: &Path, label: Option<&str>) -> Session {
        Session {
            id,
            patient_id: "P1".into(),
            plan_uid: Some("1.2.3".into()),
            plan_label: label.map(Into::into),
            series_uid: format!("1.2.{id}"),
            date: None,
            acquired: None,
            directory: root.join(format!("P1-session-{id}")),
            images: 1,
        }
    }

    fn settings(script: &str, root: &Path) -> HookSettings {
        let path = root.join("hook.sh");
        std::fs::write(&path, script).unwrap();
        let words = ["/bin/sh", path.to_str().unwrap(), root.to_str().unwrap()];
        HookSettings {
            session_complete: words.map(Into::into).to_vec(),
            settle_s: 0.2,
            at_once: 2,
            timeout_s: 60.0,
        }
    }

    async fn until(mut condition: impl FnMut() -> bool, what: &str) {
        let end = Instant::now() + DEADLINE;
        while !condition() {
            assert!(Instant::now() < end, "never: {what}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn lines(path: &Path) -> Vec<String> {
        std::fs::read_to_string(path).unwrap_or_default().lines().map(Into::into).collect()
    }

    struct Running {
        arrived: broadcast::Sender<Arrived>,
        shutdown: CancellationToken,
        task: tokio::task::JoinHandle<()>,
    }

    /// Makes sure that the catalog has sessions 0 to 6, and starts.
    fn start(settings: HookSettings, root: &Path, label: Option<&str>) -> Running {
        let (arrived, receiver) = broadcast::channel(64);
        let shutdown = CancellationToken::new();
        let catalog = Catalog::open(root).unwrap();
        for id in 0..7 {
            let session = session(id, root, label);
            let sql = "INSERT OR IGNORE INTO sessions (id, kind, patient_id, plan_uid, plan_label, series_uid, directory)
                       VALUES (?1, 'images', ?2, ?3, ?4, ?5, ?6)";
            let directory = session.directory.to_str().unwrap();
            let values = (
                id,
                &session.patient_id,
                &session.plan_uid,
                &session.plan_label,
                &session.series_uid,
                directory,
            );
            catalog.connection().execute(sql, values).unwrap();
        }
        let task =
            tokio::spawn(run(settings, Some("/tmp/config.toml".into()), receiver, catalog, shutdown.clone()));
        Running { arrived, shutdown, task }
    }

    impl Running {
        fn tell(&self, session: i64) {
            self.arrived.send(Arrived { session, unresolved: None }).unwrap();
        }

        async fn stop(self) {
            self.shutdown.cancel();
            self.task.await.unwrap();
        }
    }

    #[tokio::test]
    async fn runs_once_per_quiet_session_with_its_directory_and_the_settings_file() {
        let root = tempfile::tempdir().unwrap();
        let log = root.path().join("log");
        let script = "echo \"$2 $SCP_NODE_CONFIG\" >> \"$1/log\"";
        let settings = HookSettings { settle_s: 2.0, ..settings(script, root.path()) };
        let hooks = start(settings, root.path(), Some("WL"));
        for _ in 0..5 {
            hooks.tell(1);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        hooks.tell(2);
        until(|| lines(&log).len() == 2, "two sessions ran").await;
        let mut said = lines(&log);
        said.sort();
        let directory = |id| format!("{}/P1-session-{id} /tmp/config.toml", root.path().display());
        assert_eq!(said, [directory(1), directory(2)]);
        hooks.tell(1);
        until(|| lines(&log).len() == 3, "a session that got more images ran again").await;
        hooks.stop().await;
    }

    #[tokio::test]
    async fn never_runs_more_at_once_than_allowed() {
        let root = tempfile::tempdir().unwrap();
        let script = "mkdir \"$1/run.$$\"; ls -d \"$1\"/run.* | wc -l >> \"$1/counts\"; sleep 0.3; rmdir \"$1/run.$$\"";
        let hooks = start(settings(script, root.path()), root.path(), Some("WL"));
        (0..6).for_each(|id| hooks.tell(id));
        let counts = root.path().join("counts");
        until(|| lines(&counts).len() == 6, "six sessions ran").await;
        assert!(lines(&counts).iter().all(|n| n.trim().parse::<u32>().unwrap() <= 2), "{:?}", lines(&counts));
        hooks.stop().await;
    }

    #[tokio::test]
    async fn ends_a_command_that_takes_too_long_and_goes_on() {
        let root = tempfile::tempdir().unwrap();
        let script =
            "echo start >> \"$1/log\"; case \"$2\" in *-1) exec sleep 60;; esac; echo end >> \"$1/log\"";
        let settings = HookSettings { timeout_s: 3.0, at_once: 1, ..settings(script, root.path()) };
        let hooks = start(settings, root.path(), Some("WL"));
        hooks.tell(1);
        let log = root.path().join("log");
        until(|| lines(&log).len() == 1, "the first began").await;
        hooks.tell(2);
        until(|| lines(&log) == ["start", "start", "end"], "the second ran after the first was ended").await;
        hooks.stop().await;
    }

    #[tokio::test]
    async fn waits_for_the_plans_label_but_not_for_ever() {
        let root = tempfile::tempdir().unwrap();
        let settings = HookSettings { settle_s: 0.05, ..settings("echo ran >> \"$1/log\"", root.path()) };
        let begun = Instant::now();
        let hooks = start(settings, root.path(), None);
        hooks.tell(1);
        until(|| lines(&root.path().join("log")).len() == 1, "it ran without a label").await;
        assert!(begun.elapsed() >= Duration::from_millis(50) * LABEL_WAITS);
        hooks.stop().await;
    }

    #[tokio::test]
    async fn a_session_that_was_not_quiet_or_not_done_at_a_stop_runs_after_the_next_start() {
        let root = tempfile::tempdir().unwrap();
        let log = root.path().join("log");
        let slow = "echo began >> \"$1/log\"; case \"$2\" in *-1) exec sleep 60;; esac";
        let hooks = start(settings(slow, root.path()), root.path(), Some("WL"));
        hooks.tell(1);
        hooks.tell(2);
        let noted = root.path().join("_catalog").join("hooks.jsonl");
        until(|| lines(&log).len() == 2, "both began").await;
        until(|| lines(&noted).len() == 1, "the quick one is done").await;
        hooks.tell(3);
        hooks.stop().await;

        std::fs::remove_file(&log).unwrap();
        let quick = || settings("echo \"$2\" >> \"$1/log\"", root.path());
        let hooks = start(quick(), root.path(), Some("WL"));
        until(|| lines(&log).len() == 2, "the ended one and the one that was not quiet ran").await;
        hooks.tell(4);
        until(|| lines(&log).len() == 3, "the new one ran").await;
        let mut said = lines(&log);
        said.sort();
        assert_eq!(
            said,
            [1, 3, 4].map(|id| root.path().join(format!("P1-session-{id}")).display().to_string())
        );
        until(|| lines(&noted).is_empty(), "nothing is left to do").await;
        hooks.stop().await;
    }

    #[test]
    fn a_failing_commands_last_line_is_logged_without_path_and_patient() {
        let session = session(7, Path::new("/data"), None);
        let line = last_line(b"first\nerror: /data/P1-session-7 of P1 is bad\n\n", &session);
        assert_eq!(line, "error: <directory> of <patient> is bad");
    }
}
