//! Tests of the journal and its records.

use std::{collections::BTreeMap, fs, path::Path, thread};

use serde_json::json;

use super::*;
use crate::{
    changes::Put,
    keys::Key,
    kinds::{KeyOf, PREFIXES},
    records::Schema,
};

fn open(folder: &Path) -> Journal {
    let (journal, aside) = Journal::open(folder).unwrap();
    assert_eq!(aside, None);
    journal
}

/// Writes bytes at a key of the journal, as another version of the agent might write them.
fn write(journal: &Journal, key: &str, bytes: &[u8]) {
    let changes = Changes { puts: vec![(key.to_owned(), Put::Whole(bytes.to_vec()))], deletes: Vec::new() };
    journal.commit(changes).unwrap();
}

fn commit(journal: &Journal, change: impl FnOnce(&mut Changes)) {
    let mut changes = Changes::default();
    change(&mut changes);
    journal.commit(changes).unwrap();
}

fn web() -> BookId {
    BookId::new("app", "web")
}

fn action() -> ActionRecord {
    ActionRecord {
        definition: "d".into(),
        state: ActionState::Finished,
        interrupted: 1,
        finished: Some(FinishedAction { definition: "d".into(), result: json!({"rc": 0}) }),
        boot: Some("b".into()),
    }
}

fn slot() -> SlotRef {
    let claim = Some(SlotClaim { state: ClaimState::Failure, run: "app/web@2".into(), segment: 1 });
    SlotRef { budget: "app/web".into(), partition: "rack 1".into(), claim }
}

fn published() -> PublishedResult {
    PublishedResult { definition: "d".into(), ok: true, result: json!({"id": 7}), message: None }
}

#[test]
fn records_survive_a_restart() {
    fn kept<R: Record + PartialEq + std::fmt::Debug>(folder: &Path, key: &KeyOf<R>, record: &R)
    where
        R::Kind: kinds::Whole,
        KeyOf<R>: PartialEq + std::fmt::Debug,
    {
        commit(&open(folder), |changes| changes.put(key, record));
        let journal = open(folder);
        assert_eq!(journal.get::<R>(key).unwrap().as_ref(), Some(record));
        let all = journal.all::<R>().unwrap();
        assert!(all.len() == 1 && all[0].0 == *key && all[0].1 == *record, "{all:?}");
        assert_eq!(journal.keys::<R>().unwrap().as_slice(), std::slice::from_ref(key));
        commit(&journal, |changes| changes.delete::<R::Kind>(key));
        assert_eq!(journal.get::<R>(key).unwrap(), None);
    }
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    let (text, task) = ("a/b".to_owned(), web().task("a task/with [item]#1"));
    let managed = Managed { module: "file".into(), identity: "/etc/x".into() };
    let intent = Intent { phase: Phase::Rename, book: "app/web".into(), paths: vec!["/etc/x".into()] };
    kept(folder, &(), &intent);
    kept(folder, &(), &RejectedCandidates([[("fleet".to_owned(), "c".to_owned())].into()].into()));
    let names = || ["n1".to_owned()].into();
    let facts = [("n1".to_owned(), json!({"os": null}))].into();
    kept(folder, &(), &OtherNodes { alive: names(), joined: names(), facts });
    kept(folder, &(), &StorePosition { revision: 9, sequence: 3 });
    kept(folder, &(), &RecordNumbers { reserved: u64::MAX });
    kept(folder, &text, &PresentedCertificates(vec!["01".into()]));
    kept(
        folder,
        &text,
        &SourceCheckpoint { origin: "o".into(), commit: "c".into(), tag: Some("v1".into()), unseen: true },
    );
    kept(folder, &text, &StoredEvent { time: -1, state: Some("firing".into()), ..StoredEvent::default() });
    let run = RunRecord {
        run: "app/web@2".into(),
        namespace: "app".into(),
        name: "web".into(),
        generation: 2,
        started: 5,
        took: 0.5,
        outcome: "changed".into(),
        tasks: json!([]),
    };
    kept(folder, &RunId { started: 5, book: web() }, &run);
    let undo = Some(json!({"state": "absent"}));
    kept(folder, &managed, &AppliedItem { definition: "d".into(), generation: 2, undo });
    kept(folder, &text, &Original::Link { target: "t".into() });
    kept(folder, &text, &Unchecked { validate: "true".into(), old: Original::Nothing });
    kept(folder, &task, &action());
    let by = ["task".to_owned()].into();
    kept(folder, &task, &HandlerRecord { module: "script".into(), params: json!({}), script: Some("s".into()), by });
    kept(
        folder,
        &web(),
        &Inventory { items: [managed.clone()].into(), prune: true, budget: Some("5".into()), rollout: None },
    );
    kept(folder, &text, &StoreRow("eA==".into(), 1, 2));
    kept(folder, &(), &StoreRevision(7));
}

#[test]
fn fields_of_a_book_and_an_election_survive_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let progress = RunProgress { run: "app/web@2".into(), done: 2, completed: true };
    let task = web().task("migrate");
    let used = UsedResult { definition: "d".into(), result: json!("x") };
    let journal = open(folder.path());
    commit(&journal, |changes| {
        changes.set_progress(&web(), progress.clone());
        changes.set_slot(&web(), Some(slot()));
        changes.set_election_begun(&task, "d");
    });
    commit(&journal, |changes| {
        changes.set_segment(&web(), Some(SegmentPhase::Changing));
        changes.set_removal_failed(&web(), true);
        changes.set_published_result(&task, published());
        changes.set_used_result(&task, used.clone());
    });
    drop(journal);
    let journal = open(folder.path());
    let all = BookRecord {
        progress: Some(progress.clone()),
        slot: Some(slot()),
        segment: Some(SegmentPhase::Changing),
        removal_failed: true,
    };
    assert_eq!(journal.all().unwrap(), [(web(), all)]);
    let all = ElectionRecord { begun: Some("d".into()), published: Some(published()), used: Some(used.clone()) };
    assert_eq!(journal.of_book(&web()).unwrap(), [("migrate".to_owned(), all)]);
    commit(&journal, |changes| {
        changes.set_slot(&web(), None);
        changes.set_segment(&web(), None);
        changes.set_removal_failed(&web(), false);
        changes.forget_election(&task);
    });
    let left = BookRecord { progress: Some(progress), ..BookRecord::default() };
    assert_eq!(journal.get(&web()).unwrap(), Some(left));
    let left = ElectionRecord { used: Some(used), ..ElectionRecord::default() };
    assert_eq!(journal.get(&task).unwrap(), Some(left));
}

#[test]
fn changes_of_one_record_are_one_write_at_the_first_place() {
    let folder = tempfile::tempdir().unwrap();
    let journal = open(folder.path());
    let (send, seen) = std::sync::mpsc::channel();
    journal.observe_commits(move |commit| {
        let puts = commit.puts().map(|(key, bytes)| format!("{key}={}", String::from_utf8_lossy(bytes)));
        let deletes = commit.deletes().map(|key| format!("-{key}"));
        send.send(deletes.chain(puts).collect::<Vec<_>>()).unwrap();
    });
    journal.commit(Changes::default()).unwrap();
    commit(&journal, |changes| {
        changes.set(&StoreRevision(1));
        changes.set_segment(&web(), Some(SegmentPhase::Preparing));
        changes.set(&RecordNumbers { reserved: 2 });
        changes.set_removal_failed(&web(), true);
        changes.delete::<kinds::SteadyState>(&());
    });
    let wanted = [
        "-steady-state",
        "store/revision=1",
        r#"book/app/web={"segment":"preparing","removalFailed":true}"#,
        "record-numbers=2",
    ];
    assert_eq!(seen.try_recv().unwrap(), wanted);
    commit(&journal, |changes| {
        changes.set_segment(&web(), None);
        changes.set_removal_failed(&web(), false);
    });
    assert_eq!(seen.try_iter().collect::<Vec<_>>(), [["-book/app/web"]]);
    assert_eq!(journal.all::<BookRecord>().unwrap(), []);
}

#[test]
fn record_with_wrong_bytes_gives_an_error_that_names_it() {
    let folder = tempfile::tempdir().unwrap();
    let journal = open(folder.path());
    let (bad, good) = (web().task("bad"), web().task("good"));
    commit(&journal, |changes| changes.put(&good, &action()));
    for bytes in [b"".as_slice(), b"{", b"\xff", b"[]", br#"{"definition":7}"#, br#"{"definition":"d","state":"odd"}"#]
    {
        write(&journal, "action/app/web/bad", bytes);
        let error = journal.get::<ActionRecord>(&bad).unwrap_err();
        assert!(matches!(&error, JournalError::Unreadable { record, .. } if record == "action/app/web/bad"));
        assert!(error.to_string().contains("cannot read record action/app/web/bad of the journal"), "{error}");
        assert_eq!(journal.get_readable::<ActionRecord>(&bad).unwrap(), None);
        assert_eq!(journal.of_book(&web()).unwrap(), [("good".to_owned(), action())]);
        assert_eq!(journal.keys::<ActionRecord>().unwrap(), [bad.clone(), good.clone()]);
    }
    // The journal stays usable, and a change of one field starts from an empty record.
    write(&journal, "book/app/web", b"[1]");
    assert!(journal.get::<BookRecord>(&web()).is_err());
    commit(&journal, |changes| changes.set_slot(&web(), Some(slot())));
    assert_eq!(journal.get(&web()).unwrap(), Some(BookRecord { slot: Some(slot()), ..BookRecord::default() }));
}

#[test]
fn digest_key_with_wrong_bytes_is_not_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let key = open(folder.path()).digest_key().unwrap();
    let journal = open(folder.path());
    assert_eq!(journal.digest_key().unwrap(), key);
    write(&journal, "digest-key", b"[1]");
    assert!(journal.digest_key().unwrap_err().to_string().contains("record digest-key"));
}

#[test]
fn unknown_keys_and_fields_are_ignored() {
    let folder = tempfile::tempdir().unwrap();
    let journal = open(folder.path());
    // Other versions of the agent use these keys, and this version does not know them.
    for key in ["settled", "horizon", "table", "guard/fleet", "progress/app/web", "slot/app/web", "still-there/app/web"]
    {
        write(&journal, key, b"true");
    }
    for key in
        ["books", "begun/app/web/t", "handler/app", "run/x", "run/1/app", "applied/file", "action/a/b", "\u{fffd}"]
    {
        write(&journal, key, b"{}");
    }
    write(&journal, "book/app", b"{}");
    write(&journal, "book/app/web", br#"{"removalFailed":true,"later":1}"#);
    drop(journal);
    let journal = open(folder.path());
    let known = BookRecord { removal_failed: true, ..BookRecord::default() };
    assert_eq!(journal.all().unwrap(), [(web(), known)]);
    assert_eq!(journal.all::<HandlerRecord>().unwrap(), []);
    assert_eq!(journal.keys::<RunRecord>().unwrap(), []);
    assert_eq!(journal.keys::<AppliedItem>().unwrap(), []);
    assert_eq!(journal.keys::<ActionRecord>().unwrap(), []);
    assert_eq!(journal.get::<StorePosition>(&()).unwrap(), None);
}

#[test]
fn threads_that_change_one_book_lose_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let journal = open(folder.path());
    let task = web().task("migrate");
    thread::scope(|scope| {
        scope.spawn(|| {
            for done in 1..=50 {
                let progress = RunProgress { run: "r".into(), done, completed: false };
                commit(&journal, |changes| changes.set_progress(&web(), progress.clone()));
                let book: BookRecord = journal.get(&web()).unwrap().unwrap();
                assert_eq!(book.progress, Some(progress));
            }
        });
        scope.spawn(|| {
            for number in 1..=50 {
                let claim = Some(SlotClaim { state: ClaimState::Claim, run: "r".into(), segment: number });
                let slot = SlotRef { claim, ..slot() };
                commit(&journal, |changes| {
                    changes.set_slot(&web(), Some(slot.clone()));
                    changes.set_election_begun(&task, &number.to_string());
                });
                let book: BookRecord = journal.get(&web()).unwrap().unwrap();
                assert_eq!(book.slot, Some(slot));
            }
        });
        scope.spawn(|| {
            for _ in 1..=25 {
                for failed in [true, false] {
                    commit(&journal, |changes| {
                        changes.set_removal_failed(&web(), failed);
                        changes.set_published_result(&task, published());
                    });
                    let book = journal.get::<BookRecord>(&web()).unwrap();
                    assert_eq!(book.is_some_and(|book| book.removal_failed), failed);
                }
            }
        });
    });
    let book: BookRecord = journal.get(&web()).unwrap().unwrap();
    let segment = book.slot.and_then(|slot| slot.claim).map(|claim| claim.segment);
    assert_eq!((book.progress.map(|progress| progress.done), segment), (Some(50), Some(50)));
    let election: ElectionRecord = journal.get(&task).unwrap().unwrap();
    assert_eq!((election.begun.as_deref(), election.published), (Some("50"), Some(published())));
}

#[test]
fn kinds_do_not_share_keys() {
    for (place, prefix) in PREFIXES.iter().enumerate() {
        let others = PREFIXES.iter().enumerate().filter(|(other, _)| *other != place).map(|(_, other)| other);
        let below = others.filter(|other| *other == prefix || prefix.ends_with('/') && other.starts_with(prefix));
        assert_eq!(below.collect::<Vec<_>>(), Vec::<&&str>::new(), "{prefix}");
    }
}

#[test]
fn last_key_is_that_of_the_last_record_of_its_kind() {
    let folder = tempfile::tempdir().unwrap();
    let journal = open(folder.path());
    assert_eq!(journal.last_key::<StoredEvent>().unwrap(), None);
    let mut changes = Changes::default();
    for uuid in ["b", "a", "c\u{10ffff}"] {
        changes.put(&uuid.to_owned(), &StoredEvent::default());
        changes.put(&format!("z{uuid}"), &ActiveEvent::default());
    }
    journal.commit(changes).unwrap();
    assert_eq!(journal.last_key::<StoredEvent>().unwrap().as_deref(), Some("c\u{10ffff}"));
    assert_eq!(journal.last_key::<Intent>().unwrap(), None);
}

#[test]
fn keys_are_read_as_they_are_written() {
    let runs =
        BTreeMap::from([(5, "00000000000000000005/app/web"), (1_767_614_400_000, "00000001767614400000/app/web")]);
    for (started, text) in runs {
        let run = RunId { started, book: web() };
        assert_eq!((run.text().as_str(), RunId::parse(text)), (text, Some(run)));
    }
    for task in ["t", "a/b", "", "x [1/2]#ab"] {
        let task = web().task(task);
        assert_eq!(TaskId::parse(&task.text()), Some(task));
    }
    for text in ["", "app", "app/web"] {
        assert_eq!(TaskId::parse(text), None);
    }
    assert_eq!((RunId::parse("x/app/web"), BookId::parse("app"), <() as Key>::parse("x")), (None, None, None));
}

#[test]
fn damaged_journal_is_kept_aside() {
    let folder = tempfile::tempdir().unwrap();
    for number in 1..=2 {
        fs::write(folder.path().join("journal.redb"), vec![7; 100_000]).unwrap();
        let (journal, aside) = Journal::open(folder.path()).unwrap();
        let aside = aside.unwrap();
        assert_eq!(aside, folder.path().join(format!("journal.redb.damaged-{number}")));
        assert!(aside.exists());
        assert_eq!(journal.get(&()).unwrap(), Some(Schema(1)));
    }
}

#[test]
fn existing_journal_is_opened_without_a_change() {
    let folder = tempfile::tempdir().unwrap();
    assert!(Journal::open_existing(folder.path()).unwrap().is_none());
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "a journal was created");
    drop(open(folder.path()));
    assert_eq!(Journal::open_existing(folder.path()).unwrap().unwrap().get(&()).unwrap(), Some(Schema(1)));
    fs::write(folder.path().join("journal.redb"), vec![7; 100_000]).unwrap();
    assert!(Journal::open_existing(folder.path()).is_err());
    assert_eq!(fs::read(folder.path().join("journal.redb")).unwrap(), vec![7; 100_000]);
}

#[test]
fn originals_are_checked() {
    let folder = tempfile::tempdir().unwrap();
    let journal = open(folder.path());
    let name = journal.keep_original(b"old").unwrap();
    assert_eq!(journal.original(&name).unwrap(), b"old");
    fs::write(folder.path().join("originals").join(&name), "tampered").unwrap();
    assert!(journal.original(&name).is_none());
}
