//! The kernel's tables of sockets and routes as text: pure, and tolerant of lines it does not understand.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// TCP_LISTEN in `/proc/net/tcp`.
const LISTEN: &str = "0A";

/// A listening socket with its number, from a line of `/proc/net/tcp` or `/proc/net/tcp6`.
pub(super) fn listening(line: &str) -> Option<(SocketAddr, u64)> {
    let mut words = line.split_ascii_whitespace();
    let local = words.nth(1)?;
    let state = words.nth(1)?;
    // After the state: queues, timer, retransmits, uid, timeout, inode.
    let inode = words.nth(5)?;
    if state != LISTEN {
        return None;
    }
    let (ip, port) = local.split_once(':')?;
    let addr = SocketAddr::new(address(ip)?, u16::from_str_radix(port, 16).ok()?);
    Some((addr, inode.parse().ok()?))
}

/// Whether a line is of a socket that does something else than listen; the head of the table is of none.
pub(super) fn is_connection(line: &str) -> bool {
    let state = line.split_ascii_whitespace().nth(3);
    state.is_some_and(|state| state != LISTEN && u8::from_str_radix(state, 16).is_ok())
}

/// The kernel prints addresses in words of 32 bits, each in the host's byte order: little-endian wherever GPUs are.
fn address(hex: &str) -> Option<IpAddr> {
    let word = |at: usize| Some(u32::from_str_radix(hex.get(at * 8..at * 8 + 8)?, 16).ok()?.to_le_bytes());
    match hex.len() {
        8 => Some(IpAddr::V4(Ipv4Addr::from(word(0)?))),
        32 => {
            let bytes = [word(0)?, word(1)?, word(2)?, word(3)?].concat();
            Some(IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?)))
        }
        _ => None,
    }
}

/// The addresses of a network namespace by its `fib_trie`, loopback aside: each `/32 host LOCAL` names the line above.
pub(super) fn local_addresses(trie: &str) -> Vec<Ipv4Addr> {
    let mut last = None;
    let mut found = Vec::new();
    for line in trie.lines() {
        let line = line.trim_start();
        if let Some(leaf) = line.strip_prefix("|-- ") {
            last = leaf.trim().parse::<Ipv4Addr>().ok();
        } else if line.starts_with("/32 host LOCAL")
            && let Some(ip) = last
            && !ip.is_loopback()
            && !found.contains(&ip)
        {
            found.push(ip);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listening_sockets_are_read_and_all_else_is_passed_over() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            0: 0100007F:1F40 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 4711 1 0 100\n\
            1: 0100007F:1F40 0100007F:9C40 01 00000000:00000000 00:00000000 00000000  1000        0 4712 1 0 100\n\
            2: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 99 1 0 100\n\
            3: garbage\n\n4: 0100007F:XXXX 00000000:0000 0A 0:0 0:0 0 0 0 7 1\n";
        let all = |table: &str| table.lines().filter_map(listening).collect::<Vec<_>>();
        let expect = [("127.0.0.1:8000", 4711), ("0.0.0.0:22", 99)];
        let expect = expect.map(|(addr, inode)| (addr.parse().unwrap(), inode));
        assert_eq!(all(table), expect);
        let six = "0: 00000000000000000000000000000000:1F41 00000000000000000000000000000000:0000 0A 0:0 0:0 0 0 0 5 1\n\
                   1: 00000000000000000000000001000000:1F42 00000000000000000000000000000000:0000 0A 0:0 0:0 0 0 0 6 1\n";
        let expect = [("[::]:8001", 5), ("[::1]:8002", 6)];
        assert_eq!(all(six), expect.map(|(addr, inode)| (addr.parse().unwrap(), inode)));
    }

    #[test]
    fn the_address_of_a_container_is_its_first_that_is_not_loopback() {
        let trie = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 127.0.0.1\n        /32 host LOCAL\n     \
                    |-- 172.17.0.0\n        /16 link UNICAST\n     |-- 172.17.0.3\n        /32 host LOCAL\n";
        assert_eq!(local_addresses(trie), [Ipv4Addr::new(172, 17, 0, 3)]);
        assert_eq!(local_addresses("nonsense"), Vec::<Ipv4Addr>::new());
    }
}
