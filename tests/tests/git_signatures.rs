//! Signatures of commits and tags that must not count, made with the real git, gpg and ssh-keygen.

use std::{fs, path::Path, process::Command};

use towpath_git::{Auth, Fetched, Limits, Mirror, Options, Reference, VerifyError, VerifyMode, VerifyOptions};
use towpath_tests::{
    git::{GpgSigner, Repository, SshSigner, change, git, one_file as fleet},
    ok,
};

/// Returns the current time, at which all keys of these tests are valid.
fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

fn options(repository: &Repository, reference: Reference, keys: &Path) -> Options {
    Options {
        name: "fleet".into(),
        url: repository.bare.display().to_string(),
        reference,
        path: String::new(),
        auth: Auth::default(),
        verify: VerifyOptions { mode: VerifyMode::Head, key_files: vec![keys.to_owned()], signers: None },
        allow_rewind: false,
        limits: Limits::default(),
    }
}

/// Verifies a commit of the bare repository against keys.
fn judge(repository: &Repository, keys: &str, commit: &str) -> Result<String, String> {
    let folder = repository.bare.parent().unwrap();
    let file = folder.join("keys-to-judge");
    fs::write(&file, keys).unwrap();
    let mirror = Mirror::new(options(repository, Reference::Branch("main".into()), &file), folder);
    match mirror.verify(None, commit, now()) {
        Ok(signer) => Ok(signer.unwrap()),
        Err(VerifyError::Unverified(why)) => Err(why.message),
        Err(VerifyError::Source(error)) => panic!("{error}"),
    }
}

fn refused(repository: &Repository, keys: &str, commit: &str, why: &str) {
    let found = judge(repository, keys, commit).unwrap_err();
    assert!(found.contains(why), "{found}");
}

/// Commits with a wrapper of gpg that signs with this digest.
fn commit_through(signer: &GpgSigner, repository: &Repository, digest: &str) -> String {
    use std::os::unix::fs::PermissionsExt as _;
    let program = repository.bare.parent().unwrap().join("gpg-with-digest");
    let script = format!("#!/bin/sh\nexec gpg --batch --allow-weak-digest-algos --digest-algo {digest} \"$@\"\n");
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    change(repository, digest);
    ok(git(&repository.work).args(["add", "-A"]));
    let program = format!("gpg.program={}", program.display());
    ok(signer.git(repository).args(["-c", &program, "commit", "-q", "-S", "-m", digest]));
    repository.push();
    repository.head()
}

#[test]
fn weak_digests_and_keys_of_openpgp_do_not_count() {
    let folder = tempfile::tempdir().unwrap();
    let repository = fleet(folder.path());
    repository.publish("first");
    let signer = GpgSigner::of_kind(folder.path(), "r", "rsa2048", "sign", "never");
    for digest in ["SHA256", "SHA512"] {
        let commit = commit_through(&signer, &repository, digest);
        judge(&repository, &signer.public(), &commit).unwrap();
    }
    for digest in ["MD5", "SHA1", "RIPEMD160", "SHA224"] {
        let commit = commit_through(&signer, &repository, digest);
        refused(&repository, &signer.public(), &commit, "digest");
    }
    for (name, kind, why) in
        [("small", "rsa1024", "1024 bits"), ("dsa", "dsa2048", "not accepted"), ("k", "secp256k1", "not accepted")]
    {
        let signer = GpgSigner::of_kind(folder.path(), name, kind, "sign", "never");
        let commit = signer.commit(&repository, name);
        repository.push();
        refused(&repository, &signer.public(), &commit, why);
    }
    let signer = GpgSigner::of_kind(folder.path(), "p", "nistp256", "sign", "never");
    let commit = signer.commit(&repository, "p");
    repository.push();
    judge(&repository, &signer.public(), &commit).unwrap();
}

#[test]
fn foreign_certifications_do_not_invalidate_an_openpgp_key() {
    let folder = tempfile::tempdir().unwrap();
    let repository = fleet(folder.path());
    let alice = GpgSigner::of_kind(folder.path(), "alice", "ed25519", "cert", "never");
    let fingerprint = alice.fingerprint();
    ok(alice.gpg().args(["--quick-add-key", &fingerprint, "ed25519", "sign", "never"]));
    ok(alice.gpg().args(["--quick-add-uid", &fingerprint, "old@example.org"]));
    ok(alice.gpg().args(["--quick-revoke-uid", &fingerprint, "old@example.org"]));
    let commit = alice.commit(&repository, "by a subkey");
    repository.push();
    let signer = judge(&repository, &alice.public(), &commit).unwrap();
    assert!(signer.contains("alice@example.org"), "{signer}");
    // A certification by another key.
    let bob = GpgSigner::of_kind(folder.path(), "bob", "ed25519", "cert", "never");
    let file = folder.path().join("alice.asc");
    fs::write(&file, alice.public()).unwrap();
    ok(bob.gpg().arg("--import").arg(&file));
    ok(bob.gpg().args(["--yes", "--quick-sign-key", &fingerprint]));
    let certified = ok(bob.gpg().args(["--armor", "--export", &fingerprint])).stdout;
    let certified = String::from_utf8(certified).unwrap();
    assert!(certified.len() > alice.public().len());
    judge(&repository, &certified, &commit).unwrap();
    // A key without a valid user id.
    ok(alice.gpg().args(["--quick-add-uid", &fingerprint, "last@example.org"]));
    for user in ["alice@example.org", "last@example.org"] {
        let _ = alice.gpg().args(["--quick-revoke-uid", &fingerprint, user]).status();
    }
    let export = ok(alice.gpg().args(["--armor", "--export", &fingerprint])).stdout;
    let export = String::from_utf8(export).unwrap();
    // gpg refuses to revoke the last valid user id.
    judge(&repository, &export, &commit).unwrap();
}

#[test]
fn subkey_that_did_not_sign_its_key_does_not_count() {
    use pgp::{
        composed::{ArmorOptions, Deserializable as _, SignedPublicKey},
        packet::SubpacketData,
    };
    let folder = tempfile::tempdir().unwrap();
    let repository = fleet(folder.path());
    let alice = GpgSigner::of_kind(folder.path(), "alice", "ed25519", "cert", "never");
    ok(alice.gpg().args(["--quick-add-key", &alice.fingerprint(), "ed25519", "sign", "never"]));
    let commit = alice.commit(&repository, "by a subkey");
    repository.push();
    let (mut key, _) = SignedPublicKey::from_string(&alice.public()).unwrap();
    for binding in key.public_subkeys.iter_mut().flat_map(|subkey| &mut subkey.signatures) {
        let unhashed: Vec<_> = binding.config().unwrap().unhashed_subpackets().cloned().collect();
        let at = unhashed.iter().position(|packet| matches!(packet.data, SubpacketData::EmbeddedSignature(_)));
        binding.unhashed_subpacket_remove(at.unwrap()).unwrap();
    }
    let stripped = key.to_armored_string(ArmorOptions::default()).unwrap();
    refused(&repository, &stripped, &commit, "has not signed its key");
}

/// Creates a commit with another message under the same signature.
fn tampered(repository: &Repository, commit: &str) -> String {
    let text = ok(git(&repository.work).args(["cat-file", "commit", commit])).stdout;
    let text = String::from_utf8(text).unwrap();
    repository.object("commit", format!("{text}more\n").as_bytes())
}

#[test]
fn bad_signature_of_a_listed_key_is_called_bad() {
    let folder = tempfile::tempdir().unwrap();
    let repository = fleet(folder.path());
    let alice = GpgSigner::new(folder.path(), "alice", "never");
    let commit = alice.commit(&repository, "by alice");
    let carol = SshSigner::new(folder.path(), "carol");
    let other = carol.commit(&repository, "by carol");
    repository.push();
    judge(&repository, &alice.public(), &commit).unwrap();
    refused(&repository, &alice.public(), &tampered(&repository, &commit), "is invalid");
    refused(&repository, &carol.line(""), &tampered(&repository, &other), "is invalid");
    refused(&repository, &carol.line(""), &commit, "not listed");
    refused(&repository, &alice.public(), &other, "not listed");
}

#[test]
fn keys_of_ssh_that_others_can_break_are_refused_with_their_line() {
    let folder = tempfile::tempdir().unwrap();
    let repository = fleet(folder.path());
    let signer = SshSigner::new(folder.path(), "good");
    let commit = signer.commit(&repository, "by good");
    repository.push();
    let key = folder.path().join("small");
    ok(Command::new("ssh-keygen").args(["-q", "-t", "rsa", "-b", "1024", "-N", "", "-f"]).arg(&key));
    let small = fs::read_to_string(key.with_extension("pub")).unwrap();
    for (line, why) in [
        (format!("a@x {small}"), "1024 bits"),
        (signer.line("valid-before=\"20249999\" "), "not a time"),
        (signer.line("cert-authority "), "certificate authorities"),
        ("a@x ssh-ed25519 AAAA\n".to_owned(), "cannot read the key"),
    ] {
        let keys = format!("# signers\n{}{line}", signer.line(""));
        let found = judge(&repository, &keys, &commit).unwrap_err();
        assert!(found.contains("keys-to-judge:3: ") && found.contains(why), "{found}");
    }
}

/// A source that follows tags, with a mirror of its own.
struct Tags {
    repository: Repository,
    mirror: Mirror,
    signer: SshSigner,
}

impl Tags {
    fn new(folder: &Path, pattern: &str) -> Self {
        let repository = fleet(folder);
        let signer = SshSigner::new(folder, "alice");
        let keys = folder.join("keys");
        fs::write(&keys, signer.line("")).unwrap();
        let options = options(&repository, Reference::Tag(pattern.into()), &keys);
        Self { repository, mirror: Mirror::new(options, &folder.join("mirrors")), signer }
    }

    /// Tags the head with these arguments.
    fn tag(&self, arguments: &[&str]) {
        let settings = self.signer.settings();
        let mut command = git(&self.repository.work);
        settings.iter().for_each(|setting| {
            command.args(["-c", setting]);
        });
        ok(command.arg("tag").args(arguments));
        ok(git(&self.repository.work).args(["push", "-q", "-f", "--tags", "origin", "HEAD:main"]));
    }

    fn head(&self, accepted: Option<&str>) -> (Fetched, Result<(), String>) {
        let head = self.mirror.fetch(accepted).unwrap();
        let verified = match self.mirror.verify_head(accepted, &head, now()) {
            Ok(_) => Ok(()),
            Err(VerifyError::Unverified(why)) => Err(why.message),
            Err(VerifyError::Source(error)) => panic!("{error}"),
        };
        (head, verified)
    }
}

#[test]
fn tags_must_be_annotated_signed_and_of_their_own_name() {
    let folder = tempfile::tempdir().unwrap();
    let tags = Tags::new(folder.path(), "v*");
    let first = tags.signer.commit(&tags.repository, "one");
    tags.tag(&["-s", "-m", "one", "v1.0.0"]);
    let (head, verified) = tags.head(None);
    assert_eq!((head.commit.as_str(), verified), (first.as_str(), Ok(())));
    let accepted = Some(first.as_str());
    tags.signer.commit(&tags.repository, "two");
    tags.tag(&["-s", "-m", "two", "v1.1.0"]);
    assert_eq!(tags.head(accepted).1, Ok(()));
    let refused_for = |accepted: Option<&str>, name: &str, why: &str| {
        let (head, verified) = tags.head(accepted);
        assert_eq!(head.tag.as_deref(), Some(name));
        let found = verified.unwrap_err();
        assert!(found.contains(why), "{name}: {found}");
    };
    let refused = |name: &str, why: &str| {
        refused_for(accepted, name, why);
        refused_for(None, name, why);
    };
    tags.tag(&["v1.2.0"]);
    refused_for(accepted, "v1.2.0", "not annotated");
    assert_eq!(tags.head(None).1, Ok(()), "at the first contact, the signature of the commit counts");
    tags.tag(&["-a", "-m", "unsigned", "v1.3.0"]);
    refused("v1.3.0", "not signed");
    // The signed object of one version under the name of another.
    let object = tags.repository.git(&["rev-parse", "v1.1.0"]);
    tags.repository.server(&["update-ref", "refs/tags/v1.4.0", &object]);
    refused("v1.4.0", "signed as v1.1.0");
    tags.tag(&["-s", "-m", "a tag of a tag", "v1.5.0", "v1.1.0"]);
    refused("v1.5.0", "names a tag");
    let mallory = SshSigner::new(folder.path(), "mallory");
    let settings = mallory.settings();
    let arguments: Vec<&str> = settings.iter().flat_map(|setting| ["-c", setting.as_str()]).collect();
    ok(git(&tags.repository.work).args(arguments).args(["tag", "-s", "-m", "by mallory", "v1.6.0"]));
    tags.tag(&["-d", "v1.0.0"]);
    refused("v1.6.0", "not listed");
    // A signed tag with one changed byte.
    let text = ok(git(&tags.repository.work).args(["cat-file", "tag", "v1.1.0"])).stdout;
    let text = String::from_utf8(text).unwrap().replacen("tag v1.1.0", "tag v1.7.0", 1);
    let object = tags.repository.object("tag", text.as_bytes());
    tags.repository.server(&["update-ref", "refs/tags/v1.7.0", &object]);
    refused("v1.7.0", "is invalid");
}

#[test]
fn unannotated_tag_counts_at_the_first_contact_if_its_commit_is_signed() {
    let folder = tempfile::tempdir().unwrap();
    let tags = Tags::new(folder.path(), "v*");
    tags.repository.commit("unsigned");
    tags.tag(&["v1.0.0"]);
    assert!(tags.head(None).1.unwrap_err().contains("not signed"), "neither the tag nor the commit is signed");
    let signed = tags.signer.commit(&tags.repository, "signed");
    tags.tag(&["v1.1.0"]);
    let (head, verified) = tags.head(None);
    assert_eq!((head.commit.as_str(), verified), (signed.as_str(), Ok(())));
    let of = |accepted| tags.mirror.tag_of(accepted, &signed, now()).unwrap();
    assert_eq!((of(None).as_deref(), of(Some(signed.as_str()))), (Some("v1.1.0"), None));
}

#[test]
fn tags_signed_with_gpg_count() {
    let folder = tempfile::tempdir().unwrap();
    let tags = Tags::new(folder.path(), "v*");
    let gpg = GpgSigner::new(folder.path(), "bob", "never");
    fs::write(folder.path().join("keys"), gpg.public()).unwrap();
    let first = gpg.commit(&tags.repository, "one");
    tags.repository.push();
    gpg.commit(&tags.repository, "two");
    ok(gpg.git(&tags.repository).args(["tag", "-s", "-m", "two", "v1.0.0"]));
    ok(git(&tags.repository.work).args(["push", "-q", "--tags", "origin", "HEAD:main"]));
    assert_eq!(tags.head(Some(&first)).1, Ok(()));
    ok(git(&tags.repository.work).args(["tag", "-a", "-m", "unsigned", "v1.1.0"]));
    ok(git(&tags.repository.work).args(["push", "-q", "--tags"]));
    assert!(tags.head(Some(&first)).1.is_err());
}
