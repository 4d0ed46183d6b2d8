//! Times and memory as people write them. Strict: a number without a unit, or a unit that means different things to
//! different programs (`16G` is GiB to Slurm), is refused with what to write instead.

/// Seconds of `90s`, `30m`, `2h`, `1d`, `1h30m`, `HH:MM:SS`, `D-HH:MM:SS`.
///
/// # Errors
/// What is wrong and what to write, as (message, help).
pub fn duration(text: &str) -> Result<u64, (String, String)> {
    let text = text.trim();
    let wrong =
        |message: String| (message, "write e.g. 90s, 30m, 2h, 1h30m, 01:30:00 or 2-00:00:00".to_owned());
    if text.contains(':') {
        return clock(text).map_err(wrong);
    }
    let mut total: u64 = 0;
    let mut last = u64::MAX;
    let mut rest = text;
    if rest.is_empty() {
        return Err(wrong("a time is missing".into()));
    }
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let (digits, tail) = rest.split_at(end);
        let stop = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, next) = tail.split_at(stop);
        if digits.is_empty() {
            return Err(wrong(format!("`{text}` is not a time")));
        }
        let number: u64 = digits.parse().map_err(|_| wrong(format!("`{text}` is too long")))?;
        let seconds = match unit {
            "s" => 1,
            "m" => 60,
            "h" => 3600,
            "d" => 86_400,
            "" => {
                let help = format!("write {number}s, {number}m or {number}h");
                return Err((format!("`{text}` has no unit"), help));
            }
            other => {
                let hint = match other.trim().to_lowercase().chars().next() {
                    Some('s') => "s",
                    Some('m') => "m",
                    Some('h') => "h",
                    Some('d') => "d",
                    _ => return Err(wrong(format!("`{other}` is not a unit of time"))),
                };
                let help = format!("did you mean {number}{hint}? units: s, m (minutes), h, d");
                return Err((format!("`{other}` is not a unit of time"), help));
            }
        };
        if seconds >= last {
            return Err(wrong(format!("`{text}`: units must go from large to small, each once")));
        }
        last = seconds;
        total = number
            .checked_mul(seconds)
            .and_then(|s| total.checked_add(s))
            .filter(|&s| s <= MAX_S)
            .ok_or_else(|| wrong(format!("`{text}` is too long")))?;
        rest = next;
    }
    Ok(total)
}

/// Ten years: more is a mistake, and sums of it must not overflow.
const MAX_S: u64 = 10 * 366 * 86_400;

fn clock(text: &str) -> Result<u64, String> {
    let bad = || format!("`{text}` is not a time");
    let (days, clock) = text.split_once('-').unwrap_or(("0", text));
    let parts: Vec<&str> = clock.split(':').collect();
    let number = |s: &str| -> Result<u64, String> {
        if s.is_empty() || !s.bytes().all(|b| b.is_ascii_digit()) {
            return Err(bad());
        }
        s.parse().map_err(|_| bad())
    };
    if parts.len() == 2 {
        return Err(format!("`{text}` could be minutes or hours"));
    }
    let &[h, m, s] = parts.as_slice() else { return Err(bad()) };
    let (d, h, m, s) = (number(days)?, number(h)?, number(m)?, number(s)?);
    if m > 59 || s > 59 || (text.contains('-') && h > 23) {
        return Err(format!("`{text}`: minutes and seconds go to 59, hours after days to 23"));
    }
    d.checked_mul(86_400)
        .and_then(|t| h.checked_mul(3600).and_then(|h| t.checked_add(h + m * 60 + s)))
        .filter(|&s| s <= MAX_S)
        .ok_or_else(|| format!("`{text}` is too long"))
}

/// MB (10^6 bytes, rounded up) of `500MB`, `2GB`, `1.5TB`, `512MiB`, `16GiB`.
///
/// # Errors
/// What is wrong and what to write, as (message, help).
pub fn memory(text: &str) -> Result<u64, (String, String)> {
    let text = text.trim();
    let usual = "write e.g. 500MB, 2GB or 16GiB".to_owned();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = (&text[..end], text[end..].trim());
    let bad = || (format!("`{text}` is not an amount of memory"), usual.clone());
    // at most three decimals, read as whole thousandths: no rounding of binary fractions
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || fraction.len() > 3 || fraction.contains('.') {
        return Err(bad());
    }
    let thousandths: u128 = format!("{whole}{fraction:0<3}").parse().map_err(|_| bad())?;
    let bytes: u128 = match unit {
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        "" => return Err((format!("`{text}` has no unit"), format!("write {text}MB or {text}GB"))),
        other => {
            let help = match other.to_lowercase().chars().next() {
                Some(c @ ('m' | 'g' | 't')) => {
                    let c = c.to_ascii_uppercase();
                    format!(
                        "did you mean {number}{c}B (10^{}) or {number}{c}iB (2^{})?",
                        power(c).0,
                        power(c).1
                    )
                }
                _ => usual,
            };
            return Err((format!("`{other}` is not a unit of memory"), help));
        }
    };
    let mb = (thousandths.checked_mul(bytes).ok_or_else(bad)?).div_ceil(1_000_000_000);
    match u64::try_from(mb) {
        Ok(0) => Err((format!("`{text}` is no memory at all"), usual)),
        // 1000 TB
        Ok(mb) if mb <= 1_000_000_000 => Ok(mb),
        _ => Err((format!("`{text}` is more than any machine has"), usual)),
    }
}

fn power(unit: char) -> (u32, u32) {
    match unit {
        'M' => (6, 20),
        'G' => (9, 30),
        _ => (12, 40),
    }
}

/// `1h30m`, `45s`: seconds for people, exact.
#[must_use]
pub fn show_duration(seconds: u64) -> String {
    let parts =
        [(seconds / 86_400, "d"), (seconds / 3600 % 24, "h"), (seconds / 60 % 60, "m"), (seconds % 60, "s")];
    let text: String = parts.iter().filter(|(n, _)| *n > 0).map(|(n, unit)| format!("{n}{unit}")).collect();
    if text.is_empty() { "0s".into() } else { text }
}

/// `1.5GB`, `500MB`: MB for people, exact.
#[must_use]
pub fn show_memory(mb: u64) -> String {
    if mb < 1000 {
        return format!("{mb}MB");
    }
    let fraction = format!("{:03}", mb % 1000);
    let fraction = fraction.trim_end_matches('0');
    let point = if fraction.is_empty() { "" } else { "." };
    format!("{}{point}{fraction}GB", mb / 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_documented_time_is_understood() {
        for (text, seconds) in [
            ("90s", 90),
            ("30m", 1800),
            ("2h", 7200),
            ("1d", 86_400),
            ("1h30m", 5400),
            ("1d2h3m4s", 93_784),
            ("01:30:00", 5400),
            ("48:00:00", 172_800),
            ("2-00:00:01", 172_801),
        ] {
            assert_eq!(duration(text), Ok(seconds), "{text}");
        }
    }

    #[test]
    fn a_time_with_a_slip_says_what_to_write() {
        for (text, part) in [
            ("30mn", "did you mean 30m?"),
            ("30", "write 30s, 30m or 30h"),
            ("2hours", "did you mean 2h?"),
            ("1:30", "1h30m"),
            ("30m1h", "large to small"),
            ("1-25:00:00", "hours after days"),
            ("01:61:00", "to 59"),
            ("", "missing"),
            ("h", "not a time"),
            ("-5m", "not a time"),
            ("99999999999999999999h", "too long"),
            ("9999999h", "too long"),
            ("5 fortnights", "not a unit"),
            ("1.5h", "not a unit"),
        ] {
            let (message, help) = duration(text).unwrap_err();
            assert!(format!("{message}; {help}").contains(part), "{text}: {message}; {help}");
        }
    }

    #[test]
    fn every_documented_memory_is_understood() {
        for (text, mb) in [
            ("500MB", 500),
            ("2GB", 2000),
            ("1.5GB", 1500),
            ("16GiB", 17180),
            ("1TiB", 1_099_512),
            ("1 GB", 1000),
        ] {
            assert_eq!(memory(text), Ok(mb), "{text}");
        }
    }

    #[test]
    fn memory_with_a_slip_says_what_to_write() {
        for (text, part) in [
            ("2GBs", "did you mean 2GB"),
            ("16G", "16GiB"),
            ("2gb", "2GB"),
            ("2000", "2000MB"),
            ("0GB", "no memory"),
            ("GB", "not an amount"),
            ("1.2.3GB", "not an amount"),
            ("1.2345GB", "not an amount"),
            ("99999999TB", "more than any"),
            ("9999999999999999999999999999999999999999TB", "not an amount"),
            ("2kilo", "not a unit"),
        ] {
            let (message, help) = memory(text).unwrap_err();
            assert!(format!("{message}; {help}").contains(part), "{text}: {message}; {help}");
        }
    }

    #[test]
    fn what_is_shown_reads_back() {
        for s in [0, 1, 59, 60, 3600, 5400, 93_784] {
            assert_eq!(duration(&show_duration(s)), Ok(s));
        }
        for mb in [1, 999, 1000, 1500, 17_180, 1_099_512] {
            assert_eq!(memory(&show_memory(mb)), Ok(mb));
        }
    }
}
