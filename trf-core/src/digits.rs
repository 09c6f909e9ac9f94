//! Decimal text of small fixed-point numbers, without a detour over floating point.

/// Appends an integer.
pub(crate) fn push_integer(out: &mut Vec<u8>, value: i64) {
    if value < 0 {
        out.push(b'-');
    }
    push_unsigned(out, value.unsigned_abs());
}

/// Appends `tenths` / 10 with one decimal, such as `-75.0`.
pub(crate) fn push_tenths(out: &mut Vec<u8>, tenths: i64) {
    if tenths < 0 {
        out.push(b'-');
    }
    let magnitude = tenths.unsigned_abs();
    push_unsigned(out, magnitude / 10);
    out.extend_from_slice(&[b'.', digit(magnitude % 10)]);
}

/// Appends `tenths` / 10 without a zero decimal, such as `-75`.
pub(crate) fn push_short_tenths(out: &mut Vec<u8>, tenths: i64) {
    if tenths % 10 == 0 { push_integer(out, tenths / 10) } else { push_tenths(out, tenths) }
}

/// Appends `hundredths` / 100 with as many decimals as needed, such as `31.5`, and none for a whole number.
pub(crate) fn push_short_hundredths(out: &mut Vec<u8>, hundredths: u64) {
    push_unsigned(out, hundredths / 100);
    match hundredths % 100 {
        0 => {}
        rest if rest % 10 == 0 => out.extend_from_slice(&[b'.', digit(rest / 10)]),
        rest => out.extend_from_slice(&[b'.', digit(rest / 10), digit(rest % 10)]),
    }
}

/// Appends `thousandths` / 1000 with three decimals.
pub(crate) fn push_thousandths(out: &mut Vec<u8>, thousandths: i64) {
    if thousandths < 0 {
        out.push(b'-');
    }
    let magnitude = thousandths.unsigned_abs();
    push_unsigned(out, magnitude / 1000);
    let rest = magnitude % 1000;
    out.extend_from_slice(&[b'.', digit(rest / 100), digit(rest / 10 % 10), digit(rest % 10)]);
}

#[inline]
fn push_unsigned(out: &mut Vec<u8>, value: u64) {
    // Most values have at most four digits.
    if value < 10 {
        out.push(digit(value));
    } else if value < 100 {
        out.extend_from_slice(&[digit(value / 10), digit(value % 10)]);
    } else if value < 1000 {
        out.extend_from_slice(&[digit(value / 100), digit(value / 10 % 10), digit(value % 10)]);
    } else {
        push_unsigned(out, value / 1000);
        let rest = value % 1000;
        out.extend_from_slice(&[digit(rest / 100), digit(rest / 10 % 10), digit(rest % 10)]);
    }
}

#[inline]
#[expect(clippy::cast_possible_truncation, reason = "callers pass one decimal digit")]
fn digit(value: u64) -> u8 {
    b'0' + value as u8
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(push: impl Fn(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        push(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn decimals_are_as_short_as_asked() {
        assert_eq!(text(|o| push_tenths(o, -750)), "-75.0");
        assert_eq!(text(|o| push_tenths(o, -3)), "-0.3");
        assert_eq!(text(|o| push_short_tenths(o, -750)), "-75");
        assert_eq!(text(|o| push_short_tenths(o, -3)), "-0.3");
        assert_eq!(text(|o| push_short_hundredths(o, 3156)), "31.56");
        assert_eq!(text(|o| push_short_hundredths(o, 3150)), "31.5");
        assert_eq!(text(|o| push_short_hundredths(o, 400)), "4");
        assert_eq!(text(|o| push_thousandths(o, -40)), "-0.040");
    }

    proptest! {
        #[test]
        fn integers_are_as_the_standard_library_prints_them(value: i64) {
            prop_assert_eq!(text(|o| push_integer(o, value)), value.to_string());
        }
    }
}
