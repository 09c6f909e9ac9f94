//! `icom emulate` and `icom replay`: an emulated linac.

use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use icom_core::archive;
use icom_core::emulate::{Behaviour, Emulator, Fault, Left, Report};
use icom_core::frame::frames_of;
use icom_core::script::Script;
use serde::Serialize;

use super::super::Printer;
use super::super::serve::stopped;
use super::runtime;
use crate::error::{Error, Result};

/// Where to serve, and how fast.
#[derive(Debug, clap::Args)]
struct Serve {
    /// Messages per second; 0 sends as fast as the client reads.
    #[arg(long, value_name = "HZ", default_value_t = 4.0)]
    rate: f64,
    /// Address to listen on.
    #[arg(long, default_value = "127.0.0.1")]
    bind: IpAddr,
    /// Faults at message N: split@N:BYTES, join@N:MESSAGES, fin@N:BYTES, rst@N:BYTES, silence@N:BYTES, absent@N:SECONDS,
    /// duplicate@N, skip@N, garbage@N:BYTES, stall@N:SECONDS.
    #[arg(long = "fault", value_name = "FAULT@N[:HOW]", value_parser = parse_fault)]
    faults: Vec<(usize, Fault)>,
    /// Goes on serving when all is sent, until its client leaves or it is stopped.
    #[arg(long)]
    linger: bool,
}

/// `icom emulate`.
#[derive(Debug, clap::Args)]
pub(super) struct Emulate {
    /// Port to listen on; 0: any, and it is printed.
    #[arg(long, default_value_t = icom_core::settings::ICOM_PORT)]
    port: u16,
    /// Patients, one after the other.
    #[arg(long, default_value_t = 2)]
    patients: u32,
    /// Messages of each of a patient's two fields.
    #[arg(long, default_value_t = 120)]
    messages: u32,
    /// Linac's name.
    #[arg(long, default_value = "4299")]
    machine: String,
    /// Counter of the first message.
    #[arg(long, default_value_t = 0)]
    counter: u8,
    #[command(flatten)]
    serve: Serve,
}

/// `icom replay`.
#[derive(Debug, clap::Args)]
pub(super) struct Replay {
    /// Recorded file, `.xz` or raw bytes of a stream.
    file: PathBuf,
    /// Port to serve it on; 0: any, and it is printed.
    #[arg(long = "to", value_name = "PORT")]
    port: u16,
    #[command(flatten)]
    serve: Serve,
}

/// What the emulator saw, as it is printed.
#[derive(Serialize)]
struct Summary {
    sent: usize,
    longest_blocked_ms: f64,
    links: Vec<Left>,
    second_clients: u64,
    dropped: u64,
    faults_done: usize,
}

impl Emulate {
    pub(super) fn run(&self, printer: Printer) -> Result<ExitCode> {
        let start = chrono::Local::now().naive_local();
        let clock_hz = if self.serve.rate > 0.0 { self.serve.rate } else { 4.0 };
        let script = Script::new(&self.machine, start, Script::day(self.patients, self.messages))
            .clock_hz(clock_hz)
            .first_counter(self.counter);
        let messages: Vec<Vec<u8>> = script.messages().map(|message| message.encode()).collect();
        self.serve.run(self.port, messages, printer)
    }
}

impl Replay {
    pub(super) fn run(&self, printer: Printer) -> Result<ExitCode> {
        let (frames, _) = frames_of(&archive::read(&self.file)?);
        if frames.is_empty() {
            return Err(Error::Malformed {
                section: "iCom record",
                offset: None,
                expected: "messages".into(),
                found: format!("none in {}", self.file.display()),
            });
        }
        self.serve.run(self.port, frames.into_iter().map(|frame| frame.bytes).collect(), printer)
    }
}

impl Serve {
    fn run(&self, port: u16, messages: Vec<Vec<u8>>, printer: Printer) -> Result<ExitCode> {
        let total = messages.len();
        let rate_hz = if self.rate > 0.0 { self.rate } else { f64::INFINITY };
        let behaviour = Behaviour { rate_hz, faults: self.faults.clone(), wait_for_client: true };
        let emulator = Emulator::start((self.bind, port), messages.into_iter(), behaviour)?;
        printer.note(format!("emulated linac at {}, {total} messages", emulator.address()));
        runtime()?.block_on(async {
            tokio::select! {
                () = self.finished(&emulator) => {}
                () = stopped() => {}
            }
        });
        let summary = Summary::of(&emulator.stop());
        printer.json(&summary);
        printer.line(format!("sent {} of {total} messages", summary.sent));
        printer.line(format!("longest blocked send {:.1} ms", summary.longest_blocked_ms));
        for left in &summary.links {
            printer.line(format!("link ended by {}", describe(*left)));
        }
        Ok(ExitCode::SUCCESS)
    }

    async fn finished(&self, emulator: &Emulator) {
        loop {
            let gone = emulator.report().links.iter().any(|left| *left != Left::Emulator);
            if emulator.all_sent() && (!self.linger || gone) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Summary {
    fn of(report: &Report) -> Self {
        Self {
            sent: report.sent.len(),
            longest_blocked_ms: report.longest_blocked_s * 1000.0,
            links: report.links.clone(),
            second_clients: report.second_clients,
            dropped: report.dropped,
            faults_done: report.faults_done,
        }
    }
}

const fn describe(left: Left) -> &'static str {
    match left {
        Left::Fin => "its client, in order (FIN)",
        Left::Rst => "its client, by reset (RST): a linac may raise an interlock",
        Left::Stalled => "the emulator, its client did not read",
        Left::Emulator => "the emulator",
    }
}

fn parse_fault(text: &str) -> Result<(usize, Fault), String> {
    let usage = || format!("`{text}` is no fault; see --help, such as fin@40:100");
    let (kind, rest) = text.split_once('@').ok_or_else(usage)?;
    let (at, how) = rest.split_once(':').map_or((rest, None), |(at, how)| (at, Some(how)));
    let at = at.parse().map_err(|_| usage())?;
    let bytes = || how.map_or(Ok(100), str::parse::<usize>).map_err(|_| usage());
    let duration = || {
        let seconds = how.map_or(Ok(1.0), str::parse::<f64>).map_err(|_| usage())?;
        Duration::try_from_secs_f64(seconds).map_err(|_| usage())
    };
    let fault = match kind {
        "split" => Fault::Split { bytes: bytes()?, pause: Duration::from_millis(2) },
        "join" => Fault::Join { messages: bytes()? },
        "fin" => Fault::Fin { after: bytes()? },
        "rst" => Fault::Rst { after: bytes()? },
        "silence" => Fault::Silence { after: bytes()? },
        "absent" => Fault::Absent { duration: duration()? },
        "duplicate" => Fault::Duplicate,
        "skip" => Fault::Skip,
        "garbage" => Fault::Garbage { bytes: vec![0xFF; bytes()?.min(1 << 20)] },
        "stall" => Fault::Stall { duration: duration()? },
        _ => return Err(usage()),
    };
    Ok((at, fault))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_read_and_what_is_none_is_refused() {
        assert_eq!(parse_fault("fin@40:8"), Ok((40, Fault::Fin { after: 8 })));
        assert_eq!(parse_fault("skip@3"), Ok((3, Fault::Skip)));
        for wrong in ["fin", "fin@x", "melt@3", "stall@3:-1", "split@1:x"] {
            assert!(parse_fault(wrong).is_err(), "{wrong}");
        }
    }
}
