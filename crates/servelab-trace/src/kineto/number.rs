//! Decimal microseconds as text → exact i64 nanoseconds. No floating point is involved: `4458676522690.655` has more
//! digits than a double keeps apart at a nanosecond.

/// Nanoseconds of a decimal number of microseconds, and how many bytes it takes. Digits beyond the nanosecond are rounded,
/// half away from zero. `None` when it is no number or out of range.
pub fn nanos(text: &[u8]) -> Option<(i64, usize)> {
    let is_negative = text.first() == Some(&b'-');
    let mut at = usize::from(is_negative);
    let mut value: u64 = 0;
    let start = at;
    while let Some(digit) = digit(text, at) {
        if at - start >= 16 {
            return slow(text);
        }
        value = value * 10 + digit;
        at += 1;
    }
    if at == start {
        return None;
    }
    let mut scale = 1000;
    if text.get(at) == Some(&b'.') {
        at += 1;
        let fraction = at;
        while let Some(digit) = digit(text, at) {
            if at - fraction >= 3 {
                return slow(text);
            }
            value = value * 10 + digit;
            scale /= 10;
            at += 1;
        }
    }
    if matches!(text.get(at), Some(b'e' | b'E')) {
        return slow(text);
    }
    let value = i64::try_from(value.checked_mul(scale)?).ok()?;
    Some((if is_negative { -value } else { value }, at))
}

fn digit(text: &[u8], at: usize) -> Option<u64> {
    text.get(at).filter(|b| b.is_ascii_digit()).map(|b| u64::from(b - b'0'))
}

/// Any JSON number: exponents, and more digits than are kept.
fn slow(text: &[u8]) -> Option<(i64, usize)> {
    let is_negative = text.first() == Some(&b'-');
    let mut at = usize::from(is_negative);
    let mut mantissa: i128 = 0;
    // Power of ten of the mantissa's last digit, in nanoseconds.
    let mut power: i64 = 3;
    let mut is_fraction = false;
    loop {
        match text.get(at) {
            Some(b'.') if !is_fraction => is_fraction = true,
            Some(b) if b.is_ascii_digit() => {
                // 30 digits are more than an i64 of nanoseconds can tell apart.
                if mantissa < 10_i128.pow(30) {
                    mantissa = mantissa * 10 + i128::from(b - b'0');
                    power -= i64::from(is_fraction);
                } else {
                    power += i64::from(!is_fraction);
                }
            }
            _ => break,
        }
        at += 1;
    }
    if matches!(text.get(at), Some(b'e' | b'E')) {
        let mut digits = at + 1;
        let exponent_sign = match text.get(digits) {
            Some(b'-') => {
                digits += 1;
                -1
            }
            Some(b'+') => {
                digits += 1;
                1
            }
            _ => 1,
        };
        let first = digits;
        let mut exponent: i64 = 0;
        while let Some(b) = text.get(digits).filter(|b| b.is_ascii_digit()) {
            exponent = (exponent * 10 + i64::from(b - b'0')).min(100_000);
            digits += 1;
        }
        if digits == first {
            return None;
        }
        at = digits;
        power += exponent_sign * exponent;
    }
    let value = if mantissa == 0 {
        0
    } else if power >= 0 {
        mantissa.checked_mul(10_i128.checked_pow(u32::try_from(power).ok()?)?)?
    } else {
        match u32::try_from(-power).ok().and_then(|power| 10_i128.checked_pow(power)) {
            Some(divisor) => (mantissa + divisor / 2) / divisor,
            None => 0,
        }
    };
    let value = i64::try_from(if is_negative { -value } else { value }).ok()?;
    Some((value, at))
}

/// An integer that may stand in quotes (ROCm); `None` for anything else.
pub fn integer(text: &[u8]) -> Option<i64> {
    let text = text.strip_prefix(b"\"").map_or(text, |rest| rest.strip_suffix(b"\"").unwrap_or(rest));
    let (digits, is_negative) = text.strip_prefix(b"-").map_or((text, false), |rest| (rest, true));
    if digits.is_empty() || digits.len() > 19 {
        return None;
    }
    let mut value: i64 = 0;
    for byte in digits {
        if !byte.is_ascii_digit() {
            return None;
        }
        value = value.checked_mul(10)?.checked_add(i64::from(byte - b'0'))?;
    }
    Some(if is_negative { -value } else { value })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(text: &str, expected: Option<i64>) {
        let found = nanos(text.as_bytes());
        assert_eq!(found.map(|(value, _)| value), expected, "{text}");
        if let Some((_, used)) = found {
            assert_eq!(used, text.trim_end_matches([',', ' ']).len(), "{text}");
        }
    }

    #[test]
    fn microseconds_become_exact_nanoseconds() {
        check("4458676522690.655", Some(4_458_676_522_690_655));
        check("4458676522690.65", Some(4_458_676_522_690_650));
        check("1682725898236567,", Some(1_682_725_898_236_567_000));
        check("68.0", Some(68_000));
        check("0", Some(0));
        check("-0.002", Some(-2));
        check("-1.5", Some(-1500));
        check("0.0005", Some(1));
        check("0.0004999", Some(0));
        check("1.6827258982365670e15", Some(1_682_725_898_236_567_000));
        check("1e3", Some(1_000_000));
        check("1E-3", Some(1));
        check("5e-4", Some(1));
        check("1e400", None);
        check("0e400", Some(0));
        check("1e-400", Some(0));
        check("9223372036854775.807", Some(i64::MAX));
        check("9223372036854775.808", None);
        check("99999999999999999999999", None);
        check("", None);
        check("-", None);
        check("abc", None);
        check("1e", None);
        check("00000000000000000000012.5", Some(12_500));
    }

    #[test]
    fn integers_may_stand_in_quotes() {
        for (text, expected) in [("12", Some(12)), ("\"7\"", Some(7)), ("-3", Some(-3)), ("0x0", None), ("", None)] {
            assert_eq!(integer(text.as_bytes()), expected, "{text}");
        }
        assert_eq!(integer(b"99999999999999999999"), None);
    }

    proptest! {
        #[test]
        fn any_nanosecond_survives(value in -9_000_000_000_000_000_000_i64..9_000_000_000_000_000_000) {
            let text = format!("{}{}.{:03}", if value < 0 { "-" } else { "" }, value.unsigned_abs() / 1000, value.unsigned_abs() % 1000);
            prop_assert_eq!(nanos(text.as_bytes()), Some((value, text.len())));
        }

        #[test]
        fn no_text_panics(text in "[-0-9.eE+]{0,40}") {
            if let (Some((fast, used)), Some((slow, more))) = (nanos(text.as_bytes()), slow(text.as_bytes())) {
                prop_assert_eq!((fast, used), (slow, more));
            }
        }
    }
}
