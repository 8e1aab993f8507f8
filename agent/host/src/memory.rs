//! Settings of the C library's allocator that reduce the memory of an idle agent.

/// Makes all threads of the process share one allocation arena.
///
/// By default, glibc gives each thread its own arena, and keeps the free memory of every arena. The agent has few
/// threads, and usually only one of them works. The function must be called before the process starts threads.
#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "glibc has no other way, and no crate wraps it")]
pub fn share_one_arena() {
    // SAFETY: mallopt takes two integers and only configures later allocations.
    let _ = unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}

/// Does nothing, because C libraries other than glibc have no arenas.
#[cfg(not(target_env = "gnu"))]
pub fn share_one_arena() {}

/// Returns free memory to the kernel.
///
/// Without this call, glibc keeps the memory that a thread needed only for a short time.
#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "glibc has no other way, and no crate wraps it")]
pub fn give_back() {
    // SAFETY: malloc_trim takes no pointer, touches only free memory, and may be called from any thread.
    let _ = unsafe { libc::malloc_trim(0) };
}

/// Does nothing, because C libraries other than glibc return free memory by themselves.
#[cfg(not(target_env = "gnu"))]
pub fn give_back() {}

/// Makes the process not dumpable: it leaves no core file, and other processes of its user cannot read its memory.
///
/// # Errors
/// When the kernel refuses it.
pub fn not_dumpable() -> std::io::Result<()> {
    Ok(rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?)
}
