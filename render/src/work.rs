//! A count of the work of loading, for the tests that show that it grows with the input. Other builds count nothing.

#[cfg(test)]
thread_local! {
    static DONE: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// Adds steps: bytes of text that are read, or members of a set that are visited.
pub(crate) fn count(steps: usize) {
    #[cfg(test)]
    DONE.set(DONE.get() + steps);
    #[cfg(not(test))]
    let _ = steps;
}

/// Returns the steps of a call on this thread.
#[cfg(test)]
pub(crate) fn steps_of(call: impl FnOnce()) -> usize {
    let before = DONE.get();
    call();
    DONE.get() - before
}
