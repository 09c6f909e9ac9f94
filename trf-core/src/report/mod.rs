//! The delivery check as a page: two maps and their difference, the numbers, a histogram of leaf errors and the worst leaves.
//!
//! Input: a [`Check`]. Output: a PNG; one band per beam, with a title, so that it stands alone when it is printed or attached to
//! a test. Maps are shown in IEC 61217's beam limiting device frame, X to the right and Y up, as seen from the source.

mod canvas;
mod map;

use canvas::{BLACK, Canvas, Font, GREY, PALE};

use crate::Result;
use crate::check::{AxisErrors, BeamCheck, Check, LeafErrors};

const WIDTH: i64 = 1480;
const MARGIN: i64 = 30;
const TITLE_HEIGHT: i64 = 96;
const BAND_HEIGHT: i64 = 850;
const LINE: i64 = 21;
/// Side of a map, pixels.
const MAP: i64 = 380;
/// Leaves listed as the worst.
const N_WORST: usize = 12;
const BAR: [u8; 3] = [70, 110, 160];
const LIGHT_BAR: [u8; 3] = [175, 195, 220];

impl Check {
    /// The check as a PNG.
    ///
    /// # Errors
    /// [`crate::Error::Misuse`] if the page is too large to be encoded.
    pub fn to_png(&self) -> Result<Vec<u8>> {
        let height = TITLE_HEIGHT + BAND_HEIGHT * self.beams.len() as i64;
        let mut canvas = Canvas::new(WIDTH as usize, height as usize);
        self.title(&mut canvas);
        for (index, beam) in self.beams.iter().enumerate() {
            band(&mut canvas, TITLE_HEIGHT + BAND_HEIGHT * index as i64, beam);
        }
        canvas.to_png()
    }

    fn title(&self, canvas: &mut Canvas) {
        let title = format!("Delivery check: machine {}, field {:?}", self.machine_id, self.field);
        canvas.text(MARGIN, 14, &title, Font::Title, BLACK);
        let line = format!(
            "record of {} UTC, {}: {:.2} MU planned, {:.2} MU delivered",
            self.start_utc.get(..19).unwrap_or(&self.start_utc).replace('T', " "),
            self.planned_by(),
            self.planned_mu,
            self.delivered_mu
        );
        canvas.text(MARGIN, 42, &line, Font::Small, BLACK);
        let mut remarks = self.warnings.clone();
        if !self.beams_not_in_record.is_empty() {
            remarks.insert(0, format!("not in this record: beams {:?}", self.beams_not_in_record));
        }
        canvas.text(MARGIN, 64, &remarks.join("; "), Font::Small, GREY);
    }
}

fn band(canvas: &mut Canvas, top: i64, beam: &BeamCheck) {
    canvas.fill(MARGIN, top, WIDTH - 2 * MARGIN, 2, GREY);
    let name = beam.name.as_deref().map(|name| format!(" {name:?}")).unwrap_or_default();
    canvas.text(MARGIN, top + 14, &format!("Beam {}{name}", beam.number), Font::Title, BLACK);
    canvas.text(MARGIN, top + 42, &beam.headline(), Font::Small, BLACK);

    let maps_top = top + 76;
    let step = (WIDTH - 2 * MARGIN) / 3;
    let window = map::Window::around(&beam.planned_map, &beam.delivered_map);
    let largest = beam.planned_map.max_mu().max(beam.delivered_map.max_mu());
    let maps = [("planned", &beam.planned_map), ("delivered", &beam.delivered_map)];
    for (index, (title, map)) in (0..).zip(maps) {
        window.draw(canvas, MARGIN + step * index, maps_top, title, map.mu(), map::Scale::FromZero(largest));
    }
    let difference: Vec<f64> = beam
        .delivered_map
        .mu()
        .iter()
        .zip(beam.planned_map.mu())
        .map(|(delivered, planned)| delivered - planned)
        .collect();
    let scale = map::Scale::Around(beam.map_difference.max_abs_mu);
    window.draw(canvas, MARGIN + step * 2, maps_top, "delivered - planned", &difference, scale);

    let lower = maps_top + MAP + 84;
    histogram(canvas, MARGIN, lower, beam);
    worst_leaves(canvas, MARGIN + step, lower, beam);
    numbers(canvas, MARGIN + step * 2 - 30, lower, beam);
}

impl BeamCheck {
    /// Dose and gamma in one line, for people.
    pub fn headline(&self) -> String {
        // Rounded first, so that nothing reads "-0.00".
        let signed = |value: f64| format!("{:+.2}", (value * 100.0).round() / 100.0 + 0.0);
        let percent =
            self.difference_percent.map(|percent| format!(" ({} %)", signed(percent))).unwrap_or_default();
        let criteria = &self.gamma.criteria;
        let kind = if criteria.local { "local" } else { "global" };
        let rate =
            self.gamma.pass_rate_percent.map_or("no points".to_owned(), |rate| format!("{rate:.1} % pass"));
        format!(
            "planned {:.2} MU, delivered {:.2} MU, {} MU{percent};  gamma {} % {} mm {kind}, cutoff {} %: {rate} ({} points, mean {}, max {})",
            self.planned_mu,
            self.delivered_mu,
            signed(self.difference_mu),
            criteria.dose_percent,
            criteria.distance_mm,
            criteria.lower_dose_cutoff_percent,
            self.gamma.n_points,
            number(self.gamma.mean),
            number(self.gamma.max),
        )
    }

    /// The leaves with the largest errors first.
    pub fn worst_leaves(&self) -> Vec<&LeafErrors> {
        let mut leaves: Vec<&LeafErrors> = self.positions.per_leaf_mm.iter().collect();
        leaves.sort_by(|a, b| b.max_mm().total_cmp(&a.max_mm()));
        leaves
    }
}

/// Two decimals, or a dash for what was not measured.
fn number(value: Option<f64>) -> String {
    value.map_or("-".to_owned(), |value| format!("{value:.2}"))
}

fn histogram(canvas: &mut Canvas, left: i64, top: i64, beam: &BeamCheck) {
    const HEIGHT: i64 = 190;
    const BIN: i64 = 9;
    let counts = &beam.positions.leaf_error_histogram_mm.counts;
    canvas.text(left, top, "Leaf errors (delivered - planned)", Font::Small, BLACK);
    canvas.text(left, top + LINE, "samples per 0.1 mm, logarithmic", Font::Small, GREY);
    let bottom = top + 2 * LINE + 12 + HEIGHT;
    let left = left + 50;
    // Decades up to the one that holds the largest count.
    let decades =
        counts.iter().copied().max().filter(|most| *most > 0).map_or(1, |most| i64::from(most.ilog10()) + 1);
    for decade in 0..=decades {
        let y = bottom - HEIGHT * decade / decades;
        canvas.fill(left, y, BIN * counts.len() as i64, 1, PALE);
        canvas.text_right(left - 6, y - 9, &format!("1e{decade}"), Font::Small, GREY);
    }
    for (x, &count) in (left..).step_by(BIN as usize).zip(counts) {
        if count > 0 {
            // A single sample is a visible sliver.
            let height = ((count as f64).log10() / decades as f64 * HEIGHT as f64).round() as i64;
            canvas.fill(x, bottom - height.max(2), BIN - 1, height.max(2), BAR);
        }
    }
    canvas.fill(left, bottom, BIN * counts.len() as i64, 1, BLACK);
    let bins = counts.len() as i64;
    for (part, label) in [
        (0, "<-2"),
        (5, "-1.5"),
        (10, "-1"),
        (15, "-0.5"),
        (20, "0"),
        (25, "0.5"),
        (30, "1"),
        (35, "1.5"),
        (40, ">2"),
    ] {
        if part < bins {
            canvas.text_centred(left + part * BIN + BIN / 2, bottom + 5, label, Font::Small, BLACK);
        }
    }
    canvas.text_centred(
        left + bins * BIN / 2,
        bottom + 24,
        "mm (positive = open too far)",
        Font::Small,
        BLACK,
    );
}

fn worst_leaves(canvas: &mut Canvas, left: i64, top: i64, beam: &BeamCheck) {
    const PIXELS_PER_MM: f64 = 45.0;
    canvas.text(left, top, "Worst leaves, beam on: 95 % and largest error, mm", Font::Small, BLACK);
    for (row, leaf) in (0..).zip(beam.worst_leaves().into_iter().take(N_WORST)) {
        let y = top + LINE + 8 + row * LINE;
        let Some(errors) = leaf.errors.beam_on else { continue };
        canvas.text(left, y, &format!("{:<10} {:<10}", leaf.name, leaf.iec_name), Font::Small, BLACK);
        let bar = left + 180;
        let length = |mm: f64| ((mm * PIXELS_PER_MM).round() as i64).min(160);
        canvas.fill(bar, y + 3, length(errors.max), 12, LIGHT_BAR);
        canvas.fill(bar, y + 3, length(errors.p95), 12, BAR);
        canvas.text(
            bar + length(errors.max) + 6,
            y,
            &format!("{:.2} / {:.2}", errors.p95, errors.max),
            Font::Small,
            BLACK,
        );
    }
}

fn numbers(canvas: &mut Canvas, left: i64, top: i64, beam: &BeamCheck) {
    let positions = &beam.positions;
    let mut y = top;
    let mut line = |text: &str, colour| {
        canvas.text(left, y, text, Font::Small, colour);
        y += LINE;
    };
    line(
        &format!("{:<18}{:>7}{:>7}{:>7}{:>13}", "errors, beam on", "RMS", "95 %", "max", "moving RMS"),
        BLACK,
    );
    let rows: [(&str, &AxisErrors); 5] = [
        ("leaves, mm", &positions.leaves_mm),
        ("jaw Y2 (X1), mm", &positions.jaw_y2_mm),
        ("jaw Y1 (X2), mm", &positions.jaw_y1_mm),
        ("gantry, °", &positions.gantry_deg),
        ("collimator, °", &positions.collimator_deg),
    ];
    for (name, errors) in rows {
        let [rms, p95, max] = [
            errors.beam_on.map(|errors| errors.rms),
            errors.beam_on.map(|errors| errors.p95),
            errors.beam_on.map(|errors| errors.max),
        ]
        .map(number);
        let moving = number(errors.moving.map(|errors| errors.rms));
        line(&format!("{name:<18}{rms:>7}{p95:>7}{max:>7}{moving:>13}"), BLACK);
    }
    if let Some(logged) = positions.logged_leaves_mm {
        let text =
            format!("{:<18}{:>7.2}{:>7.2}{:>7.2}", "leaves as logged", logged.rms, logged.p95, logged.max);
        line(&text, GREY);
    }
    line("", BLACK);
    let seconds = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.1} s"));
    let count = |value: Option<usize>| value.map_or("-".to_owned(), |value| value.to_string());
    line(
        &format!(
            "beam on {}, mean {} MU/min",
            seconds(beam.beam_on_s),
            number(beam.mean_dose_rate_mu_per_min)
        ),
        BLACK,
    );
    let holds = format!(
        "beam holds {} ({}), interruptions {}",
        count(beam.beam_hold_count),
        seconds(beam.beam_hold_s),
        count(beam.interruption_count)
    );
    line(&holds, BLACK);
    let speeds = &positions.speeds;
    let leaf = format!(
        "leaf speed, mm/s: max {}, 95 % {}",
        number(speeds.leaf_max_mm_per_s),
        number(speeds.leaf_p95_mm_per_s)
    );
    line(&leaf, BLACK);
    let axes = format!(
        "max jaw {} mm/s, gantry {} °/s",
        number(speeds.jaw_max_mm_per_s),
        number(speeds.gantry_max_deg_per_s)
    );
    line(&axes, BLACK);
    let map = &beam.map_difference;
    line(&format!("map difference, MU: max {:.2}, RMS {}", map.max_abs_mu, number(map.rms_mu)), BLACK);
}
