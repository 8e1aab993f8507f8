//! Settings of the C library's allocator that keep an idle agent small.

/// Makes all threads of the process share one allocation arena.
///
/// By default, glibc gives each thread an arena and keeps the free memory of each. The agent has few threads, and
/// mostly one of them works. Must be called before the process starts threads.
#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "glibc has no other way, and no crate wraps it")]
pub fn share_one_arena() {
    // SAFETY: mallopt takes two integers and only configures later allocations.
    let _ = unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}

/// Does nothing: other C libraries have no arenas.
#[cfg(not(target_env = "gnu"))]
pub fn share_one_arena() {}

/// Returns free memory to the kernel.
///
/// Without this call, glibc keeps the memory that a pass needed for a moment, for each thread.
#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "glibc has no other way, and no crate wraps it")]
pub fn give_back() {
    // SAFETY: malloc_trim takes no pointer, touches only free memory, and may be called from any thread.
    let _ = unsafe { libc::malloc_trim(0) };
}

/// Does nothing: other C libraries return free memory by themselves.
#[cfg(not(target_env = "gnu"))]
pub fn give_back() {}
