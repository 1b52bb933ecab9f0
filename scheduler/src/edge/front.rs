//! The HTTP port: open from the start, also while another scheduler leads.
//!
//! in → connections, TLS unless on loopback · out → the leader's gateway, or what a standby can say · invariant: beyond
//! loopback everything but the health checks needs the bearer token; connections are bounded in number, handshakes and headers in time.

use crate::edge::observe;
use crate::metrics::Metrics;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tower::ServiceExt as _;

/// Connections at once; further ones wait to be accepted.
const CONNECTIONS: usize = 1024;
/// Longest handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Longest wait for a request's headers, on a new connection and between two requests.
const HEADERS: Duration = Duration::from_secs(30);

/// The port and what it shows now.
pub struct Front {
    address: SocketAddr,
    current: watch::Sender<Router>,
    task: JoinHandle<()>,
}

impl Drop for Front {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Hashes of the bearer tokens: of the one that opens everything, and of the one that opens scrapes.
#[derive(Debug, Clone, Copy)]
pub struct Tokens {
    gateway: [u8; 32],
    scrape: [u8; 32],
}

impl Tokens {
    /// Both follow from the gateway's.
    pub fn of(gateway: &str) -> Self {
        let hash = |token: &str| Sha256::digest(token.as_bytes()).into();
        Self { gateway: hash(gateway), scrape: hash(&observe::scrape_token(gateway)) }
    }

    /// Whether a request bears a token that is enough for its path. Hashes are compared, so the time taken says nothing of
    /// the tokens.
    pub fn admit(&self, request: &Request) -> bool {
        let given = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let given = given.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
        let hash: [u8; 32] = Sha256::digest(given.as_bytes()).into();
        hash == self.gateway || (hash == self.scrape && observe::is_scrape(request.uri().path()))
    }
}

impl Front {
    /// Serves `first` until [`Front::show`] replaces it. With `tls` the port may be on any address, and is guarded.
    pub fn open(listener: TcpListener, tls: Option<Tls>, first: Router) -> std::io::Result<Self> {
        let address = listener.local_addr()?;
        let (current, shown) = watch::channel(first);
        let service = tower::service_fn(move |request: axum::http::Request<Body>| {
            let router = shown.borrow().clone();
            async move { Ok::<_, Infallible>(router.oneshot(request).await.unwrap_or_else(|never| match never {})) }
        });
        let app = Router::new().fallback_service(service);
        let task = tokio::spawn(async move {
            match tls {
                None => {
                    if let Err(error) = axum::serve(listener, app).await {
                        tracing::error!(%error, "the gateway's listener ended");
                    }
                }
                Some(tls) => {
                    let tokens = Tokens::of(&tls.token);
                    let guard = move |request: Request, next: Next| guard(request, next, tokens);
                    let app = app.layer(middleware::from_fn(guard));
                    serve_tls(listener, tls.config, app).await;
                }
            }
        });
        Ok(Self { address, current, task })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on requests are answered by this router; those under way end on the old one.
    pub fn show(&self, router: Router) {
        drop(self.current.send_replace(router));
    }
}

async fn guard(request: Request, next: Next, tokens: Tokens) -> Response {
    let open = matches!(request.uri().path(), "/healthz" | "/readyz");
    if !open && !tokens.admit(&request) {
        let text = "a bearer token is needed: it is gateway-token in the scheduler's Secret";
        return (StatusCode::UNAUTHORIZED, Json(json!({ "error": text }))).into_response();
    }
    next.run(request).await
}

/// What a standby answers. `ready` is true once it has folded the journal up to its head.
pub fn standby(metrics: Metrics, ready: Arc<AtomicBool>) -> Router {
    let readyz = move || {
        let ready = ready.load(Ordering::Relaxed);
        std::future::ready(if ready {
            (StatusCode::OK, "standing by")
        } else {
            (StatusCode::SERVICE_UNAVAILABLE, "reading the journal")
        })
    };
    let text = move || std::future::ready(([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], metrics.render()));
    let elsewhere = || async {
        let text = "this scheduler stands by: another one leads; its Service leads there, ask again in a moment";
        (StatusCode::SERVICE_UNAVAILABLE, Json(json!({ "error": text })))
    };
    Router::new()
        .route("/healthz", get(|| async { "ok" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(text))
        .fallback(elsewhere)
}

/// What makes a port safe beyond loopback.
pub struct Tls {
    /// Our certificate and key.
    pub config: Arc<rustls::ServerConfig>,
    /// The bearer token.
    pub token: String,
}

/// Accepts until it is dropped, which ends every connection too. Strangers may connect: connections, handshakes and idle
/// ones are bounded.
async fn serve_tls(listener: TcpListener, config: Arc<rustls::ServerConfig>, app: Router) {
    let acceptor = TlsAcceptor::from(config);
    let turns = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    while let Ok(turn) = turns.clone().acquire_owned().await {
        let accepted = listener.accept().await;
        while connections.try_join_next().is_some() {}
        let Ok((socket, peer)) = accepted else {
            // Most often out of file descriptors: others may be closed by then.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let (acceptor, app) = (acceptor.clone(), app.clone());
        connections.spawn(async move {
            let _turn = turn;
            let _ = socket.set_nodelay(true);
            match tokio::time::timeout(HANDSHAKE, acceptor.accept(socket)).await {
                Ok(Ok(stream)) => connection(stream, app).await,
                Ok(Err(error)) => tracing::debug!(%error, %peer, "TLS handshake"),
                Err(_) => tracing::debug!(%peer, "TLS handshake timed out"),
            }
        });
    }
}

async fn connection(stream: TlsStream<TcpStream>, app: Router) {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADERS);
    builder.http2().timer(TokioTimer::new()).keep_alive_interval(HEADERS).keep_alive_timeout(HANDSHAKE);
    let service = TowerToHyperService::new(app);
    if let Err(error) = builder.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(%error, "connection");
    }
}
