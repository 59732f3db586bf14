//! Downloads from local servers. No test here may start a program: between its fork and its exec, it
//! would hold the locks of downloads in other threads.

use std::fs;
use std::path::Path;
use std::sync::{Arc, Barrier};
use std::time::Duration;

use zoo_data::checksum::Checksum;
use zoo_data::fetch::{fetch, STALL_TIMEOUT};
use zoo_data::PublishedFile;
use zoo_model::files::sha256;
use zoo_model::stage::Stage;
use zoo_test::server::{silent_server, Server};

fn content() -> Vec<u8> {
    (0..300_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

fn get(folder: &Path, mirrors: &[&Server]) -> Result<usize, String> {
    let addresses: Vec<String> = mirrors.iter().map(|s| s.address.clone()).collect();
    get_from(folder, &addresses, STALL_TIMEOUT)
}

fn get_from(folder: &Path, addresses: &[String], silence: Duration) -> Result<usize, String> {
    let sum = sha256(&content());
    let file = PublishedFile::new("file.gz", Checksum::Sha256(sum));
    fetch(&[file], addresses, folder, silence, &Stage::silent()).map_err(|e| e.to_string())
}

#[test]
fn a_server_that_goes_silent_is_given_up() {
    let half = [b"HTTP/1.1 200 OK\r\nContent-Length: 300000\r\n\r\n", &content()[..150_000]].concat();
    let answers = [Vec::new(), b"HTTP/1.1 200 OK\r\nContent-".to_vec(), half[..45].to_vec(), half];
    let good = Server::start(Box::new(|_, _| (200, content(), false)));
    let silence = Duration::from_millis(300);
    for answer in answers {
        let dir = tempfile::tempdir().unwrap();
        let silent = format!("http://{}", silent_server(answer).0);
        let error = get_from(dir.path(), std::slice::from_ref(&silent), silence).unwrap_err();
        assert!(error.contains("sent no data for 0.3 s"), "{error}");
        // The next mirror is asked.
        assert_eq!(get_from(dir.path(), &[silent, good.address.clone()], silence), Ok(1));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
    // In the middle of the TLS handshake.
    let dir = tempfile::tempdir().unwrap();
    let silent = format!("https://{}", silent_server(Vec::new()).0);
    let error = get_from(dir.path(), &[silent], silence).unwrap_err();
    assert!(error.contains("sent no data") || error.contains("timeout"), "{error}");
}

#[test]
fn two_downloads_into_one_place_both_end_with_the_right_bytes() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file.gz.part"), &content()[..1000]).unwrap();
    // Nothing is sent before both have asked.
    let asked = Arc::new(Barrier::new(2));
    let servers = [0, 1].map(|_| {
        let asked = asked.clone();
        Server::start(Box::new(move |_, range| {
            asked.wait();
            match range {
                Some(from) => (206, content()[from..].to_vec(), false),
                None => (200, content(), false),
            }
        }))
    });
    std::thread::scope(|scope| {
        let jobs = servers.each_ref().map(|server| scope.spawn(|| get(dir.path(), &[server])));
        assert_eq!(jobs.map(|job| job.join().unwrap()), [Ok(1), Ok(1)]);
    });
    assert!(fs::read(dir.path().join("file.gz")).unwrap() == content());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing else is left");
    let mut ranges = servers.map(|server| server.requests.lock().unwrap()[0]);
    ranges.sort_unstable();
    assert_eq!(ranges, [None, Some(1000)], "one resumes, one starts afresh");
}

#[test]
fn downloads_are_checked_and_not_repeated() {
    let dir = tempfile::tempdir().unwrap();
    let good = Server::start(Box::new(|_, _| (200, content(), false)));
    let missing = Server::start(Box::new(|_, _| (404, Vec::new(), false)));
    let wrong = Server::start(Box::new(|_, _| (200, b"other bytes".to_vec(), false)));
    assert!(get(dir.path(), &[&missing]).is_err());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "no empty part is left");
    let error = get(dir.path(), &[&missing, &wrong]).unwrap_err();
    assert!(error.contains("404") && error.contains("SHA-256 is") && error.contains("expected"), "{error}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing wrong is left");
    assert_eq!(get(dir.path(), &[&missing, &wrong, &good]), Ok(1));
    assert!(fs::read(dir.path().join("file.gz")).unwrap() == content());
    assert_eq!(get(dir.path(), &[&missing]), Ok(0));
}

#[test]
fn a_broken_download_is_resumed() {
    let dir = tempfile::tempdir().unwrap();
    let flaky = Server::start(Box::new(|number, range| match (number, range) {
        (0, _) => (200, content(), true),
        (_, Some(from)) => (206, content()[from..].to_vec(), false),
        (_, None) => (200, content(), false),
    }));
    assert!(get(dir.path(), &[&flaky]).unwrap_err().contains("connection lost"));
    assert!(dir.path().join("file.gz.part").exists());
    assert_eq!(get(dir.path(), &[&flaky]), Ok(1));
    assert_eq!(*flaky.requests.lock().unwrap(), [None, Some(150_000)]);
}

#[test]
fn servers_that_ignore_ranges_and_stale_parts_do_no_harm() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file.gz.part"), b"stale").unwrap();
    let simple = Server::start(Box::new(|_, _| (200, content(), false)));
    assert_eq!(get(dir.path(), &[&simple]), Ok(1));
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file.gz.part"), vec![7; 1000]).unwrap();
    let ranges = Server::start(Box::new(|_, range| match range {
        Some(from) => (206, content()[from..].to_vec(), false),
        None => (200, content(), false),
    }));
    assert_eq!(get(dir.path(), &[&ranges]), Ok(1), "a part of other bytes is thrown away");
}
