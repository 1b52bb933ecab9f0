//! In: selector strings → out: predicates on labels and fields → invariant: pure; what the real server refuses to parse is a
//! 400 here, and a field no kind supports is `field label not supported`.

use crate::status::{ApiError, ApiResult};

/// One requirement of a label selector.
#[derive(Debug, Clone, PartialEq)]
enum Requirement {
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Exists(String),
    Missing(String),
    Greater(String, i64),
    Less(String, i64),
}

/// A label selector: all requirements must hold.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct LabelSelector(Vec<Requirement>);

impl LabelSelector {
    pub fn parse(text: &str) -> ApiResult<LabelSelector> {
        let mut all = Vec::new();
        for part in split_top(text) {
            let part = part.trim();
            if part.is_empty() {
                continue;
            }
            all.push(requirement(part).ok_or_else(|| unparsable(text, part))?);
        }
        Ok(LabelSelector(all))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn matches(&self, labels: &[(String, String)]) -> bool {
        let get = |k: &str| labels.iter().find(|(n, _)| n == k).map(|(_, v)| v.as_str());
        self.0.iter().all(|r| match r {
            Requirement::In(k, vs) => get(k).is_some_and(|v| vs.iter().any(|x| x == v)),
            Requirement::NotIn(k, vs) => get(k).is_none_or(|v| !vs.iter().any(|x| x == v)),
            Requirement::Exists(k) => get(k).is_some(),
            Requirement::Missing(k) => get(k).is_none(),
            Requirement::Greater(k, n) => get(k).and_then(|v| v.parse::<i64>().ok()).is_some_and(|v| v > *n),
            Requirement::Less(k, n) => get(k).and_then(|v| v.parse::<i64>().ok()).is_some_and(|v| v < *n),
        })
    }
}

fn unparsable(text: &str, part: &str) -> ApiError {
    ApiError::bad_request(format!("unable to parse requirement: {part:?} in selector {text:?}"))
}

/// Splits at commas that are not inside parentheses.
fn split_top(text: &str) -> Vec<&str> {
    let mut depth = 0usize;
    let mut start = 0;
    let mut out = Vec::new();
    for (i, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                out.push(&text[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    out.push(&text[start..]);
    out
}

fn requirement(part: &str) -> Option<Requirement> {
    if let Some(key) = part.strip_prefix('!') {
        return label_key(key).map(Requirement::Missing);
    }
    if let Some(open) = part.find('(') {
        let set = part[open + 1..].trim_end().strip_suffix(')')?;
        let mut head = part[..open].split_whitespace();
        let (key, op) = (label_key(head.next()?)?, head.next()?);
        let values: Vec<String> = set.split(',').map(label_value).collect::<Option<_>>()?;
        return match (op, head.next()) {
            ("in", None) => Some(Requirement::In(key, values)),
            ("notin", None) => Some(Requirement::NotIn(key, values)),
            _ => None,
        };
    }
    if let Some((k, v)) = part.split_once("!=") {
        return Some(Requirement::NotIn(label_key(k)?, vec![label_value(v)?]));
    }
    if let Some((k, v)) = part.split_once("==").or_else(|| part.split_once('=')) {
        return Some(Requirement::In(label_key(k)?, vec![label_value(v)?]));
    }
    if let Some((k, v)) = part.split_once('>') {
        return Some(Requirement::Greater(label_key(k)?, v.trim().parse().ok()?));
    }
    if let Some((k, v)) = part.split_once('<') {
        return Some(Requirement::Less(label_key(k)?, v.trim().parse().ok()?));
    }
    label_key(part).map(Requirement::Exists)
}

fn label_key(text: &str) -> Option<String> {
    let text = text.trim();
    let ok = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
    (!text.is_empty() && text.len() <= 317 && text.chars().all(ok)).then(|| text.to_owned())
}

fn label_value(text: &str) -> Option<String> {
    let text = text.trim();
    let ok = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    (text.len() <= 63 && text.chars().all(ok)).then(|| text.to_owned())
}

/// A field selector: `(path, wanted, equal)`, all must hold.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct FieldSelector(pub Vec<(String, String, bool)>);

impl FieldSelector {
    /// Parses `text`; `supported` says which paths the kind allows.
    pub fn parse(text: &str, supported: impl Fn(&str) -> bool) -> ApiResult<FieldSelector> {
        let mut all = Vec::new();
        for part in split_escaped(text) {
            if part.is_empty() {
                continue;
            }
            let (key, value, equal) = if let Some((k, v)) = part.split_once("!=") {
                (k, v, false)
            } else if let Some((k, v)) = part.split_once("==").or_else(|| part.split_once('=')) {
                (k, v, true)
            } else {
                return Err(ApiError::bad_request(format!("invalid selector: {text:?}; can't understand {part:?}")));
            };
            if !supported(key) {
                return Err(ApiError::bad_request(format!("field label not supported: {key}")));
            }
            all.push((key.to_owned(), unescape(value), equal));
        }
        Ok(FieldSelector(all))
    }

    /// The name asked for by `metadata.name=`, if any.
    pub fn name(&self) -> Option<&str> {
        self.0.iter().find(|(k, _, eq)| *eq && k == "metadata.name").map(|(_, v, _)| v.as_str())
    }

    /// Whether it can be decided from the key alone.
    pub fn only_key(&self) -> bool {
        self.0.iter().all(|(k, ..)| k == "metadata.name" || k == "metadata.namespace")
    }

    /// `get` gives a field's text, empty if absent.
    pub fn matches(&self, get: impl Fn(&str) -> String) -> bool {
        self.0.iter().all(|(k, want, equal)| (get(k) == *want) == *equal)
    }
}

fn split_escaped(text: &str) -> Vec<String> {
    let mut out = vec![String::new()];
    let mut escaped = false;
    for c in text.chars() {
        if c == ',' && !escaped {
            out.push(String::new());
        } else if let Some(last) = out.last_mut() {
            last.push(c);
        }
        escaped = c == '\\' && !escaped;
    }
    out
}

fn unescape(text: &str) -> String {
    let mut out = String::new();
    let mut escaped = false;
    for c in text.chars() {
        if c == '\\' && !escaped {
            escaped = true;
        } else {
            out.push(c);
            escaped = false;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn set_and_equality_requirements() {
        let l = labels(&[("app", "web"), ("tier", "2")]);
        for (text, want) in [
            ("app=web", true),
            ("app==web,tier!=3", true),
            ("app in (web, db)", true),
            ("app notin (web)", false),
            ("missing notin (web)", true),
            ("!missing,app", true),
            ("tier>1,tier<3", true),
            ("app!=web", false),
        ] {
            assert_eq!(LabelSelector::parse(text).unwrap().matches(&l), want, "{text}");
        }
        for text in ["a in b", "a in (b", "=x", "a=b c", "!", "ü=1"] {
            assert_eq!(LabelSelector::parse(text).unwrap_err().code, 400, "{text}");
        }
    }

    #[test]
    fn field_selectors_know_their_fields() {
        let s =
            FieldSelector::parse("metadata.name=a\\,b,metadata.namespace!=x", |k| k.starts_with("metadata.")).unwrap();
        assert_eq!(s.name(), Some("a,b"));
        let e = FieldSelector::parse("spec.x=1", |_| false).unwrap_err();
        assert_eq!(e.message, "field label not supported: spec.x");
    }
}
