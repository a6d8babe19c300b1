//! Times as people read them: how long ago in tables, the hour in `show`.

use jiff::Timestamp;
use jiff::tz::TimeZone;

const MINUTE_S: i64 = 60;
const HOUR_S: i64 = 60 * MINUTE_S;
const DAY_S: i64 = 24 * HOUR_S;

/// How long before `now` it was, in its largest unit. A clock that runs ahead shows as `now`.
pub fn ago(at: Timestamp, now: Timestamp) -> String {
    match now.as_second() - at.as_second() {
        ..=0 => "now".to_owned(),
        passed => format!("{} ago", span(passed)),
    }
}

/// A duration in its largest unit, as in `3 m`.
fn span(seconds: i64) -> String {
    match seconds {
        s if s < MINUTE_S => format!("{s} s"),
        s if s < HOUR_S => format!("{} m", s / MINUTE_S),
        s if s < 2 * DAY_S => format!("{} h", s / HOUR_S),
        s => format!("{} d", s / DAY_S),
    }
}

/// The moment itself, in this machine's time zone.
pub fn at(at: Timestamp) -> String {
    at.to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S %Z").to_string()
}

/// The moment, and how long ago it was.
pub fn at_and_ago(moment: Timestamp, now: Timestamp) -> String {
    format!("{} ({})", at(moment), ago(moment, now))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(seconds_before: i64, shown: &str) {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        assert_eq!(ago(Timestamp::from_second(1_800_000_000 - seconds_before).unwrap(), now), shown);
    }

    #[test]
    fn times_show_in_their_largest_unit() {
        check(-5, "now");
        check(0, "now");
        check(59, "59 s ago");
        check(190, "3 m ago");
        check(7200, "2 h ago");
        check(47 * 3600, "47 h ago");
        check(50 * 3600, "2 d ago");
    }
}
