//! Numbers as people read them: significant digits, thousands separators, percent, JSON values of settings. No unit is
//! invented here; units stand in headers and sentences.

use serde_json::Value;

/// Significant digits of measured numbers.
const SIGNIFICANT: i32 = 4;

/// What a table shows where there is no value.
pub const ABSENT: &str = "-";

/// `8192` → `8,192`.
pub fn count(n: u64) -> String {
    group_digits(&n.to_string())
}

/// Four significant digits without trailing zeros: `1,235`, `662.3`, `8.69`, `0.002`. Never rounds away whole digits.
#[expect(clippy::cast_possible_truncation, reason = "the exponent of a finite double is below 309")]
pub fn number(x: f64) -> String {
    if !x.is_finite() {
        return ABSENT.to_owned();
    }
    if x == 0.0 {
        return "0".to_owned();
    }
    let exponent = x.abs().log10().floor() as i32;
    if !(-4..15).contains(&exponent) {
        return format!("{x:.3e}");
    }
    let decimals = usize::try_from(SIGNIFICANT - 1 - exponent).unwrap_or(0);
    trim(&format!("{x:.decimals$}"))
}

/// [`number`], or a dash.
pub fn optional(x: Option<f64>) -> String {
    x.map_or_else(|| ABSENT.to_owned(), number)
}

/// A number as it was written in a file: all its digits, grouped.
pub fn exact(x: f64) -> String {
    if x.is_finite() && x.abs() < 1e15 { trim(&x.to_string()) } else { format!("{x}") }
}

/// Hours and node-hours: two decimals below ten, one below a hundred, none above.
pub fn hours(x: f64) -> String {
    let decimals = match x.abs() {
        size if size < 10.0 => 2,
        size if size < 100.0 => 1,
        _ => 0,
    };
    if x.is_finite() { trim(&format!("{x:.decimals$}")) } else { ABSENT.to_owned() }
}

/// Hours as a length of time: `4 min 05 s` below one hour, `12.3 h` above.
pub fn duration(in_hours: f64) -> String {
    if in_hours < 1.0 {
        servelab_core::units::human_duration(in_hours * 3600.0)
    } else {
        format!("{} h", hours(in_hours))
    }
}

/// `0.998` → `99.8 %`.
pub fn percent(fraction: f64) -> String {
    if fraction.is_finite() { format!("{} %", trim(&format!("{:.2}", fraction * 100.0))) } else { ABSENT.to_owned() }
}

/// The value of a setting.
pub fn setting(value: &Value) -> String {
    match value {
        Value::Null => "unset".to_owned(),
        Value::String(text) => text.clone(),
        Value::Bool(value) => if *value { "yes" } else { "no" }.to_owned(),
        Value::Number(number) => group_digits(&number.to_string()),
        other => other.to_string(),
    }
}

/// A name that can stand in a file name: letters, digits and `_`.
pub fn slug(name: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' };
    name.chars().map(plain).collect()
}

/// `1 cell`, `2 cells`.
pub fn plural(n: u64, one: &str) -> String {
    format!("{} {one}{}", count(n), if n == 1 { "" } else { "s" })
}

fn trim(text: &str) -> String {
    let short = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { text };
    group_digits(if short == "-0" { "0" } else { short })
}

fn group_digits(text: &str) -> String {
    let (sign, digits) = text.strip_prefix('-').map_or(("", text), |digits| ("-", digits));
    let (whole, rest) = digits.find(['.', 'e']).map_or((digits, ""), |at| digits.split_at(at));
    if whole.len() < 4 || !whole.bytes().all(|byte| byte.is_ascii_digit()) {
        return text.to_owned();
    }
    let mut out = String::from(sign);
    for (place, digit) in whole.chars().enumerate() {
        if place > 0 && (whole.len() - place).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn significant_digits() {
        let check = |x: f64, expected: &str| assert_eq!(number(x), expected, "{x}");
        check(8.69, "8.69");
        check(662.34, "662.3");
        check(1234.56, "1,235");
        check(1_234_567.0, "1,234,567");
        check(0.0, "0");
        check(-0.5, "-0.5");
        check(99.996, "100");
        check(0.00123456, "0.001235");
        check(1e-9, "1.000e-9");
        check(-12_345.6, "-12,346");
        check(f64::NAN, "-");
    }

    #[test]
    fn other_numbers() {
        assert_eq!(count(999), "999");
        assert_eq!(count(1_000_000), "1,000,000");
        assert_eq!(percent(0.998), "99.8 %");
        assert_eq!(percent(1.0), "100 %");
        assert_eq!(
            (hours(0.0), hours(1.0), hours(12.34), hours(128.4)),
            ("0".into(), "1".into(), "12.3".into(), "128".into())
        );
        assert_eq!(exact(2000.0), "2,000");
        assert_eq!(exact(0.92), "0.92");
        assert_eq!(setting(&json!(16384)), "16,384");
        assert_eq!(setting(&json!(0.9)), "0.9");
        assert_eq!(setting(&json!("fp8_e5m2")), "fp8_e5m2");
        assert_eq!(setting(&json!(true)), "yes");
        assert_eq!(setting(&json!({"method": "ngram"})), "{\"method\":\"ngram\"}");
        assert_eq!((plural(1, "cell"), plural(1500, "cell")), ("1 cell".into(), "1,500 cells".into()));
    }

    proptest! {
        #[test]
        fn four_digits_are_enough_to_read_a_number_back(x in -1e12f64..1e12) {
            let text = number(x).replace(',', "");
            let back: f64 = text.parse().unwrap();
            prop_assert!((back - x).abs() <= x.abs() * 5.1e-4, "{x} → {text}");
        }
    }
}
