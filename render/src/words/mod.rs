//! Scalar types that are written as strings: durations, counts, modes, selectors, schedules.

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

/// Reads a number of digits. The standard library also reads a sign, which no field of the schema has.
pub(crate) fn digits<T: std::str::FromStr>(text: &str) -> Option<T> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}
