//! Compiling rules.
//!
//! In: the nodes of a schema with the JSON of their rules. Out: the rules, in the order of
//! `Node::rule_set`. Invariant: a rule that compiles refers only to what its schema has.

use super::error::EvalError;
use super::expr::Expr;
use super::field_path;
use super::lower::Scope;
use super::types::Ty;
use crate::CauseReason;
use crate::schema::SchemaError;
use crate::schema::node::{Additional, ListType, Node};
use cel::parser::Parser;
use serde_json::Value;
use std::panic::catch_unwind;

/// Longer rules are refused.
const MAX_LENGTH: usize = 16 << 10;

/// The parser takes long over deeper ones, and then refuses them.
const MAX_BRACKETS: i32 = 90;

/// Rules of all nodes, by `Node::rule_set`.
pub(crate) type Rules = Vec<Vec<Rule>>;

/// One compiled rule.
#[derive(Debug)]
pub(crate) struct Rule {
    pub(crate) source: String,
    pub(crate) condition: Expr,
    pub(crate) message: Option<String>,
    pub(crate) message_expression: Option<Expr>,
    pub(crate) reason: CauseReason,
    pub(crate) field_path: Option<String>,
    /// A transition rule: it speaks of `oldSelf`.
    pub(crate) uses_old_self: bool,
    /// `oldSelf` is an optional value, and the rule runs on creation too.
    pub(crate) optional_old_self: bool,
}

impl Rule {
    /// What an error of evaluation calls the rule.
    pub(crate) fn title(&self) -> &str {
        self.message.as_deref().unwrap_or(self.source.trim())
    }

    /// How an error of evaluation is reported.
    pub(crate) fn explain(&self, error: &EvalError) -> String {
        let title = self.title();
        match error {
            EvalError::NoOverload => format!(
                "'{error}': call arguments did not match a supported operator, function or macro signature for rule: {title}"
            ),
            EvalError::CostLimit => format!(
                "'{error}': no further validation rules will be run due to call cost exceeds limit for rule: {title}"
            ),
            EvalError::Other(_) => format!("{error} evaluating rule: {title}"),
        }
    }
}

/// Compiles the rules of a node and of all below it.
pub(crate) fn compile(node: &Node, path: &str) -> Result<Rules, SchemaError> {
    let mut rules = Rules::new();
    walk(node, path, None, &mut rules)?;
    Ok(rules)
}

/// `uncorrelatable` is where a list began whose items have no old counterpart.
fn walk(node: &Node, path: &str, uncorrelatable: Option<&str>, rules: &mut Rules) -> Result<(), SchemaError> {
    if !node.has_rules {
        return Ok(());
    }
    if !node.raw_rules.is_empty() {
        let mut set = Vec::with_capacity(node.raw_rules.len());
        for (i, raw) in node.raw_rules.iter().enumerate() {
            let at = format!("{path}.x-kubernetes-validations[{i}]");
            let Some(rule) = one(node, raw, &at)? else { continue };
            if let Some(list) = uncorrelatable.filter(|_| rule.uses_old_self) {
                let message =
                    format!("oldSelf cannot be used on the uncorrelatable portion of the schema within {list}");
                return Err(SchemaError::new(&format!("{at}.rule"), &message));
            }
            set.push(rule);
        }
        rules.push(set);
    }
    for (name, property) in node.properties.iter().flat_map(|p| p.iter()) {
        walk(property, &format!("{path}.properties[{name}]"), uncorrelatable, rules)?;
    }
    if let Additional::Schema(values) = &node.additional {
        walk(values, &format!("{path}.additionalProperties"), uncorrelatable, rules)?;
    }
    if let Some(items) = &node.items {
        let here = (node.list_type != ListType::Map).then_some(path);
        walk(items, &format!("{path}.items"), uncorrelatable.or(here), rules)?;
    }
    Ok(())
}

/// One rule; `None` for an empty one.
fn one(node: &Node, raw: &Value, at: &str) -> Result<Option<Rule>, SchemaError> {
    let text = |key: &str| raw.get(key).and_then(Value::as_str).filter(|t| !t.trim().is_empty());
    let Some(source) = text("rule") else { return Ok(None) };
    let optional_old_self = raw.get("optionalOldSelf").and_then(Value::as_bool).unwrap_or(false);
    let Some(this) = Ty::of(node) else {
        let message = "rules are not supported where the schema's type is unknown";
        return Err(SchemaError::new(&format!("{at}.rule"), message));
    };
    let fail = |key: &str, message: String| SchemaError::new(&format!("{at}.{key}"), &message);
    let (condition, ty, uses_old_self) = program(source, this.clone(), optional_old_self)
        .map_err(|e| fail("rule", format!("compilation failed: {e}")))?;
    if !matches!(ty, Ty::Bool | Ty::Dyn) {
        return Err(fail("rule", "cel expression must evaluate to a bool".into()));
    }
    let message_expression = match text("messageExpression") {
        None => None,
        Some(source) => {
            let (expr, ty, _) = program(source, this, optional_old_self)
                .map_err(|e| fail("messageExpression", format!("messageExpression compilation failed: {e}")))?;
            if !matches!(ty, Ty::Text | Ty::Dyn) {
                return Err(fail("messageExpression", "messageExpression must evaluate to a string".into()));
            }
            Some(expr)
        }
    };
    let field_path = match text("fieldPath") {
        None => None,
        Some(path) => Some(field_path::normalize(path, node).map_err(|e| fail("fieldPath", e))?),
    };
    Ok(Some(Rule {
        source: source.to_owned(),
        condition,
        message: text("message").map(|m| m.trim().to_owned()),
        message_expression,
        reason: reason(text("reason")).map_err(|e| fail("reason", e))?,
        field_path,
        uses_old_self,
        optional_old_self,
    }))
}

fn reason(name: Option<&str>) -> Result<CauseReason, String> {
    match name {
        None | Some("FieldValueInvalid") => Ok(CauseReason::FieldValueInvalid),
        Some("FieldValueForbidden") => Ok(CauseReason::FieldValueForbidden),
        Some("FieldValueRequired") => Ok(CauseReason::FieldValueRequired),
        Some("FieldValueDuplicate") => Ok(CauseReason::FieldValueDuplicate),
        Some(other) => Err(format!(
            "Unsupported value: {other:?}: supported values: \"FieldValueRequired\", \"FieldValueInvalid\", \
             \"FieldValueForbidden\", \"FieldValueDuplicate\""
        )),
    }
}

/// Parses and lowers one expression.
fn program<'s>(source: &str, this: Ty<'s>, optional_old: bool) -> Result<(Expr, Ty<'s>, bool), String> {
    if source.len() > MAX_LENGTH {
        return Err(format!("expression is longer than {MAX_LENGTH} bytes"));
    }
    let open = source.bytes().fold((0i32, 0), |(open, most), byte| match byte {
        b'(' | b'[' | b'{' => (open + 1, most.max(open + 1)),
        b')' | b']' | b'}' => (open - 1, most),
        _ => (open, most),
    });
    if open.1 > MAX_BRACKETS {
        return Err(format!("expression has more than {MAX_BRACKETS} brackets inside each other"));
    }
    // The parser is generated code, and not ours.
    let parsed = catch_unwind(|| Parser::new().enable_optional_syntax(true).parse(source))
        .map_err(|_| "internal error in the parser".to_owned())?;
    let tree = parsed.map_err(|errors| {
        let lines: Vec<String> = errors.to_string().lines().map(str::trim).map(str::to_owned).collect();
        lines.join(" ")
    })?;
    let mut scope = Scope::new(this, optional_old);
    let (expr, ty) = scope.lower(&tree)?;
    Ok((expr, ty, scope.uses_old_self))
}
