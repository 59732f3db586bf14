//! Reference vectors: what other programs compute, in safetensors files. They are in the folder that
//! the environment variable `ZOO_REFERENCE` names, and committed in `tests/reference`.

use std::collections::HashMap;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};

/// The repository.
#[track_caller]
pub fn repository() -> PathBuf {
    // As it is where the test runs, which may be another machine than that of the build.
    let package = env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    let packages = package.into_iter().chain([env!("CARGO_MANIFEST_DIR").into()]);
    let holds_vectors = |folder: &&Path| folder.join("tests/reference/README.md").is_file();
    let found = packages.filter_map(|package| package.ancestors().find(holds_vectors).map(Path::to_owned)).next();
    found.expect("this test needs the repository: no folder above its package has tests/reference")
}

/// All folders of vectors: the committed one, then that of `ZOO_REFERENCE`, which must exist if it is
/// named; a relative path is meant from the repository.
#[track_caller]
pub fn folders() -> Vec<PathBuf> {
    let repository = repository();
    let mut folders = vec![repository.join("tests/reference")];
    if let Some(named) = env::var_os("ZOO_REFERENCE") {
        let folder = repository.join(&named);
        assert!(folder.is_dir(), "ZOO_REFERENCE={}: there is no folder {}", named.display(), folder.display());
        if folder.canonicalize().ok() != folders[0].canonicalize().ok() {
            folders.push(folder);
        }
    }
    folders
}

/// Every copy of a file of vectors, the last one being that of `ZOO_REFERENCE` if it has one.
#[track_caller]
pub fn copies(name: &str) -> Vec<PathBuf> {
    let folders = folders();
    let found: Vec<PathBuf> = folders.iter().map(|folder| folder.join(name)).filter(|path| path.is_file()).collect();
    assert!(!found.is_empty(), "{name} is in none of {folders:?}");
    found
}

/// The tensors of a file of vectors, by name.
#[derive(Clone, Debug, Default)]
pub struct Vectors {
    /// Tensors of float64.
    pub doubles: HashMap<String, Vec<f64>>,
    /// All others, as bytes.
    pub bytes: HashMap<String, Vec<u8>>,
    /// The file's metadata.
    pub metadata: HashMap<String, String>,
}

impl Vectors {
    /// Reads the file `name`, from `ZOO_REFERENCE` if that folder has it.
    #[track_caller]
    pub fn read(name: &str) -> Self {
        let path = copies(name).pop().expect("one copy at least");
        let bytes = fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let (_, header) = SafeTensors::read_metadata(&bytes).expect("a safetensors file");
        let mut vectors = Self { metadata: header.metadata().clone().unwrap_or_default(), ..Self::default() };
        for (name, tensor) in SafeTensors::deserialize(&bytes).expect("a safetensors file").iter() {
            let data = tensor.data();
            if tensor.dtype() == Dtype::F64 {
                let value = |b: &[u8]| f64::from_le_bytes(b.try_into().expect("eight bytes"));
                vectors.doubles.insert(name.to_owned(), data.chunks_exact(8).map(value).collect());
            } else {
                vectors.bytes.insert(name.to_owned(), data.to_vec());
            }
        }
        vectors
    }

    /// A value of the metadata.
    #[track_caller]
    pub fn value<T: std::str::FromStr>(&self, key: &str) -> T {
        self.metadata[key].parse().unwrap_or_else(|_| panic!("metadata {key}"))
    }
}
