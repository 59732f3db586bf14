//! The real binary on published formats, sound and damaged, and what it asks of mirrors and proxies.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use zoo_model::{Dataset, Split};
use zoo_test::server::{silent_server, Server};
use zoo_test::{shell, tool, Outcome, Program};

const PROGRAM: Program = Program::new(env!("CARGO_BIN_EXE_zoo-data"));
/// Where Debian's package puts the real Fashion-MNIST.
const FASHION_MNIST: &str = "/usr/share/datasets/fashion-mnist";

fn manifest(dir: &Path, dataset: &str, train: usize, val: usize) {
    let text = format!("[data]\ndataset = \"{dataset}\"\ntrain = {train}\nval = {val}\n");
    fs::write(dir.join("m.toml"), text).unwrap();
}

fn idx(shape: &[u32], data: &[u8]) -> Vec<u8> {
    let mut out = vec![0, 0, 8, shape.len() as u8];
    out.extend(shape.iter().flat_map(|n| n.to_be_bytes()));
    out.extend(data);
    out
}

/// A small dataset in MNIST's files: 50 training and 20 test images.
fn write_mnist(folder: &Path) {
    fs::create_dir_all(folder).unwrap();
    for (part, n) in [("train", 50u32), ("t10k", 20)] {
        let images: Vec<u8> = (0..n * 784).map(|i| (i % 251) as u8).collect();
        let labels: Vec<u8> = (0..n).map(|i| (i % 10) as u8).collect();
        fs::write(folder.join(format!("{part}-images-idx3-ubyte")), idx(&[n, 28, 28], &images)).unwrap();
        fs::write(folder.join(format!("{part}-labels-idx1-ubyte")), idx(&[n], &labels)).unwrap();
    }
}

#[test]
fn mnist_files_are_found_where_people_keep_them() {
    for place in ["data/mnist", "mnist", "data/MNIST/raw", "MNIST/raw"] {
        let dir = tempfile::tempdir().unwrap();
        manifest(dir.path(), "mnist", 30, 20);
        write_mnist(&dir.path().join("my root").join(place));
        let arguments = ["m.toml", "--root", "my root", "-o", "out/d.safetensors", "--json"];
        let outcome = PROGRAM.run(dir.path(), &arguments);
        outcome.ok();
        assert_eq!(outcome.json()["samples"], serde_json::json!([30, 20, 20]));
        let dataset = Dataset::read(&dir.path().join("out/d.safetensors")).unwrap();
        assert_eq!(Split::ALL.map(|s| dataset.len(s)), [30, 20, 20]);
        assert_eq!(dataset.split(Split::Test).images[783], (783 % 251) as u8);
        assert!(outcome.stderr.contains("not a published file"));
    }
}

#[test]
fn idx_files_in_several_gzip_members_are_read_whole() {
    let gzip = |bytes: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    let dir = tempfile::tempdir().unwrap();
    manifest(dir.path(), "mnist", 30, 20);
    let folder = dir.path().join("data/mnist");
    write_mnist(&folder);
    for part in ["train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"] {
        let plain = folder.join(format!("{part}-ubyte"));
        // Small members, as of `pigz -i` and bgzip; the first ends within the header.
        let bytes = fs::read(&plain).unwrap();
        let members = [gzip(&bytes[..5]), bytes[5..].chunks(700).flat_map(gzip).collect(), gzip(b"")].concat();
        fs::write(folder.join(format!("{part}-ubyte.gz")), members).unwrap();
        fs::remove_file(plain).unwrap();
    }
    PROGRAM.ok(dir.path(), "m.toml -o d.safetensors");
    let dataset = Dataset::read(&dir.path().join("d.safetensors")).unwrap();
    assert_eq!(dataset.split(Split::Test).images[783], (783 % 251) as u8);
}

#[test]
fn missing_damaged_and_mislabelled_files_are_named() {
    let dir = tempfile::tempdir().unwrap();
    manifest(dir.path(), "mnist", 30, 20);
    let refused = |what: &[&str]| {
        let message = PROGRAM.fails(dir.path(), "m.toml -o d.safetensors", 1);
        what.iter().for_each(|w| assert!(message.contains(w), "{w}: {message}"));
        assert!(!dir.path().join("d.safetensors").exists());
    };
    refused(&["train-images-idx3-ubyte.gz of mnist was not found in ./data/mnist", "zoo-data fetch mnist --root ."]);
    let folder = dir.path().join("data/mnist");
    write_mnist(&folder);
    let damage = |file: &str, change: &dyn Fn(Vec<u8>) -> Vec<u8>, what: &[&str]| {
        let path = folder.join(file);
        let sound = fs::read(&path).unwrap();
        fs::write(&path, change(sound.clone())).unwrap();
        refused(what);
        fs::write(&path, sound).unwrap();
    };
    let images = "train-images-idx3-ubyte";
    damage(images, &|b| b[..b.len() - 1].to_vec(), &[images, "truncated", "fetch it again"]);
    damage(images, &|b| [b, vec![0]].concat(), &[images, "longer"]);
    damage(images, &|_| b"<html>not found</html>".to_vec(), &[images, "not an IDX file"]);
    damage(images, &|_| Vec::new(), &[images, "header"]);
    damage(images, &|_| idx(&[50], &[0; 50]), &[images, "expected images (N, 28, 28)"]);
    damage(
        "t10k-labels-idx1-ubyte",
        &|_| idx(&[19], &[0; 19]),
        &["t10k-labels", "one label for each of the 20 images"],
    );
    damage("t10k-labels-idx1-ubyte", &|_| idx(&[20], &[77; 20]), &["t10k-labels", "the label 77"]);
}

#[test]
#[ignore = "needs Debian's package dataset-fashion-mnist"]
fn the_files_of_another_dataset_are_not_taken_for_this_ones() {
    let dir = tempfile::tempdir().unwrap();
    manifest(dir.path(), "mnist", 30, 20);
    let folder = dir.path().join("data/mnist");
    write_mnist(&folder);
    let labels = fashion_mnist().join("train-labels-idx1-ubyte.gz");
    fs::copy(labels, folder.join("train-labels-idx1-ubyte.gz")).unwrap();
    let message = PROGRAM.fails(dir.path(), "m.toml -o d.safetensors", 1);
    assert!(message.contains("is fashion-mnist's train-labels-idx1-ubyte.gz, not mnist's"), "{message}");
}

/// The folder of the real Fashion-MNIST.
#[track_caller]
fn fashion_mnist() -> &'static Path {
    let folder = Path::new(FASHION_MNIST);
    assert!(folder.is_dir(), "there is no {FASHION_MNIST}: install Debian's package dataset-fashion-mnist");
    folder
}

#[test]
fn a_file_that_is_no_prepared_dataset_is_not_replaced() {
    let dir = tempfile::tempdir().unwrap();
    manifest(dir.path(), "digits", 30, 20);
    let before = fs::read(dir.path().join("m.toml")).unwrap();
    let message = PROGRAM.fails(dir.path(), "m.toml -o m.toml", 2);
    assert!(message.contains("m.toml exists and was not prepared by zoo-data"), "{message}");
    assert_eq!(fs::read(dir.path().join("m.toml")).unwrap(), before);

    fs::create_dir(dir.path().join("folder")).unwrap();
    let refused = |args: &[&str], what: &str| {
        let message = PROGRAM.fails(dir.path(), args, 2);
        assert!(message.contains(what), "{message}");
    };
    refused(&["m.toml", "-o", "folder"], "folder is a folder, expected the path of the file to write");
    refused(&["m.toml", "-o", "d", "--root", "m.toml"], "--root m.toml is a file, expected a folder");
    refused(&["fetch", "mnist", "--root", "m.toml"], "--root m.toml is a file, expected a folder");
    let folder = Dataset::read(&dir.path().join("folder")).unwrap_err().to_string();
    assert!(folder.contains("folder: is a folder, expected a prepared dataset"), "{folder}");
}

#[test]
#[ignore = "needs Debian's package dataset-fashion-mnist"]
fn the_real_fashion_mnist_is_read_from_the_debian_package() {
    fashion_mnist();
    let dir = tempfile::tempdir().unwrap();
    manifest(dir.path(), "fashion-mnist", 50_000, 10_000);
    let outcome = PROGRAM.run(dir.path(), "m.toml -o d.safetensors");
    outcome.ok();
    assert!(outcome.stderr.is_empty(), "its files are known: {}", outcome.stderr);
    let dataset = Dataset::read(&dir.path().join("d.safetensors")).unwrap();
    assert_eq!(Split::ALL.map(|s| dataset.len(s)), [50_000, 10_000, 10_000]);
    // The first test images are an ankle boot, a pullover, and two trousers.
    assert_eq!(dataset.split(Split::Test).labels[..4], [9, 2, 1, 1]);
    let train: usize = dataset.split(Split::Train).labels.iter().map(|&l| usize::from(l)).sum();
    let val: usize = dataset.split(Split::Val).labels.iter().map(|&l| usize::from(l)).sum();
    assert_eq!(train + val, 6000 * 45, "6,000 training images a class");
}

#[cfg(unix)]
#[test]
fn an_interrupt_ends_a_download_that_waits() {
    for answer in [&b""[..], b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc"] {
        let dir = tempfile::tempdir().unwrap();
        let (address, connections) = silent_server(answer.to_vec());
        let mut child = PROGRAM.start(dir.path(), &format!("fetch mnist --mirror http://{address}"));
        connections.recv().unwrap();
        Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(130));
    }
}

/// What `zoo-data fetch mnist` with these variables alone says, asking `mirror`; it fails.
fn fetch_with(variables: &[(&str, &str)], mirror: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    let mut command = PROGRAM.command(dir.path(), &["fetch", "mnist", "--mirror", mirror]);
    Outcome::of(command.env_clear().envs(variables.iter().copied())).fails(1)
}

#[test]
#[ignore = "needs openssl and python3"]
fn a_certificate_of_the_sites_own_authority_is_trusted_if_the_environment_names_it() {
    const MAKE: &str = "
        openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -subj /CN=Site -days 2 &&
        openssl req -newkey rsa:2048 -nodes -keyout key -out csr -subj /CN=localhost &&
        echo subjectAltName=IP:127.0.0.1 > names &&
        openssl x509 -req -in csr -CA ca.pem -CAkey ca.key -CAcreateserial -out pem -days 2 -extfile names";
    const SERVE: &str = "
import http.server, ssl
server = http.server.HTTPServer(('127.0.0.1', 0), http.server.SimpleHTTPRequestHandler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain('pem', 'key')
server.socket = context.wrap_socket(server.socket, server_side=True)
print(server.server_port, flush=True)
server.serve_forever()";
    let dir = tempfile::tempdir().unwrap();
    tool("openssl", "install openssl");
    shell(MAKE, dir.path());
    let mut python = tool("python3", "install Python 3");
    python.args(["-c", SERVE]).current_dir(dir.path()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut server = python.spawn().unwrap();
    fs::write(dir.path().join("train-images-idx3-ubyte.gz"), "other bytes").unwrap();
    let mut port = String::new();
    BufReader::new(server.stdout.take().unwrap()).read_line(&mut port).unwrap();
    let mirror = format!("https://127.0.0.1:{}", port.trim());
    let authority = dir.path().join("ca.pem");
    let messages = [fetch_with(&[], &mirror), fetch_with(&[("SSL_CERT_FILE", authority.to_str().unwrap())], &mirror)];
    server.kill().unwrap();
    server.wait().unwrap();
    assert!(messages[0].contains("certificate"), "{}", messages[0]);
    assert!(messages[1].contains("SHA-256 is"), "{}", messages[1]);
}

#[test]
fn proxies_are_asked_for_absolute_addresses_and_for_tunnels() {
    let answer = || Server::start(Box::new(|_, _| (200, b"other bytes".to_vec(), false)));
    let proxy = answer();
    let address = proxy.address.replace("http://", "http://me:p%40ss@");
    let plain = "http://data.invalid:8080/a%20b";
    let message = fetch_with(&[("http_proxy", &address), ("https_proxy", "http://127.0.0.1:1")], plain);
    assert!(message.contains("SHA-256 is"), "its answer is taken: {message}");
    let head = proxy.heads.lock().unwrap().clone();
    let line = "GET http://data.invalid:8080/a%20b/train-images-idx3-ubyte.gz HTTP/1.1\n";
    assert!(head.starts_with(line), "{head}");
    let lower = head.to_lowercase();
    assert!(lower.contains("\nhost: data.invalid:8080\n"), "{head}");
    assert!(lower.contains("\nproxy-authorization: basic bwu6cebzcw==\n"), "{head}");

    for name in ["https_proxy", "ALL_PROXY"] {
        let proxy = Server::start(Box::new(|_, _| (403, Vec::new(), false)));
        let message =
            fetch_with(&[(name, &proxy.address), ("http_proxy", "http://127.0.0.1:1")], "https://data.invalid");
        assert!(proxy.heads.lock().unwrap().starts_with("CONNECT data.invalid:443 HTTP/1.1\n"), "{message}");
        assert!(message.contains("403"), "{message}");
    }

    let server = answer();
    let none = [("all_proxy", "http://127.0.0.1:1"), ("no_proxy", "localhost, 127.0.0.1")];
    assert!(fetch_with(&none, &server.address).contains("SHA-256 is"));
    assert!(server.heads.lock().unwrap().starts_with("GET /train-images-idx3-ubyte.gz HTTP/1.1\n"));
    let message = fetch_with(&[("http_proxy", "http://")], &server.address);
    assert!(message.contains("the environment variable http_proxy is not a valid proxy URL"), "{message}");
    let message = fetch_with(&[("SSL_CERT_FILE", "no/such.pem")], &server.address);
    assert!(message.contains("SSL_CERT_FILE contains no usable certificates"), "{message}");
}

#[test]
fn the_command_asks_the_mirror_that_it_is_given() {
    let dir = tempfile::tempdir().unwrap();
    let wrong = Server::start(Box::new(|_, _| (200, b"x".to_vec(), false)));
    let message = PROGRAM.fails(dir.path(), &["fetch", "mnist", "--root", "r", "--mirror", &wrong.address], 1);
    assert!(message.contains("cannot download train-images-idx3-ubyte.gz"), "{message}");
    assert!(message.contains("440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"), "{message}");
    PROGRAM.ok(dir.path(), "fetch digits");
    PROGRAM.fails(dir.path(), "fetch cifar11", 2);
    PROGRAM.fails(dir.path(), "", 2);
}
