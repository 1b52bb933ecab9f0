//! What every object has: names, labels, annotations, owners, finalizers.
//!
//! In: texts and `metadata`. Out: field errors, and the message of strict decoding, word for word
//! those of the real server. Invariant: lengths are in bytes.

mod names;
mod object_meta;

pub use names::{
    is_dns_label, is_dns_subdomain, validate_dns_label, validate_dns_subdomain, validate_label_key,
    validate_label_value,
};
pub use object_meta::{validate_object_meta, validate_object_meta_update};

use crate::gotext::quote;

/// The message of a strict decoding error:
/// `strict decoding error: duplicate field "spec.a", unknown field "spec.b"`.
pub fn strict_message(duplicates: &[String], unknown: &[String]) -> String {
    let duplicates = duplicates.iter().map(|path| format!("duplicate field {}", quote(path)));
    let unknown = unknown.iter().map(|path| format!("unknown field {}", quote(path)));
    let all: Vec<String> = duplicates.chain(unknown).collect();
    format!("strict decoding error: {}", all.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strict() {
        let text = strict_message(&["spec.a".into()], &["spec.b".into(), "spec.c".into()]);
        let expected =
            r#"strict decoding error: duplicate field "spec.a", unknown field "spec.b", unknown field "spec.c""#;
        assert_eq!(text, expected);
    }
}
