//! The taints that the rendering on this thread has read.

use std::cell::RefCell;

use crate::taint::Taint;

thread_local! {
    static READ: RefCell<Taint> = const { RefCell::new(Taint::NONE) };
}

/// Adds to what this rendering has read.
pub(super) fn record(taint: &Taint) {
    if !taint.is_none() {
        READ.with_borrow_mut(|read| read.add(taint));
    }
}

/// The taints that this rendering has read so far.
pub(super) fn so_far() -> Taint {
    READ.with_borrow(Clone::clone)
}

/// Restores the trace around another one, also after a panic.
struct Around(Taint);

impl Drop for Around {
    fn drop(&mut self) {
        READ.set(std::mem::take(&mut self.0));
    }
}

/// Runs a function with an empty trace, and returns the taints that it read. The trace around it does not receive them.
pub(super) fn traced<T>(run: impl FnOnce() -> T) -> (T, Taint) {
    let _around = Around(READ.take());
    let result = run();
    (result, READ.take())
}
