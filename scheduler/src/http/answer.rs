//! What a client is answered, before its connection gives it a form.

use aya_proxy::downstream::FieldLines;
use bytes::Bytes;
use http::StatusCode;

use super::body::{ClientBody, Pieces};

/// Status, header fields and body. How long the body is and whether the connection goes on is not among the fields.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) fields: FieldLines,
    /// Whether the connection ends behind it.
    pub(crate) closes: bool,
    pub(crate) body: ClientBody,
}

impl Answer {
    /// JSON in one piece.
    pub(crate) fn json(status: StatusCode, body: impl Into<Bytes>) -> Self {
        let mut fields = FieldLines::default();
        fields.add("content-type", "application/json");
        Self { status, fields, closes: false, body: ClientBody::Whole(body.into()) }
    }

    /// A success that comes piece by piece, with the fields that its engine sent.
    pub(crate) fn stream(fields: FieldLines, stream: impl Pieces + 'static) -> Self {
        Self { status: StatusCode::OK, fields, closes: false, body: ClientBody::Stream(Box::new(stream)) }
    }
}
