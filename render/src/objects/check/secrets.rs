//! Checks that each Secret defines its values in exactly one field, such as `data` or `generate`.

use serde_json::Value;

use crate::{
    objects::{Object, ObjectSet, ledger::Found, limits::below_prefix, spec::map},
    problem::{Finding, Problem},
};

/// The message about a Secret without values.
const NO_VALUES: &str = "the Secret has no values";

/// The end of the message about a value that is not encrypted.
const NOT_ENCRYPTED: &str = " is not encrypted";

/// Returns true if a problem is about missing values of a Secret, or about values that are not encrypted. `towpath
/// secrets` repairs missing and unencrypted values.
pub fn is_about_values(problem: &Problem) -> bool {
    problem.message == NO_VALUES || problem.message.ends_with(NOT_ENCRYPTED)
}

/// Returns the errors of Secrets. A Secret must define its values in exactly one field, must not contain unencrypted
/// values, and must use only backends that its Namespace allows.
pub(super) fn origins(set: &ObjectSet) -> Vec<Found<'_>> {
    let secrets = set.objects.values().filter(|object| object.key.kind == "Secret");
    secrets.flat_map(|secret| origins_of(set, secret)).collect()
}

fn origins_of(set: &ObjectSet, secret: &Object) -> Vec<Found<'static>> {
    let mut found = Vec::new();
    let origins: Vec<&str> = ["data", "sops", "vault", "file", "generate"]
        .into_iter()
        .filter(|key| secret.spec.get(*key).is_some_and(|value| !value.is_null()))
        .collect();
    let place = secret.place.key("spec");
    if origins.len() != 1 {
        let finding = Finding::new(if origins.is_empty() {
            NO_VALUES.to_owned()
        } else {
            format!("the Secret has values from {}", origins.join(" and "))
        });
        let finding = finding.hint("write exactly one of: data, sops, vault, file, generate");
        found.push(Found::new(place.clone(), finding));
    }
    for (key, value) in map(&secret.spec, "data") {
        if value.as_str().is_some_and(|text| !text.trim_start().starts_with("-----BEGIN AGE ENCRYPTED FILE-----")) {
            let finding = Finding::new(format!("the value of {key}{NOT_ENCRYPTED}"))
                .hint("encrypt a new value with `towpath secrets encrypt`: git keeps the old value in its history");
            found.push(Found::new(place.key("data").key(&key), finding));
        }
    }
    let namespace = set.namespaces.get(&secret.key.namespace);
    let limits = namespace.and_then(|namespace| namespace.secret_backends.clone()).unwrap_or_default();
    for (kind, prefixes) in [("vault", &limits.vault), ("file", &limits.file)] {
        let Some(path) = secret.spec.get(kind).and_then(|origin| origin.get("path")).and_then(Value::as_str) else {
            continue;
        };
        if !prefixes.iter().any(|prefix| below_prefix(prefix, path)) {
            let finding =
                Finding::new(format!("the namespace {} must not read {path} from {kind}", secret.key.namespace))
                    .hint(format!("add a prefix of the path to `secretBackends.{kind}` of the Namespace"));
            found.push(Found::new(place.key(kind).key("path"), finding));
        }
    }
    found
}
