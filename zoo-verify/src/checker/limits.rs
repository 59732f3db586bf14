//! How large an entry may be.

use zoo_model::zoo_dir::{model_file, names};
use zoo_model::Params;
use zoo_pack::{CARD, INDEX, VOLUMES};

/// Maximum size of a `SHA256SUMS` in bytes: some 200,000 models.
const CHECKSUMS_LIMIT: u64 = 64 << 20;
/// Maximum size of any other small file in bytes.
pub const SMALL_LIMIT: u64 = 16 << 20;
/// Maximum size of the index in bytes; it is hashed, and not held in memory.
const INDEX_LIMIT: u64 = 4 << 30;

/// Maximum size of an entry in bytes; `None` if no file of a zoo has this name.
pub fn size_limit(path: &str) -> Option<u64> {
    match path {
        names::CHECKSUMS => Some(CHECKSUMS_LIMIT),
        names::ZOO | CARD | VOLUMES => Some(SMALL_LIMIT),
        INDEX => Some(INDEX_LIMIT),
        _ => match model_file(path)?.1 {
            names::PARAMS => Some(Params::SIZE_LIMIT),
            names::RESULT => Some(SMALL_LIMIT),
            // States are as large as the architecture says, which is checked when they are read.
            _ => Some(u64::MAX),
        },
    }
}
