//! Runs the site's command when a session of images has been quiet for a while.
//!
//! Input: what the store tells after each commit, and the settings `[hooks]`. Output: processes, at most `at_once` of
//! them, each ended after `timeout_s`, and one log line for each. No shell is involved, and a command is never trusted
//! with more than a directory: its output is not logged but for the last line of an error, without path and patient ID.
//! A session that gets more images later is run again. Sessions that were not yet quiet when the service stopped are
//! not run after its start: the command prepares, it is not what makes a result available.

use std::collections::{HashMap, HashSet, VecDeque};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::sync::broadcast::{Receiver, error::RecvError};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::error::Result;
use crate::images::{Arrived, Session};
use crate::settings::{CONFIG_VARIABLE, HookSettings};

/// What stands for the session's directory in an argument.
const DIRECTORY: &str = "{directory}";
/// How often a session is let wait another `settle_s` for its plan's label: its directory is renamed when it comes.
const LABEL_WAITS: u32 = 6;
/// How much of a command's error output is kept.
const OUTPUT_MAX: usize = 64 * 1024;
/// How much of its last line is logged.
const LINE_MAX: usize = 300;

/// Runs until `shutdown`; commands that run then are ended.
///
/// # Arguments
/// * `config` — settings file that the command is to use too, as `SCP_NODE_CONFIG`
/// * `arrived` — from [`crate::images::Store::subscribe`]
/// * `session` — looks a session up by its row id
pub async fn run(
    settings: HookSettings,
    config: Option<PathBuf>,
    mut arrived: Receiver<Arrived>,
    session: impl Fn(i64) -> Result<Option<Session>>,
    shutdown: CancellationToken,
) {
    if settings.session_complete.is_empty() {
        return;
    }
    let settle = Duration::from_secs_f64(settings.settle_s);
    let mut waiting: HashMap<i64, Waiting> = HashMap::new();
    let mut ready: VecDeque<Session> = VecDeque::new();
    let mut active: HashSet<i64> = HashSet::new();
    let mut running = JoinSet::new();
    loop {
        let due = waiting.values().map(|w| w.due).min();
        tokio::select! {
            () = shutdown.cancelled() => return,
            event = arrived.recv() => match event {
                Ok(event) => {
                    waiting.insert(event.session, Waiting { due: Instant::now() + settle, label_waits: 0 });
                }
                Err(RecvError::Lagged(lost)) => {
                    tracing::warn!(lost, "hooks: arrivals came faster than they could be noted; some sessions are not run");
                }
                Err(RecvError::Closed) => return,
            },
            () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                let now = Instant::now();
                let quiet: Vec<i64> = waiting.iter().filter(|(_, w)| w.due <= now).map(|(id, _)| *id).collect();
                for id in quiet {
                    settle_one(id, settle, &mut waiting, &mut ready, &session);
                }
            },
            Some(ended) = running.join_next(), if !running.is_empty() => {
                if let Ok(id) = ended {
                    active.remove(&id);
                }
            },
        }
        while running.len() < settings.at_once {
            // One session is never run twice at once; its second run waits for the first.
            let Some(at) = ready.iter().position(|s| !active.contains(&s.id)) else { break };
            let Some(next) = ready.remove(at) else { break };
            active.insert(next.id);
            let (settings, config) = (settings.clone(), config.clone());
            running.spawn(async move {
                one(&settings, config.as_deref(), &next).await;
                next.id
            });
        }
    }
}

struct Waiting {
    due: Instant,
    label_waits: u32,
}

fn settle_one(
    id: i64,
    settle: Duration,
    waiting: &mut HashMap<i64, Waiting>,
    ready: &mut VecDeque<Session>,
    session: &impl Fn(i64) -> Result<Option<Session>>,
) {
    let Some(mut entry) = waiting.remove(&id) else { return };
    match session(id) {
        Ok(Some(found))
            if found.plan_label.is_none() && found.plan_uid.is_some() && entry.label_waits < LABEL_WAITS =>
        {
            entry.label_waits += 1;
            entry.due = Instant::now() + settle;
            waiting.insert(id, entry);
        }
        Ok(Some(found)) => {
            ready.retain(|other| other.id != id);
            ready.push_back(found);
        }
        Ok(None) => {}
        Err(error) => tracing::warn!(%error, "hooks: a session cannot be looked up; it is not run"),
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
            timeout_s: 10.0,
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

    fn start(settings: HookSettings, root: &Path, label: Option<&'static str>) -> Running {
        let (arrived, receiver) = broadcast::channel(64);
        let shutdown = CancellationToken::new();
        let (root, token) = (root.to_path_buf(), shutdown.clone());
        let task = tokio::spawn(async move {
            let find = |id| Ok(Some(session(id, &root, label)));
            run(settings, Some("/tmp/config.toml".into()), receiver, find, token).await;
        });
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
        let hooks = start(
            settings("echo \"$2 $SCP_NODE_CONFIG\" >> \"$1/log\"", root.path()),
            root.path(),
            Some("WL"),
        );
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
        let settings = HookSettings { timeout_s: 0.3, at_once: 1, ..settings(script, root.path()) };
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

    #[test]
    fn a_failing_commands_last_line_is_logged_without_path_and_patient() {
        let session = session(7, Path::new("/data"), None);
        let line = last_line(b"first\nerror: /data/P1-session-7 of P1 is bad\n\n", &session);
        assert_eq!(line, "error: <directory> of <patient> is bad");
    }
}
