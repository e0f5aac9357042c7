//! Heads whole, cut at every byte, hostile; answers as bytes.

use bytes::Bytes;
use http::StatusCode;
use proptest::prelude::*;

use super::*;
use crate::framing::Framing;

const LIMIT: usize = 32 * 1024;

/// The head of `input` and how much of it belongs to it, fed in pieces of one size.
fn take(input: &[u8], size: usize) -> Result<Option<(RequestHead, usize)>, HeadError> {
    let mut bytes = HeadBytes::default();
    for (index, piece) in input.chunks(size).enumerate() {
        if let Some((head, used)) = bytes.take(piece, LIMIT)? {
            return Ok(Some((parse(&head)?, index * size + used)));
        }
    }
    Ok(None)
}

#[test]
fn a_head_is_read_the_same_however_it_is_cut() {
    let input = b"\r\nPOST /v1/x?y=1 HTTP/1.1\r\nHost: a\r\nX-A:  b \r\ncontent-LENGTH: 12\r\nExpect: 100-continue\r\nConnection: x, Close\r\n\r\nrest";
    for size in 1..=input.len() {
        let (head, used) = take(input, size).unwrap().unwrap();
        assert_eq!(&input[used..], b"rest", "in pieces of {size}");
        assert_eq!((head.method.as_str(), head.target.path()), ("POST", "/v1/x"));
        assert_eq!(head.fields.text("x-a"), Some("b"));
        assert_eq!(head.framing, Framing::Length(12));
        assert!(head.expects_continue && !head.keep_alive && !head.is_http_1_0);
    }
}

#[test]
fn what_the_framing_says() {
    for (head, framing, keep_alive) in [
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", Framing::Length(0), true),
        ("GET / HTTP/1.0\r\n\r\n", Framing::Length(0), false),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: CHUNKED\r\n\r\n", Framing::Chunked, true),
        ("POST http://a/ HTTP/1.1\r\nHost: A\r\nContent-Length: 007\r\n\r\n", Framing::Length(7), true),
        ("POST / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\n\r\n", Framing::Length(0), true),
    ] {
        let (parsed, _) = take(head.as_bytes(), 1000).unwrap().unwrap();
        assert_eq!((parsed.framing, parsed.keep_alive), (framing, keep_alive), "{head:?}");
    }
}

#[test]
fn heads_that_two_parsers_could_read_differently_are_refused() {
    let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(HEADERS_MAX));
    let long_value = format!("GET / HTTP/1.1\r\nX: {}", "y".repeat(LIMIT));
    let long_target = format!("GET /{}", "y".repeat(LIMIT));
    for (head, status, says) in [
        ("POST / HTTP/1.1\r\nContent-Length: 1\r\n\r\n", 400, "Host header is missing"),
        ("POST / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400, "more than one Host"),
        ("POST http://b/ HTTP/1.1\r\nHost: a\r\n\r\n", 400, "differs"),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            400,
            "beside",
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n",
            400,
            "beside",
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
            400,
            "more than one content",
        ),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1\r\n\r\n", 400, "whole number"),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\n", 400, "whole number"),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x1\r\n\r\n", 400, "whole number"),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n", 400, "whole number"),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551616\r\n\r\n", 400, "whole number"),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
            400,
            "more than one tr",
        ),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 400, "only `chunked`"),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n", 400, "only `chunked`"),
        ("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400, "HTTP/1.0"),
        ("POST / HTTP/1.1\r\nHost : a\r\n\r\n", 400, "header name"),
        ("POST / HTTP/1.1\r\nHost: a\r\nX: b\r\n c\r\n\r\n", 400, "header name"),
        ("POST / HTTP/1.1\r\nHost: a\r\nX: b\0c\r\n\r\n", 400, "header value"),
        ("POST / HTTP/1.1\r\nHost: a\r\nX: b\rc\r\n\r\n", 400, ""),
        ("POST / HTTP/1.1\nHost: a\n\n", 400, "CRLF"),
        ("POST / HTTP/1.1\r\nHost: a\r\n\n", 400, "CRLF"),
        ("\r\n\r\n\r\n\r\n\r\n", 400, "empty lines"),
        ("\n", 400, "begin"),
        ("GET /\r\n\r\n", 400, "request line"),
        ("GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", 400, "request target"),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "version"),
        ("\u{16}\u{3}\u{1}", 400, "method"),
        ("GET / HTTP/1.1\r\nHost: a\r\nExpect: 200-maybe\r\n\r\n", 417, "100-continue"),
        (&many, 431, "100 header fields"),
        (&long_value, 431, "32768 bytes"),
        (&long_target, 414, "target"),
    ] {
        for size in [1, 7, 100_000] {
            let error = match take(head.as_bytes(), size) {
                Err(error) => error.to_api_error(),
                Ok(read) => panic!("{head:?} in pieces of {size}: {read:?}"),
            };
            assert_eq!(error.status, status, "{head:?}: {}", error.message);
            assert!(error.message.contains(says), "{head:?}: {}", error.message);
        }
    }
}

proptest! {
    /// Whatever comes, no piece size changes the verdict, and what is accepted has one clear end.
    #[test]
    fn no_input_is_read_in_two_ways(
        lines in prop::collection::vec("[ -~\t]{0,30}", 0..6),
        ends in prop::collection::vec(prop::sample::select(vec!["\r\n", "\n", "\r", "\r\n\r\n"]), 6),
        size in 1_usize..40,
    ) {
        let text: String = lines.iter().zip(&ends).flat_map(|(line, end)| [line.as_str(), end]).collect();
        let input = format!("POST /v1 HTTP/1.1\r\nHost: a\r\n{text}");
        let whole = take(input.as_bytes(), input.len()).map(|r| r.map(|(h, used)| (h.framing, used)));
        let pieces = take(input.as_bytes(), size).map(|r| r.map(|(h, used)| (h.framing, used)));
        prop_assert_eq!(&whole, &pieces);
        if let Ok(Some((_, used))) = whole {
            let head = &input.as_bytes()[..used];
            prop_assert!(head.ends_with(b"\r\n\r\n"));
            prop_assert_eq!(memchr::memmem::find_iter(head, b"\r\n\r\n").count(), 1);
        }
    }
}

#[test]
fn an_answer_is_written_with_our_framing_only() {
    let mut fields = FieldLines::default();
    fields.add("x-a", "b");
    fields.add("Connection", "close");
    fields.add_number("content-length", 99);
    fields.add("x-b", "c\r\nset-cookie: d");
    assert!(!fields.pass("x-c", b"e\0") && fields.pass("x-d", b"\xe9"));
    assert_eq!(fields.iter().collect::<Vec<_>>(), [(&b"x-a"[..], &b"b"[..]), (b"x-d", b"\xe9")]);
    let mut fields = FieldLines::default();
    fields.add("x-a", "b");
    let write = |length, keep_alive| {
        let mut out = Vec::new();
        write_head(&mut out, StatusCode::OK, &fields, &AnswerShape { length, keep_alive, date: "now" });
        String::from_utf8(out).unwrap()
    };
    assert_eq!(
        write(AnswerLength::Known(1203), true),
        "HTTP/1.1 200 OK\r\nx-a: b\r\ncontent-length: 1203\r\ndate: now\r\n\r\n"
    );
    assert_eq!(
        write(AnswerLength::Chunked, true),
        "HTTP/1.1 200 OK\r\nx-a: b\r\ntransfer-encoding: chunked\r\ndate: now\r\n\r\n"
    );
    assert_eq!(
        write(AnswerLength::UntilClose, false),
        "HTTP/1.1 200 OK\r\nx-a: b\r\nconnection: close\r\ndate: now\r\n\r\n"
    );
}

#[test]
fn chunks_say_their_size_in_hexadecimal() {
    for (size, prefix) in [(1, "1\r\n"), (15, "f\r\n"), (16, "10\r\n"), (70_000, "11170\r\n")] {
        let mut out = Vec::new();
        chunk(&mut out, &vec![b'x'; size]);
        assert!(out.starts_with(prefix.as_bytes()) && out.ends_with(b"x\r\n"), "{size}");
        assert_eq!(out.len(), prefix.len() + size + 2);
    }
    let mut out = Vec::new();
    chunk(&mut out, b"");
    assert!(out.is_empty(), "an empty chunk would end the answer");
    assert_eq!(Bytes::from_static(CHUNK_END), "0\r\n\r\n");
}
