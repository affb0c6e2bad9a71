//! Units as people write them: time limits, durations, sizes. Parsing and printing only.

/// Seconds of a scheduler time limit: `HH:MM:SS`, `MM:SS`, `D-HH:MM:SS`, `D-HH`.
pub fn parse_walltime_s(text: &str) -> Option<u64> {
    let (days, clock) = match text.split_once('-') {
        Some((days, clock)) => (days.parse::<u64>().ok()?, clock),
        None => (0, text),
    };
    let parts: Vec<u64> = clock.split(':').map(|part| part.parse().ok()).collect::<Option<_>>()?;
    let seconds = match (parts.as_slice(), text.contains('-')) {
        ([hours], true) => hours.checked_mul(3600)?,
        ([minutes, seconds], false) if *seconds < 60 => minutes.checked_mul(60)?.checked_add(*seconds)?,
        ([hours, minutes], true) if *minutes < 60 => hours.checked_mul(3600)?.checked_add(minutes * 60)?,
        ([hours, minutes, seconds], _) if *minutes < 60 && *seconds < 60 => {
            hours.checked_mul(3600)?.checked_add(minutes * 60 + seconds)?
        }
        _ => return None,
    };
    let total = days.checked_mul(86_400)?.checked_add(seconds)?;
    (total > 0).then_some(total)
}

/// A duration for people: `850 ms`, `12.3 s`, `4 min 05 s`, `2 h 10 min`.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "rounded, non-negative, far below 2^64")]
pub fn human_duration(seconds: f64) -> String {
    if !seconds.is_finite() || seconds < 0.0 {
        return "?".to_owned();
    }
    if seconds < 1.0 {
        return format!("{:.0} ms", seconds * 1e3);
    }
    if seconds < 60.0 {
        return format!("{seconds:.1} s");
    }
    let whole = seconds.round() as u64;
    if whole < 3600 {
        return format!("{} min {:02} s", whole / 60, whole % 60);
    }
    format!("{} h {:02} min", whole / 3600, whole % 3600 / 60)
}

/// `YYYYMMDD-HHMMSS` in UTC of nanoseconds since 1970 (Howard Hinnant's civil-from-days).
pub fn utc_stamp(unix_ns: i64) -> String {
    let seconds = unix_ns.div_euclid(1_000_000_000);
    let (days, of_day) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1_460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let (day, month) = (doy - (153 * mp + 2) / 5 + 1, if mp < 10 { mp + 3 } else { mp - 9 });
    let year = yoe + era * 400 + i64::from(month <= 2);
    format!("{year:04}{month:02}{day:02}-{:02}{:02}{:02}", of_day / 3600, of_day % 3600 / 60, of_day % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps() {
        assert_eq!(utc_stamp(0), "19700101-000000");
        assert_eq!(utc_stamp(951_827_696_000_000_000), "20000229-123456");
        assert_eq!(utc_stamp(-1), "19691231-235959");
    }

    #[test]
    fn walltimes() {
        let check = |text: &str, expected: Option<u64>| assert_eq!(parse_walltime_s(text), expected, "{text}");
        check("04:00:00", Some(14_400));
        check("30:00", Some(1800));
        check("1-00:00:00", Some(86_400));
        check("2-12", Some(216_000));
        check("00:00:00", None);
        check("4h", None);
        check("01:75:00", None);
        check("", None);
        check("99999999999999999999:00:00", None);
    }

    #[test]
    fn durations() {
        let check = |seconds: f64, expected: &str| assert_eq!(human_duration(seconds), expected);
        check(0.85, "850 ms");
        check(12.34, "12.3 s");
        check(245.0, "4 min 05 s");
        check(7800.0, "2 h 10 min");
        check(f64::NAN, "?");
    }
}
