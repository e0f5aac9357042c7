//! Bodies whole, cut at every byte, and malformed.

use proptest::prelude::*;

use super::*;

/// Body, and bytes of the input that belong to it; fed in pieces of one size.
fn decode(framing: Framing, input: &[u8], size: usize) -> Result<(String, usize, bool), FramingError> {
    let mut decoder = Decoder::new(framing);
    let (mut out, mut used) = (Vec::new(), 0);
    for piece in input.chunks(size) {
        used += decoder.decode(piece, &mut out)?;
    }
    Ok((String::from_utf8(out).unwrap(), used, decoder.is_done()))
}

#[test]
fn bodies_end_where_the_head_said_however_they_are_cut() {
    let chunked = "5\r\nhello\r\n1;a=\"b\"\r\n \r\nA\r\n0123456789\r\n00\r\nX: y\r\nZ:\r\n\r\n";
    for (framing, input, body, used, done) in [
        (Framing::Length(5), "hello", "hello", 5, true),
        (Framing::Length(5), "hello more", "hello", 5, true),
        (Framing::Length(5), "hel", "hel", 3, false),
        (Framing::Length(0), "more", "", 0, true),
        (Framing::UntilClose, "anything", "anything", 8, false),
        (Framing::Chunked, "0\r\n\r\n", "", 5, true),
        (Framing::Chunked, chunked, "hello 0123456789", chunked.len(), true),
        (Framing::Chunked, "1\r\nx\r\n0\r\n\r\nHTTP/1.1 200", "x", 11, true),
        (Framing::Chunked, "0\r\nA: b\r\n", "", 9, false),
        (Framing::Chunked, "000000000000001\r\nx\r\n", "x", 20, false),
    ] {
        for size in 1..=input.len() {
            let got = decode(framing, input.as_bytes(), size).unwrap();
            assert_eq!(got, (body.to_owned(), used, done), "{input:?} in pieces of {size}");
        }
    }
}

#[test]
fn chunk_framing_that_two_readers_could_take_differently_is_refused() {
    for (input, what) in [
        ("\r\n", "a chunk without size"),
        (";x\r\n", "a chunk without size"),
        ("0x5\r\n", "a chunk size that is not hexadecimal"),
        ("+5\r\n", "a chunk size that is not hexadecimal"),
        (" 5\r\n", "a chunk size that is not hexadecimal"),
        ("5 \r\n", "a chunk size that is not hexadecimal"),
        ("-1\r\n", "a chunk size that is not hexadecimal"),
        ("5\n", "a chunk size that is not hexadecimal"),
        ("g\r\n", "a chunk size that is not hexadecimal"),
        ("FFFFFFFFFFFFFFFFF\r\n", "a chunk size that overflows"),
        ("0000000000000000\r\n", "a chunk size that overflows"),
        ("1;a\n", "a control character in a chunk extension"),
        ("1\rx", "a line that does not end with CRLF"),
        ("1\r\nxy", "a line that does not end with CRLF"),
        ("1\r\nx\n", "a line that does not end with CRLF"),
        ("1\r\nx\rx", "a line that does not end with CRLF"),
        ("0\r\n\n", "a trailer line that does not end with CRLF"),
        ("0\r\nA: b\n", "a trailer line that does not end with CRLF"),
        ("0\r\nA: b\rx", "a line that does not end with CRLF"),
    ] {
        for size in 1..=input.len() {
            let error = decode(Framing::Chunked, input.as_bytes(), size).unwrap_err();
            assert_eq!(error, FramingError::Malformed { what }, "{input:?} in pieces of {size}");
        }
    }
}

#[test]
fn endless_extensions_and_trailers_are_cut() {
    let extension = format!("1;{}", "x".repeat(10_000));
    let trailers = format!("0\r\n{}", "A: b\r\n".repeat(10_000));
    for input in [extension, trailers] {
        assert!(matches!(
            decode(Framing::Chunked, input.as_bytes(), 100),
            Err(FramingError::Malformed { what: "a chunk extension too long" | "trailers too long" })
        ));
    }
}

#[test]
fn only_a_close_delimited_body_may_end_with_the_connection() {
    for (framing, input, whole) in [
        (Framing::UntilClose, "abc", true),
        (Framing::UntilClose, "", true),
        (Framing::Length(3), "abc", true),
        (Framing::Length(3), "ab", false),
        (Framing::Chunked, "3\r\nabc\r\n", false),
        (Framing::Chunked, "3\r\nab", false),
        (Framing::Chunked, "0\r\n", false),
        (Framing::Chunked, "0\r\n\r\n", true),
    ] {
        let mut decoder = Decoder::new(framing);
        decoder.decode(input.as_bytes(), &mut Vec::new()).unwrap();
        assert_eq!(decoder.end().is_ok(), whole, "{framing:?} {input:?}");
    }
}

proptest! {
    #[test]
    fn what_was_chunked_comes_back(
        pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..300), 0..8),
        size in 1usize..97,
    ) {
        let mut wire = Vec::new();
        for piece in &pieces {
            wire.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
            wire.extend_from_slice(piece);
            wire.extend_from_slice(b"\r\n");
        }
        wire.extend_from_slice(b"0\r\n\r\n");
        let mut decoder = Decoder::new(Framing::Chunked);
        let mut out = Vec::new();
        for piece in wire.chunks(size) {
            prop_assert_eq!(decoder.decode(piece, &mut out), Ok(piece.len()));
        }
        prop_assert!(decoder.is_done());
        prop_assert_eq!(out, pieces.concat());
    }

    #[test]
    fn hostile_bytes_never_give_more_than_was_sent(input in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut decoder = Decoder::new(Framing::Chunked);
        let mut out = Vec::new();
        if let Ok(used) = decoder.decode(&input, &mut out) {
            prop_assert!(used <= input.len() && out.len() <= used);
        }
    }
}
