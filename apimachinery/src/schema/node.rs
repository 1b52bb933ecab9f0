//! The compiled form of one schema node.
//!
//! In: nothing; `compile` fills it. Out: what every stage reads. Invariant: nodes are immutable
//! once compiled, so a schema may be shared between threads.

use super::formats::Format;
use regex::Regex;
use serde_json::Value;
use std::collections::HashMap;

/// The JSON types of OpenAPI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Type {
    Object,
    Array,
    String,
    Integer,
    Number,
    Boolean,
}

impl Type {
    pub(crate) fn parse(name: &str) -> Option<Type> {
        Some(match name {
            "object" => Type::Object,
            "array" => Type::Array,
            "string" => Type::String,
            "integer" => Type::Integer,
            "number" => Type::Number,
            "boolean" => Type::Boolean,
            _ => return None,
        })
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Type::Object => "object",
            Type::Array => "array",
            Type::String => "string",
            Type::Integer => "integer",
            Type::Number => "number",
            Type::Boolean => "boolean",
        }
    }
}

/// `x-kubernetes-list-type`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum ListType {
    #[default]
    Atomic,
    Set,
    Map,
}

/// `additionalProperties`.
#[derive(Debug, Default)]
pub(crate) enum Additional {
    /// Not given.
    #[default]
    Absent,
    /// `true`: keys are kept, what is under them has no schema.
    Any,
    /// `false`.
    Forbidden,
    /// A schema of every value.
    Schema(Box<Node>),
}

/// Properties in the order of the schema, with an index by name.
#[derive(Debug, Default)]
pub(crate) struct Properties {
    list: Vec<(String, Node)>,
    index: HashMap<String, usize>,
}

impl Properties {
    pub(crate) fn new(list: Vec<(String, Node)>) -> Self {
        let index = list.iter().enumerate().map(|(i, (name, _))| (name.clone(), i)).collect();
        Self { list, index }
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Node> {
        self.index.get(name).and_then(|i| self.list.get(*i)).map(|(_, node)| node)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&String, &Node)> {
        self.list.iter().map(|(name, node)| (name, node))
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (&String, &mut Node)> {
        self.list.iter_mut().map(|(name, node)| (&*name, node))
    }
}

/// A pattern with its source, which messages repeat.
#[derive(Debug)]
pub(crate) struct Pattern {
    pub(crate) source: String,
    pub(crate) regex: Regex,
}

/// Bounds; absent ones are not checked.
#[derive(Debug, Default)]
pub(crate) struct Bounds {
    pub(crate) minimum: Option<f64>,
    pub(crate) exclusive_minimum: bool,
    pub(crate) maximum: Option<f64>,
    pub(crate) exclusive_maximum: bool,
    pub(crate) multiple_of: Option<f64>,
    pub(crate) min_length: Option<i64>,
    pub(crate) max_length: Option<i64>,
    pub(crate) min_items: Option<i64>,
    pub(crate) max_items: Option<i64>,
    pub(crate) min_properties: Option<i64>,
    pub(crate) max_properties: Option<i64>,
}

/// One node of a structural schema.
#[derive(Debug, Default)]
pub(crate) struct Node {
    pub(crate) type_: Option<Type>,
    pub(crate) int_or_string: bool,
    pub(crate) nullable: bool,
    /// The format, where the type has one of that name; unknown ones are ignored.
    pub(crate) format: Option<Format>,
    /// `None` where the schema has no `properties` at all.
    pub(crate) properties: Option<Properties>,
    pub(crate) additional: Additional,
    pub(crate) items: Option<Box<Node>>,
    pub(crate) required: Vec<String>,
    pub(crate) bounds: Bounds,
    pub(crate) pattern: Option<Pattern>,
    pub(crate) enumeration: Vec<Value>,
    pub(crate) all_of: Vec<Node>,
    pub(crate) any_of: Vec<Node>,
    pub(crate) one_of: Vec<Node>,
    pub(crate) not: Option<Box<Node>>,
    pub(crate) default: Option<Value>,
    pub(crate) preserve_unknown: bool,
    pub(crate) embedded_resource: bool,
    pub(crate) list_type: ListType,
    pub(crate) list_map_keys: Vec<String>,
    /// `apiVersion`, `kind` and `metadata` are part of the value whatever the schema says.
    pub(crate) resource_root: bool,
    /// `x-kubernetes-validations` as given.
    pub(crate) raw_rules: Vec<Value>,
    /// Where this node's compiled rules stand.
    pub(crate) rule_set: Option<usize>,
    /// Whether this node or one below it has rules.
    pub(crate) has_rules: bool,
}

impl Node {
    /// The declared property of that name.
    pub(crate) fn property(&self, name: &str) -> Option<&Node> {
        self.properties.as_ref().and_then(|p| p.get(name))
    }

    /// Numbers the nodes that have rules, in the order in which the rules are compiled.
    pub(crate) fn number_rules(&mut self, next: &mut usize) -> bool {
        self.has_rules = !self.raw_rules.is_empty();
        if self.has_rules {
            self.rule_set = Some(*next);
            *next += 1;
        }
        for (_, property) in self.properties.iter_mut().flat_map(Properties::iter_mut) {
            self.has_rules |= property.number_rules(next);
        }
        if let Additional::Schema(values) = &mut self.additional {
            self.has_rules |= values.number_rules(next);
        }
        if let Some(items) = &mut self.items {
            self.has_rules |= items.number_rules(next);
        }
        self.has_rules
    }

    /// The schema of a field: its property, or else that of additional ones.
    pub(crate) fn field(&self, name: &str) -> Option<&Node> {
        self.property(name).or(match &self.additional {
            Additional::Schema(node) => Some(node),
            _ => None,
        })
    }
}
