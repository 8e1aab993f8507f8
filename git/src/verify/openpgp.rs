//! OpenPGP signatures.

use pgp::{
    composed::{Deserializable as _, DetachedSignature, SignedPublicKey},
    packet::{Signature, SignatureType},
    types::KeyDetails as _,
};

/// One key with its subkeys.
#[derive(Debug, Clone)]
pub(super) struct Key {
    key: SignedPublicKey,
}

/// Reads armoured keys; a text may hold several blocks.
pub(super) fn keys(text: &str) -> Result<Vec<Key>, String> {
    const BEGIN: &str = "-----BEGIN PGP PUBLIC KEY BLOCK-----";
    let mut keys = Vec::new();
    for block in text.split(BEGIN).skip(1) {
        let block = format!("{BEGIN}{block}");
        let (found, _) = SignedPublicKey::from_string_many(&block)
            .map_err(|error| format!("the OpenPGP key can't be read: {error}"))?;
        for key in found {
            keys.push(Key { key: key.map_err(|error| format!("the OpenPGP key can't be read: {error}"))? });
        }
    }
    Ok(keys)
}

/// Checks a signature over a commit; gives the user id of who made it.
pub(super) fn verify(signature: &str, payload: &[u8], keys: &[Key], now: u64) -> Result<String, String> {
    let (signature, _) = DetachedSignature::from_string(signature)
        .map_err(|error| format!("its OpenPGP signature can't be read: {error}"))?;
    // Other types cover less than the whole commit.
    if !matches!(signature.signature.typ(), Some(SignatureType::Binary | SignatureType::Text)) {
        return Err("its OpenPGP signature is not one over a document".into());
    }
    let created = signature
        .signature
        .created()
        .map(|created| u64::from(created.as_secs()))
        .ok_or("its OpenPGP signature has no time")?;
    if let Some(lifetime) = signature.signature.signature_expiration_time()
        && seconds(lifetime) > 0
        && created + seconds(lifetime) < now
    {
        return Err("its OpenPGP signature has expired".into());
    }
    let mut why = match signature.signature.issuer_fingerprint().first() {
        Some(fingerprint) => format!("it is signed by the OpenPGP key {fingerprint}, which is not listed"),
        None => "it is signed by an OpenPGP key that is not listed".into(),
    };
    for Key { key } in keys {
        if signature.verify(&key.primary_key, payload).is_ok() {
            match usable(key, created, now) {
                Ok(()) => return Ok(user(key)),
                Err(reason) => why = reason,
            }
        }
        for subkey in &key.public_subkeys {
            if signature.verify(&subkey.key, payload).is_err() {
                continue;
            }
            let usable = usable(key, created, now).and_then(|()| {
                subkey
                    .verify_bindings(&key.primary_key)
                    .map_err(|_| "the subkey is not bound to its key".to_owned())?;
                judge(&subkey.signatures, u64::from(subkey.key.created_at().as_secs()), created, now, "subkey")?;
                let signs = subkey.signatures.iter().any(|binding| binding.key_flags().sign());
                if signs { Ok(()) } else { Err("the subkey is not for signing".to_owned()) }
            });
            match usable {
                Ok(()) => return Ok(user(key)),
                Err(reason) => why = reason,
            }
        }
    }
    Err(why)
}

fn user(key: &SignedPublicKey) -> String {
    let id = key.details.users.first().map(|user| user.id.id().to_vec()).unwrap_or_default();
    format!("{} ({})", String::from_utf8_lossy(&id), key.primary_key.fingerprint())
}

/// Whether a primary key may speak: bound to itself, not revoked, not expired.
fn usable(key: &SignedPublicKey, created: u64, now: u64) -> Result<(), String> {
    key.details.verify_bindings(&key.primary_key).map_err(|_| "the OpenPGP key is not bound to its user".to_owned())?;
    if key.details.revocation_signatures.iter().any(|revocation| revocation.verify_key(&key.primary_key).is_ok()) {
        return Err("the OpenPGP key has been revoked".into());
    }
    let own: Vec<Signature> = key
        .details
        .users
        .iter()
        .flat_map(|user| user.signatures.iter())
        .chain(&key.details.direct_signatures)
        .cloned()
        .collect();
    judge(&own, u64::from(key.primary_key.created_at().as_secs()), created, now, "key")
}

/// Expiry and revocation, as the newest binding signature says.
fn judge(bindings: &[Signature], born: u64, created: u64, now: u64, what: &str) -> Result<(), String> {
    let revoked = bindings.iter().any(|binding| {
        matches!(
            binding.typ(),
            Some(SignatureType::SubkeyRevocation | SignatureType::KeyRevocation | SignatureType::CertRevocation)
        )
    });
    if revoked {
        return Err(format!("the OpenPGP {what} has been revoked"));
    }
    if created + 300 < born || created > now + 86_400 {
        return Err(format!("the signature's time does not fit the OpenPGP {what}"));
    }
    let newest = bindings.iter().max_by_key(|binding| binding.created().map(|created| created.as_secs()));
    if let Some(lifetime) = newest.and_then(Signature::key_expiration_time)
        && seconds(lifetime) > 0
        && born + seconds(lifetime) < now
    {
        return Err(format!("the OpenPGP {what} has expired"));
    }
    Ok(())
}

fn seconds(duration: pgp::types::Duration) -> u64 {
    std::time::Duration::from(duration).as_secs()
}
