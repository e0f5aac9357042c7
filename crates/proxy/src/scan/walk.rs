//! The walk over the tokens of a body: JSON's grammar and the limit of depth.
//!
//! A loop with one bit of memory per level instead of recursion. What keys and values mean is told by `fields`;
//! this must accept exactly what a strict JSON parser accepts.

use super::fields::{Fields, Kind};
use super::text::{Passed, Survey, pass_string};
use super::{BodyView, DEPTH_MAX, ScanError, ScanLimits, Span};

/// What the grammar allows next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// A key or the end of an object.
    FirstKey,
    Key,
    /// A value or the end of an array.
    FirstItem,
    Value,
    /// A comma or the end of the container.
    After,
    /// The top-level object is closed.
    End,
}

pub(super) struct Walk<'b> {
    body: &'b [u8],
    at: usize,
    survey: Survey,
    limits: ScanLimits,
    depth: u32,
    /// One bit per open container, the innermost lowest: 1 is an array.
    arrays: u128,
    fields: Fields<'b>,
}

impl<'b> Walk<'b> {
    pub(super) fn new(body: &'b [u8], survey: Survey, limits: ScanLimits) -> Self {
        Self {
            body,
            at: 0,
            survey,
            limits: ScanLimits { depth_max: limits.depth_max.min(DEPTH_MAX), ..limits },
            depth: 0,
            arrays: 0,
            fields: Fields::new(body, limits),
        }
    }

    pub(super) fn run(mut self) -> Result<BodyView, ScanError> {
        self.skip_space();
        let mut next = match self.peek() {
            None => return Err(ScanError::Empty),
            Some(b'{') => self.open(Kind::Object)?,
            Some(_) => return Err(ScanError::NotAnObject),
        };
        self.fields.view.open_at = self.at;
        while next != Next::End {
            self.skip_space();
            next = self.step(next)?;
        }
        self.skip_space();
        if self.at == self.body.len() { Ok(self.fields.view) } else { Err(self.invalid()) }
    }

    #[inline]
    fn step(&mut self, next: Next) -> Result<Next, ScanError> {
        match (next, self.peek()) {
            (Next::FirstKey, Some(b'}')) | (Next::FirstItem, Some(b']')) => self.close(),
            (Next::After, Some(b'}')) if self.arrays & 1 == 0 => self.close(),
            (Next::After, Some(b']')) if self.arrays & 1 == 1 => self.close(),
            (Next::After, Some(b',')) => {
                self.at += 1;
                Ok(if self.arrays & 1 == 1 { Next::Value } else { Next::Key })
            }
            (Next::FirstKey | Next::Key, Some(b'"')) => self.key(),
            (Next::FirstItem | Next::Value, Some(first)) => self.value(first),
            _ => Err(self.invalid()),
        }
    }

    #[inline]
    fn peek(&self) -> Option<u8> {
        self.body.get(self.at).copied()
    }

    #[inline]
    fn skip_space(&mut self) {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.peek() {
            self.at += 1;
        }
    }

    const fn invalid(&self) -> ScanError {
        ScanError::InvalidJson { at: self.at }
    }

    // === Containers ===

    fn open(&mut self, kind: Kind) -> Result<Next, ScanError> {
        if self.depth == self.limits.depth_max {
            return Err(ScanError::TooDeep { limit: self.limits.depth_max });
        }
        self.at += 1;
        self.depth += 1;
        self.arrays = self.arrays << 1 | u128::from(kind == Kind::Array);
        Ok(if kind == Kind::Array { Next::FirstItem } else { Next::FirstKey })
    }

    fn close(&mut self) -> Result<Next, ScanError> {
        let kind = if self.arrays & 1 == 1 { Kind::Array } else { Kind::Object };
        self.at += 1;
        self.depth -= 1;
        self.arrays >>= 1;
        match self.depth {
            0 => return Ok(Next::End),
            1 => self.fields.end(kind, self.at)?,
            _ => {}
        }
        Ok(Next::After)
    }

    // === Keys ===

    fn key(&mut self) -> Result<Next, ScanError> {
        let start = self.at;
        let Passed { next, .. } = pass_string(self.body, start + 1, self.survey.has_controls)?;
        self.at = next;
        let quoted = Span { start, end: next }.of(self.body);
        self.fields.key(self.depth, quoted)?;
        self.skip_space();
        if self.peek() != Some(b':') {
            return Err(self.invalid());
        }
        self.at += 1;
        Ok(Next::Value)
    }

    // === Values ===

    fn value(&mut self, first: u8) -> Result<Next, ScanError> {
        let kind = match first {
            b'"' => Kind::String,
            b'{' => Kind::Object,
            b'[' => Kind::Array,
            b't' => Kind::True,
            b'f' => Kind::False,
            b'n' => Kind::Null,
            b'-' | b'0'..=b'9' => Kind::Number,
            _ => return Err(self.invalid()),
        };
        if self.depth == 1 {
            self.fields.begin(kind, self.at)?;
        } else if self.depth == 2 && self.arrays & 1 == 1 {
            self.fields.item(kind)?;
        }
        let start = self.at;
        match kind {
            Kind::Object | Kind::Array => {
                self.fields.inner(kind, Span { start, end: self.at })?;
                return self.open(kind);
            }
            Kind::String => {
                let Passed { next, shrink } = pass_string(self.body, start + 1, self.survey.has_controls)?;
                self.at = next;
                self.fields.text(start, next - start - 2 - shrink);
            }
            Kind::Number => self.number()?,
            Kind::True => self.literal(b"true")?,
            Kind::False => self.literal(b"false")?,
            Kind::Null => self.literal(b"null")?,
        }
        self.fields.inner(kind, Span { start, end: self.at })?;
        if self.depth == 1 {
            self.fields.end(kind, self.at)?;
        }
        Ok(Next::After)
    }

    fn literal(&mut self, word: &[u8]) -> Result<(), ScanError> {
        let rest = self.body.get(self.at..).unwrap_or_default();
        if !rest.starts_with(word) {
            return Err(self.invalid());
        }
        self.at += word.len();
        Ok(())
    }

    fn number(&mut self) -> Result<(), ScanError> {
        let start = self.at;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        let leading_zero = self.peek() == Some(b'0');
        let whole = self.digits()?;
        if leading_zero && whole > 1 {
            return Err(self.invalid());
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        let has_exponent = matches!(self.peek(), Some(b'e' | b'E'));
        if has_exponent {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        // Only these can exceed a double (the largest has 309 digits), which parsers read as infinity or refuse.
        if has_exponent || whole > 300 {
            let text = Span { start, end: self.at }.of(self.body);
            let value = std::str::from_utf8(text).ok().and_then(|t| t.parse::<f64>().ok());
            if !value.is_some_and(f64::is_finite) {
                return Err(ScanError::InvalidJson { at: start });
            }
        }
        self.fields.number();
        Ok(())
    }

    fn digits(&mut self) -> Result<usize, ScanError> {
        let start = self.at;
        while let Some(b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
        if self.at == start { Err(self.invalid()) } else { Ok(self.at - start) }
    }
}
