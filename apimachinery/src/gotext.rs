//! Values as Go prints them.
//!
//! In: JSON values. Out: the text that `%q`, `%v` and `json.Marshal` give, since the real server's
//! messages are made of them. Invariant: `json` is compact, with sorted keys and `<`, `>`, `&`
//! escaped.

use serde_json::Value;
use std::fmt::Write;

/// A value as `field.Error` renders its bad value.
pub(crate) fn bad_value(value: &Value) -> String {
    match value {
        Value::String(text) => quote(text),
        Value::Number(number) => number_text(number),
        other => json(other),
    }
}

/// `%q` of a string.
pub(crate) fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{b}' => out.push_str("\\v"),
            c if (c as u32) < 0x80 && c.is_control() => push(&mut out, format_args!("\\x{:02x}", c as u32)),
            c if invisible(c) && (c as u32) < 0x10000 => push(&mut out, format_args!("\\u{:04x}", c as u32)),
            c if invisible(c) => push(&mut out, format_args!("\\U{:08x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// Not printable to Go: control and format characters, and every space but the ASCII one.
fn invisible(c: char) -> bool {
    c.is_control()
        || (c.is_whitespace() && c != ' ')
        || matches!(c as u32, 0xad | 0x200b..=0x200f | 0x2028..=0x202e | 0x2060..=0x206f | 0xfeff | 0xe000..=0xf8ff)
}

/// `json.Marshal`.
pub(crate) fn json(value: &Value) -> String {
    let mut out = String::new();
    write_json(&mut out, value);
    out
}

fn write_json(out: &mut String, value: &Value) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(b) => push(out, format_args!("{b}")),
        Value::Number(n) => match n.as_f64() {
            Some(f) if n.is_f64() => out.push_str(&shortest(f, -6, 21)),
            _ => push(out, format_args!("{n}")),
        },
        Value::String(text) => write_json_string(out, text),
        Value::Array(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                write_json(out, item);
            }
            out.push(']');
        }
        Value::Object(fields) => {
            let mut sorted: Vec<_> = fields.iter().collect();
            sorted.sort_by(|a, b| a.0.cmp(b.0));
            out.push('{');
            for (i, (key, item)) in sorted.into_iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                write_json_string(out, key);
                out.push(':');
                write_json(out, item);
            }
            out.push('}');
        }
    }
}

fn write_json_string(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' | '\0'..='\u{1f}' => {
                push(out, format_args!("\\u{:04x}", c as u32));
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

/// `%v` of a number.
pub(crate) fn number_text(number: &serde_json::Number) -> String {
    match number.as_f64() {
        Some(f) if number.is_f64() || number.is_u64() && !number.is_i64() => float(f),
        _ => number.to_string(),
    }
}

/// `%v` of a float: below 10⁻⁴ and from 10⁶ on with an exponent.
pub(crate) fn float(f: f64) -> String {
    shortest(f, -4, 6)
}

/// The shortest form that reads back; below `10^small` and from `10^large` on with an exponent.
fn shortest(f: f64, small: i32, large: i32) -> String {
    if f == 0.0 {
        return if f.is_sign_negative() { "-0".into() } else { "0".into() };
    }
    if f.is_nan() {
        return "NaN".into();
    }
    if f.is_infinite() {
        return if f > 0.0 { "+Inf".into() } else { "-Inf".into() };
    }
    let scientific = format!("{f:e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if exponent < small || exponent >= large {
        let sign = if exponent < 0 { '-' } else { '+' };
        let width = if small == -6 && exponent < 0 { 1 } else { 2 };
        return format!("{mantissa}e{sign}{:0width$}", exponent.unsigned_abs());
    }
    format!("{f}")
}

fn push(out: &mut String, arguments: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = out.write_fmt(arguments);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json as j;

    #[test]
    fn go_values() {
        for (value, text) in [
            (j!("a\"b"), "\"a\\\"b\""),
            (j!("é\u{1}"), "\"é\\x01\""),
            (j!(1), "1"),
            (j!(1.5), "1.5"),
            (j!(1e21), "1e+21"),
            (j!(0.00001), "1e-05"),
            (j!(1234567.0), "1.234567e+06"),
            (j!(100000.0), "100000"),
            (j!({"b": "<", "a": [true, null]}), r#"{"a":[true,null],"b":"\u003c"}"#),
            (j!(null), "null"),
        ] {
            assert_eq!(bad_value(&value), text);
        }
    }
}
