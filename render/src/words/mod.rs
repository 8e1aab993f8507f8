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
