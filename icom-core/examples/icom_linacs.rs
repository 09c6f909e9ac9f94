//! Many emulated linacs, for `tests/bench/icom`.
//!
//! `icom_linacs SECONDS RATE_HZ...`: one linac per rate, ports on the first line of stdout as JSON. When all is sent: how many messages, the longest
//! blocked send, and for the first eight linacs and the fastest when each message was sent, so that whoever watches can tell how old it was.

use std::io::Write;
use std::time::{Duration, Instant, SystemTime};

use icom_core::Error;
use icom_core::emulate::{Behaviour, Emulator};
use icom_core::script::Script;

const WATCHED: usize = 8;

fn main() -> icom_core::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [seconds, rates @ ..] = arguments.as_slice() else {
        return Err(Error::Misuse { what: "icom_linacs SECONDS RATE_HZ...".into() });
    };
    let seconds: f64 = seconds.parse().unwrap_or(10.0);
    let rates: Vec<f64> = rates.iter().filter_map(|rate| rate.parse().ok()).collect();
    let linacs = rates.iter().map(|rate| start(*rate, seconds)).collect::<icom_core::Result<Vec<_>>>()?;
    let ports: Vec<u16> = linacs.iter().map(|linac| linac.address().port()).collect();
    say(&serde_json::json!(ports))?;
    let end = Instant::now() + Duration::from_secs_f64(seconds + 10.0);
    while Instant::now() < end && !linacs.iter().all(Emulator::all_sent) {
        std::thread::sleep(Duration::from_millis(50));
    }
    // What was sent last is yet to be seen.
    std::thread::sleep(Duration::from_millis(300));
    report(linacs, &rates, seconds)
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

/// Clock and counter name a message.
fn name(linac_time: chrono::NaiveDateTime, counter: u8) -> String {
    format!("{} {counter}", linac_time.format("%Y-%m-%dT%H:%M:%S"))
}

fn report(linacs: Vec<Emulator>, rates: &[f64], seconds: f64) -> icom_core::Result<()> {
    let (mut sent, mut blocked_s) = (0, 0.0_f64);
    let mut watched = serde_json::Map::new();
    let fastest = rates.len().saturating_sub(1);
    for (n, (linac, rate)) in linacs.into_iter().zip(rates).enumerate() {
        let report = linac.stop();
        sent += report.sent.len();
        blocked_s = blocked_s.max(report.longest_blocked_s);
        if n < WATCHED || n == fastest {
            let of_linac: Vec<_> = messages(*rate, seconds)
                .zip(&report.sent)
                .map(|(message, sent)| {
                    let at = sent.at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
                    serde_json::json!([name(message.linac_time, message.counter), at.as_secs_f64()])
                })
                .collect();
            watched.insert(format!("linac{n}"), of_linac.into());
        }
    }
    say(&serde_json::json!({
        "sent": sent, "longest_blocked_ms": blocked_s * 1000.0, "watched": watched,
    }))
}

fn say(value: &serde_json::Value) -> icom_core::Result<()> {
    let mut stdout = std::io::stdout();
    writeln!(stdout, "{value}").and_then(|()| stdout.flush()).map_err(Error::io("stdout"))
}
