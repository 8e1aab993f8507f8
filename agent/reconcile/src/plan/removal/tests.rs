use super::*;

fn item(module: &str, identity: &str) -> Managed {
    Managed { module: module.into(), identity: identity.into() }
}

fn items(names: &[(&str, &str)]) -> BTreeSet<Managed> {
    names.iter().map(|(module, identity)| item(module, identity)).collect()
}

fn inventory(recorded: &[(&str, &str)]) -> Inventory {
    let recorded = items(recorded);
    let total = recorded.len() as u64;
    let order = [("service", 0), ("unit", 100), ("mount", 300), ("package", 400), ("user", 600), ("group", 700)];
    let order = order.into_iter().map(|(module, rank)| (module.to_owned(), rank)).collect();
    Inventory { recorded, order, prune: true, budget: PruneBudget::limited("100%"), total, ..Inventory::default() }
}

fn order(decision: Decision) -> Vec<String> {
    let Decision::Remove(removal) = decision else { panic!("{decision:?}") };
    removal.remove.into_iter().map(|item| format!("{} {}", item.module, item.identity)).collect()
}

/// Returns the numbers in the message of a held removal: the items to remove, all items, and the limit.
fn held(inventory: &Inventory, managed: &BTreeSet<Managed>) -> String {
    let found = decide(inventory, managed);
    let Decision::OverBudget { message } = found else { panic!("{found:?}") };
    let (count, rest) = message.split_once(" managed items of this node").unwrap();
    let (_, limit) = rest.split_once("removes at most ").unwrap();
    format!("{count}, {}", limit.split(';').next().unwrap())
}

#[test]
fn removals_of_other_books_count_against_the_same_budget() {
    let recorded = [("file", "/a"), ("file", "/b")];
    let budget = PruneBudget::limited("3");
    let alone = Inventory { budget: budget.clone(), others: 1, ..inventory(&recorded) };
    assert_eq!(order(decide(&alone, &BTreeSet::new())), ["file /b", "file /a"]);
    let crowd = Inventory { budget, others: 2, ..inventory(&recorded) };
    assert_eq!(held(&crowd, &BTreeSet::new()), "4 of 2, 3");
}

#[test]
fn inventory_that_is_all_managed_needs_nothing() {
    let all = [("file", "/a"), ("file", "/b")];
    assert_eq!(decide(&inventory(&all), &items(&all)), Decision::Nothing);
}

#[test]
fn empty_inventory_needs_nothing() {
    assert_eq!(decide(&Inventory::default(), &items(&[("file", "/a")])), Decision::Nothing);
}

#[test]
fn unmentioned_item_is_removed() {
    let found = decide(&inventory(&[("file", "/a"), ("file", "/b")]), &items(&[("file", "/a")]));
    assert_eq!(order(found), ["file /b"]);
}

#[test]
fn book_without_prune_forgets_its_items() {
    let inventory = Inventory { prune: false, ..inventory(&[("file", "/a")]) };
    let forget = vec![item("file", "/a")];
    assert_eq!(decide(&inventory, &BTreeSet::new()), Decision::Forget(Removal { forget, ..Removal::default() }));
}

#[test]
fn item_of_another_book_is_moved_and_not_removed() {
    let managed_anywhere = items(&[("file", "/a")]).into();
    let inventory = Inventory { managed_anywhere, ..inventory(&[("file", "/a")]) };
    let moved = vec![item("file", "/a")];
    assert_eq!(decide(&inventory, &BTreeSet::new()), Decision::Forget(Removal { moved, ..Removal::default() }));
}

#[test]
fn moved_items_leave_the_inventory_with_the_removed_ones() {
    let managed_anywhere = items(&[("file", "/a")]).into();
    let inventory = Inventory { managed_anywhere, ..inventory(&[("file", "/a"), ("file", "/b")]) };
    let Decision::Remove(removal) = decide(&inventory, &BTreeSet::new()) else { panic!() };
    assert_eq!((removal.remove, removal.moved), (vec![item("file", "/b")], vec![item("file", "/a")]));
}

#[test]
fn moved_items_do_not_count_for_the_budget() {
    let managed_anywhere = items(&[("file", "/a"), ("file", "/b")]).into();
    let recorded = [("file", "/a"), ("file", "/b"), ("file", "/c")];
    let inventory = Inventory { managed_anywhere, budget: PruneBudget::limited("1"), ..inventory(&recorded) };
    assert_eq!(order(decide(&inventory, &BTreeSet::new())), ["file /c"]);
}

#[test]
fn removal_over_the_default_budget_is_held() {
    let recorded: Vec<String> = (0..10).map(|number| format!("/{number}")).collect();
    let recorded: Vec<(&str, &str)> = recorded.iter().map(|path| ("file", path.as_str())).collect();
    let inventory = Inventory { budget: PruneBudget::default(), ..inventory(&recorded) };
    assert_eq!(held(&inventory, &items(&recorded[3..])), "3 of 10, 2");
    assert_eq!(order(decide(&inventory, &items(&recorded[2..]))), ["file /1", "file /0"]);
}

#[test]
fn budget_refers_to_all_items_of_the_node() {
    let inventory =
        Inventory { budget: PruneBudget::default(), total: 10, ..inventory(&[("file", "/a"), ("file", "/b")]) };
    assert_eq!(order(decide(&inventory, &BTreeSet::new())).len(), 2);
}

#[test]
fn budget_allows_one_item_at_least() {
    let inventory = Inventory { budget: PruneBudget::limited("1%"), ..inventory(&[("file", "/a")]) };
    assert_eq!(order(decide(&inventory, &BTreeSet::new())), ["file /a"]);
}

#[test]
fn budget_as_a_count_is_exact() {
    let recorded = [("file", "/a"), ("file", "/b"), ("file", "/c")];
    let inventory = Inventory { budget: PruneBudget::limited("2"), ..inventory(&recorded) };
    assert_eq!(held(&inventory, &BTreeSet::new()), "3 of 3, 2");
    assert_eq!(order(decide(&inventory, &items(&recorded[..1]))).len(), 2);
}

#[test]
fn budget_that_cannot_be_read_is_the_default() {
    let recorded = [("file", "/a"), ("file", "/b")];
    let inventory = Inventory { budget: PruneBudget::limited("many"), ..inventory(&recorded) };
    assert_eq!(held(&inventory, &BTreeSet::new()), "2 of 2, 1");
}

#[test]
fn budget_does_not_count_for_items_that_are_only_forgotten() {
    let recorded = [("file", "/a"), ("file", "/b")];
    let inventory = Inventory { budget: PruneBudget::limited("1"), prune: false, ..inventory(&recorded) };
    assert!(matches!(decide(&inventory, &BTreeSet::new()), Decision::Forget(_)));
}

#[test]
fn running_things_are_removed_before_their_files_and_accounts_last() {
    let recorded = [
        ("file", "/etc/app"),
        ("group", "app"),
        ("mount", "/mnt"),
        ("package", "app"),
        ("service", "app"),
        ("unit", "app.service"),
        ("user", "app"),
    ];
    assert_eq!(
        order(decide(&inventory(&recorded), &BTreeSet::new())),
        ["service app", "unit app.service", "file /etc/app", "mount /mnt", "package app", "user app", "group app"]
    );
}

#[test]
fn inner_paths_are_removed_before_their_folders() {
    let recorded = [("file", "/a"), ("file", "/a/b"), ("file", "/a/b/c")];
    assert_eq!(order(decide(&inventory(&recorded), &BTreeSet::new())), ["file /a/b/c", "file /a/b", "file /a"]);
}

#[test]
fn module_without_a_rank_is_removed_in_the_middle() {
    let recorded = [("custom", "x"), ("package", "p"), ("service", "s")];
    assert_eq!(order(decide(&inventory(&recorded), &BTreeSet::new())), ["service s", "custom x", "package p"]);
}
