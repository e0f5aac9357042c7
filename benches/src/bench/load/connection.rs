//! One connection of the load generator: a hand-written HTTP/1.1 client, so that its own cost stays small and every
//! read can be timed. It understands answers of decent peers only.

use anyhow::{Context as _, Result, bail, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const HEADERS_MAX: usize = 64;

/// One connection with the bytes that were read and not yet used.
pub(super) struct Connection {
    socket: TcpStream,
    buffer: Vec<u8>,
    used: usize,
}

pub(super) struct Head {
    pub(super) status: u16,
    pub(super) framing: Framing,
    pub(super) keep: bool,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Framing {
    /// So many bytes are missing.
    Length(usize),
    Chunked(Chunk),
}

/// What comes next in a chunked body.
#[derive(Debug, Clone, Copy)]
pub(super) enum Chunk {
    Size,
    Data(usize),
    LineEnd,
    Trailer,
}

impl Connection {
    pub(super) async fn open(port: u16) -> Result<Self> {
        let socket = TcpStream::connect(("127.0.0.1", port)).await.context("connect")?;
        socket.set_nodelay(true)?;
        Ok(Self { socket, buffer: Vec::with_capacity(16 * 1024), used: 0 })
    }

    pub(super) async fn send(&mut self, request: &[u8]) -> Result<()> {
        Ok(self.socket.write_all(request).await?)
    }

    fn rest(&self) -> &[u8] {
        self.buffer.get(self.used..).unwrap_or_default()
    }

    async fn read(&mut self) -> Result<()> {
        if self.used == self.buffer.len() {
            self.buffer.clear();
            self.used = 0;
        }
        ensure!(self.socket.read_buf(&mut self.buffer).await? > 0, "closed too early");
        Ok(())
    }

    pub(super) async fn head(&mut self) -> Result<Head> {
        loop {
            self.read().await?;
            let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
            let mut response = httparse::Response::new(&mut headers);
            if let httparse::Status::Complete(length) = response.parse(self.rest())? {
                let head = understood(&response)?;
                self.used += length;
                return Ok(head);
            }
        }
    }

    /// Reads to the end of the body and tells of the events in it as they come.
    pub(super) async fn body(&mut self, mut framing: Framing, mut came: impl FnMut(u32)) -> Result<()> {
        let (mut events, mut after_newline) = (0, false);
        loop {
            let (data, used, done) = framing.step(self.rest())?;
            events += count_events(self.rest().get(data.0..data.1).unwrap_or_default(), &mut after_newline);
            self.used += used;
            if (done || used == 0) && events > 0 {
                came(std::mem::take(&mut events));
            }
            if done {
                return Ok(());
            }
            if used == 0 {
                self.read().await?;
            }
        }
    }
}

fn understood(response: &httparse::Response<'_, '_>) -> Result<Head> {
    let mut head = Head { status: response.code.unwrap_or(0), framing: Framing::Length(0), keep: true };
    for header in response.headers.iter() {
        if header.name.eq_ignore_ascii_case("content-length") {
            head.framing = Framing::Length(std::str::from_utf8(header.value)?.trim().parse()?);
        } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
            head.framing = Framing::Chunked(Chunk::Size);
        } else if header.name.eq_ignore_ascii_case("connection") {
            head.keep = !header.value.eq_ignore_ascii_case(b"close");
        }
    }
    Ok(head)
}

impl Framing {
    /// Takes one step: where data lies, how many bytes are used up, whether the body is over. No bytes used and not
    /// over means that more must be read.
    fn step(&mut self, bytes: &[u8]) -> Result<((usize, usize), usize, bool)> {
        let none = (0, 0);
        let state = match self {
            Self::Length(missing) => {
                let here = bytes.len().min(*missing);
                *missing -= here;
                return Ok(((0, here), here, *missing == 0));
            }
            Self::Chunked(state) => state,
        };
        match *state {
            Chunk::Size => {
                let Some(end) = memchr::memchr(b'\n', bytes) else { return Ok((none, 0, false)) };
                let line = std::str::from_utf8(bytes.get(..end).unwrap_or_default())?;
                let digits = line.trim().split(';').next().unwrap_or_default();
                let size = usize::from_str_radix(digits, 16).context("chunk size")?;
                *state = if size == 0 { Chunk::Trailer } else { Chunk::Data(size) };
                Ok((none, end + 1, false))
            }
            Chunk::Data(size) => {
                let here = bytes.len().min(size);
                *state = if here == size { Chunk::LineEnd } else { Chunk::Data(size - here) };
                Ok(((0, here), here, false))
            }
            Chunk::LineEnd | Chunk::Trailer if bytes.len() < 2 => Ok((none, 0, false)),
            Chunk::LineEnd => {
                *state = Chunk::Size;
                Ok((none, 2, false))
            }
            Chunk::Trailer if bytes.starts_with(b"\r\n") => Ok((none, 2, true)),
            Chunk::Trailer => bail!("trailers are not expected"),
        }
    }
}

/// Empty lines end events; `after_newline` says whether the piece before this one ended with a line.
fn count_events(data: &[u8], after_newline: &mut bool) -> u32 {
    let mut events = 0;
    for at in memchr::memchr_iter(b'\n', data) {
        let empty = at.checked_sub(1).map_or(*after_newline, |before| data.get(before) == Some(&b'\n'));
        events += u32::from(empty);
    }
    if let Some(last) = data.last() {
        *after_newline = *last == b'\n';
    }
    events
}
