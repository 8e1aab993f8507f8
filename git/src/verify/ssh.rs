//! SSH signatures, and the allowed_signers format of ssh-keygen(1).

use ssh_key::{PublicKey, SshSig};

/// One line of an allowed_signers file.
#[derive(Debug, Clone)]
pub(super) struct Signer {
    principals: String,
    key: PublicKey,
    namespaces: Option<Vec<String>>,
    valid_after: Option<u64>,
    valid_before: Option<u64>,
}

/// Reads an allowed_signers file.
pub(super) fn signers(text: &str) -> Result<Vec<Signer>, String> {
    let mut signers = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        signers.push(signer(line).map_err(|why| format!("line {}: {why}", number + 1))?);
    }
    Ok(signers)
}

fn signer(line: &str) -> Result<Signer, String> {
    let words = words(line);
    let key_at = words.iter().position(|word| ["ssh-", "ecdsa-", "sk-"].iter().any(|prefix| word.starts_with(prefix)));
    let Some(key_at) = key_at.filter(|at| *at >= 1 && *at + 1 < words.len()) else {
        return Err("write: PRINCIPALS [OPTIONS] KEYTYPE KEY".into());
    };
    let key = format!("{} {}", words[key_at], words[key_at + 1]);
    let mut signer = Signer {
        principals: words[0].trim_matches('"').to_owned(),
        key: PublicKey::from_openssh(&key).map_err(|error| format!("the key can't be read: {error}"))?,
        namespaces: None,
        valid_after: None,
        valid_before: None,
    };
    for option in words[1..key_at].iter().flat_map(|word| split_options(word)) {
        let (name, value) =
            option.split_once('=').map_or((option.as_str(), ""), |(name, value)| (name, value.trim_matches('"')));
        match name.to_ascii_lowercase().as_str() {
            "namespaces" => signer.namespaces = Some(value.split(',').map(str::to_owned).collect()),
            "valid-after" => signer.valid_after = Some(time(value)?),
            "valid-before" => signer.valid_before = Some(time(value)?),
            "cert-authority" => {
                return Err("certificate authorities are not supported: list the keys themselves".into());
            }
            other => return Err(format!("{other:?} is no option: namespaces, valid-after, valid-before")),
        }
    }
    Ok(signer)
}

/// Words separated by blanks outside of quotes.
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

/// Seconds since 1970 of YYYYMMDD[HHMM[SS]][Z], read as UTC.
fn time(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches('Z');
    let wrong = || format!("{text:?} is no time: write YYYYMMDD or YYYYMMDDHHMM[SS]");
    if !matches!(digits.len(), 8 | 12 | 14) || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong());
    }
    let part =
        |from: usize, to: usize| digits.get(from..to).map_or(Ok(0), |part| part.parse::<i64>().map_err(|_| wrong()));
    let (year, month, day) = (part(0, 4)?, part(4, 6)?, part(6, 8)?);
    // Days since 1970 of a Gregorian date (Howard Hinnant, days_from_civil).
    let shifted = if month <= 2 { year - 1 } else { year };
    let era = shifted.div_euclid(400);
    let of_era = shifted.rem_euclid(400);
    let of_year = (153 * (month + if month > 2 { -3 } else { 9 }) + 2) / 5 + day - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
    u64::try_from(days * 86_400 + part(8, 10)? * 3600 + part(10, 12)? * 60 + part(12, 14)?).map_err(|_| wrong())
}

/// Checks a signature over a commit; gives the principals of who made it.
pub(super) fn verify(signature: &str, payload: &[u8], signers: &[Signer], now: u64) -> Result<String, String> {
    let signature = SshSig::from_pem(signature).map_err(|error| format!("its SSH signature can't be read: {error}"))?;
    if signature.namespace() != "git" {
        return Err(format!("its SSH signature is for {:?}, not for git", signature.namespace()));
    }
    let fingerprint = PublicKey::from(signature.public_key().clone()).fingerprint(ssh_key::HashAlg::Sha256);
    let mut why = format!("it is signed by the SSH key {fingerprint}, which is not listed");
    for signer in signers.iter().filter(|signer| signer.key.key_data() == signature.public_key()) {
        if signer
            .namespaces
            .as_ref()
            .is_some_and(|namespaces| !namespaces.iter().any(|name| name == "git" || name == "*"))
        {
            why = format!("the SSH key {fingerprint} is not listed for git");
        } else if signer.valid_after.is_some_and(|after| now < after) {
            why = format!("the SSH key {fingerprint} is not valid yet");
        } else if signer.valid_before.is_some_and(|before| now > before) {
            why = format!("the SSH key {fingerprint} is no longer valid");
        } else {
            match signer.key.verify("git", payload, &signature) {
                Ok(()) => return Ok(signer.principals.clone()),
                Err(_) => why = "its SSH signature does not match what it says".into(),
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
    fn reads_allowed_signers() {
        let text = format!(
            "# comment\na@example.org {KEY} note\n\nb@x,c@x namespaces=\"git,file\",valid-before=\"20300101\" {KEY}\n"
        );
        let signers = signers(&text).unwrap();
        assert_eq!(signers.len(), 2);
        assert_eq!(signers[1].namespaces.as_deref(), Some(["git".to_owned(), "file".to_owned()].as_slice()));
        assert_eq!(signers[1].valid_before, Some(1_893_456_000));
    }

    #[test]
    fn refuses_what_it_does_not_know() {
        for wrong in [
            format!("a cert-authority {KEY}"),
            format!("a frobnicate {KEY}"),
            "a ssh-ed25519".into(),
            format!("a valid-after=soon {KEY}"),
        ] {
            assert!(signers(&wrong).unwrap_err().starts_with("line 1"), "{wrong}");
        }
    }
}
