//! `states.safetensors`: every parameter of one model, stacked over its kept states.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::architecture::{Network, Parameter};
use crate::files::{parent_of, sync_dir, temporary_file_in, write_atomic, FileError};
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

/// A states file that is written as the states are made: laid out from the start, with the epochs that
/// it will have, every state then goes to its places. Full, it is the file of [`write()`].
#[derive(Debug)]
pub struct StatesWriter {
    path: PathBuf,
    file: File,
    count: usize,
}

impl StatesWriter {
    /// Lays out the file of states after `epochs` at `path`, all zero; or opens it, if it is there.
    ///
    /// # Errors
    /// The file cannot be read or written.
    pub fn create(path: &Path, network: &Network, epochs: &[u32]) -> Result<Self, FileError> {
        if let Some(found) = Self::open(path, network, epochs)? {
            return Ok(found);
        }
        let parent = parent_of(path);
        fs::create_dir_all(parent).map_err(FileError::io("create the folder", parent))?;
        let error = || FileError::io("write", path);
        match fs::remove_file(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(error()(e)),
            _ => {}
        }
        let mut temporary = temporary_file_in(parent).map_err(FileError::io("write in", parent))?;
        let (header, epochs_bytes) = ends(network, epochs);
        let lay_out = |file: &mut File| {
            file.write_all(&header)?;
            file.seek(SeekFrom::Start(file_size(network, epochs.len()) - epochs_bytes.len() as u64))?;
            file.write_all(&epochs_bytes)?;
            file.sync_all()
        };
        lay_out(temporary.as_file_mut()).map_err(error())?;
        match temporary.persist_noclobber(path) {
            // Another process that trains the same was first.
            Err(e) if e.error.kind() != io::ErrorKind::AlreadyExists => return Err(error()(e.error)),
            _ => {}
        }
        sync_dir(parent);
        let vanished = || FileError::format(path, "is not the file that was laid out there");
        Self::open(path, network, epochs)?.ok_or_else(vanished)
    }

    /// Opens a file that was laid out before; `None` if there is none, or none of these states.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn open(path: &Path, network: &Network, epochs: &[u32]) -> Result<Option<Self>, FileError> {
        let file = match File::options().read(true).write(true).open(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(FileError::io("write", path))?,
        };
        let mut writer = Self { path: path.into(), file, count: epochs.len() };
        let is_laid_out = writer.is_laid_out(network, epochs).map_err(FileError::io("read", path))?;
        Ok(is_laid_out.then_some(writer))
    }

    fn is_laid_out(&mut self, network: &Network, epochs: &[u32]) -> io::Result<bool> {
        let size = file_size(network, epochs.len());
        if self.file.metadata()?.len() != size {
            return Ok(false);
        }
        let (header, epochs) = ends(network, epochs);
        let is_at = |file: &mut File, start, expected: &[u8]| -> io::Result<bool> {
            let mut found = vec![0; expected.len()];
            file.seek(SeekFrom::Start(start))?;
            file.read_exact(&mut found)?;
            Ok(found == expected)
        };
        Ok(is_at(&mut self.file, 0, &header)? && is_at(&mut self.file, size - epochs.len() as u64, &epochs)?)
    }

    /// Where the values of a parameter in state `index` begin.
    fn place(&self, network: &Network, parameter: &Parameter, index: usize) -> u64 {
        let header = file_size(network, self.count) - (self.count * (4 * network.state_len() + 8)) as u64;
        header + 4 * (self.count * parameter.range.start + index * parameter.range.len()) as u64
    }

    /// Writes the states `first`, `first + 1`, ...: flat vectors.
    ///
    /// # Errors
    /// The file cannot be written.
    ///
    /// # Panics
    /// There are no such states.
    pub fn write(&mut self, network: &Network, first: usize, states: &[Vec<f32>]) -> Result<(), FileError> {
        assert!(first + states.len() <= self.count);
        for parameter in network.parameters() {
            let bytes: Vec<u8> = states.iter().flat_map(|s| from_f32(&s[parameter.range.clone()])).collect();
            let place = SeekFrom::Start(self.place(network, parameter, first));
            let written = self.file.seek(place).and_then(|_| self.file.write_all(&bytes));
            written.map_err(FileError::io("write", &self.path))?;
        }
        Ok(())
    }

    /// Reads state `index`: a flat vector.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn read(&mut self, network: &Network, index: usize) -> Result<Vec<f32>, FileError> {
        let mut flat = Vec::with_capacity(network.state_len());
        for parameter in network.parameters() {
            let mut bytes = vec![0; 4 * parameter.range.len()];
            let place = SeekFrom::Start(self.place(network, parameter, index));
            let read = self.file.seek(place).and_then(|_| self.file.read_exact(&mut bytes));
            read.map_err(FileError::io("read", &self.path))?;
            flat.extend(to_f32(&bytes));
        }
        Ok(flat)
    }

    /// Makes what was written durable.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn sync(&self) -> Result<(), FileError> {
        self.file.sync_all().map_err(FileError::io("write", &self.path))
    }
}

/// The header and the epochs of a states file: its beginning and its end.
fn ends(network: &Network, epochs: &[u32]) -> (Vec<u8>, Vec<u8>) {
    let header = safetensors_file::header(&specs(network, epochs.len()), &BTreeMap::new());
    (header, epochs.iter().flat_map(|&e| i64::from(e).to_le_bytes()).collect())
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
    use crate::{Architecture, Hyperparameters};
    use proptest::prelude::*;

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

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn a_file_written_state_by_state_is_the_one_written_at_once(
            count in 1usize..8, hidden in 1u32..6, cuts in prop::collection::vec(1usize..4, 0..8), bits: u32,
        ) {
            let h = Hyperparameters { architecture: Architecture::Mlp, hidden: vec![hidden], ..Default::default() };
            let network = h.network([1, 2, 2], 3).unwrap();
            let value = |s: usize, i: usize| f32::from_bits(bits.wrapping_mul((s * 1000 + i) as u32));
            let states: Vec<Vec<f32>> =
                (0..count).map(|s| (0..network.state_len()).map(|i| value(s, i)).collect()).collect();
            let epochs: Vec<u32> = (0..count as u32).map(|e| 3 * e).collect();
            let dir = tempfile::tempdir().unwrap();
            let [whole, pieces] = ["whole", "a/pieces"].map(|name| dir.path().join(name));
            write(&whole, &network, &epochs, &states).unwrap();
            // In pieces of some states each, by a process each; a piece is written twice.
            let mut first = 0;
            for cut in cuts.iter().copied().chain([count]) {
                let end = count.min(first + cut);
                let mut writer = StatesWriter::create(&pieces, &network, &epochs).unwrap();
                for _ in 0..2 {
                    writer.write(&network, first, &states[first..end]).unwrap();
                }
                if first < end {
                    let bits = |state: &[f32]| state.iter().map(|v| v.to_bits()).collect::<Vec<u32>>();
                    prop_assert_eq!(bits(&writer.read(&network, first).unwrap()), bits(&states[first]));
                }
                writer.sync().unwrap();
                first = end;
            }
            prop_assert!(fs::read(&whole).unwrap() == fs::read(&pieces).unwrap());
            prop_assert_eq!(fs::read_dir(dir.path().join("a")).unwrap().count(), 1);
        }
    }

    #[test]
    fn only_the_file_that_was_laid_out_is_gone_on_with() {
        let network = with_dropout(0.0);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("states.safetensors");
        let open = |network: &Network, epochs: &[u32]| StatesWriter::open(&path, network, epochs).unwrap().is_some();
        assert!(!open(&network, &[0, 1]));
        let states = vec![vec![1.0; network.state_len()]; 2];
        let write_all = || StatesWriter::create(&path, &network, &[0, 1]).unwrap().write(&network, 0, &states);
        write_all().unwrap();
        assert!(open(&network, &[0, 1]) && !open(&network, &[0, 2]) && !open(&with_dropout(0.5), &[0, 1]));
        assert!(!open(&network, &[0, 1, 2]));
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
        assert!(!open(&network, &[0, 1]));
        // It is laid out again.
        let mut writer = StatesWriter::create(&path, &network, &[0, 1]).unwrap();
        assert_eq!(writer.read(&network, 0).unwrap(), vec![0.0; network.state_len()]);
        write_all().unwrap();
        assert!(fs::read(&path).unwrap() == bytes);
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
