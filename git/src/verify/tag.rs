//! Verifies signed tags. A tag object contains the id of a commit, the name of the tag and a message, and ends with the
//! signature.

use gix::{ObjectId, Repository, objs::Kind};

use super::{Signers, Unverified, signature_of};

/// Verifies that a tag is annotated and signed, and that the tag object names the tag and its commit. Returns the
/// signer.
pub(crate) fn tag(
    repository: &Repository,
    name: &str,
    object: ObjectId,
    commit: ObjectId,
    signers: &Signers,
    now: u64,
) -> Result<String, Unverified> {
    let unverified = |message: String| Unverified {
        commit: commit.to_string(),
        message: format!("the tag {}: {message}", name.escape_debug()),
    };
    let found = repository.find_object(object).map_err(|error| unverified(error.to_string()))?;
    if found.kind != Kind::Tag {
        return Err(unverified("the tag is not annotated, so it is not signed; create it with `git tag -s`".into()));
    }
    check(&found.data, name, commit, signers, now).map_err(unverified)
}

/// Verifies the signature, the name and the commit in the bytes of a tag object, and returns the signer.
pub(crate) fn check(data: &[u8], name: &str, commit: ObjectId, signers: &Signers, now: u64) -> Result<String, String> {
    let header = Header::of(data)?;
    if header.kind != b"commit" {
        let kind = header.kind.escape_ascii();
        return Err(format!("the tag names a {kind}, not a commit; tag a commit"));
    }
    if header.object != commit.to_string().as_bytes() {
        return Err(format!("the tag names the object {}, not this commit", header.object.escape_ascii()));
    }
    if header.name != name.as_bytes() {
        // Without this check, an attacker could publish the signed tag of one version as another version.
        return Err(format!("the tag was signed as {}", header.name.escape_ascii()));
    }
    let (payload, signature) = signed(data).ok_or("the tag is not signed; create it with `git tag -s`")?;
    signature_of(signature, payload, signers, now)
}

/// The first three lines of a tag object, in the order that git writes.
struct Header<'a> {
    object: &'a [u8],
    kind: &'a [u8],
    name: &'a [u8],
}

impl<'a> Header<'a> {
    fn of(data: &'a [u8]) -> Result<Self, String> {
        let mut lines = data.split(|byte| *byte == b'\n');
        let mut line = |word: &str| {
            let line = lines.next().unwrap_or_default();
            line.strip_prefix(word.as_bytes()).ok_or_else(|| "the tag object is damaged".to_owned())
        };
        Ok(Self { object: line("object ")?, kind: line("type ")?, name: line("tag ")? })
    }
}

/// Splits a tag object into the signed bytes and the signature; `None` if the tag is not signed.
///
/// As in git, the signature begins at the last header line, such as `-----BEGIN SSH SIGNATURE-----`.
fn signed(data: &[u8]) -> Option<(&[u8], &[u8])> {
    let opens = |line: &[u8]| {
        [&b"-----BEGIN PGP SIGNATURE-----"[..], b"-----BEGIN PGP MESSAGE-----", b"-----BEGIN SSH SIGNATURE-----"]
            .iter()
            .any(|word| line.starts_with(word))
    };
    let mut found = None;
    let mut at = 0;
    for line in data.split_inclusive(|byte| *byte == b'\n') {
        if opens(line) {
            found = Some(at);
        }
        at += line.len();
    }
    data.split_at_checked(found?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(data: &str, name: &str) -> String {
        let commit = ObjectId::from_bytes_or_panic(&[0x11; 20]);
        check(data.as_bytes(), name, commit, &Signers::default(), 0).unwrap_err()
    }

    #[test]
    fn tags_of_other_things_and_names_are_refused() {
        let id = "11".repeat(20);
        let tagger = "tagger t <t@x> 1 +0000\n\nmessage\n";
        let good = format!("object {id}\ntype commit\ntag v1\n{tagger}");
        assert!(refused(&good, "v1").contains("not signed"));
        assert!(refused(&good, "v2").contains("signed as v1"));
        assert!(refused(&good.replace("commit", "tag"), "v1").contains("names a tag"));
        assert!(refused(&good.replace("commit", "tree"), "v1").contains("names a tree"));
        assert!(refused(&good.replace("11", "12"), "v1").contains("not this commit"));
        for damaged in ["", "object", "type commit\nobject 11\n", &good.replace("tag v1", "x y\ntag v1")] {
            assert!(refused(damaged, "v1").contains("damaged"), "{damaged}");
        }
    }

    #[test]
    fn signature_begins_at_the_last_line_that_opens_one() {
        let begin = "-----BEGIN SSH SIGNATURE-----\n";
        let text = format!("head\n{begin}old\nmore {begin}{begin}new\n");
        let (payload, signature) = signed(text.as_bytes()).unwrap();
        assert_eq!(signature, format!("{begin}new\n").as_bytes());
        assert_eq!(payload.len() + signature.len(), text.len());
        assert!(signed(b"no signature\n").is_none());
    }
}
