//! Durations as Go writes them, which is how Consul's files, flags and query parameters have them.

use std::time::Duration;

/// A duration in Go's notation ("10s", "1m30s", "1.5h", "-2ms", "0") in nanoseconds. `None` if it is no
/// duration or does not fit, as in Go.
pub fn parse_duration(text: &str) -> Option<i64> {
    read_duration(text).ok()
}

/// The same, for whoever tells why it is none.
///
/// # Errors
/// What Go says.
pub fn read_duration(text: &str) -> Result<i64, String> {
    let invalid = || format!("time: invalid duration {text:?}");
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let (whole, after) = take_digits(rest);
        let (fraction, after) = match after.strip_prefix('.') {
            Some(after) => take_digits(after),
            None => ("", after),
        };
        if whole.is_empty() && fraction.is_empty() {
            return Err(invalid());
        }
        let unit_len = after.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_len);
        let unit: i128 = match unit {
            "ns" => 1,
            "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60 * 1_000_000_000,
            "h" => 3_600 * 1_000_000_000,
            "" => return Err(format!("time: missing unit in duration {text:?}")),
            unknown => return Err(format!("time: unknown unit {unknown:?} in duration {text:?}")),
        };
        // Past 18 digits a part is beyond the range, or below a nanosecond.
        if whole.trim_start_matches('0').len() > 19 {
            return Err(invalid());
        }
        let number = |digits: &str| if digits.is_empty() { Some(0) } else { digits.parse::<i128>().ok() };
        let fraction = &fraction[..fraction.len().min(18)];
        let (whole, part) = number(whole).zip(number(fraction)).ok_or_else(invalid)?;
        total += whole * unit + part * unit / 10i128.pow(fraction.len() as u32);
        if total > i128::from(i64::MAX) {
            return Err(invalid());
        }
        rest = after;
    }
    let total = i64::try_from(total).map_err(|_| invalid())?;
    Ok(if negative { -total } else { total })
}

/// A duration in Go's notation, as its `Duration.String` has it: "1m30s", "1h0m0s", "1.5ms", "0s".
pub fn show_duration(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    // No digit behind the point says nothing.
    let with_fraction = |unit: u128, name: &str, nanos: u128| {
        let fraction = format!("{:0width$}", nanos % unit, width = unit.ilog10() as usize);
        let fraction = fraction.trim_end_matches('0');
        let point = if fraction.is_empty() { "" } else { "." };
        format!("{}{point}{fraction}{name}", nanos / unit)
    };
    match nanos {
        0 => "0s".to_owned(),
        1..1_000 => format!("{nanos}ns"),
        1_000..1_000_000 => with_fraction(1_000, "\u{b5}s", nanos),
        1_000_000..1_000_000_000 => with_fraction(1_000_000, "ms", nanos),
        _ => {
            let seconds = nanos / 1_000_000_000;
            let (hours, minutes) = (seconds / 3_600, seconds / 60 % 60);
            let hours = if hours > 0 { format!("{hours}h") } else { String::new() };
            let minutes = if seconds >= 60 { format!("{minutes}m") } else { String::new() };
            format!("{hours}{minutes}{}", with_fraction(1_000_000_000, "s", nanos % 60_000_000_000))
        }
    }
}

fn take_digits(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MILLISECOND: i64 = 1_000_000;
    const SECOND: i64 = 1_000 * MILLISECOND;

    #[test]
    fn durations_read_as_in_go() {
        let cases = [
            ("10s", Some(10 * SECOND)),
            ("1m30s", Some(90 * SECOND)),
            ("500ms", Some(500 * MILLISECOND)),
            ("1.5h", Some(5400 * SECOND)),
            (".5s", Some(500 * MILLISECOND)),
            ("1.s", Some(SECOND)),
            ("2us", Some(2_000)),
            ("2\u{b5}s", Some(2_000)),
            ("7ns", Some(7)),
            ("0", Some(0)),
            ("-2s", Some(-2 * SECOND)),
            ("+2s", Some(2 * SECOND)),
            ("9223372036854775807ns", Some(i64::MAX)),
            ("9223372036854775808ns", None),
            ("99999999999999999999999999999999999999999h", None),
            ("10", None),
            ("", None),
            ("-", None),
            (".s", None),
            ("s", None),
            ("1x", None),
            ("1 s", None),
            ("1d", None),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_duration(text), expected, "{text:?}");
        }
    }

    #[test]
    fn why_it_is_no_duration_is_told_as_in_go() {
        for (text, why) in [
            ("", "time: invalid duration \"\""),
            ("soon", "time: invalid duration \"soon\""),
            ("1h.s", "time: invalid duration \"1h.s\""),
            ("9223372036854775808ns", "time: invalid duration \"9223372036854775808ns\""),
            ("1m10", "time: missing unit in duration \"1m10\""),
            ("10z", "time: unknown unit \"z\" in duration \"10z\""),
        ] {
            assert_eq!(read_duration(text), Err(why.to_owned()));
        }
    }

    #[test]
    fn durations_are_shown_as_in_go() {
        let cases = [
            (0, "0s"),
            (7, "7ns"),
            (2_500, "2.5\u{b5}s"),
            (500_000_000, "500ms"),
            (1_500_000, "1.5ms"),
            (10_000_000_000, "10s"),
            (10_050_000_000, "10.05s"),
            (90_000_000_000, "1m30s"),
            (60_000_000_000, "1m0s"),
            (3_600_000_000_000, "1h0m0s"),
            (90_061_000_000_001, "25h1m1.000000001s"),
        ];
        for (nanos, expected) in cases {
            assert_eq!(show_duration(Duration::from_nanos(nanos)), expected);
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_is_read_as_the_same(nanos in 0..i64::MAX) {
            let shown = show_duration(Duration::from_nanos(nanos.unsigned_abs()));
            prop_assert_eq!(parse_duration(&shown), Some(nanos), "{}", shown);
        }

        #[test]
        fn any_text_is_a_duration_or_is_not(text in any::<String>(), near in "[-+0-9.]{0,30}[nmsuh]{0,2}") {
            parse_duration(&text);
            parse_duration(&near);
        }
    }
}
