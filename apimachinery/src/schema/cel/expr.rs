//! The compiled form of a rule.
//!
//! In: nothing; `lower` builds it. Out: what `eval` walks. Invariant: every name is bound and every
//! function exists; literal regular expressions are compiled.

use cel::IdedExpr;
use regex::Regex;

/// A constant.
#[derive(Debug)]
pub(crate) enum Literal {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    Text(String),
    Bytes(Vec<u8>),
    /// The name of a type, such as `string`.
    Type(&'static str),
}

/// What a selection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// `a.b`: an error where `b` is absent.
    Value,
    /// `has(a.b)`.
    Test,
    /// `a.?b`.
    Optional,
}

/// An operator with two operands that are both evaluated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Binary {
    Add,
    Subtract,
    Multiply,
    Divide,
    Modulo,
    Equal,
    NotEqual,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
    In,
}

/// One node of a rule.
#[derive(Debug)]
pub(crate) enum Expr {
    Literal(Literal),
    Name(String),
    Select(Box<Select>),
    Index {
        operands: Box<[Expr; 2]>,
        optional: bool,
    },
    Conditional(Box<[Expr; 3]>),
    And(Box<[Expr; 2]>),
    Or(Box<[Expr; 2]>),
    Not(Box<Expr>),
    NotStrictlyFalse(Box<Expr>),
    Negate(Box<Expr>),
    Binary(Binary, Box<[Expr; 2]>),
    /// Elements, each with whether it is optional.
    List(Vec<(Expr, bool)>),
    Map(Vec<(Expr, Expr, bool)>),
    Fold(Box<Fold>),
    OptionalMap(Box<OptionalMap>),
    Call(Box<Call>),
}

/// `operand.field`.
#[derive(Debug)]
pub(crate) struct Select {
    pub(crate) operand: Expr,
    /// As written: a key of a map.
    pub(crate) identifier: String,
    /// Unescaped: a property of an object; `None` where the escape sequence does not exist.
    pub(crate) property: Option<String>,
    pub(crate) access: Access,
}

/// A macro over a list or a map.
#[derive(Debug)]
pub(crate) struct Fold {
    pub(crate) range: Expr,
    pub(crate) item: String,
    /// With two variables `item` is the index or key, and this the element or value.
    pub(crate) second: Option<String>,
    pub(crate) result_name: String,
    pub(crate) start: Expr,
    pub(crate) condition: Expr,
    pub(crate) step: Expr,
    pub(crate) result: Expr,
}

/// `operand.optMap(name, body)`, or `optFlatMap`, whose body is optional itself.
#[derive(Debug)]
pub(crate) struct OptionalMap {
    pub(crate) operand: Expr,
    pub(crate) name: String,
    pub(crate) body: Expr,
    pub(crate) flat: bool,
}

/// A function's call; the receiver, where there is one, is the first argument.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) function: Function,
    pub(crate) arguments: Vec<Expr>,
    /// The pattern of `matches`, where it is a literal.
    pub(crate) pattern: Option<Regex>,
}

/// The functions implemented here, and those of the library.
#[derive(Debug)]
pub(crate) enum Function {
    Size,
    Contains,
    StartsWith,
    EndsWith,
    Matches,
    Split,
    Timestamp,
    Type,
    Dyn,
    Bool,
    Int,
    Uint,
    Double,
    Text,
    OptionalNone,
    OptionalOf,
    OptionalOfNonZero,
    OptionalValue,
    OptionalHasValue,
    OptionalOr,
    OptionalOrValue,
    /// A function of the library, as an expression whose arguments are variables.
    Library(Box<Library>),
}

/// A call into the library.
#[derive(Debug)]
pub(crate) struct Library {
    pub(crate) name: String,
    pub(crate) call: IdedExpr,
}
