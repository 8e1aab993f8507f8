use super::*;
use crate::command::{InstanceId, List, TaskRef};

fn change(id: u64, admission: Admission, writes: &[&str], batch: Option<&str>) -> Queued {
    let task = TaskRef { list: List::Tasks, index: 0 };
    Queued {
        instance: Arc::new(Instance { id: InstanceId(id), task, item: None, name: id.to_string() }),
        report: 0,
        admission,
        writes: writes.iter().map(|path| (*path).to_owned()).collect(),
        batch: batch.map(|key| BatchKey(key.to_owned())),
    }
}

fn writing(path: &str) -> Queue {
    let mut queue = Queue::default();
    queue.push_files(change(1, Admission::Free, &[path], None));
    queue
}

fn ids(changes: &[Queued]) -> Vec<u64> {
    changes.iter().map(|change| change.instance.id.0).collect()
}

#[test]
fn queue_with_a_change_is_not_empty_until_it_is_taken() {
    let mut queue = Queue::default();
    assert!(queue.is_empty());
    queue.push_files(change(1, Admission::Free, &[], None));
    assert!(!queue.is_empty());
    assert_eq!(ids(&queue.take_files()), [1]);
    queue.push_direct(change(2, Admission::Free, &[], None));
    assert!(!queue.is_empty());
    assert_eq!(ids(&queue.take_direct()), [2]);
    assert!(queue.is_empty());
}

#[test]
fn waiting_file_affects_its_own_path() {
    assert!(writing("/etc/a").affects("/etc/a"));
    assert!(writing("/etc/a/").affects("/etc/a"));
}

#[test]
fn waiting_file_affects_folders_above_it_and_paths_below_it() {
    assert!(writing("/etc/a/b").affects("/etc/a"));
    assert!(writing("/etc/a").affects("/etc/a/b/c"));
}

#[test]
fn waiting_file_does_not_affect_a_neighbour_with_the_same_prefix() {
    assert!(!writing("/etc/a").affects("/etc/ab"));
    assert!(!writing("/etc/ab").affects("/etc/a"));
}

#[test]
fn transaction_accepts_only_the_same_key() {
    let mut queue = Queue::default();
    let key = |key: &str| BatchKey(key.to_owned());
    assert!(queue.accepts(None), "nothing waits");
    queue.push_direct(change(1, Admission::SlotAndWindow, &[], Some("apt")));
    assert!(queue.accepts(Some(&key("apt"))));
    assert!(!queue.accepts(Some(&key("dnf"))));
    assert!(!queue.accepts(None));
}

#[test]
fn change_without_a_key_is_joined_by_no_other() {
    let mut queue = Queue::default();
    queue.push_direct(change(1, Admission::SlotAndWindow, &[], None));
    assert!(!queue.accepts(None));
}

#[test]
fn batch_is_full_at_its_maximum() {
    let mut queue = Queue::default();
    for id in 1..2000 {
        assert!(!queue.push_files(change(id, Admission::Free, &[], None)));
    }
    assert!(queue.push_files(change(2000, Admission::Free, &[], None)));
}

#[test]
fn change_set_keeps_the_order_of_the_changes() {
    let changes = [change(2, Admission::Free, &[], None), change(1, Admission::Free, &[], None)];
    assert_eq!(files(&changes), ChangeSet::Files(vec![InstanceId(2), InstanceId(1)]));
    assert_eq!(direct(&changes).instances(), [InstanceId(2), InstanceId(1)]);
}

#[test]
fn free_changes_are_split_from_those_that_need_admission() {
    let changes = vec![
        change(1, Admission::SlotAndWindow, &["/a"], None),
        change(2, Admission::Free, &["/b"], None),
        change(3, Admission::Free, &["/c"], None),
    ];
    let (free, others) = split_free(changes);
    assert_eq!((ids(&free), ids(&others)), (vec![2, 3], vec![1]));
}

#[test]
fn free_change_below_a_held_one_is_held_with_it() {
    let changes = vec![
        change(1, Admission::SlotAndWindow, &["/a"], None),
        change(2, Admission::Free, &["/a/b"], None),
        change(3, Admission::Free, &["/a/b/c"], None),
    ];
    let (free, others) = split_free(changes);
    assert_eq!((ids(&free), ids(&others)), (vec![], vec![1, 2, 3]));
}

#[test]
fn free_change_before_a_held_one_is_made() {
    let changes = vec![change(1, Admission::Free, &["/a"], None), change(2, Admission::SlotAndWindow, &["/a/b"], None)];
    let (free, others) = split_free(changes);
    assert_eq!((ids(&free), ids(&others)), (vec![1], vec![2]));
}

#[test]
fn batch_needs_admission_if_one_of_its_changes_does() {
    let free = change(1, Admission::Free, &["/a"], None);
    let other = change(2, Admission::SlotAndWindow, &["/b"], None);
    assert_eq!(admission(std::slice::from_ref(&free)), Admission::Free);
    assert_eq!(admission(&[free, other]), Admission::SlotAndWindow);
}
