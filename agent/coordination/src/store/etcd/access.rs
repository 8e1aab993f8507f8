//! The credentials that a node uses for etcd.

use std::{fmt, sync::Arc};

/// The credentials with which a node connects to etcd, and the certificate authority whose server certificates the node
/// trusts.
#[derive(Clone, Default)]
pub struct Access {
    /// The certificate of the authority that has issued the certificates of the etcd members, in PEM.
    pub ca: Option<Vec<u8>>,
    /// The certificate and the private key of this node, in PEM.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
    /// The time at which the certificate of this node expires, in seconds since 1970. `None` if the time is unknown.
    pub valid_until: Option<i64>,
    /// The user name and the password with which the node logs in to etcd.
    pub user: Option<(String, String)>,
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The private key and the password must not appear in logs.
        f.debug_struct("Access").field("user", &self.user.as_ref().map(|(user, _)| user)).finish_non_exhaustive()
    }
}

/// A function that reads the credentials from their files. The node reads the credentials for each new connection, so
/// that renewed files take effect.
pub type ReadAccess = Arc<dyn Fn() -> Result<Access, String> + Send + Sync>;
