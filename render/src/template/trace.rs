//! The trace of a rendering: the taints that the rendering has read on this thread.

use std::cell::RefCell;

use crate::taint::Taint;

thread_local! {
    static READ: RefCell<Taint> = const { RefCell::new(Taint::NONE) };
}

/// Adds a taint to the trace of the current rendering.
pub(super) fn record(taint: &Taint) {
    if !taint.is_none() {
        READ.with_borrow_mut(|read| read.add(taint));
    }
}

/// Returns the taints that the current rendering has read so far.
pub(super) fn so_far() -> Taint {
    READ.with_borrow(Clone::clone)
}

/// A guard that restores the previous trace when it is dropped, also after a panic.
struct Around(Taint);

impl Drop for Around {
    fn drop(&mut self) {
        READ.set(std::mem::take(&mut self.0));
    }
}

/// Runs a function with an empty trace. Returns the result of the function, and the taints that it has read.
/// The taints are not added to the previous trace.
pub(super) fn traced<T>(run: impl FnOnce() -> T) -> (T, Taint) {
    let _around = Around(READ.take());
    let result = run();
    (result, READ.take())
}
