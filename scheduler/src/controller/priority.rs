//! Names of priorities → numbers: the cluster's PriorityClasses, or our own three where there is no cluster.
//!
//! in → PriorityClass objects, as their watch saw them · out → a number, or why not · invariant: a name is never taken for
//! another number than its object's; what is Kubernetes' own is refused to tenants.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

/// Priorities where the API server knows no PriorityClass. A job that names none, in a queue that names none, has 0.
pub const BUILT_IN: [(&str, i32); 3] = [("nightshift-high", 100), ("nightshift-low", -100), ("nightshift-normal", 0)];
/// What Kubernetes keeps for its own pods.
const SYSTEM: &str = "system-";
/// Names written out where one is not known.
const NAMES_SHOWN: usize = 8;

/// The table. Cheap to clone; all clones are one.
#[derive(Debug, Clone, Default)]
pub struct Priorities {
    classes: Arc<RwLock<Classes>>,
}

#[derive(Debug, Default)]
struct Classes {
    values: BTreeMap<String, i32>,
    /// The first list ended: a name that is not among them is unknown.
    listed: bool,
}

impl Priorities {
    /// The number behind a name; the error names field and remedy.
    pub fn resolve(&self, field: &str, name: &str) -> Result<i32, String> {
        if name.starts_with(SYSTEM) {
            return Err(format!("{field}: {name} is for Kubernetes' own pods: name another PriorityClass"));
        }
        let classes = self.classes.read().unwrap_or_else(PoisonError::into_inner);
        if !classes.listed {
            return Err(format!(
                "{field}: the PriorityClasses are not read yet; the scheduler needs the right to list them"
            ));
        }
        let classes = &classes.values;
        classes.get(name).copied().ok_or_else(|| {
            let ours = classes.keys().filter(|name| !name.starts_with(SYSTEM));
            let mut names: Vec<&str> = ours.clone().take(NAMES_SHOWN).map(String::as_str).collect();
            if ours.count() > NAMES_SHOWN {
                names.push("…");
            }
            let names = if names.is_empty() { "none for jobs".into() } else { names.join(", ") };
            format!(
                "{field}: there is no PriorityClass {name:?}, but {names}: apply it, name one of them, or leave it out"
            )
        })
    }

    /// There is no cluster: our own.
    pub fn set_built_in(&self) {
        let values = BUILT_IN.map(|(name, value)| (name.to_string(), value)).into();
        self.write(|classes| *classes = Classes { values, listed: true });
    }

    /// The first list ended: what was gathered counts from now on.
    pub fn set_listed(&self) {
        self.write(|classes| classes.listed = true);
    }

    /// Takes a class over; `None`: it is gone. Jobs that were admitted keep their number, as pods do.
    pub fn set(&self, name: &str, value: Option<i32>) {
        self.write(|classes| match value {
            Some(value) => drop(classes.values.insert(name.into(), value)),
            None => drop(classes.values.remove(name)),
        });
    }

    fn write(&self, change: impl FnOnce(&mut Classes)) {
        change(&mut self.classes.write().unwrap_or_else(PoisonError::into_inner));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_resolved_or_the_remedy_is_named() {
        let priorities = Priorities::default();
        assert!(priorities.resolve("f", "nightshift-low").unwrap_err().contains("not read yet"));
        priorities.set_built_in();
        assert_eq!(priorities.resolve("f", "nightshift-low"), Ok(-100));
        let unknown = priorities.resolve("spec.priorityClassName", "urgent").unwrap_err();
        assert!(unknown.contains("nightshift-high, nightshift-low, nightshift-normal"), "{unknown}");

        let cluster = Priorities::default();
        cluster.set("urgent", Some(7));
        // Half a list is none: another class may be in the other half.
        assert!(cluster.resolve("f", "urgent").unwrap_err().contains("not read yet"));
        assert!(cluster.resolve("f", "later").unwrap_err().contains("not read yet"));
        cluster.set_listed();
        cluster.set("system-node-critical", Some(2_000_001_000));
        assert_eq!(cluster.resolve("f", "urgent"), Ok(7));
        assert!(cluster.resolve("f", "system-node-critical").unwrap_err().contains("Kubernetes' own"));
        cluster.set("urgent", None);
        assert!(cluster.resolve("f", "urgent").unwrap_err().contains("but none for jobs"));
    }
}
