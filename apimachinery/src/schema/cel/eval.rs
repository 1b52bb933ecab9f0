//! Running a rule.
//!
//! In: a rule, `self` and `oldSelf`. Out: its value. Invariant: work is bounded by the budget, and
//! recursion by the depth that lowering allowed.

use super::call;
use super::error::EvalError;
use super::expr::{Access, Binary, Expr, Fold, Literal, OptionalMap, Select};
use super::ops;
use super::value::Val;
use crate::schema::node::ListType;
use std::rc::Rc;

type Outcome<'a> = Result<Val<'a>, EvalError>;

/// A run: the variables in scope and the work left.
pub(crate) struct Run<'a> {
    /// A variable may hold an error: what a macro has accumulated so far.
    variables: Vec<(&'a str, Outcome<'a>)>,
    budget: u64,
}

impl<'a> Run<'a> {
    /// A run with `self`, and `oldSelf` where it is defined. Either may be of the wrong type, which
    /// matters only to a rule that looks at it.
    pub(crate) fn new(this: Outcome<'a>, old: Option<Outcome<'a>>, budget: u64) -> Self {
        let mut variables = vec![("self", this)];
        variables.extend(old.map(|old| ("oldSelf", old)));
        Self { variables, budget }
    }

    /// What is left of the budget.
    pub(crate) fn left(&self) -> u64 {
        self.budget
    }

    pub(crate) fn charge(&mut self, cost: u64) -> Result<(), EvalError> {
        match self.budget.checked_sub(cost) {
            Some(left) => {
                self.budget = left;
                Ok(())
            }
            None => {
                self.budget = 0;
                Err(EvalError::CostLimit)
            }
        }
    }

    /// Evaluates one node.
    pub(crate) fn eval(&mut self, expr: &'a Expr) -> Outcome<'a> {
        self.charge(1)?;
        match expr {
            Expr::Literal(literal) => Ok(constant(literal)),
            Expr::Name(name) => self.variable(name),
            Expr::Select(select) => self.select(select),
            Expr::Index { operands, optional } => self.index(&operands[0], &operands[1], *optional),
            Expr::Conditional(parts) => match self.boolean(&parts[0])? {
                true => self.eval(&parts[1]),
                false => self.eval(&parts[2]),
            },
            Expr::And(parts) => self.logic(&parts[0], &parts[1], false),
            Expr::Or(parts) => self.logic(&parts[0], &parts[1], true),
            Expr::Not(inner) => self.boolean(inner).map(|b| Val::Bool(!b)),
            Expr::NotStrictlyFalse(inner) => match self.eval(inner) {
                Err(EvalError::CostLimit) => Err(EvalError::CostLimit),
                Ok(Val::Bool(false)) => Ok(Val::Bool(false)),
                _ => Ok(Val::Bool(true)),
            },
            Expr::Negate(inner) => ops::negate(&self.eval(inner)?),
            Expr::Binary(operator, parts) => self.binary(*operator, &parts[0], &parts[1]),
            Expr::List(elements) => self.list(elements),
            Expr::Map(entries) => self.map(entries),
            Expr::Fold(fold) => self.fold(fold),
            Expr::OptionalMap(map) => self.optional_map(map),
            Expr::Call(call) => call::call(self, call),
        }
    }

    fn variable(&self, name: &str) -> Outcome<'a> {
        match self.variables.iter().rev().find(|(known, _)| *known == name) {
            Some((_, value)) => value.clone(),
            None => Err(format!("no such attribute(s): {name}").into()),
        }
    }

    fn boolean(&mut self, expr: &'a Expr) -> Result<bool, EvalError> {
        match self.eval(expr)? {
            Val::Bool(b) => Ok(b),
            _ => Err(EvalError::NoOverload),
        }
    }

    /// `&&` and `||`: the deciding value wins over an error on either side.
    fn logic(&mut self, left: &'a Expr, right: &'a Expr, deciding: bool) -> Outcome<'a> {
        let left = self.boolean(left);
        if left == Ok(deciding) {
            return Ok(Val::Bool(deciding));
        }
        if left == Err(EvalError::CostLimit) {
            return Err(EvalError::CostLimit);
        }
        match (left, self.boolean(right)) {
            (_, Ok(right)) if right == deciding => Ok(Val::Bool(deciding)),
            (_, Err(EvalError::CostLimit)) => Err(EvalError::CostLimit),
            (Err(error), _) | (_, Err(error)) => Err(error),
            _ => Ok(Val::Bool(!deciding)),
        }
    }

    fn binary(&mut self, operator: Binary, left: &'a Expr, right: &'a Expr) -> Outcome<'a> {
        let left = self.eval(left)?;
        let right = self.eval(right)?;
        self.charge(cost(operator, &left, &right))?;
        ops::binary(operator, &left, &right)
    }

    fn select(&mut self, select: &'a Select) -> Outcome<'a> {
        let operand = self.eval(&select.operand)?;
        let (operand, optional) = match operand {
            Val::Optional(None) if select.access == Access::Test => return Ok(Val::Bool(false)),
            Val::Optional(None) => return Ok(Val::Optional(None)),
            Val::Optional(Some(inner)) => (inner.as_ref().clone(), true),
            other => (other, select.access == Access::Optional),
        };
        let found = ops::select(&operand, select)?;
        match (select.access, found) {
            (Access::Test, found) => Ok(Val::Bool(found.is_some())),
            (_, found) if optional => Ok(Val::Optional(found.map(Rc::new))),
            (_, Some(value)) => Ok(value),
            (_, None) => Err(format!("no such key: {}", select.identifier).into()),
        }
    }

    fn index(&mut self, operand: &'a Expr, index: &'a Expr, optional: bool) -> Outcome<'a> {
        let (operand, optional) = match self.eval(operand)? {
            Val::Optional(None) => return Ok(Val::Optional(None)),
            Val::Optional(Some(inner)) => (inner.as_ref().clone(), true),
            other => (other, optional),
        };
        let index = self.eval(index)?;
        match ops::index(&operand, &index)? {
            found if optional => Ok(Val::Optional(found.map(Rc::new))),
            Some(value) => Ok(value),
            None if matches!(operand, Val::Object(..) | Val::Map(_)) => {
                Err(format!("no such key: {}", ops::show(&index)).into())
            }
            None => Err(format!("index out of bounds: {}", ops::show(&index)).into()),
        }
    }

    fn list(&mut self, elements: &'a [(Expr, bool)]) -> Outcome<'a> {
        let mut list = Vec::with_capacity(elements.len());
        for (element, optional) in elements {
            match self.eval(element)? {
                Val::Optional(inner) if *optional => list.extend(inner.map(|v| v.as_ref().clone())),
                value => list.push(value),
            }
        }
        Ok(Val::List(Rc::new(list)))
    }

    fn map(&mut self, entries: &'a [(Expr, Expr, bool)]) -> Outcome<'a> {
        let mut map: Vec<(Val<'a>, Val<'a>)> = Vec::with_capacity(entries.len());
        for (key, value, optional) in entries {
            let key = self.eval(key)?;
            let value = match self.eval(value)? {
                Val::Optional(None) if *optional => continue,
                Val::Optional(Some(inner)) if *optional => inner.as_ref().clone(),
                value => value,
            };
            for (known, _) in &map {
                if ops::equal(known, &key)? {
                    return Err(format!("Failed with repeated key: {}", ops::show(&key)).into());
                }
            }
            map.push((key, value));
        }
        Ok(Val::Map(Rc::new(map)))
    }

    fn optional_map(&mut self, map: &'a OptionalMap) -> Outcome<'a> {
        let inner = match self.eval(&map.operand)? {
            Val::Optional(Some(inner)) => inner.as_ref().clone(),
            Val::Optional(None) => return Ok(Val::Optional(None)),
            _ => return Err(EvalError::NoOverload),
        };
        self.variables.push((&map.name, Ok(inner)));
        let result = self.eval(&map.body);
        self.variables.pop();
        if map.flat { result } else { Ok(Val::Optional(Some(Rc::new(result?)))) }
    }

    /// A macro: the accumulator stands on the stack below the loop's variables.
    fn fold(&mut self, fold: &'a Fold) -> Outcome<'a> {
        let range = self.eval(&fold.range)?;
        let items = self.items(&range, fold.second.is_some())?;
        let start = self.eval(&fold.start);
        let base = self.variables.len();
        self.variables.push((&fold.result_name, start));
        let result = self.run_fold(fold, items, base);
        self.variables.truncate(base);
        result
    }

    fn run_fold(&mut self, fold: &'a Fold, items: Vec<(Val<'a>, Option<Val<'a>>)>, base: usize) -> Outcome<'a> {
        for (item, second) in items {
            self.charge(1)?;
            match self.eval(&fold.condition)? {
                Val::Bool(true) => {}
                _ => break,
            }
            self.variables.push((&fold.item, Ok(item)));
            if let (Some(name), Some(second)) = (&fold.second, second) {
                self.variables.push((name, Ok(second)));
            }
            let next = self.step(&fold.step, &fold.result_name, base);
            self.variables.truncate(base + 1);
            if next == Next::Stop {
                return Err(EvalError::CostLimit);
            }
        }
        self.eval(&fold.result)
    }

    /// One step of a macro. `result + [x]` appends in place, so that `map` and `filter` take time
    /// in proportion to the list.
    fn step(&mut self, step: &'a Expr, name: &str, base: usize) -> Next {
        let is_result = |expr: &Expr| matches!(expr, Expr::Name(n) if n == name);
        match step {
            Expr::Name(_) if is_result(step) => return Next::Go,
            Expr::Conditional(parts) => match self.boolean(&parts[0]) {
                Ok(true) => return self.step(&parts[1], name, base),
                Ok(false) => return self.step(&parts[2], name, base),
                Err(error) => return self.store(base, Err(error)),
            },
            Expr::Binary(Binary::Add, parts) if is_result(&parts[0]) => {
                if let Expr::List(elements) = &parts[1] {
                    return match self.list(elements) {
                        Ok(Val::List(more)) => self.append(base, &more),
                        Ok(_) => Next::Go,
                        Err(error) => self.store(base, Err(error)),
                    };
                }
            }
            _ => {}
        }
        let value = self.eval(step);
        self.store(base, value)
    }

    fn store(&mut self, base: usize, value: Outcome<'a>) -> Next {
        let next = if matches!(value, Err(EvalError::CostLimit)) { Next::Stop } else { Next::Go };
        if let Some((_, slot)) = self.variables.get_mut(base) {
            *slot = value;
        }
        next
    }

    fn append(&mut self, base: usize, more: &[Val<'a>]) -> Next {
        if let Some((_, Ok(Val::List(list)))) = self.variables.get_mut(base) {
            Rc::make_mut(list).extend_from_slice(more);
        }
        Next::Go
    }

    /// What a macro runs over: elements or keys; with two variables, pairs.
    fn items(&mut self, range: &Val<'a>, pairs: bool) -> Result<Vec<(Val<'a>, Option<Val<'a>>)>, EvalError> {
        self.charge(range.weight())?;
        if let Some(elements) = range.elements() {
            let elements = elements?.into_owned();
            let indexed = (0..).map(Val::Int).zip(elements);
            return Ok(match pairs {
                true => indexed.map(|(i, v)| (i, Some(v))).collect(),
                false => indexed.map(|(_, v)| (v, None)).collect(),
            });
        }
        match range.entries() {
            Some(entries) if pairs => Ok(entries?.into_iter().map(|(k, v)| (k, Some(v))).collect()),
            Some(entries) => Ok(entries?.into_iter().map(|(k, _)| (k, None)).collect()),
            None => Err(EvalError::NoOverload),
        }
    }
}

/// What an operator costs, beyond one step.
fn cost(operator: Binary, left: &Val<'_>, right: &Val<'_>) -> u64 {
    // Sets and map lists are compared and united element by element.
    let pairs = match left {
        Val::Array(list, node) if node.list_type != ListType::Atomic => {
            list.len() as u64 * right.len().unwrap_or(0) as u64 / 10
        }
        _ => 0,
    };
    match operator {
        Binary::In => right.deep_weight(),
        Binary::Add => pairs + left.weight() + right.weight(),
        Binary::Equal | Binary::NotEqual => pairs + left.deep_weight().min(right.deep_weight()),
        _ => left.weight().min(right.weight()),
    }
}

/// Whether a macro may go on.
#[derive(PartialEq, Eq)]
enum Next {
    Go,
    Stop,
}

fn constant(literal: &Literal) -> Val<'_> {
    match literal {
        Literal::Null => Val::Null,
        Literal::Bool(b) => Val::Bool(*b),
        Literal::Int(i) => Val::Int(*i),
        Literal::Uint(u) => Val::Uint(*u),
        Literal::Double(d) => Val::Double(*d),
        Literal::Text(text) => Val::Text(text.as_str().into()),
        Literal::Bytes(bytes) => Val::Bytes(bytes.as_slice().into()),
        Literal::Type(name) => Val::Type(name),
    }
}
