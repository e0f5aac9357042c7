//! The watcher of event streams against a plain reading of the HTML standard: what goes out is what came in, byte for
//! byte, and what is known of it does not depend on where the network cut it.

use aya_proxy::SseScanner;
use bytes::Bytes;

use crate::{cuts_and_rest, pieces};

pub(crate) const WORDS: &[&str] = &[
    "data: ",
    "data:",
    "data",
    "\n\n",
    "\r\n\r\n",
    "\r\r",
    "\r",
    "\n",
    ": ping",
    "event: x\n",
    "id: 1\n",
    "retry: 5\n",
    "[DONE]",
    "data: [DONE]\n\n",
    "\u{feff}",
    "\"finish_reason\":\"stop\"",
    "\"finish_reason\":\"abort\"",
    "\"usage\":{\"completion_tokens\":3}",
    "\"usage\":{\"prompt_tokens\":-1}",
    "\"error\":{\"code\":503}",
    "\"delta\":{\"content\":\"x\"}",
    "\"timings\":{\"prompt_ms\":1e999}",
    "null",
    "\u{1f600}",
    "\\\"",
];

/// Small, so that mutations reach it.
const EVENT_MAX: usize = 512;

pub(crate) fn check(input: &[u8]) {
    let (cuts, stream) = cuts_and_rest(input);
    let mut at_once = SseScanner::new(EVENT_MAX);
    let fits = at_once.feed(stream).is_ok();
    let mut cut = SseScanner::new(EVENT_MAX);
    let mut out = Vec::new();
    let mut cut_fits = true;
    for piece in pieces(stream, cuts) {
        match cut.feed_whole(&Bytes::copy_from_slice(piece)) {
            Ok(whole) => out.extend_from_slice(&whole),
            Err(_) => {
                cut_fits = false;
                break;
            }
        }
    }
    assert_eq!(cut_fits, fits, "whether an event is too long depends on the cut");
    assert_eq!(cut.facts(), at_once.facts(), "what is known depends on the cut");
    if fits {
        out.extend_from_slice(&cut.take_held());
        assert_eq!(out, stream, "bytes were lost or changed");
        assert_eq!(SseScanner::default().feed(&plain(stream)).unwrap(), at_once.facts(), "read otherwise");
    } else {
        assert!(stream.starts_with(&out), "what went out before the end is not what came in");
    }
    let timings = at_once.facts().timings;
    assert!(timings.and_then(|t| t.prompt_ms).is_none_or(f64::is_finite), "an infinite time");
}

/// The same events as the standard reads them, written in the plainest way: LF, one space, comments empty.
fn plain(stream: &[u8]) -> Vec<u8> {
    let stream = stream.strip_prefix(b"\xef\xbb\xbf").unwrap_or(stream);
    let (mut out, mut data): (Vec<u8>, Vec<&[u8]>) = (Vec::new(), Vec::new());
    for line in lines(stream) {
        if line.is_empty() {
            // An event without any text is none.
            if data.len() > 1 || data.first().is_some_and(|text| !text.is_empty()) {
                for text in &data {
                    out.extend_from_slice(&[b"data: ", *text, b"\n"].concat());
                }
                out.push(b'\n');
            }
            data.clear();
        } else if line.first() == Some(&b':') {
            out.extend_from_slice(b":\n");
        } else {
            let colon = line.iter().position(|byte| *byte == b':').unwrap_or(line.len());
            let (name, value) = line.split_at(colon);
            let value = value.strip_prefix(b":").unwrap_or(value);
            if name == b"data" {
                data.push(value.strip_prefix(b" ").unwrap_or(value));
            }
        }
    }
    out
}

/// The lines that have ended, whatever ends them.
fn lines(stream: &[u8]) -> Vec<&[u8]> {
    let mut found = Vec::new();
    let mut rest = stream;
    while let Some(end) = rest.iter().position(|byte| matches!(byte, b'\n' | b'\r')) {
        let (line, tail) = rest.split_at(end);
        found.push(line);
        let both = tail.strip_prefix(b"\r\n");
        rest = both.or_else(|| tail.get(1..)).unwrap_or_default();
    }
    found
}
