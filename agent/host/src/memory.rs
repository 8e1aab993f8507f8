//! Settings of the C library's memory allocator, which reduce the memory of an idle agent.

/// Makes all threads of the process share one allocation arena.
///
/// By default, glibc gives each thread its own arena, and keeps the free memory of every arena. One arena is enough,
/// because the agent has few threads, of which usually only one works. The function must be called before the process
/// starts threads.
#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "glibc has no other way, and no crate wraps it")]
pub fn share_one_arena() {
    // SAFETY: mallopt takes two integers and only configures later allocations.
    let _ = unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}

/// Does nothing on a C library other than glibc, because only glibc has an arena for each thread.
#[cfg(not(target_env = "gnu"))]
pub fn share_one_arena() {}

/// Returns free memory to the kernel.
///
/// Without this call, glibc keeps memory that a thread has freed.
#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "glibc has no other way, and no crate wraps it")]
pub fn give_back() {
    // SAFETY: malloc_trim takes no pointer, touches only free memory, and may be called from any thread.
    let _ = unsafe { libc::malloc_trim(0) };
}

/// Does nothing on a C library other than glibc, because other libraries return free memory by themselves.
#[cfg(not(target_env = "gnu"))]
pub fn give_back() {}
