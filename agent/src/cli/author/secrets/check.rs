//! The checks of `towpath validate` on encrypted values. They need no key.

use std::collections::BTreeSet;

use serde_json::Value;
use towpath_render::{
    document::{At, Place},
    objects::{Key, ObjectSet},
    problem::{Finding, Problem},
};
use towpath_secrets::{
    Fingerprint, Recipients,
    envelope::{self, ARMOR, Inspection, OpenError, ValueName},
    sops::{Difference, PlainValues, SopsFile},
};

use super::repository::{recipients, recovery};
use crate::error_chain::error_chain;

/// The maximum number of paths in one message.
const SHOWN_PATHS: usize = 20;

/// Returns the problems of encrypted values that other checks do not find. Some of them are warnings.
///
/// A value must belong to the key under which it is found, and it must be encrypted to exactly the readers of its Secret.
/// The readers are compared only if the repository has no other errors (`is_valid`), because a broken object may hide a
/// reader.
pub(in crate::cli) fn problems(set: &ObjectSet, is_valid: bool) -> Vec<Problem> {
    let (mut found, mut first) = (Vec::new(), None);
    let recovery = match recovery(set) {
        Ok(recovery) => recovery,
        Err((config, error)) => {
            let place = set.objects.get(&config).map(|object| object.place.key("spec").key("recoveryRecipients"));
            return place.map(|place| place.problem(Finding::new(error.to_string()), At::Key)).into_iter().collect();
        }
    };
    for object in set.objects.values().filter(|object| object.key.kind == "Secret") {
        let place = object.place.key("spec");
        let data = object.spec.get("data").and_then(Value::as_object);
        let sops = object.spec.get("sops").and_then(Value::as_str);
        if data.is_none() && sops.is_none() {
            continue;
        }
        let wanted = recipients(set, &recovery, &object.key).map(|(recipients, _)| Recipients::new(recipients));
        if let Err(error) = &wanted {
            found.push(hidden(&place.key("readers"), Finding::new(error.clone())));
        }
        let wanted = wanted.as_ref().ok().filter(|_| is_valid).and_then(Option::as_ref);
        if let Some(path) = sops {
            first.get_or_insert_with(|| place.key("sops"));
            let findings = sops_problems(set, object.place.source(), path, wanted);
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
            let problem = value_problem(&object.key, key, armor, wanted.as_ref());
            found.extend(problem.map(|(finding, is_warning)| {
                let problem = hidden(&place.key("data").key(key), finding);
                Problem { warning: is_warning, ..problem }
            }));
        }
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
) -> Option<(Finding, bool)> {
    let (belongs, recipients) = match envelope::inspect(armor) {
        Ok(Inspection::Bound { belongs, recipients }) => (belongs, recipients),
        Ok(Inspection::Unbound) => {
            let finding = Finding::new(format!("the value of {key} is not bound to its key"));
            let hint = "anyone can copy it to another key or Secret, where it opens, too; run `towpath secrets rewrap`";
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
fn sops_problems(set: &ObjectSet, source: &str, path: &str, wanted: Option<&Recipients>) -> Vec<(Finding, bool)> {
    let unusable =
        |why: &dyn std::fmt::Display| vec![(Finding::new(format!("the file {path} cannot be used: {why}")), false)];
    let Some(tree) = set.trees.get(source) else { return Vec::new() };
    let bytes = match tree.read(path) {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return unusable(&"it does not exist"),
        Err(error) => return unusable(&error),
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
    let Some(wanted) = wanted else { return found };
    let Difference { added, removed } = file.difference(wanted);
    if added > 0 || removed > 0 {
        let message = format!(
            "the file {path} is not encrypted to the readers of the Secret ({added} missing, {removed} of others)"
        );
        let finding = Finding::new(message);
        let finding = finding.hint("run `towpath secrets rewrap`, and change the values if a reader was removed");
        found.push((finding, false));
    }
    found
}

/// Returns the first paths of a list, and the number of the others.
fn listed(paths: &[String]) -> String {
    let (first, others) = paths.split_at(paths.len().min(SHOWN_PATHS));
    let more = if others.is_empty() { String::new() } else { format!(" and {} more", others.len()) };
    format!("{}{more}", first.join(", "))
}

/// Returns a problem without the line of the file, which may contain another value in plain text.
fn hidden(place: &Place, finding: Finding) -> Problem {
    Problem { excerpt: String::new(), caret: 0, ..place.problem(finding, At::Key) }
}
