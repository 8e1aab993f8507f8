use super::*;

const PLAIN: Access = Access { mode: 0o640, uid: None, gid: None };

fn fixture() -> (tempfile::TempDir, FsWriter) {
    let folder = tempfile::tempdir().unwrap();
    let writer = FsWriter::new(FsReader::at(folder.path()).unwrap());
    (folder, writer)
}

#[test]
fn replaced_file_has_the_mode() {
    let (folder, writer) = fixture();
    writer.make_directory("/etc/app", 0o755).unwrap();
    writer.replace("/etc/app/a.conf", b"one", PLAIN).unwrap();
    writer.replace("/etc/app/a.conf", b"two", PLAIN).unwrap();
    let (bytes, meta) = writer.reader().read("/etc/app/a.conf").unwrap().unwrap();
    assert_eq!((bytes.as_slice(), meta.mode), (b"two".as_slice(), 0o640));
    assert_eq!(std::fs::read_dir(folder.path().join("etc/app")).unwrap().count(), 1);
}

#[test]
fn no_link_escapes_the_root() {
    let (folder, writer) = fixture();
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("secret"), "keep").unwrap();
    std::os::unix::fs::symlink(outside.path(), folder.path().join("out")).unwrap();
    std::os::unix::fs::symlink("../../../../../..", folder.path().join("up")).unwrap();
    assert!(writer.reader().read("/out/secret").unwrap().is_none());
    assert!(writer.replace("/out/secret", b"gone", PLAIN).is_err());
    let up = format!("/up{}/secret", outside.path().display());
    assert!(writer.reader().read(&up).unwrap().is_none());
    assert!(writer.reader().read("/../../../../../../etc/passwd").unwrap().is_none());
    writer.remove("/out").unwrap();
    assert_eq!(std::fs::read_to_string(outside.path().join("secret")).unwrap(), "keep");
}

#[test]
fn removal_of_a_tree_follows_no_link() {
    let (folder, writer) = fixture();
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("keep"), "x").unwrap();
    std::fs::create_dir_all(folder.path().join("a/b")).unwrap();
    std::fs::write(folder.path().join("a/b/c"), "x").unwrap();
    std::os::unix::fs::symlink(outside.path(), folder.path().join("a/b/link")).unwrap();
    writer.remove("/a").unwrap();
    assert!(!folder.path().join("a").exists());
    assert!(outside.path().join("keep").exists());
}

#[test]
fn leftover_of_a_crash_is_replaced() {
    let (_folder, writer) = fixture();
    let staged = writer.stage("/a", b"half", PLAIN).unwrap();
    drop(staged);
    writer.replace("/a", b"whole", PLAIN).unwrap();
    assert_eq!(writer.reader().read("/a").unwrap().unwrap().0, b"whole");
    drop(writer.stage("/a", b"half", PLAIN).unwrap());
    writer.clear_temporary("/a").unwrap();
    assert_eq!(writer.reader().list("/").unwrap(), ["a"]);
}

#[test]
fn partial_file_is_continued() {
    let (_folder, writer) = fixture();
    let mut part = writer.part("/a").unwrap();
    part.file.write_all(b"one ").unwrap();
    drop(part);
    assert!(writer.reader().read("/a").unwrap().is_none());
    let mut part = writer.part("/a").unwrap();
    part.file.write_all(b"two").unwrap();
    writer.commit_all(vec![part.finish(PLAIN).unwrap()]).unwrap();
    let (bytes, meta) = writer.reader().read("/a").unwrap().unwrap();
    assert_eq!((bytes.as_slice(), meta.mode), (b"one two".as_slice(), 0o640));
    let mut part = writer.part("/a").unwrap();
    part.file.write_all(b"half").unwrap();
    part.clear().unwrap();
    writer.commit_all(vec![part.finish(PLAIN).unwrap()]).unwrap();
    assert_eq!(writer.reader().read("/a").unwrap().unwrap().0, b"");
    assert_eq!(writer.reader().list("/").unwrap(), ["a"]);
}

#[test]
fn partial_file_that_others_may_have_written_is_discarded() {
    use std::os::unix::fs::PermissionsExt as _;
    let (folder, writer) = fixture();
    let mut name = temporary_name("a".as_ref());
    name.push(".part");
    let planted = folder.path().join(&name);
    let elsewhere = folder.path().join("elsewhere");
    for how in ["open", "linked", "a pipe"] {
        match how {
            "open" => {
                std::fs::write(&planted, "evil").unwrap();
                std::fs::set_permissions(&planted, std::fs::Permissions::from_mode(0o666)).unwrap();
            }
            "linked" => {
                std::fs::write(&elsewhere, "kept").unwrap();
                std::fs::hard_link(&elsewhere, &planted).unwrap();
            }
            _ => rustix::fs::mkfifoat(rustix::fs::CWD, &planted, Mode::from_raw_mode(0o600)).unwrap(),
        }
        let part = writer.part("/a").unwrap();
        assert_eq!(part.file.metadata().unwrap().len(), 0, "{how}");
        writer.drop_part("/a").unwrap();
        assert!(!planted.exists());
    }
    assert_eq!(std::fs::read_to_string(elsewhere).unwrap(), "kept");
}

#[test]
fn folder_that_users_share_gets_the_open_file_and_no_other() {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
    let (folder, writer) = fixture();
    let home = folder.path().join("home");
    std::fs::create_dir(&home).unwrap();
    std::os::unix::fs::chown(&home, Some(65534), Some(65534)).unwrap();
    let shared = folder.path().join("shared");
    std::fs::create_dir(&shared).unwrap();
    std::fs::set_permissions(&shared, std::fs::Permissions::from_mode(0o2777)).unwrap();
    for place in ["home", "shared"] {
        let path = format!("/{place}/a");
        let staged = writer.stage(&path, b"ours", PLAIN).unwrap();
        let temporary = staged.temporary_path.clone();
        // A user can exchange the temporary file before the rename. A private directory may remain from a crash.
        std::fs::rename(&temporary, folder.path().join(place).join("aside")).unwrap();
        std::fs::write(&temporary, "theirs").unwrap();
        let mut room = temporary_name("a".as_ref());
        room.push(".place");
        std::fs::create_dir_all(folder.path().join(place).join(&room).join("in/the/way")).unwrap();
        let committed = writer.commit(staged).unwrap();
        writer.sync_directories(&[committed]).unwrap();
        assert_eq!(writer.reader().read(&path).unwrap().unwrap().0, b"ours");
        assert_eq!(writer.reader().list(&format!("/{place}")).unwrap(), ["a", "aside"]);
        let staged = writer.stage(&path, b"newer", PLAIN).unwrap();
        std::fs::remove_file(&temporary).unwrap();
        std::fs::write(&temporary, "theirs").unwrap();
        assert!(writer.commit(staged).is_err(), "a file without a name is not put in place");
        assert_eq!(writer.reader().read(&path).unwrap().unwrap().0, b"ours");
        assert_eq!(std::fs::metadata(folder.path().join(place).join("a")).unwrap().nlink(), 2);
    }
}

#[test]
fn file_with_another_name_in_a_shared_folder_is_not_granted() {
    let (folder, writer) = fixture();
    std::fs::create_dir(folder.path().join("home")).unwrap();
    std::os::unix::fs::chown(folder.path().join("home"), Some(65534), Some(65534)).unwrap();
    for (name, uid, fine) in [("root", 0, false), ("other", 65533, false), ("own", 65534, true)] {
        let path = folder.path().join(name);
        std::fs::write(&path, "").unwrap();
        std::os::unix::fs::chown(&path, Some(uid), None).unwrap();
        std::fs::hard_link(&path, folder.path().join("home").join(name)).unwrap();
        assert_eq!(writer.set_permissions(&format!("/home/{name}"), PLAIN).is_ok(), fine, "{name}");
        // Users cannot create names in a folder of root, so the agent trusts the names.
        writer.set_permissions(&format!("/{name}"), PLAIN).unwrap();
    }
    let meta = writer.reader().meta("/root").unwrap().unwrap();
    std::fs::rename(folder.path().join("other"), folder.path().join("root")).unwrap();
    assert!(writer.set_permissions_if("/root", PLAIN, Some(meta.version)).is_err(), "it is another file");
}

#[test]
fn file_system_without_extended_attributes_takes_files() {
    use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
    let (folder, writer) = fixture();
    let at = folder.path().join("mounted");
    std::fs::create_dir(&at).unwrap();
    mount("none", &at, "ramfs", MountFlags::empty(), None::<&std::ffi::CStr>).unwrap();
    let done = writer.replace("/mounted/a", b"one", PLAIN).and_then(|()| writer.replace("/mounted/a", b"two", PLAIN));
    let read = writer.reader().read("/mounted/a");
    unmount(&at, UnmountFlags::DETACH).unwrap();
    done.unwrap();
    assert_eq!(read.unwrap().unwrap().0, b"two");
}
