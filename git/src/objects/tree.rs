//! Reads the git tree of a commit within limits, and checks the tree as `git fsck` does.
//!
//! Each distinct tree object is read only once. If several folders contain the same tree, the entries of the tree count
//! once for each folder. A commit with ten small trees that expand to 10^10 files is rejected after ten reads.

use std::collections::{BTreeMap, BTreeSet, HashMap, hash_map::Entry};

use gix::{ObjectId, Repository, objs::tree::EntryKind};

/// The limits on the size of the git tree of one commit.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Budget {
    /// The maximum number of files and folders of one commit. A tree object that occurs in several folders counts
    /// several times.
    pub(crate) entries: u64,
    /// The maximum depth of nested folders.
    pub(crate) depth: u64,
    /// The maximum sum of the lengths of all paths, in bytes.
    pub(crate) paths: u64,
}

impl Budget {
    /// The limits for the git tree of each commit of a source.
    pub(crate) const SOURCE: Self = Self { entries: 1 << 20, depth: 256, paths: 256 << 20 };
}

/// The maximum length of a path in bytes, as in the Linux kernel.
const LONGEST_PATH: u64 = 4096;

/// The reason why a tree cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TreeError {
    /// An error because a tree object is missing or damaged.
    Unreadable(String),
    /// An error because a name, a mode or a size in the tree is not allowed.
    Refused(String),
}

/// A map of the files of a folder. Each key is the path of a file, relative to the folder.
pub(crate) type Files = BTreeMap<String, (EntryKind, ObjectId)>;

/// One entry of a tree object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RawEntry {
    kind: EntryKind,
    name: Box<[u8]>,
    id: ObjectId,
}

#[cfg(feature = "fuzzing")]
impl RawEntry {
    pub(crate) fn name(&self) -> &[u8] {
        &self.name
    }
}

/// The size of a tree, including all trees below it.
#[derive(Debug, Clone, Copy, Default)]
struct Totals {
    entries: u64,
    paths: u64,
    depth: u64,
    longest: u64,
}

impl Totals {
    /// Adds an entry to the size. If the entry is a folder, `below` is the size of the folder's tree.
    fn add(&mut self, name: &[u8], below: Option<Self>) {
        let name = name.len() as u64;
        let Self { entries, paths, depth, longest } = below.unwrap_or_default();
        self.entries = self.entries.saturating_add(1).saturating_add(entries);
        let prefixes = (name + 1).saturating_mul(entries);
        self.paths = self.paths.saturating_add(name).saturating_add(prefixes).saturating_add(paths);
        self.longest = self.longest.max(if below.is_some() { (name + 1).saturating_add(longest) } else { name });
        if below.is_some() {
            self.depth = self.depth.max(depth.saturating_add(1));
        }
    }

    fn check(&self, above: u64, budget: Budget) -> Result<(), TreeError> {
        let refused = |message: String| Err(TreeError::Refused(message));
        if self.entries > budget.entries {
            return refused(format!("the tree has more than {} files and folders", budget.entries));
        }
        if self.depth.saturating_add(above) > budget.depth {
            return refused(format!("the folders of the tree are nested more than {} deep", budget.depth));
        }
        if self.longest > LONGEST_PATH {
            return refused(format!("the tree has a path of more than {LONGEST_PATH} bytes"));
        }
        if self.paths > budget.paths {
            return refused(format!("the paths of the tree have more than {} bytes together", budget.paths));
        }
        Ok(())
    }
}

/// The tree objects of a commit, each stored once. Each tree object has passed all checks.
#[derive(Debug)]
pub(crate) struct Trees {
    root: ObjectId,
    read: HashMap<ObjectId, Vec<RawEntry>>,
}

impl Trees {
    /// Reads a tree and the trees of all folders in the tree.
    ///
    /// # Errors
    /// Returns an error if an object is missing, or if a tree is rejected.
    pub(crate) fn read(repository: &Repository, root: ObjectId, budget: Budget) -> Result<Self, TreeError> {
        let find = |id: ObjectId| {
            let tree = repository.find_tree(id).map_err(|error| TreeError::Unreadable(error.to_string()))?;
            Ok(tree.detach().data)
        };
        Self::gather(&find, root, budget)
    }

    fn gather(
        find: &dyn Fn(ObjectId) -> Result<Vec<u8>, TreeError>,
        root: ObjectId,
        budget: Budget,
    ) -> Result<Self, TreeError> {
        let mut read: HashMap<ObjectId, Vec<RawEntry>> = HashMap::new();
        let mut done: HashMap<ObjectId, Totals> = HashMap::new();
        let mut left = budget.entries;
        // The trees from the root to the current tree. Each tree has the index of its next entry and its totals so far.
        let mut way: Vec<(ObjectId, usize, Totals)> = vec![(root, 0, Totals::default())];
        while let Some((id, next, totals)) = way.last_mut() {
            let id = *id;
            let known = match read.entry(id) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(place) => {
                    let entries = entries(&find(id)?, left)?;
                    left = left.saturating_sub(entries.len() as u64);
                    place.insert(entries)
                }
            };
            let Some(entry) = known.get(*next) else {
                done.insert(id, *totals);
                way.pop();
                continue;
            };
            if entry.kind != EntryKind::Tree {
                totals.add(&entry.name, None);
            } else if let Some(below) = done.get(&entry.id) {
                totals.add(&entry.name, Some(*below));
            } else {
                let below = entry.id;
                if way.len() as u64 >= budget.depth {
                    return Err(TreeError::Refused(format!(
                        "the folders of the tree are nested more than {} deep",
                        budget.depth
                    )));
                }
                way.push((below, 0, Totals::default()));
                continue;
            }
            *next += 1;
            let totals = *totals;
            totals.check((way.len() as u64).saturating_sub(1), budget)?;
        }
        Ok(Self { root, read })
    }

    /// Returns all files below a folder, by their paths relative to the folder; `None` if the folder does not exist.
    ///
    /// Files with names that are not UTF-8 are omitted.
    ///
    /// # Errors
    /// Returns an error if a name has control characters.
    pub(crate) fn files(&self, folder: &str) -> Result<Option<Files>, TreeError> {
        let mut at = self.root;
        for part in folder.split('/').filter(|part| !part.is_empty() && *part != ".") {
            let entries = self.read.get(&at).map(Vec::as_slice).unwrap_or_default();
            let found = entries.iter().find(|entry| entry.kind == EntryKind::Tree && *entry.name == *part.as_bytes());
            let Some(found) = found else { return Ok(None) };
            at = found.id;
        }
        let mut files = Files::new();
        let mut folders = vec![(String::new(), at)];
        while let Some((prefix, id)) = folders.pop() {
            for entry in self.read.get(&id).map(Vec::as_slice).unwrap_or_default() {
                let Ok(name) = std::str::from_utf8(&entry.name) else { continue };
                if name.contains(unprintable) {
                    let shown = format!("{prefix}{name}").escape_debug().to_string();
                    return Err(TreeError::Refused(format!("the name \"{shown}\" has control characters")));
                }
                match entry.kind {
                    EntryKind::Tree => folders.push((format!("{prefix}{name}/"), entry.id)),
                    kind => {
                        files.insert(format!("{prefix}{name}"), (kind, entry.id));
                    }
                }
            }
        }
        Ok(Some(files))
    }
}

/// Returns true for a control character, for a character that changes the direction of text, and for a line break.
fn unprintable(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Parses the entries of a tree object. The argument `most` is the maximum number of entries.
///
/// # Errors
/// Returns an error if the object is damaged, has too many entries, or has a name or a mode that git rejects.
pub(crate) fn entries(data: &[u8], most: u64) -> Result<Vec<RawEntry>, TreeError> {
    let damaged = || TreeError::Unreadable("a tree object is damaged".into());
    let mut entries: Vec<RawEntry> = Vec::new();
    let mut names: BTreeSet<&[u8]> = BTreeSet::new();
    let mut last: Option<(&[u8], bool)> = None;
    let mut rest = data;
    while !rest.is_empty() {
        if entries.len() as u64 >= most {
            return Err(TreeError::Refused(format!(
                "a folder of the tree has more than {most} files and folders, so the tree exceeds its limit"
            )));
        }
        let space = rest.iter().position(|byte| *byte == b' ').ok_or_else(damaged)?;
        let (mode, after) = rest.split_at(space);
        let after = after.get(1..).ok_or_else(damaged)?;
        let end = after.iter().position(|byte| *byte == 0).ok_or_else(damaged)?;
        let (name, after) = after.split_at(end);
        let id = after.get(1..21).and_then(|id| ObjectId::try_from(id).ok()).ok_or_else(damaged)?;
        rest = after.get(21..).unwrap_or_default();
        let refused = |what: &str| TreeError::Refused(format!("the name \"{}\" {what}", name.escape_ascii()));
        let kind = kind(mode).ok_or_else(|| refused(&format!("has the unknown mode {}", mode.escape_ascii())))?;
        if let Some(what) = refused_name(name) {
            return Err(refused(what));
        }
        if !names.insert(name) {
            return Err(refused("occurs twice"));
        }
        let folder = kind == EntryKind::Tree;
        if last.is_some_and(|last| order(last).gt(order((name, folder)))) {
            return Err(refused("is not in the order of git"));
        }
        last = Some((name, folder));
        entries.push(RawEntry { kind, name: name.into(), id });
    }
    Ok(entries)
}

/// Returns the bytes by which git sorts an entry of a tree. Git sorts a folder by its name with a slash at the end.
fn order<'a>((name, folder): (&'a [u8], bool)) -> impl Iterator<Item = u8> + use<'a> {
    name.iter().copied().chain(folder.then_some(b'/'))
}

/// Parses the mode of a tree entry; `None` for a mode that git does not write.
fn kind(mode: &[u8]) -> Option<EntryKind> {
    Some(match mode {
        b"40000" | b"040000" => EntryKind::Tree,
        // Git versions of 2005 also wrote the mode 100664.
        b"100644" | b"100664" => EntryKind::Blob,
        b"100755" => EntryKind::BlobExecutable,
        b"120000" => EntryKind::Link,
        b"160000" => EntryKind::Commit,
        _ => return None,
    })
}

/// Returns the reason why git rejects a file name; `None` for a valid name.
fn refused_name(name: &[u8]) -> Option<&'static str> {
    if name.is_empty() {
        return Some("is empty");
    }
    if matches!(name, b"." | b"..") {
        return Some("leads out of its folder");
    }
    if name.contains(&b'/') {
        return Some("has a slash");
    }
    // NTFS treats a backslash as a slash.
    let ntfs = name.split(|byte| *byte == b'\\').any(is_ntfs_dotgit);
    (ntfs || is_hfs_dotgit(name)).then_some("is .git, or a file system treats it as .git")
}

/// Returns true if NTFS treats a name as `.git`: `.git` or `git~1` in any case, also with trailing dots, blanks or a
/// stream name.
fn is_ntfs_dotgit(name: &[u8]) -> bool {
    let starts = |word: &[u8]| name.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word));
    let rest = if starts(b".git") {
        name.get(4..)
    } else if starts(b"git~1") {
        name.get(5..)
    } else {
        None
    };
    rest.is_some_and(|rest| {
        let end = rest.iter().position(|byte| !matches!(byte, b'.' | b' '));
        end.is_none_or(|end| rest.get(end) == Some(&b':'))
    })
}

/// Returns true if HFS+ treats a name as `.git`: in upper or lower case, also with code points that HFS+ ignores.
fn is_hfs_dotgit(name: &[u8]) -> bool {
    let Ok(name) = std::str::from_utf8(name) else { return false };
    let ignored = |character: &char| matches!(character, '\u{200c}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{206a}'..='\u{206f}' | '\u{feff}');
    name.chars()
        .filter(|character| !ignored(character))
        .map(|character| character.to_ascii_lowercase())
        .eq(".git".chars())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(entries: &[(&str, &[u8], ObjectId)]) -> Vec<u8> {
        let mut data = Vec::new();
        for (mode, name, id) in entries {
            data.extend_from_slice(mode.as_bytes());
            data.push(b' ');
            data.extend_from_slice(name);
            data.push(0);
            data.extend_from_slice(id.as_slice());
        }
        data
    }

    fn id(number: u8) -> ObjectId {
        ObjectId::from_bytes_or_panic(&[number; 20])
    }

    fn read(trees: &[Vec<u8>], budget: Budget) -> Result<Trees, TreeError> {
        let find = |wanted: ObjectId| {
            let at = usize::from(wanted.as_slice()[0]);
            trees.get(at).cloned().ok_or_else(|| TreeError::Unreadable("missing".into()))
        };
        Trees::gather(&find, id(0), budget)
    }

    fn refused(data: &[u8]) -> String {
        match entries(data, 1000) {
            Err(TreeError::Refused(message)) => message,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn names_that_git_refuses_are_refused() {
        let bad: &[&[u8]] = &[
            b"",
            b".",
            b"..",
            b"a/b",
            b"../etc/passwd",
            b".git",
            b".GiT",
            b".git.",
            b".git ",
            b".git . .",
            b"git~1",
            b"GIT~1 .",
            b".git::$INDEX_ALLOCATION",
            b".git:x",
            b"..\\.git",
            b"a\\git~1",
            ".g\u{200c}it".as_bytes(),
            "\u{feff}.GIT".as_bytes(),
            ".gi\u{206f}t".as_bytes(),
        ];
        for name in bad {
            refused(&tree(&[("100644", name, id(1))]));
            refused(&tree(&[("40000", name, id(1))]));
        }
    }

    #[test]
    fn names_near_to_refused_ones_are_taken() {
        let good: &[&[u8]] = &[
            b".gitignore",
            b".gitmodules",
            b"git~2",
            b"...",
            b".git-x",
            b"agit~1",
            b"dev-disk-by\\x2duuid.mount",
            "caf\u{e9}".as_bytes(),
        ];
        for name in good {
            entries(&tree(&[("100644", name, id(1))]), 10).unwrap();
        }
    }

    #[test]
    fn names_twice_and_names_out_of_order_are_refused() {
        let (file, folder) = ("100644", "40000");
        assert!(refused(&tree(&[(file, b"a", id(1)), (file, b"a", id(2))])).contains("twice"));
        // In git's order, the name `a.b` is between the link `a` and the folder `a`.
        let both = tree(&[("120000", b"a", id(1)), (file, b"a.b", id(1)), (folder, b"a", id(2))]);
        assert!(refused(&both).contains("twice"));
        assert!(refused(&tree(&[(file, b"b", id(1)), (file, b"a", id(2))])).contains("order"));
        assert!(refused(&tree(&[(folder, b"a", id(1)), (file, b"a.b", id(2))])).contains("order"));
        entries(&tree(&[(file, b"a.b", id(1)), (folder, b"a", id(2)), (file, b"a0", id(2))]), 10).unwrap();
    }

    #[test]
    fn unknown_modes_and_damaged_trees_are_refused() {
        for mode in ["777", "100777", "140000", "", "1006440", "10064a"] {
            assert!(refused(&tree(&[(mode, b"a", id(1))])).contains("mode"), "{mode}");
        }
        let whole = tree(&[("100644", b"a", id(1))]);
        for cut in 1..whole.len() {
            assert!(matches!(entries(&whole[..cut], 10), Err(TreeError::Unreadable(_))), "{cut}");
        }
    }

    #[test]
    fn bomb_of_ten_trees_is_refused_after_ten_reads() {
        let names: Vec<String> = (0..10).map(|number| format!("d{number}")).collect();
        let mut trees: Vec<Vec<u8>> = (1..10)
            .map(|level| tree(&names.iter().map(|name| ("40000", name.as_bytes(), id(level))).collect::<Vec<_>>()))
            .collect();
        trees.push(tree(&names.iter().map(|name| ("100644", name.as_bytes(), id(99))).collect::<Vec<_>>()));
        let error = read(&trees, Budget::SOURCE).unwrap_err();
        assert!(matches!(&error, TreeError::Refused(why) if why.contains("files and folders")), "{error:?}");
        // With the empty tree, the nested folders contain no file.
        trees[9] = Vec::new();
        let error = read(&trees, Budget::SOURCE).unwrap_err();
        assert!(matches!(&error, TreeError::Refused(why) if why.contains("files and folders")), "{error:?}");
    }

    #[test]
    fn depth_and_length_of_paths_are_bounded() {
        let chain = |count: u8, name: &[u8]| -> Vec<Vec<u8>> {
            let mut trees: Vec<Vec<u8>> = (1..count).map(|next| tree(&[("40000", name, id(next))])).collect();
            trees.push(tree(&[("100644", b"f", id(99))]));
            trees
        };
        let budget = Budget { depth: 20, ..Budget::SOURCE };
        read(&chain(20, b"d"), budget).unwrap();
        let error = read(&chain(22, b"d"), budget).unwrap_err();
        assert!(matches!(&error, TreeError::Refused(why) if why.contains("deep")), "{error:?}");
        let error = read(&chain(50, &[b'x'; 100]), Budget::SOURCE).unwrap_err();
        assert!(matches!(&error, TreeError::Refused(why) if why.contains("path")), "{error:?}");
        let budget = Budget { paths: 1000, ..Budget::SOURCE };
        let error = read(&chain(50, &[b'x'; 50]), budget).unwrap_err();
        assert!(matches!(&error, TreeError::Refused(why) if why.contains("together")), "{error:?}");
    }

    #[test]
    fn control_characters_are_refused_below_the_folder_alone() {
        let trees = |name: &[u8]| {
            vec![
                tree(&[("40000", b"fleet", id(1)), ("100644", b"odd\x1b[2J", id(9))]),
                tree(&[("40000", b"sub", id(2))]),
                tree(&[("100644", name, id(9))]),
            ]
        };
        let good = read(&trees(b"a"), Budget::SOURCE).unwrap();
        assert_eq!(good.files("fleet").unwrap().unwrap().keys().collect::<Vec<_>>(), ["sub/a"]);
        assert!(good.files("nothing").unwrap().is_none());
        let Err(TreeError::Refused(why)) = good.files("") else { panic!() };
        assert!(why.contains("\\u{1b}[2J") && !why.contains('\x1b'), "{why}");
        for odd in ["a\nb", "a\u{7f}", "a\u{9b}31m", "a\u{202e}b", "\t"] {
            let trees = read(&trees(odd.as_bytes()), Budget::SOURCE).unwrap();
            assert!(matches!(trees.files("fleet"), Err(TreeError::Refused(_))), "{odd:?}");
        }
    }
}
