//! Traces of small TaskBooks: every commit of a journal, every transaction of the store, and every outcome, event and
//! condition, in order.
//!
//! The trace of a book is a file in tests/tests/snapshots/trace. A difference fails the test, which prints it. After an
//! intended change, `INSTA_UPDATE=always` rewrites the files. Values that differ from run to run are numbered
//! placeholders. `(as it was)` marks a record that is written with the value it had. `(not there)` marks a deleted key
//! that the trace has not seen. A record `relation-event/` repeats an event of its commit and is not shown. `beside`
//! marks a thread of a parallel book.

mod fleet;
mod harness;
mod nodes;
mod plain;
mod reboot;
mod recorder;

/// Returns a TaskBook for all nodes. `spec` holds its spec, without indentation.
pub(crate) fn book(name: &str, spec: &str) -> String {
    let spec = spec.trim().replace('\n', "\n  ");
    format!(
        "metadata:\n  apiVersion: v1alpha\n  kind: TaskBook\n  name: {name}\n  namespace: app\nspec:\n  targets: {{nodeGroups: [web]}}\n  {spec}\n"
    )
}
