//! Packs that a hostile server or node may send, built byte by byte.

use std::{
    fs,
    io::Write as _,
    path::Path,
    time::{Duration, Instant},
};

use flate2::{Compression, write::ZlibEncoder};
use gix::{ObjectId, objs::Kind};
use towpath_git::{Limits, Mirror, Options, Reference, SourceError};

/// A pack under construction.
#[derive(Default)]
struct Pack {
    entries: Vec<u8>,
    count: u32,
}

impl Pack {
    fn offset(&self) -> u64 {
        12 + self.entries.len() as u64
    }

    /// Writes the header of an entry: its kind and its size.
    fn header(&mut self, kind: u8, mut size: u64) {
        let mut byte = (kind << 4) | (size & 15) as u8;
        size >>= 4;
        while size > 0 {
            self.entries.push(byte | 0x80);
            byte = (size & 0x7f) as u8;
            size >>= 7;
        }
        self.entries.push(byte);
        self.count += 1;
    }

    fn deflate(&mut self, parts: impl IntoIterator<Item = Vec<u8>>) {
        let mut encoder = ZlibEncoder::new(&mut self.entries, Compression::fast());
        parts.into_iter().for_each(|part| encoder.write_all(&part).unwrap());
        encoder.finish().unwrap();
    }

    /// Adds a whole object and returns its id.
    fn object(&mut self, kind: Kind, data: &[u8]) -> ObjectId {
        let number = match kind {
            Kind::Commit => 1,
            Kind::Tree => 2,
            Kind::Blob => 3,
            Kind::Tag => 4,
        };
        self.header(number, data.len() as u64);
        self.deflate([data.to_vec()]);
        gix::objs::compute_hash(gix::hash::Kind::Sha1, kind, data).unwrap()
    }

    /// Adds a delta against the entry at an offset. Returns the offset of the delta.
    fn delta(&mut self, base: u64, instructions: &[u8]) -> u64 {
        let here = self.offset();
        self.header(6, instructions.len() as u64);
        let mut distance = here - base;
        let mut bytes = vec![(distance & 0x7f) as u8];
        distance >>= 7;
        while distance > 0 {
            distance -= 1;
            bytes.push(0x80 | (distance & 0x7f) as u8);
            distance >>= 7;
        }
        bytes.reverse();
        self.entries.extend_from_slice(&bytes);
        self.deflate([instructions.to_vec()]);
        here
    }

    /// Adds a commit of a tree with one file of this content. Returns its id.
    fn commit(&mut self, blob: ObjectId) -> String {
        let mut tree = b"100644 f\0".to_vec();
        tree.extend_from_slice(blob.as_slice());
        let tree = self.object(Kind::Tree, &tree);
        let text = format!("tree {tree}\nauthor a <a@x> 1 +0000\ncommitter a <a@x> 1 +0000\n\nm\n");
        self.object(Kind::Commit, text.as_bytes()).to_string()
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = b"PACK\0\0\0\x02".to_vec();
        bytes.extend_from_slice(&self.count.to_be_bytes());
        bytes.extend_from_slice(&self.entries);
        let mut hasher = gix::hash::hasher(gix::hash::Kind::Sha1);
        hasher.update(&bytes);
        bytes.extend_from_slice(hasher.try_finalize().unwrap().as_slice());
        bytes
    }
}

/// Writes a number of a delta, seven bits in each byte.
fn varint(mut number: u64, out: &mut Vec<u8>) {
    while number > 0x7f {
        out.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Returns instructions that copy a base of this size and add one byte.
fn grow(size: u64) -> Vec<u8> {
    let mut delta = Vec::new();
    varint(size, &mut delta);
    varint(size + 1, &mut delta);
    delta.extend_from_slice(&[0x80 | 0x30, (size & 0xff) as u8, (size >> 8) as u8, 1, b'x']);
    delta
}

fn mirror(folder: &Path, limits: Limits) -> Mirror {
    let options = Options {
        name: "fleet".into(),
        url: "https://127.0.0.1:1/none.git".into(),
        reference: Reference::Branch("main".into()),
        path: String::new(),
        auth: Default::default(),
        verify: Default::default(),
        allow_rewind: false,
        limits,
    };
    Mirror::new(options, folder)
}

fn take(folder: &Path, limits: Limits, pack: &Pack, commit: &str) -> Result<Mirror, SourceError> {
    let mirror = mirror(folder, limits);
    let bytes = pack.bytes();
    mirror.take_pack(commit, |file| fs::write(file, &bytes).map_err(|error| error.to_string()))?;
    Ok(mirror)
}

/// Returns the error of a rejected pack. Checks that no file of it remains.
fn refused(limits: Limits, pack: &Pack, commit: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let error = take(folder.path(), limits, pack, commit).unwrap_err();
    let left = fs::read_dir(folder.path().join("fleet.git/objects/pack")).unwrap();
    let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.is_empty(), "{left:?}");
    error.to_string()
}

#[test]
fn good_pack_with_deltas_is_taken() {
    let folder = tempfile::tempdir().unwrap();
    let mut pack = Pack::default();
    let base = pack.offset();
    pack.object(Kind::Blob, b"base");
    pack.delta(base, &grow(4));
    let blob = gix::objs::compute_hash(gix::hash::Kind::Sha1, Kind::Blob, b"basex").unwrap();
    let commit = pack.commit(blob);
    let mirror = take(folder.path(), Limits::default(), &pack, &commit).unwrap();
    assert_eq!(mirror.snapshot(&commit).unwrap().content("f").unwrap().unwrap(), b"basex");
}

#[test]
fn chain_of_deltas_longer_than_git_makes_is_refused() {
    let chain = |length: u64| {
        let mut pack = Pack::default();
        let mut at = pack.offset();
        let blob = pack.object(Kind::Blob, b"b");
        for size in 1..=length {
            at = pack.delta(at, &grow(size));
        }
        let commit = pack.commit(blob);
        (pack, commit)
    };
    let folder = tempfile::tempdir().unwrap();
    let (pack, commit) = chain(3000);
    take(folder.path(), Limits::default(), &pack, &commit).unwrap();
    let (pack, commit) = chain(4200);
    let why = refused(Limits::default(), &pack, &commit);
    assert!(why.contains("chain of 4095 deltas"), "{why}");
}

#[test]
fn object_beyond_its_limit_is_refused() {
    let limits = Limits { object: 1 << 20, ..Limits::default() };
    let mut pack = Pack::default();
    let blob = pack.object(Kind::Blob, &vec![0; 2 << 20]);
    let commit = pack.commit(blob);
    refused(limits, &pack, &commit);
    // A small delta that produces a large object.
    let mut pack = Pack::default();
    let base = pack.offset();
    let blob = pack.object(Kind::Blob, &[0; 0xffff]);
    let mut delta = Vec::new();
    varint(0xffff, &mut delta);
    varint(0xffff * 40, &mut delta);
    (0..40).for_each(|_| delta.extend_from_slice(&[0x80 | 0x30, 0xff, 0xff]));
    pack.delta(base, &delta);
    let commit = pack.commit(blob);
    refused(limits, &pack, &commit);
}

/// A commit is read before its signature is verified.
#[test]
fn commit_or_tag_larger_than_a_mebibyte_is_refused() {
    let text = |message: usize| {
        let mut text =
            b"tree 4b825dc642cb6eb9a060e54bf8d69288fbee4904\nauthor a <a@x> 1 +0000\ncommitter a <a@x> 1 +0000\n\n"
                .to_vec();
        text.resize(text.len() + message, b'm');
        text
    };
    let with = |kind: Kind, data: &[u8]| {
        let mut pack = Pack::default();
        pack.object(kind, data);
        let blob = pack.object(Kind::Blob, b"b");
        let commit = pack.commit(blob);
        (pack, commit)
    };
    let folder = tempfile::tempdir().unwrap();
    let (pack, commit) = with(Kind::Commit, &text(1_000_000));
    take(folder.path(), Limits::default(), &pack, &commit).unwrap();
    let tag = [format!("object {commit}\ntype commit\ntag v1\n\n").into_bytes(), vec![b'm'; 2 << 20]].concat();
    for (kind, data) in [(Kind::Commit, text(2 << 20)), (Kind::Tag, tag)] {
        let (pack, commit) = with(kind, &data);
        let why = refused(Limits::default(), &pack, &commit);
        assert!(why.contains("1 MiB for one commit or tag"), "{why}");
    }
    // A small delta that produces a large commit.
    let mut pack = Pack::default();
    let base = pack.offset();
    let small = text(0xffff - text(0).len());
    pack.object(Kind::Commit, &small);
    let mut delta = Vec::new();
    varint(0xffff, &mut delta);
    varint(0xffff * 40, &mut delta);
    (0..40).for_each(|_| delta.extend_from_slice(&[0x80 | 0x30, 0xff, 0xff]));
    pack.delta(base, &delta);
    let blob = pack.object(Kind::Blob, b"b");
    let commit = pack.commit(blob);
    let why = refused(Limits::default(), &pack, &commit);
    assert!(why.contains("1 MiB for one commit or tag"), "{why}");
}

#[test]
fn objects_and_unpacked_bytes_of_a_pack_are_counted() {
    let mut pack = Pack::default();
    let mut blob = None;
    for number in 0..40_u8 {
        let mut data = vec![0; 8 << 20];
        data[0] = number;
        blob = Some(pack.object(Kind::Blob, &data));
    }
    let commit = pack.commit(blob.unwrap());
    assert!(pack.bytes().len() < 4 << 20);
    let begin = Instant::now();
    let why = refused(Limits { inflated: 32 << 20, ..Limits::default() }, &pack, &commit);
    assert!(why.contains("unpacked objects"), "{why}");
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
    let why = refused(Limits { objects: 30, ..Limits::default() }, &pack, &commit);
    assert!(why.contains("30 objects"), "{why}");
}

#[test]
fn cut_and_changed_packs_are_refused() {
    let mut pack = Pack::default();
    let base = pack.offset();
    let blob = pack.object(Kind::Blob, b"some content");
    pack.delta(base, &grow(12));
    let commit = pack.commit(blob);
    let bytes = pack.bytes();
    let folder = tempfile::tempdir().unwrap();
    let mirror = mirror(folder.path(), Limits::default());
    for at in (0..bytes.len()).step_by(7) {
        let mut changed = bytes.clone();
        changed[at] ^= 0x55;
        for wrong in [&bytes[..at], &changed] {
            mirror.take_pack(&commit, |file| fs::write(file, wrong).map_err(|error| error.to_string())).unwrap_err();
        }
    }
    mirror.take_pack(&commit, |file| fs::write(file, &bytes).map_err(|error| error.to_string())).unwrap();
}
