//! Kubernetes' conditions: `lastTransitionTime` moves only when the status does.

use nightshift_crds::{Condition, Time};

/// Longest message the API keeps of a condition, in bytes.
const MAX_MESSAGE: usize = 32_768;

/// One condition to be set.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// Its type.
    pub type_: &'a str,
    /// `Some(true)`: "True", `Some(false)`: "False", `None`: "Unknown".
    pub status: Option<bool>,
    /// CamelCase.
    pub reason: &'a str,
    /// In words.
    pub message: &'a str,
}

/// Sets or replaces a condition of that type.
pub fn set(conditions: &mut Vec<Condition>, wanted: Wanted<'_>, generation: Option<i64>, now: &Time) {
    let status = match wanted.status {
        Some(true) => "True",
        Some(false) => "False",
        None => "Unknown",
    };
    let before = conditions.iter().position(|condition| condition.type_ == wanted.type_);
    let since = before.map(|at| &conditions[at]).filter(|condition| condition.status == status);
    let since = since.map_or_else(|| now.clone(), |condition| condition.last_transition_time.clone());
    let mut message = wanted.message.to_string();
    if message.len() > MAX_MESSAGE {
        let end = (0..MAX_MESSAGE).rev().find(|end| message.is_char_boundary(*end)).unwrap_or(0);
        message.truncate(end);
    }
    let condition = Condition {
        type_: wanted.type_.into(),
        status: status.into(),
        reason: wanted.reason.into(),
        message,
        observed_generation: generation,
        last_transition_time: since,
    };
    match before {
        Some(at) => conditions[at] = condition,
        None => conditions.push(condition),
    }
}

/// Whether a condition of that type is "True".
pub fn is_true(conditions: &[Condition], type_: &str) -> bool {
    find(conditions, type_).is_some_and(|condition| condition.status == "True")
}

/// The condition of that type.
pub fn find<'a>(conditions: &'a [Condition], type_: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.type_ == type_)
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::jiff::Timestamp;

    #[test]
    fn the_transition_time_moves_with_the_status_alone() {
        let at = |second| Time(Timestamp::from_second(second).unwrap());
        let wanted = |status, message| Wanted { type_: "Ready", status: Some(status), reason: "R", message };
        let mut conditions = Vec::new();
        set(&mut conditions, wanted(false, "a"), Some(1), &at(1));
        set(&mut conditions, wanted(false, "b"), Some(2), &at(2));
        assert_eq!(conditions[0].last_transition_time, at(1));
        assert_eq!((conditions[0].message.as_str(), conditions[0].observed_generation), ("b", Some(2)));
        set(&mut conditions, wanted(true, "c"), Some(2), &at(3));
        assert_eq!(conditions[0].last_transition_time, at(3));
        assert!(is_true(&conditions, "Ready") && !is_true(&conditions, "Other"));
        assert_eq!(conditions.len(), 1);
    }
}
