//! Columns of an index: name and kind.

use std::fmt;
use std::sync::Arc;

use parquet::basic::{LogicalType, Repetition, Type as PhysicalType};
use parquet::errors::ParquetError;
use parquet::file::metadata::ParquetMetaDataReader;
use parquet::schema::types::Type;
use zoo_model::decoder::guarded;
use zoo_model::ResultLine;

/// Keys that the models of a zoo may have between them.
pub(super) const KEYS_LIMIT: usize = 1024;

/// Largest footer that is read: a hundred bytes for each column of 512 models make up an honest one, and
/// decoding a hostile one may take a hundred times its length.
pub const FOOTER_LIMIT: usize = 2 << 20;

/// What a column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Int32,
    Int64,
    UInt64,
    Double,
    Bool,
    Text,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Self::Int32 => "int32",
            Self::Int64 => "int64",
            Self::UInt64 => "uint64",
            Self::Double => "double",
            Self::Bool => "boolean",
            Self::Text => "text",
        })
    }
}

impl Kind {
    fn parquet_type(self, name: &str) -> Result<Type, ParquetError> {
        let (physical, logical) = match self {
            Self::Int32 => (PhysicalType::INT32, None),
            Self::Int64 => (PhysicalType::INT64, None),
            Self::UInt64 => (PhysicalType::INT64, Some(LogicalType::integer(64, false))),
            Self::Double => (PhysicalType::DOUBLE, None),
            Self::Bool => (PhysicalType::BOOLEAN, None),
            Self::Text => (PhysicalType::BYTE_ARRAY, Some(LogicalType::String)),
        };
        let builder = Type::primitive_type_builder(name, physical).with_repetition(Repetition::OPTIONAL);
        builder.with_logical_type(logical).build()
    }

    fn of(column: &Type) -> Option<Self> {
        let logical = column.get_basic_info().logical_type_ref();
        Some(match (column.is_primitive().then(|| column.get_physical_type())?, logical) {
            (PhysicalType::INT32, None) => Self::Int32,
            (PhysicalType::INT64, None) => Self::Int64,
            (PhysicalType::INT64, Some(logical)) if *logical == LogicalType::integer(64, false) => Self::UInt64,
            (PhysicalType::DOUBLE, None) => Self::Double,
            (PhysicalType::BOOLEAN, None) => Self::Bool,
            (PhysicalType::BYTE_ARRAY, Some(LogicalType::String)) => Self::Text,
            _ => return None,
        })
    }
}

/// Columns before the keys of `params.json`.
pub(super) const FIRST: [(&str, Kind); 2] = [("id", Kind::Int32), ("epoch", Kind::Int32)];

pub(super) type Metric = fn(&ResultLine) -> Option<f64>;

/// Metrics after them.
pub(super) const METRICS: [(&str, Metric); 6] = [
    ("train_loss", |l| l.train_loss),
    ("train_acc", |l| l.train_acc),
    ("val_loss", |l| l.val_loss),
    ("val_acc", |l| l.val_acc),
    ("test_loss", |l| l.test_loss),
    ("test_acc", |l| l.test_acc),
];

/// Further metrics in a zoo of twins.
pub(super) const TWIN_METRICS: [(&str, Metric); 2] =
    [("sparsity_ratio", |l| l.sparsity_ratio), ("test_agreement", |l| l.test_agreement)];

pub(super) const PARENT_ZOO: &str = "parent_zoo";
pub(super) const DIVERGED: &str = "diverged";

/// The columns of an index: name and kind, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Columns(pub(super) Vec<(String, Kind)>);

impl Columns {
    /// The columns of an index that is there, read off the last bytes of the file, at most
    /// [`FOOTER_LIMIT`] of them.
    ///
    /// # Errors
    /// A sentence that says why it is none.
    pub fn of_footer(end: &[u8]) -> Result<Self, String> {
        let cut = || "is no Parquet file, or damaged".to_owned();
        let (rest, tail) = end.split_last_chunk::<8>().ok_or_else(cut)?;
        let length = u32::from_le_bytes([tail[0], tail[1], tail[2], tail[3]]) as usize;
        if &tail[4..] != b"PAR1" {
            return Err(cut());
        }
        if length > FOOTER_LIMIT - 8 {
            return Err(format!("has a footer of {length} bytes, {} are allowed", FOOTER_LIMIT - 8));
        }
        if length > rest.len() {
            return Err(cut());
        }
        let footer = &rest[rest.len() - length..];
        let decoded = guarded(|| ParquetMetaDataReader::decode_metadata(footer)).map_err(|_| cut())?;
        let metadata = decoded.map_err(|e| format!("is damaged: {e}"))?;
        let fields = metadata.file_metadata().schema().get_fields();
        if fields.len() > KEYS_LIMIT + 16 {
            return Err(format!("has {} columns", fields.len()));
        }
        let column = |field: &Arc<Type>| Some((field.name().to_owned(), Kind::of(field)?));
        let columns = fields.iter().map(column).collect::<Option<_>>();
        columns.map(Self).ok_or_else(|| "has columns of unsupported types".to_owned())
    }

    /// How an index with these columns differs from one with the columns `right`.
    pub fn differences(&self, right: &Self) -> Option<String> {
        let kind = |columns: &Self, name: &str| columns.0.iter().find(|(n, _)| n == name).map(|(_, kind)| *kind);
        for (name, expected) in &right.0 {
            match kind(self, name) {
                None => return Some(format!("lacks the column `{name}`")),
                Some(found) if found != *expected => {
                    return Some(format!("has the column `{name}` as {found}, the models make it {expected}"));
                }
                _ => {}
            }
        }
        if let Some((name, _)) = self.0.iter().find(|(name, _)| kind(right, name).is_none()) {
            return Some(format!("has an unexpected column `{name}`"));
        }
        (self != right).then(|| "has its columns in a different order".to_owned())
    }

    pub(super) fn parquet_type(&self) -> Result<Type, ParquetError> {
        let field = |(name, kind): &(String, Kind)| Ok(Arc::new(kind.parquet_type(name)?));
        let fields = self.0.iter().map(field).collect::<Result<_, ParquetError>>()?;
        Type::group_type_builder("index").with_fields(fields).build()
    }
}
