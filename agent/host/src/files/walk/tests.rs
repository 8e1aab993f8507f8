use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
    path::Path,
};

use rustix::fs::ResolveFlags;

use super::*;
use crate::{FsReader, FsWriter, files::Access};

const USER: u32 = 65534;
const OTHER: u32 = 65533;
const PLAIN: Access = Access { mode: 0o640, uid: None, gid: None };

fn own(path: &Path, uid: u32) {
    std::os::unix::fs::lchown(path, Some(uid), Some(uid)).unwrap();
}

/// Creates a root with the home of a user, and with a folder and a file of root.
fn machine() -> (tempfile::TempDir, FsReader) {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    for (name, uid) in [("home", 0), ("home/u", USER), ("home/u/own", USER), ("home/v", OTHER), ("secret", 0)] {
        fs::create_dir(folder.path().join(name)).unwrap();
        own(&folder.path().join(name), uid);
    }
    fs::write(folder.path().join("secret/key"), "secret").unwrap();
    fs::write(folder.path().join("home/u/own/file"), "own").unwrap();
    own(&folder.path().join("home/u/own/file"), USER);
    let reader = FsReader::at(folder.path()).unwrap();
    (folder, reader)
}

fn link(folder: &tempfile::TempDir, at: &str, target: &str, uid: u32) {
    symlink(target, folder.path().join(at)).unwrap();
    own(&folder.path().join(at), uid);
}

fn refused_link(error: &io::Error) -> Option<&RefusedLink> {
    error.get_ref()?.downcast_ref()
}

/// Asserts that each read or change through a path fails with an error that names the link.
fn assert_refused(reader: &FsReader, path: &str, component: &str, folder: bool) {
    let writer = FsWriter::new(reader.clone());
    let below = format!("{path}/new");
    let mut results = vec![
        ("read", reader.read(path).map(drop)),
        ("exists", reader.exists(path).map(drop)),
        ("list", reader.list(path).map(drop)),
        ("below", reader.open_dir(path).map(drop)),
        ("attributes", reader.attributes(path).map(drop)),
        ("resolved", reader.resolved(path, true).map(drop)),
        ("grant", writer.set_permissions(path, PLAIN)),
        ("replace", writer.replace(path, b"evil", PLAIN)),
        ("part", writer.part(path).map(drop)),
    ];
    if folder {
        results.extend([
            ("meta below", reader.meta(&below).map(drop)),
            ("link below", reader.link(&below).map(drop)),
            ("replace below", writer.replace(&below, b"evil", PLAIN)),
            ("directory below", writer.make_directory(&below, 0o755).map(drop)),
            ("new link below", writer.link(&below, "x")),
            ("remove below", writer.remove(&below)),
        ]);
    }
    for (what, result) in results {
        let error = result.expect_err(what);
        assert_eq!(refused_link(&error).map(|one| one.link.as_str()), Some(component), "{what}: {error}");
    }
}

#[test]
fn link_of_a_user_to_a_foreign_file_or_folder_is_refused() {
    for (target, uid) in [
        ("../../secret", USER),
        ("/secret", USER),
        ("/secret/key", USER),
        ("/secret/new", USER),
        ("/home/v", USER),
        ("own/../../../secret", USER),
        ("own/through", USER),
        ("/", USER),
        ("/home/u/own", OTHER),
    ] {
        let (folder, reader) = machine();
        // A link of root in the path does not make the user's link before the link of root acceptable.
        link(&folder, "home/u/own/through", "/secret", 0);
        link(&folder, "home/u/link", target, uid);
        assert_refused(&reader, "/home/u/link", "/home/u/link", !matches!(target, "/secret/key" | "/secret/new"));
        assert_eq!(fs::read_to_string(folder.path().join("secret/key")).unwrap(), "secret");
        assert_eq!(fs::read_dir(folder.path().join("secret")).unwrap().count(), 1, "{target}");
    }
}

#[test]
fn link_of_a_user_to_an_own_file_or_folder_is_followed() {
    for target in ["own", "/home/u/own", "../../home/u/own", "own/../own/.", "other"] {
        let (folder, reader) = machine();
        link(&folder, "home/u/other", "own", USER);
        link(&folder, "home/u/link", target, USER);
        assert_eq!(reader.read("/home/u/link/file").unwrap().unwrap().0, b"own", "{target}");
        FsWriter::new(reader.clone()).replace("/home/u/link/new", b"x", PLAIN).unwrap();
        assert_eq!(reader.resolved("/home/u/link/new", true).unwrap(), "/home/u/own/new");
        assert_eq!(fs::read_to_string(folder.path().join("home/u/own/new")).unwrap(), "x");
    }
}

#[test]
fn link_of_root_is_followed_out_of_a_users_folder() {
    let (folder, reader) = machine();
    link(&folder, "home/u/link", "/secret", 0);
    assert_eq!(reader.read("/home/u/link/key").unwrap().unwrap().0, b"secret");
    // Without the kernel's setting protected_hardlinks, a user can create a second name for a link of root.
    fs::hard_link(folder.path().join("home/u/link"), folder.path().join("home/u/second")).unwrap();
    assert_refused(&reader, "/home/u/second", "/home/u/second", true);
}

#[test]
fn link_in_a_folder_that_all_users_share_is_refused() {
    let (folder, reader) = machine();
    fs::create_dir(folder.path().join("tmp")).unwrap();
    fs::set_permissions(folder.path().join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
    link(&folder, "tmp/link", "/home/u/own", USER);
    assert_refused(&reader, "/tmp/link", "/tmp/link", true);
    link(&folder, "tmp/root", "/home/u/own", 0);
    assert_eq!(reader.read("/tmp/root/file").unwrap().unwrap().0, b"own");
}

#[test]
fn step_up_after_a_users_link_is_refused() {
    let (folder, reader) = machine();
    fs::write(folder.path().join("home/file"), "root").unwrap();
    link(&folder, "home/u/up", "/home/u", USER);
    link(&folder, "link", "home/u/up/../file", 0);
    let error = reader.read("/link").unwrap_err();
    assert_eq!(refused_link(&error).map(|one| (one.link.as_str(), one.owner)), Some(("/home/u", USER)));
    link(&folder, "straight", "home/u/../file", 0);
    assert_eq!(reader.read("/straight").unwrap().unwrap().0, b"root");
}

#[test]
fn links_below_a_plain_folder_are_refused() {
    let (folder, reader) = machine();
    link(&folder, "way", "home/u", 0);
    link(&folder, "home/u/link", "own", 0);
    assert!(reader.read("/way/link/file").unwrap().is_some());
    let plain = reader.plain_below("/way");
    assert!(plain.read("/way/own/file").unwrap().is_some());
    assert_refused(&plain, "/way/link", "/home/u/link", true);
    assert_eq!(plain.link("/way/link").unwrap().as_deref(), Some("own"));
    assert!(plain.read("/wayward").unwrap().is_none());
    assert_refused(&reader.open_dir("/home/u").unwrap().unwrap(), "/link", "/link", true);
}

#[test]
fn loops_end_with_the_kernels_error_and_limit() {
    let (folder, reader) = machine();
    link(&folder, "loop", "loop", 0);
    let error = reader.read("/loop").unwrap_err();
    assert_eq!(Errno::from_io_error(&error), Some(Errno::LOOP));
    fs::write(folder.path().join("l0"), "end").unwrap();
    for number in 0..41 {
        link(&folder, &format!("l{}", number + 1), &format!("l{number}"), 0);
    }
    assert_eq!(reader.read("/l40").unwrap().unwrap().0, b"end");
    assert_eq!(Errno::from_io_error(&reader.read("/l41").unwrap_err()), Some(Errno::LOOP));
}

/// Compares the resolution of each path with the kernel's own resolution below a root.
#[test]
fn paths_of_links_end_where_the_kernel_ends() {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap() % below
    };
    const NAMES: [&str; 8] = ["a", "b", "c", "..", ".", "a", "b", "f"];
    let (mut same, mut found) = (0, 0);
    for _ in 0..60 {
        let folder = tempfile::tempdir().unwrap();
        let mut folders = vec![String::new()];
        for _ in 0..12 {
            let at = format!("{}/{}", folders[next(folders.len())], ["a", "b", "c", "f"][next(4)]);
            let path = folder.path().join(at.trim_start_matches('/'));
            if path.symlink_metadata().is_ok() {
                continue;
            }
            let text: Vec<&str> = (0..=next(3)).map(|_| NAMES[next(NAMES.len())]).collect();
            let text = format!("{}{}", if next(3) == 0 { "/" } else { "" }, text.join("/"));
            match next(3) {
                0 => fs::create_dir(&path).map(|()| folders.push(at)).unwrap(),
                1 => fs::write(&path, "x").unwrap(),
                _ => symlink(text, &path).unwrap(),
            }
        }
        let root = rustix::fs::open(folder.path(), OFlags::PATH, Mode::empty()).unwrap();
        for _ in 0..40 {
            let path = (0..=next(4)).map(|_| NAMES[next(NAMES.len())]).collect::<Vec<_>>().join("/");
            // The kernel returns EAGAIN if a file is renamed or mounted while the kernel resolves the path.
            let kernel = loop {
                match rustix::fs::openat2(&root, path.as_str(), OFlags::PATH, Mode::empty(), ResolveFlags::IN_ROOT) {
                    Err(Errno::AGAIN) => {}
                    other => break other,
                }
            };
            let kernel = kernel.map(|fd| rustix::fs::fstat(fd).unwrap()).map(|stat| (stat.st_dev, stat.st_ino));
            let walked = walk(&root, &path, Rules { plain_below: None, last: true }).and_then(|place| {
                Ok(rustix::fs::openat(&place.folder, &place.name, OFlags::PATH | OFlags::NOFOLLOW, Mode::empty())?)
            });
            let walked = walked.map(|fd| rustix::fs::fstat(fd).unwrap()).map(|stat| (stat.st_dev, stat.st_ino));
            found += usize::from(kernel.is_ok());
            match (kernel, walked) {
                (Ok(kernel), Ok(walked)) => assert_eq!(kernel, walked, "{path}"),
                (Err(kernel), Err(walked)) => assert_eq!(Errno::from_io_error(&walked), Some(kernel), "{path}"),
                (kernel, walked) => panic!("{path}: the kernel gives {kernel:?}, the walk {walked:?}"),
            }
            same += 1;
        }
    }
    assert!(same == 2400 && found > 300, "{found} of {same} paths exist");
}

#[test]
fn folder_that_a_user_replaces_by_a_link_during_the_walk_is_not_left() {
    let (folder, reader) = machine();
    let writer = FsWriter::new(reader.clone());
    let base = folder.path().join("home/u");
    let done = std::sync::atomic::AtomicBool::new(false);
    let inode = fs::metadata(folder.path().join("secret/key")).unwrap().ino();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            link(&folder, "home/u/evil", "/secret", USER);
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                let _ = rustix::fs::renameat_with(
                    rustix::fs::CWD,
                    base.join("own"),
                    rustix::fs::CWD,
                    base.join("evil"),
                    rustix::fs::RenameFlags::EXCHANGE,
                );
            }
        });
        let (mut through, mut stopped) = (0, 0);
        for _ in 0..20_000 {
            if through > 20 && stopped > 20 {
                break;
            }
            match writer.replace("/home/u/own/key", b"new", PLAIN) {
                Ok(()) => through += 1,
                Err(_) => stopped += 1,
            }
            assert_ne!(reader.read("/home/u/own/key").ok().flatten().map(|(bytes, _)| bytes), Some(b"secret".to_vec()));
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(through > 0 && stopped > 0, "{through} writes went through, {stopped} were refused");
    });
    let secret = folder.path().join("secret/key");
    assert_eq!(
        (fs::read_to_string(&secret).unwrap().as_str(), fs::metadata(&secret).unwrap().ino()),
        ("secret", inode)
    );
    assert_eq!(fs::read_dir(folder.path().join("secret")).unwrap().count(), 1);
}
