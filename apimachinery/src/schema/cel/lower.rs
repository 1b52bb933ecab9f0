//! From the parser's tree to a rule.
//!
//! In: the tree of the `cel` crate and the types of `self` and `oldSelf`. Out: an [`Expr`] and its
//! type. Invariant: an unknown name, function or field, and an operator that no value could
//! satisfy, is an error here, not at admission.

use super::escape::unescape;
use super::expr::{Access, Binary, Expr, Fold, Literal, OptionalMap, Select};
use super::functions;
use super::types::Ty;
use cel::IdedExpr;
use cel::common::ast::{CallExpr, ComprehensionExpr, EntryExpr, Expr as Ast, LiteralValue, SelectExpr, operators};

/// Deeper rules are refused, so that evaluation never runs out of stack.
const MAX_DEPTH: usize = 150;

/// The names in scope while lowering.
pub(crate) struct Scope<'s> {
    names: Vec<(String, Ty<'s>)>,
    depth: usize,
    /// List literals may mix types: they are arguments of `format`.
    pub(crate) mixed_lists: bool,
    /// Whether `oldSelf` was referred to.
    pub(crate) uses_old_self: bool,
}

type Lowered<'s> = Result<(Expr, Ty<'s>), String>;

impl<'s> Scope<'s> {
    /// A scope with `self` and `oldSelf`.
    pub(crate) fn new(this: Ty<'s>, optional_old: bool) -> Self {
        let old = if optional_old { Ty::Optional(Box::new(this.clone())) } else { this.clone() };
        Self {
            names: vec![("self".into(), this), ("oldSelf".into(), old)],
            depth: 0,
            mixed_lists: false,
            uses_old_self: false,
        }
    }

    /// Whether a name is a variable.
    pub(crate) fn declares(&self, name: &str) -> bool {
        self.names.iter().any(|(n, _)| n == name)
    }

    /// Lowers with one more variable in scope.
    pub(crate) fn with(&mut self, name: &str, ty: Ty<'s>, ast: &IdedExpr) -> Lowered<'s> {
        self.names.push((name.to_owned(), ty));
        let lowered = self.lower(ast);
        self.names.pop();
        lowered
    }

    /// Lowers one node.
    pub(crate) fn lower(&mut self, ast: &IdedExpr) -> Lowered<'s> {
        if self.depth >= MAX_DEPTH {
            return Err(format!("expression is nested deeper than {MAX_DEPTH} levels"));
        }
        self.depth += 1;
        let lowered = match &ast.expr {
            Ast::Literal(literal) => Ok(constant(literal)),
            Ast::Ident(name) => self.name(name),
            Ast::Select(select) => self.select(select),
            Ast::Call(call) => self.call(call),
            Ast::List(list) => self.list(list),
            Ast::Map(map) => self.map(map),
            Ast::Comprehension(fold) => self.fold(fold),
            Ast::Struct(s) => Err(format!("undeclared reference to '{}' (in container '')", s.type_name)),
            Ast::Unspecified => Err("empty expression".into()),
        };
        self.depth -= 1;
        lowered
    }

    fn name(&mut self, name: &str) -> Lowered<'s> {
        if let Some((_, ty)) = self.names.iter().rev().find(|(n, _)| n == name) {
            self.uses_old_self |= name == "oldSelf";
            return Ok((Expr::Name(name.to_owned()), ty.clone()));
        }
        match functions::type_name(name) {
            Some(name) => Ok((Expr::Literal(Literal::Type(name)), Ty::Dyn)),
            None => Err(format!("undeclared reference to '{name}' (in container '')")),
        }
    }

    fn select(&mut self, select: &SelectExpr) -> Lowered<'s> {
        if let Some(name) = functions::qualified_type(&select.operand, &select.field) {
            return Ok((Expr::Literal(Literal::Type(name)), Ty::Dyn));
        }
        let (operand, ty) = self.lower(&select.operand)?;
        let field = ty.field(&select.field)?;
        let access = if select.test { Access::Test } else { Access::Value };
        let ty = if select.test { Ty::Bool } else { field };
        Ok((selection(operand, &select.field, access), ty))
    }

    fn list(&mut self, list: &cel::common::ast::ListExpr) -> Lowered<'s> {
        let mut elements = Vec::with_capacity(list.elements.len());
        let mut ty: Option<Ty<'s>> = None;
        for (i, element) in list.elements.iter().enumerate() {
            let optional = list.optional_indices.contains(&i);
            let (element, element_ty) = self.lower(element)?;
            elements.push((element, optional));
            let element_ty = match element_ty {
                Ty::Optional(inner) if optional => *inner,
                other => other,
            };
            ty = Some(match ty {
                Some(known) if !self.mixed_lists && !known.fits(&element_ty) => {
                    return Err(format!("expected type '{known}' but found '{element_ty}'"));
                }
                Some(known) => known.join(element_ty),
                None => element_ty,
            });
        }
        Ok((Expr::List(elements), Ty::List(Box::new(ty.unwrap_or(Ty::Dyn)))))
    }

    fn map(&mut self, map: &cel::common::ast::MapExpr) -> Lowered<'s> {
        let mut entries = Vec::with_capacity(map.entries.len());
        let mut key_type = Ty::Text;
        for entry in &map.entries {
            let EntryExpr::MapEntry(entry) = &entry.expr else {
                return Err("a map literal has keys and values".into());
            };
            let (key, key_ty) = self.lower(&entry.key)?;
            key_type = key_type.join(key_ty);
            entries.push((key, self.lower(&entry.value)?.0, entry.optional));
        }
        // Only maps by text have a type here.
        let ty = if matches!(key_type, Ty::Text) { Ty::Map(Box::new(Ty::Dyn)) } else { Ty::Dyn };
        Ok((Expr::Map(entries), ty))
    }

    fn fold(&mut self, fold: &ComprehensionExpr) -> Lowered<'s> {
        let (range, range_ty) = self.lower(&fold.iter_range)?;
        if !matches!(range_ty, Ty::List(_) | Ty::Map(_) | Ty::Object(_) | Ty::Dyn) {
            return Err(format!("expression of type '{range_ty}' cannot be range of a comprehension"));
        }
        let item_ty = range_ty.iterated();
        let (start, start_ty) = self.lower(&fold.accu_init)?;
        self.names.push((fold.accu_var.clone(), start_ty));
        let condition = self.lower(&fold.loop_cond).map(|(e, _)| e);
        let step = self.with(&fold.iter_var, item_ty, &fold.loop_step);
        // Of `map` the step knows the element's type, of `filter` and `all` the start does.
        let result = self.lower(&fold.result);
        self.names.pop();
        let (step, step_ty) = step?;
        let (result, result_ty) = result?;
        let ty = if matches!(result, Expr::Name(_)) { step_ty } else { result_ty };
        Ok((
            Expr::Fold(Box::new(Fold {
                range,
                item: fold.iter_var.clone(),
                second: None,
                result_name: fold.accu_var.clone(),
                start,
                condition: condition?,
                step,
                result,
            })),
            ty,
        ))
    }

    fn call(&mut self, call: &CallExpr) -> Lowered<'s> {
        if call.target.is_none()
            && let Some(lowered) = self.operator(call)
        {
            return lowered;
        }
        if let Some(target) = &call.target {
            if let Some(lowered) = self.two_variables(call, target) {
                return lowered;
            }
            if let ("optMap" | "optFlatMap", [name, body]) = (call.func_name.as_str(), call.args.as_slice()) {
                return self.optional_map(target, name, body, call.func_name == "optFlatMap");
            }
        }
        functions::lower(self, call)
    }

    fn optional_map(&mut self, target: &IdedExpr, name: &IdedExpr, body: &IdedExpr, flat: bool) -> Lowered<'s> {
        let Ast::Ident(name) = &name.expr else { return Err("argument must be a simple name".into()) };
        let (operand, ty) = self.lower(target)?;
        let inner = match ty {
            Ty::Optional(inner) => *inner,
            _ => Ty::Dyn,
        };
        let (body, body_ty) = self.with(name, inner, body)?;
        let ty = if flat { body_ty } else { Ty::Optional(Box::new(body_ty)) };
        Ok((Expr::OptionalMap(Box::new(OptionalMap { operand, name: name.clone(), body, flat })), ty))
    }

    /// `all` and `exists` with an index or key and a value.
    fn two_variables(&mut self, call: &CallExpr, target: &IdedExpr) -> Option<Lowered<'s>> {
        let [first, second, body] = call.args.as_slice() else { return None };
        let all = match call.func_name.as_str() {
            "all" => true,
            "exists" => false,
            _ => return None,
        };
        let (Ast::Ident(first), Ast::Ident(second)) = (&first.expr, &second.expr) else {
            return Some(Err("argument must be a simple name".into()));
        };
        Some(self.lower(target).and_then(|(range, ty)| {
            let (first_ty, second_ty) = ty.iterated_pairs();
            self.names.push((first.clone(), first_ty));
            let body = self.with(second, second_ty, body);
            self.names.pop();
            let accumulator = || Expr::Name("@result".into());
            let (condition, step) = if all {
                (accumulator(), Expr::And(Box::new([accumulator(), body?.0])))
            } else {
                (Expr::Not(Box::new(accumulator())), Expr::Or(Box::new([accumulator(), body?.0])))
            };
            let fold = Fold {
                range,
                item: first.clone(),
                second: Some(second.clone()),
                result_name: "@result".into(),
                start: Expr::Literal(Literal::Bool(all)),
                condition: Expr::NotStrictlyFalse(Box::new(condition)),
                step,
                result: accumulator(),
            };
            Ok((Expr::Fold(Box::new(fold)), Ty::Bool))
        }))
    }

    fn operator(&mut self, call: &CallExpr) -> Option<Lowered<'s>> {
        let name = call.func_name.as_str();
        Some(match (name, call.args.as_slice()) {
            (operators::CONDITIONAL, [test, yes, no]) => self.conditional(test, yes, no),
            (operators::LOGICAL_AND, [a, b]) => self.logic(name, a, b).map(|pair| (Expr::And(pair), Ty::Bool)),
            (operators::LOGICAL_OR, [a, b]) => self.logic(name, a, b).map(|pair| (Expr::Or(pair), Ty::Bool)),
            (operators::LOGICAL_NOT, [a]) => self.boolean(name, a).map(|e| (Expr::Not(Box::new(e)), Ty::Bool)),
            (operators::NOT_STRICTLY_FALSE, [a]) => {
                self.lower(a).map(|(e, _)| (Expr::NotStrictlyFalse(Box::new(e)), Ty::Bool))
            }
            (operators::NEGATE, [a]) => self.lower(a).and_then(|(e, ty)| match ty {
                Ty::Int | Ty::Double | Ty::Dyn | Ty::Duration => Ok((Expr::Negate(Box::new(e)), ty)),
                other => Err(no_overload(name, &[other])),
            }),
            (operators::INDEX | operators::OPT_INDEX, [a, b]) => self.index(a, b, name == operators::OPT_INDEX),
            (operators::OPT_SELECT, [operand, field]) => self.optional_select(operand, field),
            (_, [a, b]) => self.binary(binary(name)?, name, a, b),
            _ => return None,
        })
    }

    fn conditional(&mut self, test: &IdedExpr, yes: &IdedExpr, no: &IdedExpr) -> Lowered<'s> {
        let test = self.boolean(operators::CONDITIONAL, test)?;
        let (yes, yes_ty) = self.lower(yes)?;
        let (no, no_ty) = self.lower(no)?;
        if !yes_ty.fits(&no_ty) {
            return Err(no_overload(operators::CONDITIONAL, &[Ty::Bool, yes_ty, no_ty]));
        }
        // An empty list literal fits every list and says nothing of its elements.
        let ty = if matches!(yes_ty, Ty::List(_)) { yes_ty.join(no_ty) } else { yes_ty };
        Ok((Expr::Conditional(Box::new([test, yes, no])), ty))
    }

    fn logic(&mut self, name: &str, a: &IdedExpr, b: &IdedExpr) -> Result<Box<[Expr; 2]>, String> {
        Ok(Box::new([self.boolean(name, a)?, self.boolean(name, b)?]))
    }

    fn boolean(&mut self, operator: &str, ast: &IdedExpr) -> Result<Expr, String> {
        match self.lower(ast)? {
            (expr, Ty::Bool | Ty::Dyn) => Ok(expr),
            (_, other) => Err(no_overload(operator, &[other])),
        }
    }

    fn index(&mut self, operand: &IdedExpr, index: &IdedExpr, optional: bool) -> Lowered<'s> {
        let (operand, ty) = self.lower(operand)?;
        let (index, index_ty) = self.lower(index)?;
        let fits = match &ty {
            Ty::List(_) => matches!(index_ty, Ty::Int | Ty::Dyn),
            Ty::Map(_) => matches!(index_ty, Ty::Text | Ty::Dyn),
            Ty::Optional(_) | Ty::Dyn => true,
            _ => false,
        };
        if !fits {
            return Err(no_overload(if optional { operators::OPT_INDEX } else { operators::INDEX }, &[ty, index_ty]));
        }
        let element = ty.element();
        let ty = match element {
            Ty::Optional(_) => element,
            other if optional => Ty::Optional(Box::new(other)),
            other => other,
        };
        Ok((Expr::Index { operands: Box::new([operand, index]), optional }, ty))
    }

    fn optional_select(&mut self, operand: &IdedExpr, field: &IdedExpr) -> Lowered<'s> {
        let Ast::Literal(LiteralValue::String(field)) = &field.expr else {
            return Err("optional selection needs a field name".into());
        };
        let (operand, ty) = self.lower(operand)?;
        let ty = match ty.field(field.inner())? {
            Ty::Optional(inner) => Ty::Optional(inner),
            other => Ty::Optional(Box::new(other)),
        };
        Ok((selection(operand, field.inner(), Access::Optional), ty))
    }

    fn binary(&mut self, operator: Binary, name: &str, a: &IdedExpr, b: &IdedExpr) -> Lowered<'s> {
        let (left, left_ty) = self.lower(a)?;
        let (right, right_ty) = self.lower(b)?;
        let ty = result_of(operator, &left_ty, &right_ty).ok_or_else(|| no_overload(name, &[left_ty, right_ty]))?;
        Ok((Expr::Binary(operator, Box::new([left, right])), ty))
    }
}

fn selection(operand: Expr, identifier: &str, access: Access) -> Expr {
    let property = unescape(identifier);
    Expr::Select(Box::new(Select { operand, identifier: identifier.to_owned(), property, access }))
}

/// The type of `a operator b`; `None` where no such operator exists.
fn result_of<'s>(operator: Binary, a: &Ty<'s>, b: &Ty<'s>) -> Option<Ty<'s>> {
    let time = |ty: &Ty<'_>| matches!(ty, Ty::Timestamp | Ty::Duration | Ty::Dyn);
    let ordered =
        |ty: &Ty<'_>| ty.number() || matches!(ty, Ty::Text | Ty::Bytes | Ty::Bool | Ty::Timestamp | Ty::Duration);
    match operator {
        Binary::Equal | Binary::NotEqual => a.fits(b).then_some(Ty::Bool),
        Binary::Less | Binary::LessEqual | Binary::Greater | Binary::GreaterEqual => {
            let fits = ordered(a) && ordered(b) && (a.fits(b) || a.number() && b.number());
            fits.then_some(Ty::Bool)
        }
        Binary::In => match b {
            Ty::List(element) => a.fits(element).then_some(Ty::Bool),
            Ty::Map(_) | Ty::Dyn => Some(Ty::Bool),
            _ => None,
        },
        Binary::Add | Binary::Subtract if time(a) && time(b) => Some(Ty::Dyn),
        Binary::Add if matches!(a, Ty::Text | Ty::Bytes | Ty::List(_)) => a.fits(b).then(|| a.clone().join(b.clone())),
        Binary::Add if matches!(a, Ty::Dyn) => Some(Ty::Dyn),
        _ if a.number() && b.number() && a.fits(b) => Some(a.clone().join(b.clone())),
        _ => None,
    }
}

fn no_overload(operator: &str, types: &[Ty<'_>]) -> String {
    let types: Vec<String> = types.iter().map(Ty::to_string).collect();
    format!("found no matching overload for '{operator}' applied to '({})'", types.join(", "))
}

fn binary(name: &str) -> Option<Binary> {
    Some(match name {
        operators::ADD => Binary::Add,
        operators::SUBSTRACT => Binary::Subtract,
        operators::MULTIPLY => Binary::Multiply,
        operators::DIVIDE => Binary::Divide,
        operators::MODULO => Binary::Modulo,
        operators::EQUALS => Binary::Equal,
        operators::NOT_EQUALS => Binary::NotEqual,
        operators::LESS => Binary::Less,
        operators::LESS_EQUALS => Binary::LessEqual,
        operators::GREATER => Binary::Greater,
        operators::GREATER_EQUALS => Binary::GreaterEqual,
        operators::IN => Binary::In,
        _ => return None,
    })
}

fn constant<'s>(literal: &LiteralValue) -> (Expr, Ty<'s>) {
    let (literal, ty) = match literal {
        LiteralValue::Null => (Literal::Null, Ty::Null),
        LiteralValue::Boolean(b) => (Literal::Bool(*b.inner()), Ty::Bool),
        LiteralValue::Int(i) => (Literal::Int(*i.inner()), Ty::Int),
        LiteralValue::UInt(u) => (Literal::Uint(*u.inner()), Ty::Uint),
        LiteralValue::Double(d) => (Literal::Double(*d.inner()), Ty::Double),
        LiteralValue::String(s) => (Literal::Text(s.inner().to_owned()), Ty::Text),
        LiteralValue::Bytes(b) => (Literal::Bytes(b.inner().to_vec()), Ty::Bytes),
    };
    (Expr::Literal(literal), ty)
}
