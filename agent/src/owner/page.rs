//! The owner's page: what the machine does, why it pauses, what it gave, and the pause button.
//!
//! in → HTTP on loopback · out → a page and its JSON · invariant: without the token nothing but the page's own, empty files is
//! answered; the token travels in no URL that a server or a log sees; a foreign Host or Origin is refused, so that no web
//! site can reach it through the owner's browser.

use super::control::{Local, Request};
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::json;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::net::TcpListener;

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
const LARGEST_BODY: usize = 16 * 1024;

/// The page's port and key.
#[derive(Debug)]
pub struct Page {
    listener: TcpListener,
    address: SocketAddr,
    token: String,
}

/// Where its address is written, for `nightshift-agent page`.
pub fn url_file(data_dir: &Path) -> PathBuf {
    data_dir.join("page.url")
}

impl Page {
    /// Binds the port, makes a token, and writes the address for the owner alone (0600).
    pub async fn listen(address: SocketAddr, data_dir: &Path) -> std::io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let token = hex::encode(rand::random::<[u8; 32]>());
        let page = Self { listener, address, token };
        crate::files::write_atomic(&url_file(data_dir), &[page.url().as_bytes(), b"\n"])?;
        Ok(page)
    }

    /// With the token behind the #, which browsers keep to themselves.
    pub fn url(&self) -> String {
        format!("http://{}/#{}", self.address, self.token)
    }

    /// Answers.
    pub async fn serve(self, local: Arc<Local>) {
        let door = Arc::new(Door { port: self.address.port(), bearer: format!("Bearer {}", self.token) });
        let api = Router::new()
            .route("/api/status", get(|State(local): State<Arc<Local>>| async move { reply(&local, &Request::Status) }))
            .route(
                "/api/earnings",
                get(|State(local): State<Arc<Local>>| async move { reply(&local, &Request::Earnings) }),
            )
            .route(
                "/api/history",
                get(|State(local): State<Arc<Local>>| async move { reply(&local, &Request::History { most: None }) }),
            )
            .route("/api/pause", post(pause))
            .route(
                "/api/resume",
                post(|State(local): State<Arc<Local>>| async move { reply(&local, &Request::Resume) }),
            )
            .layer(middleware::from_fn_with_state(door.clone(), with_token))
            .with_state(local);
        let app = api
            .route("/", get(|| file("text/html; charset=utf-8", include_str!("page/index.html"))))
            .route("/page.js", get(|| file("text/javascript; charset=utf-8", include_str!("page/page.js"))))
            .route("/page.css", get(|| file("text/css; charset=utf-8", include_str!("page/page.css"))))
            .layer(DefaultBodyLimit::max(LARGEST_BODY))
            .layer(middleware::from_fn_with_state(door, from_here));
        if let Err(error) = axum::serve(self.listener, app).await {
            tracing::error!(%error, "the owner's page has ended");
        }
    }
}

struct Door {
    port: u16,
    bearer: String,
}

impl Door {
    /// Whether a Host, or an Origin without its scheme, is ours.
    fn is_ours(&self, host: &str) -> bool {
        let name = host.strip_suffix(&format!(":{}", self.port)).unwrap_or_default();
        matches!(name, "127.0.0.1" | "localhost" | "[::1]")
    }
}

async fn file(kind: &'static str, text: &'static str) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, kind)], text)
}

fn reply(local: &Local, request: &Request) -> Response {
    match local.answer(request) {
        Ok(value) => Json(value).into_response(),
        Err(error) => (StatusCode::BAD_REQUEST, Json(json!({ "error": error }))).into_response(),
    }
}

async fn pause(State(local): State<Arc<Local>>, body: String) -> Response {
    let seconds = match serde_json::from_str::<serde_json::Value>(&body)
        .ok()
        .and_then(|body| body.get("seconds")?.as_u64())
    {
        None if !body.trim().is_empty() && body.trim() != "{}" => {
            return (StatusCode::BAD_REQUEST, Json(json!({ "error": "the body must be {\"seconds\": N}, or empty" })))
                .into_response();
        }
        seconds => seconds,
    };
    reply(&local, &Request::Pause { seconds })
}

/// Against DNS rebinding and other sites' requests; and the headers that keep the page to itself.
async fn from_here(
    State(door): State<Arc<Door>>,
    headers: HeaderMap,
    request: axum::extract::Request,
    next: Next,
) -> Response {
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let host = text(header::HOST).is_some_and(|host| door.is_ours(host));
    let origin = headers.get(header::ORIGIN).is_none_or(|origin| {
        origin.to_str().ok().and_then(|origin| origin.strip_prefix("http://")).is_some_and(|host| door.is_ours(host))
    });
    let mut response = if host && origin {
        next.run(request).await
    } else {
        (StatusCode::MISDIRECTED_REQUEST, "this page answers to 127.0.0.1 and localhost alone\n").into_response()
    };
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

async fn with_token(
    State(door): State<Arc<Door>>,
    headers: HeaderMap,
    request: axum::extract::Request,
    next: Next,
) -> Response {
    let given = headers.get(header::AUTHORIZATION).map(HeaderValue::as_bytes).unwrap_or_default();
    // Compared to the end, whatever differs first.
    let expected = door.bearer.as_bytes();
    let differs = given.len() != expected.len() || given.iter().zip(expected).fold(0, |all, (a, b)| all | (a ^ b)) != 0;
    if differs {
        let message = "open the address that `nightshift-agent page` prints\n";
        return (StatusCode::UNAUTHORIZED, message).into_response();
    }
    next.run(request).await
}
