//! The paths of files in a source. A path that leads through a link is refused, because a committed link can name any
//! file of the machine.

use towpath_render::tree::{EntryKind, Tree, join};

/// Returns the path of a regular file in a tree, in its shortest notation.
///
/// # Errors
/// When the tree has no regular file at the path, or when a part of the path is a link. The error names the link.
pub(super) fn regular_file(tree: &dyn Tree, path: &str) -> Result<String, String> {
    let path = join("", path)?;
    let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
    let parts = ends.filter_map(|end| path.get(..end));
    for part in parts {
        let entry = tree.entry(part).map_err(|error| error.to_string())?.map(|entry| entry.kind);
        match entry {
            Some(EntryKind::Link) => return Err(format!("{part} is a link, and links are not followed")),
            Some(EntryKind::Folder) if part != path => {}
            Some(EntryKind::File | EntryKind::Executable) if part == path => {}
            Some(_) => return Err(format!("{part} is not a regular file")),
            None => return Err("it does not exist".into()),
        }
    }
    Ok(path)
}
