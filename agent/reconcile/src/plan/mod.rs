//! Pure decisions about tasks: their names, the meaning of a check, the changes that go together, and removals.

pub mod assess;
pub mod batch;
pub mod instance;
pub mod order;
pub mod removal;
pub mod unrun;
