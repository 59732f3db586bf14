//! The index of a zoo, compared with the one that its models make.

use std::io;

use zoo_model::files::{Hashing, Sha256};
use zoo_model::{Params, ResultLine};
use zoo_pack::index::{Columns, IndexWriter, ParquetError, Schema, FOOTER_LIMIT, MODELS_PER_GROUP};

/// The index found, and the one that the models so far make. The latter takes its columns from the
/// former, since they depend on all models; whether they are right is known at the end.
#[derive(Default)]
pub(super) struct Index {
    pub found: Option<Sha256>,
    pub columns: Option<Columns>,
    schema: Schema,
    writer: Option<IndexWriter<Hashing<io::Sink>>>,
    group: Vec<(Params, Vec<ResultLine>)>,
    models: usize,
}

impl Index {
    /// The index found, to be compared with models from the first on; or, if `comparable` is false, not at
    /// all.
    pub fn without_models(self, comparable: bool) -> Self {
        Self { found: self.found, columns: self.columns.filter(|_| comparable), ..Self::default() }
    }

    /// Adds a model, if there is an index to compare with.
    ///
    /// # Errors
    /// A sentence about the model's `params.json`.
    pub fn add(&mut self, params: &Params, lines: &[ResultLine]) -> Result<(), String> {
        if self.columns.is_none() {
            return Ok(());
        }
        let added = self.schema.add(params).and_then(|()| {
            self.models += 1;
            self.group.push((params.clone(), lines.to_vec()));
            match self.group.len() {
                MODELS_PER_GROUP => self.flush().map_err(|e| format!("cannot be put into an index: {e}")),
                _ => Ok(()),
            }
        });
        if added.is_err() {
            *self = Self::default();
        }
        added
    }

    /// Models added so far.
    pub fn models(&self) -> usize {
        self.models
    }

    fn flush(&mut self) -> Result<(), ParquetError> {
        let group = std::mem::take(&mut self.group);
        let Some(columns) = self.columns.as_ref().filter(|_| !group.is_empty()) else { return Ok(()) };
        let writer = match &mut self.writer {
            Some(writer) => writer,
            none => none.insert(IndexWriter::new(columns.clone(), Hashing::new(io::sink()))?),
        };
        writer.add(&group)
    }

    /// What is wrong with the index found, after the last model.
    pub fn fault(&mut self) -> Option<String> {
        let different = self.columns.as_ref()?.differences(&self.schema.columns());
        let made = self.flush().and_then(|()| self.writer.take().map(IndexWriter::finish).transpose());
        let made = made.map(|made| made.map(|made| made.finish().2));
        different.or_else(|| match made {
            Ok(made) if made == self.found => None,
            Ok(_) => Some("does not match the models in the archive".into()),
            Err(error) => Some(format!("cannot be rebuilt: {error}")),
        })
    }
}

/// Keeps the last bytes of what is written to it.
#[derive(Default)]
pub(super) struct Tail(Vec<u8>);

impl Tail {
    pub fn bytes(&self) -> &[u8] {
        &self.0[self.0.len().saturating_sub(FOOTER_LIMIT)..]
    }
}

impl io::Write for Tail {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.extend_from_slice(bytes);
        if self.0.len() > 2 * FOOTER_LIMIT {
            self.0.drain(..self.0.len() - FOOTER_LIMIT);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
