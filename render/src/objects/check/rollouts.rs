//! Checks the rollout settings of TaskBooks.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::{
    document::Place,
    objects::{ObjectSet, ledger::Found, task::Book},
    problem::Finding,
};

/// Returns an error if TaskBooks share a named slot, but set different counts for the slot.
pub(super) fn shared_slots(set: &ObjectSet) -> Vec<Found<'_>> {
    let mut slots: BTreeMap<(String, String), (Option<String>, Place)> = BTreeMap::new();
    let mut found = Vec::new();
    for book in set.books.values() {
        let whole =
            book.rollout.serialize.iter().map(|serialize| (serialize, book.place.key("rollout").key("serialize")));
        let single = book.tasks.iter().filter_map(|task| Some((task.serialize.as_ref()?, task.place.key("serialize"))));
        for (serialize, place) in whole.chain(single) {
            let Some(slot) = serialize.slot.clone() else { continue };
            let (count, first) = slots
                .entry((book.namespace.clone(), slot.clone()))
                .or_insert_with(|| (serialize.count.clone(), place.clone()));
            if *count != serialize.count {
                let finding = Finding::new(format!(
                    "the slot {slot} has two different counts; the other count is {}",
                    count.clone().unwrap_or_default()
                ));
                found.push(Found::new(place.key("count"), finding).hint_at(first, |line| {
                    format!("the other count is at {line}; set the same count in all TaskBooks that share a slot")
                }));
            }
        }
    }
    found
}

/// Returns an error for each invalid rollout setting, such as a count of 0.
pub(super) fn senseless_settings(set: &ObjectSet) -> Vec<Found<'_>> {
    set.books.values().flat_map(|book| senseless_settings_of(book)).collect()
}

fn senseless_settings_of(book: &Book) -> Vec<Found<'static>> {
    let mut found = Vec::new();
    let place = book.place.key("rollout");
    let zero = |count: &Option<String>| matches!(count.as_deref(), Some("0" | "0%"));
    if book.rollout.serialize.as_ref().is_some_and(|serialize| zero(&serialize.count)) {
        let finding =
            Finding::new("with a count of 0, no node changes").hint("write at least 1; to pause a book use suspend");
        found.push(Found::new(place.key("serialize").key("count"), finding));
    }
    for (list, name) in [(&book.rollout.before, "before"), (&book.rollout.after, "after")] {
        for task in list.iter().filter(|task| task.sync || task.elect.is_some() || task.serialize.is_some()) {
            let finding = Finding::new(format!("a task in `rollout.{name}` cannot wait for other nodes"))
                .hint("move the task to tasks: a node that holds a slot must not wait for other nodes");
            found.push(Found::new(task.place.clone(), finding));
        }
    }
    let percent = |value: &Value| value.as_str().and_then(|text| text.strip_suffix('%')?.parse::<u64>().ok());
    let counts: Vec<u64> = book.rollout.waves.iter().filter_map(Value::as_u64).collect();
    let percents: Vec<u64> = book.rollout.waves.iter().filter_map(percent).collect();
    if [counts, percents].iter().any(|steps| steps.windows(2).any(|pair| pair[1] <= pair[0])) {
        let finding = Finding::new("waves are cumulative, so each must be larger than the one before")
            .hint("write for example [1, 10%, 100%]");
        found.push(Found::new(place.key("waves"), finding));
    }
    found
}
