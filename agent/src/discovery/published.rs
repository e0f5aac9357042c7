//! Ports of containers that the host publishes: under them other hosts reach an engine whose own address only this one
//! does.
//!
//! Docker runs one small process per published port whose arguments say which. Where it does not (no userland proxy,
//! Kubernetes), the container's own address stands.

use std::net::{IpAddr, SocketAddr};

use crate::procfs::Procfs;

/// Published ports of one host that are considered.
const PUBLISHED_MAX: usize = 1_024;
const PROXY: &str = "docker-proxy";

/// One published port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Published {
    /// On the host.
    pub(super) at: SocketAddr,
    /// In the container.
    pub(super) container: SocketAddr,
}

/// Every port that is published.
pub(super) fn published(proc: &Procfs) -> Vec<Published> {
    let proxies = proc.pids().into_iter().filter(|pid| proc.name(*pid).as_deref() == Some(PROXY));
    proxies.filter_map(|pid| parse(&proc.arguments(pid))).take(PUBLISHED_MAX).collect()
}

/// From `docker-proxy -proto tcp -host-ip IP -host-port N -container-ip IP -container-port N`.
fn parse(arguments: &[String]) -> Option<Published> {
    let value = |flag: &str| {
        let at = arguments.iter().position(|word| word == flag)?;
        arguments.get(at + 1)
    };
    let address = |ip: &str, port: &str| {
        Some(SocketAddr::new(value(ip)?.parse::<IpAddr>().ok()?, value(port)?.parse().ok()?))
    };
    if value("-proto")? != "tcp" {
        return None;
    }
    let at = address("-host-ip", "-host-port")?;
    Some(Published { at, container: address("-container-ip", "-container-port")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_published_port_is_read_from_the_arguments_of_its_proxy() {
        let read = |line: &str| parse(&line.split(' ').map(str::to_owned).collect::<Vec<_>>());
        let docker = "/usr/bin/docker-proxy -proto tcp -host-ip 0.0.0.0 -host-port 8001 -container-ip 172.17.0.3 \
                      -container-port 8000 -use-listen-fd";
        let expect =
            Published { at: "0.0.0.0:8001".parse().unwrap(), container: "172.17.0.3:8000".parse().unwrap() };
        assert_eq!(read(docker), Some(expect));
        for bad in [docker.replace("tcp", "udp"), docker.replace("8001", "x"), "docker-proxy".to_owned()] {
            assert_eq!(read(&bad), None, "{bad}");
        }
    }
}
