//! In: a request body and its content type → out: JSON with the paths of duplicate fields → invariant: at most
//! [`MAX_BODY`] bytes are read; a body without a content type is looked at, not refused.

use crate::protobuf;
use crate::status::{ApiError, ApiResult};
use axum::body::{Body, Bytes};
use http::{HeaderMap, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use nightshift_apimachinery::{Decoded, decode_json, decode_yaml};

/// The largest request body, as the real server's.
pub(crate) const MAX_BODY: usize = 3 << 20;

/// Reads the whole body.
pub(crate) async fn read(body: Body) -> ApiResult<Bytes> {
    match Limited::new(body, MAX_BODY).collect().await {
        Ok(all) => Ok(all.to_bytes()),
        Err(e) if e.is::<LengthLimitError>() => Err(ApiError::too_large(MAX_BODY)),
        Err(e) => Err(ApiError::bad_request(format!("the body cannot be read: {e}"))),
    }
}

/// The content type without its parameters.
pub(crate) fn content_type(headers: &HeaderMap) -> &str {
    let text = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("");
    text.split(';').next().unwrap_or("").trim()
}

const ACCEPTED: &str = "application/json, application/yaml, application/vnd.kubernetes.protobuf";

/// Decodes an object. `core` says whether protobuf may stand for it.
pub(crate) fn object(headers: &HeaderMap, body: &[u8], core: bool) -> ApiResult<Decoded> {
    let first = body.iter().find(|b| !b.is_ascii_whitespace());
    let decoded = match content_type(headers) {
        "application/vnd.kubernetes.protobuf" | "" if core && protobuf::is_protobuf(body) => {
            let value = protobuf::decode(body).map_err(ApiError::bad_request)?;
            return Ok(Decoded { value, duplicate_fields: Vec::new() });
        }
        "application/json" => decode_json(body),
        "application/yaml" => decode_yaml(body),
        "" | "*/*" if first == Some(&b'{') => decode_json(body),
        "" | "*/*" => decode_yaml(body),
        _ if core => return Err(ApiError::unsupported_media_type(ACCEPTED)),
        _ => return Err(ApiError::unsupported_media_type("application/json, application/yaml")),
    };
    let decoded = decoded.map_err(|e| ApiError::bad_request(e.message))?;
    if !decoded.value.is_object() {
        let why = "couldn't get version/kind; json parse error: json: cannot unmarshal into Go value of type struct";
        return Err(ApiError::bad_request(why));
    }
    Ok(decoded)
}
