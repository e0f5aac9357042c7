//! Where an engine listens: on this host, or elsewhere, such as in a container with an address of its own. Only a process
//! that is there can be the one that listens.

use std::collections::BTreeMap;
use std::net::{IpAddr, ToSocketAddrs as _, UdpSocket};

use aya_domain::EndpointUrl;

/// Whose address it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Host {
    Ours,
    /// `None`: not known.
    Other(Option<IpAddr>),
}

/// What is known of the hosts that are named; those of the engines, no more.
#[derive(Debug, Default)]
pub(crate) struct Hosts {
    known: BTreeMap<String, Host>,
}

impl Hosts {
    /// May ask the resolver, and so wait. A name that it does not know now is asked again.
    pub(crate) fn of(&mut self, url: &EndpointUrl) -> Host {
        let name = url.host();
        if let Some(known) = self.known.get(name) {
            return *known;
        }
        let addresses: Vec<IpAddr> = match name.trim_matches(['[', ']']).parse() {
            Ok(address) => vec![address],
            Err(_) => {
                url.authority().to_socket_addrs().map(|all| all.map(|a| a.ip()).collect()).unwrap_or_default()
            }
        };
        let host = if addresses.iter().any(|address| is_ours(*address)) {
            Host::Ours
        } else {
            Host::Other(addresses.first().copied())
        };
        if !addresses.is_empty() {
            self.known.insert(name.to_owned(), host);
        }
        host
    }
}

/// A host can bind its own addresses only.
fn is_ours(address: IpAddr) -> bool {
    UdpSocket::bind((address, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_of_this_host_or_of_another() {
        let mut hosts = Hosts::default();
        for (url, expect) in [
            ("http://127.0.0.1:8000", Host::Ours),
            ("http://127.9.9.9:8000", Host::Ours),
            ("http://localhost:8000", Host::Ours),
            // For documentation only: no host has it.
            ("http://192.0.2.7:8000", Host::Other("192.0.2.7".parse().ok())),
            ("http://no-such-host.invalid:8000", Host::Other(None)),
        ] {
            for _ in 0..2 {
                assert_eq!(hosts.of(&EndpointUrl::parse(url).unwrap()), expect, "{url}");
            }
        }
    }
}
