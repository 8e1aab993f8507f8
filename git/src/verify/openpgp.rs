//! Verifies OpenPGP signatures of commits and tags.
//!
//! The newest valid self-signature defines the properties of a key. A self-signature is valid if it is made by the key
//! itself, has a digest of at least 256 bits, and is not expired. A self-signature covers either the key directly, or a
//! user id that is not revoked. Certifications by other keys have no effect.

use pgp::{
    composed::{Deserializable as _, DetachedSignature, SignedPublicKey, SignedPublicSubKey},
    crypto::hash::HashAlgorithm,
    packet::{Signature, SignatureType, SignatureVersion},
    ser::Serialize as _,
    types::{EcdsaPublicParams, KeyDetails, PublicParams, Tag},
};

/// An OpenPGP public key with its subkeys.
#[derive(Debug, Clone)]
pub(super) struct Key {
    key: SignedPublicKey,
}

/// Parses a text with one or more blocks of ASCII-armoured public keys. Each error message of the parser begins with a
/// blank, because the caller puts the name of the file before the message.
pub(super) fn keys(text: &str) -> Result<Vec<Key>, String> {
    const BEGIN: &str = "-----BEGIN PGP PUBLIC KEY BLOCK-----";
    let mut keys = Vec::new();
    for block in text.split(BEGIN).skip(1) {
        let block = format!("{BEGIN}{block}");
        let (found, _) = SignedPublicKey::from_string_many(&block)
            .map_err(|error| format!(" cannot read the OpenPGP key: {error}"))?;
        for key in found {
            keys.push(Key { key: key.map_err(|error| format!(" cannot read the OpenPGP key: {error}"))? });
        }
    }
    Ok(keys)
}

/// Verifies an OpenPGP signature over a commit or a tag, and returns the user id of the signer.
pub(super) fn verify(signature: &str, payload: &[u8], keys: &[Key], now: u64) -> Result<String, String> {
    let (signature, _) = DetachedSignature::from_string(signature)
        .map_err(|error| format!("cannot read the OpenPGP signature: {error}"))?;
    let signature = &signature.signature;
    // Signatures of other types do not cover the whole commit.
    if !matches!(signature.typ(), Some(SignatureType::Binary | SignatureType::Text)) {
        return Err("the OpenPGP signature is not a signature over a document".into());
    }
    if !matches!(signature.version(), SignatureVersion::V4 | SignatureVersion::V6) {
        return Err("the OpenPGP signature has a version other than 4 or 6".into());
    }
    if !strong_digest(signature) {
        let digest = signature.hash_alg().map(|digest| digest.to_string()).unwrap_or_default();
        return Err(format!("the OpenPGP signature uses the digest {digest}; sign with SHA256 or better"));
    }
    let made = created(signature).ok_or("the OpenPGP signature has no time")?;
    if expired(signature, made, now) {
        return Err("the OpenPGP signature has expired".into());
    }
    let mut why = match signature.issuer_fingerprint().first() {
        Some(fingerprint) => format!("the signature is by the OpenPGP key {fingerprint}, which is not listed"),
        None => "the signature is by an OpenPGP key that is not listed".into(),
    };
    for Key { key } in keys {
        if issued_by(signature, &key.primary_key) {
            let good = signature.verify(&key.primary_key, payload).is_ok();
            match judge(good, &key.primary_key, || primary(key, made, now)) {
                Ok(()) => return Ok(user(key)),
                Err(reason) => why = reason,
            }
        }
        for subkey in key.public_subkeys.iter().filter(|subkey| issued_by(signature, &subkey.key)) {
            let good = signature.verify(&subkey.key, payload).is_ok();
            match judge(good, &subkey.key, || signing_subkey(key, subkey, made, now)) {
                Ok(()) => return Ok(user(key)),
                Err(reason) => why = reason,
            }
        }
    }
    Err(why)
}

/// Checks that a listed key is strong, has made the signature, and may sign. The argument `good` is true if the
/// signature matches the key and the content.
fn judge(good: bool, key: &impl KeyDetails, usable: impl FnOnce() -> Result<(), String>) -> Result<(), String> {
    strong_key(key)?;
    if !good {
        return Err(format!("the signature by the listed OpenPGP key {} is invalid", key.fingerprint()));
    }
    usable()
}

/// Returns true if a key may have made a signature: the signature names the key as its issuer, or names no issuer.
fn issued_by(signature: &Signature, key: &impl KeyDetails) -> bool {
    let (fingerprints, ids) = (signature.issuer_fingerprint(), signature.issuer_key_id());
    (fingerprints.is_empty() && ids.is_empty())
        || fingerprints.iter().any(|found| **found == key.fingerprint())
        || ids.iter().any(|found| **found == key.legacy_key_id())
}

fn user(key: &SignedPublicKey) -> String {
    let users = || key.details.users.iter();
    let own = users().find(|user| !is_revoked(key, user)).or_else(|| users().next());
    let id = own.map(|user| user.id.id().to_vec()).unwrap_or_default();
    format!("{} ({})", String::from_utf8_lossy(&id), key.primary_key.fingerprint())
}

fn strong_digest(signature: &Signature) -> bool {
    use HashAlgorithm::{Sha3_256, Sha3_512, Sha256, Sha384, Sha512};
    matches!(signature.hash_alg(), Some(Sha256 | Sha384 | Sha512 | Sha3_256 | Sha3_512))
}

/// Returns an error for a public key with a weak algorithm or a short length.
fn strong_key(key: &impl KeyDetails) -> Result<(), String> {
    match key.public_params() {
        PublicParams::RSA(rsa) => {
            // The serialized key begins with the modulus. The first two bytes of the modulus are its number of bits.
            let bytes = rsa.to_bytes().map_err(|error| error.to_string())?;
            let bits = bytes.first_chunk::<2>().map_or(0, |bits| u16::from_be_bytes(*bits));
            if bits < 2048 {
                return Err(format!("the OpenPGP key is RSA of {bits} bits, and at least 2048 are required"));
            }
            Ok(())
        }
        PublicParams::ECDSA(
            EcdsaPublicParams::P256 { .. } | EcdsaPublicParams::P384 { .. } | EcdsaPublicParams::P521 { .. },
        )
        | PublicParams::EdDSALegacy(_)
        | PublicParams::Ed25519(_)
        | PublicParams::Ed448(_) => Ok(()),
        _ => Err(format!(
            "OpenPGP keys of the kind {:?} are not accepted; use Ed25519, or RSA with at least 2048 bits",
            key.algorithm()
        )),
    }
}

/// Returns true if an OpenPGP key has revoked one of its own user ids.
fn is_revoked(key: &SignedPublicKey, user: &pgp::types::SignedUser) -> bool {
    user.signatures.iter().any(|signature| {
        signature.typ() == Some(SignatureType::CertRevocation)
            && signature.verify_certification(&key.primary_key, Tag::UserId, &user.id).is_ok()
    })
}

/// Returns the newest valid self-signature of a primary key; `None` if the key has no valid self-signature.
fn self_signature(key: &SignedPublicKey, now: u64) -> Option<&Signature> {
    let direct =
        key.details.direct_signatures.iter().filter(|signature| signature.verify_key(&key.primary_key).is_ok());
    let users = key.details.users.iter().filter(|user| !is_revoked(key, user)).flat_map(|user| {
        user.signatures.iter().filter(|signature| {
            signature.typ() != Some(SignatureType::CertRevocation)
                && signature.verify_certification(&key.primary_key, Tag::UserId, &user.id).is_ok()
        })
    });
    newest(direct.chain(users), now)
}

/// Returns the newest of several signatures. Ignores expired signatures, and signatures with a weak digest or a time in
/// the future.
fn newest<'a>(signatures: impl Iterator<Item = &'a Signature>, now: u64) -> Option<&'a Signature> {
    let counts = |signature: &&Signature| {
        strong_digest(signature)
            && created(signature).is_some_and(|made| made <= now.saturating_add(SKEW) && !expired(signature, made, now))
    };
    signatures.filter(counts).max_by_key(|signature| created(signature))
}

/// Checks that a primary key may sign: the key is self-signed, not revoked, not expired, and intended for signing.
fn primary(key: &SignedPublicKey, made: u64, now: u64) -> Result<(), String> {
    let own = certifies(key, made, now)?;
    if has_flags(own) && !own.key_flags().sign() {
        return Err("the OpenPGP key is not intended for signing".into());
    }
    Ok(())
}

/// Checks a primary key, and returns the self-signature that applies to the key and its subkeys.
fn certifies(key: &SignedPublicKey, made: u64, now: u64) -> Result<&Signature, String> {
    strong_key(&key.primary_key)?;
    let revoked = |revocation: &Signature| revocation.verify_key(&key.primary_key).is_ok();
    if key.details.revocation_signatures.iter().any(revoked) {
        return Err("the OpenPGP key has been revoked".into());
    }
    let own = self_signature(key, now).ok_or("the OpenPGP key has no valid self-signature with SHA256 or better")?;
    in_time(own, u64::from(key.primary_key.created_at().as_secs()), made, now, "key")?;
    Ok(own)
}

/// Checks that a subkey may sign: the subkey is not revoked, not expired, and intended for signing. The primary key and
/// the subkey must have signed each other.
fn signing_subkey(key: &SignedPublicKey, subkey: &SignedPublicSubKey, made: u64, now: u64) -> Result<(), String> {
    certifies(key, made, now)?;
    let by_key = || {
        subkey.signatures.iter().filter(|binding| binding.verify_subkey_binding(&key.primary_key, &subkey.key).is_ok())
    };
    if by_key().any(|binding| binding.typ() == Some(SignatureType::SubkeyRevocation)) {
        return Err("the OpenPGP subkey has been revoked".into());
    }
    let binding =
        newest(by_key(), now).ok_or("the primary OpenPGP key has not signed the subkey with SHA256 or better")?;
    if !binding.key_flags().sign() {
        return Err("the OpenPGP subkey is not intended for signing".into());
    }
    // The subkey must also have signed its primary key. Otherwise, an attacker could add the subkey of another
    // person to the attacker's own key.
    let back = binding
        .embedded_signature()
        .filter(|back| strong_digest(back) && back.verify_primary_key_binding(&subkey.key, &key.primary_key).is_ok());
    if back.is_none() {
        return Err("the OpenPGP subkey has not signed its key with SHA256 or better".into());
    }
    in_time(binding, u64::from(subkey.key.created_at().as_secs()), made, now, "subkey")
}

/// Returns true if a self-signature has key flags, which list the permitted uses of a key.
fn has_flags(signature: &Signature) -> bool {
    use pgp::packet::SubpacketData;
    let mut hashed = signature.config().into_iter().flat_map(|config| config.hashed_subpackets());
    hashed.any(|packet| matches!(packet.data, SubpacketData::KeyFlags(_)))
}

/// The maximum number of seconds by which the time of a signature may be ahead of the node's clock. The time of a
/// signature may be slightly ahead of the node's clock, because clocks differ.
const SKEW: u64 = 86_400;

/// Checks that a signature was made during the lifetime of its key, and that the key is not expired.
fn in_time(own: &Signature, born: u64, made: u64, now: u64, what: &str) -> Result<(), String> {
    if made.saturating_add(300) < born || made > now.saturating_add(SKEW) {
        return Err(format!("the signature is older than the OpenPGP {what}, or has a time in the future"));
    }
    let lifetime = own.key_expiration_time().map_or(0, seconds);
    if lifetime > 0 && born.saturating_add(lifetime) < now {
        return Err(format!("the OpenPGP {what} has expired"));
    }
    Ok(())
}

fn created(signature: &Signature) -> Option<u64> {
    signature.created().map(|created| u64::from(created.as_secs()))
}

fn expired(signature: &Signature, made: u64, now: u64) -> bool {
    let lifetime = signature.signature_expiration_time().map_or(0, seconds);
    lifetime > 0 && made.saturating_add(lifetime) < now
}

fn seconds(duration: pgp::types::Duration) -> u64 {
    std::time::Duration::from(duration).as_secs()
}
