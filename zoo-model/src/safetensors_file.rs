//! Writing safetensors files, and reading their headers before their data.
//!
//! The format is that of <https://github.com/huggingface/safetensors>: eight bytes of header
//! length, a JSON header, the tensors' bytes. The `safetensors` crate reads the header; writing
//! is done here because its writer takes metadata in a hash map, whose order changes from run to
//! run, and wants every tensor in memory.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use safetensors::tensor::Metadata;
pub use safetensors::Dtype;

use crate::files::FileError;

/// Largest header that is read: enough for thousands of tensors.
pub const HEADER_LIMIT: u64 = 1 << 22;
/// Largest header that the format allows.
const FORMAT_LIMIT: u64 = 100_000_000;

/// Name, element type and shape of a tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSpec {
    /// Name in the file.
    pub name: String,
    /// Element type.
    pub dtype: Dtype,
    /// Dimensions.
    pub shape: Vec<usize>,
}

/// The bytes before the tensors: length and JSON header, padded to a multiple of 8, tensors laid
/// out in the order given.
pub fn header(tensors: &[TensorSpec], metadata: &BTreeMap<String, String>) -> Vec<u8> {
    let mut entries = serde_json::Map::new();
    if !metadata.is_empty() {
        entries.insert("__metadata__".into(), serde_json::to_value(metadata).expect("strings"));
    }
    let mut start = 0;
    for tensor in tensors {
        let end = start + tensor.shape.iter().product::<usize>() * element_size(tensor.dtype);
        let info = serde_json::json!({"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [start, end]});
        entries.insert(tensor.name.clone(), info);
        start = end;
    }
    let mut json = serde_json::to_vec(&entries).expect("plain data serialises");
    json.resize(json.len().next_multiple_of(8), b' ');
    let mut out = (json.len() as u64).to_le_bytes().to_vec();
    out.extend(json);
    out
}

/// Writes header and tensors; `data` must hold each tensor's bytes in the order of `tensors`.
pub fn write<'a>(
    out: &mut impl Write,
    tensors: &[TensorSpec],
    metadata: &BTreeMap<String, String>,
    data: impl IntoIterator<Item = &'a [u8]>,
) -> io::Result<()> {
    out.write_all(&header(tensors, metadata))?;
    data.into_iter().try_for_each(|bytes| out.write_all(bytes))
}

/// Where a tensor lies in a file that is being read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorLocation {
    /// Name, type and shape.
    pub spec: TensorSpec,
    /// First byte after the header.
    pub start: u64,
    /// Length in bytes.
    pub length: u64,
}

/// A checked header: tensors tile the data without gap or overlap, in this order.
#[derive(Debug, Clone)]
pub struct Header {
    /// Length of everything before the data, in bytes.
    pub length: u64,
    /// The free-form metadata.
    pub metadata: BTreeMap<String, String>,
    /// The tensors in the order of the file.
    pub tensors: Vec<TensorLocation>,
}

impl Header {
    /// Length of the whole file that this header describes.
    pub fn file_length(&self) -> u64 {
        self.length + self.tensors.last().map_or(0, |t| t.start + t.length)
    }

    /// Checks the length of the file against this header.
    ///
    /// # Errors
    /// A sentence with both lengths.
    pub fn check_length(&self, length: u64) -> Result<(), String> {
        match self.file_length() {
            expected if expected == length => Ok(()),
            expected => Err(format!("has {length} bytes, its header describes {expected}: it is truncated or damaged")),
        }
    }

    /// The tensor called `name`.
    pub fn tensor(&self, name: &str) -> Option<&TensorLocation> {
        self.tensors.iter().find(|t| t.spec.name == name)
    }

    /// Reads a header from the beginning of a stream, at most [`HEADER_LIMIT`] bytes of it.
    ///
    /// # Errors
    /// A sentence that says what is wrong with the file.
    pub fn read(stream: &mut impl Read) -> Result<Self, String> {
        let mut length = [0; 8];
        stream.read_exact(&mut length).map_err(|e| match e.kind() {
            io::ErrorKind::UnexpectedEof => "is too short for a safetensors file".to_owned(),
            _ => format!("the safetensors header cannot be read: {e}"),
        })?;
        let length = u64::from_le_bytes(length);
        match length {
            2..=HEADER_LIMIT => {}
            0..=FORMAT_LIMIT => {
                return Err(format!("has a safetensors header of {length} bytes; 2 to {HEADER_LIMIT} are allowed"));
            }
            _ => return Err("is no safetensors file: it does not begin with the length of a header".into()),
        }
        let mut json = vec![0; length as usize];
        stream.read_exact(&mut json).map_err(|e| match e.kind() {
            io::ErrorKind::UnexpectedEof => "is no safetensors file, or is truncated within its header".to_owned(),
            _ => format!("the safetensors header cannot be read: {e}"),
        })?;
        if json[0] != b'{' {
            return Err("is no safetensors file: its header does not begin with `{`".into());
        }
        // The crate checks shapes against offsets, and that the tensors tile the data.
        let parsed: Metadata =
            serde_json::from_slice(&json).map_err(|e| format!("the safetensors header is malformed: {e}"))?;
        let mut tensors: Vec<TensorLocation> = parsed
            .tensors()
            .into_iter()
            .map(|(name, info)| TensorLocation {
                spec: TensorSpec { name, dtype: info.dtype, shape: info.shape.clone() },
                start: info.data_offsets.0 as u64,
                length: (info.data_offsets.1 - info.data_offsets.0) as u64,
            })
            .collect();
        tensors.sort_by_key(|t| (t.start, t.length));
        let metadata = parsed.metadata().clone().unwrap_or_default().into_iter().collect();
        Ok(Self { length: length + 8, metadata, tensors })
    }
}

/// A safetensors file open for reading tensor by tensor.
#[derive(Debug)]
pub struct TensorFile {
    file: File,
    path: PathBuf,
    header: Header,
}

impl TensorFile {
    /// Opens a file and checks its header against its length.
    pub fn open(path: &Path) -> Result<Self, FileError> {
        let mut file = File::open(path).map_err(FileError::io("read", path))?;
        let metadata = file.metadata().map_err(FileError::io("read", path))?;
        if metadata.is_dir() {
            return Err(FileError::format(path, "is a folder, not a safetensors file"));
        }
        let length = metadata.len();
        let header = Header::read(&mut file).map_err(|m| FileError::format(path, m))?;
        header.check_length(length).map_err(|m| FileError::format(path, m))?;
        Ok(Self { file, path: path.into(), header })
    }

    /// The header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The file's path, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes `start..start + length` of the tensor `name`, which must exist with type `dtype`.
    pub fn read_range(&mut self, name: &str, dtype: Dtype, start: u64, length: u64) -> Result<Vec<u8>, FileError> {
        let tensor = self.tensor(name, dtype)?;
        debug_assert!(start + length <= tensor.length);
        let from = self.header.length + tensor.start + start;
        let mut bytes = vec![0; length as usize];
        self.file
            .seek(SeekFrom::Start(from))
            .and_then(|_| self.file.read_exact(&mut bytes))
            .map_err(FileError::io("read", &self.path))?;
        Ok(bytes)
    }

    /// All bytes of the tensor `name`.
    pub fn read(&mut self, name: &str, dtype: Dtype) -> Result<Vec<u8>, FileError> {
        let length = self.tensor(name, dtype)?.length;
        self.read_range(name, dtype, 0, length)
    }

    /// Where the tensor `name` lies.
    ///
    /// # Errors
    /// There is none of this name, or it has another type than `dtype`.
    pub fn tensor(&self, name: &str, dtype: Dtype) -> Result<&TensorLocation, FileError> {
        let wrong = |m| FileError::format(&self.path, m);
        let tensor = self.header.tensor(name).ok_or_else(|| wrong(format!("has no tensor `{name}`")))?;
        if tensor.spec.dtype != dtype {
            return Err(wrong(format!("tensor `{name}` is {:?}, not {dtype:?}", tensor.spec.dtype)));
        }
        Ok(tensor)
    }
}

/// Bytes an element takes.
pub fn element_size(dtype: Dtype) -> usize {
    dtype.bitsize().div_ceil(8)
}

/// Little-endian bytes to `f32`; `bytes` must be a multiple of four long.
pub fn to_f32(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

/// Little-endian bytes to `i64`; `bytes` must be a multiple of eight long.
pub fn to_i64(bytes: &[u8]) -> Vec<i64> {
    bytes.chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().expect("eight bytes"))).collect()
}

/// `f32` to little-endian bytes.
pub fn from_f32(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn file(json: &str, data: usize) -> Vec<u8> {
        let mut out = (json.len() as u64).to_le_bytes().to_vec();
        out.extend(json.as_bytes());
        out.resize(out.len() + data, 0);
        out
    }

    #[test]
    fn what_is_written_the_safetensors_crate_reads() {
        let spec = |name: &str, dtype, shape: &[usize]| TensorSpec { name: name.into(), dtype, shape: shape.into() };
        let specs = [spec("b", Dtype::F32, &[2, 3]), spec("a", Dtype::U8, &[5])];
        let metadata = BTreeMap::from([("k".to_owned(), "v".to_owned())]);
        let mut bytes = Vec::new();
        write(&mut bytes, &specs, &metadata, [&from_f32(&[1.0; 6])[..], &[7; 5]]).unwrap();
        let theirs = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(theirs.tensor("a").unwrap().data(), [7; 5]);
        let ours = Header::read(&mut &bytes[..]).unwrap();
        assert_eq!(ours.file_length(), bytes.len() as u64);
        assert_eq!(ours.tensors.iter().map(|t| t.spec.clone()).collect::<Vec<_>>(), specs);
        assert_eq!(ours.metadata, metadata);
    }

    #[test]
    fn lying_headers_are_refused() {
        let read = |json: &str| Header::read(&mut &file(json, 64)[..]).unwrap_err();
        for json in [
            r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}"#,
            r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}}"#,
            r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[8,4]}}"#,
            r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[4],"data_offsets":[2,6]}}"#,
            r#"{"a":{"dtype":"F32","shape":[4294967296,4294967296,4],"data_offsets":[0,4]}}"#,
        ] {
            assert!(read(json).contains("malformed"), "{json}");
        }
        assert!(Header::read(&mut &(HEADER_LIMIT + 1).to_le_bytes()[..]).unwrap_err().contains("of 4194305 bytes"));
        assert!(Header::read(&mut &[1, 2, 3][..]).unwrap_err().contains("too short for a safetensors file"));
        let folder = TensorFile::open(tempfile::tempdir().unwrap().path()).unwrap_err();
        assert!(folder.to_string().contains("is a folder"), "{folder}");
    }

    #[test]
    fn other_files_are_no_safetensors_files() {
        let csv = b"id,epoch,test_acc\n0,1,0.5\n";
        let small = [&26u64.to_le_bytes()[..], b"no header of any tensor at all"].concat();
        let cut = [&900u64.to_le_bytes()[..], b"{\"a\""].concat();
        for bytes in [&csv[..], b"PK\x03\x04 and so on", &u64::MAX.to_le_bytes(), &small, &cut] {
            let error = Header::read(&mut &bytes[..]).unwrap_err();
            assert!(error.starts_with("is no safetensors file"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_header_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Header::read(&mut &bytes[..]);
            let _ = Header::read(&mut &file(&String::from_utf8_lossy(&bytes), 8)[..]);
        }
    }
}
