//! Packs of a server or of another node. A pack that is taken makes its commit whole, and the commit can be sent on;
//! nothing stays of a refused one.
//!
//! The first byte is the form. Even: 20 bytes are the commit's id, the rest is the pack without its checksum. Odd: a
//! list of objects (kind, length in two bytes, content), of which a valid pack is made. In a content, the byte 0xfe or
//! 0xff and a number represent the id of the object with that number, as bytes or as digits. The commit comes last. One mutation of four changes the mode of a tree's entry.
#![no_main]

use std::{fs, io::Write as _, path::PathBuf, sync::OnceLock};

use flate2::{Compression, write::ZlibEncoder};
use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};
use towpath_git::{Auth, Limits, Mirror, Options, Reference, SourceError, VerifyOptions, fuzzing};

fn folder() -> &'static PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let base = if fs::metadata("/dev/shm").is_ok() { "/dev/shm".into() } else { std::env::temp_dir() };
        tempfile::tempdir_in(base).unwrap().keep()
    })
}

fn mirror(name: &str) -> Mirror {
    let limits = Limits { object: 1 << 20, objects: 1000, inflated: 16 << 20, ..Limits::default() };
    let options = Options {
        name: name.into(),
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
    let Some((form, rest)) = bytes.split_first() else { return };
    let (id, pack) = match form % 2 {
        0 => {
            let Some((id, pack)) = rest.split_first_chunk::<20>() else { return };
            (*id, pack.to_vec())
        }
        _ => pack_of(rest),
    };
    let commit: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
    let whole = fuzzing::with_checksum(&pack);
    let first = mirror("f");
    if take(&first, &commit, &whole).is_ok() {
        let snapshot = first.snapshot(&commit).unwrap();
        for path in snapshot.entries().keys() {
            snapshot.content(path).unwrap();
        }
        let mut again = Vec::new();
        first.write_pack(&commit, None, &mut again).unwrap();
        let second = mirror("g");
        take(&second, &commit, &again).unwrap();
        assert_eq!(second.snapshot(&commit).unwrap().entries(), snapshot.entries());
        for name in ["f.git", "g.git"] {
            fs::remove_dir_all(folder().join(name)).unwrap();
        }
    } else {
        let left = fs::read_dir(folder().join("f.git/objects/pack")).into_iter().flatten().count();
        assert_eq!(left, 0, "a refused pack stays");
    }
});

fn take(mirror: &Mirror, commit: &str, pack: &[u8]) -> Result<(), SourceError> {
    mirror.take_pack(commit, |file| fs::write(file, pack).map_err(|error| error.to_string()))
}

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    let changed = if seed.is_multiple_of(4) { with_mode(&data[..size], seed / 4) } else { None };
    match changed.filter(|changed| changed.len() <= max_size) {
        Some(changed) => {
            data[..changed.len()].copy_from_slice(&changed);
            changed.len()
        }
        None => fuzzer_mutate(data, size, max_size),
    }
});

const MODES: [&[u8]; 6] = [b"100644 ", b"100664 ", b"100755 ", b"120000 ", b"160000 ", b"40000 "];

/// The bytes with another mode in place of one of their modes. `None` if they have none.
fn with_mode(bytes: &[u8], random: u32) -> Option<Vec<u8>> {
    let mode = |at: usize| MODES.iter().find(|mode| bytes[at..].starts_with(mode));
    let found: Vec<(usize, usize)> = (0..bytes.len()).filter_map(|at| Some((at, at + mode(at)?.len()))).collect();
    let random = random as usize;
    let (start, end) = *found.get((random / MODES.len()).checked_rem(found.len())?)?;
    Some([&bytes[..start], MODES[random % MODES.len()], &bytes[end..]].concat())
}

/// A pack of the objects that the bytes list, and the id of the last one.
fn pack_of(mut bytes: &[u8]) -> ([u8; 20], Vec<u8>) {
    let mut ids: Vec<[u8; 20]> = Vec::new();
    let mut offsets: Vec<usize> = Vec::new();
    let mut pack = b"PACK\0\0\0\x02\0\0\0\0".to_vec();
    while let [kind, high, low, rest @ ..] = bytes {
        let length = usize::from(u16::from_be_bytes([*high, *low])).min(rest.len());
        let (content, rest) = rest.split_at(length);
        bytes = rest;
        let content = filled(content, &ids);
        offsets.push(pack.len());
        let object = |number: u8| usize::from(number).checked_rem(ids.len()).unwrap_or(0);
        match (kind % 6, content.as_slice()) {
            // A delta against an earlier object: its number comes first.
            (4, [base, delta @ ..]) if !ids.is_empty() => {
                header(&mut pack, 6, delta.len());
                let distance = offsets[ids.len()] - offsets[object(*base)];
                offset(&mut pack, distance);
                deflated(&mut pack, delta);
                ids.push([0; 20]);
            }
            (5, [base, delta @ ..]) if !ids.is_empty() => {
                header(&mut pack, 7, delta.len());
                pack.extend_from_slice(&ids[object(*base)]);
                deflated(&mut pack, delta);
                ids.push([0; 20]);
            }
            (kind, content) => {
                let (number, name) =
                    [(3, "blob"), (2, "tree"), (1, "commit"), (4, "tag"), (3, "blob"), (3, "blob")][usize::from(kind)];
                header(&mut pack, number, content.len());
                deflated(&mut pack, content);
                ids.push(fuzzing::object_id(name, content));
            }
        }
    }
    let count = u32::try_from(ids.len()).unwrap_or(u32::MAX);
    pack[8..12].copy_from_slice(&count.to_be_bytes());
    (ids.last().copied().unwrap_or_default(), pack)
}

fn filled(content: &[u8], ids: &[[u8; 20]]) -> Vec<u8> {
    let mut filled = Vec::with_capacity(content.len());
    let mut bytes = content.iter();
    while let Some(byte) = bytes.next() {
        let id = if *byte >= 0xfe { bytes.next().and_then(|number| ids.get(usize::from(*number))) } else { None };
        match (byte, id) {
            (0xfe, Some(id)) => filled.extend_from_slice(id),
            (_, Some(id)) => filled.extend(id.iter().flat_map(|byte| format!("{byte:02x}").into_bytes())),
            _ => filled.push(*byte),
        }
    }
    filled
}

/// The header of an entry: kind and length.
fn header(pack: &mut Vec<u8>, kind: u8, length: usize) {
    let (mut byte, mut left) = (kind << 4 | (length & 0x0f) as u8, length >> 4);
    while left > 0 {
        pack.push(byte | 0x80);
        (byte, left) = ((left & 0x7f) as u8, left >> 7);
    }
    pack.push(byte);
}

/// The distance of a delta's base.
fn offset(pack: &mut Vec<u8>, distance: usize) {
    let mut digits = vec![(distance & 0x7f) as u8];
    let mut left = distance >> 7;
    while left > 0 {
        left -= 1;
        digits.push((left & 0x7f) as u8 | 0x80);
        left >>= 7;
    }
    pack.extend(digits.iter().rev());
}

fn deflated(pack: &mut Vec<u8>, content: &[u8]) {
    let mut encoder = ZlibEncoder::new(pack, Compression::fast());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap();
}
