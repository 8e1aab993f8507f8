use super::*;
use crate::run::testing::book;

const FOUR: &str = r#"
order: parallel
tasks:
  - {name: a, debug: {message: x}}
  - {name: b, debug: {message: x}, requires: [a]}
  - {name: c, debug: {message: x}}
  - {name: d, debug: {message: x}, requires: [b, c]}
"#;

#[test]
fn book_in_order_runs_one_task_at_a_time() {
    let text = FOUR.replace("order: parallel\n", "");
    assert_eq!(waves(&book(&text), 0..4), [[0], [1], [2], [3]]);
}

#[test]
fn parallel_book_runs_tasks_without_mutual_requirements_together() {
    assert_eq!(waves(&book(FOUR), 0..4), [vec![0, 2], vec![1], vec![3]]);
}

#[test]
fn requirement_of_an_earlier_segment_is_met() {
    assert_eq!(waves(&book(FOUR), 1..4), [vec![1, 2], vec![3]]);
}

#[test]
fn range_beyond_the_book_has_no_waves() {
    assert!(waves(&book(FOUR), 4..9).is_empty());
    assert!(waves(&book(FOUR), 0..0).is_empty());
}
