//! The recipients that git gives a Secret: the keys of its readers, and the recovery recipients.

use std::collections::BTreeMap;

use towpath_host::identity::{PublicKeys, Revoked};
use towpath_render::objects::{Key, ObjectSet};
use towpath_secrets::{Recipient, RecipientError};

/// The recipients of a Secret, and its readers that cannot be recipients.
#[derive(Debug, Default)]
pub(super) struct Readers {
    /// The keys of the readers, and the recovery recipients.
    pub(super) recipients: Vec<Recipient>,
    /// The readers without public keys.
    pub(super) unknown: Vec<String>,
    /// The readers whose key is revoked.
    pub(super) revoked: Vec<String>,
}

/// Returns the recovery recipients of all Config objects.
///
/// # Errors
/// When a recipient is not usable. The error names the Config.
pub(super) fn recovery(set: &ObjectSet) -> Result<Vec<Recipient>, (Key, RecipientError)> {
    let configs = set.objects.keys().filter(|key| key.kind == "Config");
    let written = configs.filter_map(|key| Some((key, set.configs.get(&key.name)?)));
    let written = written.flat_map(|(key, config)| config.recovery_recipients.iter().map(move |text| (key, text)));
    written.map(|(key, text)| Recipient::parse(text).map_err(|error| (key.clone(), error))).collect()
}

/// Returns the recipients of a Secret. A node whose key is in `revoked` of a Config is not one of them.
///
/// # Errors
/// When the public keys of a reader are not usable.
pub(super) fn readers(set: &ObjectSet, recovery: &[Recipient], secret: &Key) -> Result<Readers, String> {
    let mut found = Readers { recipients: recovery.to_vec(), ..Readers::default() };
    let revoked = revocations(set);
    for node in set.readers_of(secret) {
        let keys = set.nodes.get(&node).map(|node| node.public_keys.as_slice()).unwrap_or_default();
        match Recipient::of_node(keys) {
            Ok(Some(_)) if is_revoked(&revoked, keys) => found.revoked.push(node),
            Ok(Some(recipient)) => found.recipients.push(recipient),
            Ok(None) => found.unknown.push(node),
            Err(error) => return Err(format!("publicKeys of the node {node}: {error}")),
        }
    }
    Ok(found)
}

/// Returns the nodes whose key is revoked, with the recipients of their keys.
pub(super) fn revoked_nodes(set: &ObjectSet) -> BTreeMap<String, Recipient> {
    let revoked = revocations(set);
    let nodes = set.nodes.iter().filter(|(_, node)| is_revoked(&revoked, &node.public_keys));
    nodes.filter_map(|(name, node)| Some((name.clone(), Recipient::of_node(&node.public_keys).ok()??))).collect()
}

/// Returns the Configs that revoke certificates by their serial number.
pub(super) fn serial_revocations(set: &ObjectSet) -> Vec<Key> {
    let has_serial = |key: &&Key| {
        let config = set.configs.get(&key.name);
        config.is_some_and(|config| config.revoked.iter().any(|entry| !entry.trim().starts_with("ed25519:")))
    };
    set.objects.keys().filter(|key| key.kind == "Config").filter(has_serial).cloned().collect()
}

fn revocations(set: &ObjectSet) -> Revoked {
    let revoked = Revoked::default();
    revoked.set(set.configs.values().flat_map(|config| config.revoked.iter().cloned()));
    revoked
}

fn is_revoked(revoked: &Revoked, keys: &[String]) -> bool {
    PublicKeys::read(keys).is_some_and(|keys| revoked.refuses(None, &keys.sign).is_some())
}
