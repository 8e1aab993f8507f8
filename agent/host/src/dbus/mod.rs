//! Clients of the machine's services on the system bus (D-Bus).

pub mod packagekit;
pub mod systemd;
