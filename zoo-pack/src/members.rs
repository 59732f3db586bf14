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

use std::io::{self, Read, Write};
use std::sync::mpsc::{sync_channel, Receiver, SyncSender};
use std::sync::{Arc, Mutex};
use std::thread;

use flate2::bufread::MultiGzDecoder;
use flate2::{Compress, Compression, Crc, Decompress, FlushCompress, FlushDecompress, Status};
use zoo_model::files::{Hashing, Sha256};

/// Uncompressed bytes in a member; the last one may hold fewer.
pub const PIECE: usize = 1 << 20;

/// Length of a member's header.
pub const HEADER: usize = 20;
const TRAILER: usize = 8;
/// What every gzip file begins with.
const MAGIC: [u8; 3] = [0x1f, 0x8b, 8];
/// Longest member that is read, compressed or not.
const MEMBER_LIMIT: usize = 4 << 20;
/// Damaged members after which the rest of an archive is not read: nobody wants to know of more.
const DAMAGE_LIMIT: usize = 10_000;

/// Compresses one piece into a member.
pub fn compress(piece: &[u8], level: u32) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER + piece.len() + piece.len() / 1000 + 64 + TRAILER);
    out.extend([0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 255, 8, 0, b'I', b'G', 4, 0, 0, 0, 0, 0]);
    let mut deflate = Compress::new(Compression::new(level), false);
    loop {
        let rest = &piece[deflate.total_in() as usize..];
        let status = deflate.compress_vec(rest, &mut out, FlushCompress::Finish);
        if status.expect("a raw deflate stream can always go on") == Status::StreamEnd {
            break;
        }
        out.reserve(1 << 16);
    }
    let mut crc = Crc::new();
    crc.update(piece);
    out.extend(crc.sum().to_le_bytes());
    out.extend((piece.len() as u32).to_le_bytes());
    let length = out.len() as u32;
    out[HEADER - 4..HEADER].copy_from_slice(&length.to_le_bytes());
    out
}

/// Compresses what `produce` writes, on the given number of threads, and writes the members to `out` in order.
///
/// Memory is bounded by some members per thread, whatever the length of the stream.
pub fn compress_stream<E: From<io::Error> + Send>(
    out: &mut (impl Write + Send),
    level: u32,
    threads: usize,
    produce: impl FnOnce(&mut Pieces) -> Result<(), E>,
) -> Result<(), E> {
    let threads = threads.max(1);
    thread::scope(|scope| {
        let workers = Workers::start(scope, threads, move |piece: Vec<u8>| compress(&piece, level));
        let (ordered, results) = sync_channel::<Receiver<Vec<u8>>>(2 * threads);
        let writer = scope.spawn(move || {
            // A dropped sender means that the producer failed; its error is the one to report.
            results.iter().try_for_each(|member| member.recv().map_or(Ok(()), |m| out.write_all(&m)))
        });
        let mut pieces = Pieces { buffer: Vec::with_capacity(PIECE), workers, ordered };
        let produced = produce(&mut pieces).and_then(|()| Ok(pieces.flush_piece()?));
        drop(pieces);
        let written = writer.join().unwrap_or_else(|_| Err(io::Error::other("the writer failed")));
        // A failed writer makes the producer fail too, with a less telling error.
        written.map_err(E::from).and(produced)
    })
}

/// Where the stream to compress is written to.
pub struct Pieces {
    buffer: Vec<u8>,
    workers: Workers<Vec<u8>, Vec<u8>>,
    ordered: SyncSender<Receiver<Vec<u8>>>,
}

impl Pieces {
    fn flush_piece(&mut self) -> io::Result<()> {
        if !self.buffer.is_empty() {
            let piece = std::mem::replace(&mut self.buffer, Vec::with_capacity(PIECE));
            let result = self.workers.submit(piece);
            self.ordered.send(result).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        }
        Ok(())
    }
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = bytes.len().min(PIECE - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..n]);
        if self.buffer.len() == PIECE {
            self.flush_piece()?;
        }
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Threads that turn jobs into results, each delivered through a channel of its own.
struct Workers<J, R>(SyncSender<(J, SyncSender<R>)>);

impl<J: Send, R: Send> Workers<J, R> {
    fn start<'scope, 'env>(
        scope: &'scope thread::Scope<'scope, 'env>,
        threads: usize,
        work: impl Fn(J) -> R + Clone + Send + 'scope,
    ) -> Self
    where
        J: 'scope,
        R: 'scope,
    {
        let (sender, receiver) = sync_channel::<(J, SyncSender<R>)>(threads);
        let receiver = Arc::new(Mutex::new(receiver));
        for _ in 0..threads {
            let (receiver, work) = (receiver.clone(), work.clone());
            scope.spawn(move || loop {
                let job = receiver.lock().unwrap_or_else(|e| e.into_inner()).recv();
                let Ok((job, result)) = job else { break };
                let _ = result.send(work(job));
            });
        }
        Self(sender)
    }

    fn submit(&self, job: J) -> Receiver<R> {
        let (sender, receiver) = sync_channel(1);
        let _ = self.0.send((job, sender));
        receiver
    }
}

/// A member that is not what was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// Where the member begins in the archive.
    pub offset: u64,
    /// The part of the decoded stream that it holds; what could not be decoded is zero there.
    pub start: u64,
    /// End of that part; `u64::MAX` if nothing after its start could be decoded, `start` if no member
    /// begins there at all.
    pub end: u64,
    /// What is wrong.
    pub message: String,
}

/// What the reading thread hands to the consumer, in order.
enum Delivery {
    Member {
        offset: u64,
        intact: bool,
        piece: Receiver<Piece>,
    },
    /// Bytes that the reading thread inflated itself.
    Plain(Vec<u8>),
    Broken {
        offset: u64,
        begun: bool,
        message: String,
    },
}

struct Piece {
    data: Vec<u8>,
    damage: Option<String>,
    /// Whether what follows is not worth reading.
    last: bool,
}

/// The decoded stream: read it to the end. Damage does not end it as long as the members' lengths
/// are sound, and the members hold something.
pub struct Decoded {
    deliveries: Receiver<Delivery>,
    piece: Vec<u8>,
    read: usize,
    position: u64,
    ended: bool,
    /// The damage met so far.
    pub damages: Vec<Damage>,
}

impl Decoded {
    /// Bytes of the decoded stream that were read.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Whether this byte of the decoded stream, read already, came from a damaged member.
    pub fn is_damaged(&self, position: u64) -> bool {
        self.damages.iter().any(|d| (d.start..d.end).contains(&position))
    }

    /// Makes the next piece current; `false` at the end.
    fn next_piece(&mut self) -> bool {
        let start = self.position;
        let mut note = |offset, end, message| self.damages.push(Damage { offset, start, end, message });
        match if self.ended { None } else { self.deliveries.recv().ok() } {
            None => {
                self.ended = true;
                return false;
            }
            Some(Delivery::Plain(data)) => self.piece = data,
            Some(Delivery::Broken { offset, begun, message }) => {
                note(offset, if begun { u64::MAX } else { start }, message);
                self.ended = true;
                return false;
            }
            Some(Delivery::Member { offset, intact, piece }) => {
                let Ok(Piece { data, damage, last }) = piece.recv() else { return false };
                let header = (!intact).then(|| "a gzip member's header is damaged".to_owned());
                if let Some(message) = damage.or(header) {
                    note(offset, start + data.len() as u64, message);
                }
                self.piece = data;
                self.ended = last;
                if self.damages.len() >= DAMAGE_LIMIT {
                    let message = format!("has more than {DAMAGE_LIMIT} damaged gzip members: the rest was not read");
                    self.damages.push(Damage { offset, start, end: u64::MAX, message });
                    self.ended = true;
                }
            }
        }
        self.read = 0;
        true
    }
}

impl Read for Decoded {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.read == self.piece.len() {
            if !self.next_piece() {
                return Ok(0);
            }
        }
        let n = buffer.len().min(self.piece.len() - self.read);
        buffer[..n].copy_from_slice(&self.piece[self.read..self.read + n]);
        self.read += n;
        self.position += n as u64;
        Ok(n)
    }
}

/// Decodes an archive on the given number of threads while `consume` reads it; returns what that returns, and
/// the SHA-256 of the archive if all of it was read.
///
/// Memory is bounded by some members per thread. Gzip of other programs is read too, on one thread.
pub fn decode<T>(
    source: impl Read + Send,
    threads: usize,
    consume: impl FnOnce(&mut Decoded) -> T,
) -> (T, Option<Sha256>) {
    let threads = threads.max(1);
    thread::scope(|scope| {
        let (sender, deliveries) = sync_channel(2 * threads);
        let reader = scope.spawn(move || {
            let workers = Workers::start(scope, threads, |member: Vec<u8>| inflate(&member));
            let mut source = Hashing::new(source);
            let whole = deliver(&mut source, &workers, &sender).is_ok();
            // What follows the damage still counts for the archive's checksum.
            (whole && io::copy(&mut source, &mut io::sink()).is_ok()).then(|| source.finish().2)
        });
        let mut decoded =
            Decoded { deliveries, piece: Vec::new(), read: 0, position: 0, ended: false, damages: Vec::new() };
        let result = consume(&mut decoded);
        drop(decoded);
        (result, reader.join().unwrap_or(None))
    })
}

/// The consumer wants no more.
struct Gone;

fn deliver<R: Read>(
    source: &mut Hashing<R>,
    workers: &Workers<Vec<u8>, Piece>,
    sender: &SyncSender<Delivery>,
) -> Result<(), Gone> {
    let send = |delivery| sender.send(delivery).map_err(|_| Gone);
    let mut first = true;
    loop {
        let offset = source.length();
        let broken = |message: String| Delivery::Broken { offset, begun: false, message };
        let cut = |message: String| Delivery::Broken { offset, begun: true, message };
        let mut header = [0; HEADER];
        let length = match read_up_to(source, &mut header) {
            Err(e) => return send(broken(format!("cannot be read: {e}"))),
            Ok(0) if first => return send(broken("is empty".into())),
            Ok(0) => return Ok(()),
            Ok(n) => n,
        };
        let Some((member_length, intact)) = member_length(&header[..length]) else {
            if first && header.starts_with(&MAGIC) {
                return deliver_foreign(header[..length].chain(source), offset, sender);
            }
            let message = if first {
                "is not a gzip file"
            } else {
                "no gzip member begins where one should: it is truncated or damaged there"
            };
            return send(broken(message.into()));
        };
        if !(HEADER + TRAILER..=MEMBER_LIMIT).contains(&member_length) {
            return send(cut(format!("a gzip member declares {member_length} bytes; the limit is {MEMBER_LIMIT}")));
        }
        let mut member = vec![0; member_length];
        member[..HEADER].copy_from_slice(&header);
        match read_up_to(source, &mut member[HEADER..]) {
            Err(e) => return send(broken(format!("cannot be read: {e}"))),
            Ok(n) if n < member_length - HEADER => {
                let have = n + HEADER;
                member.truncate(have);
                let data = inflate_part(&member);
                if !data.is_empty() {
                    send(Delivery::Plain(data))?;
                }
                return send(cut(format!("is truncated: a gzip member has {have} of its {member_length} bytes")));
            }
            Ok(_) => send(Delivery::Member { offset, intact, piece: workers.submit(member) })?,
        }
        first = false;
    }
}

fn deliver_foreign(source: impl Read, offset: u64, sender: &SyncSender<Delivery>) -> Result<(), Gone> {
    let mut decoder = MultiGzDecoder::new(io::BufReader::with_capacity(1 << 16, source));
    loop {
        let mut piece = vec![0; 1 << 18];
        let delivery = match decoder.read(&mut piece) {
            Ok(0) => return Ok(()),
            Ok(n) => {
                piece.truncate(n);
                Delivery::Plain(piece)
            }
            Err(e) => {
                let broken =
                    Delivery::Broken { offset, begun: true, message: format!("its gzip stream is damaged: {e}") };
                return sender.send(broken).map_err(|_| Gone);
            }
        };
        sender.send(delivery).map_err(|_| Gone)?;
    }
}

fn read_up_to(source: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut n = 0;
    while n < buffer.len() {
        match source.read(&mut buffer[n..]) {
            Ok(0) => break,
            Ok(more) => n += more,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(n)
}

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

/// What can be inflated of a member that is truncated.
fn inflate_part(member: &[u8]) -> Vec<u8> {
    let mut data = Vec::with_capacity(MEMBER_LIMIT);
    // An error comes after what is sound before it; the cut is reported anyway.
    let _ = Decompress::new(false).decompress_vec(&member[HEADER..], &mut data, FlushDecompress::None);
    data
}

/// Inflates a member. What cannot be decoded is zero, up to the length that the trailer states.
fn inflate(member: &[u8]) -> Piece {
    let (body, trailer) = member[HEADER..].split_at(member.len() - HEADER - TRAILER);
    let word = |i: usize| u32::from_le_bytes([trailer[i], trailer[i + 1], trailer[i + 2], trailer[i + 3]]);
    let (crc, length) = (word(0), word(4) as usize);
    let believed = if length > MEMBER_LIMIT { PIECE } else { length };
    let mut data = Vec::with_capacity(believed.max(PIECE));
    let mut state = Decompress::new(false);
    let outcome = state.decompress_vec(body, &mut data, FlushDecompress::Finish);
    let mut found = Crc::new();
    found.update(&data);
    let damage = match outcome {
        Err(e) => Some(format!("a gzip member cannot be inflated: {e}")),
        Ok(Status::StreamEnd) if state.total_in() != body.len() as u64 => {
            Some("a gzip member contains more than its deflate stream".into())
        }
        Ok(Status::StreamEnd) if data.len() != length => {
            let message = format!("a gzip member contains {} bytes, its trailer declares {length}", data.len());
            return Piece { data, damage: Some(message), last: false };
        }
        Ok(Status::StreamEnd) if found.sum() != crc => {
            Some(format!("a gzip member's CRC-32 is {:08x}, its trailer says {crc:08x}", found.sum()))
        }
        // Packing never writes one, and a million of them would hold nothing but the reader up.
        Ok(Status::StreamEnd) if data.is_empty() => {
            let message = "a gzip member is empty: the rest was not read".to_owned();
            return Piece { data, damage: Some(message), last: true };
        }
        Ok(Status::StreamEnd) => None,
        Ok(_) => Some("a gzip member's deflate stream does not end where it should".into()),
    };
    if damage.is_some() {
        data.resize(believed, 0);
    }
    Piece { data, damage, last: false }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use zoo_model::files::sha256;

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
