//! Verifies SSH signatures, and parses the `allowed_signers` format of ssh-keygen(1).

use std::collections::BTreeSet;

use ssh_key::{Algorithm, HashAlg, PublicKey, SshSig, public::KeyData};

/// A signer: one line of an `allowed_signers` file.
#[derive(Debug, Clone)]
pub(super) struct Signer {
    principals: String,
    key: PublicKey,
    namespaces: Option<Vec<String>>,
    valid_after: Option<u64>,
    valid_before: Option<u64>,
}

/// Parses an `allowed_signers` file. Each error message of the parser begins with the number of the wrong line.
pub(super) fn signers(text: &str) -> Result<Vec<Signer>, String> {
    let mut signers = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        signers.push(signer(line).map_err(|why| format!("{}: {why}", number + 1))?);
    }
    Ok(signers)
}

fn signer(line: &str) -> Result<Signer, String> {
    if line.matches('"').count() % 2 == 1 {
        return Err("a quotation mark is not closed".into());
    }
    let words = words(line);
    let is_kind = |word: &String| ["ssh-", "ecdsa-", "sk-"].iter().any(|prefix| word.starts_with(prefix));
    let key_at = words.iter().skip(1).position(is_kind).map(|at| at + 1);
    let (Some(key_at), Some(principals)) = (key_at.filter(|at| at + 1 < words.len()), words.first()) else {
        return Err("the line is not in the allowed_signers format; write: PRINCIPALS [OPTIONS] KEYTYPE KEY".into());
    };
    let key = format!("{} {}", words[key_at], words[key_at + 1]);
    let mut signer = Signer {
        principals: principals.trim_matches('"').to_owned(),
        key: PublicKey::from_openssh(&key).map_err(|error| format!("cannot read the key: {error}"))?,
        namespaces: None,
        valid_after: None,
        valid_before: None,
    };
    strong(&signer.key)?;
    let mut given: BTreeSet<String> = BTreeSet::new();
    for option in words[1..key_at].iter().flat_map(|word| split_options(word)) {
        let (name, value) =
            option.split_once('=').map_or((option.as_str(), ""), |(name, value)| (name, value.trim_matches('"')));
        let name = name.to_ascii_lowercase();
        match name.as_str() {
            "namespaces" if value.is_empty() => return Err("namespaces is empty".into()),
            "namespaces" => signer.namespaces = Some(value.split(',').map(str::to_owned).collect()),
            "valid-after" => signer.valid_after = Some(time(value)?),
            "valid-before" => signer.valid_before = Some(time(value)?),
            "cert-authority" => {
                return Err("certificate authorities are not supported: list the keys themselves".into());
            }
            other => {
                return Err(format!(
                    "{other:?} is not an option of a signer; write namespaces, valid-after or valid-before"
                ));
            }
        }
        if !given.insert(name) {
            return Err(format!("{option:?} is given twice"));
        }
    }
    if let (Some(after), Some(before)) = (signer.valid_after, signer.valid_before)
        && after >= before
    {
        return Err("valid-after is not before valid-before, so the key is never valid".into());
    }
    Ok(signer)
}

/// Returns an error for a public key with a weak algorithm or a short length.
fn strong(key: &PublicKey) -> Result<(), String> {
    match key.key_data() {
        KeyData::Rsa(rsa) => {
            let bytes = rsa.n.as_positive_bytes().unwrap_or_default();
            let unused = bytes.first().map_or(0, |first| first.leading_zeros() as usize);
            let bits = (bytes.len() * 8).saturating_sub(unused);
            if bits < 2048 {
                Err(format!("the RSA key has {bits} bits, and at least 2048 are required"))
            } else {
                Ok(())
            }
        }
        KeyData::Dsa(_) => Err("DSA keys are not accepted".into()),
        _ => Ok(()),
    }
}

/// Returns true if a list of namespace patterns allows `git`. A pattern with a leading `!` excludes the namespaces that
/// match the rest of the pattern.
fn for_git(namespaces: &[String]) -> bool {
    let matches = |pattern: &str| wildcard(pattern.as_bytes(), b"git");
    let refused = namespaces.iter().filter_map(|pattern| pattern.strip_prefix('!')).any(matches);
    !refused && namespaces.iter().any(|pattern| matches(pattern))
}

/// Returns true if a short text matches a pattern with `*` and `?`.
fn wildcard(pattern: &[u8], text: &[u8]) -> bool {
    match (pattern.split_first(), text.split_first()) {
        (None, text) => text.is_none(),
        (Some((b'*', pattern)), _) if pattern.first() == Some(&b'*') => wildcard(pattern, text),
        (Some((b'*', pattern)), _) => (0..=text.len()).any(|at| wildcard(pattern, &text[at..])),
        (Some((b'?', pattern)), Some((_, text))) => wildcard(pattern, text),
        (Some((wanted, pattern)), Some((found, text))) => wanted == found && wildcard(pattern, text),
        (Some(_), None) => false,
    }
}

/// Splits a line into words at the blanks outside of quotation marks.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quoted = false;
    for character in line.chars() {
        match character {
            '"' => {
                quoted = !quoted;
                if let Some(word) = words.last_mut() {
                    word.push('"');
                }
            }
            ' ' | '\t' if !quoted => words.push(String::new()),
            other => {
                if let Some(word) = words.last_mut() {
                    word.push(other);
                }
            }
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

fn split_options(word: &str) -> Vec<String> {
    let mut options = vec![String::new()];
    let mut quoted = false;
    for character in word.chars() {
        match character {
            '"' => quoted = !quoted,
            ',' if !quoted => {
                options.push(String::new());
                continue;
            }
            _ => {}
        }
        if let Some(option) = options.last_mut() {
            option.push(character);
        }
    }
    options
}

/// Converts a time of the form `YYYYMMDD[HHMM[SS]][Z]` in UTC to seconds since 1970.
fn time(text: &str) -> Result<u64, String> {
    let digits = text.strip_suffix(['Z', 'z']).unwrap_or(text);
    let wrong = || format!("{text:?} is not a time: write YYYYMMDD or YYYYMMDDHHMM[SS]");
    if !matches!(digits.len(), 8 | 12 | 14) || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong());
    }
    let part =
        |from: usize, to: usize| digits.get(from..to).map_or(Ok(0), |part| part.parse::<i64>().map_err(|_| wrong()));
    let (year, month, day) = (part(0, 4)?, part(4, 6)?, part(6, 8)?);
    let (hour, minute, second) = (part(8, 10)?, part(10, 12)?, part(12, 14)?);
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = match month {
        2 if leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return Err(wrong()),
    };
    if !(1..=days).contains(&day) || hour > 23 || minute > 59 || second > 59 {
        return Err(wrong());
    }
    // The next lines compute the days since 1970 of a Gregorian date (Howard Hinnant, days_from_civil).
    let shifted = if month <= 2 { year - 1 } else { year };
    let era = shifted.div_euclid(400);
    let of_era = shifted.rem_euclid(400);
    let of_year = (153 * (month + if month > 2 { -3 } else { 9 }) + 2) / 5 + day - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
    u64::try_from(days * 86_400 + hour * 3600 + minute * 60 + second).map_err(|_| wrong())
}

/// Converts a date to seconds since 1970; `None` if the text is not a date.
#[cfg(feature = "fuzzing")]
pub(crate) fn civil(text: &str) -> Option<u64> {
    time(text).ok()
}

/// Verifies an SSH signature over a commit or a tag, and returns the principals of the signer.
pub(super) fn verify(signature: &str, payload: &[u8], signers: &[Signer], now: u64) -> Result<String, String> {
    let signature = SshSig::from_pem(signature).map_err(|error| format!("cannot read the SSH signature: {error}"))?;
    if signature.namespace() != "git" {
        return Err(format!("the SSH signature is for the namespace {:?}, not for git", signature.namespace()));
    }
    let fingerprint = PublicKey::from(signature.public_key().clone()).fingerprint(HashAlg::Sha256);
    let mut why = format!("the signature is by the SSH key {fingerprint}, which is not listed");
    for signer in signers.iter().filter(|signer| signer.key.key_data() == signature.public_key()) {
        if signer.namespaces.as_ref().is_some_and(|namespaces| !for_git(namespaces)) {
            why = format!("the listed SSH key {fingerprint} is not allowed for the namespace git");
        } else if signer.valid_after.is_some_and(|after| now < after) {
            why = format!("the SSH key {fingerprint} is not valid yet");
        } else if signer.valid_before.is_some_and(|before| now > before) {
            why = format!("the SSH key {fingerprint} is no longer valid");
        } else if matches!(signature.signature().algorithm(), Algorithm::Rsa { hash: None }) {
            why = format!("the signature by the SSH key {fingerprint} uses SHA-1; sign with rsa-sha2-512");
        } else {
            match signer.key.verify("git", payload, &signature) {
                Ok(()) => return Ok(signer.principals.clone()),
                Err(_) => why = format!("the signature by the listed SSH key {fingerprint} is invalid"),
            }
        }
    }
    Err(why)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti";

    #[test]
    fn allowed_signers_are_parsed() {
        let text = format!(
            "# comment\na@example.org {KEY} note\n\nb@x,c@x namespaces=\"git,file\",valid-before=\"20300101\" {KEY}\n"
        );
        let signers = signers(&text).unwrap();
        assert_eq!(signers.len(), 2);
        assert_eq!(signers[1].namespaces.as_deref(), Some(["git".to_owned(), "file".to_owned()].as_slice()));
        assert_eq!(signers[1].valid_before, Some(1_893_456_000));
    }

    #[test]
    fn unknown_signer_options_are_rejected() {
        for wrong in [
            format!("a cert-authority {KEY}"),
            format!("a frobnicate {KEY}"),
            "a ssh-ed25519".into(),
            format!("a valid-after=soon {KEY}"),
        ] {
            assert!(signers(&wrong).unwrap_err().starts_with("1: "), "{wrong}");
        }
    }

    #[test]
    fn options_that_are_not_dates_or_occur_twice_are_refused() {
        for options in [
            "valid-before=\"20249999\"",
            "valid-before=\"20240230\"",
            "valid-before=\"20230229\"",
            "valid-before=\"20241301\"",
            "valid-before=\"20240100\"",
            "valid-after=\"202401012460\"",
            "valid-after=\"20240101240000\"",
            "valid-after=\"20240101235960\"",
            "valid-before=\"20240101ZZ\"",
            "valid-before=\"\"",
            "valid-before",
            "valid-before=\"20300101\",valid-before=\"20400101\"",
            "valid-after=\"20300101\",valid-before=\"20300101\"",
            "namespaces=\"\"",
            "namespaces=\"git",
        ] {
            let error = signers(&format!("\n# c\na@x {options} {KEY}")).unwrap_err();
            assert!(error.starts_with("3: "), "{options}: {error}");
        }
        assert_eq!(time("20240229").unwrap(), 1_709_164_800);
        assert_eq!(time("20240229235959Z").unwrap(), 1_709_251_199);
    }

    #[test]
    fn namespaces_are_patterns() {
        let git = |list: &str| for_git(&list.split(',').map(str::to_owned).collect::<Vec<_>>());
        assert!(git("git") && git("*") && git("file,g*") && git("g?t") && git("**"));
        assert!(!git("file") && !git("*,!git") && !git("!g*,git") && !git("gitx") && !git(""));
    }

    #[test]
    fn principal_that_looks_like_a_key_type_is_taken() {
        assert_eq!(signers(&format!("ssh-admin@x {KEY}")).unwrap().len(), 1);
    }
}
