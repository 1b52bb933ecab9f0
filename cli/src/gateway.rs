//! The gateway's HTTP side: blobs, results, explanations, join tokens. *In*: requests. *Out*: parsed answers.
//! *Invariant*: the token is read from a file of the user's own and never printed.

use anyhow::Context;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use reqwest::header::CONTENT_TYPE;
use reqwest::{Body, Method, RequestBuilder, Response, StatusCode};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::time::Duration;

/// Longest wait for an answer that is no stream.
const WITHIN: Duration = Duration::from_secs(60);

/// A gateway and the right to use it.
pub struct Gateway {
    url: String,
    token: String,
    http: reqwest::Client,
}

/// What is known of a gateway: `gateway.json`.
#[derive(Serialize, Deserialize)]
pub struct File {
    /// `http://` on loopback, else `https://`.
    pub url: String,
    /// The bearer token.
    pub token: String,
    /// CA of the gateway's certificate, PEM; of a cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
}

#[derive(Deserialize)]
struct Problem {
    error: String,
}

/// A stored blob.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blob {
    /// What manifests name it by.
    pub uri: String,
    /// `sha256:…`.
    pub digest: String,
    /// Bytes.
    pub size: u64,
}

/// One task's result, as a line of JSON.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TaskResult {
    /// Position of the input in the batch.
    pub index: u64,
    /// MIME type.
    #[serde(default)]
    pub content_type: String,
    /// The output, where it is JSON.
    pub output: Option<serde_json::Value>,
    /// The output's bytes, where it is not.
    pub output_base64: Option<String>,
    /// Why there is none of both.
    pub error: Option<String>,
}

/// Which results of a job.
#[derive(Debug, Clone, Default)]
pub struct Range {
    /// From this task on.
    pub from: u64,
    /// So many tasks.
    pub count: Option<u64>,
    /// Bytes of the first line that are there already.
    pub skip: u64,
    /// Of larger outputs their sizes alone.
    pub largest: Option<u64>,
}

/// A result's own bytes, as they come.
pub struct Output {
    /// MIME type.
    pub content_type: String,
    /// How many.
    pub size: Option<u64>,
    /// In order.
    pub bytes: BoxStream<'static, anyhow::Result<Vec<u8>>>,
}

/// What a join token is asked for with.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TokenRequest {
    /// Account that earns.
    pub owner: String,
    /// Trust tier of the node.
    pub tier: String,
    /// Seconds it may be used in.
    pub ttl_seconds: u64,
}

/// Points for a queue.
#[derive(Debug, Serialize)]
pub struct GrantRequest {
    /// One of the same id is made once.
    pub id: String,
    /// Name of the TenantQueue.
    pub queue: String,
    /// A decimal.
    pub amount: String,
    /// What for.
    pub note: String,
}

/// What came of it.
#[derive(Debug, Deserialize)]
pub struct Granted {
    /// As it was asked for.
    pub id: String,
    /// As it was asked for.
    pub queue: String,
    /// What the queue has now.
    pub balance: String,
    /// One of this id had been made before.
    pub repeated: bool,
}

/// A join token; printed once, where a person asked for it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IssuedToken {
    /// The text to paste.
    pub token: String,
    /// Its public half.
    pub id: String,
    /// Where agents dial, as the scheduler listens.
    pub server: String,
    /// Seconds it may be used in.
    pub expires_in_seconds: u64,
}

impl Output {
    /// JSON that is here already.
    pub fn json(text: &str) -> Self {
        let bytes = futures::stream::iter([Ok(text.as_bytes().to_vec())]).boxed();
        Self { content_type: "application/json".into(), size: Some(text.len() as u64), bytes }
    }
}

impl Gateway {
    /// The gateway that a running `nightshift up` wrote down.
    pub fn from_file(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let file = serde_json::from_str(&text).with_context(|| {
            format!("{} is damaged: `nightshift up`, or `nightshift connect`, writes it anew", path.display())
        })?;
        Self::new(file).with_context(|| path.display().to_string())
    }

    /// A gateway that is described.
    pub fn new(File { url, token, ca }: File) -> anyhow::Result<Self> {
        let mut http = reqwest::Client::builder().no_proxy().connect_timeout(Duration::from_secs(5));
        if let Some(ca) = ca {
            let ca = reqwest::Certificate::from_pem(ca.as_bytes()).context("its CA is no certificate")?;
            http = http.tls_certs_only([ca]);
        }
        Ok(Self { url: url.trim_end_matches('/').into(), token, http: http.build()? })
    }

    /// Asks whether it is there and knows the token: an error says what to do.
    pub async fn check(&self) -> anyhow::Result<()> {
        let request = self.request(Method::GET, "/v1/prometheus/targets").timeout(WITHIN);
        self.send(request).await.map(drop)
    }

    /// Its address.
    pub fn url(&self) -> &str {
        &self.url
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.url)).bearer_auth(&self.token)
    }

    async fn send(&self, request: RequestBuilder) -> anyhow::Result<Response> {
        let answer = self.send_for(request).await?;
        answer.map_err(|(_, message)| anyhow::anyhow!(message))
    }

    /// A refusal is told with its status.
    async fn send_for(&self, request: RequestBuilder) -> anyhow::Result<Result<Response, (StatusCode, String)>> {
        let response = request.send().await.map_err(|error| {
            let error = anyhow::Error::new(error.without_url());
            let cause = error.root_cause();
            anyhow::anyhow!(
                "cannot reach the gateway at {} ({cause}): is the pool up? `nightshift up` starts one; of a cluster, \
                 `kubectl port-forward` must run",
                self.url
            )
        })?;
        let status = response.status();
        if status.is_success() {
            return Ok(Ok(response));
        }
        if status == StatusCode::UNAUTHORIZED {
            anyhow::bail!(
                "the gateway at {} does not know our token: is it another data dir's? name it with --data-dir",
                self.url
            );
        }
        let text = response.text().await.unwrap_or_default();
        let said = serde_json::from_str::<Problem>(&text).map(|problem| problem.error);
        Ok(Err((status, said.unwrap_or_else(|_| format!("the gateway answered {status}")))))
    }

    async fn json<T: DeserializeOwned>(response: Response) -> anyhow::Result<T> {
        let answer = response.json().await.map_err(reqwest::Error::without_url);
        answer.context(
            "the gateway's answer cannot be read: are CLI and pool of the same version? `nightshift status` tells",
        )
    }

    /// Stores bytes for a namespace; with `public` for all of them.
    pub async fn push(&self, namespace: &str, public: bool, body: Body) -> anyhow::Result<Blob> {
        let query = if public { "?public=true" } else { "" };
        let request = self.request(Method::POST, &format!("/v1/namespaces/{namespace}/blobs{query}")).body(body);
        Self::json(self.send(request).await?).await
    }

    /// A job's results so far, as lines of JSON, in chunks as they come.
    pub async fn results(
        &self,
        namespace: &str,
        job: &str,
        range: &Range,
    ) -> anyhow::Result<BoxStream<'static, anyhow::Result<Vec<u8>>>> {
        let mut path = format!("/v1/namespaces/{namespace}/jobs/{job}/results?from={}&skip={}", range.from, range.skip);
        for (name, value) in [("count", range.count), ("largest", range.largest)] {
            path.extend(value.map(|value| format!("&{name}={value}")));
        }
        Ok(chunks(self.send(self.request(Method::GET, &path)).await?))
    }

    /// One task's output; `None` if there is none yet, or no such job.
    pub async fn output(&self, namespace: &str, job: &str, index: u64) -> anyhow::Result<Option<Output>> {
        let path = format!("/v1/namespaces/{namespace}/jobs/{job}/results/{index}");
        match self.send_for(self.request(Method::GET, &path)).await? {
            Ok(response) => {
                let type_ = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
                let (content_type, size) = (type_.unwrap_or_default().to_string(), response.content_length());
                Ok(Some(Output { content_type, size, bytes: chunks(response) }))
            }
            Err((StatusCode::NOT_FOUND, _)) => Ok(None),
            Err((_, message)) => Err(anyhow::anyhow!(message)),
        }
    }

    /// Why a job is where it is; `None` if the scheduler does not know it.
    pub async fn explain(&self, namespace: &str, job: &str) -> anyhow::Result<Option<serde_json::Value>> {
        let request = self.request(Method::GET, &format!("/v1/namespaces/{namespace}/jobs/{job}/explain"));
        match self.send_for(request.timeout(WITHIN)).await? {
            Ok(response) => Self::json(response).await.map(Some),
            Err((StatusCode::NOT_FOUND, _)) => Ok(None),
            Err((_, message)) => Err(anyhow::anyhow!(message)),
        }
    }

    /// A new join token.
    pub async fn token(&self, request: &TokenRequest) -> anyhow::Result<IssuedToken> {
        let request = self.request(Method::POST, "/v1/tokens").json(request).timeout(WITHIN);
        Self::json(self.send(request).await?).await
    }

    /// Brings points in.
    pub async fn grant(&self, request: &GrantRequest) -> anyhow::Result<Granted> {
        let request = self.request(Method::POST, "/v1/points/grants").json(request).timeout(WITHIN);
        Self::json(self.send(request).await?).await
    }

    /// A page of the ledger.
    pub async fn points<T: DeserializeOwned>(&self, page: &str) -> anyhow::Result<T> {
        let request = self.request(Method::GET, &format!("/v1/points/{page}")).timeout(WITHIN);
        Self::json(self.send(request).await?).await
    }

    /// A node's own metrics, in Prometheus' text format.
    pub async fn node_metrics(&self, node: &str) -> anyhow::Result<String> {
        let request = self.request(Method::GET, &format!("/v1/nodes/{node}/metrics")).timeout(Duration::from_secs(6));
        Ok(self.send(request).await?.text().await?)
    }
}

fn chunks(response: Response) -> BoxStream<'static, anyhow::Result<Vec<u8>>> {
    let stream = response.bytes_stream().map_ok(|bytes| bytes.to_vec());
    stream.map_err(|error| anyhow::Error::new(error.without_url()).context("the results ended early")).boxed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_gateway_answers() {
        let line = r#"{"index":3,"contentType":"application/json","output":[1,2]}"#;
        let result: TaskResult = serde_json::from_str(line).unwrap();
        assert_eq!((result.index, result.output), (3, Some(serde_json::json!([1, 2]))));
        let binary: TaskResult =
            serde_json::from_str(r#"{"index":0,"contentType":"x/y","outputBase64":"AA=="}"#).unwrap();
        assert_eq!(binary.output_base64.as_deref(), Some("AA=="));
        let token = r#"{"token":"t","id":"i","server":"127.0.0.1:1","expiresInSeconds":5}"#;
        assert_eq!(serde_json::from_str::<IssuedToken>(token).unwrap().expires_in_seconds, 5);
    }

    #[test]
    fn a_damaged_file_names_the_remedy() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gateway.json");
        std::fs::write(&path, "{").unwrap();
        let error = Gateway::from_file(&path).err().unwrap();
        assert!(error.to_string().contains("writes it anew"), "{error}");
    }
}
