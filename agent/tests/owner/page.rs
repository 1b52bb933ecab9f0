//! The page keeps strangers out, other web sites above all.

use super::lab::{Guest, ask, program, told};
use crate::session_support::{Scheduler, World, until};
use std::os::unix::fs::PermissionsExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// One request, as it goes over the wire; the whole answer.
async fn request(address: &str, head: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let length = body.len();
    let text = format!("{head}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}");
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn the_token_opens_it_and_a_foreign_site_does_not() {
    let world = World::new();
    let scheduler = Scheduler::start(&world);
    let agent = Guest::start(&world, &scheduler, |config| config.page_listen = Some("127.0.0.1:0".parse().unwrap()));
    world.hello().await;
    let url = ask(agent.dir.path(), &["page"])["url"].as_str().unwrap().to_string();
    let (address, token) = url.strip_prefix("http://").unwrap().split_once("/#").unwrap();
    let mode = std::fs::metadata(agent.dir.path().join("page.url")).unwrap().permissions().mode();
    assert_eq!((token.len(), mode & 0o777), (64, 0o600));
    let own = format!("Host: {address}\r\nAuthorization: Bearer {token}");

    let page = request(address, &format!("GET / HTTP/1.1\r\nHost: {address}"), "").await;
    assert!(page.starts_with("HTTP/1.1 200") && page.contains("default-src 'none'"), "{page}");
    assert!(!page.contains(token), "the page itself holds no secret");
    let status = request(address, &format!("GET /api/status HTTP/1.1\r\n{own}"), "").await;
    assert!(status.contains("\"state\":\"Ready\""), "{status}");
    let port = address.rsplit_once(':').unwrap().1;
    let rebound = format!("Host: evil.example:{port}\r\nAuthorization: Bearer {token}");
    for (head, code) in [
        (format!("GET /api/status HTTP/1.1\r\nHost: {address}"), "401"),
        (format!("GET /api/status HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {}", "0".repeat(64)), "401"),
        (format!("GET /api/status?token={token} HTTP/1.1\r\nHost: {address}"), "401"),
        (format!("GET / HTTP/1.1\r\n{rebound}"), "421"),
        (format!("GET /api/status HTTP/1.1\r\n{rebound}"), "421"),
        ("GET / HTTP/1.1\r\nHost: 127.0.0.1".to_string(), "421"),
        (format!("POST /api/pause HTTP/1.1\r\n{own}\r\nOrigin: http://evil.example"), "421"),
        (format!("GET /api/pause HTTP/1.1\r\n{own}"), "405"),
        (format!("GET /../identity/key.pem HTTP/1.1\r\n{own}"), "404"),
    ] {
        let answer = request(address, &head, "").await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {code}")), "{head}: {answer}");
    }
    assert_eq!(ask(agent.dir.path(), &["status"])["manual"], "no");

    let pause = request(
        address,
        &format!("POST /api/pause HTTP/1.1\r\n{own}\r\nOrigin: http://{address}"),
        "{\"seconds\": 60}",
    )
    .await;
    assert!(pause.starts_with("HTTP/1.1 200"), "{pause}");
    until("it pauses", || ask(agent.dir.path(), &["status"])["reason"] == "Paused").await;
    let nonsense = request(address, &format!("POST /api/pause HTTP/1.1\r\n{own}"), "{\"seconds\": \"x\"}").await;
    assert!(nonsense.starts_with("HTTP/1.1 400"), "{nonsense}");
    request(address, &format!("POST /api/resume HTTP/1.1\r\n{own}"), "").await;
    until("it is ready", || ask(agent.dir.path(), &["status"])["state"] == "Ready").await;
    agent.stopped().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_socket_is_the_owners_and_survives_nonsense() {
    let world = World::new();
    let scheduler = Scheduler::start(&world);
    let agent = Guest::start(&world, &scheduler, |_| {});
    world.hello().await;
    let path = agent.dir.path().join("agent.sock");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let long = "x".repeat(100_000);
    for nonsense in ["{\"command\":\"explode\"}\n", "nonsense\n", "\n", long.as_str()] {
        let mut stream = tokio::net::UnixStream::connect(&path).await.unwrap();
        let _ = stream.write_all(nonsense.as_bytes()).await;
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer).await;
        assert!(answer.is_empty() || answer.contains("does not understand"), "{answer}");
    }
    assert_eq!(ask(agent.dir.path(), &["status"])["state"], "Ready");
    agent.stopped().await.unwrap();
    let nowhere = tempfile::tempdir().unwrap();
    let (code, _, stderr) = told(program().arg("status").arg("--data-dir").arg(nowhere.path()));
    assert_eq!(code, Some(1));
    assert!(stderr.starts_with("nightshift-agent: no agent runs with "), "{stderr}");
}
