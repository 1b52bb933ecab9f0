//! Go's regular expressions in Rust's.
//!
//! In: an RE2 pattern as Kubernetes schemas carry them. Out: a compiled [`Regex`] that matches the
//! same texts. Invariant: linear-time matching; a pattern that cannot be expressed is an error.
//!
//! The two differ in what `\d`, `\w`, `\s` and `\b` mean (ASCII in Go) and in what `[`, `&&`, `--`
//! and `~~` mean inside a class (nothing in Go).

use regex::{Regex, RegexBuilder};

/// The largest compiled size; a schema's pattern has no business being larger.
const SIZE_LIMIT: usize = 10 << 20;

/// Compiles a Go pattern.
pub(crate) fn compile(pattern: &str) -> Result<Regex, String> {
    RegexBuilder::new(&translate(pattern))
        .size_limit(SIZE_LIMIT)
        .build()
        .map_err(|e| e.to_string().lines().last().unwrap_or("not understood").trim().to_owned())
}

/// Where a class stands, after its '['.
#[derive(Clone, Copy, Default)]
struct Class {
    /// Characters read.
    read: usize,
    /// The last character may begin a range.
    can_range: bool,
    /// The last character was a range's '-'.
    in_range: bool,
}

impl Class {
    fn literal(self) -> Class {
        Class { read: self.read + 1, can_range: !self.in_range, in_range: false }
    }
}

fn translate(pattern: &str) -> String {
    let mut out = String::with_capacity(pattern.len() + 8);
    let mut chars = pattern.chars().peekable();
    let mut class: Option<Class> = None;
    while let Some(c) = chars.next() {
        if c == '\\' {
            escape(&mut out, chars.next(), class.is_some());
            class = class.map(Class::literal);
            continue;
        }
        match class {
            None => {
                if c == '[' {
                    class = Some(Class::default());
                }
                out.push(c);
            }
            Some(state) if c == '[' && chars.peek() == Some(&':') => {
                // '[:alpha:]' up to its own ']'.
                out.push(c);
                for c in chars.by_ref() {
                    out.push(c);
                    if c == ']' {
                        break;
                    }
                }
                class = Some(state.literal());
            }
            Some(state) => class = class_character(&mut out, c, state, chars.peek().copied()),
        }
    }
    out
}

/// Copies one character inside a class; `None` when it ends the class.
fn class_character(out: &mut String, c: char, state: Class, next: Option<char>) -> Option<Class> {
    match c {
        '^' if state.read == 0 => {
            out.push('^');
            // A ']' may still follow as the first character.
            return Some(state);
        }
        ']' if state.read > 0 => {
            out.push(']');
            return None;
        }
        '-' if state.can_range && next != Some(']') => {
            out.push('-');
            return Some(Class { read: state.read + 1, can_range: false, in_range: true });
        }
        '[' | ']' | '&' | '~' | '-' => {
            out.push('\\');
            out.push(c);
        }
        c => out.push(c),
    }
    Some(state.literal())
}

fn escape(out: &mut String, c: Option<char>, in_class: bool) {
    match c {
        Some('d') => out.push_str("[0-9]"),
        Some('D') => out.push_str("[^0-9]"),
        Some('w') => out.push_str("[0-9A-Za-z_]"),
        Some('W') => out.push_str("[^0-9A-Za-z_]"),
        Some('s') => out.push_str("[\\t\\n\\x0C\\r ]"),
        Some('S') => out.push_str("[^\\t\\n\\x0C\\r ]"),
        Some('b') if !in_class => out.push_str("(?-u:\\b)"),
        Some(c) => {
            out.push('\\');
            out.push(c);
        }
        None => out.push('\\'),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_go() {
        for (pattern, text, matches) in [
            (r"^\d+$", "12", true),
            (r"^\d+$", "١٢", false),
            (r"^[\w.-]+$", "a_b.c-d", true),
            (r"^[a[]$", "[", true),
            (r"^[]a]$", "]", true),
            (r"^[^]a]$", "b", true),
            (r"^[[:alpha:]]+$", "abc", true),
            (r"^[a&&b]+$", "a&", true),
            (r"^\S+$", "é", true),
            (r"^a\b", "a b", true),
            (r"^[+--]$", ",", true),
            (r"^(\d+(\.\d+)?)$", "1.5", true),
        ] {
            let regex = compile(pattern).unwrap_or_else(|e| panic!("{pattern}: {e}"));
            assert_eq!(regex.is_match(text), matches, "{pattern} on {text}");
        }
        assert!(compile("(").is_err());
        assert!(compile("a(?=b)").is_err());
    }
}
