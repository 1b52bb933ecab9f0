//! In: a request and who sends it → out: its response → invariant: the one way in, for sockets and in-process clients alike;
//! authentication, then authorization, then the resource; every request but a watch ends within [`REQUEST_TIMEOUT`].

use crate::auth::{Caller, Tokens};
use crate::decode;
use crate::kinds::{Core, Registry, Resource, crd};
use crate::negotiate::{self, Form};
use crate::request::{Options, ResourcePath, parse_path, segments};
use crate::status::{ApiError, ApiResult, json_response};
use crate::store::{CRDS, Store};
use crate::{discovery, openapi, review, verbs};
use axum::body::Body;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// Requests from sockets, watches aside, that are worked on at once; more are asked to come back (429).
const IN_FLIGHT: usize = 1024;

/// The server's shared state.
pub(crate) struct Api {
    pub store: Store,
    registry: RwLock<Arc<Registry>>,
    /// Definitions are changed one at a time, each with its registry.
    pub crd_lock: tokio::sync::Mutex<()>,
    pub tokens: Tokens,
    pub shutdown: CancellationToken,
    in_flight: Semaphore,
}

impl Api {
    pub fn new(store: Store, tokens: Tokens) -> Api {
        let api = Api {
            store,
            registry: RwLock::new(Arc::new(Registry::new(Vec::new()))),
            crd_lock: tokio::sync::Mutex::new(()),
            tokens,
            shutdown: CancellationToken::new(),
            in_flight: Semaphore::new(IN_FLIGHT),
        };
        api.reload();
        api
    }

    pub fn registry(&self) -> Arc<Registry> {
        self.registry.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Makes the registry anew from the stored definitions.
    pub fn reload(&self) {
        let crds: Vec<_> = self.store.read(|s| s.list(CRDS, "", None).cloned().collect());
        let next = Arc::new(crd::registry(&crds));
        *self.registry.write().unwrap_or_else(PoisonError::into_inner) = next;
    }

    /// Answers one request. `trusted` is the caller where the transport already knows it (in process).
    pub async fn handle(self: Arc<Self>, request: Request<Body>, trusted: Option<Caller>) -> Response<Body> {
        let span = tracing::debug_span!("api", method = %request.method(), path = request.uri().path());
        let work = async {
            let watch = is_watch(&request);
            let permit = self.in_flight.try_acquire();
            if permit.is_err() && !watch && trusted.is_none() {
                return ApiError::too_many_requests().into_response();
            }
            let permit = permit.ok().filter(|_| !watch);
            let answer = self.answer(request, trusted);
            let answer = match watch {
                true => answer.await,
                false => match tokio::time::timeout(REQUEST_TIMEOUT, answer).await {
                    Ok(answer) => answer,
                    Err(_) => Err(ApiError::timeout("request did not complete within the allotted timeout")),
                },
            };
            let response = answer.unwrap_or_else(ApiError::into_response);
            drop(permit);
            tracing::debug!(code = response.status().as_u16());
            response
        };
        work.instrument(span).await
    }

    async fn answer(self: &Arc<Self>, request: Request<Body>, trusted: Option<Caller>) -> ApiResult<Response<Body>> {
        let (parts, body) = request.into_parts();
        let path = parts.uri.path().to_owned();
        if let ("/livez" | "/healthz" | "/readyz", &Method::GET) = (path.as_str(), &parts.method) {
            return Ok(plain("ok"));
        }
        let caller = match trusted {
            Some(caller) => caller,
            None => self.tokens.authenticate(&parts.headers).ok_or_else(ApiError::unauthorized)?,
        };
        let segments = segments(&path);
        if let Some(target) = parse_path(&segments) {
            let registry = self.registry();
            if let Some(resource) = registry.find(&target.group, &target.version, &target.resource) {
                let options = Options::parse(parts.uri.query().unwrap_or(""))?;
                let form = negotiate::form(&parts.headers)?;
                let resource = resource.clone();
                let call = Call {
                    api: self.clone(),
                    registry,
                    resource,
                    target,
                    options,
                    form,
                    headers: parts.headers,
                    caller,
                };
                return call.run(&parts.method, body).await;
            }
            return Err(ApiError::no_such_path());
        }
        if parts.method != Method::GET && parts.method != Method::HEAD {
            return Err(ApiError::method_not_allowed());
        }
        self.static_path(&segments, &parts.headers, parts.uri.query().unwrap_or("")).ok_or_else(ApiError::no_such_path)
    }

    fn static_path(&self, segments: &[String], headers: &HeaderMap, query: &str) -> Option<Response<Body>> {
        let words: Vec<&str> = segments.iter().map(String::as_str).collect();
        match words.as_slice() {
            ["version"] => Some(json_response(StatusCode::OK, discovery::version().to_string())),
            ["livez" | "healthz" | "readyz", ..] => Some(plain("ok")),
            ["api" | "apis", ..] => discovery::answer(&self.registry(), &words, headers),
            ["openapi", "v3", rest @ ..] => openapi::answer(&self.registry(), rest, headers, query),
            [] => Some(json_response(StatusCode::OK, discovery::paths(&self.registry()).to_string())),
            _ => None,
        }
    }
}

fn is_watch(request: &Request<Body>) -> bool {
    request.uri().query().is_some_and(|q| Options::parse(q).is_ok_and(|o| o.watch))
}

fn plain(text: &'static str) -> Response<Body> {
    let mut r = Response::new(Body::from(text));
    r.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    r
}

/// One request on a resource.
pub(crate) struct Call {
    pub api: Arc<Api>,
    pub registry: Arc<Registry>,
    pub resource: Arc<Resource>,
    pub target: ResourcePath,
    pub options: Options,
    pub form: Form,
    pub headers: HeaderMap,
    pub caller: Caller,
}

/// What a method on a path means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    Get,
    List,
    Watch,
    Create,
    Update,
    Patch,
    Delete,
    DeleteCollection,
}

impl Verb {
    fn of(method: &Method, named: bool, watch: bool) -> Option<Verb> {
        Some(match (method.as_str(), named) {
            ("GET" | "HEAD", true) if !watch => Verb::Get,
            ("GET", _) if watch => Verb::Watch,
            ("GET" | "HEAD", false) => Verb::List,
            ("POST", false) => Verb::Create,
            ("PUT", true) => Verb::Update,
            ("PATCH", true) => Verb::Patch,
            ("DELETE", true) => Verb::Delete,
            ("DELETE", false) => Verb::DeleteCollection,
            _ => return None,
        })
    }

    pub fn name(self) -> &'static str {
        match self {
            Verb::Get => "get",
            Verb::List => "list",
            Verb::Watch => "watch",
            Verb::Create => "create",
            Verb::Update => "update",
            Verb::Patch => "patch",
            Verb::Delete => "delete",
            Verb::DeleteCollection => "deletecollection",
        }
    }
}

impl Call {
    async fn run(self, method: &Method, body: Body) -> ApiResult<Response<Body>> {
        let r = &self.resource;
        let verb = Verb::of(method, self.target.name.is_some(), self.options.watch)
            .ok_or_else(ApiError::method_not_allowed)?;
        self.authorize(verb)?;
        match self.target.subresource.as_deref() {
            None => {}
            Some("status") if r.status && matches!(verb, Verb::Get | Verb::Update | Verb::Patch) => {}
            Some("scale") if r.scale.is_some() && matches!(verb, Verb::Get | Verb::Update | Verb::Patch) => {}
            Some("finalize") if r.core == Some(Core::Namespace) && verb == Verb::Update => {}
            Some("status" | "scale" | "finalize") if r.status => return Err(ApiError::method_not_allowed()),
            Some(_) => return Err(ApiError::no_such_path()),
        }
        if !r.verbs.contains(&verb.name()) {
            return Err(ApiError::method_not_allowed());
        }
        if !r.namespaced && !self.target.namespace.is_empty() {
            return Err(ApiError::no_such_path());
        }
        let needs_namespace = !matches!(verb, Verb::List | Verb::Watch | Verb::DeleteCollection);
        if r.namespaced && needs_namespace && self.target.namespace.is_empty() {
            return Err(ApiError::method_not_allowed());
        }
        let body = match verb {
            Verb::Get | Verb::List | Verb::Watch => axum::body::Bytes::new(),
            _ => decode::read(body).await?,
        };
        let mut response = match verb {
            Verb::Create if r.is_review() => review::answer(&self, &body),
            Verb::Get => verbs::read::get(&self),
            Verb::List => verbs::read::list(&self),
            Verb::Watch => verbs::read::watch(&self),
            Verb::Create => verbs::write::create(&self, &body).await,
            Verb::Update => verbs::write::update(&self, &body).await,
            Verb::Patch => verbs::patch::patch(&self, &body).await,
            Verb::Delete => verbs::delete::delete(&self, &body).await,
            Verb::DeleteCollection => verbs::delete::collection(&self, &body).await,
        }?;
        if let Some(text) = &r.deprecation {
            warn(&mut response, text);
        }
        Ok(response)
    }

    fn authorize(&self, verb: Verb) -> ApiResult<()> {
        let (r, t) = (&self.resource, &self.target);
        if self.caller.may(verb.name(), &r.group, &r.plural) {
            return Ok(());
        }
        let scope = if t.namespace.is_empty() {
            "at the cluster scope".to_owned()
        } else {
            format!("in the namespace {:?}", t.namespace)
        };
        let why = format!(
            "User {:?} cannot {} resource {:?} in API group {:?} {scope}",
            self.caller.name,
            verb.name(),
            r.plural,
            r.group
        );
        Err(ApiError::forbidden(&r.group, &r.plural, t.name.as_deref().unwrap_or(""), &why))
    }

    pub fn name(&self) -> &str {
        self.target.name.as_deref().unwrap_or("")
    }

    pub fn not_found(&self) -> ApiError {
        ApiError::not_found(&self.resource.group, &self.resource.plural, self.name())
    }
}

/// Adds a `Warning: 299` header.
pub(crate) fn warn(response: &mut Response<Body>, text: &str) {
    let clean: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let quoted = clean.replace('\\', "\\\\").replace('"', "\\\"");
    if let Ok(v) = HeaderValue::from_bytes(format!("299 - \"{quoted}\"").as_bytes()) {
        response.headers_mut().append(header::WARNING, v);
    }
}
