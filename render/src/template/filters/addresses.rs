//! The template filter `ipaddr`, which returns parts of IP addresses and networks.

use std::net::IpAddr;

use ipnet::IpNet;
use minijinja::{Environment, Error, value::Value};

use super::metered::{self, wrong};

pub(super) fn add(environment: &mut Environment<'static>) {
    metered::add(environment, "ipaddr", |value: &str, query: Option<&str>, within: Option<&str>| {
        ipaddr(value, query.unwrap_or("address"), within)
    });
}

fn ipaddr(text: &str, query: &str, within: Option<&str>) -> Result<Value, Error> {
    let no_address = || wrong(format!("ipaddr: {text:?} is neither an address nor a network"));
    let net: IpNet = match text.trim().parse::<IpAddr>() {
        Ok(address) => address.into(),
        Err(_) => text.trim().parse().map_err(|_| no_address())?,
    };
    Ok(match query {
        "address" => Value::from(net.addr().to_string()),
        "network" => Value::from(net.network().to_string()),
        "netmask" => Value::from(net.netmask().to_string()),
        "prefix" => Value::from(net.prefix_len()),
        "broadcast" => Value::from(net.broadcast().to_string()),
        "in" => {
            let outer =
                within.ok_or_else(|| wrong("ipaddr: \"in\" needs a network: ipaddr(\"in\", \"10.0.0.0/8\")"))?;
            let outer: IpNet = outer.parse().map_err(|_| wrong(format!("ipaddr: {outer:?} is not a network")))?;
            Value::from(outer.contains(&net))
        }
        other => {
            return Err(wrong(format!(
                "ipaddr: the query {other:?} is not known; use address, network, netmask, prefix, broadcast or in"
            )));
        }
    })
}
