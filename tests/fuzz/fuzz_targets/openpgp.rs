//! OpenPGP: packets of keys and of a signature. The first two bytes are the length of the keys.
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
    let Some((keys, signed)) = rest.split_at_checked(u16::from_be_bytes(*length).into()) else { return };
    let keys = armoured("PUBLIC KEY BLOCK", keys);
    let text = armoured("SIGNATURE", signed);
    if signature(&keys, text.as_bytes(), PAYLOAD, 1_800_000_000).is_ok() {
        assert!(signature(&keys, text.as_bytes(), &PAYLOAD[1..], 1_800_000_000).is_err());
        assert!(digest(signed).is_none_or(|digest| matches!(digest, 8 | 9 | 10 | 12 | 14)), "a weak digest counts");
    }
});

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
