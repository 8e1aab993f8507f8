//! Packs: any bytes as what a server or another node sends. A pack that is taken makes its commit whole.
//!
//! The first 20 bytes are the commit's id, the rest is the pack without its checksum.
#![no_main]

use std::{fs, path::PathBuf, sync::OnceLock};

use libfuzzer_sys::fuzz_target;
use towpath_git::{Auth, Limits, Mirror, Options, Reference, fuzzing, VerifyOptions};

fn folder() -> &'static PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let base = if fs::metadata("/dev/shm").is_ok() { "/dev/shm".into() } else { std::env::temp_dir() };
        tempfile::tempdir_in(base).unwrap().keep()
    })
}

fn mirror() -> Mirror {
    let limits = Limits { object: 1 << 20, objects: 1000, inflated: 16 << 20, ..Limits::default() };
    let options = Options {
        name: "f".into(),
        url: "https://127.0.0.1:1/f.git".into(),
        reference: Reference::Branch("main".into()),
        path: String::new(),
        auth: Auth::default(),
        verify: VerifyOptions::default(),
        allow_rewind: false,
        limits,
    };
    Mirror::new(options, folder())
}

fuzz_target!(|bytes: &[u8]| {
    let Some((id, pack)) = bytes.split_at_checked(20) else { return };
    let commit: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
    let whole = fuzzing::with_checksum(pack);
    let mirror = mirror();
    if mirror.take_pack(&commit, |file| fs::write(file, &whole).map_err(|error| error.to_string())).is_ok() {
        let snapshot = mirror.snapshot(&commit).unwrap();
        for path in snapshot.entries().keys() {
            snapshot.content(path).unwrap();
        }
        fs::remove_dir_all(folder().join("f.git")).unwrap();
    } else {
        let left = fs::read_dir(folder().join("f.git/objects/pack")).into_iter().flatten().count();
        assert_eq!(left, 0, "a refused pack stays");
    }
});
