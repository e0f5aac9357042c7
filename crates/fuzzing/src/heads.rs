//! Heads of requests and answers against a plain reading by lines: what is accepted can be read in one way only, and
//! the same however the network cut it.

use aya_proxy::Framing;
use aya_proxy::downstream::{HeadBytes, HeadError, RequestHead, parse};
use aya_proxy::fuzzing::response_head;

use crate::{cuts_and_rest, pieces};

pub(crate) const WORDS: &[&str] = &[
    "GET / HTTP/1.1\r\n",
    "POST /v1/chat/completions HTTP/1.1\r\n",
    "Host: a\r\n",
    "Content-Length: 5\r\n",
    "Content-Length: +5\r\n",
    "Content-Length: 5, 5\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Transfer-Encoding: identity\r\n",
    "Transfer-Encoding:\u{b}chunked\r\n",
    "Connection: close\r\n",
    "Expect: 100-continue\r\n",
    "\r\n",
    "\r\n\r\n",
    "\n",
    "\r",
    "\0",
    " ",
    "\t",
    ":",
    " :",
    "HTTP/1.0",
    "HTTP/1.1",
    "HTTP/1.1 200 OK\r\n",
    "HTTP/1.1 100 Continue\r\n\r\n",
    "HTTP/1.1 204 No Content\r\n",
    "HTTP/1.1 101 x\r\n\r\n",
    "Content-Type: text/event-stream\r\n",
    "Content-Encoding: gzip\r\n",
    "Retry-After: 7\r\n",
    "http://b/",
];

/// Small, so that mutations reach it.
const LIMIT: usize = 2048;

pub(crate) fn check_request(input: &[u8]) {
    let (cuts, wire) = cuts_and_rest(input);
    let whole = take(std::iter::once(wire));
    let cut = take(pieces(wire, cuts));
    match (&whole, &cut) {
        (Ok(None), Ok(None)) => {}
        (Ok(Some((one, used))), Ok(Some((two, too)))) => {
            assert_eq!(used, too, "where it ends depends on the cut");
            assert_eq!(format!("{one:?}"), format!("{two:?}"), "what it says depends on the cut");
            let head = wire.get(..*used).unwrap_or_default();
            unambiguous(one, head);
        }
        // Which of two faults is named may depend on which came first.
        (Err(_), Err(_)) => {}
        _ => panic!("the verdict depends on the cut: {whole:?} and {cut:?}"),
    }
}

fn take<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Result<Option<(RequestHead, usize)>, HeadError> {
    let (mut bytes, mut before) = (HeadBytes::default(), 0);
    for piece in pieces {
        if let Some((head, used)) = bytes.take(piece, LIMIT)? {
            return Ok(Some((parse(&head)?, before + used)));
        }
        before += piece.len();
    }
    Ok(None)
}

/// Reads an accepted head by its lines and finds nothing that another parser could read differently.
fn unambiguous(head: &RequestHead, wire: &[u8]) {
    let text = wire.strip_suffix(b"\r\n\r\n").expect("it ends with an empty line");
    let start = text.iter().position(|byte| !matches!(byte, b'\r' | b'\n')).expect("a request line");
    let lines = by_lines(text.get(start..).unwrap_or_default());
    let (request_line, fields) = lines.split_first().expect("a request line");
    let parts: Vec<&[u8]> = request_line.split(|byte| *byte == b' ').collect();
    assert!(parts.len() == 3, "a request line of {} words", parts.len());
    assert!(parts.get(1).is_some_and(|target| !target.contains(&b'#')), "a target with a fragment");
    let one_0 = parts.last() == Some(&b"HTTP/1.0".as_slice());
    assert!(one_0 || parts.last() == Some(&b"HTTP/1.1".as_slice()), "a version of its own");
    let fields: Vec<_> = fields.iter().map(|line| field(line)).collect();
    let told = framing(&fields).expect("framing that cannot be told");
    assert_eq!(head.framing, told.unwrap_or(Framing::Length(0)), "where the body ends");
    let hosts = fields.iter().filter(|(name, _)| name == "host").count();
    assert!(hosts == 1 || (one_0 && hosts == 0), "{hosts} hosts");
    assert_eq!(head.fields.len(), fields.len(), "a field was lost or made up");
    assert!(!(one_0 && head.keep_alive), "HTTP/1.0 stays open");
}

pub(crate) fn check_response(input: &[u8]) {
    let Ok(Some(read)) = response_head(input) else { return };
    let used = read.length;
    let wire = input.get(..used).expect("more was used than there is");
    let alone = response_head(wire).unwrap().expect("a head depends on what follows it");
    assert_eq!((alone.length, alone.framing), (used, read.framing), "a head depends on what follows it");
    let shorter = wire.get(..used - 1).unwrap_or_default();
    assert!(!matches!(response_head(shorter), Ok(Some(_))), "it was whole before its end");
    for (name, value) in read.forward.iter() {
        let ours = [b"content-type".as_slice(), b"cache-control"].contains(&name);
        let clean = value.iter().all(|byte| !matches!(byte, b'\r' | b'\n' | b'\0'));
        assert!(ours && clean, "{name:?} goes to the client");
    }
    assert!(read.retry_after_s.is_none_or(|seconds| seconds <= 120), "an endless Retry-After");
    if let Framing::Length(length) = read.framing {
        let digits = length.to_string();
        let is_there = wire.windows(digits.len()).any(|window| window == digits.as_bytes());
        assert!(length == 0 || is_there, "a length of {length} that nobody told");
    }
}

/// The lines between CRLFs; none of them holds a CR, a LF or a NUL.
fn by_lines(text: &[u8]) -> Vec<&[u8]> {
    let (mut lines, mut rest) = (Vec::new(), text);
    while let Some(end) = rest.windows(2).position(|pair| pair == b"\r\n") {
        lines.push(rest.get(..end).unwrap_or_default());
        rest = rest.get(end + 2..).unwrap_or_default();
    }
    lines.push(rest);
    let clean = |line: &&[u8]| line.iter().all(|byte| !matches!(byte, b'\r' | b'\n' | b'\0'));
    assert!(lines.iter().all(clean), "a line end or NUL inside a line");
    lines
}

fn field(line: &[u8]) -> (String, Vec<u8>) {
    let colon = line.iter().position(|byte| *byte == b':').expect("a field without a colon");
    let (name, value) = line.split_at(colon);
    let token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    assert!(!name.is_empty() && name.iter().all(token), "a field's name is no token");
    let name = String::from_utf8_lossy(name).to_lowercase();
    (name, value.get(1..).unwrap_or_default().trim_ascii().to_vec())
}

/// Where the body ends; `Err` if two readers could disagree, `Ok(None)` if the head does not say.
fn framing(fields: &[(String, Vec<u8>)]) -> Result<Option<Framing>, &'static str> {
    let all = |wanted: &str| -> Vec<&[u8]> {
        fields.iter().filter(|(name, _)| name == wanted).map(|(_, value)| value.as_slice()).collect()
    };
    match (all("content-length").as_slice(), all("transfer-encoding").as_slice()) {
        ([], []) => Ok(None),
        ([length], []) => {
            let digits = length.iter().all(u8::is_ascii_digit);
            let number = std::str::from_utf8(length).ok().and_then(|text| text.parse().ok());
            number.filter(|_| digits).map(|n| Some(Framing::Length(n))).ok_or("no number")
        }
        ([], [coding]) if coding.eq_ignore_ascii_case(b"chunked") => Ok(Some(Framing::Chunked)),
        _ => Err("both, or several"),
    }
}
