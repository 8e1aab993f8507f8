//! The template filters `hash` and `password_hash`.

use md5::Md5;
use minijinja::{Environment, Error, State, value::Kwargs, value::Value};
use sha1::Sha1;
use sha2::{Digest as _, Sha256, Sha512};

use super::{
    data::bytes,
    metered::{self, charge, wrong},
};

pub(super) fn add(environment: &mut Environment<'static>) {
    metered::add(environment, "hash", |value: &Value, algorithm: Option<&str>| -> Result<String, Error> {
        let bytes = bytes(value);
        match algorithm.unwrap_or("sha1") {
            "sha256" => Ok(hex::encode(Sha256::digest(bytes))),
            "sha512" => Ok(hex::encode(Sha512::digest(bytes))),
            "sha1" => Ok(hex::encode(Sha1::digest(bytes))),
            "md5" => Ok(hex::encode(Md5::digest(bytes))),
            other => Err(wrong(format!("hash: the algorithm {other:?} is not known; use sha256, sha512, sha1 or md5"))),
        }
    });
    metered::add(environment, "password_hash", password_hash);
}

/// The allowed number of rounds of sha512 in `password_hash`. A hash with the maximum number of rounds takes about half
/// a second.
const ROUNDS: std::ops::RangeInclusive<usize> = 1_000..=999_999;

/// The maximum length of a password for `password_hash`, in bytes. The maximum is necessary because a long password
/// makes each round of the hash slow.
const LONGEST: usize = 1_024;

/// The number of bytes for which a filter charges fuel before it computes one yescrypt hash. The cost limits a
/// rendering to 40 yescrypt hashes. Each yescrypt hash needs about 20 ms of time and 16 MiB of memory.
const YESCRYPT_BYTES: usize = 6 << 20;

fn password_hash(
    state: &State<'_, '_>,
    password: &str,
    scheme: Option<&str>,
    salt: Option<&str>,
    options: Kwargs,
) -> Result<String, Error> {
    let rounds = options.get::<Option<usize>>("rounds")?;
    options.assert_all_used()?;
    let Some(salt) = salt else {
        return Err(wrong("password_hash: give a salt; without one the hash would differ in every pass"));
    };
    let allowed = |character: char| character.is_ascii_alphanumeric() || "./".contains(character);
    if salt.is_empty() || salt.len() > 16 || !salt.chars().all(allowed) {
        return Err(wrong("password_hash: a salt has 1 to 16 letters, digits, '.' and '/'"));
    }
    if password.len() > LONGEST {
        return Err(wrong(format!("password_hash: the password must have at most {LONGEST} bytes")));
    }
    match (scheme.unwrap_or("sha512"), rounds) {
        ("sha512", rounds) => {
            let rounds = rounds.unwrap_or(sha_crypt::ROUNDS_DEFAULT);
            if !ROUNDS.contains(&rounds) {
                return Err(wrong("password_hash: rounds are from 1000 to 999999"));
            }
            // Two hashes with the maximum number of rounds use up the fuel of a rendering. Each round takes longer for
            // a longer password.
            charge(state, rounds.saturating_mul(128 + 2 * password.len()))?;
            sha512(password, salt, rounds)
        }
        ("yescrypt", None) => {
            charge(state, YESCRYPT_BYTES)?;
            yescrypt(password, salt)
        }
        ("yescrypt", Some(_)) => Err(wrong("password_hash: yescrypt takes no rounds; remove rounds, or use sha512")),
        (other, _) => Err(wrong(format!("password_hash: the scheme {other:?} is not known; use sha512 or yescrypt"))),
    }
}

fn sha512(password: &str, salt: &str, rounds: usize) -> Result<String, Error> {
    let params = sha_crypt::Sha512Params::new(rounds).map_err(|error| wrong(format!("password_hash: {error:?}")))?;
    let hash = sha_crypt::sha512_crypt_b64(password.as_bytes(), salt.as_bytes(), &params)
        .map_err(|error| wrong(format!("password_hash: {error:?}")))?;
    let shown = if rounds == sha_crypt::ROUNDS_DEFAULT { String::new() } else { format!("rounds={rounds}$") };
    Ok(format!("$6${shown}{salt}${hash}"))
}

fn yescrypt(password: &str, salt: &str) -> Result<String, Error> {
    use yescrypt::PasswordHasher as _;
    let hash = yescrypt::Yescrypt::default()
        .hash_password_with_salt(password.as_bytes(), salt.as_bytes())
        .map_err(|error| wrong(format!("password_hash: {error}")))?;
    Ok(hash.as_str().to_owned())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use crate::{template::Engine, tree::MemoryTree};

    fn hash(arguments: &str) -> Result<String, String> {
        let engine = Engine::new(Arc::new(MemoryTree::default()), "");
        let text = format!("{{{{ {arguments} }}}}");
        let hash = engine.string(&text, &minijinja::context! {}).map_err(|error| error.message)?;
        Ok(hash.value().to_string())
    }

    #[test]
    fn password_hash_beyond_its_bounds_is_refused() {
        for (arguments, cause) in [
            ("'p' | password_hash('sha512', 'salt', rounds=1000000)", "rounds are from 1000 to 999999"),
            ("'p' | password_hash('sha512', 'salt', rounds=4294967296)", "rounds are from 1000 to 999999"),
            ("'p' | password_hash('sha512', 'salt', rounds=999)", "rounds are from 1000 to 999999"),
            ("'p' | password_hash('sha512', 'salt', rounds=0)", "rounds are from 1000 to 999999"),
            ("'p' | password_hash('yescrypt', 'salt', rounds=11)", "yescrypt takes no rounds"),
            ("('p' * 1025) | password_hash('sha512', 'salt')", "at most 1024 bytes"),
            ("('p' * 1025) | password_hash('yescrypt', 'salt')", "at most 1024 bytes"),
            ("'p' | password_hash('bcrypt', 'salt', rounds=31)", "is not known"),
            ("'p' | password_hash('sha256', 'salt', rounds=5000)", "is not known"),
        ] {
            let message = hash(arguments).unwrap_err();
            assert!(message.contains(cause), "{arguments}: {message}");
        }
    }

    #[test]
    fn password_hash_at_its_bounds_is_made() {
        for arguments in [
            "'p' | password_hash('sha512', 'salt', rounds=1000)",
            "('p' * 1024) | password_hash('sha512', 'salt', rounds=1000)",
            "'p' | password_hash('yescrypt', 'saltsalt')",
        ] {
            let hash = hash(arguments).unwrap();
            assert!(hash.starts_with("\"$6$rounds=1000$salt$") || hash.starts_with("\"$y$"), "{hash}");
        }
    }
}
