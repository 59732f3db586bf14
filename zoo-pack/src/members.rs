//! Gzip in independently compressed members of bounded size.
//!
//! A stream is cut every [`PIECE`] bytes; each piece becomes a gzip member of its own, whose extra
//! field carries the member's length (subfield `IG`, as Python's pgzip writes it). `gunzip` and
//! every gzip library read the members as one stream; a reader that knows the field finds the
//! next member without inflating this one, so that both directions run in parallel.
//!
//! | bytes | member |
//! | --- | --- |
//! | 10 | gzip header: 1f 8b 08, flags 04, mtime 0, XFL 0, OS 255 |
//! | 10 | extra field: length 8, `IG`, 4, member length (u32, this table's total) |
//! | n | deflate stream |
//! | 8 | CRC-32 and length of the piece |

mod compress;
mod decode;
mod workers;

pub use compress::{compress, compress_stream, Pieces};
pub use decode::{decode, Damage, Decoded};

/// Uncompressed bytes in a member; the last one may hold fewer.
pub const PIECE: usize = 1 << 20;

/// Length of a member's header.
pub const HEADER: usize = 20;
const TRAILER: usize = 8;
/// What every gzip file begins with.
const MAGIC: [u8; 3] = [0x1f, 0x8b, 8];
/// What the first bytes of a file, [`HEADER`] of them if it has as many, say of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// It was written here, or may have been: what is left of it is too short to tell.
    Own,
    /// It is gzip of another program.
    Foreign,
    /// It is no gzip file.
    None,
}

impl Origin {
    /// The origin of a file that begins like this.
    pub fn of(head: &[u8]) -> Self {
        let gzip = head.starts_with(&MAGIC) || !head.is_empty() && MAGIC.starts_with(head);
        match (member_length(head), gzip) {
            (Some(_), _) => Self::Own,
            (None, true) if head.len() < HEADER => Self::Own,
            (None, true) => Self::Foreign,
            (None, false) => Self::None,
        }
    }
}

/// Length of the member that begins with this header, if it is one of ours, and whether all its
/// fixed bytes are as written. One wrong byte does not hide what the member holds.
pub(crate) fn member_length(header: &[u8]) -> Option<(usize, bool)> {
    let header: &[u8; HEADER] = header.try_into().ok()?;
    let fixed = header[..4].iter().chain(&header[10..16]);
    let wrong = fixed.zip(&[0x1f, 0x8b, 8, 4, 8, 0, b'I', b'G', 4, 0]).filter(|(a, b)| a != b).count();
    let length = u32::from_le_bytes([header[16], header[17], header[18], header[19]]) as usize;
    (wrong <= 1).then_some((length, wrong == 0))
}

#[cfg(test)]
mod tests {
    use super::decode::DAMAGE_LIMIT;
    use super::*;
    use flate2::bufread::MultiGzDecoder;
    use flate2::Compression;
    use proptest::prelude::*;
    use std::io::{Read, Write};
    use zoo_model::files::{sha256, Sha256};

    fn noise(n: usize) -> Vec<u8> {
        let mut state = 1u64;
        let next = |s: &mut u64| {
            *s = s.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (*s >> 33) as u8 & 0x3f
        };
        (0..n).map(|_| next(&mut state)).collect()
    }

    fn packed(data: &[u8], threads: usize) -> Vec<u8> {
        let mut out = Vec::new();
        compress_stream(&mut out, 6, threads, |pieces| pieces.write_all(data)).unwrap();
        out
    }

    fn unpacked(archive: &[u8]) -> (Vec<u8>, Vec<Damage>, Option<Sha256>) {
        let ((data, damages), sum) = decode(archive, 2, |decoded| {
            let mut data = Vec::new();
            decoded.read_to_end(&mut data).unwrap();
            (data, decoded.damages.clone())
        });
        (data, damages, sum)
    }

    #[test]
    fn streams_survive_and_do_not_depend_on_threads() {
        let data = noise(3 * PIECE + 12345);
        let archive = packed(&data, 1);
        assert_eq!(archive, packed(&data, 3));
        let (found, damages, sum) = unpacked(&archive);
        assert!(found == data && damages.is_empty());
        assert_eq!(sum.unwrap(), sha256(&archive));
        let mut theirs = Vec::new();
        MultiGzDecoder::new(&archive[..]).read_to_end(&mut theirs).unwrap();
        assert!(theirs == data);
    }

    /// An upgrade of the deflate implementation that changes archives shows here.
    #[test]
    fn the_compressed_form_is_pinned() {
        let sums = [0, 1, 6, 9].map(|level| sha256(&compress(&noise(PIECE), level)).to_string()[..16].to_owned());
        assert_eq!(sums, ["b5c38e13abca9572", "0e5c5e3f946138a5", "cf22c259288627cd", "f14e0c6076bb7e5e"]);
    }

    #[test]
    fn gzip_of_other_programs_is_read() {
        let data = noise(100_000);
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(&data).unwrap();
        let foreign = encoder.finish().unwrap();
        let (found, damages, _) = unpacked(&foreign);
        assert!(found == data && damages.is_empty());
        assert!(!unpacked(&foreign[..foreign.len() - 20]).1.is_empty());
        assert!(unpacked(b"PK").1[0].message.contains("not a gzip file"));
        assert!(unpacked(b"").1[0].message.contains("empty"));
    }

    #[test]
    fn a_damaged_member_does_not_hide_the_next() {
        let data = noise(2 * PIECE + 100);
        let mut archive = packed(&data, 2);
        archive[1000] ^= 1;
        let (found, damages, _) = unpacked(&archive);
        assert_eq!(found.len(), data.len());
        assert!(found[PIECE..] == data[PIECE..]);
        assert_eq!((damages.len(), damages[0].start, damages[0].end), (1, 0, PIECE as u64));
    }

    #[test]
    fn a_damaged_header_does_not_hide_its_member() {
        let data = noise(PIECE + 100);
        let sound = packed(&data, 1);
        for at in (0..4).chain(10..16) {
            let mut archive = sound.clone();
            archive[at] ^= 0x40;
            let (found, damages, _) = unpacked(&archive);
            assert!(found == data, "byte {at}");
            assert_eq!((damages.len(), damages[0].offset), (1, 0), "byte {at}");
        }
    }

    #[test]
    fn a_truncated_member_gives_what_it_has() {
        let data = noise(2 * PIECE);
        let archive = packed(&data, 1);
        let cut = archive.len() - archive.len() / 4;
        let (found, damages, _) = unpacked(&archive[..cut]);
        assert!(found.len() > data.len() * 7 / 10 && data.starts_with(&found), "{} of {}", found.len(), data.len());
        assert_eq!((damages.len(), damages[0].start, damages[0].end), (1, found.len() as u64, u64::MAX));
        assert!(damages[0].message.contains("is truncated"));
    }

    #[test]
    fn empty_and_ever_more_damaged_members_end_the_reading() {
        let (found, damages, _) =
            unpacked(&[packed(b"abc", 1), compress(b"", 1).repeat(3), packed(b"abc", 1)].concat());
        assert_eq!((&found[..], damages.len()), (&b"abc"[..], 1));
        assert!(damages[0].message.contains("is empty"), "{damages:?}");
        let mut damaged = packed(b"abc", 1);
        *damaged.last_mut().unwrap() ^= 1;
        let (_, damages, _) = unpacked(&damaged.repeat(DAMAGE_LIMIT + 5));
        assert_eq!(damages.len(), DAMAGE_LIMIT + 1);
        assert!(damages.last().unwrap().message.contains("the rest was not read"));
    }

    #[test]
    fn members_that_lie_about_their_size_are_refused() {
        let mut archive = packed(&noise(100), 1);
        let end = archive.len();
        archive[end - 4..].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(unpacked(&archive).1[0].message.contains("its trailer declares"));
        archive[16..20].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(unpacked(&archive).1[0].message.contains("declares 4294967295 bytes"));
    }

    proptest! {
        #[test]
        fn any_stream_survives(data in proptest::collection::vec(any::<u8>(), 0..5000)) {
            let (found, damages, _) = unpacked(&packed(&data, 2));
            prop_assert_eq!(found, data.clone());
            prop_assert_eq!(damages.is_empty(), !data.is_empty());
        }

        #[test]
        fn every_flip_that_changes_the_content_is_reported(at in any::<prop::sample::Index>(), bit in 0..8u8) {
            let data = noise(30_000);
            let mut archive = packed(&data, 1);
            let at = at.index(archive.len());
            archive[at] ^= 1 << bit;
            let (found, damages, _) = unpacked(&archive);
            prop_assert!(found == data || !damages.is_empty());
        }

        #[test]
        fn every_truncation_is_reported(at in any::<prop::sample::Index>()) {
            let archive = packed(&noise(30_000), 1);
            prop_assert!(!unpacked(&archive[..at.index(archive.len())]).1.is_empty());
        }

        #[test]
        fn no_bytes_make_the_decoder_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), ours: bool) {
            let mut archive = if ours { packed(&noise(50), 1)[..20].to_vec() } else { vec![] };
            archive.extend(bytes);
            let _ = unpacked(&archive);
        }
    }
}
