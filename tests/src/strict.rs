//! What an engine was sent, read by somebody who forgives nothing: a request that two parsers could read differently
//! is no request. Independent of the relay's own code on purpose.

use httparse::{EMPTY_HEADER, Request, Status};

/// Everything that the relay may tell an engine.
const FIELDS: [&str; 7] =
    ["host", "accept", "content-type", "content-length", "x-request-id", "authorization", "traceparent"];
const PATHS: [&str; 3] = ["/v1/chat/completions", "/v1/completions", "/v1/embeddings"];

/// One request as an engine got it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heard {
    pub path: String,
    /// In order, names in lower case.
    pub fields: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Heard {
    /// The only value of a field.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }
}

/// Every request of one connection, one after the other, with nothing before, between or behind them.
///
/// # Errors
/// What a strict reader would refuse.
pub fn read_strictly(mut bytes: &[u8]) -> Result<Vec<Heard>, String> {
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let (heard, rest) = one(bytes)?;
        all.push(heard);
        bytes = rest;
    }
    Ok(all)
}

fn one(bytes: &[u8]) -> Result<(Heard, &[u8]), String> {
    let mut fields = [EMPTY_HEADER; 32];
    let mut request = Request::new(&mut fields);
    let length = match request.parse(bytes) {
        Ok(Status::Complete(length)) => length,
        Ok(Status::Partial) => return Err(format!("half a head: {}", bytes.escape_ascii())),
        Err(error) => return Err(format!("{error}: {}", bytes.escape_ascii())),
    };
    let (head, rest) = bytes.split_at(length);
    check_bytes(head)?;
    let path = request.path.unwrap_or_default();
    if request.method != Some("POST") || request.version != Some(1) || !PATHS.contains(&path) {
        return Err(format!("a request line of its own: {}", head.escape_ascii()));
    }
    let mut told: Vec<(String, String)> = Vec::new();
    for field in request.headers.iter() {
        let name = field.name.to_ascii_lowercase();
        let value = std::str::from_utf8(field.value).map_err(|_| format!("{name} is no text"))?;
        if !FIELDS.contains(&name.as_str()) {
            return Err(format!("the field {name} reached the engine"));
        }
        if told.iter().any(|(other, _)| *other == name) {
            return Err(format!("{name} is there twice"));
        }
        told.push((name, value.to_owned()));
    }
    let mut heard = Heard { path: path.to_owned(), fields: told, body: Vec::new() };
    let length = heard.field("content-length").ok_or("no content-length")?;
    if !length.bytes().all(|b| b.is_ascii_digit()) || heard.field("host").is_none_or(str::is_empty) {
        return Err(format!("length or host: {}", head.escape_ascii()));
    }
    let length: usize = length.parse().map_err(|_| "a length beyond any")?;
    let (body, rest) = rest.split_at_checked(length).ok_or("the body is shorter than announced")?;
    let _: serde_json::Value = serde_json::from_slice(body).map_err(|e| format!("a body of no JSON: {e}"))?;
    heard.body = body.to_vec();
    Ok((heard, rest))
}

/// Every line ends with CRLF and nothing in it is a control character.
fn check_bytes(head: &[u8]) -> Result<(), String> {
    let text = std::str::from_utf8(head).map_err(|_| "the head is not ASCII")?;
    let lines = text.strip_suffix("\r\n\r\n").ok_or("the head does not end with an empty line")?;
    let bad =
        lines.split("\r\n").find(|line| line.is_empty() || line.bytes().any(|b| !(b' '..=b'~').contains(&b)));
    bad.map_or(Ok(()), |line| Err(format!("a line that is none: {line:?}")))
}
