//! Facts about network interfaces and addresses.

use std::{collections::BTreeMap, net::IpAddr};

use nix::{ifaddrs::getifaddrs, net::if_::InterfaceFlags};
use serde_json::{Value, json};

use super::first_line::first_line;

struct Found {
    name: String,
    up: bool,
    loopback: bool,
    address: Option<(IpAddr, u32)>,
}

fn found() -> Vec<Found> {
    let Ok(all) = getifaddrs() else { return Vec::new() };
    let read = all.map(|one| {
        let address = one.address.as_ref().and_then(ip);
        let mask = one.netmask.as_ref().and_then(ip);
        let prefix = match mask {
            Some(IpAddr::V4(mask)) => u32::from(mask).count_ones(),
            Some(IpAddr::V6(mask)) => u128::from(mask).count_ones(),
            None => 0,
        };
        Found {
            up: one.flags.contains(InterfaceFlags::IFF_UP),
            loopback: one.flags.contains(InterfaceFlags::IFF_LOOPBACK),
            address: address.map(|address| (address, prefix)),
            name: one.interface_name,
        }
    });
    read.collect()
}

fn ip(storage: &nix::sys::socket::SockaddrStorage) -> Option<IpAddr> {
    if let Some(v4) = storage.as_sockaddr_in() {
        return Some(IpAddr::V4(v4.ip()));
    }
    storage.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip()))
}

/// Gathers the fact `interfaces`. The fact `interfaces` contains the MAC address, the IP addresses in CIDR form and the
/// flag `up` of each network interface.
pub(super) fn interfaces() -> BTreeMap<String, Value> {
    let mut interfaces: BTreeMap<String, (bool, Vec<String>)> = BTreeMap::new();
    for one in found() {
        let entry = interfaces.entry(one.name).or_insert((one.up, Vec::new()));
        if let Some((address, prefix)) = one.address {
            entry.1.push(format!("{address}/{prefix}"));
        }
    }
    let described = interfaces.into_iter().map(|(name, (up, addresses))| {
        let mac = first_line(&format!("/sys/class/net/{name}/address"));
        (name, json!({ "mac": mac, "addresses": addresses, "up": up }))
    });
    described.collect()
}

/// Gathers the fact `addresses`: the IP addresses of active interfaces, except loopback and link-local addresses.
pub(super) fn addresses() -> Vec<String> {
    let usable = |address: &IpAddr| match address {
        IpAddr::V4(v4) => !v4.is_loopback() && !v4.is_link_local(),
        IpAddr::V6(v6) => !v6.is_loopback() && (v6.segments()[0] & 0xffc0) != 0xfe80,
    };
    let found = found().into_iter().filter(|one| !one.loopback && one.up).filter_map(|one| one.address);
    found.map(|(address, _)| address).filter(usable).map(|address| address.to_string()).collect()
}
