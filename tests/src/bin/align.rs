//! Prints how whole days and PyMedPhys's rule do on made-up clinics, by how far the linacs' clocks are off.
//!
//! `align SEEDS`: so many clinics per line, and how long a day takes.

#![expect(clippy::print_stdout, reason = "the result")]

use std::time::{Duration, Instant};

use tests::clinic::score::{self, Score};
use tests::clinic::{Clinic, Settings};
use trf_core::align;

const OFFSETS_S: [f64; 9] = [0.0, 60.0, -60.0, 180.0, -180.0, 300.0, -300.0, 600.0, -600.0];

fn main() {
    let n_seeds: u64 = std::env::args().nth(1).and_then(|argument| argument.parse().ok()).unwrap_or(4);
    println!(
        "unambiguous records: right / to review / missed / wrong row / wrong patient; records without a row that got one"
    );
    println!("{:>18} | {:>8} | {:>34} | {:>34}", "clocks", "records", "whole day", "PyMedPhys's rule");
    for offset_s in OFFSETS_S {
        line(&format!("off by {offset_s} s"), n_seeds, |seed| Settings {
            n_days: 20,
            steady_offset_s: Some(offset_s),
            ..Settings::of_seed(seed)
        });
    }
    line("drifting, set", n_seeds, Settings::of_seed);
    speed();
}

fn line(name: &str, n_seeds: u64, settings: impl Fn(u64) -> Settings) {
    let (mut ours, mut theirs) = (Score::default(), Score::default());
    for seed in 1000..1000 + n_seeds {
        let clinic = Clinic::new(settings(seed));
        ours.add(score::whole_days(&clinic));
        theirs.add(score::like_pymedphys(&clinic));
    }
    let text = |score: &Score| {
        let Score { right, to_review, missed, wrong_row, wrong_patient, .. } = score;
        format!("{right} / {to_review} / {missed} / {wrong_row} / {wrong_patient}")
    };
    println!("{name:>18} | {:>8} | {:>34} | {:>34}", ours.unambiguous(), text(&ours), text(&theirs));
}

/// The slowest and the median day of a busy clinic.
fn speed() {
    let clinic = Clinic::new(Settings { patients_a_day: 45, n_days: 30, ..Settings::of_seed(1) });
    let mut days: Vec<(Duration, usize)> = Vec::new();
    score::for_each_day(&clinic, |_, _, logs, treatments, before| {
        let mut options = clinic.options();
        options.drift_before = before;
        let begin = Instant::now();
        let day = align::align_day(logs, treatments, &options);
        days.push((begin.elapsed(), logs.len()));
        day.drift
    });
    days.retain(|day| day.1 >= 90);
    days.sort();
    if let (Some(median), Some(slowest)) = (days.get(days.len() / 2), days.last()) {
        let ms = |day: &(Duration, usize)| day.0.as_secs_f64() * 1000.0;
        println!(
            "{} days of 90 records or more: median {:.1} ms ({} records), slowest {:.1} ms",
            days.len(),
            ms(median),
            median.1,
            ms(slowest)
        );
    }
}
