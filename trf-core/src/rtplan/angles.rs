//! IEC angles of a beam's control points as bipolar ones.

use super::Scope;
use crate::{Error, Result};

/// Which way an axis turns after a control point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    Clockwise,
    CounterClockwise,
    None,
}

impl Turn {
    /// From `CW`, `CC` or anything else.
    pub(crate) fn from_code(code: Option<&str>) -> Self {
        match code {
            Some("CW") => Self::Clockwise,
            Some("CC") => Self::CounterClockwise,
            _ => Self::None,
        }
    }
}

/// Bipolar angles of a beam, (−180, 180]° and −180° where the axis comes from or goes to the negative side.
///
/// 180° alone does not say on which side it is: it takes the sign of the nearest other angle of the beam. Where there is none,
/// or the nearest to the left and to the right disagree, the direction of rotation decides in the full scope.
///
/// # Errors
/// [`Error::Unsupported`] in the compatible scope if the nearest angles disagree.
///
/// # Source
/// PyMedPhys's `convert_IEC_angle_to_bipolar`.
pub(crate) fn bipolar_deg(iec_deg: &[f64], turns: &[Turn], scope: Scope) -> Result<Vec<f64>> {
    if iec_deg.iter().all(|&angle| angle == 180.0) {
        return Ok(iec_deg.to_vec());
    }
    let folded: Vec<f64> =
        iec_deg.iter().map(|&angle| if angle > 180.0 { angle - 360.0 } else { angle }).collect();
    let mut bipolar = folded.clone();
    for (at, angle) in bipolar.iter_mut().enumerate().filter(|(_, angle)| **angle == 180.0) {
        let (left, right) = nearest_others(&folded, at);
        let agree = sign(left) == sign(right);
        if scope == Scope::Compatible {
            if !agree {
                return Err(Error::unsupported("an angle of 180° between angles on both sides of it"));
            }
            *angle *= sign(left);
        } else if agree && left != 0.0 {
            *angle *= sign(left);
        } else {
            *angle *= sign_by_turn(turns, at);
        }
    }
    Ok(bipolar)
}

/// Values of the nearest entries that are not 180, the leftmost and the rightmost of those at equal distance.
fn nearest_others(angles: &[f64], at: usize) -> (f64, f64) {
    let others = || angles.iter().enumerate().filter(|(_, angle)| **angle != 180.0);
    let distance = |index: usize| index.abs_diff(at);
    let left = others().min_by_key(|(index, _)| distance(*index));
    let right = others().rev().min_by_key(|(index, _)| distance(*index));
    (left.map_or(0.0, |(_, &angle)| angle), right.map_or(0.0, |(_, &angle)| angle))
}

fn sign(value: f64) -> f64 {
    if value == 0.0 { 0.0 } else { value.signum() }
}

/// −1 where the axis leaves 180° clockwise or has come to it counter-clockwise, else 1.
fn sign_by_turn(turns: &[Turn], at: usize) -> f64 {
    let before = at.checked_sub(1).and_then(|before| turns.get(before));
    match (turns.get(at), before) {
        (Some(Turn::Clockwise), _) => -1.0,
        (Some(Turn::CounterClockwise), _) => 1.0,
        (_, Some(Turn::CounterClockwise)) => -1.0,
        _ => 1.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full(iec_deg: &[f64], turn: Turn) -> Vec<f64> {
        let mut turns = vec![turn; iec_deg.len()];
        *turns.last_mut().unwrap() = Turn::None;
        bipolar_deg(iec_deg, &turns, Scope::Full).unwrap()
    }

    #[test]
    fn a_full_arc_begins_and_ends_on_the_sides_it_turns_to() {
        for scope in [Scope::Full, Scope::Compatible] {
            let arc = bipolar_deg(&[180.0, 181.5, 0.0, 178.0, 180.0], &[Turn::Clockwise; 5], scope).unwrap();
            assert_eq!(arc, [-180.0, -178.5, 0.0, 178.0, 180.0]);
        }
        assert_eq!(full(&[180.0, 180.0], Turn::Clockwise), [180.0, 180.0]);
    }

    #[test]
    fn direction_decides_where_no_neighbour_does() {
        assert_eq!(full(&[180.0, 0.0], Turn::Clockwise), [-180.0, 0.0]);
        assert_eq!(full(&[180.0, 0.0], Turn::CounterClockwise), [180.0, 0.0]);
        assert_eq!(full(&[0.0, 180.0], Turn::CounterClockwise), [0.0, -180.0]);
        assert_eq!(full(&[0.0, 180.0], Turn::Clockwise), [0.0, 180.0]);
    }

    #[test]
    fn compatible_scope_refuses_180_between_two_sides() {
        let error =
            bipolar_deg(&[170.0, 180.0, 190.0], &[Turn::Clockwise; 3], Scope::Compatible).unwrap_err();
        assert!(matches!(error, Error::Unsupported { .. }));
        assert_eq!(full(&[170.0, 180.0, 190.0], Turn::Clockwise), [170.0, -180.0, -170.0]);
    }
}
