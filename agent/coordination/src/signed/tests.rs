use std::{collections::BTreeMap, sync::Arc};

use towpath_host::identity::{Identity, SigningIdentity};

use super::*;
use crate::LocalStore;

fn node_with(
    store: &Arc<LocalStore>,
    name: &str,
    identity: Arc<Identity>,
    first: u64,
) -> (SignedStore, Arc<RecordSigner>) {
    let signer = Arc::new(RecordSigner::new("c".into(), name.into(), SigningIdentity::Bare(identity), first));
    (SignedStore::new(Arc::<LocalStore>::clone(store), Arc::clone(&signer)), signer)
}

fn node(store: &Arc<LocalStore>, name: &str) -> (SignedStore, Arc<RecordSigner>) {
    node_with(store, name, Arc::new(Identity::make().unwrap()), 1)
}

/// Returns the rights of a revision that has one book and no Node objects.
fn rights(book: &str, targets: &[&str]) -> Rights {
    let targets = targets.iter().map(|node| (*node).to_owned()).collect();
    let rights = BookRights { groups: [book.to_owned()].into(), targets, ..BookRights::default() };
    Rights { books: BTreeMap::from([(book.to_owned(), rights)]), ..Rights::default() }
}

fn put(store: &dyn Store, key: &str, value: &str) {
    store.commit(&Txn { then: vec![Op::put(key, value.as_bytes().to_vec())], ..Txn::default() }).unwrap();
}

fn values(store: &dyn Store, prefix: &str) -> Vec<String> {
    let rows = store.read(prefix, &Page::default()).unwrap().rows;
    rows.into_iter().map(|row| String::from_utf8(row.value).unwrap()).collect()
}

fn raw(store: &LocalStore, key: &str) -> Vec<u8> {
    store.read(key, &Page::default()).unwrap().rows[0].value.clone()
}

fn put_back(store: &LocalStore, key: &str, value: Vec<u8>) {
    store.commit(&Txn { then: vec![Op::put(key, value)], ..Txn::default() }).unwrap();
}

#[test]
fn record_counts_only_as_its_writer_wrote_it() {
    let store = Arc::new(LocalStore::default());
    let ((a, _), (b, refused)) = (node(&store, "a"), node(&store, "b"));
    put(&a, "book/facts/a", r#"{"os":"debian"}"#);
    assert_eq!(values(&b, "book/facts/"), [r#"{"os":"debian"}"#], "as it was written, without the signature");
    let original = raw(&store, "book/facts/a");

    put(&*store, "book/facts/c", r#"{"os":"forged"}"#);
    put(&a, "book/facts/d", r#"{"os":"not mine to write"}"#);
    assert_eq!(values(&b, "book/facts/").len(), 1);
    let why = refused.refused();
    assert!(why["book/facts/c"].contains("not signed"), "{why:?}");
    assert!(why["book/facts/d"].contains("only d"), "{why:?}");

    // The cases are the same bytes under another key, changed bytes, and a replayed older record.
    put_back(&store, "book/state/a", original.clone());
    assert_eq!(values(&b, "book/state/").len(), 0);
    put(&*store, "book/facts/a", &String::from_utf8(original.clone()).unwrap().replace("debian", "ubuntu"));
    assert_eq!(values(&b, "book/facts/").len(), 0);
    put(&a, "book/facts/a", r#"{"os":"new"}"#);
    assert_eq!(values(&b, "book/facts/"), [r#"{"os":"new"}"#]);
    put_back(&store, "book/facts/a", original);
    assert_eq!(values(&b, "book/facts/").len(), 0, "an old record that was put back does not count");
}

#[test]
fn record_that_is_put_back_does_not_count_after_a_restart_of_the_reader() {
    let store = Arc::new(LocalStore::default());
    let identity = Arc::new(Identity::make().unwrap());
    let ((a, _), (b, signer)) = (node(&store, "a"), node_with(&store, "b", Arc::clone(&identity), 1));
    put(&a, "book/state/a", r#"{"generation":1}"#);
    let old = raw(&store, "book/state/a");
    put(&a, "book/state/a", r#"{"generation":2}"#);
    assert_eq!(values(&b, "book/state/"), [r#"{"generation":2}"#]);
    let kept = signer.take_changed();
    assert!(values(&b, "book/state/").len() == 1 && signer.changed() == 0, "nothing new is nothing to keep");
    put_back(&store, "book/state/a", old);
    for (kept, counts) in [(kept, 0), (Vec::new(), 1)] {
        let (again, signer) = node_with(&store, "b", Arc::clone(&identity), 1);
        signer.resume(kept, BTreeMap::new());
        assert_eq!(values(&again, "book/state/").len(), counts, "a reader without a journal cannot know");
    }
}

#[test]
fn node_whose_disk_was_restored_continues_above_its_own_records() {
    let store = Arc::new(LocalStore::default());
    let identity = Arc::new(Identity::make().unwrap());
    let (b, _) = node(&store, "b");
    let (a, _) = node_with(&store, "a", Arc::clone(&identity), 1_000);
    put(&a, "book/joined/a", "{}");
    put(&a, "book/mark/a", r#"{"number":7}"#);
    assert_eq!(values(&b, "book/mark/"), [r#"{"number":7}"#]);
    // A forged record with a high number does not count, and does not raise the remembered number.
    let high = String::from_utf8(raw(&store, "book/mark/a")).unwrap().replace("\"seq\":1001", "\"seq\":999999");
    put_back(&store, "book/state/a", high.into_bytes());
    let (restored, signer) = node_with(&store, "a", identity, 5);
    put(&restored, "book/mark/a", r#"{"number":8}"#);
    assert_eq!(values(&b, "book/mark/"), [r#"{"number":8}"#], "its records are not older than its former ones");
    assert_eq!(signer.next(), 1_003);
}

#[test]
fn record_of_another_agent_with_the_same_key_differs_from_an_older_one() {
    let store = Arc::new(LocalStore::default());
    let identity = Arc::new(Identity::make().unwrap());
    let row = |store: &LocalStore| store.read("inbox/a/agent", &Page::default()).unwrap().rows[0].clone();
    let (before, _) = node_with(&store, "a", Arc::clone(&identity), 10);
    put(&before, "inbox/a/agent", r#"{"id":"0"}"#);
    let old = row(&store);
    let (first, _) = node_with(&store, "a", Arc::clone(&identity), 10);
    put(&first, "inbox/a/agent", r#"{"id":"1"}"#);
    assert!(!first.is_of_namesake(&old), "its own record, from before it was started");
    let (clone, _) = node_with(&store, "a", identity, 10);
    put(&clone, "inbox/a/agent", r#"{"id":"2"}"#);
    let by_clone = row(&store);
    assert!(first.is_of_namesake(&by_clone));
    // The first agent writes its record again, and the clone detects it.
    put(&first, "inbox/a/agent", r#"{"id":"1"}"#);
    assert!(clone.is_of_namesake(&row(&store)));
    // A record that another key has signed does not prove that another agent uses this node's key.
    let (stranger, _) = node(&store, "a");
    put(&stranger, "inbox/a/agent", r#"{"id":"3"}"#);
    assert!(!first.is_of_namesake(&row(&store)));
}

#[test]
fn own_mark_from_a_backup_is_read_by_the_node_itself() {
    let store = Arc::new(LocalStore::default());
    let ((a, _), (b, _)) = (node(&store, "a"), node(&store, "b"));
    put(&a, "book/mark/a", r#"{"number":7}"#);
    let backup = raw(&store, "book/mark/a");
    put(&a, "book/mark/a", r#"{"number":9}"#);
    assert_eq!((values(&a, "book/mark/").len(), values(&b, "book/mark/").len()), (1, 1));
    put_back(&store, "book/mark/a", backup);
    assert_eq!(values(&a, "book/mark/"), [r#"{"number":7}"#]);
    assert_eq!(values(&b, "book/mark/").len(), 0);
}

#[test]
fn many_records_that_do_not_count_are_passed_over() {
    let store = Arc::new(LocalStore::default());
    let (a, signer) = node(&store, "a");
    signer.give(rights("n/z", &["a"]));
    for number in 0..20_000 {
        put(&*store, &format!("board/open/n/{number:05}"), "{}");
    }
    put(&a, "board/open/n/z", "{}");
    let first = a.read("board/", &Page { after: None, limit: 1 }).unwrap();
    assert_eq!(first.rows.len(), 1, "the one that counts is found after all others");
}

#[test]
fn deleted_void_record_does_not_block_a_claim() {
    let store = Arc::new(LocalStore::default());
    let (a, _) = node(&store, "a");
    let key = "book/held/n/b/-/n/b/x";
    put(&*store, key, r#"{"kind":"offer"}"#);
    assert_eq!(values(&a, "book/held/").len(), 0);
    store.commit(&Txn { then: vec![Op::Delete(key.into())], ..Txn::default() }).unwrap();
    let txn = Txn {
        compare: vec![Compare::Absent(key.into())],
        then: vec![Op::put(key, br#"{"kind":"claim"}"#.to_vec())],
        ..Txn::default()
    };
    assert!(matches!(a.commit(&txn), Ok(Outcome::Refused { .. })));
    assert!(matches!(a.commit(&txn), Ok(Outcome::Done { .. })), "looked at again");
}

#[test]
fn void_record_can_be_written_over() {
    let store = Arc::new(LocalStore::default());
    let (a, _) = node(&store, "a");
    put(&*store, "board/accepted", r#"{"generation":9}"#);
    let txn = Txn {
        compare: vec![Compare::Absent("board/accepted".into())],
        then: vec![Op::put("board/accepted", br#"{"generation":1}"#.to_vec())],
        ..Txn::default()
    };
    assert_eq!(values(&a, "board/accepted").len(), 0);
    assert!(matches!(a.commit(&txn), Ok(Outcome::Done { .. })));
    assert_eq!(values(&a, "board/accepted"), [r#"{"generation":1}"#]);
    assert!(matches!(a.commit(&txn), Ok(Outcome::Refused { .. })), "what counts is there");
}

#[test]
fn key_of_no_kind_is_not_written() {
    let store = Arc::new(LocalStore::default());
    let (a, _) = node(&store, "a");
    let txn = Txn { then: vec![Op::put("book/other/x", b"{}".to_vec())], ..Txn::default() };
    assert!(matches!(a.commit(&txn), Err(StoreError::Denied(_))));
    put(&*store, "book/other/x", "{}");
    assert_eq!(values(&a, "book/other/").len(), 0);
}

#[test]
fn node_is_known_by_its_first_key_until_git_names_another() {
    let store = Arc::new(LocalStore::default());
    let ((a, known), (other, another)) = (node(&store, "a"), node(&store, "a"));
    let (b, signer) = node(&store, "b");
    put(&a, "book/joined/a", "{}");
    // The reader sees the record of the impostor first, but the join record decides which key counts.
    put(&other, "book/facts/a", r#"{"v":2}"#);
    assert_eq!(values(&b, "book/facts/").len(), 0, "another machine of that name");
    put(&a, "book/facts/a", r#"{"v":1}"#);
    assert_eq!(values(&b, "book/facts/").len(), 1);
    let named = |keys| Rights { nodes: BTreeMap::from([("a".to_owned(), Some(keys))]), ..Rights::default() };
    signer.give(named(known.keys()));
    assert_eq!(values(&b, "book/facts/").len(), 1);
    signer.give(named(another.keys()));
    assert_eq!(values(&b, "book/facts/").len(), 0, "the key before does not count, though its records did");
    put(&other, "book/facts/a", r#"{"v":2}"#);
    assert_eq!(values(&b, "book/facts/").len(), 1, "its numbers restart");
}

#[test]
fn slot_of_a_node_whose_key_was_replaced_stays_taken() {
    let store = Arc::new(LocalStore::default());
    let ((a, _), (_, another), (b, signer)) = (node(&store, "a"), node(&store, "a"), node(&store, "b"));
    signer.give(rights("n/b", &["a", "b"]));
    put(&a, "book/held/n/b/-/n/b/a", r#"{"kind":"claim"}"#);
    put(&a, "book/queue/n/b/-/n/b/a", "{}");
    assert_eq!(values(&b, "book/held/").len(), 1);
    let named = [("a".to_owned(), Some(another.keys())), ("b".to_owned(), None)];
    signer.give(Rights { nodes: named.into(), ..rights("n/b", &["a", "b"]) });
    assert_eq!(values(&b, "book/held/"), [r#"{"kind":"claim"}"#], "it may be half changed");
    assert_eq!(values(&b, "book/queue/").len(), 0);
}

#[test]
fn revoked_key_counts_no_more_also_for_records_that_were_read() {
    let store = Arc::new(LocalStore::default());
    let ((a, known), (b, signer)) = (node(&store, "a"), node(&store, "b"));
    signer.give(rights("n/b", &["a", "b"]));
    put(&a, "book/facts/a", "{}");
    put(&a, "book/held/n/b/-/n/b/a", r#"{"kind":"claim"}"#);
    assert_eq!(values(&b, "book/").len(), 2);
    signer.revoked().set([known.keys().texts()[0].clone()]);
    assert_eq!(values(&b, "book/").len(), 0);
    signer.revoked().set([]);
    assert_eq!(values(&b, "book/").len(), 2);
}

#[test]
fn node_that_git_does_not_name_is_refused_where_git_names_nodes() {
    let store = Arc::new(LocalStore::default());
    let ((a, _), (b, signer)) = (node(&store, "a"), node(&store, "b"));
    put(&a, "book/facts/a", "{}");
    assert_eq!(values(&b, "book/facts/").len(), 1);
    signer.give(Rights { nodes: BTreeMap::from([("b".to_owned(), None)]), ..Rights::default() });
    assert_eq!(values(&b, "book/facts/").len(), 0);
}

#[test]
fn stranger_is_named_with_its_keys_until_the_node_is_back() {
    let store = Arc::new(LocalStore::default());
    let ((a, _), (other, another), (b, _)) = (node(&store, "a"), node(&store, "a"), node(&store, "b"));
    put(&a, "book/joined/a", "{}");
    put(&a, "book/alive/a", "{}");
    assert_eq!(values(&b, "book/alive/").len(), 1);
    let keys = another.keys().texts();
    put(&other, "book/alive/a", &serde_json::json!({ "publicKeys": keys }).to_string());
    assert_eq!(values(&b, "book/alive/").len(), 0);
    assert_eq!(b.strangers(), BTreeMap::from([("a".to_owned(), keys.to_vec())]));
    put(&a, "book/alive/a", "{}");
    assert_eq!(values(&b, "book/alive/").len(), 1);
    assert!(b.strangers().is_empty());
}

#[test]
fn void_report_of_a_restore_pauses_nothing() {
    let store = Arc::new(LocalStore::default());
    let ((a, _), (z, _)) = (node(&store, "a"), node(&store, "z"));
    put(&z, "board/restored/a", r#"{"id":"x"}"#);
    assert_eq!(values(&a, keys::ALL_RECOVERIES).len(), 0);
    let txn = Txn {
        compare: vec![Compare::NoneNewer(keys::ALL_RECOVERIES.into(), 0)],
        then: vec![Op::put("book/facts/a", b"{}".to_vec())],
        ..Txn::default()
    };
    assert!(matches!(a.commit(&txn), Ok(Outcome::Done { .. })), "the record that does not count is cleared away");
    put(&z, "board/restored/z", r#"{"id":"x"}"#);
    assert!(matches!(a.commit(&txn), Ok(Outcome::Refused { .. })), "one that counts is not");
}
