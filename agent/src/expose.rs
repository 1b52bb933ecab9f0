//! The agent's metrics on a loopback port, for an owner who wants to look without a scheduler.
//!
//! in → HTTP requests · out → Prometheus' text · invariant: loopback alone; a request is bounded in size, time and number.

use crate::metrics::Metrics;
use anyhow::Context;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tracing::info;

const LONGEST_HEAD: usize = 8 * 1024;
const LONGEST: Duration = Duration::from_secs(5);
const AT_ONCE: usize = 8;

/// Binds the port.
pub async fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let listener = TcpListener::bind(address).await;
    let listener = listener.with_context(|| format!("--metrics-listen: cannot listen on {address}"))?;
    info!(%address, "serves metrics at /metrics");
    Ok(listener)
}

/// Answers `GET /metrics`.
pub async fn serve(listener: TcpListener, metrics: Metrics) {
    let few = Arc::new(Semaphore::new(AT_ONCE));
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await; // out of file descriptors: not for ever
            continue;
        };
        let Ok(permit) = few.clone().acquire_owned().await else { return };
        let metrics = metrics.clone();
        tokio::spawn(async move {
            let _permit = permit;
            let _ = tokio::time::timeout(LONGEST, answer(stream, &metrics)).await;
        });
    }
}

async fn answer(mut stream: TcpStream, metrics: &Metrics) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        if head.len() > LONGEST_HEAD || stream.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
    }
    let (status, body) = if head.starts_with(b"GET /metrics ") {
        ("200 OK", metrics.text())
    } else {
        ("404 Not Found", "the metrics are at /metrics\n".into())
    };
    let length = body.len();
    let answer = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    );
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn metrics_and_nothing_else() {
        let listener = listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(serve(listener, Metrics::new().unwrap()));
        for (path, expected) in [("/metrics", "nightshift_agent_session_connected 0"), ("/", "404 Not Found")] {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await.unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).await.unwrap();
            assert!(text.contains(expected), "{text}");
        }
    }
}
