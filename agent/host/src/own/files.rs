//! Files and folders by their full path. Links are followed.

use std::{
    fs::{self, File},
    io,
    path::Path,
};

/// Reads a file.
///
/// # Errors
/// When the file cannot be read.
pub fn read(file: &Path) -> io::Result<Vec<u8>> {
    fs::read(file)
}

/// Reads a file as text.
///
/// # Errors
/// When the file cannot be read, or is not UTF-8.
pub fn read_text(file: &Path) -> io::Result<String> {
    fs::read_to_string(file)
}

/// Writes a text file. Missing folders are created, and an existing file is overwritten.
///
/// # Errors
/// When the file or a folder cannot be written.
pub fn write_text(file: &Path, text: &str) -> io::Result<()> {
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(file, text)
}

/// Opens an empty file for writing. An existing file is emptied.
///
/// # Errors
/// When the file cannot be created or opened.
pub fn create(file: &Path) -> io::Result<File> {
    File::create(file)
}

/// Creates a folder, and the folders above it. An existing folder is kept.
///
/// # Errors
/// When a folder cannot be created.
pub fn create_folder(folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)
}

/// Removes a folder with its contents.
///
/// # Errors
/// When the folder or a file in it cannot be removed.
pub fn remove_folder(folder: &Path) -> io::Result<()> {
    fs::remove_dir_all(folder)
}
