//! Runs package tools, such as apt-get, with a deadline. If a tool fails, the error message contains the last lines of
//! its output.

use std::time::{Duration, Instant};

use towpath_host::{
    Clock as _, SystemClock,
    process::{self, Cancel, Invocation, Output},
};

use crate::{Context, ModuleError};

/// The deadline of a package change.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadline {
    end: Instant,
    /// The minimum time between the start of a package change and its deadline. The agent avoids interruptions, because
    /// an interrupted package change can damage the package database.
    pub(super) least: Duration,
}

/// The minimum time between the start of a package change and its deadline. If a quarter of the task's timeout is
/// shorter than the constant, the agent uses the quarter as the minimum.
const WORK: Duration = Duration::from_secs(60);

impl Deadline {
    /// Returns the deadline of a package task, from the timeout of the task.
    pub(super) fn of(context: &Context<'_>) -> Self {
        Self { end: SystemClock.monotonic() + context.timeout, least: WORK.min(context.timeout / 4) }
    }

    /// Returns the remaining time until the deadline.
    pub(super) fn left(self) -> Duration {
        self.end.saturating_duration_since(SystemClock.monotonic())
    }

    /// Returns an error if too little time remains to begin a package change.
    pub(super) fn allows(self, what: &str) -> Result<(), ModuleError> {
        if self.left() >= self.least {
            return Ok(());
        }
        let left = self.left().as_secs();
        let message =
            format!("cannot start {what}: only {left} s remain before the deadline; raise the timeout of the task");
        Err(ModuleError::new(message))
    }
}

/// Runs a package tool within the timeout of the task.
pub(super) fn run_tool(argv: &[&str], context: &Context<'_>) -> Result<Output, ModuleError> {
    run_until(argv, Deadline::of(context), context)
}

/// Runs a tool until a deadline.
pub(super) fn run_until(argv: &[&str], deadline: Deadline, context: &Context<'_>) -> Result<Output, ModuleError> {
    let env = [("DEBIAN_FRONTEND", "noninteractive"), ("LC_ALL", "C"), ("NEEDRESTART_SUSPEND", "1")];
    let invocation = Invocation {
        argv: argv.iter().map(|word| (*word).to_owned()).collect(),
        env: env.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        timeout: Some(deadline.left()),
        ..Invocation::default()
    };
    // The tool continues when the agent stops, because a killed package manager leaves a broken database.
    let output =
        process::run_watched(&invocation, &Cancel::default(), &mut |line| context.report_progress(&display_line(line)))
            .map_err(|error| ModuleError::new(format!("cannot run {}: {error}", argv[0])))?;
    if output.timed_out {
        let seconds = context.timeout.as_secs();
        let what = format!(
            "the package change took longer than {seconds} s, so the agent ended {}; raise the timeout of the task",
            argv[0]
        );
        return Err(ModuleError::new(what));
    }
    Ok(output)
}

/// Converts a line of output from apt or dnf to the text that `towpath status` shows. The function omits a line with a
/// URL, because the URL may contain credentials.
pub(super) fn display_line(line: &str) -> String {
    if line.contains("://") { "fetching".into() } else { line.trim().chars().take(100).collect() }
}

/// The maximum number of lines of a failed tool's stdout, and of its stderr, in an error message.
const MAX_LINES: usize = 6;

/// Returns an error if a package tool ended with a status other than 0. The error message contains the last lines of
/// stdout and stderr.
pub(super) fn check_status(what: &str, output: &Output) -> Result<(), ModuleError> {
    if output.rc == 0 {
        return Ok(());
    }
    // Maintainer scripts print to stdout. Errors and the holder of the lock are printed to stderr.
    let last = |text: &str| {
        let lines: Vec<String> =
            text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect();
        lines[lines.len().saturating_sub(MAX_LINES)..].to_vec()
    };
    let shown = [last(&output.stdout), last(&output.stderr)].concat();
    Err(ModuleError::new(format!("{what} ended with status {}: {}", output.rc, shown.join("; "))))
}
