//! The identity of a gossip member: its name and its incarnation.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The identity of a gossip member: the name and the incarnation of the node. A restarted node has a higher incarnation
/// than before.
#[derive(Debug, Clone, Deserialize)]
#[serde(from = "(String, u64)")]
pub struct MemberId {
    /// The name of the node. The type is `Arc`, because the gossip library `foca` copies the name for each member in a
    /// message.
    pub name: Arc<str>,
    /// The incarnation of the node.
    pub began: u64,
    /// A hash of the name, so that the gossip library `foca` can compare members fast.
    key: u128,
}

impl MemberId {
    /// Creates the identity of a node in one incarnation.
    pub fn new(name: String, began: u64) -> Self {
        use std::hash::Hasher as _;
        let half = |salt: u8| {
            let mut hasher = std::hash::DefaultHasher::new();
            hasher.write_u8(salt);
            hasher.write(name.as_bytes());
            u128::from(hasher.finish())
        };
        let key = half(0) << 64 | half(1);
        Self { name: name.into(), began, key }
    }
}

impl PartialEq for MemberId {
    fn eq(&self, other: &Self) -> bool {
        (self.key, self.began) == (other.key, other.began)
    }
}

impl Eq for MemberId {}

impl From<(String, u64)> for MemberId {
    fn from((name, began): (String, u64)) -> Self {
        Self::new(name, began)
    }
}

impl Serialize for MemberId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (&self.name, self.began).serialize(serializer)
    }
}

impl foca::Identity for MemberId {
    type Addr = u128;

    fn renew(&self) -> Option<Self> {
        Some(Self { began: self.began + 1, ..self.clone() })
    }

    fn addr(&self) -> u128 {
        self.key
    }

    fn win_addr_conflict(&self, adversary: &Self) -> bool {
        self.began > adversary.began
    }
}
