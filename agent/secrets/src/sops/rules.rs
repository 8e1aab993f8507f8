//! The metadata of a SOPS file: its data keys, and the rules for encrypted values.

use regex::Regex;
use serde_json::{Map, Value};

use super::error::SopsError;

/// The kinds of master keys beside age, as SOPS names them in the metadata.
const OTHER_KEYS: [&str; 6] = ["kms", "gcp_kms", "azure_kv", "hc_vault", "hckms", "pgp"];

/// The key of the metadata.
pub(super) const METADATA: &str = "sops";

/// One data key, encrypted to one recipient of age.
#[derive(Debug, Clone)]
pub(super) struct AgeKey {
    pub(super) recipient: String,
    pub(super) armor: String,
}

/// The metadata of a SOPS file.
#[derive(Debug)]
pub(super) struct Metadata {
    pub(super) age: Vec<AgeKey>,
    /// The kinds of master keys of the file beside age.
    pub(super) others: Vec<&'static str>,
    pub(super) mac: String,
    pub(super) last_modified: String,
    pub(super) mac_only_encrypted: bool,
    rules: Rules,
}

/// The rules for the values that are encrypted. A rule is about the keys on the path of a value.
#[derive(Debug, Default)]
struct Rules {
    unencrypted_suffix: Option<String>,
    encrypted_suffix: Option<String>,
    unencrypted_regex: Option<Regex>,
    encrypted_regex: Option<Regex>,
}

impl Metadata {
    pub(super) fn read(root: &Map<String, Value>) -> Result<Self, SopsError> {
        let metadata = root.get(METADATA).and_then(Value::as_object).ok_or(SopsError::NoMetadata)?;
        let text = |key: &str| metadata.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
        let has = |key: &str| match metadata.get(key) {
            None | Some(Value::Null) => false,
            Some(Value::Array(members)) => !members.is_empty(),
            Some(_) => true,
        };
        if has("key_groups") || metadata.get("shamir_threshold").and_then(Value::as_u64).is_some_and(|count| count > 1)
        {
            return Err(SopsError::Unsupported("key groups (Shamir)"));
        }
        if has("encrypted_comment_regex") || has("unencrypted_comment_regex") {
            return Err(SopsError::Unsupported("rules about comments"));
        }
        let others: Vec<&'static str> = OTHER_KEYS.into_iter().filter(|key| has(key)).collect();
        let age = metadata.get("age").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let age: Vec<AgeKey> = age
            .iter()
            .filter_map(|key| {
                let text = |field: &str| key.get(field).and_then(Value::as_str).map(str::to_owned);
                Some(AgeKey { recipient: text("recipient")?, armor: text("enc")? })
            })
            .collect();
        if age.is_empty() {
            return Err(SopsError::NoAge(others.join(", ")));
        }
        if age.iter().all(|key| key.is_post_quantum()) {
            return Err(SopsError::PostQuantum);
        }
        let regex = |key: &str| match text(key).map(Regex::new) {
            None => Ok(None),
            Some(Ok(regex)) => Ok(Some(regex)),
            Some(Err(_)) => Err(SopsError::Unsupported("a rule with an invalid regular expression")),
        };
        Ok(Self {
            age,
            others,
            mac: text("mac").ok_or(SopsError::NoMetadata)?.to_owned(),
            last_modified: text("lastmodified").ok_or(SopsError::NoMetadata)?.to_owned(),
            mac_only_encrypted: metadata.get("mac_only_encrypted").and_then(Value::as_bool).unwrap_or(false),
            rules: Rules {
                unencrypted_suffix: text("unencrypted_suffix").map(str::to_owned),
                encrypted_suffix: text("encrypted_suffix").map(str::to_owned),
                unencrypted_regex: regex("unencrypted_regex")?,
                encrypted_regex: regex("encrypted_regex")?,
            },
        })
    }

    /// Returns true if the value at the end of a path of keys is encrypted. Later rules win, as in SOPS.
    pub(super) fn encrypts(&self, path: &[String]) -> bool {
        let any = |matches: &dyn Fn(&str) -> bool| path.iter().any(|key| matches(key));
        let rules = &self.rules;
        let mut encrypted = true;
        if let Some(suffix) = &rules.unencrypted_suffix {
            encrypted &= !any(&|key| key.ends_with(suffix));
        }
        if let Some(suffix) = &rules.encrypted_suffix {
            encrypted = any(&|key| key.ends_with(suffix));
        }
        if let Some(regex) = &rules.unencrypted_regex {
            encrypted &= !any(&|key| regex.is_match(key));
        }
        if let Some(regex) = &rules.encrypted_regex {
            encrypted = any(&|key| regex.is_match(key));
        }
        encrypted
    }
}

impl AgeKey {
    pub(super) fn is_post_quantum(&self) -> bool {
        self.recipient.starts_with("age1pq1") || self.recipient.starts_with("age1tagpq1")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn metadata(change: &Value) -> Result<Metadata, SopsError> {
        let mut sops = json!({"age": [{"recipient": "age1x", "enc": "x"}], "mac": "m", "lastmodified": "t"});
        for (key, value) in change.as_object().unwrap() {
            sops[key] = value.clone();
        }
        Metadata::read(json!({"sops": sops}).as_object().unwrap())
    }

    fn encrypts(rules: &Value, path: &str) -> bool {
        metadata(rules).unwrap().encrypts(&path.split('.').map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn rules_choose_the_encrypted_values() {
        for (rules, path, expected) in [
            (json!({}), "a", true),
            (json!({"unencrypted_suffix": "_unencrypted"}), "a.b_unencrypted.c", false),
            (json!({"unencrypted_suffix": "_unencrypted"}), "a.b", true),
            (json!({"encrypted_suffix": "_secret"}), "a.b", false),
            (json!({"encrypted_suffix": "_secret"}), "a_secret.b", true),
            (json!({"unencrypted_regex": "^(a|b)$"}), "x.b", false),
            (json!({"encrypted_regex": "^pass"}), "x.password", true),
            (json!({"encrypted_regex": "^pass"}), "x.user", false),
        ] {
            assert_eq!(encrypts(&rules, path), expected, "{rules} {path}");
        }
    }

    #[test]
    fn file_that_towpath_cannot_open_is_refused_with_the_reason() {
        for (change, message) in [
            (json!({"age": [], "kms": [{}], "pgp": [{}]}), "kms, pgp"),
            (json!({"age": null}), "no age recipient"),
            (json!({"age": [{"recipient": "age1pq1xyz", "enc": "x"}]}), "post-quantum"),
            (json!({"key_groups": [{}]}), "Shamir"),
            (json!({"encrypted_comment_regex": "x"}), "comments"),
            (json!({"encrypted_regex": "("}), "regular expression"),
            (json!({"mac": null}), "metadata"),
        ] {
            let error = metadata(&change).unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        }
        assert!(Metadata::read(&Map::new()).is_err());
    }
}
