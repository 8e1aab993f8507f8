//! Counts the work of the loader in steps. Tests use the count to check that the work grows only in proportion to the
//! input. Only test builds count.

#[cfg(test)]
thread_local! {
    static DONE: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// Adds steps to the count. A step is one byte of text that the loader reads, or one member of a set that the loader
/// visits.
pub(crate) fn count(steps: usize) {
    #[cfg(test)]
    DONE.set(DONE.get() + steps);
    #[cfg(not(test))]
    let _ = steps;
}

/// Returns the number of steps that a function performs on this thread.
#[cfg(test)]
pub(crate) fn steps_of(call: impl FnOnce()) -> usize {
    let before = DONE.get();
    call();
    DONE.get() - before
}
