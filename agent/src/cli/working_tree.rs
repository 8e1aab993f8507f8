//! Loads the objects of working trees, which are folders with the files of sources.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use towpath_render::{
    objects::{Loaded, SourceTree, load},
    tree::Tree,
};

use super::exit::Failure;
use crate::node::FolderTree;

/// Loads folders as sources: the folder of the first source, and further folders as NAME=DIR.
pub(super) fn load_folders(first: &str, folder: &Path, further: &[String]) -> Result<Loaded, Failure> {
    let open = |folder: &Path| {
        FolderTree::open(folder).map_err(|error| Failure::failed(format!("{}: {error}", folder.display())))
    };
    let tree: Arc<dyn Tree> = Arc::new(open(folder)?);
    let mut trees: Vec<(String, Arc<dyn Tree>)> = Vec::new();
    for written in further {
        let (name, path) =
            written.split_once('=').ok_or_else(|| Failure::invalid(format!("--source {written}: write NAME=DIR")))?;
        trees.push((name.to_owned(), Arc::new(open(Path::new(path))?)));
    }
    let mut sources =
        vec![SourceTree { name: first.to_owned(), tree: Arc::clone(&tree), library: false, globals: true }];
    // The Config of the first source defines the rights of the other sources.
    let alone = load(&sources, &BTreeMap::new());
    let written: Vec<_> = alone.set.configs.values().flat_map(|config| config.sources.clone()).collect();
    for (name, tree) in trees {
        let said = written.iter().find(|source| source.name.as_deref() == Some(name.as_str()));
        let flag =
            |choose: fn(&towpath_proto::v1alpha::GitSource) -> Option<bool>| said.and_then(choose).unwrap_or(false);
        sources.push(SourceTree {
            name,
            tree,
            library: flag(|source| source.library),
            globals: flag(|source| source.globals),
        });
    }
    Ok(load(&sources, &BTreeMap::new()))
}
