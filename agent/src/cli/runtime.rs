//! The async runtimes of commands.

use std::time::Duration;

use super::exit::Failure;

/// Runs a future on a single-threaded runtime, for commands that query an agent.
pub(super) fn block_on<T>(future: impl Future<Output = T>) -> Result<T, Failure> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| Failure::error(&error))?;
    Ok(runtime.block_on(future))
}

/// Runs a future on a runtime with one worker thread, so that an idle agent uses little memory.
pub(super) fn block_on_small<T>(future: impl Future<Output = T>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_stack_size(2 << 20)
        .enable_all()
        .build()
        .map_err(|error| Failure::error(&error))?;
    let result = runtime.block_on(future);
    runtime.shutdown_timeout(Duration::from_secs(1));
    Ok(result)
}
