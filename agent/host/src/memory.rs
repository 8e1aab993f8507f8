//! Changes settings of the C library's memory allocator, so that an idle agent uses less memory.

/// Makes all threads of the process use the same memory arena.
///
/// By default, glibc creates an arena for each thread, and keeps the free memory of every arena. One memory arena is
/// enough, because usually only one thread of the agent allocates memory. Call the function before the process starts a
/// thread.
#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "glibc has no other way, and no crate wraps it")]
pub fn share_one_arena() {
    // SAFETY: mallopt takes two integers and only configures later allocations.
    let _ = unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}

/// If the C library is not glibc, the function does nothing.
#[cfg(not(target_env = "gnu"))]
pub fn share_one_arena() {}

/// Returns free memory of the process to the kernel.
///
/// By default, glibc keeps memory that a thread has freed.
#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "glibc has no other way, and no crate wraps it")]
pub fn give_back() {
    // SAFETY: malloc_trim takes no pointer, touches only free memory, and may be called from any thread.
    let _ = unsafe { libc::malloc_trim(0) };
}

/// If the C library is not glibc, the function does nothing, because other libraries return free memory themselves.
#[cfg(not(target_env = "gnu"))]
pub fn give_back() {}

/// Makes the process not dumpable: a crash leaves no core file, and no process of the same user can read the memory of
/// the process.
///
/// # Errors
/// When the kernel refuses it.
pub fn not_dumpable() -> std::io::Result<()> {
    Ok(rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?)
}
