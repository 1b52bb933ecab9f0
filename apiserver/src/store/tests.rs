//! The store alone: expectations within a batch, past revisions, expiry, durability.

use super::*;

fn write(name: &str, expect: Expect, delete: bool) -> Write {
    Write {
        resource: "/things".into(),
        key: Key::new("ns", name),
        expect,
        delete,
        draft: crate::object::draft(&serde_json::json!({"metadata": {"name": name, "namespace": "ns", "uid": name}})),
        meta: Meta { uid: name.into(), ..Meta::default() },
        tag: 0,
        inside: None,
    }
}

#[tokio::test]
async fn of_writes_at_once_one_wins() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("db")).unwrap();
    let all = futures::future::join_all((0..50).map(|_| store.write(write("a", Expect::Absent, false)))).await;
    assert_eq!(all.iter().filter(|r| r.is_ok()).count(), 1);
    assert!(all.iter().all(|r| matches!(r, Ok(_) | Err(WriteError::Exists))));
    let rev = store.revision();
    let all = futures::future::join_all((0..50).map(|_| store.write(write("a", Expect::Rev(rev), false)))).await;
    assert_eq!(all.iter().filter(|r| r.is_ok()).count(), 1);
    assert_eq!(store.revision(), rev + 1);
}

#[tokio::test]
async fn the_past_can_be_listed_until_it_is_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let store = Store::open(&path).unwrap();
    let a = store.write(write("a", Expect::Absent, false)).await.unwrap();
    let b = store.write(write("b", Expect::Absent, false)).await.unwrap();
    store.write(write("a", Expect::Rev(a.rev), true)).await.unwrap();
    store.write(write("b", Expect::Rev(b.rev), false)).await.unwrap();
    let names = |rev: u64| {
        store
            .read(|s| s.list_at("/things", "ns", None, rev))
            .map(|l| l.iter().map(|o| (o.key.name.clone(), o.rev)).collect::<Vec<_>>())
    };
    assert_eq!(names(a.rev).unwrap(), [("a".to_owned(), a.rev)]);
    assert_eq!(names(b.rev).unwrap(), [("a".to_owned(), a.rev), ("b".to_owned(), b.rev)]);
    assert_eq!(names(store.revision()).unwrap(), [("b".to_owned(), b.rev + 2)]);
    let kinds: Vec<_> = store.read(|s| s.since("/things", a.rev, 10)).unwrap().events.iter().map(|e| e.kind).collect();
    assert_eq!(kinds, [EventKind::Added, EventKind::Deleted, EventKind::Modified]);
    let rev = store.revision();
    store.close();
    assert_eq!(store.write(write("c", Expect::Absent, false)).await.unwrap_err(), WriteError::Stopped);
    let store = Store::open(&path).unwrap();
    assert_eq!(store.revision(), rev);
    assert_eq!(store.read(|s| s.list("/things", "", None).count()), 1);
    assert!(store.read(|s| s.since("/things", a.rev, 10)).is_err(), "what an earlier process saw is expired");
}

#[tokio::test]
async fn a_missing_namespace_refuses() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("db")).unwrap();
    let inside = Write { inside: Some("ns".into()), ..write("a", Expect::Absent, false) };
    assert_eq!(store.write(inside).await.unwrap_err(), WriteError::NamespaceMissing);
}
