//! From members, or any other gzip file, to a stream.

use std::io::{self, Read};
use std::sync::mpsc::{sync_channel, Receiver, SyncSender};
use std::thread;

use flate2::bufread::MultiGzDecoder;
use flate2::{Crc, Decompress, FlushDecompress, Status};
use zoo_model::files::{Hashing, Sha256};

use super::workers::Workers;
use super::{member_length, HEADER, MAGIC, PIECE, TRAILER};

/// Longest member that is read, compressed or not.
const MEMBER_LIMIT: usize = 4 << 20;
/// Damaged members after which the rest of an archive is not read: a longer list has no use.
pub(super) const DAMAGE_LIMIT: usize = 10_000;

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
