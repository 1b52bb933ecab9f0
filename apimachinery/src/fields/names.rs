//! Names and labels.
//!
//! In: one text. Out: what is wrong with it, as details of field errors. Invariant: an empty list
//! means that the text is valid.

const LABEL: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const SUBDOMAIN: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";
const KEY: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";

/// Whether `name` is a lowercase RFC 1123 subdomain of at most 253 bytes.
pub fn is_dns_subdomain(name: &str) -> bool {
    name.len() <= 253 && subdomain_shape(name)
}

/// Whether `name` is a lowercase RFC 1123 label of at most 63 bytes.
pub fn is_dns_label(name: &str) -> bool {
    name.len() <= 63 && label_shape(name)
}

/// What is wrong with `name` as a lowercase RFC 1123 subdomain.
pub fn validate_dns_subdomain(name: &str) -> Vec<String> {
    subdomain(name, "characters")
}

/// The real server speaks of characters in names and of bytes in keys, and means bytes.
fn subdomain(name: &str, unit: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if name.len() > 253 {
        errors.push(format!("must be no more than 253 {unit}"));
    }
    if !subdomain_shape(name) {
        errors.push(format!(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must \
             start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
             '{SUBDOMAIN}')"
        ));
    }
    errors
}

/// What is wrong with `name` as a lowercase RFC 1123 label.
pub fn validate_dns_label(name: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if name.len() > 63 {
        errors.push("must be no more than 63 characters".to_owned());
    }
    if label_shape(name) {
        return errors;
    }
    errors.push(if subdomain_shape(name) {
        "must not contain dots".to_owned()
    } else {
        format!(
            "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and \
             end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '{LABEL}')"
        )
    });
    errors
}

/// What is wrong with `key` as the key of a label, `[prefix/]name`; also the form of finalizers
/// and, in lower case, of annotations.
pub fn validate_label_key(key: &str) -> Vec<String> {
    let rule = format!(
        "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric \
         character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '{KEY}')"
    );
    let mut errors = Vec::new();
    let parts: Vec<&str> = key.split('/').collect();
    let name = match parts.as_slice() {
        [name] => *name,
        [prefix, name] => {
            if prefix.is_empty() {
                errors.push("prefix part must be non-empty".to_owned());
            } else {
                errors.extend(subdomain(prefix, "bytes").into_iter().map(|e| format!("prefix part {e}")));
            }
            *name
        }
        _ => {
            let tail = " with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')";
            return vec![format!("a valid label key {rule}{tail}")];
        }
    };
    if name.is_empty() {
        errors.push("name part must be non-empty".to_owned());
    } else if name.len() > 63 {
        errors.push("name part must be no more than 63 bytes".to_owned());
    }
    if !key_shape(name) {
        errors.push(format!("name part {rule}"));
    }
    errors
}

/// What is wrong with `value` as the value of a label.
pub fn validate_label_value(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > 63 {
        errors.push("must be no more than 63 bytes".to_owned());
    }
    if !value.is_empty() && !key_shape(value) {
        errors.push(format!(
            "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must \
             start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for \
             validation is '({KEY})?')"
        ));
    }
    errors
}

fn subdomain_shape(name: &str) -> bool {
    name.split('.').all(label_shape)
}

fn label_shape(label: &str) -> bool {
    let alphanumeric = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    shape(label, alphanumeric, |b| *b == b'-')
}

fn key_shape(name: &str) -> bool {
    shape(name, u8::is_ascii_alphanumeric, |b| matches!(b, b'-' | b'_' | b'.'))
}

/// Begins and ends with one class, with another allowed in between.
fn shape(text: &str, outer: impl Fn(&u8) -> bool, inner: impl Fn(&u8) -> bool) -> bool {
    let bytes = text.as_bytes();
    bytes.first().is_some_and(&outer) && bytes.last().is_some_and(&outer) && bytes.iter().all(|b| outer(b) || inner(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for (name, subdomain, label) in [
            ("abc", true, true),
            ("a-b.c", true, false),
            ("Foo_", false, false),
            ("-a", false, false),
            ("a..b", false, false),
            ("", false, false),
            (&"a".repeat(64), true, false),
            (&"a".repeat(254), false, false),
        ] {
            assert_eq!(is_dns_subdomain(name), subdomain, "{name}");
            assert_eq!(validate_dns_subdomain(name).is_empty(), subdomain, "{name}");
            assert_eq!(is_dns_label(name), label, "{name}");
            assert_eq!(validate_dns_label(name).is_empty(), label, "{name}");
        }
    }

    #[test]
    fn labels() {
        for (key, valid) in
            [("a", true), ("a.b/c_d", true), ("/a", false), ("a/", false), ("a/b/c", false), ("A b", false)]
        {
            assert_eq!(validate_label_key(key).is_empty(), valid, "{key}");
        }
        assert!(validate_label_value("").is_empty());
        assert!(!validate_label_value("a/b").is_empty());
    }
}
