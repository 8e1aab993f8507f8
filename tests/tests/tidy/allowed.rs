//! The list of known violations, `allowed.txt`. It only shrinks.

use std::collections::BTreeMap;

use crate::tree::Finding;

/// The known violations: rule and subject to figure.
pub type Allowed = BTreeMap<(String, String), usize>;

/// Reads the list: a rule, a figure and a subject in each line.
pub fn parse(text: &str) -> Allowed {
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty());
    lines
        .map(|line| {
            let mut parts = line.splitn(3, ' ');
            let mut part = || parts.next().unwrap_or_default().trim().to_owned();
            let (rule, figure, subject) = (part(), part(), part());
            let figure = figure.parse().unwrap_or_else(|_| panic!("allowed.txt: {line:?} has no figure"));
            ((rule, subject), figure)
        })
        .collect()
}

/// Returns what is wrong: violations that are not listed or have grown, and lines of the list that are too high.
pub fn compare(found: &[Finding], allowed: &Allowed) -> Vec<String> {
    let mut wrong = Vec::new();
    for Finding { rule, subject, figure, detail } in found {
        match allowed.get(&((*rule).to_owned(), subject.clone())) {
            Some(limit) if figure > limit => {
                wrong.push(format!("{rule}: {subject} grew from {limit} to {figure}: {detail}"))
            }
            Some(limit) if figure < limit => {
                wrong.push(format!("allowed.txt is too high: {rule} {subject} is {figure}, not {limit}; {LOWER}"));
            }
            Some(_) => {}
            None => wrong.push(format!("{rule}: {subject} ({figure}): {detail}")),
        }
    }
    for (rule, subject) in allowed.keys() {
        if !found.iter().any(|finding| finding.rule == rule && finding.subject == *subject) {
            wrong.push(format!("allowed.txt is too high: {rule} {subject} is no longer a violation; {LOWER}"));
        }
    }
    wrong
}

const LOWER: &str = "run with TIDY_LOWER=1 to lower the list";

/// Returns the text of the list with its figures lowered to what was found. Nothing is added or raised.
pub fn lowered(text: &str, found: &[Finding]) -> String {
    let keep = |line: &&str| line.starts_with('#') || line.trim().is_empty();
    let mut lines: Vec<String> = Vec::new();
    for line in text.lines() {
        if keep(&line) {
            lines.push(line.to_owned());
            continue;
        }
        for ((rule, subject), limit) in parse(line) {
            if let Some(finding) = found.iter().find(|finding| finding.rule == rule && finding.subject == subject) {
                lines.push(format!("{rule} {} {subject}", finding.figure.min(limit)));
            }
        }
    }
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "# Known.\n\nfields 12 towpath::A\ncircle 2 git/src/a b.rs\n";

    fn found(fields: usize, circle: Option<usize>) -> Vec<Finding> {
        let fields = Finding::new("fields", "towpath::A", fields, "in a.rs");
        let circle = circle.map(|figure| Finding::new("circle", "git/src/a b.rs", figure, ""));
        [fields].into_iter().chain(circle).collect()
    }

    #[test]
    fn list_that_fits_is_green() {
        assert_eq!(compare(&found(12, Some(2)), &parse(LIST)), Vec::<String>::new());
    }

    #[test]
    fn growth_and_unlisted_violations_are_red() {
        let wrong = compare(&found(13, Some(2)), &parse(LIST));
        assert_eq!(wrong, ["fields: towpath::A grew from 12 to 13: in a.rs"]);
        let wrong = compare(&found(12, Some(2)), &parse("circle 2 git/src/a b.rs\n"));
        assert_eq!(wrong, ["fields: towpath::A (12): in a.rs"]);
    }

    #[test]
    fn list_that_is_too_high_is_red() {
        let wrong = compare(&found(11, None), &parse(LIST));
        assert_eq!(wrong.len(), 2, "{wrong:?}");
        assert!(
            wrong[0].contains("towpath::A is 11, not 12") && wrong[1].contains("no longer a violation"),
            "{wrong:?}"
        );
    }

    #[test]
    fn lowering_removes_and_lowers_but_never_raises() {
        assert_eq!(lowered(LIST, &found(11, None)), "# Known.\n\nfields 11 towpath::A\n");
        assert_eq!(lowered(LIST, &found(13, Some(2))), LIST);
    }
}
