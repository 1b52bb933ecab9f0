//! What bounds the work.
//!
//! In: rules, schemas and objects made to be expensive. Out: none. Invariant: each is refused with a
//! message that says why, in little time and on an ordinary stack.

use nightshift_apimachinery::{Schema, decode_json};
use serde_json::{Value, json};

fn schema(rules: &Value) -> Result<Schema, nightshift_apimachinery::SchemaError> {
    Schema::compile(&json!({"type": "object", "properties": {"spec": {
        "type": "object",
        "properties": {
            "text": {"type": "string"},
            "list": {"type": "array", "items": {"type": "integer"}},
        },
        "x-kubernetes-validations": rules,
    }}}))
}

fn object() -> Value {
    let list: Vec<i64> = (0..2000).collect();
    json!({"apiVersion": "x/v1", "kind": "K", "metadata": {"name": "x"}, "spec": {"text": "a".repeat(100_000), "list": list}})
}

#[test]
fn expensive_rules_stop() {
    for rule in [
        "self.list.all(x, self.list.all(y, x + y >= 0))",
        "self.list.all(x, self.list == self.list.map(y, y))",
        "self.list.all(x, x in self.list)",
        "self.text.replace('a', self.text).size() > 1",
        "lists.range(1000000000).size() > 1",
        "self.list.map(x, self.text).join('').size() > 1",
    ] {
        let schema = schema(&json!([{"rule": rule}])).expect("a schema");
        let errors = schema.validate(&object(), None);
        let message = format!(
            "Invalid value: \"object\": 'operation cancelled: actual cost limit exceeded': no further validation \
             rules will be run due to call cost exceeds limit for rule: {rule}"
        );
        assert_eq!(errors.len(), 1, "{rule}");
        assert_eq!(errors[0].message, message);
    }
}

#[test]
fn many_rules_share_a_budget() {
    let rules = vec![json!({"rule": "self.list.all(x, self.list.exists(y, y == 60 || y == x))"}); 30];
    let schema = schema(&json!(rules)).expect("a schema");
    let errors = schema.validate(&object(), None);
    assert_eq!(errors.len(), 1, "{errors:#?}");
    assert!(errors[0].message.contains("no further validation rules will be run"), "{errors:#?}");
}

#[test]
fn deep_and_long_rules_are_refused() {
    for (rule, reason) in [
        ("(".repeat(8000), "brackets inside each other"),
        ("1 + ".repeat(2000) + "1 > 0", "nested deeper than 150 levels"),
        ("self".to_owned() + &".text".repeat(500), "nested deeper than 150 levels"),
        ("true || ".repeat(5000) + "true", "longer than 16384 bytes"),
    ] {
        let error = schema(&json!([{"rule": rule}])).expect_err("too deep or too long");
        assert_eq!(error.path, "openAPIV3Schema.properties[spec].x-kubernetes-validations[0].rule");
        assert!(error.message.contains(reason), "{error}");
    }
}

#[test]
fn deep_schemas_are_refused() {
    let mut nested = json!({"type": "string"});
    for _ in 0..120 {
        nested = json!({"type": "object", "properties": {"a": nested}});
    }
    assert!(Schema::compile(&nested).is_err_and(|e| e.message.contains("nested deeper")));
}

#[test]
fn the_deepest_object_fits_the_stack() {
    let schema = Schema::compile(&json!({"type": "object", "properties": {"spec": {
        "type": "object", "x-kubernetes-preserve-unknown-fields": true,
        "x-kubernetes-validations": [{"rule": "self == oldSelf"}],
    }}}))
    .expect("a schema");
    let body = format!("{{\"spec\":{}1{}}}", "{\"a\":[".repeat(99), "]}".repeat(99));
    let mut object = decode_json(body.as_bytes()).expect("JSON").value;
    schema.prune(&mut object);
    schema.default(&mut object);
    assert_eq!(schema.validate(&object, Some(&object)), []);
}
