//! The pixels of a portal image: a ball in a square field, seen under the angles of one Winston-Lutz exposure.
//!
//! Input: geometry. Output: 16-bit pixels. Unsupported: scatter, divergence of the jaws' faces, detector artefacts.

/// Distance from source to isocentre, mm.
pub(super) const SAD_MM: f64 = 1000.0;
/// Counts outside the field: leakage and the panel's offset.
const BACKGROUND: f64 = 1800.0;
/// Counts in the open field.
const OPEN_FIELD: f64 = 38_000.0;
/// Standard width of the field's edge in the image plane, mm.
const PENUMBRA_MM: f64 = 1.2;
/// Attenuation of the ball (tungsten carbide at 6 MV), 1/mm in the ball; inferred: makes it plainly visible.
const BALL_ATTENUATION_PER_MM: f64 = 0.055;
/// Full width of the noise, counts.
const NOISE: f64 = 240.0;

/// One exposure of the ball.
///
/// Frame: IEC 61217; the ball's place in the patient support's frame, x to the couch's left side seen from the foot, y towards
/// the gantry, z up.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Phantom {
    /// Gantry angle, degrees.
    pub gantry_iec_deg: f64,
    /// Collimator angle, degrees.
    pub collimator_iec_deg: f64,
    /// Patient support angle, degrees.
    pub couch_iec_deg: f64,
    /// Ball's centre relative to the isocentre, mm.
    pub ball_mm: [f64; 3],
    /// Ball's diameter, mm.
    pub ball_diameter_mm: f64,
    /// Side of the square field at the isocentre, mm.
    pub field_mm: f64,
    /// Field's centre in the collimator's frame at the isocentre, mm.
    pub field_offset_mm: [f64; 2],
    /// Distance from source to image plane, mm.
    pub sid_mm: f64,
    /// Pixel spacing in the image plane, mm.
    pub pixel_mm: f64,
    /// Rows.
    pub rows: u16,
    /// Columns.
    pub columns: u16,
    /// Seed of the noise.
    pub seed: u64,
}

impl Phantom {
    /// Where the ball's centre falls in the image plane, mm from the central axis: to the right, and up.
    pub fn ball_in_image_mm(&self) -> [f64; 2] {
        let [x, y, z] = self.ball_mm;
        let (sin_t, cos_t) = self.couch_iec_deg.to_radians().sin_cos();
        let (x, y) = (x * cos_t - y * sin_t, x * sin_t + y * cos_t);
        let (sin_g, cos_g) = self.gantry_iec_deg.to_radians().sin_cos();
        let across = x * cos_g - z * sin_g;
        let towards_source = x * sin_g + z * cos_g;
        let magnification = self.sid_mm / (SAD_MM - towards_source);
        [across * magnification, y * magnification]
    }

    /// The pixels, row by row, little endian, 2 bytes each.
    pub fn pixels(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(usize::from(self.rows) * usize::from(self.columns) * 2);
        let mut noise = Noise(self.seed | 1);
        let magnification = self.sid_mm / SAD_MM;
        let (sin_c, cos_c) = self.collimator_iec_deg.to_radians().sin_cos();
        let ball = self.ball_in_image_mm();
        let ball_radius = self.ball_diameter_mm / 2.0 * magnification;
        let half_field = self.field_mm / 2.0 * magnification;
        // Beyond this the edge's profile is under one count.
        let reach = half_field * std::f64::consts::SQRT_2 + 12.0 * PENUMBRA_MM;
        for row in 0..self.rows {
            let up = (f64::from(self.rows - 1) / 2.0 - f64::from(row)) * self.pixel_mm;
            for column in 0..self.columns {
                let right = (f64::from(column) - f64::from(self.columns - 1) / 2.0) * self.pixel_mm;
                let mut counts = BACKGROUND;
                if right.abs() < reach && up.abs() < reach {
                    let x = right * cos_c + up * sin_c - self.field_offset_mm[0] * magnification;
                    let y = up * cos_c - right * sin_c - self.field_offset_mm[1] * magnification;
                    let open = edge(half_field - x.abs()) * edge(half_field - y.abs());
                    let from_ball = (right - ball[0]).hypot(up - ball[1]);
                    let path_mm =
                        (ball_radius.powi(2) - from_ball.powi(2)).max(0.0).sqrt() * 2.0 / magnification;
                    counts += OPEN_FIELD * open * (-BALL_ATTENUATION_PER_MM * path_mm).exp();
                }
                counts += noise.next() * NOISE;
                // A float out of range saturates: no pixel wraps.
                bytes.extend_from_slice(&(counts as u16).to_le_bytes());
            }
        }
        bytes
    }
}

/// From 0 outside to 1 inside over the penumbra.
fn edge(inside_mm: f64) -> f64 {
    1.0 / (1.0 + (-inside_mm / (PENUMBRA_MM / 2.0)).exp())
}

/// xorshift64*: the same seed gives the same image on every machine.
struct Noise(u64);

impl Noise {
    /// Between -0.5 and 0.5.
    fn next(&mut self) -> f64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 40) as f64 / f64::from(1u32 << 24) - 0.5
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn phantom(gantry: f64, couch: f64) -> Phantom {
        Phantom {
            gantry_iec_deg: gantry,
            collimator_iec_deg: 0.0,
            couch_iec_deg: couch,
            ball_mm: [1.0, 2.0, 3.0],
            ball_diameter_mm: 8.0,
            field_mm: 20.0,
            field_offset_mm: [0.0, 0.0],
            sid_mm: 1500.0,
            pixel_mm: 0.672,
            rows: 128,
            columns: 128,
            seed: 7,
        }
    }

    #[test]
    fn the_ball_is_seen_where_the_angles_put_it() {
        let close = |p: Phantom, x: f64, y: f64| {
            let [a, b] = p.ball_in_image_mm();
            assert!((a - x).abs() < 0.02 && (b - y).abs() < 0.02, "{a} {b}, expected {x} {y}");
        };
        close(phantom(0.0, 0.0), 1.5, 3.0);
        close(phantom(90.0, 0.0), -4.5, 3.0);
        close(phantom(180.0, 0.0), -1.5, 3.0);
        close(phantom(0.0, 90.0), -3.0, 1.5);
    }

    #[test]
    fn the_field_is_bright_and_the_ball_darker_than_the_field() {
        let p = phantom(0.0, 0.0);
        let pixels: Vec<u16> = p.pixels().chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]])).collect();
        assert_eq!(pixels.len(), 128 * 128);
        let at = |right: f64, up: f64| {
            let column = (right / p.pixel_mm + 63.5).round() as usize;
            let row = (63.5 - up / p.pixel_mm).round() as usize;
            f64::from(pixels[row * 128 + column])
        };
        let (open, ball, outside) = (at(-11.0, -11.0), at(1.5, 3.0), at(-35.0, 35.0));
        assert!(open > 5.0 * outside, "{open} {outside}");
        assert!(ball < 0.75 * open && ball > 2.0 * outside, "{ball} {open}");
    }
}
