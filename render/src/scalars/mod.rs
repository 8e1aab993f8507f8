//! Scalar types that are written as strings: durations, counts, file modes, selectors and schedules.

mod count;
mod duration;
mod mode;
mod schedule;
mod selector;

pub use count::Count;
pub use duration::{duration, format_duration};
pub use mode::{mode, mode_spelling};
pub use schedule::Schedule;
pub use selector::Selector;

/// Converts a text of digits to a number. Unlike `str::parse` of the standard library, this parser rejects a plus sign.
pub(crate) fn digits<T: std::str::FromStr>(text: &str) -> Option<T> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}
