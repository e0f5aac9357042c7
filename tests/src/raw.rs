//! Bytes as no decent client would send them.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::wait::{PATIENCE, within};

/// A connection without manners.
#[derive(Debug)]
pub struct Raw {
    socket: TcpStream,
}

impl Raw {
    pub async fn connect(addr: SocketAddr) -> Self {
        let socket = TcpStream::connect(addr).await.unwrap();
        socket.set_nodelay(true).unwrap();
        Self { socket }
    }

    /// Sends bytes; a peer that has closed already is no error here.
    pub async fn send(&mut self, bytes: &[u8]) {
        let _ = self.socket.write_all(bytes).await;
    }

    /// Everything until the peer closes, or until `limit` is over; and whether it closed.
    pub async fn read_for(&mut self, limit: Duration) -> (String, bool) {
        let mut all = Vec::new();
        let mut buffer = vec![0; 4096];
        let reading = async {
            while let Ok(read @ 1..) = self.socket.read(&mut buffer).await {
                all.extend_from_slice(buffer.get(..read).unwrap_or_default());
            }
        };
        let closed = tokio::time::timeout(limit, reading).await.is_ok();
        (String::from_utf8_lossy(&all).into_owned(), closed)
    }

    /// Everything until these bytes have come, or the peer closes.
    pub async fn read_until(&mut self, end: &str) -> String {
        let mut all = Vec::new();
        let mut buffer = vec![0; 4096];
        within(PATIENCE, end, async {
            while !all.ends_with(end.as_bytes()) {
                match self.socket.read(&mut buffer).await {
                    Ok(read @ 1..) => all.extend_from_slice(buffer.get(..read).unwrap_or_default()),
                    Ok(_) | Err(_) => break,
                }
            }
        })
        .await;
        String::from_utf8_lossy(&all).into_owned()
    }

    /// Everything until the peer closes.
    pub async fn read_to_end(&mut self) -> String {
        let (text, closed) = self.read_for(PATIENCE).await;
        assert!(closed, "the connection stayed open after {text:?}");
        text
    }
}

/// Sends bytes and gives everything until the peer closes.
pub async fn raw_exchange(addr: SocketAddr, bytes: &[u8]) -> String {
    within(PATIENCE * 2, "a raw exchange", async {
        let mut raw = Raw::connect(addr).await;
        raw.send(bytes).await;
        raw.read_to_end().await
    })
    .await
}
