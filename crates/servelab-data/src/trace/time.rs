//! Instants as traces write them, in nanoseconds. Digits are read as integers: a float of a date has no microseconds.

/// `2023-11-16 18:15:46.6805900`, with `T` or a space, any number of decimals, and `Z`, `+00:00` or nothing at its end.
pub(super) fn utc_ns(text: &str) -> Option<i64> {
    let (date, time) = text.split_once([' ', 'T'])?;
    let mut parts = date.split('-').map(|part| part.parse::<i64>().ok());
    let (year, month, day) = (parts.next()??, parts.next()??, parts.next()??);
    if parts.next().is_some()
        || !(1970..=2200).contains(&year)
        || !(1..=12).contains(&month)
        || !(1..=31).contains(&day)
    {
        return None;
    }
    let (clock, offset_s) = split_offset(time)?;
    let mut parts = clock.splitn(3, ':');
    let (hour, minute) = (whole(parts.next()?, 23)?, whole(parts.next()?, 59)?);
    let (second, fraction_ns) = decimal(parts.next()?)?;
    if second > 60 {
        return None;
    }
    let seconds = days_since_1970(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second - offset_s;
    seconds.checked_mul(1_000_000_000)?.checked_add(fraction_ns)
}

/// `45` or `45.25`.
pub(super) fn seconds_ns(text: &str) -> Option<i64> {
    if let Some((seconds, fraction_ns)) = decimal(text) {
        return seconds.checked_mul(1_000_000_000)?.checked_add(fraction_ns);
    }
    // 1e3 and the like.
    let seconds: f64 = text.parse().ok()?;
    (0.0..9e9).contains(&seconds).then_some((seconds * 1e9) as i64)
}

fn split_offset(time: &str) -> Option<(&str, i64)> {
    if let Some(clock) = time.strip_suffix('Z') {
        return Some((clock, 0));
    }
    let Some(at) = time.rfind(['+', '-']) else { return Some((time, 0)) };
    let (clock, offset) = (time.get(..at)?, time.get(at..)?);
    let (hours, minutes) = offset.get(1..)?.split_once(':')?;
    let seconds = whole(hours, 23)? * 3_600 + whole(minutes, 59)? * 60;
    Some((clock, if offset.starts_with('-') { -seconds } else { seconds }))
}

fn whole(text: &str, most: i64) -> Option<i64> {
    let is_plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse::<i64>().ok().filter(|value| is_plain && *value <= most)
}

/// Whole seconds and nanoseconds; decimals beyond the ninth are cut.
fn decimal(text: &str) -> Option<(i64, i64)> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds = whole(seconds, 9_000_000_000)?;
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let digits: String = fraction.chars().chain(std::iter::repeat('0')).take(9).collect();
    Some((seconds, digits.parse().ok()?))
}

/// Days of the proleptic Gregorian calendar, by counting leap days of eras of 400 years from 1 March.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year - era * 400;
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        for (text, expected) in [
            ("1970-01-01 00:00:00", Some(0)),
            ("1970-01-02T00:00:01.5Z", Some(86_401_500_000_000)),
            ("2023-11-16 18:15:46.6805900", Some(1_700_158_546_680_590_000)),
            ("2024-05-10 00:00:00.009930+00:00", Some(1_715_299_200_009_930_000)),
            ("2024-05-10 02:00:00+02:00", Some(1_715_299_200_000_000_000)),
            ("2024-02-29 12:00:00.123456789123", Some(1_709_208_000_123_456_789)),
            ("2023-11-16", None),
            ("2023-13-16 00:00:00", None),
            ("2023-11-16 24:00:00", None),
            ("2023-11-16 18:15", None),
            ("2023-11-16 18:15:4x", None),
            ("2023-11-16 18:15:46.5-", None),
            ("", None),
        ] {
            assert_eq!(utc_ns(text), expected, "{text}");
        }
    }

    #[test]
    fn seconds() {
        for (text, expected) in [
            ("5", Some(5_000_000_000)),
            ("5.0", Some(5_000_000_000)),
            ("0.000000001", Some(1)),
            ("1e3", Some(1_000_000_000_000)),
            ("-1", None),
            ("", None),
            ("1e30", None),
            ("NaN", None),
        ] {
            assert_eq!(seconds_ns(text), expected, "{text}");
        }
    }
}
