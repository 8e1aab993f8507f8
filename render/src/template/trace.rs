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

/// A guard that saves the record of an outer rendering. When the guard is dropped, also after a panic, the record of
/// the outer rendering is restored.
struct Around(Taint);

impl Drop for Around {
    fn drop(&mut self) {
        READ.set(std::mem::take(&mut self.0));
    }
}

/// Runs a function, and returns its result with the taints that the function has read. The taints that the function has
/// read are not added to the record of an outer rendering.
pub(super) fn traced<T>(run: impl FnOnce() -> T) -> (T, Taint) {
    let _around = Around(READ.take());
    let result = run();
    (result, READ.take())
}
