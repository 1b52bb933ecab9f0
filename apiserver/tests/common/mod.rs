//! A served API server with its own directory and port, and kubectl against it.
#![allow(dead_code)] // each test binary uses its part

use nightshift_apiserver::{ApiServer, Config};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio_util::sync::CancellationToken;

/// A running server; stops when dropped or by [`Server::stop`].
pub struct Server {
    pub dir: tempfile::TempDir,
    pub client: kube::Client,
    pub url: String,
    kubeconfig: PathBuf,
    shutdown: tokio_util::sync::DropGuard,
    task: tokio::task::JoinHandle<anyhow::Result<()>>,
}

pub fn config(dir: &Path) -> Config {
    Config {
        data_dir: dir.join("api"),
        listen: "127.0.0.1:0".parse().unwrap(),
        crds: vec![widget_crd()],
        server_names: vec!["api.local".into()],
    }
}

impl Server {
    pub async fn start() -> Server {
        Server::start_in(tempfile::tempdir().unwrap()).await
    }

    pub async fn start_in(dir: tempfile::TempDir) -> Server {
        let config = config(dir.path());
        Server::open(dir, config).await
    }

    /// With other definitions than the small one.
    pub async fn start_with(crds: Vec<Value>) -> Server {
        let dir = tempfile::tempdir().unwrap();
        let config = Config { crds, ..config(dir.path()) };
        Server::open(dir, config).await
    }

    async fn open(dir: tempfile::TempDir, config: Config) -> Server {
        let server = ApiServer::open(config).await.unwrap();
        let shutdown = CancellationToken::new();
        Server {
            client: server.client(),
            url: format!("https://{}", server.local_addr()),
            kubeconfig: server.kubeconfig().to_owned(),
            task: tokio::spawn(server.serve(shutdown.clone())),
            shutdown: shutdown.drop_guard(),
            dir,
        }
    }

    /// Stops it and gives back its directory.
    pub async fn stop(self) -> tempfile::TempDir {
        self.shutdown.disarm().cancel();
        tokio::time::timeout(Duration::from_secs(10), self.task).await.expect("it stops").unwrap().unwrap();
        self.dir
    }

    pub fn token(&self, name: &str) -> String {
        std::fs::read_to_string(self.dir.path().join("api").join(name)).unwrap()
    }

    fn command(&self, args: &[&str]) -> tokio::process::Command {
        let mut c = tokio::process::Command::new(kubectl());
        c.args(args)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.dir.path())
            .env("KUBECONFIG", &self.kubeconfig)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        c
    }

    /// Runs kubectl with text on its standard input: (succeeded, stdout, stderr).
    pub async fn try_kubectl_in(&self, args: &[&str], input: &str, env: &[(&str, &str)]) -> (bool, String, String) {
        let mut child = self.command(args).envs(env.iter().copied()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).await.unwrap();
        let out = tokio::time::timeout(Duration::from_secs(60), child.wait_with_output()).await;
        let out = out.unwrap_or_else(|_| panic!("kubectl {args:?} does not end")).unwrap();
        let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
        (out.status.success(), text(&out.stdout), text(&out.stderr))
    }

    /// Runs kubectl, which must succeed without a word on stderr that is not a warning; gives its stdout.
    pub async fn kubectl_in(&self, args: &[&str], input: &str) -> String {
        let (ok, out, err) = self.try_kubectl_in(args, input, &[]).await;
        assert!(ok, "kubectl {args:?}\n{out}{err}");
        out
    }

    pub async fn kubectl(&self, args: &str) -> String {
        self.kubectl_in(&args.split_whitespace().collect::<Vec<_>>(), "").await
    }

    /// Runs kubectl, which must fail; gives its stderr.
    pub async fn kubectl_fails(&self, args: &str, input: &str) -> String {
        let args: Vec<&str> = args.split_whitespace().collect();
        let (ok, out, err) = self.try_kubectl_in(&args, input, &[]).await;
        assert!(!ok, "kubectl {args:?} succeeded: {out}{err}");
        err
    }

    /// Starts kubectl and leaves it running.
    pub fn spawn_kubectl(&self, args: &str) -> tokio::process::Child {
        self.command(&args.split_whitespace().collect::<Vec<_>>()).spawn().unwrap()
    }

    /// One raw request in process: (code, body).
    pub async fn send(&self, method: &str, path: &str, content_type: &str, body: impl Into<Vec<u8>>) -> (u16, Value) {
        let request = http::Request::builder().method(method).uri(path).header("content-type", content_type);
        let response = self.client.send(request.body(kube::client::Body::from(body.into())).unwrap()).await.unwrap();
        let code = response.status().as_u16();
        let bytes = http_body_util::BodyExt::collect(response.into_body()).await.unwrap().to_bytes();
        (code, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }

    pub async fn json(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        let kind = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.send(method, path, kind, body).await
    }
}

/// kubectl from `$KUBECTL`, the PATH or `.deps/bin`.
fn kubectl() -> PathBuf {
    if let Some(path) = std::env::var_os("KUBECTL") {
        return path.into();
    }
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.deps/bin");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).chain([own]).map(|d| d.join("kubectl")).find(|p| p.is_file());
    found.expect("no kubectl on the PATH or under .deps/bin: run `make deps`")
}

/// Waits until `f` gives something.
pub async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut f: impl FnMut() -> F) -> T {
    for _ in 0..1000 {
        if let Some(found) = f().await {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("never happened: {what}")
}

/// A small definition with all that Nightshift's own ones use.
pub fn widget_crd() -> Value {
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
    "metadata": {"name": "widgets.test.nightshift.dev"},
    "spec": {"group": "test.nightshift.dev", "scope": "Namespaced",
        "names": {"plural": "widgets", "singular": "widget", "kind": "Widget", "shortNames": ["wd"], "categories": ["all"]},
        "versions": [{"name": "v1alpha1", "served": true, "storage": true,
            "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas"}},
            "additionalPrinterColumns": [
                {"name": "Color", "type": "string", "jsonPath": ".spec.color"},
                {"name": "Ready", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Ready\")].status"},
                {"name": "Size", "type": "integer", "jsonPath": ".spec.size", "priority": 1},
                {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}],
            "schema": {"openAPIV3Schema": {"type": "object", "description": "Widget is a thing to test with.",
                "required": ["spec"],
                "properties": {
                    "spec": {"type": "object", "description": "What is wanted.", "required": ["color"],
                        "x-kubernetes-validations": [{"rule": "self.size < 100", "message": "a widget is smaller than 100"}],
                        "properties": {
                            "color": {"type": "string", "description": "The color.", "enum": ["red", "blue"]},
                            "size": {"type": "integer", "format": "int32", "minimum": 0, "default": 3},
                            "replicas": {"type": "integer", "default": 1},
                            "tags": {"type": "array", "items": {"type": "string"}}}},
                    "status": {"type": "object", "properties": {
                        "replicas": {"type": "integer"},
                        "conditions": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"],
                            "items": {"type": "object", "required": ["type", "status"],
                                "properties": {"type": {"type": "string"}, "status": {"type": "string"}, "reason": {"type": "string"}}}}}}}}}}]}})
}

pub const WIDGETS: &str = "/apis/test.nightshift.dev/v1alpha1/namespaces/default/widgets";

pub fn widget(name: &str) -> Value {
    json!({"apiVersion": "test.nightshift.dev/v1alpha1", "kind": "Widget", "metadata": {"name": name},
        "spec": {"color": "red"}})
}

pub fn config_map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"k": "v"}})
}
