//! hash, password_hash.

use md5::Md5;
use minijinja::{Environment, Error, value::Kwargs, value::Value};
use sha1::Sha1;
use sha2::{Digest as _, Sha256, Sha512};

use super::{data::bytes, wrong};

pub(super) fn add(environment: &mut Environment<'static>) {
    environment.add_filter("hash", |value: &Value, algorithm: Option<&str>| -> Result<String, Error> {
        let bytes = bytes(value);
        match algorithm.unwrap_or("sha1") {
            "sha256" => Ok(hex::encode(Sha256::digest(bytes))),
            "sha512" => Ok(hex::encode(Sha512::digest(bytes))),
            "sha1" => Ok(hex::encode(Sha1::digest(bytes))),
            "md5" => Ok(hex::encode(Md5::digest(bytes))),
            other => Err(wrong(format!("hash: {other:?} is not known; one of: sha256, sha512, sha1, md5"))),
        }
    });
    environment.add_filter("password_hash", password_hash);
}

/// The rounds of sha512 that may be asked for; the most take about a second.
const ROUNDS: std::ops::RangeInclusive<usize> = 1_000..=999_999;

/// The longest password, in bytes: the time of each round grows with it.
const LONGEST: usize = 1_024;

fn password_hash(password: &str, scheme: Option<&str>, salt: Option<&str>, options: Kwargs) -> Result<String, Error> {
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
        return Err(wrong(format!("password_hash: a password has at most {LONGEST} bytes")));
    }
    if rounds.is_some_and(|rounds| !ROUNDS.contains(&rounds)) {
        return Err(wrong("password_hash: rounds are from 1000 to 999999"));
    }
    match (scheme.unwrap_or("sha512"), rounds) {
        ("sha512", rounds) => sha512(password, salt, rounds.unwrap_or(sha_crypt::ROUNDS_DEFAULT)),
        ("yescrypt", None) => yescrypt(password, salt),
        ("yescrypt", Some(_)) => Err(wrong("password_hash: rounds are of sha512; yescrypt has none")),
        (other, _) => Err(wrong(format!("password_hash: {other:?} is not known; one of: sha512, yescrypt"))),
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
