//! Memory: an idle agent is to be small.

/// Has all threads of the process take their memory from one place: glibc gives each its own otherwise, and keeps what is
/// free in each. An agent has few threads, and one that works. To be called before there are any.
#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "glibc has no other way, and no crate wraps it")]
pub fn share_one_arena() {
    // SAFETY: mallopt takes two numbers, and sets how later allocations are made.
    let _ = unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}

/// Other C libraries have no arenas.
#[cfg(not(target_env = "gnu"))]
pub fn share_one_arena() {}

/// Gives the memory that is free back to the machine. What a pass needed for a moment would otherwise stay with the
/// agent: glibc keeps it, and each thread its own.
#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "glibc has no other way, and no crate wraps it")]
pub fn give_back() {
    // SAFETY: malloc_trim takes no pointer, touches only memory that is free, and is safe to call from any thread.
    let _ = unsafe { libc::malloc_trim(0) };
}

/// Other C libraries give it back by themselves.
#[cfg(not(target_env = "gnu"))]
pub fn give_back() {}
