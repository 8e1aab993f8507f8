//! Reads the members of an archive in the order in which the archive contains the members. The type `Member` is the
//! same for all archive formats.

use std::{
    cell::Cell,
    collections::BTreeSet,
    io::{self, BufReader, Read, Seek, SeekFrom},
    rc::Rc,
};

use ruzstd::decoding::StreamingDecoder;

/// A readable archive in which the reader can seek: a file, or bytes in memory.
pub(super) trait Source: Read + Seek {}

impl<T: Read + Seek> Source for T {}

/// The kind of an archive member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    Directory,
    File {
        /// True if the archive marks the file as executable for the owner of the file.
        program: bool,
    },
    /// A symbolic link in the archive, with the link's target.
    Link(String),
    /// A hard link, with the path of an earlier archive member. For a hard link, the agent unpacks a copy of the
    /// earlier archive member.
    Copy(String),
}

/// A member of an archive.
pub(super) struct Member<'a> {
    /// The path of the archive member, relative to the target directory.
    pub(super) path: String,
    pub(super) kind: Kind,
    pub(super) content: &'a mut dyn Read,
}

/// The maximum memory that the xz decoder may use, in KiB.
const DICTIONARY: u32 = 256 << 10;

type Take<'a> = dyn FnMut(Member<'_>) -> io::Result<()> + 'a;

fn refused(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// The budget of an archive: the maximum number of unpacked bytes, and the number of bytes that remain.
#[derive(Debug, Clone)]
pub(super) struct Budget {
    limit: u64,
    left: Rc<Cell<u64>>,
    /// The number of header bytes that the reader may still read before the next archive member. The number of header
    /// bytes is limited, because the decoder keeps headers in memory.
    between: Rc<Cell<u64>>,
}

/// The number of bytes by which each archive member reduces the budget, in addition to the length of its content and
/// path.
const MEMBER: u64 = 1024;

/// The maximum number of header bytes between two archive members.
const HEADERS: u64 = 1 << 20;

impl Budget {
    pub(super) fn new(limit: u64) -> Self {
        Self { limit, left: Rc::new(Cell::new(limit)), between: Rc::new(Cell::new(HEADERS)) }
    }

    /// Subtracts a number of unpacked bytes from the budget of an archive.
    ///
    /// # Errors
    /// Returns an error if the budget is smaller than `bytes`.
    pub(super) fn spend(&self, bytes: u64) -> io::Result<()> {
        let left = self.left.get().checked_sub(bytes).ok_or_else(|| {
            refused(format!(
                "cannot unpack the archive: the content has more than {} bytes; raise the parameter `maxBytes`",
                self.limit
            ))
        })?;
        self.left.set(left);
        Ok(())
    }

    fn begin(&self, path: &str, size: u64) -> io::Result<()> {
        self.spend(MEMBER.saturating_add(path.len() as u64).saturating_add(size))?;
        self.between.set(u64::MAX);
        Ok(())
    }

    fn end(&self) {
        self.between.set(HEADERS);
    }
}

/// A reader of an archive member's content. If the content is longer than the size in the member's header, each extra
/// byte also reduces the budget.
struct Counted<'a, R> {
    from: R,
    stated: u64,
    budget: &'a Budget,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.from.read(buffer)?;
        let beyond = (read as u64).saturating_sub(self.stated);
        self.stated = self.stated.saturating_sub(read as u64);
        self.budget.spend(beyond)?;
        Ok(read)
    }
}

/// A reader that returns an error if too many header bytes precede an archive member.
struct Headers<R> {
    from: R,
    budget: Budget,
}

impl<R: Read> Read for Headers<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.from.read(buffer)?;
        let between = &self.budget.between;
        if between.get() != u64::MAX {
            let left = between.get().checked_sub(read as u64);
            between.set(
                left.ok_or_else(|| refused("cannot unpack the archive: the headers of a member are too long".into()))?,
            );
        }
        Ok(read)
    }
}

/// Calls `take` for each archive member, and removes the first `strip` folders from the member's path. Returns the
/// first error of `take` or of the archive.
pub(super) fn each(mut source: Box<dyn Source>, strip: usize, budget: &Budget, take: &mut Take<'_>) -> io::Result<()> {
    let mut seen = BTreeSet::new();
    let take: &mut Take<'_> = &mut |member: Member<'_>| {
        if member.kind != Kind::Directory && !seen.insert(member.path.clone()) {
            return Err(refused(format!("{:?} is in the archive twice", member.path)));
        }
        take(member)
    };
    let mut head = [0; 6];
    let mut known = 0;
    while known < head.len() {
        match source.read(&mut head[known..])? {
            0 => break,
            read => known += read,
        }
    }
    source.seek(SeekFrom::Start(0))?;
    match head {
        [b'P', b'K', ..] => zip(source, strip, budget, take),
        [0x1f, 0x8b, ..] => tar(flate2::read::MultiGzDecoder::new(BufReader::new(source)), strip, budget, take),
        [0xfd, b'7', b'z', b'X', b'Z', 0] => {
            tar(lzma_rust2::XzReader::new_mem_limit(BufReader::new(source), true, DICTIONARY), strip, budget, take)
        }
        [0x28, 0xb5, 0x2f, 0xfd, ..] => tar(Zstd::new(BufReader::new(source)), strip, budget, take),
        [b'B', b'Z', b'h', ..] => {
            Err(refused("bzip2 archives are not supported; pack the archive with gzip or xz".into()))
        }
        _ => tar(BufReader::new(source), strip, budget, take),
    }
}

/// Returns the path of an archive member without its first `strip` folders. Returns `None` if no part of the path
/// remains. Returns an error if the path leads out of the target directory.
fn inside(path: &str, strip: usize) -> io::Result<Option<String>> {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    if path.starts_with('/') || parts.contains(&"..") || path.contains('\0') {
        return Err(refused(format!(
            "cannot unpack {path:?}: the path leads out of the target directory; correct the archive"
        )));
    }
    Ok((parts.len() > strip).then(|| parts[strip..].join("/")))
}

/// Returns an error if the target of a link in an archive is outside of the target directory.
fn leads_inside(path: &str, target: &str) -> io::Result<()> {
    let mut depth = path.split('/').count() - 1;
    let out = || {
        refused(format!("cannot unpack the link {path:?}: the link leads out of the target directory, to {target:?}"))
    };
    let mut down = false;
    for part in target.split('/').filter(|part| !part.is_empty() && *part != ".") {
        // Any part of the path may be a link itself, so the target of a later `..` is unknown.
        match (part, depth) {
            ("..", 0) => return Err(out()),
            ("..", _) if down => return Err(out()),
            ("..", _) => depth -= 1,
            _ => down = true,
        }
    }
    if target.starts_with('/') { Err(out()) } else { Ok(()) }
}

fn tar(content: impl Read, strip: usize, budget: &Budget, take: &mut Take<'_>) -> io::Result<()> {
    let mut archive = tar::Archive::new(Headers { from: content, budget: budget.clone() });
    let mut members = 0_usize;
    for entry in archive.entries()? {
        let mut entry = entry.map_err(|error| refused(format!("cannot read the archive: {error}")))?;
        members += 1;
        let raw = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let kind = entry.header().entry_type();
        if kind.is_pax_global_extensions() || kind.is_pax_local_extensions() {
            continue;
        }
        let size = entry.size();
        let Some(path) = inside(&raw, strip)? else {
            budget.begin(&raw, size)?;
            pass_over(&mut entry, budget)?;
            continue;
        };
        let target = entry.link_name_bytes().map(|name| String::from_utf8_lossy(&name).into_owned());
        let kind = match (kind, target) {
            (kind, _) if kind.is_dir() => Kind::Directory,
            (kind, _) if kind.is_file() || kind.is_contiguous() || kind.is_gnu_sparse() => {
                Kind::File { program: entry.header().mode().is_ok_and(|mode| mode & 0o100 != 0) }
            }
            (kind, Some(target)) if kind.is_symlink() => {
                leads_inside(&path, &target)?;
                Kind::Link(target)
            }
            (kind, Some(target)) if kind.is_hard_link() => {
                let of = inside(&target, strip)?;
                Kind::Copy(of.ok_or_else(|| {
                    refused(format!(
                        "cannot unpack {path:?}: the member is a hard link to a path that the parameter `strip` removes"
                    ))
                })?)
            }
            _ => {
                return Err(refused(format!(
                    "cannot unpack {path:?}: devices and pipes are not supported; remove {path:?} from the archive"
                )));
            }
        };
        budget.begin(&path, size)?;
        take(Member { path, kind, content: &mut Counted { from: &mut entry, stated: size, budget } })?;
        pass_over(&mut entry, budget)?;
    }
    if members == 0 {
        return Err(refused(
            "the file is not an archive of a supported type: tar, tar.gz, tar.xz, tar.zst or zip".into(),
        ));
    }
    Ok(())
}

/// Reads and ignores the rest of an archive member, so that the rest does not count as header bytes of the next member.
fn pass_over(entry: &mut impl Read, budget: &Budget) -> io::Result<()> {
    io::copy(entry, &mut io::sink())?;
    budget.end();
    Ok(())
}

fn zip(source: Box<dyn Source>, strip: usize, budget: &Budget, take: &mut Take<'_>) -> io::Result<()> {
    let broken = |error: zip::result::ZipError| refused(format!("cannot read the archive: {error}"));
    let mut archive = zip::ZipArchive::new(BufReader::new(source)).map_err(broken)?;
    for index in 0..archive.len() {
        let mut member = archive.by_index(index).map_err(broken)?;
        let raw = member.name().map_err(broken)?.into_owned();
        let Some(path) = inside(&raw, strip)? else { continue };
        let kind = if member.is_dir() {
            Kind::Directory
        } else if member.is_symlink() {
            let mut target = String::new();
            (&mut member).take(4096).read_to_string(&mut target)?;
            leads_inside(&path, &target)?;
            Kind::Link(target)
        } else {
            Kind::File { program: member.unix_mode().is_some_and(|mode| mode & 0o100 != 0) }
        };
        let stated = member.size();
        budget.begin(&path, stated)?;
        take(Member { path, kind, content: &mut Counted { from: &mut member, stated, budget } })?;
    }
    Ok(())
}

/// A reader of all frames of a zstd file (RFC 8878). The library for zstd decodes only one frame, and does not verify
/// the frame's checksum. The reader reads all frames of the file, and verifies the checksum of each frame.
struct Zstd<R: Read> {
    state: State<R>,
}

enum State<R: Read> {
    Between(R),
    Within(Box<StreamingDecoder<WithHead<R>, ruzstd::decoding::FrameDecoder>>),
    End,
}

type WithHead<R> = io::Chain<io::Cursor<[u8; 4]>, R>;

impl<R: Read> Zstd<R> {
    fn new(from: R) -> Self {
        Self { state: State::Between(from) }
    }

    /// Starts to decode the next zstd frame. The function skips frames without content.
    fn next(mut from: R) -> io::Result<State<R>> {
        let mut magic = [0; 4];
        if from.read(&mut magic[..1])? == 0 {
            return Ok(State::End);
        }
        from.read_exact(&mut magic[1..])?;
        if (0x184d_2a50..=0x184d_2a5f).contains(&u32::from_le_bytes(magic)) {
            let mut length = [0; 4];
            from.read_exact(&mut length)?;
            let length = u64::from(u32::from_le_bytes(length));
            if io::copy(&mut (&mut from).take(length), &mut io::sink())? < length {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            return Ok(State::Between(from));
        }
        let decoder = StreamingDecoder::new(io::Cursor::new(magic).chain(from));
        Ok(State::Within(Box::new(decoder.map_err(|error| refused(error.to_string()))?)))
    }
}

impl<R: Read> Read for Zstd<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            self.state = match std::mem::replace(&mut self.state, State::End) {
                State::End => return Ok(0),
                State::Between(from) => Self::next(from)?,
                State::Within(mut decoder) => {
                    let read = decoder.read(buffer)?;
                    if read > 0 {
                        self.state = State::Within(decoder);
                        return Ok(read);
                    }
                    let frame = &decoder.decoder;
                    if let (Some(said), Some(found)) = (frame.get_checksum_from_data(), frame.get_calculated_checksum())
                        && said != found
                    {
                        return Err(refused("the archive is damaged: a checksum differs".into()));
                    }
                    State::Between(decoder.into_inner().into_inner().1)
                }
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn all(path: &std::path::Path, strip: usize) -> io::Result<Vec<(String, Kind, String)>> {
        let mut found = Vec::new();
        each(Box::new(std::fs::File::open(path).unwrap()), strip, &Budget::new(1 << 30), &mut |member| {
            let mut text = String::new();
            member.content.read_to_string(&mut text)?;
            found.push((member.path, member.kind, text));
            Ok(())
        })?;
        found.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(found)
    }

    fn run(folder: &std::path::Path, line: &str) {
        let status = Command::new("sh").args(["-c", line]).current_dir(folder).status().unwrap();
        assert!(status.success(), "{line}");
    }

    /// Packs the same tree of files with the usual archive tools, and reads each archive.
    #[test]
    fn every_format_gives_the_same_members() {
        let folder = tempfile::tempdir().unwrap();
        run(
            folder.path(),
            "mkdir -p top/in && echo text > top/in/file && echo run > top/tool && chmod 755 top/tool && ln -s in/file top/link",
        );
        let make = [
            "tar -cf a.tar top",
            "tar -czf a.tar.gz top",
            "tar -cJf a.tar.xz top",
            "tar -cf - top | zstd -q > a.tar.zst",
            "zip -qry a.zip top",
        ];
        for line in make {
            run(folder.path(), line);
            let file = line.rsplit(' ').find(|word| word.starts_with("a.")).unwrap();
            let found = all(&folder.path().join(file), 1).unwrap();
            let expected = [
                ("in".to_owned(), Kind::Directory, String::new()),
                ("in/file".to_owned(), Kind::File { program: false }, "text\n".to_owned()),
                ("link".to_owned(), Kind::Link("in/file".into()), String::new()),
                ("tool".to_owned(), Kind::File { program: true }, "run\n".to_owned()),
            ];
            let found: Vec<_> = found
                .into_iter()
                .map(|(path, kind, text)| match kind {
                    // A zip archive stores the target of a link as content. The target was read before.
                    Kind::Link(target) => (path, Kind::Link(target), String::new()),
                    kind => (path, kind, text),
                })
                .collect();
            assert_eq!(found, expected, "{line}");
        }
    }

    #[test]
    fn member_outside_of_the_folder_is_refused() {
        for path in ["/etc/passwd", "../x", "a/../../x", "a\0b"] {
            assert!(inside(path, 0).is_err(), "{path:?}");
        }
        assert_eq!(inside("./a//b", 0).unwrap().as_deref(), Some("a/b"));
        assert_eq!(inside("top/a/b", 1).unwrap().as_deref(), Some("a/b"));
        assert_eq!(inside("top", 1).unwrap(), None);
        assert!(leads_inside("a/b", "../c").is_ok());
        for (path, target) in
            [("a", ".."), ("a/b", "../../c"), ("a", "/etc"), ("a/b", "x/../../../y"), ("1/2/a", "b/../c")]
        {
            assert!(leads_inside(path, target).is_err(), "{path} -> {target}");
        }
    }

    #[test]
    fn members_beyond_max_bytes_end_the_unpacking() {
        let folder = tempfile::tempdir().unwrap();
        run(
            folder.path(),
            "mkdir top && head -c 3000000 /dev/zero > top/a && ln top/a top/b && mkdir many sparse \
             && truncate -s 900G sparse/s && (cd many && seq 5000 | xargs touch) \
             && tar -czf bomb.tgz top && tar -cJf bomb.tar.xz top && tar -cf - top | zstd -q > bomb.zst \
             && zip -qr bomb.zip top && tar -czf many.tgz many && tar --sparse -czf sparse.tgz sparse",
        );
        let unpack = |name: &str, limit: u64, read: bool| {
            let mut bytes = 0;
            let file = Box::new(std::fs::File::open(folder.path().join(name)).unwrap());
            each(file, 0, &Budget::new(limit), &mut |member| {
                if read {
                    bytes += io::copy(&mut *member.content, &mut io::sink())?;
                }
                Ok(())
            })
            .map(|()| bytes)
            .map_err(|error| error.to_string())
        };
        for name in ["bomb.tgz", "bomb.tar.xz", "bomb.zst", "bomb.zip", "many.tgz", "sparse.tgz"] {
            for read in [true, false] {
                let refused = unpack(name, 2_000_000, read).unwrap_err();
                assert!(refused.contains("more than 2000000 bytes"), "{name}: {refused}");
            }
        }
        assert_eq!(unpack("bomb.tgz", 3_100_000, true), Ok(3_000_000));
        assert_eq!(unpack("many.tgz", 6_000_000, true), Ok(0));
    }

    /// A header of one gigabyte must be rejected, because a header is in memory before its member is known.
    #[test]
    fn headers_of_a_member_are_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::GNULongName);
        header.set_path("././@LongLink").unwrap();
        header.set_size(200 << 20);
        header.set_cksum();
        let path = folder.path().join("long.tgz");
        let file = std::fs::File::create(&path).unwrap();
        let mut packed = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
        io::Write::write_all(&mut packed, header.as_bytes()).unwrap();
        io::copy(&mut io::repeat(b'a').take(200 << 20), &mut packed).unwrap();
        packed.finish().unwrap();
        let error = all(&path, 0).unwrap_err().to_string();
        assert!(error.contains("headers"), "{error}");
    }

    /// A member that `strip` leaves out may be large.
    #[test]
    fn members_that_are_stripped_count_as_members() {
        let folder = tempfile::tempdir().unwrap();
        run(folder.path(), "mkdir top && head -c 3000000 /dev/zero > big && echo x > top/x && tar -cf a.tar big top");
        assert_eq!(all(&folder.path().join("a.tar"), 1).unwrap().len(), 1);
    }

    #[test]
    fn file_that_is_not_an_archive_is_rejected() {
        let folder = tempfile::tempdir().unwrap();
        for (name, bytes) in
            [("empty", b"".as_slice()), ("text", b"hello"), ("cut", b"PK\x03\x04"), ("gz", b"\x1f\x8bxx")]
        {
            let path = folder.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            assert!(all(&path, 0).is_err(), "{name}");
        }
    }
}
