//! OpenPGP: packets of keys and of a signature.
//!
//! The first two bytes are the length of the keys. If their first bit is set, a list of subpackets (kind, length,
//! content) follows the keys, of which a signature is made that is well formed and signs nothing.
#![no_main]

use base64::{Engine as _, prelude::BASE64_STANDARD};
use libfuzzer_sys::fuzz_target;
use towpath_git::fuzzing::signature;

const PAYLOAD: &[u8] = b"tree 1111111111111111111111111111111111111111\n\nmessage\n";

fn armoured(kind: &str, packets: &[u8]) -> String {
    let mut text = format!("-----BEGIN PGP {kind}-----\n\n");
    for line in packets.chunks(48) {
        text.push_str(&BASE64_STANDARD.encode(line));
        text.push('\n');
    }
    text.push_str(&format!("-----END PGP {kind}-----\n"));
    text
}

fuzz_target!(|bytes: &[u8]| {
    let Some((length, rest)) = bytes.split_first_chunk::<2>() else { return };
    let length = u16::from_be_bytes(*length);
    let Some((keys, signed)) = rest.split_at_checked((length & 0x7fff).into()) else { return };
    let keys = if keys.is_empty() { String::new() } else { armoured("PUBLIC KEY BLOCK", keys) };
    let signed = if length & 0x8000 == 0 { signed.to_vec() } else { signature_of(signed) };
    let text = armoured("SIGNATURE", &signed);
    if signature(&keys, text.as_bytes(), PAYLOAD, 1_800_000_000).is_ok() {
        for other in [&PAYLOAD[1..], &[PAYLOAD, b"more"].concat(), b""] {
            assert!(signature(&keys, text.as_bytes(), other, 1_800_000_000).is_err(), "it counts for other bytes");
        }
        assert!(digest(&signed).is_none_or(|digest| matches!(digest, 8 | 9 | 10 | 12 | 14)), "a weak digest counts");
    }
});

/// A v4 signature over a document (Ed25519 and SHA-256) with the subpackets that the bytes list.
fn signature_of(mut bytes: &[u8]) -> Vec<u8> {
    let mut subpackets = Vec::new();
    while let [kind, length, rest @ ..] = bytes {
        let (content, rest) = rest.split_at(usize::from(*length).min(rest.len()).min(180));
        bytes = rest;
        subpackets.push(content.len() as u8 + 1);
        subpackets.push(*kind);
        subpackets.extend_from_slice(content);
    }
    let length = u16::try_from(subpackets.len()).unwrap_or(u16::MAX);
    subpackets.truncate(length.into());
    let [high, low] = length.to_be_bytes();
    // No unhashed subpackets, the first bytes of the digest, and two numbers.
    let body = [&[4, 0, 22, 8, high, low], subpackets.as_slice(), &[0, 0, 0, 0, 0, 1, 1, 0, 1, 1]].concat();
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX).to_be_bytes();
    [&[0xc2, 0xff], &length[..], &body].concat()
}

/// The digest of a v4 signature: the fourth byte of its body.
fn digest(packet: &[u8]) -> Option<u8> {
    let header = match packet.first()? {
        first if first & 0xc0 == 0x80 => [2, 3, 5, 1][usize::from(first & 3)],
        _ => match packet.get(1)? {
            0..=191 => 2,
            192..=223 => 3,
            255 => 6,
            _ => return None,
        },
    };
    (*packet.get(header)? == 4).then(|| packet.get(header + 3).copied())?
}
