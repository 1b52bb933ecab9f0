//! Which functions exist.
//!
//! In: a call as parsed. Out: the function meant, its arguments and its type. Invariant: every name
//! here is implemented, either in `call` or by the library.

use super::expr::{Call, Expr, Function, Library, Literal};
use super::library;
use super::lower::Scope;
use super::types::Ty;
use crate::schema::regexes;
use cel::IdedExpr;
use cel::common::ast::{CallExpr, Expr as Ast};

/// No function takes more.
const MAX_ARGUMENTS: usize = 8;

/// The types that have a name.
pub(crate) fn type_name(name: &str) -> Option<&'static str> {
    const NAMES: [&str; 10] = ["bool", "int", "uint", "double", "string", "bytes", "list", "map", "null_type", "type"];
    NAMES.into_iter().find(|n| *n == name).or((name == "optional_type").then_some("optional_type"))
}

/// `google.protobuf.Timestamp` and `.Duration`.
pub(crate) fn qualified_type(operand: &IdedExpr, field: &str) -> Option<&'static str> {
    let Ast::Select(inner) = &operand.expr else { return None };
    match (&inner.operand.expr, inner.field.as_str(), field) {
        (Ast::Ident(google), "protobuf", "Timestamp") if google == "google" => Some("google.protobuf.Timestamp"),
        (Ast::Ident(google), "protobuf", "Duration") if google == "google" => Some("google.protobuf.Duration"),
        _ => None,
    }
}

/// Functions of the library by their result's type. Names with a dot are namespaced.
const LIBRARY: [(LibraryType, &[&str]); 7] = [
    (
        LibraryType::Bool,
        &[
            "isIP",
            "isCIDR",
            "isURL",
            "isQuantity",
            "isSemver",
            "isInteger",
            "isGreaterThan",
            "isLessThan",
            "isLoopback",
            "isUnspecified",
            "isLinkLocalMulticast",
            "isLinkLocalUnicast",
            "isGlobalUnicast",
            "containsIP",
            "containsCIDR",
            "isSorted",
            "sets.contains",
            "sets.equivalent",
            "sets.intersects",
            "ip.isCanonical",
        ],
    ),
    (
        LibraryType::Text,
        &[
            "charAt",
            "lowerAscii",
            "upperAscii",
            "replace",
            "substring",
            "trim",
            "join",
            "format",
            "find",
            "strings.quote",
            "getScheme",
            "getHost",
            "getHostname",
            "getPort",
            "getEscapedPath",
        ],
    ),
    (LibraryType::Texts, &["findAll"]),
    (
        LibraryType::Int,
        &[
            "indexOf",
            "lastIndexOf",
            "compareTo",
            "asInteger",
            "major",
            "minor",
            "patch",
            "prefixLength",
            "family",
            "getFullYear",
            "getMonth",
            "getDayOfYear",
            "getDayOfMonth",
            "getDate",
            "getDayOfWeek",
            "getHours",
            "getMinutes",
            "getSeconds",
            "getMilliseconds",
        ],
    ),
    (LibraryType::Double, &["asApproximateFloat"]),
    (LibraryType::Bytes, &["bytes"]),
    (
        LibraryType::Unknown,
        &[
            "ip",
            "cidr",
            "url",
            "quantity",
            "semver",
            "add",
            "sub",
            "masked",
            "getQuery",
            "min",
            "max",
            "sum",
            "slice",
            "sort",
            "flatten",
            "distinct",
            "reverse",
            "first",
            "last",
            "lists.range",
            "timestamp",
            "duration",
            "validate",
            "format.dns1123Label",
            "format.dns1123Subdomain",
            "format.dns1035Label",
            "format.dns1035LabelPrefix",
            "format.dns1123LabelPrefix",
            "format.dns1123SubdomainPrefix",
            "format.qualifiedName",
            "format.labelValue",
            "format.uri",
            "format.uuid",
            "format.byte",
            "format.date",
            "format.datetime",
        ],
    ),
];

#[derive(Clone, Copy)]
enum LibraryType {
    Bool,
    Text,
    Texts,
    Int,
    Double,
    Bytes,
    Unknown,
}

fn library_type<'s>(name: &str) -> Option<Ty<'s>> {
    let (ty, _) = LIBRARY.iter().find(|(_, names)| names.contains(&name))?;
    Some(match (ty, name) {
        (LibraryType::Bool, _) => Ty::Bool,
        (LibraryType::Text, _) => Ty::Text,
        (LibraryType::Texts, _) => Ty::List(Box::new(Ty::Text)),
        (LibraryType::Int, _) => Ty::Int,
        (LibraryType::Double, _) => Ty::Double,
        (LibraryType::Bytes, _) => Ty::Bytes,
        (LibraryType::Unknown, "timestamp") => Ty::Timestamp,
        (LibraryType::Unknown, "duration") => Ty::Duration,
        (LibraryType::Unknown, _) => Ty::Dyn,
    })
}

/// The functions implemented here, with how many arguments they take, the receiver included.
fn native<'s>(name: &str, arguments: usize) -> Option<(Function, Ty<'s>)> {
    Some(match (name, arguments) {
        ("size", 1) => (Function::Size, Ty::Int),
        ("contains", 2) => (Function::Contains, Ty::Bool),
        ("startsWith", 2) => (Function::StartsWith, Ty::Bool),
        ("endsWith", 2) => (Function::EndsWith, Ty::Bool),
        ("matches", 2) => (Function::Matches, Ty::Bool),
        ("split", 2 | 3) => (Function::Split, Ty::List(Box::new(Ty::Text))),
        ("timestamp", 1) => (Function::Timestamp, Ty::Timestamp),
        ("type", 1) => (Function::Type, Ty::Dyn),
        ("dyn", 1) => (Function::Dyn, Ty::Dyn),
        ("bool", 1) => (Function::Bool, Ty::Bool),
        ("int", 1) => (Function::Int, Ty::Int),
        ("uint", 1) => (Function::Uint, Ty::Uint),
        ("double", 1) => (Function::Double, Ty::Double),
        ("string", 1) => (Function::Text, Ty::Text),
        ("optional.none", 0) => (Function::OptionalNone, Ty::Dyn),
        ("optional.of", 1) => (Function::OptionalOf, Ty::Dyn),
        ("optional.ofNonZeroValue", 1) => (Function::OptionalOfNonZero, Ty::Dyn),
        ("value", 1) => (Function::OptionalValue, Ty::Dyn),
        ("hasValue", 1) => (Function::OptionalHasValue, Ty::Bool),
        ("or", 2) => (Function::OptionalOr, Ty::Dyn),
        ("orValue", 2) => (Function::OptionalOrValue, Ty::Dyn),
        _ => return None,
    })
}

/// Lowers a call that is no operator and no macro.
pub(crate) fn lower<'s>(scope: &mut Scope<'s>, call: &CallExpr) -> Result<(Expr, Ty<'s>), String> {
    let namespace = namespace(scope, call);
    let name = match namespace {
        Some(prefix) => format!("{prefix}.{}", call.func_name),
        None => call.func_name.clone(),
    };
    let receiver = call.target.as_deref().filter(|_| namespace.is_none());
    let mut arguments = Vec::with_capacity(call.args.len() + 1);
    let mut types = Vec::with_capacity(call.args.len() + 1);
    for argument in receiver.into_iter().chain(&call.args) {
        let mixed = std::mem::replace(&mut scope.mixed_lists, name == "format");
        let lowered = scope.lower(argument);
        scope.mixed_lists = mixed;
        let (expr, ty) = lowered?;
        arguments.push(expr);
        types.push(ty);
    }
    if arguments.len() > MAX_ARGUMENTS {
        return Err(format!("'{name}' has more than {MAX_ARGUMENTS} arguments"));
    }
    check_receiver(&name, &types, receiver.is_some())?;
    check_literal(&name, &arguments)?;
    let pattern = match (name.as_str(), arguments.as_slice()) {
        ("matches", [_, Expr::Literal(Literal::Text(pattern))]) => {
            Some(regexes::compile(pattern).map_err(|e| format!("invalid matches argument: {e}"))?)
        }
        _ => None,
    };
    let (function, ty) = match native(&name, arguments.len()) {
        Some((function, ty)) => {
            let ty = optional_type(&function, &types).unwrap_or(ty);
            (function, ty)
        }
        None => {
            let ty = library_type(&name)
                .ok_or_else(|| format!("undeclared reference to '{}' (in container '')", call.func_name))?;
            (Function::Library(Box::new(library(name, call, namespace, arguments.len()))), ty)
        }
    };
    Ok((Expr::Call(Box::new(Call { function, arguments, pattern })), ty))
}

/// The namespace of a call such as `math.greatest(…)`.
fn namespace<'a>(scope: &Scope<'_>, call: &'a CallExpr) -> Option<&'a str> {
    let Ast::Ident(prefix) = &call.target.as_deref()?.expr else { return None };
    let qualified = format!("{prefix}.{}", call.func_name);
    let known = library_type(&qualified).is_some() || native(&qualified, call.args.len()).is_some();
    (known && !scope.declares(prefix)).then_some(prefix)
}

/// The functions on texts and lists accept nothing else.
fn check_receiver(name: &str, types: &[Ty<'_>], method: bool) -> Result<(), String> {
    let fits = match (name, types.first()) {
        ("startsWith" | "endsWith" | "contains" | "matches" | "split" | "lowerAscii" | "upperAscii", Some(first))
        | ("trim" | "replace" | "substring" | "charAt" | "find" | "findAll", Some(first))
        | ("isQuantity" | "quantity" | "isURL" | "isIP" | "isCIDR", Some(first)) => {
            matches!(first, Ty::Text | Ty::Dyn)
        }
        ("size", Some(first)) => matches!(first, Ty::Text | Ty::Bytes | Ty::List(_) | Ty::Map(_) | Ty::Dyn),
        ("min" | "max" | "sum" | "isSorted" | "sort" | "distinct" | "flatten" | "slice" | "reverse", Some(first)) => {
            method && matches!(first, Ty::List(_) | Ty::Dyn)
        }
        // The library knows UTC only.
        (name, _) if name.starts_with("get") && name != "getQuery" => types.len() == 1,
        _ => true,
    };
    if fits {
        return Ok(());
    }
    let types: Vec<String> = types.iter().map(Ty::to_string).collect();
    Err(format!("found no matching overload for '{name}' applied to '({})'", types.join(", ")))
}

/// Times and durations written in the rule itself must be valid.
fn check_literal(name: &str, arguments: &[Expr]) -> Result<(), String> {
    let [Expr::Literal(Literal::Text(text))] = arguments else { return Ok(()) };
    let valid = match name {
        "duration" => library::duration(text).is_ok(),
        "timestamp" => library::timestamp(text).is_ok(),
        _ => true,
    };
    if valid { Ok(()) } else { Err(format!("invalid {name} argument")) }
}

/// The functions on optional values keep the type inside.
fn optional_type<'s>(function: &Function, types: &[Ty<'s>]) -> Option<Ty<'s>> {
    match (function, types.first()?) {
        (Function::OptionalOf | Function::OptionalOfNonZero, ty) => Some(Ty::Optional(Box::new(ty.clone()))),
        (Function::OptionalValue | Function::OptionalOrValue, Ty::Optional(inner)) => Some((**inner).clone()),
        (Function::OptionalOr, ty @ Ty::Optional(_)) => Some(ty.clone()),
        _ => None,
    }
}

/// The variable that holds the argument at a position.
pub(crate) fn argument_name(position: usize) -> &'static str {
    const NAMES: [&str; MAX_ARGUMENTS] = ["a0", "a1", "a2", "a3", "a4", "a5", "a6", "a7"];
    NAMES.get(position).copied().unwrap_or("")
}

/// A call of the library's function of that name with one argument.
pub(crate) fn unary(name: &str) -> Library {
    let call = CallExpr { func_name: name.to_owned(), target: None, args: Vec::new() };
    library(name.to_owned(), &call, None, 1)
}

/// A call whose receiver and arguments are variables, for the library to evaluate.
fn library(name: String, call: &CallExpr, namespace: Option<&str>, count: usize) -> Library {
    let variable = |name: &str| IdedExpr { id: 0, expr: Ast::Ident(name.to_owned()) };
    let mut arguments = (0..count).map(|i| variable(argument_name(i)));
    let target = match namespace {
        Some(prefix) => Some(Box::new(variable(prefix))),
        None if call.target.is_some() => arguments.next().map(Box::new),
        None => None,
    };
    let args = arguments.collect();
    let expr = Ast::Call(CallExpr { func_name: call.func_name.clone(), target, args });
    Library { name, call: IdedExpr { id: 0, expr } }
}
