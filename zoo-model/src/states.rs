//! `states.safetensors`: every parameter of one model, stacked over its kept states.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::architecture::{Network, Parameter};
use crate::files::{write_atomic, FileError};
use crate::safetensors_file::{self, from_f32, to_f32, to_i64, Dtype, Header, TensorLocation, TensorSpec};

/// Name of the tensor of kept epochs, i64 of shape (S).
pub const EPOCHS: &str = "epochs";

/// The tensors of a states file of `count` states: each parameter as f32 (S, ...), then `epochs`.
pub fn specs(network: &Network, count: usize) -> Vec<TensorSpec> {
    let stacked = network.parameters().iter().map(|p| TensorSpec {
        name: p.name.clone(),
        dtype: Dtype::F32,
        shape: std::iter::once(count).chain(p.shape.iter().copied()).collect(),
    });
    let epochs = TensorSpec { name: EPOCHS.into(), dtype: Dtype::I64, shape: vec![count] };
    stacked.chain([epochs]).collect()
}

/// Size in bytes of a states file of `count` states.
pub fn file_size(network: &Network, count: usize) -> u64 {
    let header = safetensors_file::header(&specs(network, count), &BTreeMap::new()).len();
    (header + count * (4 * network.state_len() + 8)) as u64
}

/// Writes a states file: `states[s]` is the flat parameter vector after epoch `epochs[s]`.
pub fn write(path: &Path, network: &Network, epochs: &[u32], states: &[Vec<f32>]) -> Result<(), FileError> {
    write_atomic(path, |out| write_to(out, network, epochs, states))
}

/// [`write()`] to any stream.
pub fn write_to(out: &mut impl Write, network: &Network, epochs: &[u32], states: &[Vec<f32>]) -> io::Result<()> {
    assert_eq!(epochs.len(), states.len());
    let stacked = network
        .parameters()
        .iter()
        .map(|p| states.iter().flat_map(|s| from_f32(&s[p.range.clone()])).collect::<Vec<u8>>());
    let epochs: Vec<u8> = epochs.iter().flat_map(|&e| i64::from(e).to_le_bytes()).collect();
    let data: Vec<Vec<u8>> = stacked.chain([epochs]).collect();
    safetensors_file::write(out, &specs(network, states.len()), &BTreeMap::new(), data.iter().map(Vec::as_slice))
}

/// Checks that a header holds exactly the network's parameters and `epochs`, all with the same
/// number of states, and returns that number.
///
/// # Errors
/// A sentence naming the tensor, what was expected and what was found.
pub fn check_header(header: &Header, network: &Network) -> Result<usize, String> {
    let epochs = header.tensor(EPOCHS).ok_or("has no tensor `epochs`")?;
    let &[count] = epochs.spec.shape.as_slice() else {
        return Err(format!("tensor `epochs` has shape {:?}, expected (S)", epochs.spec.shape));
    };
    let expected = specs(network, count);
    for spec in &expected {
        let found = header.tensor(&spec.name).ok_or_else(|| format!("has no tensor `{}`", spec.name))?;
        if found.spec != *spec {
            return Err(format!(
                "tensor `{}` is {:?} {:?}, expected {:?} {:?}",
                spec.name, found.spec.dtype, found.spec.shape, spec.dtype, spec.shape
            ));
        }
    }
    if let Some(unexpected) = header.tensors.iter().find(|t| expected.iter().all(|e| e.name != t.spec.name)) {
        return Err(format!("has a tensor `{}` that the network does not have", unexpected.spec.name));
    }
    Ok(count)
}

/// A states file in a stream: a file, an entry of an archive, or bytes in memory.
#[derive(Debug)]
pub struct StatesReader<R> {
    stream: R,
    header: Header,
    network: Network,
    count: usize,
}

impl<R: Read> StatesReader<R> {
    /// Reads the header of a states file of `size` bytes, and checks it against the network.
    ///
    /// # Errors
    /// A sentence that says what is wrong with it.
    pub fn new(mut stream: R, size: u64, network: &Network) -> Result<Self, String> {
        let header = Header::read(&mut stream)?;
        let count = check_header(&header, network)?;
        header.check_length(size)?;
        Ok(Self { stream, header, network: network.clone(), count })
    }

    /// Number of states.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Reads the stream to its end, and calls `visit` with the index of a state, a parameter, and its
    /// values in that state, tensor by tensor: no more than one is held. Returns the epochs, which may
    /// be anything until [`check_epochs`].
    ///
    /// # Errors
    /// The stream fails, or ends too early.
    pub fn visit(mut self, mut visit: impl FnMut(usize, &Parameter, &[f32])) -> io::Result<Vec<i64>> {
        let mut epochs = Vec::new();
        for tensor in &self.header.tensors {
            if tensor.spec.name == EPOCHS {
                // A length may be a lie: no memory is reserved for what the stream does not hold.
                let mut bytes = Vec::new();
                if self.stream.by_ref().take(tensor.length).read_to_end(&mut bytes)? as u64 != tensor.length {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                epochs = to_i64(&bytes);
                continue;
            }
            let parameter = self.network.parameters().iter().find(|p| p.name == tensor.spec.name);
            let parameter = parameter.expect("check_header knows every tensor");
            let mut bytes = vec![0; 4 * parameter.range.len()];
            for state in 0..self.count {
                self.stream.read_exact(&mut bytes)?;
                visit(state, parameter, &to_f32(&bytes));
            }
        }
        Ok(epochs)
    }

    /// Reads all states: their epochs and flat vectors.
    ///
    /// # Errors
    /// A sentence that says what is wrong with the stream.
    pub fn read_all(self) -> Result<(Vec<u32>, Vec<Vec<f32>>), String> {
        let mut states = vec![vec![0.0; self.network.state_len()]; self.count];
        let epochs = self.visit(|state, parameter, values| {
            states[state][parameter.range.clone()].copy_from_slice(values);
        });
        Ok((check_epochs(&epochs.map_err(|e| e.to_string())?)?, states))
    }
}

impl<R: Read + Seek> StatesReader<R> {
    fn read_at(&mut self, start: u64, length: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        self.stream.seek(SeekFrom::Start(self.header.length + start))?;
        self.stream.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn tensor(&self, name: &str) -> &TensorLocation {
        self.header.tensor(name).expect("check_header knows every tensor")
    }

    /// The epochs, which may be anything until [`check_epochs`].
    ///
    /// # Errors
    /// The stream fails.
    pub fn epochs(&mut self) -> io::Result<Vec<i64>> {
        let &TensorLocation { start, length, .. } = self.tensor(EPOCHS);
        Ok(to_i64(&self.read_at(start, length as usize)?))
    }

    /// The flat parameter vector of state `index`.
    ///
    /// # Errors
    /// The stream fails.
    ///
    /// # Panics
    /// There is no such state.
    pub fn state(&mut self, index: usize) -> io::Result<Vec<f32>> {
        assert!(index < self.count);
        let mut flat = vec![0.0; self.network.state_len()];
        for i in 0..self.network.parameters().len() {
            let Parameter { name, range, .. } = &self.network.parameters()[i];
            let (range, length) = (range.clone(), 4 * range.len());
            let bytes = self.read_at(self.tensor(name).start + (index * length) as u64, length)?;
            flat[range].copy_from_slice(&to_f32(&bytes));
        }
        Ok(flat)
    }
}

/// Reads all states of a stream of `size` bytes: their epochs and flat vectors.
///
/// # Errors
/// A sentence that says what is wrong with it.
pub fn read_all(stream: &mut impl Read, size: u64, network: &Network) -> Result<(Vec<u32>, Vec<Vec<f32>>), String> {
    StatesReader::new(stream, size, network)?.read_all()
}

/// A states file open for reading state by state.
#[derive(Debug)]
pub struct StatesFile {
    path: PathBuf,
    reader: StatesReader<File>,
    epochs: Vec<u32>,
}

impl StatesFile {
    /// Opens a states file and checks it against the network.
    ///
    /// # Errors
    /// The file cannot be read, or is not one of this network's states.
    pub fn open(path: &Path, network: &Network) -> Result<Self, FileError> {
        let wrong = |message| FileError::format(path, message);
        let file = File::open(path).map_err(FileError::io("read", path))?;
        let metadata = file.metadata().map_err(FileError::io("read", path))?;
        if metadata.is_dir() {
            return Err(wrong("is a folder, not a safetensors file".to_owned()));
        }
        let mut reader = StatesReader::new(file, metadata.len(), network).map_err(wrong)?;
        let epochs = reader.epochs().map_err(FileError::io("read", path))?;
        let epochs = check_epochs(&epochs).map_err(wrong)?;
        Ok(Self { path: path.into(), reader, epochs })
    }

    /// The kept epochs, ascending.
    pub fn epochs(&self) -> &[u32] {
        &self.epochs
    }

    /// The flat parameter vector of state `index`.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn state(&mut self, index: usize) -> Result<Vec<f32>, FileError> {
        self.reader.state(index).map_err(FileError::io("read", &self.path))
    }

    /// The last state and its epoch.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn last(&mut self) -> Result<(u32, Vec<f32>), FileError> {
        let index = self.epochs.len() - 1;
        Ok((self.epochs[index], self.state(index)?))
    }
}

/// Kept epochs must be at least one, ascending and not negative.
pub fn check_epochs(epochs: &[i64]) -> Result<Vec<u32>, String> {
    let ascending = epochs.windows(2).all(|w| w[0] < w[1]);
    let converted: Option<Vec<u32>> = epochs.iter().map(|&e| u32::try_from(e).ok()).collect();
    match converted {
        Some(converted) if ascending && !converted.is_empty() => Ok(converted),
        _ => Err("tensor `epochs` must hold at least one epoch, from 0 upwards, ascending".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Hyperparameters;

    fn with_dropout(dropout: f64) -> Network {
        Hyperparameters { dropout, ..Hyperparameters::default() }.network([3, 28, 28], 10).unwrap()
    }

    #[test]
    fn states_survive_a_round_trip_bit_for_bit() {
        let network = with_dropout(0.5);
        let n = network.parameter_count();
        let mut states: Vec<Vec<f32>> = (0..3).map(|s| (0..n).map(|i| (s * n + i) as f32).collect()).collect();
        states[2][5] = f32::NAN;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("states.safetensors");
        write(&path, &network, &[0, 2, 3], &states).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().len(), file_size(&network, 3));
        let mut file = StatesFile::open(&path, &network).unwrap();
        assert_eq!(file.epochs(), [0, 2, 3]);
        assert_eq!(file.state(1).unwrap(), states[1]);
        let stream = std::fs::read(&path).unwrap();
        let size = stream.len() as u64;
        let (epochs, all) = read_all(&mut stream.as_slice(), size, &network).unwrap();
        assert_eq!((epochs, &all[..2]), (vec![0, 2, 3], &states[..2]));
        assert!(read_all(&mut stream.as_slice(), size - 1, &network).unwrap_err().contains("truncated"));
        let (epoch, last) = file.last().unwrap();
        assert_eq!(epoch, 3);
        assert!(last.iter().zip(&states[2]).all(|(a, b)| a.to_bits() == b.to_bits()));

        let other = with_dropout(0.0);
        assert!(StatesFile::open(&path, &other).unwrap_err().to_string().contains("module_list.3.weight"));
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
        assert!(StatesFile::open(&path, &network).unwrap_err().to_string().contains("truncated"));
    }

    fn header(network: &Network, change: impl Fn(&mut Vec<TensorSpec>)) -> Header {
        let mut specs = specs(network, 3);
        change(&mut specs);
        let tensors = specs.into_iter().map(|spec| TensorLocation { spec, start: 0, length: 0 }).collect();
        Header { length: 0, metadata: BTreeMap::new(), tensors }
    }

    #[test]
    fn headers_of_other_networks_are_refused_with_the_tensor_at_fault() {
        let network = with_dropout(0.0);
        assert_eq!(check_header(&header(&network, |_| ()), &network), Ok(3));
        assert_eq!(check_header(&header(&network, |specs| specs.reverse()), &network), Ok(3));
        let fault =
            |change: &dyn Fn(&mut Vec<TensorSpec>)| check_header(&header(&network, change), &network).unwrap_err();
        assert_eq!(fault(&|s| s.truncate(s.len() - 1)), "has no tensor `epochs`");
        assert_eq!(fault(&|s| s.last_mut().unwrap().shape.push(1)), "tensor `epochs` has shape [3, 1], expected (S)");
        assert_eq!(fault(&|s| drop(s.remove(1))), "has no tensor `module_list.0.bias`");
        assert_eq!(
            fault(&|s| s[1].dtype = Dtype::F64),
            "tensor `module_list.0.bias` is F64 [3, 8], expected F32 [3, 8]"
        );
        assert_eq!(
            fault(&|s| s[1].shape = vec![2, 8]),
            "tensor `module_list.0.bias` is F32 [2, 8], expected F32 [3, 8]"
        );
        let more = TensorSpec { name: "more".into(), dtype: Dtype::F32, shape: vec![3] };
        assert_eq!(fault(&|s| s.push(more.clone())), "has a tensor `more` that the network does not have");
    }

    #[test]
    fn epochs_ascend_from_zero() {
        assert_eq!(check_epochs(&[0, 2, i64::from(u32::MAX)]), Ok(vec![0, 2, u32::MAX]));
        for wrong in [&[][..], &[1, 1], &[2, 1], &[-1], &[i64::from(u32::MAX) + 1]] {
            let error = check_epochs(wrong).unwrap_err();
            assert!(error.contains("at least one epoch, from 0 upwards, ascending"), "{error}");
        }
    }

    #[test]
    fn states_are_visited_tensor_by_tensor_and_found_by_index() {
        let network = with_dropout(0.0);
        let states: Vec<Vec<f32>> = (0..3).map(|s| vec![s as f32; network.state_len()]).collect();
        let mut bytes = Vec::new();
        write_to(&mut bytes, &network, &[1, 4, 9], &states).unwrap();
        let reader = |stream| StatesReader::new(stream, bytes.len() as u64, &network).unwrap();
        let mut visited = Vec::new();
        let epochs = reader(bytes.as_slice()).visit(|state, parameter, values| {
            assert!(values.len() == parameter.range.len() && values.iter().all(|&v| v == state as f32));
            visited.push((parameter.name.clone(), state));
        });
        assert_eq!(epochs.unwrap(), [1, 4, 9]);
        let names = network.parameters().iter().map(|p| p.name.clone());
        assert_eq!(visited, names.flat_map(|name| (0..3).map(move |s| (name.clone(), s))).collect::<Vec<_>>());

        let mut reader = StatesReader::new(io::Cursor::new(&bytes), bytes.len() as u64, &network).unwrap();
        assert_eq!((reader.count(), reader.epochs().unwrap()), (3, vec![1, 4, 9]));
        assert_eq!(reader.state(2).unwrap(), states[2]);
    }

    #[test]
    fn what_is_not_a_states_file_is_named() {
        let network = with_dropout(0.0);
        let dir = tempfile::tempdir().unwrap();
        let error = |path: &Path| StatesFile::open(path, &network).unwrap_err().to_string();
        assert!(error(dir.path()).ends_with("is a folder, not a safetensors file"));
        let path = dir.path().join("states.safetensors");
        assert!(error(&path).contains("states.safetensors"));
        write(&path, &network, &[2, 1], &vec![vec![0.0; network.state_len()]; 2]).unwrap();
        assert!(error(&path).contains("ascending"));
    }
}
