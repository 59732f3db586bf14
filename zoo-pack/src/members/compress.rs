//! From a stream to members.

use std::io::{self, Write};
use std::sync::mpsc::{sync_channel, Receiver, SyncSender};
use std::thread;

use flate2::{Compress, Compression, Crc, FlushCompress, Status};

use super::workers::Workers;
use super::{HEADER, PIECE, TRAILER};

/// Compresses one piece into a member.
pub fn compress(piece: &[u8], level: u32) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER + piece.len() + piece.len() / 1000 + 64 + TRAILER);
    out.extend([0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 255, 8, 0, b'I', b'G', 4, 0, 0, 0, 0, 0]);
    let mut deflate = Compress::new(Compression::new(level), false);
    loop {
        let rest = &piece[deflate.total_in() as usize..];
        let status = deflate.compress_vec(rest, &mut out, FlushCompress::Finish);
        if status.expect("a raw deflate stream can always continue") == Status::StreamEnd {
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
