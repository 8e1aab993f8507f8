//! The checks of `towpath validate` on encrypted values. They need no key.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use towpath_render::{
    document::{At, Path, Place, SourceFile},
    objects::{Key, Object, ObjectSet},
    problem::{Finding, Problem},
    tree::EntryKind,
};
use towpath_secrets::{
    Fingerprint, Recipient, Recipients,
    envelope::{self, ARMOR, Inspection, OpenError, ValueName},
    sops::{Difference, PlainValues, SopsFile},
};

use super::{
    paths::regular_file,
    readers::{Readers, readers, recovery, revoked_nodes, serial_revocations},
    repository::{secret_name, sharer},
};
use crate::error_chain::error_chain;

/// The maximum number of paths in one message.
const SHOWN_PATHS: usize = 20;

/// Returns the problems of encrypted values that other checks do not find. Some of them are warnings.
///
/// A value must belong to the key under which it is found, and it must be encrypted to exactly the readers of its Secret.
/// The readers are compared only if the repository has no other errors (`is_valid`), because a broken object may hide a
/// reader.
pub(in crate::cli) fn problems(set: &ObjectSet, is_valid: bool) -> Vec<Problem> {
    let (mut found, mut first) = (private_keys(set), None);
    let recovery = match recovery(set) {
        Ok(recovery) => recovery,
        Err((config, error)) => {
            let place = set.objects.get(&config).map(|object| object.place.key("spec").key("recoveryRecipients"));
            found.extend(place.map(|place| place.problem(Finding::new(error.to_string()), At::Key)));
            return found;
        }
    };
    let revoked = revoked_nodes(set);
    for object in set.objects.values().filter(|object| object.key.kind == "Secret") {
        let place = object.place.key("spec");
        let data = object.spec.get("data").and_then(Value::as_object);
        let sops = object.spec.get("sops").and_then(Value::as_str);
        if data.is_none() && sops.is_none() {
            continue;
        }
        let wanted = readers(set, &recovery, &object.key);
        for node in wanted.iter().flat_map(|Readers { revoked, .. }| revoked) {
            let finding = Finding::new(format!("the node {node} cannot read the Secret: its key is revoked"))
                .hint("give the node a new identity, or remove it from the readers");
            found.push(Problem { warning: true, ..hidden(&place.key("readers"), finding) });
        }
        let wanted = wanted.map(|Readers { recipients, .. }| Recipients::new(recipients));
        if let Err(error) = &wanted {
            found.push(hidden(&place.key("readers"), Finding::new(error.clone())));
        }
        let wanted = wanted.as_ref().ok().filter(|_| is_valid).and_then(Option::as_ref);
        if let Some(path) = sops {
            first.get_or_insert_with(|| place.key("sops"));
            let findings = sops_problems(set, object, path, wanted, &revoked);
            found.extend(findings.into_iter().map(|(finding, is_warning)| {
                let problem = hidden(&place.key("sops"), finding);
                Problem { warning: is_warning, ..problem }
            }));
        }
        let wanted = wanted.map(Recipients::fingerprints);
        for (key, value) in data.into_iter().flatten() {
            let Some(armor) = value.as_str() else { continue };
            if !matches!(envelope::inspect(armor), Err(OpenError::NotAge(_))) {
                first.get_or_insert_with(|| place.key("data"));
            }
            let problem = value_problem(&object.key, key, armor, wanted.as_ref(), &revoked);
            found.extend(problem.map(|(finding, is_warning)| {
                let problem = hidden(&place.key("data").key(key), finding);
                Problem { warning: is_warning, ..problem }
            }));
        }
    }
    for config in first.iter().flat_map(|_| serial_revocations(set)) {
        let finding =
            Finding::new("a certificate that is revoked by its serial number does not remove a reader of Secrets")
                .hint("git does not know the key of the certificate; add the key (ed25519:…) to revoked, too");
        let place = set.objects.get(&config).map(|object| object.place.key("spec").key("revoked"));
        found.extend(place.map(|place| Problem { warning: true, ..hidden(&place, finding) }));
    }
    if let Some(place) = first.filter(|_| recovery.is_empty()) {
        let finding = Finding::new("only nodes can decrypt the values of Secrets")
            .hint("create an identity with `towpath secrets keygen`, keep it offline, and list its recipient in recoveryRecipients of a Config object");
        found.push(Problem { warning: true, ..hidden(&place, finding) });
    }
    found
}

/// Returns the problem of one value, and true if it is a warning.
fn value_problem(
    secret: &Key,
    key: &str,
    armor: &str,
    wanted: Option<&BTreeSet<Fingerprint>>,
    revoked: &BTreeMap<String, Recipient>,
) -> Option<(Finding, bool)> {
    let (belongs, recipients) = match envelope::inspect(armor) {
        Ok(Inspection::Bound { belongs, recipients }) => (belongs, recipients),
        Ok(Inspection::Unbound) => {
            let finding = Finding::new(format!("the value of {key} is not bound to its key"));
            let name = secret_name(secret);
            let hint = format!(
                "it may be copied from another Secret, because it opens under every key; make sure that it belongs to {name}, then run `towpath secrets rewrap {name}`"
            );
            return Some((finding.hint(hint), true));
        }
        // Another check reports values that do not begin like an envelope.
        Err(OpenError::NotAge(_)) if !armor.trim_start().starts_with(ARMOR) => return None,
        Err(error) => return Some((Finding::new(format!("the value of {key} cannot be used: {error}")), false)),
    };
    if belongs != ValueName::of_secret(&secret.namespace, &secret.name, key) {
        let finding = Finding::new(format!("the value of {key} was copied: it belongs to {belongs}"));
        return Some((finding.hint("encrypt the value for this key with `towpath secrets encrypt`"), false));
    }
    let of_revoked = |node: &&String| {
        let fingerprint = revoked.get(*node).map(Recipient::fingerprint);
        recipients.iter().flatten().any(|found| Some(found) == fingerprint.as_ref())
    };
    if let Some(node) = revoked.keys().find(of_revoked) {
        let finding = Finding::new(format!("the value of {key} is encrypted to the revoked key of the node {node}"));
        return Some((finding.hint("run `towpath secrets rewrap`, and change the value"), false));
    }
    let wanted = wanted?;
    let difference = match recipients {
        Some(found) if found == *wanted => return None,
        Some(found) => {
            let (missing, other) = (wanted.difference(&found).count(), found.difference(wanted).count());
            format!("{missing} missing, {other} of others")
        }
        None => "their list does not match the keys".into(),
    };
    let finding =
        Finding::new(format!("the value of {key} is not encrypted to the readers of the Secret ({difference})"));
    Some((finding.hint("run `towpath secrets rewrap`, and change the value if a reader was removed"), false))
}

/// Returns the problems of a file of sops, each with true if it is a warning.
fn sops_problems(
    set: &ObjectSet,
    secret: &Object,
    path: &str,
    wanted: Option<&Recipients>,
    revoked: &BTreeMap<String, Recipient>,
) -> Vec<(Finding, bool)> {
    let unusable =
        |why: &dyn std::fmt::Display| vec![(Finding::new(format!("the file {path} cannot be used: {why}")), false)];
    if let Some(other) = sharer(set, secret) {
        let finding = Finding::new(format!(
            "the file {path} cannot be used: the Secret {} names the file, too",
            secret_name(&other.key)
        ));
        return vec![(finding.hint("give each Secret its own file"), false)];
    }
    let Some(tree) = set.trees.get(secret.place.source()) else { return Vec::new() };
    let bytes = match regular_file(tree.as_ref(), path).map(|path| tree.read(&path)) {
        Ok(Ok(Some(bytes))) => bytes,
        Ok(Ok(None)) => return unusable(&"it does not exist"),
        Ok(Err(error)) => return unusable(&error),
        Err(why) => return unusable(&why),
    };
    let file = match SopsFile::read(&String::from_utf8_lossy(&bytes)) {
        Ok(file) => file,
        Err(error) => return unusable(&error_chain(&error)),
    };
    let PlainValues { wrong, readable } = file.plain_values();
    let mut found = Vec::new();
    if !wrong.is_empty() {
        let finding = Finding::new(format!("the file {path} has values that are not encrypted: {}", listed(&wrong)));
        let hint = "remove these values, and set new ones with `towpath secrets edit`: git keeps the old values in its history";
        found.push((finding.hint(hint), false));
    }
    if !readable.is_empty() {
        let message = format!("the rule of the file {path} leaves values in plain text: {}", listed(&readable));
        let hint = "these values are in git for everyone to read; the rule is in the map `sops` of the file";
        found.push((Finding::new(message).hint(hint), true));
    }
    let name = secret_name(&secret.key);
    if let Some((node, _)) = revoked.iter().find(|(_, recipient)| file.is_for(recipient)) {
        let finding = Finding::new(format!("the file {path} is encrypted to the revoked key of the node {node}"));
        found.push((finding.hint(format!("run `towpath secrets rewrap {name}`, and change the values")), false));
        return found;
    }
    let Some(wanted) = wanted else { return found };
    let Difference { added, removed } = file.difference(wanted);
    if added > 0 || removed > 0 {
        let message = format!(
            "the file {path} is not encrypted to the readers of the Secret ({added} missing, {removed} of others)"
        );
        let hint = format!(
            "make sure that the file belongs to {name}, then run `towpath secrets rewrap {name}`; change the values if a reader was removed"
        );
        found.push((Finding::new(message).hint(hint), false));
    }
    found
}

/// Returns the first paths of a list, and the number of the others.
fn listed(paths: &[String]) -> String {
    let (first, others) = paths.split_at(paths.len().min(SHOWN_PATHS));
    let more = if others.is_empty() { String::new() } else { format!(" and {} more", others.len()) };
    format!("{}{more}", first.join(", "))
}

/// The begin of an identity of age.
const PRIVATE: &[u8] = b"AGE-SECRET-KEY-";

/// The number of characters after [`PRIVATE`] that make an identity, and not a mention of one.
const LONG: usize = 40;

/// The maximum size of a file that is searched for identities. A file with an identity is small.
const SEARCHED: u64 = 1 << 20;

/// Returns an error for each file that contains an identity of age.
fn private_keys(set: &ObjectSet) -> Vec<Problem> {
    let mut found = Vec::new();
    for (source, tree) in &set.trees {
        for entry in tree.list("").unwrap_or_default() {
            let is_file = matches!(entry.kind, EntryKind::File | EntryKind::Executable);
            if !is_file || entry.size.is_some_and(|size| size > SEARCHED) {
                continue;
            }
            let Ok(Some(bytes)) = tree.read(&entry.path) else { continue };
            if let Some(line) = identity_line(&bytes) {
                let finding = Finding::new("the file contains a private key of age")
                    .hint("everyone who can read the repository can use the key: make a new one with `towpath secrets keygen` outside of the repository, and change all values that the key opens");
                let place =
                    Place::new(SourceFile::new(source.as_str(), entry.path.as_str(), "").into(), 0, Path::default());
                found.push(Problem { line, column: 1, ..hidden(&place, finding) });
            }
        }
    }
    found
}

/// Returns the number of the first line with an identity of age, counted from 1.
fn identity_line(bytes: &[u8]) -> Option<usize> {
    let is_identity = |line: &[u8]| {
        line.windows(PRIVATE.len()).enumerate().any(|(at, window)| {
            let rest = || line.get(at.saturating_add(PRIVATE.len())..).unwrap_or_default().iter();
            let length = || rest().take_while(|byte| byte.is_ascii_alphanumeric() || **byte == b'-').count();
            window.eq_ignore_ascii_case(PRIVATE) && length() >= LONG
        })
    };
    bytes.split(|byte| *byte == b'\n').position(is_identity).map(|at| at.saturating_add(1))
}

/// Returns a problem without the line of the file, which may contain another value in plain text.
fn hidden(place: &Place, finding: Finding) -> Problem {
    Problem { excerpt: String::new(), caret: 0, ..place.problem(finding, At::Key) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identity_is_found_and_a_mention_is_not() {
        let key = format!("AGE-SECRET-KEY-1{}", "Q".repeat(58));
        assert_eq!(identity_line(format!("# created\nkey: \"{key}\"\n").as_bytes()), Some(2));
        assert_eq!(identity_line(key.to_lowercase().as_bytes()), Some(1));
        for text in ["", "AGE-SECRET-KEY-", "a file with AGE-SECRET-KEY-1… in it", "\n\n"] {
            assert_eq!(identity_line(text.as_bytes()), None, "{text}");
        }
    }
}
