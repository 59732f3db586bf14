//! Downloads: from mirrors in turn, resumable, each file checked against its pinned checksum.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::Duration;

use zoo_model::files::{sync_dir, FileError};
use zoo_stage::Stage;

use crate::{Error, PublishedFile};

/// Most bytes that one file may have.
const SIZE_LIMIT: u64 = 4 << 30;
/// Unit in which progress is shown.
const MEGABYTE: u64 = 1_000_000;

/// Downloads files into `folder`; those that are there with the right checksum are left alone.
/// Returns how many were downloaded.
///
/// A download lies in `NAME.part` until its checksum is right; an interrupted one is resumed.
///
/// # Errors
/// No mirror gave the right bytes: the message says what each one did.
pub fn fetch(files: &[PublishedFile], mirrors: &[String], folder: &Path, stage: &Stage) -> Result<usize, Error> {
    fs::create_dir_all(folder).map_err(FileError::io("create the folder", folder))?;
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .timeout_connect(Some(Duration::from_secs(20)))
        .timeout_recv_response(Some(Duration::from_secs(60)))
        .build()
        .into();
    let mut downloaded = 0;
    for file in files {
        let target = folder.join(file.name);
        if !(target.is_file() && file.checksum.matches(&target)?) {
            download(&agent, file, mirrors, folder, stage)?;
            downloaded += 1;
        }
    }
    Ok(downloaded)
}

fn download(
    agent: &ureq::Agent,
    file: &PublishedFile,
    mirrors: &[String],
    folder: &Path,
    stage: &Stage,
) -> Result<(), Error> {
    let part = folder.join(format!("{}.part", file.name));
    let mut attempts = Vec::new();
    for mirror in mirrors {
        let address = format!("{}/{}", mirror.trim_end_matches('/'), file.name);
        tracing::info!("downloading {address}");
        // A part that does not lead to the right checksum is of no use; a second try starts afresh.
        for _ in 0..2 {
            let resumed = part.is_file();
            match transfer(agent, &address, &part, stage) {
                Err(Transfer::Fatal(error)) => return Err(error),
                Err(Transfer::Failed(reason)) => {
                    if fs::metadata(&part).is_ok_and(|m| m.len() == 0) {
                        let _ = fs::remove_file(&part);
                    }
                    attempts.push(format!("{address}: {reason}"));
                    break;
                }
                Ok(()) => {}
            }
            let found = file.checksum.of(&part)?;
            if found == file.checksum.to_string() {
                let target = folder.join(file.name);
                fs::rename(&part, &target).map_err(FileError::io("write", &target))?;
                sync_dir(folder);
                return Ok(());
            }
            fs::remove_file(&part).map_err(FileError::io("remove", &part))?;
            if !resumed {
                attempts.push(format!("{address}: {} is {found}, expected {}", file.checksum.kind(), file.checksum));
                break;
            }
        }
    }
    Err(Error::Download { file: file.name.to_owned(), attempts: attempts.join("; ") })
}

enum Transfer {
    /// This mirror failed; another may do.
    Failed(String),
    /// The disk, or the user's wish to stop.
    Fatal(Error),
}

/// Appends what is missing to `part`, or all of it if the server cannot resume.
fn transfer(agent: &ureq::Agent, address: &str, part: &Path, stage: &Stage) -> Result<(), Transfer> {
    let disk = |e| Transfer::Fatal(FileError::io("write", part)(e).into());
    let mut file = File::options().create(true).append(true).open(part).map_err(disk)?;
    let have = file.metadata().map_err(disk)?.len();
    let mut request = agent.get(address);
    if have > 0 {
        request = request.header("Range", format!("bytes={have}-"));
    }
    let mut response = match request.call() {
        Ok(response) => response,
        // Nothing is missing: the part was whole already, or is too long; its checksum tells.
        Err(ureq::Error::StatusCode(416)) => return Ok(()),
        Err(error) => return Err(Transfer::Failed(error.to_string())),
    };
    let resumed = response.status() == 206;
    if !resumed {
        file.set_len(0).and_then(|()| file.seek(SeekFrom::Start(0))).map_err(disk)?;
    }
    let done = if resumed { have } else { 0 };
    let total = done + response.body().content_length().unwrap_or(0);
    let progress = stage.progress("fetching MB", total / MEGABYTE);
    progress.already(done / MEGABYTE);
    let mut unshown = 0;
    let mut body = response.body_mut().as_reader().take(SIZE_LIMIT);
    let mut buffer = vec![0; 1 << 16];
    loop {
        stage.interrupt.check().map_err(|e| Transfer::Fatal(e.into()))?;
        match body.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => {
                file.write_all(&buffer[..n]).map_err(disk)?;
                unshown += n as u64;
                progress.advance(unshown / MEGABYTE);
                unshown %= MEGABYTE;
            }
            Err(error) => return Err(Transfer::Failed(format!("broke off: {error}"))),
        }
    }
    file.sync_all().map_err(disk)
}
