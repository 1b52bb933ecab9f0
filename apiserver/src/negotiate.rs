//! In: the `Accept` header → out: the form of the answer → invariant: JSON where the client takes anything; 406 where nothing
//! it takes is served. Protobuf answers are not served; clients that ask for them also take JSON.

use crate::status::{ApiError, ApiResult};
use http::{HeaderMap, header};

/// The form of an answer with objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Json,
    Table,
    /// `PartialObjectMetadata`, single or list.
    Partial,
}

/// One accepted media type: name, parameters.
struct Media<'a> {
    name: &'a str,
    params: Vec<(&'a str, &'a str)>,
}

impl Media<'_> {
    fn param(&self, key: &str) -> &str {
        self.params.iter().find(|(k, _)| *k == key).map_or("", |(_, v)| v)
    }
}

fn accepted(text: &str) -> Vec<Media<'_>> {
    let mut all: Vec<(i64, Media)> = text
        .split(',')
        .filter_map(|part| {
            let mut pieces = part.split(';').map(str::trim);
            let name = pieces.next().filter(|n| !n.is_empty())?;
            let params: Vec<_> = pieces.filter_map(|p| p.split_once('=')).collect();
            let q = params.iter().find(|(k, _)| *k == "q").and_then(|(_, v)| v.parse::<f64>().ok()).unwrap_or(1.0);
            Some(((q * -1000.0) as i64, Media { name, params }))
        })
        .collect();
    all.sort_by_key(|(q, _)| *q);
    all.into_iter().map(|(_, m)| m).collect()
}

fn header_text(headers: &HeaderMap) -> String {
    let all: Vec<&str> = headers.get_all(header::ACCEPT).iter().filter_map(|v| v.to_str().ok()).collect();
    all.join(",")
}

fn is_json(name: &str) -> bool {
    matches!(name, "application/json" | "*/*" | "application/*")
}

/// The form for objects and lists.
pub(crate) fn form(headers: &HeaderMap) -> ApiResult<Form> {
    let text = header_text(headers);
    if text.trim().is_empty() {
        return Ok(Form::Json);
    }
    for media in accepted(&text).into_iter().filter(|m| is_json(m.name)) {
        match (media.param("as"), media.param("g"), media.param("v")) {
            ("", ..) => return Ok(Form::Json),
            ("Table", "meta.k8s.io", "v1") => return Ok(Form::Table),
            ("PartialObjectMetadata" | "PartialObjectMetadataList", "meta.k8s.io", "v1") => return Ok(Form::Partial),
            _ => {}
        }
    }
    Err(ApiError::not_acceptable("application/json"))
}

/// Whether `/api` and `/apis` should answer aggregated, and in which version.
pub(crate) fn aggregated(headers: &HeaderMap) -> Option<&'static str> {
    let text = header_text(headers);
    for media in accepted(&text) {
        if !is_json(media.name) {
            continue;
        }
        match (media.param("as"), media.param("g"), media.param("v")) {
            ("APIGroupDiscoveryList", "apidiscovery.k8s.io", "v2") => return Some("v2"),
            ("APIGroupDiscoveryList", "apidiscovery.k8s.io", "v2beta1") => return Some("v2beta1"),
            ("", ..) => return None,
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(accept: &str) -> HeaderMap {
        let mut h = HeaderMap::new();
        h.insert(header::ACCEPT, accept.parse().unwrap());
        h
    }

    #[test]
    fn forms_by_accept() {
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        assert_eq!(form(&headers(table)).unwrap(), Form::Table);
        assert_eq!(form(&HeaderMap::new()).unwrap(), Form::Json);
        assert_eq!(form(&headers("application/vnd.kubernetes.protobuf,application/json")).unwrap(), Form::Json);
        assert_eq!(form(&headers("application/vnd.kubernetes.protobuf")).unwrap_err().code, 406);
        assert_eq!(form(&headers("text/html, */*;q=0.1")).unwrap(), Form::Json);
        let both = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
        assert_eq!(aggregated(&headers(both)), Some("v2"));
        assert_eq!(aggregated(&headers("application/json")), None);
    }
}
