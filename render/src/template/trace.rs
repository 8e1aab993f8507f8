//! Records the taints that the current rendering on this thread has read.

use std::cell::RefCell;

use crate::taint::Taint;

thread_local! {
    static READ: RefCell<Taint> = const { RefCell::new(Taint::NONE) };
}

/// Records that the current rendering has read a taint.
pub(super) fn record(taint: &Taint) {
    if !taint.is_none() {
        READ.with_borrow_mut(|read| read.add(taint));
    }
}

/// Returns the taints that the current rendering has read so far.
pub(super) fn so_far() -> Taint {
    READ.with_borrow(Clone::clone)
}

/// A guard that keeps the record of an outer rendering. A drop of the guard, also after a panic, restores the record of
/// the outer rendering.
struct Around(Taint);

impl Drop for Around {
    fn drop(&mut self) {
        READ.set(std::mem::take(&mut self.0));
    }
}

/// Runs a function, and returns its result with the taints that the function has read. The record of an outer rendering
/// does not get the taints that the function has read.
pub(super) fn traced<T>(run: impl FnOnce() -> T) -> (T, Taint) {
    let _around = Around(READ.take());
    let result = run();
    (result, READ.take())
}
