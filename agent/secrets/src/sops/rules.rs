//! The metadata of a SOPS file: its data keys, and the rules for encrypted values.

use std::collections::BTreeSet;

use regex::Regex;
use serde_json::{Map, Value};

use super::error::SopsError;

/// The kinds of master keys beside age, as SOPS names them in the metadata.
const OTHER_KEYS: [&str; 6] = ["kms", "gcp_kms", "azure_kv", "hc_vault", "hckms", "pgp"];

/// The rules that choose the encrypted values, as SOPS names them in the metadata.
const RULES: [&str; 4] = ["unencrypted_suffix", "encrypted_suffix", "unencrypted_regex", "encrypted_regex"];

/// The suffix of readable keys in a file without a rule, as in SOPS.
const DEFAULT_SUFFIX: &str = "_unencrypted";

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
    rule: Rule,
}

/// The rule for the values that are encrypted. It is about the keys on the path of a value. The MAC of the file does not
/// cover it, so a committer can change it.
#[derive(Debug)]
enum Rule {
    UnencryptedSuffix(String),
    EncryptedSuffix(String),
    UnencryptedRegex(Regex),
    EncryptedRegex(Regex),
}

impl Rule {
    fn read(metadata: &Map<String, Value>) -> Result<Self, SopsError> {
        let is_written = |value: &Value| !value.is_null() && value.as_str() != Some("");
        let written: Vec<(&str, &Value)> = RULES
            .into_iter()
            .filter_map(|name| metadata.get(name).filter(|value| is_written(value)).map(|value| (name, value)))
            .collect();
        let (name, value) = match written.as_slice() {
            [] => return Ok(Self::UnencryptedSuffix(DEFAULT_SUFFIX.to_owned())),
            [one] => *one,
            more => {
                let names: Vec<&str> = more.iter().map(|(name, _)| *name).collect();
                return Err(SopsError::Rules(names.join(", ")));
            }
        };
        let text = value.as_str().ok_or(SopsError::Unsupported("a rule that is not text"))?;
        let regex =
            || Regex::new(text).map_err(|_| SopsError::Unsupported("a rule with an invalid regular expression"));
        Ok(match name {
            "encrypted_suffix" => Self::EncryptedSuffix(text.to_owned()),
            "unencrypted_regex" => Self::UnencryptedRegex(regex()?),
            "encrypted_regex" => Self::EncryptedRegex(regex()?),
            _ => Self::UnencryptedSuffix(text.to_owned()),
        })
    }
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
        if matches!(metadata.get("age"), Some(other) if !other.is_null() && !other.is_array()) {
            return Err(SopsError::Recipients("it is not a list"));
        }
        let age: Vec<AgeKey> = age.iter().map(AgeKey::read).collect::<Result<_, _>>()?;
        let labels: BTreeSet<&str> = age.iter().map(|key| key.recipient.as_str()).collect();
        if labels.len() != age.len() {
            return Err(SopsError::Recipients("it has a recipient twice"));
        }
        if age.is_empty() {
            return Err(SopsError::NoAge(others.join(", ")));
        }
        if age.iter().all(|key| key.is_post_quantum()) {
            return Err(SopsError::PostQuantum);
        }
        Ok(Self {
            age,
            others,
            mac: text("mac").ok_or(SopsError::NoMetadata)?.to_owned(),
            last_modified: text("lastmodified").ok_or(SopsError::NoMetadata)?.to_owned(),
            mac_only_encrypted: metadata.get("mac_only_encrypted").and_then(Value::as_bool).unwrap_or(false),
            rule: Rule::read(metadata)?,
        })
    }

    /// Returns true if the value at the end of a path of keys is encrypted.
    pub(super) fn encrypts(&self, path: &[String]) -> bool {
        let any = |matches: &dyn Fn(&str) -> bool| path.iter().any(|key| matches(key));
        match &self.rule {
            Rule::UnencryptedSuffix(suffix) => !any(&|key| key.ends_with(suffix)),
            Rule::EncryptedSuffix(suffix) => any(&|key| key.ends_with(suffix)),
            Rule::UnencryptedRegex(regex) => !any(&|key| regex.is_match(key)),
            Rule::EncryptedRegex(regex) => any(&|key| regex.is_match(key)),
        }
    }
}

impl AgeKey {
    fn read(entry: &Value) -> Result<Self, SopsError> {
        let text = |field: &str| entry.get(field).and_then(Value::as_str).map(str::trim);
        let text = |field: &str| text(field).filter(|text| !text.is_empty()).map(str::to_owned);
        Ok(Self {
            recipient: text("recipient").ok_or(SopsError::Recipients("an entry has no `recipient`"))?,
            armor: text("enc").ok_or(SopsError::Recipients("an entry has no `enc`"))?,
        })
    }

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
            (json!({"unencrypted_suffix": ""}), "x_unencrypted", false),
            (json!({}), "a.b_unencrypted", false),
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
            (json!({"encrypted_regex": "a", "unencrypted_suffix": "_x"}), "unencrypted_suffix, encrypted_regex"),
            (json!({"encrypted_regex": 5}), "not text"),
            (json!({"age": [{"enc": "x"}]}), "no `recipient`"),
            (json!({"age": [{"recipient": "age1x", "enc": "x"}, {"recipient": "age1y"}]}), "no `enc`"),
            (json!({"age": [{"recipient": "age1x", "enc": "x"}, "age1y"]}), "no `recipient`"),
            (json!({"age": [{"recipient": "age1x", "enc": "x"}, {"recipient": "age1x ", "enc": "y"}]}), "twice"),
            (json!({"age": {"recipient": "age1x", "enc": "x"}}), "not a list"),
        ] {
            let error = metadata(&change).unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        }
        assert!(Metadata::read(&Map::new()).is_err());
    }
}
