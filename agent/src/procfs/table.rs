//! Reads a table of sockets no further than its listeners.
//!
//! The kernel puts them first. To find what comes after them it looks through room for every connection that the host
//! could have, milliseconds on a large one, and once more for every read that finds the end.

use std::io::Read;
use std::net::SocketAddr;

use super::sockets::{is_connection, listening};

/// Lines of one table that are looked at.
const LINES_MAX: usize = 65_536;
const CHUNK_BYTES: usize = 64 * 1024;
/// A read hands out a page of at least 4 KiB, as far as whole lines (200 bytes) fit: less than this is the end.
const PAGE_BYTES_MIN: usize = 3_584;

/// The listening sockets with their numbers.
pub(super) fn listeners(mut table: impl Read) -> Vec<(SocketAddr, u64)> {
    let (mut found, mut lines) = (Vec::new(), 0);
    let (mut chunk, mut rest) = (vec![0; CHUNK_BYTES], Vec::new());
    loop {
        // What cannot be read says nothing.
        let length = table.read(&mut chunk).unwrap_or(0);
        rest.extend_from_slice(chunk.get(..length).unwrap_or_default());
        let is_end = length < PAGE_BYTES_MIN;
        let whole =
            if is_end { rest.len() } else { rest.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1) };
        let text: Vec<u8> = rest.drain(..whole).collect();
        for line in String::from_utf8_lossy(&text).lines() {
            lines += 1;
            if lines > LINES_MAX || is_connection(line) {
                return found;
            }
            found.extend(listening(line));
        }
        // Lines of this length are none of the kernel's.
        if is_end || rest.len() > CHUNK_BYTES {
            return found;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Hands out a page per read, and tells how many were asked for.
    struct Pages(Vec<String>, usize);

    impl Read for Pages {
        fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
            let page = self.0.get(self.1).cloned().unwrap_or_default();
            self.1 += 1;
            into[..page.len()].copy_from_slice(page.as_bytes());
            Ok(page.len())
        }
    }

    fn line(nth: usize, state: &str) -> String {
        let zeros = "00000000:00000000 00:00000000 00000000  1000        0";
        format!(
            "{nth:4}: 0100007F:{:04X} 00000000:0000 {state} {zeros} {nth} 1 0 100 0 0 10 0{:20}\n",
            1_000 + nth,
            ""
        )
    }

    #[test]
    fn a_table_is_read_to_its_last_listener_and_no_further() {
        let header = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt\n";
        let some =
            |from: usize, to: usize, state: &str| (from..to).map(|nth| line(nth, state)).collect::<String>();
        for (name, pages, found, reads) in [
            ("a short one", vec![format!("{header}{}", some(0, 3, "0A"))], 3, 1),
            ("none", vec![header.to_owned()], 0, 1),
            ("nothing", vec![], 0, 1),
            ("connections follow", vec![format!("{header}{}{}", some(0, 3, "0A"), some(3, 28, "01"))], 3, 1),
            ("two pages", vec![format!("{header}{}", some(0, 27, "0A")), some(27, 30, "0A")], 30, 2),
            (
                "connections on the second page of many",
                vec![some(0, 28, "0A"), some(28, 30, "0A") + &some(30, 56, "06"), some(56, 84, "01")],
                30,
                2,
            ),
        ] {
            assert!(pages.iter().rev().skip(1).all(|page| page.len() >= PAGE_BYTES_MIN), "{name}");
            let mut table = Pages(pages, 0);
            assert_eq!(listeners(&mut table).len(), found, "{name}");
            assert_eq!(table.1, reads, "{name}");
        }
    }
}
