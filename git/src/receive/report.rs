//! Transfers the error of a failed job from the child process to the agent.

use std::io;

use serde::{Deserialize, Serialize};

use crate::SourceError;

/// A serializable form of a [`SourceError`], which the child process sends to the agent.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Reported {
    Unreachable { url: String, causes: Vec<String> },
    TimedOut { url: String, seconds: u64 },
    TooMuch { url: String, limit: String },
    Refused { commit: String, message: String },
    Settings { message: String },
    Pack { message: String },
    Corrupt { path: std::path::PathBuf, message: String },
    Disk { path: std::path::PathBuf, code: Option<i32>, message: String },
}

impl Reported {
    /// Converts a [`SourceError`] and its causes to the serializable form that the child process sends.
    pub(crate) fn of(error: &SourceError) -> Self {
        match error {
            SourceError::Unreachable { url, source } => {
                let mut causes = vec![source.to_string()];
                let mut at = source.source();
                while let Some(cause) = at {
                    causes.push(cause.to_string());
                    at = cause.source();
                }
                Self::Unreachable { url: url.clone(), causes }
            }
            SourceError::TimedOut { url, seconds } => Self::TimedOut { url: url.clone(), seconds: *seconds },
            SourceError::TooMuch { url, limit } => Self::TooMuch { url: url.clone(), limit: limit.clone() },
            SourceError::Refused { commit, message } => {
                Self::Refused { commit: commit.clone(), message: message.clone() }
            }
            SourceError::Missing { .. } | SourceError::Settings { .. } | SourceError::Pending { .. } => {
                Self::Settings { message: error.to_string() }
            }
            SourceError::Pack { message } => Self::Pack { message: message.clone() },
            SourceError::Corrupt { path, message } => Self::Corrupt { path: path.clone(), message: message.clone() },
            SourceError::Disk { path, source } => {
                Self::Disk { path: path.clone(), code: source.raw_os_error(), message: source.to_string() }
            }
        }
    }
}

impl From<Reported> for SourceError {
    fn from(reported: Reported) -> Self {
        match reported {
            Reported::Unreachable { url, causes } => {
                let chain =
                    causes.into_iter().rev().fold(None, |cause, message| Some(Box::new(Cause { message, cause })));
                let source = chain.map_or_else(|| "the child process gave no cause".into(), |cause| cause as Box<_>);
                Self::Unreachable { url, source }
            }
            Reported::TimedOut { url, seconds } => Self::TimedOut { url, seconds },
            Reported::TooMuch { url, limit } => Self::TooMuch { url, limit },
            Reported::Refused { commit, message } => Self::Refused { commit, message },
            Reported::Settings { message } => Self::Settings { message },
            Reported::Pack { message } => Self::Pack { message },
            Reported::Corrupt { path, message } => Self::Corrupt { path, message },
            Reported::Disk { path, code, message } => {
                let source = code.map_or_else(|| io::Error::other(message), io::Error::from_raw_os_error);
                Self::Disk { path, source }
            }
        }
    }
}

/// A cause of an error in the child process, as text.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
struct Cause {
    message: String,
    #[source]
    cause: Option<Box<Cause>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_and_codes_of_the_child_are_kept() {
        let inner = SourceError::Disk { path: "/m".into(), source: io::Error::from_raw_os_error(28) };
        let error = SourceError::Unreachable { url: "https://h/r".into(), source: Box::new(inner) };
        let text = serde_json::to_string(&Reported::of(&error)).unwrap();
        let back = SourceError::from(serde_json::from_str::<Reported>(&text).unwrap());
        let (mut at, mut shown): (Option<&dyn std::error::Error>, Vec<String>) = (Some(&back), Vec::new());
        while let Some(error) = at {
            shown.push(error.to_string());
            at = error.source();
        }
        assert_eq!(shown.len(), 3, "{shown:?}");
        assert!(shown[2].contains("No space left on device"), "{shown:?}");
        let disk = SourceError::Disk { path: "/m".into(), source: io::Error::from_raw_os_error(30) };
        let back = SourceError::from(Reported::of(&disk));
        let SourceError::Disk { source, .. } = back else { panic!() };
        assert_eq!(source.kind(), io::ErrorKind::ReadOnlyFilesystem);
    }
}
