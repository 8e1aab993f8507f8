//! The reconciler, which brings a server to the state that the git sources define. A pass covers all TaskBooks of a
//! revision, and an executor runs one TaskBook.

mod admission;
mod execute;
mod facts;
pub mod pass;
mod revision;
pub(crate) mod runs;

pub(crate) use admission::Permit;
pub(crate) use facts::{PassFacts, host_facts, machine_id};
pub use pass::desired::{Desired, compare};
pub use revision::Revision;
pub(crate) use revision::{object_id, object_ids};

use towpath_host::FsWriter;

use self::{
    execute::{DryRun, Executor},
    pass::{ComputedCache, PassContext, PassOutcome},
};

/// Runs the TaskBooks of a node, and corrects differences from the desired state.
pub(crate) fn apply(pass: PassContext<'_>, writer: &FsWriter, computed: &mut ComputedCache) -> PassOutcome {
    let (inputs, failures) = pass::computed::evaluate(&pass, computed);
    let pass = PassContext { inputs, ..pass };
    pass::books::run::<Executor<'_>>(&pass, writer, &pass.claims(), &failures)
}

/// Returns the changes that the TaskBooks of a node need. Nothing is changed.
pub(crate) fn plan(pass: &PassContext<'_>) -> PassOutcome {
    pass::books::run::<DryRun<'_>>(pass, (), &pass.claims(), &[])
}
