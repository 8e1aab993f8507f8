//! Parses the objects of all sources, and checks the objects against one another.

mod check;
mod definition;
mod ledger;
mod limits;
mod load;
mod nodes;
mod object;
mod segment;
mod set;
mod spec;
mod targets;
pub mod task;
pub(crate) mod variables;

pub use check::{FACTS, UntrustedUse, is_about_values, untrusted_uses};
pub use definition::{book_digest, task_digest};
pub use ledger::{Budget, Cost};
pub use load::{Loaded, Pinned, SourceTree, load, load_partial};
pub use nodes::{Group, Members, NodeObject};
pub use object::{Key, Object};
pub use segment::{Segment, SegmentKind, segments};
pub use set::{Held, HeldKey, ObjectSet, newly_held};
pub use targets::{Selected, Targets};
pub use task::Reaction;
pub use variables::{ComputedValue, VariablesObject};
