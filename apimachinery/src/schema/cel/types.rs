//! What a rule may know of a value's type before there is one.
//!
//! In: schema nodes. Out: types, precise enough to find a field that does not exist and two scalars
//! that cannot be compared. Invariant: in doubt a type is `Dyn`, which fits everything.

use super::escape::unescape;
use crate::schema::formats::Kind;
use crate::schema::metadata;
use crate::schema::node::{Additional, Node, Type};
use std::fmt;

/// A static type.
#[derive(Clone, Debug)]
pub(crate) enum Ty<'s> {
    Dyn,
    Null,
    Bool,
    Int,
    Uint,
    Double,
    Text,
    Bytes,
    Timestamp,
    Duration,
    List(Box<Ty<'s>>),
    Map(Box<Ty<'s>>),
    Object(&'s Node),
    Optional(Box<Ty<'s>>),
}

impl<'s> Ty<'s> {
    /// The type of a node's values; `None` where rules cannot see them.
    pub(crate) fn of(node: &'s Node) -> Option<Ty<'s>> {
        if node.int_or_string {
            return Some(Ty::Dyn);
        }
        Some(match node.type_? {
            Type::Boolean => Ty::Bool,
            Type::Integer => Ty::Int,
            Type::Number => Ty::Double,
            Type::String => match node.format.as_ref().map(|f| f.kind) {
                Some(Kind::Byte) => Ty::Bytes,
                Some(Kind::Duration) => Ty::Duration,
                Some(Kind::Date | Kind::DateTime) => Ty::Timestamp,
                _ => Ty::Text,
            },
            Type::Array => Ty::List(Box::new(Ty::of(node.items.as_deref()?)?)),
            Type::Object => match &node.additional {
                Additional::Schema(values) => Ty::Map(Box::new(Ty::of(values)?)),
                _ => Ty::Object(node),
            },
        })
    }

    /// The type of the field that an identifier names.
    pub(crate) fn field(&self, identifier: &str) -> Result<Ty<'s>, String> {
        match self {
            Ty::Dyn => Ok(Ty::Dyn),
            Ty::Map(values) => Ok((**values).clone()),
            Ty::Optional(inner) => Ok(Ty::Optional(Box::new(inner.field(identifier)?))),
            Ty::Object(node) => unescape(identifier)
                .and_then(|name| property(node, &name))
                .and_then(Ty::of)
                .ok_or_else(|| format!("undefined field '{identifier}'")),
            other => Err(format!("type '{other}' does not support field selection")),
        }
    }

    /// The type of `a[i]`.
    pub(crate) fn element(&self) -> Ty<'s> {
        match self {
            Ty::List(inner) | Ty::Map(inner) => (**inner).clone(),
            Ty::Optional(inner) => Ty::Optional(Box::new(inner.element())),
            _ => Ty::Dyn,
        }
    }

    /// The type of what a macro with one variable runs over.
    pub(crate) fn iterated(&self) -> Ty<'s> {
        match self {
            Ty::List(inner) => (**inner).clone(),
            Ty::Map(_) | Ty::Object(_) => Ty::Text,
            _ => Ty::Dyn,
        }
    }

    /// The types of what a macro with two variables runs over.
    pub(crate) fn iterated_pairs(&self) -> (Ty<'s>, Ty<'s>) {
        match self {
            Ty::List(inner) => (Ty::Int, (**inner).clone()),
            Ty::Map(inner) => (Ty::Text, (**inner).clone()),
            _ => (Ty::Dyn, Ty::Dyn),
        }
    }

    /// Whether a value of one type may also be of the other.
    pub(crate) fn fits(&self, other: &Ty<'_>) -> bool {
        match (self, other) {
            (Ty::Dyn, _) | (_, Ty::Dyn) => true,
            (Ty::List(a), Ty::List(b)) | (Ty::Map(a), Ty::Map(b)) | (Ty::Optional(a), Ty::Optional(b)) => a.fits(b),
            (Ty::Object(a), Ty::Object(b)) => std::ptr::eq(*a, *b),
            // A message may be null; a map literal may stand for an object.
            (Ty::Object(_), Ty::Null | Ty::Map(_)) | (Ty::Null | Ty::Map(_), Ty::Object(_)) => true,
            (Ty::Timestamp | Ty::Duration, Ty::Null) | (Ty::Null, Ty::Timestamp | Ty::Duration) => true,
            (a, b) => std::mem::discriminant(a) == std::mem::discriminant(b),
        }
    }

    /// The one of two types that is known better, where they fit.
    pub(crate) fn join(self, other: Ty<'s>) -> Ty<'s> {
        match (&self, &other) {
            (Ty::Dyn, _) => Ty::Dyn,
            (_, Ty::Dyn) => Ty::Dyn,
            _ if self.fits(&other) => self,
            _ => Ty::Dyn,
        }
    }

    pub(crate) fn number(&self) -> bool {
        matches!(self, Ty::Int | Ty::Uint | Ty::Double | Ty::Dyn)
    }
}

/// A property, with what every resource has.
pub(crate) fn property<'s>(node: &'s Node, name: &str) -> Option<&'s Node> {
    if node.resource_root
        && let Some(visible) = metadata::visible(name)
    {
        return Some(visible);
    }
    node.property(name)
}

impl fmt::Display for Ty<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Ty::Dyn => "dyn",
            Ty::Null => "null",
            Ty::Bool => "bool",
            Ty::Int => "int",
            Ty::Uint => "uint",
            Ty::Double => "double",
            Ty::Text => "string",
            Ty::Bytes => "bytes",
            Ty::Timestamp => "timestamp",
            Ty::Duration => "duration",
            Ty::Object(_) => "object",
            Ty::List(inner) => return write!(f, "list({inner})"),
            Ty::Map(inner) => return write!(f, "map(string, {inner})"),
            Ty::Optional(inner) => return write!(f, "optional_type({inner})"),
        })
    }
}
