//! Many emulated linacs and a watcher of live files, for `tests/bench/icom`.
//!
//! `icom_linacs DIR SECONDS RATE_HZ...`: one linac per rate, ports on the first line of stdout as JSON. When all is sent: how long each message took to
//! be visible in DIR/live (for the first eight linacs and the fastest), and the longest blocked send.

use std::collections::HashMap;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use icom_core::emulate::{Behaviour, Emulator};
use icom_core::script::Script;
use icom_core::{Error, live};

const WATCHED: usize = 8;
const POLL: Duration = Duration::from_millis(4);

fn main() -> icom_core::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [dir, seconds, rates @ ..] = arguments.as_slice() else {
        return Err(Error::Misuse { what: "icom_linacs DIR SECONDS RATE_HZ...".into() });
    };
    let seconds: f64 = seconds.parse().unwrap_or(10.0);
    let rates: Vec<f64> = rates.iter().filter_map(|rate| rate.parse().ok()).collect();
    let linacs = rates.iter().map(|rate| start(*rate, seconds)).collect::<icom_core::Result<Vec<_>>>()?;
    let ports: Vec<u16> = linacs.iter().map(|linac| linac.address().port()).collect();
    say(&serde_json::json!(ports))?;
    let fastest = rates.len().saturating_sub(1);
    let watched: Vec<usize> = (0..rates.len()).filter(|n| *n < WATCHED || *n == fastest).collect();
    let mut seen: HashMap<(usize, String), SystemTime> = HashMap::new();
    let end = Instant::now() + Duration::from_secs_f64(seconds + 10.0);
    while Instant::now() < end && !linacs.iter().all(Emulator::all_sent) {
        for n in &watched {
            if let Some(key) = shown(dir.as_ref(), *n) {
                seen.entry((*n, key)).or_insert_with(SystemTime::now);
            }
        }
        std::thread::sleep(POLL);
    }
    report(linacs, &rates, seconds, &watched, &seen)
}

fn messages(rate_hz: f64, seconds: f64) -> impl Iterator<Item = icom_core::encode::Message> {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a few thousand")]
    let count = (rate_hz * seconds) as usize;
    let script = Script::new("bench", icom_core::encode::time(0), Script::day(200, 240)).clock_hz(rate_hz);
    script.messages().take(count).collect::<Vec<_>>().into_iter()
}

fn start(rate_hz: f64, seconds: f64) -> icom_core::Result<Emulator> {
    let encoded = messages(rate_hz, seconds).map(|message| message.encode());
    Emulator::start("127.0.0.1:0", encoded, Behaviour { rate_hz, ..Behaviour::default() })
}

/// To the second, as on the wire.
fn name(linac_time: chrono::NaiveDateTime, counter: u8) -> String {
    format!("{} {counter}", linac_time.format("%H:%M:%S"))
}

/// Which message a live file shows: clock and counter name it.
fn shown(dir: &Path, n: usize) -> Option<String> {
    let snapshot = live::read_any_age(dir, &format!("linac{n}")).ok()?.snapshot?;
    Some(name(snapshot.linac_time, snapshot.counter))
}

fn report(
    linacs: Vec<Emulator>,
    rates: &[f64],
    seconds: f64,
    watched: &[usize],
    seen: &HashMap<(usize, String), SystemTime>,
) -> icom_core::Result<()> {
    let mut latencies_ms = Vec::new();
    let (mut sent, mut unseen, mut blocked_s) = (0, 0, 0.0_f64);
    for (n, (linac, rate)) in linacs.into_iter().zip(rates).enumerate() {
        let report = linac.stop();
        sent += report.sent.len();
        blocked_s = blocked_s.max(report.longest_blocked_s);
        if !watched.contains(&n) {
            continue;
        }
        for (message, sent) in messages(*rate, seconds).zip(&report.sent) {
            let key = (n, name(message.linac_time, message.counter));
            match seen.get(&key).and_then(|at| at.duration_since(sent.at).ok()) {
                Some(latency) => latencies_ms.push(latency.as_secs_f64() * 1000.0),
                None => unseen += 1,
            }
        }
    }
    latencies_ms.sort_by(f64::total_cmp);
    let percentile = |percent: usize| latencies_ms.get(latencies_ms.len() * percent / 100).copied();
    say(&serde_json::json!({
        "sent": sent, "watched": latencies_ms.len(), "unseen": unseen, "p50_ms": percentile(50),
        "p99_ms": percentile(99), "longest_blocked_ms": blocked_s * 1000.0,
    }))
}

fn say(value: &serde_json::Value) -> icom_core::Result<()> {
    let mut stdout = std::io::stdout();
    writeln!(stdout, "{value}").and_then(|()| stdout.flush()).map_err(Error::io("stdout"))
}
