//! Removes the temporary files that a killed or stopped fetch has left in a mirror.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::SystemTime,
};

/// Removes the temporary files of earlier fetches, except the newest file.
///
/// The child process of a killed agent may still be writing the newest file. The current fetch removes the newest file
/// when the fetch ends.
pub(crate) fn remove_older(mirror: &Path) -> io::Result<()> {
    let mut found = half_written(mirror)?;
    found.sort_by_key(|(time, _)| *time);
    found.pop();
    found.iter().try_for_each(|(_, path)| remove_file(path))
}

/// Removes all temporary files that fetches have left in a mirror.
pub(crate) fn remove(mirror: &Path) -> io::Result<()> {
    half_written(mirror)?.iter().try_for_each(|(_, path)| remove_file(path))
}

/// Removes a file. If the file does not exist, the function does nothing.
pub(crate) fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Returns the paths and times of the temporary files in a mirror: `gix`'s own files, packs without an index, and
/// indexes without a pack.
fn half_written(mirror: &Path) -> io::Result<Vec<(SystemTime, PathBuf)>> {
    let mut found = Vec::new();
    for folder in [mirror.join("objects/pack"), mirror.join("objects"), mirror.to_owned()] {
        let entries = match fs::read_dir(&folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            let path = entry.path();
            let name = entry.file_name();
            let ending = path.extension().and_then(|ending| ending.to_str());
            let half = name.as_encoded_bytes().starts_with(b".tmp")
                || name.as_encoded_bytes().starts_with(b"tmp_")
                || match ending {
                    Some("pack") => !path.with_extension("idx").exists(),
                    Some("idx" | "keep") => !path.with_extension("pack").exists(),
                    _ => false,
                };
            // A file that another process has just removed is skipped.
            if let (true, Ok(meta)) = (half, entry.metadata())
                && meta.is_file()
            {
                found.push((meta.modified().unwrap_or(SystemTime::UNIX_EPOCH), path));
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn half_written_files_are_removed_and_packs_stay() {
        let mirror = tempfile::tempdir().unwrap();
        let folder = mirror.path().join("objects/pack");
        fs::create_dir_all(&folder).unwrap();
        let old = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(60);
        for name in [".tmpA", "tmp_pack_1", "pack-1.pack", "pack-2.idx", "pack-3.keep", "pack-4.pack", "pack-4.idx"] {
            let file = fs::File::create(folder.join(name)).unwrap();
            file.set_modified(old).unwrap();
        }
        fs::write(folder.join(".tmpB"), "").unwrap();
        remove_older(mirror.path()).unwrap();
        assert_eq!(names(&folder), [".tmpB", "pack-4.idx", "pack-4.pack"]);
        remove(mirror.path()).unwrap();
        assert_eq!(names(&folder), ["pack-4.idx", "pack-4.pack"]);
        remove(&mirror.path().join("nothing")).unwrap();
    }
}
