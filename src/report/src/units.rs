//! Numbers as people read them.

/// `3 s`, `4 min 10 s`, `2 h 05 min`, `3 d 4 h`.
#[must_use]
pub fn duration(seconds: f64) -> String {
    if !seconds.is_finite() || seconds < 0.0 {
        return "?".into();
    }
    if seconds < 9.95 {
        return format!("{seconds:.1} s");
    }
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let s = seconds.round() as u64;
    match s {
        0..60 => format!("{s} s"),
        60..3600 => format!("{} min {:02} s", s / 60, s % 60),
        3600..86_400 => format!("{} h {:02} min", s / 3600, s % 3600 / 60),
        _ => format!("{} d {:02} h", s / 86_400, s % 86_400 / 3600),
    }
}

/// Hours with as many digits as mean something.
#[must_use]
pub fn hours(seconds: f64) -> String {
    let h = seconds / 3600.0;
    match h {
        0.0 => "0".into(),
        h if h < 0.1 => format!("{h:.4}"),
        h if h < 10.0 => format!("{h:.2}"),
        h => format!("{h:.1}"),
    }
}

/// Megabytes of 10^6 bytes.
#[must_use]
pub fn megabytes(mb: f64) -> String {
    if mb >= 1000.0 { format!("{:.2} GB", mb / 1000.0) } else { format!("{mb:.0} MB") }
}

/// A number of a table: three decimals for rates, fewer for large values, exponents for tiny ones.
#[must_use]
pub fn number(v: f64) -> String {
    let a = v.abs();
    if v == 0.0 {
        "0".into()
    } else if !v.is_finite() {
        v.to_string()
    } else if a < 0.0005 {
        format!("{v:.1e}")
    } else if a < 10.0 {
        format!("{v:.3}")
    } else if a < 1000.0 {
        format!("{v:.1}")
    } else {
        format!("{v:.0}")
    }
}

/// UTC, to the minute.
#[must_use]
pub fn moment(ms: i64) -> String {
    match jiff::Timestamp::from_millisecond(ms) {
        Ok(t) => t.strftime("%Y-%m-%d %H:%M UTC").to_string(),
        Err(_) => format!("{ms} ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_well() {
        let shown = [0.0, 0.04, 9.9, 9.96, 59.4, 60.0, 3599.0, 7500.0, 1e6].map(duration);
        assert_eq!(
            shown,
            [
                "0.0 s",
                "0.0 s",
                "9.9 s",
                "10 s",
                "59 s",
                "1 min 00 s",
                "59 min 59 s",
                "2 h 05 min",
                "11 d 13 h"
            ]
        );
        assert_eq!(duration(f64::NAN), "?");
    }

    #[test]
    fn numbers_keep_three_digits_or_so() {
        assert_eq!(
            [0.83333, 12.345, 1e-5, 1234.5, 0.0].map(number),
            ["0.833", "12.3", "1.0e-5", "1234", "0"]
        );
    }

    #[test]
    fn moments_are_utc() {
        assert_eq!(moment(0), "1970-01-01 00:00 UTC");
    }
}
