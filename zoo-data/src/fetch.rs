//! Downloads: from mirrors in turn, resumable, each file checked against its pinned checksum.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{sync_channel, Receiver, RecvTimeoutError, SyncSender};
use std::thread;
use std::time::{Duration, Instant};

use zoo_model::files::{remove_stale_temporaries, sync_dir, temporary_file_in, FileError};
use zoo_model::lock::is_still_at;
use zoo_model::stage::{Stage, UsageError};

use crate::client;
use crate::datasets::DatasetName;
use crate::description::{Origin, PublishedFile};
use crate::error::DataError;
use crate::summary::DataSummary;

/// Longest time that a server may say nothing, in whatever step of a download.
pub const STALL_TIMEOUT: Duration = Duration::from_secs(45);
/// Time between two looks at whether to stop.
const TICK: Duration = Duration::from_millis(100);
/// Maximum number of bytes that one file may have.
const SIZE_LIMIT: u64 = 4 << 30;
/// Unit in which progress is shown.
const MEGABYTE: u64 = 1_000_000;

/// Downloads the files of a published dataset to `root/data/NAME`, from the known mirrors or from
/// those given.
pub fn fetch_dataset(
    dataset: DatasetName,
    root: &Path,
    mirrors: &[String],
    stage: &Stage,
) -> Result<DataSummary, DataError> {
    let folder = dataset.folder(root);
    let summary = |up_to_date, output| DataSummary { dataset: dataset.name(), output, up_to_date, samples: None };
    match &dataset.description().origin {
        Origin::Embedded { .. } => {
            stage.say(format!("{} is embedded in this program: there is nothing to download", dataset.name()));
            Ok(summary(true, folder))
        }
        Origin::Folder => {
            let message = format!("{} reads your own images: there is nothing to download", dataset.name());
            Err(UsageError(message).into())
        }
        Origin::Files { files, mirrors: known, .. } => {
            let known = || known.iter().map(|&m| m.to_owned()).collect();
            let mirrors = if mirrors.is_empty() { known() } else { mirrors.to_vec() };
            let downloaded = fetch(files, &mirrors, &folder, STALL_TIMEOUT, stage)?;
            Ok(summary(downloaded == 0, folder))
        }
    }
}

/// Downloads files into `folder`; those that are there with the right checksum are left alone. A
/// mirror that says nothing for `silence` is given up. Returns how many were downloaded.
///
/// A download lies in `NAME.part` until its checksum is right; an interrupted one is resumed. A
/// temporary takes its place while another process is using it, or if it is another user's.
///
/// # Errors
/// No mirror gave the right bytes: the message says what each one did.
pub fn fetch(
    files: &[PublishedFile],
    mirrors: &[String],
    folder: &Path,
    silence: Duration,
    stage: &Stage,
) -> Result<usize, DataError> {
    fs::create_dir_all(folder).map_err(FileError::io("create the folder", folder))?;
    remove_stale_temporaries(folder);
    let mut downloaded = 0;
    for file in files {
        let target = folder.join(file.name);
        if !(target.is_file() && file.checksum.matches(&target)?) {
            download(file, mirrors, folder, silence, stage)?;
            downloaded += 1;
        }
    }
    Ok(downloaded)
}

fn download(
    file: &PublishedFile,
    mirrors: &[String],
    folder: &Path,
    silence: Duration,
    stage: &Stage,
) -> Result<(), DataError> {
    let mut attempts = Vec::new();
    for mirror in mirrors {
        let address = format!("{}/{}", mirror.trim_end_matches('/'), file.name);
        tracing::info!("downloading {address}");
        // A part that does not lead to the right checksum is of no use; a second try starts afresh.
        for _ in 0..2 {
            let mut part = Part::open(folder, file.name)?;
            let resumed = part.length()? > 0;
            match transfer(&address, &mut part, silence, stage) {
                Err(Transfer::Fatal(error)) => return Err(error),
                Err(Transfer::Failed(reason)) => {
                    if part.length()? == 0 {
                        part.remove()?;
                    }
                    attempts.push(format!("{address}: {reason}"));
                    break;
                }
                Ok(()) => {}
            }
            let found = file.checksum.of(&part.path)?;
            if found == file.checksum.to_string() {
                let target = folder.join(file.name);
                fs::rename(&part.path, &target).map_err(FileError::io("write", &target))?;
                sync_dir(folder);
                return Ok(());
            }
            part.remove()?;
            if !resumed {
                attempts.push(format!("{address}: {} is {found}, expected {}", file.checksum.kind(), file.checksum));
                break;
            }
        }
    }
    Err(DataError::Download { file: file.name.to_owned(), attempts: attempts.join("; ") })
}

/// An unfinished download, which no other process writes to.
struct Part {
    path: PathBuf,
    file: File,
    /// Removes `path` if it is this process's own and not `NAME.part`.
    _temporary: Option<tempfile::TempPath>,
}

impl Part {
    fn open(folder: &Path, name: &str) -> Result<Self, FileError> {
        let path = folder.join(format!("{name}.part"));
        let shared = File::options().create(true).append(true).open(&path).ok();
        // Before it was locked, another process may have finished with it.
        if let Some(file) = shared.filter(|file| file.try_lock().is_ok() && is_still_at(file, &path)) {
            return Ok(Self { path, file, _temporary: None });
        }
        let temporary = temporary_file_in(folder).map_err(FileError::io("write in", folder))?;
        let (file, path) = temporary.into_parts();
        Ok(Self { path: path.to_path_buf(), file, _temporary: Some(path) })
    }

    fn length(&self) -> Result<u64, FileError> {
        Ok(self.file.metadata().map_err(FileError::io("read", &self.path))?.len())
    }

    fn remove(self) -> Result<(), FileError> {
        fs::remove_file(&self.path).map_err(FileError::io("remove", &self.path))
    }
}

enum Transfer {
    /// This mirror failed; another may do.
    Failed(String),
    /// The disk, or the user's wish to stop.
    Fatal(DataError),
}

/// What a server sends.
enum Received {
    /// The response begins: whether with the missing bytes alone, and how many will come.
    Head { resumed: bool, length: u64 },
    /// Some bytes of the body.
    Bytes(Vec<u8>),
    /// That was all.
    End,
    /// A fault of the network or the server: a sentence.
    Failed(String),
}

/// Appends what is missing to `part`, or writes all of it if the server cannot resume.
fn transfer(address: &str, part: &mut Part, silence: Duration, stage: &Stage) -> Result<(), Transfer> {
    let have = part.length().map_err(|e| Transfer::Fatal(e.into()))?;
    let agent = client::agent(address, silence).map_err(Transfer::Failed)?;
    let (sender, receiver) = sync_channel(4);
    // In a thread of its own, for whatever it waits for.
    let (worker, address) = (agent.clone(), address.to_owned());
    thread::spawn(move || {
        let end = receive(&worker, &address, have, &sender);
        let _ = sender.send(end);
    });
    let outcome = write_received(&receiver, have, part, silence, stage);
    // Ends the thread if it still waits.
    agent.shutdown();
    outcome
}

fn write_received(
    receiver: &Receiver<Received>,
    have: u64,
    part: &mut Part,
    silence: Duration,
    stage: &Stage,
) -> Result<(), Transfer> {
    let path = part.path.clone();
    let disk = |e| Transfer::Fatal(FileError::io("write", &path)(e).into());
    let mut progress = None;
    let mut unshown = 0;
    let mut heard = Instant::now();
    loop {
        stage.interrupt.check().map_err(|e| Transfer::Fatal(e.into()))?;
        let received = match receiver.recv_timeout(TICK) {
            Ok(received) => received,
            Err(RecvTimeoutError::Timeout) if heard.elapsed() < silence => continue,
            Err(RecvTimeoutError::Timeout) => {
                return Err(Transfer::Failed(format!("sent no data for {} s", silence.as_secs_f64())));
            }
            Err(RecvTimeoutError::Disconnected) => return Err(Transfer::Failed("disconnected".into())),
        };
        match received {
            Received::Head { resumed, length } => {
                let done = if resumed { have } else { 0 };
                if !resumed {
                    part.file.set_len(0).and_then(|()| part.file.seek(SeekFrom::Start(0))).map_err(disk)?;
                }
                let shown = stage.progress("fetching MB", (done + length) / MEGABYTE);
                shown.skip(done / MEGABYTE);
                progress = Some(shown);
            }
            Received::Bytes(bytes) => {
                part.file.write_all(&bytes).map_err(disk)?;
                unshown += bytes.len() as u64;
                progress.iter().for_each(|shown| shown.advance(unshown / MEGABYTE));
                unshown %= MEGABYTE;
            }
            Received::End => return part.file.sync_all().map_err(disk),
            Received::Failed(reason) => return Err(Transfer::Failed(reason)),
        }
        heard = Instant::now();
    }
}

/// Asks for what comes after the first `have` bytes, hands on what comes, and returns how it ended.
/// The receiver is gone once the download was abandoned.
fn receive(agent: &ureq::Agent, address: &str, have: u64, sender: &SyncSender<Received>) -> Received {
    let mut request = agent.get(address);
    if have > 0 {
        request = request.header("Range", format!("bytes={have}-"));
    }
    let mut response = match request.call() {
        Ok(response) => response,
        // Nothing is missing: the part was whole already, or is too long; its checksum tells.
        Err(ureq::Error::StatusCode(416)) => return Received::End,
        Err(error) => return Received::Failed(error.to_string()),
    };
    let resumed = response.status() == 206;
    let mut next = Received::Head { resumed, length: response.body().content_length().unwrap_or(0) };
    let mut body = response.body_mut().as_reader().take(SIZE_LIMIT);
    let mut buffer = vec![0; 1 << 16];
    while sender.send(next).is_ok() {
        next = match body.read(&mut buffer) {
            Ok(0) => return Received::End,
            Ok(n) => Received::Bytes(buffer[..n].to_vec()),
            Err(error) => return Received::Failed(format!("connection lost: {error}")),
        };
    }
    Received::End
}
