//! Exit statuses, and messages of failed commands.

use std::{error::Error, process::ExitCode};

use super::terminal;
use crate::{config::ConfigError, error_chain::error_chain, node::NodeError, serve::CallError};

/// The exit status for an error, and for a run that applied the last good revision because a source was unreachable.
pub(super) const ERROR: u8 = 1;
/// The exit status for invalid objects or arguments, and for a rejected commit.
pub(super) const INVALID: u8 = 2;
/// The exit status for failed tasks.
pub(super) const FAILED: u8 = 3;
/// The exit status for held changes.
pub(super) const HELD: u8 = 4;
/// The exit status of `towpath plan --exit-code` for pending changes.
pub(super) const CHANGES: u8 = 5;

/// The failure of a command, with the exit status and a hint for the user.
#[derive(Debug)]
pub(super) struct Failure {
    code: u8,
    message: String,
    hint: Option<String>,
}

impl Failure {
    /// Creates a failure from an error and its causes.
    pub(super) fn error(error: &dyn Error) -> Self {
        Self { code: ERROR, message: error_chain(error), hint: None }
    }

    /// Creates a failure for invalid arguments or objects.
    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self { code: INVALID, message: message.into(), hint: None }
    }

    /// Creates a failure from a message.
    pub(super) fn failed(message: impl Into<String>) -> Self {
        Self { code: ERROR, message: message.into(), hint: None }
    }

    /// Adds a hint with the remedy.
    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Prints the failure and returns its exit status.
    pub(super) fn report(self) -> ExitCode {
        terminal::message(&format!("towpath: {}", self.message));
        if let Some(hint) = self.hint {
            terminal::message(&format!("  hint: {hint}"));
        }
        ExitCode::from(self.code)
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        match &error {
            ConfigError::Invalid(_) => Self::invalid(error.to_string()),
            ConfigError::Unreadable { .. } => Self::error(&error)
                .hint("create the file, or name another file with --config; the README shows an example"),
        }
    }
}

impl From<NodeError> for Failure {
    fn from(error: NodeError) -> Self {
        Self::error(&error)
    }
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        let failure = Self::error(&error);
        match &error {
            CallError::NoAgent { .. } => {
                failure.hint("start the agent (systemctl start towpath), or name its socket with --socket")
            }
            CallError::Remote { why, .. } if why.to_ascii_lowercase().contains("certificate") => failure.hint(
                "the address must be a name in the node's certificate (towpath pki issue --address), and both certificates must belong to the same cluster",
            ),
            CallError::Remote { .. } => {
                failure.hint("check listen.api on that node, and the network; `towpath status` on the node shows more")
            }
            CallError::Refused(_) | CallError::Credentials(_) => failure,
        }
    }
}
