//! Exact comparison of JSON numbers by their digits: no number is too large, too small or too precise for it.

use std::cmp::Ordering;

/// A number of RFC 8259, section 6, as `0.digits × 10^exponent` without leading or trailing zeros; zero has no digits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Decimal {
    negative: bool,
    digits: Box<[u8]>,
    /// Saturates for exponents that have no place in memory as digits either.
    exponent: i64,
}

impl Decimal {
    /// Reads a number that passed the scan.
    pub(crate) fn read(text: &[u8]) -> Self {
        let (negative, text) = match text {
            [b'-', rest @ ..] => (true, rest),
            _ => (false, text),
        };
        let mantissa_end = text.iter().position(|byte| matches!(byte, b'e' | b'E')).unwrap_or(text.len());
        let (mantissa, power) = text.split_at(mantissa_end);
        let point = mantissa.iter().position(|&byte| byte == b'.').unwrap_or(mantissa.len());
        let mut digits: Vec<u8> = mantissa.iter().copied().filter(u8::is_ascii_digit).collect();
        let zeros = digits.iter().take_while(|&&digit| digit == b'0').count();
        digits.drain(..zeros);
        digits.truncate(digits.iter().rposition(|&digit| digit != b'0').map_or(0, |last| last + 1));
        if digits.is_empty() {
            return Self { negative: false, digits: Box::default(), exponent: 0 };
        }
        let exponent = power_of(power).saturating_add(point as i64).saturating_sub(zeros as i64);
        Self { negative, digits: digits.into(), exponent }
    }
}

/// The value of `e+12`, saturating; zero for no text.
fn power_of(text: &[u8]) -> i64 {
    let (negative, digits) = match text {
        [_, b'-', rest @ ..] => (true, rest),
        [_, b'+', rest @ ..] | [_, rest @ ..] => (false, rest),
        [] => return 0,
    };
    let power = digits
        .iter()
        .fold(0i64, |power, digit| power.saturating_mul(10).saturating_add(i64::from(digit.wrapping_sub(b'0'))));
    if negative { -power } else { power }
}

impl From<u64> for Decimal {
    fn from(number: u64) -> Self {
        Self::read(number.to_string().as_bytes())
    }
}

impl PartialOrd for Decimal {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Decimal {
    fn cmp(&self, other: &Self) -> Ordering {
        let sign = |number: &Self| match (number.digits.is_empty(), number.negative) {
            (true, _) => 0,
            (false, true) => -1,
            (false, false) => 1,
        };
        let magnitude = || self.exponent.cmp(&other.exponent).then_with(|| self.digits.cmp(&other.digits));
        sign(self).cmp(&sign(other)).then_with(|| if self.negative { magnitude().reverse() } else { magnitude() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(text: &str) -> Decimal {
        Decimal::read(text.as_bytes())
    }

    #[test]
    fn numbers_are_equal_whatever_their_writing() {
        for group in [
            &["0", "-0", "0.00", "0e9", "-0.0E-7"][..],
            &["1", "1.0", "10e-1", "0.1e1", "0.001E+3", "1e0"],
            &["-120", "-1.2e2", "-0.12E3", "-120.00"],
            &["1e400", "10e399", "0.1e401"],
            &["1e99999999999999999999", "1e99999999999999999998"],
        ] {
            for (one, other) in group.iter().flat_map(|one| group.iter().map(move |other| (one, other))) {
                assert_eq!(number(one), number(other), "{one} {other}");
            }
        }
    }

    #[test]
    fn numbers_are_in_order_where_floats_are_not() {
        let ordered = [
            "-1e400",
            "-18446744073709551617",
            "-18446744073709551616",
            "-2",
            "-1.5",
            "-1e-400",
            "0",
            "1e-401",
            "1e-400",
            "1e-17",
            "0.1",
            "0.10000000000000000001",
            "0.3",
            "1",
            "9",
            "10",
            "9007199254740992",
            "9007199254740993",
            "1e308",
            "1e309",
            "1e400",
        ];
        for (i, one) in ordered.iter().enumerate() {
            for (j, other) in ordered.iter().enumerate() {
                assert_eq!(number(one).cmp(&number(other)), i.cmp(&j), "{one} {other}");
            }
        }
    }
}
