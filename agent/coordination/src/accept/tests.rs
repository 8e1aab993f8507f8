use super::*;
use crate::LocalStore;

fn candidate(commit: &str) -> Candidate {
    let id = format!("{:0<40}", hex::encode(commit));
    Candidate { commits: BTreeMap::from([("fleet".to_owned(), id)]), schema: SCHEMA }
}

fn propose(store: &LocalStore, disk: &Accepted, commit: &str, origin: &str) -> Result<Attempt, AcceptError> {
    propose_as(store, disk, commit, &FleetIdentity { from: origin.to_owned(), verify: VerifyPolicy::Head })
}

fn propose_as(
    store: &LocalStore,
    disk: &Accepted,
    commit: &str,
    origin: &FleetIdentity,
) -> Result<Attempt, AcceptError> {
    let digests = BTreeMap::from([("n/b".to_owned(), commit[..1].to_owned())]);
    attempt(
        store,
        &Proposal {
            node: "n1",
            disk,
            disk_manifest: &manifest_of(store, disk).unwrap().unwrap_or_default(),
            candidate: &candidate(commit),
            origin,
            digests: &digests,
            joined: &joined(store).unwrap(),
            objects: &BTreeSet::from([format!("TaskBook/n/{}", &commit[..1])]),
            rejected: None,
            follows: false,
        },
    )
}

fn accepted(attempt: Result<Attempt, AcceptError>) -> (Accepted, RevisionManifest) {
    match attempt.unwrap() {
        Attempt::Accepted(accepted, manifest) => (accepted, manifest),
        Attempt::Lost(_) => panic!("lost"),
    }
}

#[test]
fn generations_only_grow() {
    let store = LocalStore::default();
    let nothing = Accepted::default();
    let (first, _) = accepted(propose(&store, &nothing, "a", "o"));
    assert_eq!(first.generation, 1);
    assert_eq!(accepted(propose(&store, &nothing, "a", "o")).0, first);
    let (second, _) = accepted(propose(&store, &first, "b", "o"));
    assert_eq!((second.generation, second.parent), (2, 1));
}

#[test]
fn book_keeps_the_generation_that_last_changed_it() {
    let store = LocalStore::default();
    let join = |node: &str| {
        store.commit(&Txn { then: vec![Op::put(keys::joined(node), vec![])], ..Txn::default() }).unwrap();
    };
    join("n1");
    let (first, manifest) = accepted(propose(&store, &Accepted::default(), "a1", "o"));
    assert_eq!(manifest.books["n/b"].since, 1);
    join("n2");
    // The digest of the book is the first letter of the commit, so it is unchanged.
    let (second, manifest) = accepted(propose(&store, &first, "a2", "o"));
    assert_eq!((second.generation, manifest.books["n/b"].since), (2, 1));
    assert_eq!(manifest.joined[&1], ["n1"], "who joined later is not waited for");
    let (third, manifest) = accepted(propose(&store, &second, "b1", "o"));
    assert_eq!(manifest.books["n/b"].since, 3);
    assert_eq!(manifest.joined[&3], ["n1", "n2"]);
    assert_eq!(manifest_of(&store, &third).unwrap().unwrap(), manifest);
    accepted(propose(&store, &third, "c1", "o"));
    assert_eq!(manifest_of(&store, &second).unwrap(), None, "an old manifest is removed");
}

#[test]
fn manifest_is_written_with_its_record_unless_it_is_large() {
    let written_at = |objects: usize| {
        let store = LocalStore::default();
        let proposal = Proposal {
            node: "n1",
            disk: &Accepted::default(),
            disk_manifest: &RevisionManifest::default(),
            candidate: &candidate("a"),
            origin: &FleetIdentity { from: "o".into(), verify: VerifyPolicy::Head },
            digests: &BTreeMap::from([("n/b".to_owned(), "d".to_owned())]),
            joined: &[],
            objects: &(0..objects).map(|number| format!("TaskBook/n/{number:0>40}")).collect(),
            rejected: None,
            follows: false,
        };
        let (record, manifest) = accepted(attempt(&store, &proposal));
        assert_eq!(manifest_of(&store, &record).unwrap().as_ref(), Some(&manifest));
        let modified = |prefix: &str| store.read(prefix, &Page::default()).unwrap().rows.remove(0).modified;
        (modified(&keys::whole_manifest(&record.manifest)), modified(KEY))
    };
    let (manifest, record) = written_at(10);
    assert_eq!(manifest, record);
    let (manifest, record) = written_at(10_000);
    assert!(manifest < record, "it would be too much for one request");
}

#[test]
fn object_that_returns_after_a_removal_gets_a_new_generation() {
    let store = LocalStore::default();
    let (first, manifest) = accepted(propose(&store, &Accepted::default(), "a1", "o"));
    assert_eq!(manifest.created_in["TaskBook/n/a"], 1);
    let (second, manifest) = accepted(propose(&store, &first, "a2", "o"));
    assert_eq!(manifest.created_in["TaskBook/n/a"], 1);
    let (third, manifest) = accepted(propose(&store, &second, "b1", "o"));
    assert_eq!(manifest.created_in, BTreeMap::from([("TaskBook/n/b".to_owned(), 3)]));
    let (_, manifest) = accepted(propose(&store, &third, "a3", "o"));
    assert_eq!(manifest.created_in["TaskBook/n/a"], 4);
}

#[test]
fn rejected_record_is_replaced_by_the_next_number() {
    let store = LocalStore::default();
    let (good, manifest) = accepted(propose(&store, &Accepted::default(), "a1", "o"));
    accepted(propose(&store, &good, "x1", "o"));
    let stored = store.read(KEY, &Page::default()).unwrap().rows.remove(0);
    let decided = |commit: &str, counts: bool| {
        let rejected = Rejected { id: Stored::of(Some(&stored)).id, counts };
        let proposal = Proposal {
            node: "n2",
            disk: &good,
            disk_manifest: &manifest,
            candidate: &candidate(commit),
            origin: &FleetIdentity { from: "o".into(), verify: VerifyPolicy::Head },
            digests: &BTreeMap::from([("n/b".to_owned(), "a".to_owned())]),
            joined: &[],
            objects: &BTreeSet::new(),
            rejected: Some(&rejected),
            follows: true,
        };
        decide(Some(&stored), &RevisionManifest::default(), &proposal).unwrap()
    };
    assert_eq!(decided("a1", true), Decision::Stay(Box::new(good.clone())), "it stays until there is something new");
    let Decision::Accept(next) = decided("a2", true) else { panic!("it goes on from its own") };
    assert_eq!((next.accepted.generation, next.accepted.parent), (3, 2));
    assert_eq!(next.manifest.books["n/b"].since, 1, "the book is as it was before the rejected record");
    // A void record gives no number, and the next acceptance overwrites it.
    let Decision::Accept(back) = decided("a1", false) else { panic!("it puts back its own") };
    assert_eq!((back.accepted.generation, back.accepted.digest()), (1, good.digest()));
    let Decision::Accept(next) = decided("a2", false) else { panic!("it goes on from its own") };
    assert_eq!((next.accepted.generation, next.accepted.before), (2, Some(good.link())));
}

#[test]
fn record_in_the_store_wins_over_another_of_the_same_number() {
    let [lost, store] = [LocalStore::default(), LocalStore::default()];
    let [first, same] = [&lost, &store].map(|store| accepted(propose(store, &Accepted::default(), "a", "o")).0);
    assert_eq!(first, same);
    let (own, _) = accepted(propose(&lost, &first, "x", "o"));
    let (kept, _) = accepted(propose(&store, &first, "y", "o"));
    assert_eq!((own.generation, kept.generation), (2, 2));
    assert_ne!(own.id(), kept.id());
    assert_eq!(Accepted { by: "other".into(), ..kept.clone() }.id(), kept.id(), "the signer is not compared");
    assert_eq!(current(&store, &own).unwrap().relation, Relation::Sound);
    assert_eq!(current(&store, &kept).unwrap().relation, Relation::Own);
    let (next, _) = accepted(propose(&store, &own, "z", "o"));
    assert_eq!((next.generation, next.before), (3, Some(kept.link())), "it follows the record in the store");
    // A record that does not verify is ignored, also if it has the number of the node's own record.
    let forged = Accepted { before: None, ..kept };
    store.commit(&Txn { then: vec![Op::put(KEY, serde_json::to_vec(&forged).unwrap())], ..Txn::default() }).unwrap();
    assert!(matches!(current(&store, &own).unwrap().relation, Relation::Void(_)));
}

#[test]
fn rejected_record_of_the_own_number_is_replaced_without_a_new_commit() {
    let [lost, store] = [LocalStore::default(), LocalStore::default()];
    let [first, _] = [&lost, &store].map(|store| accepted(propose(store, &Accepted::default(), "a", "o")).0);
    let (own, manifest) = accepted(propose(&lost, &first, "x", "o"));
    let (rival, _) = accepted(propose(&store, &first, "y", "o"));
    let stored = store.read(KEY, &Page::default()).unwrap().rows.remove(0);
    let rejected = Rejected { id: Stored::of(Some(&stored)).id, counts: true };
    let proposal = Proposal {
        node: "n2",
        disk: &own,
        disk_manifest: &manifest,
        candidate: &candidate("x"),
        origin: &FleetIdentity { from: "o".into(), verify: VerifyPolicy::Head },
        digests: &BTreeMap::new(),
        joined: &[],
        objects: &BTreeSet::new(),
        rejected: Some(&rejected),
        follows: true,
    };
    let decided = decide(Some(&stored), &RevisionManifest::default(), &proposal).unwrap();
    let Decision::Accept(next) = decided else { panic!("{decided:?}") };
    assert_eq!((next.accepted.generation, next.accepted.before), (3, Some(rival.link())));
    assert_eq!(next.accepted.commits, own.commits);
}

#[test]
fn node_proposes_nothing_over_a_record_that_it_has_not_judged() {
    let store = LocalStore::default();
    let (first, _) = accepted(propose(&store, &Accepted::default(), "a", "o"));
    let (second, _) = accepted(propose(&store, &first, "b", "o"));
    let tried = |disk: &Accepted, commit: &str, id: Option<&str>| {
        let rejected = id.map(|id| Rejected { id: id.to_owned(), counts: true });
        let proposal = Proposal {
            node: "n2",
            disk,
            disk_manifest: &RevisionManifest::default(),
            candidate: &candidate(commit),
            origin: &FleetIdentity { from: "o".into(), verify: VerifyPolicy::Head },
            digests: &BTreeMap::new(),
            joined: &[],
            objects: &BTreeSet::new(),
            rejected: rejected.as_ref(),
            follows: true,
        };
        attempt(&store, &proposal).unwrap()
    };
    assert_eq!(tried(&first, "a", None), Attempt::Lost(second.clone()), "it would take the fleet back");
    assert_eq!(tried(&first, "b", None), Attempt::Lost(second.clone()), "it has not checked the manifest of it");
    assert_eq!(tried(&first, "c", Some("other")), Attempt::Lost(second.clone()), "another one is rejected");
    let forked = Accepted { origin: "other".into(), ..second.clone() };
    assert_eq!(tried(&forked, "c", None), Attempt::Lost(second.clone()), "of the same number");
    assert!(matches!(tried(&second, "c", None), Attempt::Accepted(third, _) if third.generation == 3));
}

#[test]
fn record_that_is_not_a_number_or_not_json_is_void_and_written_over() {
    let numbers = ["-1", "1.5", "18446744073709551616", "1e30", "null", "\"7\"", "[]", "18446744073709551615"];
    for number in numbers {
        let store = LocalStore::default();
        let (first, manifest) = accepted(propose(&store, &Accepted::default(), "a", "o"));
        let mut forged = serde_json::to_string(&first).unwrap();
        forged = forged.replace("\"generation\":1", &format!("\"generation\":{number}"));
        store.commit(&Txn { then: vec![Op::put(KEY, forged.into_bytes())], ..Txn::default() }).unwrap();
        let found = current(&store, &first).unwrap();
        assert!(matches!(found.relation, Relation::Void(_)), "{number}: {found:?}");
        let rejected = Rejected { id: found.id, counts: false };
        let proposal = Proposal {
            node: "n2",
            disk: &first,
            disk_manifest: &manifest,
            candidate: &candidate("b"),
            origin: &FleetIdentity { from: "o".into(), verify: VerifyPolicy::Head },
            digests: &BTreeMap::new(),
            joined: &[],
            objects: &BTreeSet::new(),
            rejected: Some(&rejected),
            follows: true,
        };
        let (next, _) = accepted(attempt(&store, &proposal));
        assert_eq!((next.generation, next.parent), (2, 1), "{number}");
        assert_eq!(current(&store, &first).unwrap().relation, Relation::Sound);
    }
}

#[test]
fn store_keeps_the_links_of_the_last_generations() {
    let store = LocalStore::default();
    let mut all = vec![Accepted::default()];
    for number in 1..=LINKS_KEPT + 5 {
        all.push(accepted(propose(&store, &all[all.len() - 1], ["a", "b"][number as usize % 2], "o")).0);
    }
    let kept = |after: u64| {
        let page = Page { after: Some(keys::link(after)), limit: 5000 };
        store.read(keys::LINKS, &page).unwrap().rows.len() as u64
    };
    assert_eq!(kept(0), LINKS_KEPT);
    assert_eq!(current(&store, &all[500]).unwrap().relation, Relation::Sound);
    assert_eq!(current(&store, &all[4]).unwrap().relation, Relation::Apart, "generation 5 is no longer kept");
    store.commit(&Txn { then: vec![Op::Delete(keys::link(700))], ..Txn::default() }).unwrap();
    assert!(matches!(current(&store, &all[500]).unwrap().relation, Relation::Void(_)), "a gap");
}

#[test]
fn empty_store_is_filled_from_disk() {
    let disk = Accepted {
        schema: SCHEMA,
        generation: 7,
        commits: candidate("a").commits,
        parent: 6,
        origin: "o".into(),
        ..Accepted::default()
    };
    assert_eq!(accepted(propose(&LocalStore::default(), &disk, "a", "o")).0.generation, 7);
    assert_eq!(accepted(propose(&LocalStore::default(), &disk, "b", "o")).0.generation, 8);
}

#[test]
fn losing_proposal_returns_the_accepted_record() {
    let store = LocalStore::default();
    let digests = BTreeMap::new();
    let late = Proposal {
        node: "n2",
        disk: &Accepted::default(),
        disk_manifest: &RevisionManifest::default(),
        candidate: &candidate("b"),
        origin: &FleetIdentity { from: "o".into(), verify: VerifyPolicy::Head },
        digests: &digests,
        joined: &[],
        objects: &BTreeSet::new(),
        rejected: None,
        follows: false,
    };
    let Decision::Accept(late) = decide(None, &RevisionManifest::default(), &late).unwrap() else { panic!() };
    propose(&store, &Accepted::default(), "a", "o").unwrap();
    let Outcome::Refused { answers, .. } = store.commit(&late.txn).unwrap() else { panic!() };
    assert_eq!(Stored::of(answers[0].rows.first()).record.unwrap().commits, candidate("a").commits);
}

#[test]
fn record_with_another_origin_weaker_policy_or_newer_schema_is_refused() {
    let store = LocalStore::default();
    propose(&store, &Accepted::default(), "a", "o").unwrap();
    assert!(matches!(propose(&store, &Accepted::default(), "b", "other"), Err(AcceptError::OtherOrigin { .. })));
    for (verify, admitted) in [(VerifyPolicy::None, false), (VerifyPolicy::Head, true), (VerifyPolicy::Range, true)] {
        let tried = propose_as(&store, &Accepted::default(), "a", &FleetIdentity { from: "o".into(), verify });
        assert_eq!(matches!(tried, Err(AcceptError::Weaker { .. })), !admitted, "{verify:?}: {tried:?}");
    }
    let newer = Row { key: KEY.into(), value: br#"{"schema": 9}"#.to_vec(), created: 1, modified: 1 };
    let any = Proposal {
        node: "n",
        disk: &Accepted::default(),
        disk_manifest: &RevisionManifest::default(),
        candidate: &candidate("b"),
        origin: &FleetIdentity { from: "o".into(), verify: VerifyPolicy::Head },
        digests: &BTreeMap::new(),
        joined: &[],
        objects: &BTreeSet::new(),
        rejected: None,
        follows: false,
    };
    assert!(matches!(decide(Some(&newer), &RevisionManifest::default(), &any), Err(AcceptError::TooOld(9))));
}

#[test]
fn announced_number_counts_only_next_to_the_own_one() {
    let of = |generation: u64, before: Option<Link>| Accepted {
        schema: SCHEMA,
        generation,
        parent: generation - 1,
        before,
        commits: candidate("a").commits,
        ..Accepted::default()
    };
    let own = of(7, Some(of(6, None).link()));
    assert_eq!(judge_announced(&of(8, Some(own.link())), &own), Relation::Sound);
    for number in [20, 1 << 31, 1 << 53, u64::MAX] {
        let parent = of(number - 1, Some(of(number - 2, None).link()));
        assert!(matches!(judge_announced(&of(number, Some(parent.link())), &own), Relation::Void(_)), "{number}");
    }
}

#[test]
fn node_that_had_joined_cannot_be_left_out_of_a_later_manifest() {
    let digests = |digest: &str| BTreeMap::from([("n/b".to_owned(), digest.to_owned())]);
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<String>>();
    let objects = BTreeSet::new();
    let first = RevisionManifest::default().following(1, &digests("a"), &names(&["n1", "n2"]), &objects);
    let second = first.following(2, &digests("b"), &[], &objects);
    assert_eq!(second.joined, BTreeMap::from([(2, names(&["n1", "n2"]))]));
    let third = second.following(3, &digests("c"), &names(&["n0"]), &objects);
    assert_eq!(third.joined, BTreeMap::from([(3, names(&["n0", "n1", "n2"]))]));
}
