//! Describes problems of git sources: the reason of the condition, and a message with a remedy.

use towpath_git::{Ancestry, Fetched, Reference, SourceError};
use towpath_render::problem::Problem;
use towpath_state::SourceCheckpoint;

use crate::{config::Source, error_chain::error_chain, status::conditions::ConditionReason};

/// Returns the problem of a source that cannot be fetched or read.
pub(super) fn of_error(error: &SourceError, name: &str) -> ConditionReason {
    let shown = error_chain(error);
    let (reason, message) = match error {
        SourceError::Unreachable { .. } | SourceError::TimedOut { .. } | SourceError::TooMuch { .. } => (
            "SourceUnreachable",
            format!("{shown}; the node keeps applying the last good revision; check the network, the URL and `auth`"),
        ),
        SourceError::Pending { .. } => ("SourceUnreachable", shown.clone()),
        SourceError::Missing { .. } => {
            ("SourceUnreachable", format!("{shown}; push a commit to the source, or correct its branch, tag or commit"))
        }
        SourceError::Settings { .. } => {
            ("SourceUnreachable", format!("{shown}; correct the settings of the source {name}"))
        }
        SourceError::Corrupt { .. } | SourceError::Pack { .. } => (
            "MirrorCorrupt",
            format!(
                "{shown}; the node rebuilds the mirror when the git server answers; check the disk (dmesg, smartctl)"
            ),
        ),
        SourceError::Refused { .. } => {
            ("InvalidObjects", format!("{shown}; push a commit without the rejected content"))
        }
        SourceError::Disk { source, .. } => match source.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => (
                "DiskFull",
                format!(
                    "{shown}; create free space on the disk of the state directory; \
                    the agent then continues without a restart"
                ),
            ),
            _ => (
                "ReadOnly",
                format!("{shown}; make the state directory writable; the agent then continues without a restart"),
            ),
        },
    };
    let (reason, message) = disk_in(error).map_or((reason, message.clone()), |reason| {
        (
            reason,
            format!(
                "{shown}; create free space on the disk of the state directory, or remount the disk writable; \
                the agent then continues without a restart"
            ),
        )
    });
    ConditionReason::new(reason, message)
}

/// Returns the reason why the node is not allowed to follow a head. Returns `None` if the node may follow the head
/// (P28, P29). `seen` is true if this node has found the accepted commit at the ref on the git server.
pub(super) fn refused(
    source: &Source,
    fetched: &Fetched,
    checkpoint: Option<&SourceCheckpoint>,
    seen: bool,
) -> Option<ConditionReason> {
    if source.git.allow_rewind && seen {
        return None;
    }
    let name = &source.git.name;
    match &source.git.reference {
        Reference::Branch(branch) => {
            let what = match fetched.ancestry {
                Ancestry::Rewound => "was rewritten: its head does not descend from the accepted commit",
                Ancestry::Unknown => "no longer has the accepted commit",
                _ => return None,
            };
            let commit = checkpoint.map(|checkpoint| checkpoint.commit.clone()).unwrap_or_default();
            let remedy = match source.git.allow_rewind {
                true => {
                    "`allowRewind` permits this head, but the git server of this node has never shown that commit at the branch, so another node must propose the new head; if no node does, push a revert on top of that commit"
                }
                false => "push a revert on top of the accepted commit, or set `allowRewind` for the source",
            };
            Some(ConditionReason::new("Rewound", format!("the branch {branch} of {name} {what} {commit}; {remedy}")))
        }
        Reference::Tag(_) => refused_tag(fetched, checkpoint?).map(|why| {
            let tag = fetched.tag.as_deref().unwrap_or_default().escape_debug();
            ConditionReason::new(
                "Rewound",
                format!("the tag {tag} of {name} {why}; create a newer tag, or set `allowRewind` for the source"),
            )
        }),
        Reference::Commit(_) => None,
    }
}

/// Returns the reason why the node is not allowed to follow a tag. Returns `None` if the node may follow the tag.
fn refused_tag(fetched: &Fetched, checkpoint: &SourceCheckpoint) -> Option<String> {
    let accepted = &checkpoint.commit;
    if fetched.commit == *accepted {
        return None;
    }
    if fetched.ancestry == Ancestry::Behind {
        return Some(format!("is at {}, an ancestor of the accepted commit {accepted}", fetched.commit));
    }
    let version = |tag: &Option<String>| tag.as_deref().and_then(towpath_git::version);
    match (version(&checkpoint.tag), version(&fetched.tag)) {
        (Some(old), Some(new)) if new < old => Some(format!("is {new}, and {old} was accepted")),
        (Some(old), Some(new)) if new == old => Some(format!("moved from {accepted} to {}", fetched.commit)),
        (Some(_), Some(_)) => None,
        // A tag that is not a version is checked like a branch.
        _ if matches!(fetched.ancestry, Ancestry::Rewound | Ancestry::Unknown) => {
            Some(format!("moved to {}, which does not descend from the accepted commit {accepted}", fetched.commit))
        }
        _ => None,
    }
}

/// Returns the problem of a commit whose tree has forbidden content.
pub(super) fn refused_tree(name: &str, commit: &str, message: &str) -> ConditionReason {
    ConditionReason::new(
        "InvalidObjects",
        format!("rejected the commit {commit} of {name}: {message}; push a commit without the rejected content"),
    )
}

/// Returns the problem of a head with invalid objects.
pub(super) fn invalid(source: &Source, errors: &[Problem]) -> ConditionReason {
    let first = errors
        .first()
        .map(|problem| format!("{}:{}: {}", problem.file, problem.line, problem.message))
        .unwrap_or_default();
    let more = if errors.len() > 1 { format!(" (and {} more)", errors.len() - 1) } else { String::new() };
    ConditionReason::new(
        "InvalidObjects",
        format!(
            "the head of {} is invalid, so the node keeps applying the last good revision: {first}{more}; run `towpath validate` to list all errors",
            source.git.name
        ),
    )
}

/// Returns the reason `DiskFull` or `ReadOnly` if a disk problem caused the error. Returns `None` if the cause of the
/// error is not a disk problem.
fn disk_in(error: &SourceError) -> Option<&'static str> {
    let mut at: Option<&dyn std::error::Error> = Some(error);
    while let Some(inner) = at {
        if let Some(io) = inner.downcast_ref::<std::io::Error>() {
            match io.kind() {
                std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => return Some("DiskFull"),
                std::io::ErrorKind::ReadOnlyFilesystem => return Some("ReadOnly"),
                _ => {}
            }
        }
        let text = inner.to_string();
        if text.contains("No space left on device") {
            return Some("DiskFull");
        }
        if text.contains("Read-only file system") {
            return Some("ReadOnly");
        }
        at = inner.source();
    }
    None
}
