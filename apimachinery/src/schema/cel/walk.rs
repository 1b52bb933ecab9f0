//! Running every rule of a schema on an object.
//!
//! In: a schema, an object that passed structural validation and, on update, the stored one. Out:
//! the errors of the rules that do not hold. Invariant: a rule runs only where its node has a value
//! that is not null; a transition rule only where there was one before.

use super::error::EvalError;
use super::eval::Run;
use super::expr::Expr;
use super::rule::{Rule, Rules};
use super::value::Val;
use crate::schema::list_type::{corresponding, push_field};
use crate::schema::node::{Additional, ListType, Node, Type};
use crate::schema::ratchet;
use crate::{CauseReason, FieldError, gotext};
use serde_json::Value;
use std::rc::Rc;

/// Steps that one rule may take; Kubernetes' limit, in roughly its unit.
const PER_RULE: u64 = 1_000_000;
/// Steps that all rules together may take.
const PER_OBJECT: u64 = 10_000_000;
/// The longest message that an expression may give.
const MAX_MESSAGE: usize = 5 * 1024;

const OUT_OF_BUDGET: &str =
    "validation failed due to running out of cost budget, no further validation rules will be run";

/// Runs all rules.
pub(crate) fn validate(node: &Node, rules: &Rules, object: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut walk = Walk { rules, path: String::new(), errors: Vec::new(), budget: PER_OBJECT };
    let unchanged = Unchanged { here: old.map(|old| (node, object, old)), above: None };
    // Running out of budget ends the walk; the error is already noted.
    let _ = walk.node(node, object, old, unchanged);
    walk.errors
}

/// No further rule is to be run.
struct Stop;

struct Walk<'a> {
    rules: &'a Rules,
    path: String,
    errors: Vec<FieldError>,
    budget: u64,
}

/// A new and an old value of a node.
type Pair<'a> = (&'a Node, &'a Value, &'a Value);

/// The pair of values by which an error is forgiven, if they are equal: that of the node, or else
/// of the nearest node above that has an old counterpart.
#[derive(Clone, Copy, Default)]
struct Unchanged<'a> {
    here: Option<Pair<'a>>,
    above: Option<Pair<'a>>,
}

impl<'a> Unchanged<'a> {
    fn holds(&self) -> bool {
        self.here.or(self.above).is_some_and(|(node, new, old)| ratchet::unchanged(node, new, old))
    }

    fn below(self, pair: Option<Pair<'a>>) -> Self {
        match self.here {
            Some(here) => Unchanged { here: pair, above: Some(here) },
            None => self,
        }
    }
}

impl<'a> Walk<'a> {
    fn node(
        &mut self,
        node: &'a Node,
        value: &'a Value,
        old: Option<&'a Value>,
        unchanged: Unchanged<'a>,
    ) -> Result<(), Stop> {
        if !node.has_rules || value.is_null() {
            return Ok(());
        }
        if let Some(set) = node.rule_set.and_then(|i| self.rules.get(i)) {
            self.run(node, set, value, old.filter(|old| !old.is_null()), unchanged)?;
        }
        match value {
            Value::Array(list) => self.items(node, list, old, unchanged),
            Value::Object(fields) => self.fields(node, fields, old, unchanged),
            _ => Ok(()),
        }
    }

    fn fields(
        &mut self,
        node: &'a Node,
        fields: &'a serde_json::Map<String, Value>,
        old: Option<&'a Value>,
        unchanged: Unchanged<'a>,
    ) -> Result<(), Stop> {
        for (name, value) in fields {
            let declared = node.property(name);
            let child = match (declared, &node.additional) {
                (Some(child), _) => child,
                (None, Additional::Schema(child)) => child,
                _ => continue,
            };
            if !child.has_rules {
                continue;
            }
            let old = old.and_then(|old| old.get(name));
            let fixed = self.path.is_empty() && matches!(name.as_str(), "apiVersion" | "kind");
            let below = match fixed {
                true => Unchanged::default(),
                false => unchanged.below(old.map(|old| (child, value, old))),
            };
            let length = self.path.len();
            push_field(&mut self.path, name, declared.is_some());
            self.node(child, value, old, below)?;
            self.path.truncate(length);
        }
        Ok(())
    }

    fn items(
        &mut self,
        node: &'a Node,
        list: &'a [Value],
        old: Option<&'a Value>,
        unchanged: Unchanged<'a>,
    ) -> Result<(), Stop> {
        let Some(items) = node.items.as_deref().filter(|items| items.has_rules) else { return Ok(()) };
        for (i, value) in list.iter().enumerate() {
            let old = match node.list_type {
                ListType::Map => corresponding(&node.list_map_keys, value, old),
                _ => None,
            };
            let length = self.path.len();
            self.path.push_str(&format!("[{i}]"));
            self.node(items, value, old, unchanged.below(old.map(|old| (items, value, old))))?;
            self.path.truncate(length);
        }
        Ok(())
    }

    fn run(
        &mut self,
        node: &'a Node,
        set: &'a [Rule],
        value: &'a Value,
        old: Option<&'a Value>,
        unchanged: Unchanged<'a>,
    ) -> Result<(), Stop> {
        for rule in set {
            if rule.uses_old_self && old.is_none() && !rule.optional_old_self {
                continue;
            }
            if self.budget == 0 {
                self.errors.push(self.about_type(node, OUT_OF_BUDGET));
                return Err(Stop);
            }
            match self.eval(node, rule, &rule.condition, value, old) {
                Ok(Val::Bool(true)) => {}
                Ok(_) => {
                    let forgiven = !rule.uses_old_self && unchanged.holds();
                    if !forgiven {
                        let error = self.failure(node, rule, value, old);
                        self.errors.push(error);
                    }
                }
                Err(error) => {
                    self.errors.push(self.about_type(node, &rule.explain(&error)));
                    if error == EvalError::CostLimit {
                        return Err(Stop);
                    }
                }
            }
        }
        Ok(())
    }

    /// Evaluates one expression of a rule, at its own expense.
    fn eval(
        &mut self,
        node: &'a Node,
        rule: &Rule,
        expr: &'a Expr,
        value: &'a Value,
        old: Option<&'a Value>,
    ) -> Result<Val<'a>, EvalError> {
        let old = old.map(|old| Val::of(old, node));
        let old = match (rule.optional_old_self, old) {
            (true, old) => Some(old.transpose().map(|old| Val::Optional(old.map(Rc::new)))),
            (false, old) => old,
        };
        let allowed = self.budget.min(PER_RULE);
        let mut run = Run::new(Val::of(value, node), old, allowed);
        let result = run.eval(expr);
        self.budget -= allowed - run.left();
        result
    }

    fn failure(&mut self, node: &'a Node, rule: &'a Rule, value: &'a Value, old: Option<&'a Value>) -> FieldError {
        let given = rule.message_expression.as_ref().and_then(|expr| {
            let Ok(Val::Text(text)) = self.eval(node, rule, expr, value, old) else { return None };
            let text = text.trim();
            let usable = !text.is_empty() && text.len() <= MAX_MESSAGE && !text.contains('\n');
            usable.then(|| text.to_owned())
        });
        let detail = match (given, &rule.message) {
            (Some(text), _) => text,
            (None, Some(message)) => message.clone(),
            (None, None) => format!("failed rule: {}", rule.source.trim()),
        };
        let field = self.field(rule.field_path.as_deref());
        match (rule.reason, node.type_) {
            (CauseReason::FieldValueForbidden | CauseReason::FieldValueRequired, _) => {
                FieldError::new(rule.reason, field, &detail)
            }
            (CauseReason::FieldValueDuplicate, Some(Type::Object | Type::Array)) => {
                FieldError::new(rule.reason, field, "")
            }
            (CauseReason::FieldValueDuplicate, _) => FieldError::with_value(rule.reason, field, value, ""),
            (_, Some(Type::Object | Type::Array)) => FieldError::new(rule.reason, field, &detail),
            _ => FieldError::with_value(rule.reason, field, value, &detail),
        }
    }

    /// The path of the node, or of a field under it.
    fn field(&self, below: Option<&str>) -> String {
        let mut field = self.path.clone();
        if let Some(below) = below {
            push_field(&mut field, below, true);
        }
        if field.is_empty() { "<nil>".into() } else { field }
    }

    /// An error that shows the type in place of the value.
    fn about_type(&self, node: &Node, detail: &str) -> FieldError {
        let name = node.type_.map_or("", Type::name);
        FieldError::with_text(CauseReason::FieldValueInvalid, self.field(None), &gotext::quote(name), detail)
    }
}
