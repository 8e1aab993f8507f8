//! Reads the files of all sources, and turns each document into an object after a check against the schema.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde_json::Value;
use towpath_proto::Message;

use super::files::{self, Ignored, SourceTree};
use crate::{
    document::{Document, Limits, Place, SourceFile, check_object, parse, problem_at},
    objects::{
        Cost, Key, Object,
        check::Mention,
        ledger::{Found, Ledger},
    },
    problem::Finding,
    tree::Entry,
};

/// The held objects and sources, which the loader skips.
#[derive(Debug, Default)]
pub(super) struct LeftOut {
    /// The objects that the loader skips, each with the name of its source.
    pub(super) objects: BTreeSet<(String, Key)>,
    /// The sources whose objects are all skipped.
    pub(super) sources: BTreeSet<String>,
}

impl LeftOut {
    pub(super) fn len(&self) -> usize {
        self.objects.len() + self.sources.len()
    }
}

/// The objects of all sources before the expansion of includes.
pub(super) struct Written {
    /// The objects, by identity.
    pub(super) objects: BTreeMap<Key, Object>,
    /// The references between objects. The loader checks the references after it has read all objects.
    pub(super) mentions: Vec<Mention>,
}

/// Reads the objects of all sources, without the objects and sources in `left_out`.
pub(super) fn read(sources: &[SourceTree], left_out: &LeftOut, ledger: Ledger) -> (Written, Ledger) {
    let mut reader = Reader { left_out, ledger, objects: BTreeMap::new(), mentions: Vec::new() };
    for (position, source) in sources.iter().enumerate() {
        reader.source(source, position == 0);
    }
    let Reader { ledger, objects, mentions, .. } = reader;
    (Written { objects, mentions }, ledger)
}

struct Reader<'a> {
    left_out: &'a LeftOut,
    ledger: Ledger,
    objects: BTreeMap<Key, Object>,
    mentions: Vec<Mention>,
}

impl Reader<'_> {
    fn source(&mut self, source: &SourceTree, first: bool) {
        let entries = match source.tree.list("") {
            Ok(entries) => entries,
            Err(error) => {
                return self.file_problem(source, "", Finding::new(format!("cannot read the source: {error}")));
            }
        };
        for (entry, finding) in files::refused(&entries) {
            self.file_problem(source, &entry.path, finding);
        }
        if source.library || self.left_out.sources.contains(&source.name) {
            return;
        }
        let (ignored, problems) = Ignored::read(source);
        for problem in problems {
            self.ledger.keep([problem]);
        }
        let mut objects = 0;
        for entry in entries.iter().filter(|entry| files::has_objects(&entry.path) && !ignored.covers(&entry.path)) {
            let cost = Cost { files: 1, bytes: entry.size.unwrap_or(0), ..Cost::default() };
            if !self.ledger.charge(&source.name, cost) {
                return;
            }
            objects += self.file(source, first, entry);
        }
        if objects == 0 && !self.ledger.has_error(&source.name) {
            let finding = Finding::new(format!("the source {} has no objects", source.name))
                .hint("write *.yaml files below its path, or set library: true if it only holds files for includes");
            self.file_problem(source, "", finding);
        }
    }

    fn file_problem(&mut self, source: &SourceTree, path: &str, finding: Finding) {
        let file = SourceFile::new(source.name.as_str(), if path.is_empty() { &source.name } else { path }, "");
        self.ledger.keep([problem_at(&file, 1, 1, finding)]);
    }

    /// Reads the documents of one file, and returns the sum of the number of documents and the number of problems.
    fn file(&mut self, source: &SourceTree, first: bool, entry: &Entry) -> usize {
        let limits = Limits::default();
        let bytes = match files::read(source, entry, limits) {
            Ok(bytes) => bytes,
            Err(finding) => {
                self.file_problem(source, &entry.path, finding);
                return 0;
            }
        };
        if entry.size.is_none() {
            self.ledger.charge(&source.name, Cost { bytes: bytes.len() as u64, ..Cost::default() });
        }
        let (documents, problems) = parse(&source.name, &entry.path, &bytes, limits);
        let count = documents.len() + problems.len();
        self.ledger.keep(problems);
        for document in documents {
            if !self.ledger.charge(&source.name, Cost::of(&document.value)) {
                break;
            }
            self.document(source, first, &document);
        }
        count
    }

    fn document(&mut self, source: &SourceTree, first: bool, document: &Document) {
        let (kind, mut checked) = check_object(&document.value);
        let found = std::mem::take(&mut checked.references);
        let key = kind.and_then(|kind| Key::read(kind, &document.value["metadata"]));
        if key.as_ref().is_some_and(|key| self.left_out.objects.contains(&(source.name.clone(), key.clone()))) {
            return;
        }
        self.ledger.keep_checked(document, checked);
        let (Some(kind), Some(key)) = (kind, key) else { return };
        let place = document.place();
        if kind.scope == Some("global") && !first && !source.globals {
            let finding = Finding::new(format!("the source {} must not define a {}", source.name, kind.name))
                .hint("global kinds come from the first source, and from sources with globals: true");
            return self.ledger.report(Found::new(place.key("metadata").key("kind"), finding));
        }
        let mention = |reference| Mention { reference, from: key.clone(), place: place.clone() };
        self.mentions.extend(found.into_iter().map(mention));
        self.insert(kind, key, document, place);
    }

    fn insert(&mut self, kind: &'static Message, key: Key, document: &Document, place: Place) {
        if let Some(other) = self.objects.get(&key) {
            let finding = Finding::new(format!("there are two objects {} {}", kind.name, key.qualified_name()));
            let found = Found::new(place.key("metadata").key("name"), finding);
            return self.ledger.report(found.hint_at(&other.place, |line| format!("the other object is at {line}")));
        }
        let labels = document.value["metadata"].get("labels").and_then(Value::as_object);
        let labels = labels
            .into_iter()
            .flatten()
            .filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())))
            .collect();
        let spec = Arc::new(document.value.get("spec").cloned().unwrap_or_default());
        self.objects.insert(key.clone(), Object { key, labels, spec, place });
    }
}
