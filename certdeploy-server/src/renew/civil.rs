//! Moments and what the clock on the wall says of them, in one time zone. Pure but for [`Zone::local`].
//!
//! clokwerk counts on `chrono`'s types and panics on a local time that does not exist. It is therefore handed the civil
//! time *labelled as UTC*: that label knows no gaps and no overlaps. They are dealt with here, once.

use chrono::{DateTime, TimeDelta, Utc};
use jiff::Timestamp;
use jiff::tz::{AmbiguousOffset, Offset, TimeZone};

use crate::clock::Millis;

/// What the clock on the wall says, labelled as UTC.
pub type Civil = DateTime<Utc>;

/// A time zone.
#[derive(Debug, Clone)]
pub struct Zone(TimeZone);

impl Zone {
    /// The one of this host (`TZ`, else `/etc/localtime`) as it is now. It is cached for some minutes.
    #[must_use]
    pub fn local() -> Self {
        Self(TimeZone::system())
    }

    /// Why the time zone that `TZ` names cannot be used; UTC is, then. Without `TZ` and `/etc/localtime` UTC is meant.
    #[must_use]
    pub fn unknown() -> Option<String> {
        let name = std::env::var_os("TZ").filter(|name| !name.is_empty())?;
        let error = TimeZone::try_system().err()?;
        Some(format!("the time zone TZ={} is unknown, UTC is used (is tzdata installed?): {error}", name.display()))
    }

    /// Known by a POSIX rule, as in the variable `TZ`.
    #[must_use]
    pub fn posix(rule: &str) -> Option<Self> {
        TimeZone::posix(rule).ok().map(Self)
    }

    /// The clock on the wall at a moment.
    #[must_use]
    pub fn civil(&self, at: Millis) -> Civil {
        let offset = self.0.to_offset(stamp(at)).seconds();
        label(at) + TimeDelta::seconds(offset.into())
    }

    /// The first moment at which the clock on the wall says `civil` or, if that is skipped, something later.
    #[must_use]
    pub fn moment(&self, civil: Civil) -> Millis {
        let labelled = Millis(civil.timestamp_millis());
        let Ok(bare) = Timestamp::from_millisecond(labelled.0) else { return labelled };
        let bare = Offset::UTC.to_datetime(bare);
        let by = |offset: Offset| Millis(labelled.0.saturating_sub(i64::from(offset.seconds()) * 1000));
        match self.0.to_ambiguous_timestamp(bare).offset() {
            AmbiguousOffset::Unambiguous { offset } => by(offset),
            AmbiguousOffset::Fold { before, .. } => by(before),
            AmbiguousOffset::Gap { after, .. } => self.change(by(after)).unwrap_or(by(after)),
        }
    }

    /// The next moment at which the clock on the wall is changed.
    #[must_use]
    pub fn change(&self, after: Millis) -> Option<Millis> {
        let change = self.0.following(stamp(after)).next()?;
        Some(Millis(change.timestamp().as_millisecond()))
    }
}

fn stamp(at: Millis) -> Timestamp {
    let end = if at.0 < 0 { Timestamp::MIN } else { Timestamp::MAX };
    Timestamp::from_millisecond(at.0).unwrap_or(end)
}

fn label(at: Millis) -> Civil {
    DateTime::from_timestamp_millis(at.0).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Millis {
        Millis(text.parse::<Timestamp>().unwrap().as_millisecond())
    }

    #[test]
    fn what_is_skipped_is_the_change_and_what_comes_twice_is_its_first_time() {
        let berlin = Zone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
        let civil = |text: &str| text.parse::<Civil>().unwrap();
        assert_eq!(berlin.moment(civil("2026-03-29T02:30:00Z")), at("2026-03-29T01:00:00Z"));
        assert_eq!(berlin.moment(civil("2026-10-25T02:30:00Z")), at("2026-10-25T00:30:00Z"));
        assert_eq!(berlin.moment(civil("2026-07-01T02:30:00Z")), at("2026-07-01T00:30:00Z"));
        assert_eq!(berlin.civil(at("2026-10-25T01:30:00Z")), civil("2026-10-25T02:30:00Z"));
        assert_eq!(berlin.change(at("2026-07-01T00:00:00Z")), Some(at("2026-10-25T01:00:00Z")));
        for odd in [Millis(i64::MAX), Millis(i64::MIN), Millis(0)] {
            let _ = berlin.moment(berlin.civil(odd));
        }
        assert!(Zone::posix("nonsense!").is_none());
    }
}
