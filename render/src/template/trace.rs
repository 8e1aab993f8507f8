//! The trace of a rendering: the taints that it has read on this thread.

use std::cell::RefCell;

use crate::taint::Taint;

thread_local! {
    static READ: RefCell<Taint> = const { RefCell::new(Taint::NONE) };
}

/// Adds a taint to the trace.
pub(super) fn record(taint: &Taint) {
    if !taint.is_none() {
        READ.with_borrow_mut(|read| read.add(taint));
    }
}

/// Returns the taints in the trace.
pub(super) fn so_far() -> Taint {
    READ.with_borrow(Clone::clone)
}

/// A guard that restores the previous trace, also after a panic.
struct Around(Taint);

impl Drop for Around {
    fn drop(&mut self) {
        READ.set(std::mem::take(&mut self.0));
    }
}

/// Runs a function with an empty trace. Returns its result and the taints that it read. The previous trace does not get
/// them.
pub(super) fn traced<T>(run: impl FnOnce() -> T) -> (T, Taint) {
    let _around = Around(READ.take());
    let result = run();
    (result, READ.take())
}
