//! Bytes as no decent client would send them.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

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

    /// A connection whose kernel keeps only so many unread bytes (and some more): a slow reader is slow at once.
    pub async fn connect_with_receive_buffer(addr: SocketAddr, bytes: u32) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(bytes).unwrap();
        Self { socket: socket.connect(addr).await.unwrap() }
    }

    /// Reads a byte now and then, until the peer closes.
    pub async fn read_slowly(&mut self, every: Duration) {
        while let Ok(1) = self.socket.read(&mut [0; 1]).await {
            tokio::time::sleep(every).await;
        }
    }

    /// Reads until `count` answers have begun with `status`, and what is left of the last one.
    ///
    /// # Panics
    /// If they do not come, or others come.
    pub async fn read_answers(&mut self, count: usize, status: &str) -> usize {
        let mut text = String::new();
        let mut buffer = vec![0; 64 * 1024];
        let whole = |text: &str| text.matches("HTTP/1.1 ").count() == count && text.ends_with('}');
        while !whole(&text) {
            let read = within(PATIENCE, "answers", self.socket.read(&mut buffer)).await.unwrap();
            assert!(read > 0, "closed after {text}");
            text.push_str(&String::from_utf8_lossy(buffer.get(..read).unwrap_or_default()));
        }
        assert_eq!(text.matches(status).count(), count, "{text}");
        count
    }

    /// Sends bytes; a peer that has closed already is no error here.
    pub async fn send(&mut self, bytes: &[u8]) {
        let _ = self.socket.write_all(bytes).await;
    }

    /// Sends bytes to a peer that has to take them all.
    ///
    /// # Panics
    /// If it does not.
    pub async fn send_all(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).await.unwrap();
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
