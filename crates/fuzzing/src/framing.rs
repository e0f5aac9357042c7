//! The reader of chunked bodies: any cut gives the same body and the same end, and what it takes for a body is one.

use aya_proxy::{Decoder, Framing};

use crate::{cuts_and_rest, pieces};

pub(crate) const WORDS: &[&str] = &[
    "0\r\n\r\n",
    "0\r\n",
    "\r\n",
    "\n",
    "\r",
    "5\r\nhello\r\n",
    "1;a=b\r\nx\r\n",
    "fffffffffffffff\r\n",
    "10000000000000000\r\n",
    "0x1\r\n",
    "-1\r\n",
    "+1\r\n",
    " 1\r\n",
    "1 \r\n",
    "X-T: 1\r\n",
    ";",
    "a",
    "\t",
    "\0",
];

pub(crate) fn check(input: &[u8]) {
    let (cuts, wire) = cuts_and_rest(input);
    let whole = decode(std::iter::once(wire));
    assert_eq!(decode(pieces(wire, cuts)), whole, "the body depends on the cut");
    let (body, Ok(Some(used))) = whole else { return };
    assert!(used <= wire.len(), "more was used than there is");
    assert_eq!(by_the_book(wire.get(..used).unwrap_or_default()), Some(body), "read otherwise");
}

type Outcome = (Vec<u8>, Result<Option<usize>, String>);

/// The body, and how many bytes belong to it: `None` if it has no end.
fn decode<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Outcome {
    let mut decoder = Decoder::new(Framing::Chunked);
    let (mut body, mut used) = (Vec::new(), 0);
    for piece in pieces {
        match decoder.decode(piece, &mut body) {
            Ok(count) => used += count,
            Err(error) => return (Vec::new(), Err(error.to_string())),
        }
        if decoder.is_done() {
            return (body, Ok(Some(used)));
        }
    }
    assert!(decoder.end().is_err(), "a body without an end is no body");
    (body, Ok(None))
}

/// A whole chunked body as RFC 9112 section 7.1 writes it; `None` if it is none.
fn by_the_book(wire: &[u8]) -> Option<Vec<u8>> {
    let (mut rest, mut body) = (wire, Vec::new());
    loop {
        let (line, tail) = line(rest)?;
        let digits = line.split(|byte| *byte == b';').next()?;
        let size = std::str::from_utf8(digits).ok().filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()))?;
        let size = usize::from_str_radix(size, 16).ok()?;
        rest = tail;
        if size == 0 {
            break;
        }
        body.extend_from_slice(rest.get(..size)?);
        rest = rest.get(size..)?.strip_prefix(b"\r\n")?;
    }
    loop {
        let (trailer, tail) = line(rest)?;
        rest = tail;
        if trailer.is_empty() {
            return rest.is_empty().then_some(body);
        }
    }
}

fn line(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.windows(2).position(|pair| pair == b"\r\n")?;
    Some((bytes.get(..end)?, bytes.get(end + 2..)?))
}
