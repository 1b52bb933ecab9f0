//! In: a call on a resource → out: its answer → invariant: one file a kind of verb; each is negotiate, decode, admit, store,
//! encode in that order, and a dry run does all but store.

pub(crate) mod delete;
pub(crate) mod patch;
pub(crate) mod read;
pub(crate) mod write;

use crate::api::{Call, warn};
use crate::encode;
use crate::kinds::Core;
use crate::object::{draft, index_meta, meta_str};
use crate::status::{ApiError, ApiResult, json_response};
use crate::store::{Expect, Key, Stored, Write, WriteError};
use axum::body::Body;
use http::{Response, StatusCode};
use serde_json::Value;
use std::sync::Arc;

/// How often a write that lost a race is tried again with the newer object.
const RETRIES: usize = 16;

impl Call {
    fn key(&self) -> Key {
        let ns = if self.resource.namespaced { self.target.namespace.as_str() } else { "" };
        Key::new(ns, self.name())
    }

    fn stored(&self) -> ApiResult<Arc<Stored>> {
        self.api.store.get(&self.resource.store_key, &self.key()).ok_or_else(|| self.not_found())
    }

    /// The stored form of a stored object, through the current schema.
    fn current(&self, stored: &Stored) -> ApiResult<Value> {
        encode::stored_value(&self.resource, stored).map_err(ApiError::internal)
    }

    /// Stores `v` over what `expect` says is there; definitions also renew the registry.
    async fn put(&self, v: &Value, expect: Expect, delete: bool) -> Result<Arc<Stored>, WriteError> {
        let creating = expect == Expect::Absent;
        let write = Write {
            resource: self.resource.store_key.clone(),
            key: Key::new(meta_str(v, "namespace"), meta_str(v, "name")),
            expect,
            delete,
            draft: draft(v),
            meta: index_meta(v),
            tag: self.resource.schema_tag,
            inside: (creating && self.resource.namespaced).then(|| meta_str(v, "namespace").to_owned()),
        };
        let stored = self.api.store.write(write).await?;
        if self.resource.core == Some(Core::Crd) {
            self.api.reload();
        }
        Ok(stored)
    }

    /// The `Status` of a refused write.
    fn refused(&self, error: WriteError, name: &str) -> ApiError {
        let r = &self.resource;
        let ns = &self.target.namespace;
        match error {
            WriteError::Exists => ApiError::already_exists(&r.group, &r.plural, name),
            WriteError::Conflict => ApiError::modified(&r.group, &r.plural, name),
            WriteError::NamespaceMissing => ApiError::not_found("", "namespaces", ns),
            WriteError::NamespaceTerminating => ApiError::namespace_terminating(&r.group, &r.plural, name, ns),
            WriteError::Failed(e) => ApiError::internal(e),
            WriteError::Stopped => ApiError::unavailable("the server is shutting down"),
        }
    }

    /// Answers with one object that is stored.
    fn answer(&self, code: StatusCode, stored: &Stored, warnings: &[String]) -> ApiResult<Response<Body>> {
        let body =
            encode::one(&self.resource, stored, self.form, &self.options.include_object).map_err(ApiError::internal)?;
        Ok(with_warnings(json_response(code, body), warnings))
    }

    /// Answers with an object that is not stored (a dry run), in stored form.
    fn answer_value(&self, code: StatusCode, v: Value, warnings: &[String]) -> ApiResult<Response<Body>> {
        let body = encode::one_value(&self.resource, v, self.form, &self.options.include_object);
        Ok(with_warnings(json_response(code, body), warnings))
    }
}

fn with_warnings(mut response: Response<Body>, warnings: &[String]) -> Response<Body> {
    warnings.iter().for_each(|w| warn(&mut response, w));
    response
}
