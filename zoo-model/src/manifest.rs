//! The TOML manifest: read once, handed out section by section.
//!
//! Each stage asks only for the sections it owns, with the type that its crate defines. Every
//! error names the file, the line and the key.

use std::fmt;
use std::marker::PhantomData;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use toml::de::{DeTable, DeValue};
use toml::Spanned;

use crate::files::{read_limited, FileError};
use crate::text::{alternatives, escaped, readable};

/// The sections of a manifest, in the order of the pipeline.
pub const SECTIONS: [&str; 7] = ["zoo", "data", "model", "grid", "train", "sparsify", "pack"];

const SIZE_LIMIT: u64 = 1 << 20;

/// A mistake in a manifest, for the user to correct.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{}{}: {message}", path.display(), line_text(*line), key_text(key))]
pub struct ManifestError {
    /// The manifest.
    pub path: PathBuf,
    /// Line of the mistake, from 1.
    pub line: Option<usize>,
    /// Dotted path of the key concerned, such as `grid.dropout`.
    pub key: Option<String>,
    /// What is wrong and what would be right.
    pub message: String,
}

fn line_text(line: Option<usize>) -> String {
    line.map(|l| format!(":{l}")).unwrap_or_default()
}

fn key_text(key: &Option<String>) -> String {
    key.as_ref().map(|k| format!(": {k}")).unwrap_or_default()
}

/// A documented reduction of a zoo, so that any manifest can be tried on one machine.
///
/// Models keep the ids that they have in the whole plan; the reduction is recorded in `zoo.json`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reduction {
    /// Train only this many models, spread evenly over the plan.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub models: Option<u32>,
    /// Train (and fine-tune) at most this many epochs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epochs: Option<u32>,
    /// Use at most this many images of each split.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub samples: Option<u32>,
}

impl Reduction {
    /// Whether nothing is reduced.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// `epochs` after the reduction.
    pub fn epochs(&self, epochs: u32) -> u32 {
        self.epochs.map_or(epochs, |limit| epochs.min(limit))
    }

    /// The size of a split after the reduction.
    pub fn samples(&self, samples: usize) -> usize {
        self.samples.map_or(samples, |limit| samples.min(limit as usize))
    }
}

/// Keys whose values are tables. A list would be taken for the table's values in the order of its keys.
const TABLES: [&str; 9] =
    ["zoo", "data", "data.transform", "data.normalize", "model", "grid", "train", "train.augment", "pack"];

/// A manifest whose syntax and section names are right; sections are checked when asked for.
#[derive(Debug, Clone)]
pub struct Manifest {
    path: PathBuf,
    source: String,
    keys: Vec<(String, Range<usize>)>,
    /// Which of [`TABLES`] hold something else.
    not_tables: Vec<&'static str>,
    /// The reduction asked for on the command line.
    pub reduction: Reduction,
}

impl Manifest {
    /// Reads a manifest file of at most 1 MiB.
    ///
    /// # Errors
    /// The file cannot be read, is not UTF-8 or not TOML, or has an unknown section.
    pub fn load(path: &Path) -> Result<Self, ManifestError> {
        let whole = |message: String| ManifestError { path: path.into(), line: None, key: None, message };
        let bytes = read_limited(path, SIZE_LIMIT).map_err(|e| match e {
            FileError::Io { source, .. } => whole(format!("cannot read the manifest: {source}")),
            FileError::Format { message, .. } => whole(message),
            busy @ FileError::Busy { .. } => whole(busy.to_string()),
        })?;
        let source = String::from_utf8(bytes).map_err(|e| whole(format!("is not UTF-8 text: {e}")))?;
        Self::parse(path, source)
    }

    /// [`load`](Self::load) of text that is at hand; `path` is for messages.
    pub fn parse(path: impl Into<PathBuf>, source: String) -> Result<Self, ManifestError> {
        let (path, reduction) = (path.into(), Reduction::default());
        let mut manifest = Self { path, source, keys: Vec::new(), not_tables: Vec::new(), reduction };
        (manifest.keys, manifest.not_tables) = match DeTable::parse(&manifest.source) {
            Ok(table) => (index_keys(table.get_ref()), not_tables(table.get_ref())),
            Err(e) => return Err(manifest.toml_error(&e)),
        };
        for (key, span) in &manifest.keys {
            if !key.contains('.') && !SECTIONS.contains(&key.as_str()) {
                return Err(ManifestError {
                    path: manifest.path.clone(),
                    line: Some(manifest.line(span.start)),
                    key: Some(key.clone()),
                    message: format!(
                        "unknown section{}; the sections are {}",
                        suggestion(key, SECTIONS),
                        SECTIONS.map(|s| format!("[{s}]")).join(", ")
                    ),
                });
            }
        }
        Ok(manifest)
    }

    /// Where the manifest came from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The section `name`, or `None` if the manifest has none.
    pub fn section<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, ManifestError> {
        if let Some(key) = self.not_tables.iter().find(|key| key.split('.').next() == Some(name)) {
            return Err(self.error(key, "must be a table"));
        }
        let deserializer = toml::Deserializer::parse(&self.source).map_err(|e| self.toml_error(&e))?;
        Section { name, of: PhantomData }.deserialize(deserializer).map_err(|e| self.section_error(name, &e))
    }

    /// The tables of the list `[[name]]`, in order, to be read key by key: none if the manifest has
    /// no such list.
    ///
    /// # Errors
    /// It is something other than a list of tables.
    pub fn entries(&self, name: &str) -> Result<Vec<Entry<'_>>, ManifestError> {
        self.section::<Vec<AnyTable>>(name)?;
        let mut root = DeTable::parse(&self.source).map_err(|e| self.toml_error(&e))?.into_inner();
        let Some(DeValue::Array(list)) = root.remove(name).map(Spanned::into_inner) else { return Ok(Vec::new()) };
        let entries = list.into_iter().filter_map(|item| match (item.span(), item.into_inner()) {
            (span, DeValue::Table(table)) => Some(Entry { manifest: self, section: name.to_owned(), span, table }),
            _ => None,
        });
        Ok(entries.collect())
    }

    /// The section `name`, which must be there.
    pub fn required<T: DeserializeOwned>(&self, name: &str) -> Result<T, ManifestError> {
        self.section(name)?.ok_or_else(|| ManifestError {
            path: self.path.clone(),
            line: None,
            key: None,
            message: format!("has no section [{name}]; docs/manifest.md lists its keys"),
        })
    }

    /// An error about `key` (a dotted path such as `data.train`), at the line where it stands.
    pub fn error(&self, key: &str, message: impl Into<String>) -> ManifestError {
        let place = self.keys.iter().find(|(k, _)| k == key);
        ManifestError {
            path: self.path.clone(),
            line: place.map(|(_, span)| self.line(span.start)),
            key: Some(key.into()),
            message: message.into(),
        }
    }

    fn line(&self, offset: usize) -> usize {
        let end = offset.min(self.source.len());
        self.source.as_bytes()[..end].iter().filter(|&&b| b == b'\n').count() + 1
    }

    fn toml_error(&self, error: &toml::de::Error) -> ManifestError {
        ManifestError {
            path: self.path.clone(),
            line: error.span().map(|s| self.line(s.start)),
            key: None,
            message: match (error.message(), error.span().and_then(|s| self.source.get(s))) {
                ("duplicate key", Some(key)) => format!("duplicate key `{}`", key.trim()),
                (message, _) => readable(&message.lines().collect::<Vec<_>>().join("; ")),
            },
        }
    }

    fn section_error(&self, section: &str, error: &toml::de::Error) -> ManifestError {
        let mut out = self.toml_error(error);
        // The innermost key whose name or value covers the place of the error.
        let place = error.span().and_then(|at| {
            let covers = |span: &Range<usize>| span.start <= at.start && at.end <= span.end;
            self.keys.iter().filter(|(_, span)| covers(span)).max_by_key(|(k, _)| k.matches('.').count())
        });
        out.key = Some(place.map_or_else(|| section.to_owned(), |(key, _)| key.clone()));
        if out.message.starts_with("invalid value: integer `-") && out.message.contains("0 or above") {
            out.message = "must not be negative".into();
        }
        if out.message.starts_with("invalid type: map, expected a list") && out.key.as_deref() == Some(section) {
            out.message = format!("is a list of tables: write [[{section}]]");
        }
        let mut words = out.message.split('`').skip(1).step_by(2);
        if let (true, Some(wrong)) = (out.message.starts_with("unknown "), words.next()) {
            let hint = suggestion(wrong, words);
            out.message.push_str(&hint);
        }
        out
    }
}

/// One table of a list such as `[[sparsify]]`. Its readers take the keys that are theirs, with
/// types of their own.
#[derive(Debug, Clone)]
pub struct Entry<'m> {
    manifest: &'m Manifest,
    section: String,
    span: Range<usize>,
    table: DeTable<'m>,
}

impl Entry<'_> {
    /// The reduction that the manifest is read with.
    pub fn reduction(&self) -> Reduction {
        self.manifest.reduction
    }

    /// Whether the key is there.
    pub fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// Those of `keys` that are there, as a `T`; other keys are skipped.
    ///
    /// # Errors
    /// They are no `T`.
    pub fn read<T: DeserializeOwned>(&self, keys: &[&str]) -> Result<T, ManifestError> {
        let of_keys = self.table.iter().filter(|(key, _)| keys.contains(&key.get_ref().as_ref()));
        let table = of_keys.map(|(key, value)| (key.clone(), value.clone())).collect();
        let deserializer = toml::Deserializer::from(Spanned::new(self.span.clone(), table));
        T::deserialize(deserializer).map_err(|e| self.manifest.section_error(&self.section, &e))
    }

    /// Checks that every key is one of `keys`.
    ///
    /// # Errors
    /// Another key is there: names `keys`, and the one that may be meant.
    pub fn check_keys(&self, keys: &[&str]) -> Result<(), ManifestError> {
        let mut found = self.table.keys().map(|key| key.get_ref().as_ref());
        let Some(unknown) = found.find(|key| !keys.contains(key)) else { return Ok(()) };
        let (expected, hint) = (alternatives(keys), suggestion(unknown, keys.iter().copied()));
        Err(self.error(unknown, format!("unknown field `{}`, expected {expected}{hint}", escaped(unknown))))
    }

    /// An error about a key of this entry, at the line where it stands, or where the entry begins.
    pub fn error(&self, key: &str, message: impl Into<String>) -> ManifestError {
        let start = self.table.get_key_value(key).map_or(self.span.start, |(key, _)| key.span().start);
        ManifestError {
            path: self.manifest.path.clone(),
            line: Some(self.manifest.line(start)),
            key: Some(format!("{}.{key}", self.section)),
            message: message.into(),
        }
    }
}

/// A table, whatever is in it.
struct AnyTable;

impl<'de> Deserialize<'de> for AnyTable {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AnyTableVisitor;
        impl<'de> Visitor<'de> for AnyTableVisitor {
            type Value = AnyTable;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                write!(f, "a table")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<AnyTable, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(AnyTable)
            }
        }
        deserializer.deserialize_map(AnyTableVisitor)
    }
}

/// ` (did you mean ...?)` if one of `candidates` is near `wrong`, whatever the case of its letters.
fn suggestion<'a>(wrong: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    let wrong = wrong.to_lowercase();
    candidates
        .into_iter()
        .map(|c| (strsim::jaro_winkler(&wrong, c), c))
        .filter(|(similarity, _)| *similarity > 0.75)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, c)| format!(" (did you mean `{c}`?)"))
        .unwrap_or_default()
}

/// Every key with the text range from its name to the end of its value.
fn index_keys(table: &DeTable) -> Vec<(String, Range<usize>)> {
    fn walk(prefix: &str, table: &DeTable, out: &mut Vec<(String, Range<usize>)>) {
        for (key, value) in table.iter() {
            let name = format!("{prefix}{}", key.get_ref());
            let (start, end) = (key.span().start, value.span().end.max(key.span().end));
            out.push((name.clone(), start..end));
            let below = format!("{name}.");
            match value.get_ref() {
                DeValue::Table(inner) => walk(&below, inner, out),
                DeValue::Array(items) => {
                    for item in items.iter() {
                        if let DeValue::Table(inner) = item.get_ref() {
                            walk(&below, inner, out);
                        }
                    }
                }
                _ => {}
            }
        }
    }
    let mut out = Vec::new();
    walk("", table, &mut out);
    out
}

/// The keys of [`TABLES`] that are there and hold something else.
fn not_tables(table: &DeTable) -> Vec<&'static str> {
    let holds_another = |key: &&str| {
        let mut table = table;
        key.split('.').any(|part| match table.get(part).map(|value| value.get_ref()) {
            Some(DeValue::Table(inner)) => {
                table = inner;
                false
            }
            value => value.is_some(),
        })
    };
    TABLES.into_iter().filter(holds_another).collect()
}

/// Reads one section of a document and skips the others.
struct Section<'a, T> {
    name: &'a str,
    of: PhantomData<T>,
}

impl<'de, T: DeserializeOwned> DeserializeSeed<'de> for Section<'_, T> {
    type Value = Option<T>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Option<T>, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de, T: DeserializeOwned> Visitor<'de> for Section<'_, T> {
    type Value = Option<T>;
    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "a manifest")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Option<T>, A::Error> {
        let mut found = None;
        while let Some(key) = map.next_key::<String>()? {
            if key == self.name {
                found = Some(map.next_value()?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields, rename_all = "kebab-case")]
    #[allow(dead_code)]
    struct Train {
        epochs: u32,
        #[serde(default)]
        batch_size: u32,
    }

    fn manifest(text: &str) -> Result<Manifest, ManifestError> {
        Manifest::parse("m.toml", text.into())
    }

    #[test]
    fn errors_name_file_line_and_key() {
        let unknown = manifest("[train]\nepochs = 3\nbatchsize = 10\n").unwrap();
        let error = unknown.section::<Train>("train").unwrap_err();
        assert_eq!((error.line, error.key.as_deref()), (Some(3), Some("train.batchsize")));
        assert!(error.to_string().contains("did you mean `batch-size`?"), "{error}");

        let mistyped = manifest("\n[train]\nepochs = \"three\"\n").unwrap();
        let error = mistyped.section::<Train>("train").unwrap_err();
        assert_eq!((error.line, error.key.as_deref()), (Some(3), Some("train.epochs")));
        assert!(error.message.ends_with("\"three\", expected an integer, 0 or above"), "{error}");

        let missing = manifest("[zoo]\nname = 'x'\n\n[train]\nbatch-size = 1\n").unwrap();
        let error = missing.section::<Train>("train").unwrap_err();
        assert!(error.to_string().starts_with("m.toml:4: train: missing field `epochs`"), "{error}");

        let error = manifest("[trian]\nepochs = 3\n").unwrap_err();
        assert!(error.to_string().contains("did you mean `train`?"), "{error}");

        let error = manifest("[train\nepochs = 3\n").unwrap_err();
        assert_eq!(error.line, Some(1));

        let error = manifest("[train]\nepochs = 3\nepochs = 4\n").unwrap_err();
        assert_eq!(error.to_string(), "m.toml:3: duplicate key `epochs`");

        let negative = manifest("[train]\nepochs = -1\n").unwrap();
        let error = negative.section::<Train>("train").unwrap_err();
        assert_eq!(error.to_string(), "m.toml:2: train.epochs: must not be negative");

        let table = manifest("[train]\nepochs = 1\n").unwrap();
        let error = table.section::<Vec<Train>>("train").unwrap_err();
        assert!(error.to_string().contains("write [[train]]"), "{error}");

        for (text, key) in [
            ("train = [1]", "train"),
            ("[[train]]\nepochs = 1", "train"),
            ("train = 1979-05-27", "train"),
            ("[train]\nepochs = 1\naugment = [4]", "train.augment"),
            ("[train]\nepochs = 1\naugment = 4", "train.augment"),
        ] {
            let error = manifest(text).unwrap().section::<Train>("train").unwrap_err();
            assert_eq!((error.key.as_deref(), error.message.as_str()), (Some(key), "must be a table"));
        }

        let shouting = manifest("[train]\nEPOCHS = 3\n").unwrap();
        let error = shouting.section::<Train>("train").unwrap_err();
        assert!(error.to_string().contains("did you mean `epochs`?"), "{error}");
    }

    #[test]
    fn entries_are_read_key_by_key_with_errors_at_their_own_lines() {
        let text = "[[sparsify]]\nepochs = 1\nkind = 'a'\n\n[[sparsify]]\nkind = 'b'\nepochs = 'x'\n\n[[sparsify]]\n";
        let manifest = manifest(text).unwrap();
        let entries = manifest.entries("sparsify").unwrap();
        assert_eq!(entries[0].read::<Train>(&["epochs", "batch-size"]).unwrap().epochs, 1);
        let errors = [
            entries[1].read::<Train>(&["epochs"]).unwrap_err(),
            entries[2].read::<Train>(&["epochs"]).unwrap_err(),
            entries[1].error("kind", "is odd"),
            entries[2].error("kind", "is missing"),
            entries[1].check_keys(&["epochs", "kinds"]).unwrap_err(),
        ];
        let expected = [
            "m.toml:7: sparsify.epochs: invalid type: string \"x\", expected an integer, 0 or above",
            "m.toml:9: sparsify: missing field `epochs`",
            "m.toml:6: sparsify.kind: is odd",
            "m.toml:9: sparsify.kind: is missing",
            "m.toml:6: sparsify.kind: unknown field `kind`, expected `epochs` or `kinds` (did you mean `kinds`?)",
        ];
        assert_eq!(errors.map(|e| e.to_string()), expected);
        assert!(entries[0].has("kind") && !entries[2].has("kind"));
        entries[0].check_keys(&["kind", "epochs"]).unwrap();
        assert!(manifest.entries("grid").unwrap().is_empty());
        for (text, message) in [
            ("[sparsify]", "sparsify: is a list of tables: write [[sparsify]]"),
            ("train = 5", "train: must be a table"),
            ("sparsify = 5", "sparsify: invalid type: integer `5`, expected a list"),
            ("sparsify = [[5]]", "sparsify: invalid type: sequence, expected a table"),
        ] {
            let manifest = super::Manifest::parse("m.toml", text.into()).unwrap();
            let name = text.split(['[', ']', ' ']).find(|name| !name.is_empty()).unwrap();
            let error = manifest.entries(name).unwrap_err().to_string();
            assert_eq!(error, format!("m.toml:1: {message}"));
        }
    }

    #[test]
    fn a_stage_reads_only_its_own_section() {
        let other = manifest("[grid]\nnonsense = true\n[train]\nepochs = 1\n").unwrap();
        assert_eq!(other.required::<Train>("train").unwrap().epochs, 1);
        assert!(other.section::<Train>("pack").unwrap().is_none());
        assert_eq!(other.error("train.epochs", "x").line, Some(4));
    }

    #[test]
    fn a_cut_only_makes_less() {
        let none = Reduction::default();
        let reduced = Reduction { models: None, epochs: Some(5), samples: Some(100) };
        assert_eq!((none.epochs(50), reduced.epochs(50), reduced.epochs(3)), (50, 5, 3));
        assert_eq!((none.samples(1000), reduced.samples(1000), reduced.samples(10)), (1000, 100, 10));
        assert!(none.is_none() && !reduced.is_none());
    }

    #[test]
    fn files_that_are_not_manifests_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.toml");
        let error = |path: &Path| Manifest::load(path).unwrap_err().to_string();
        assert!(error(&path).contains("m.toml: cannot read the manifest: "));
        std::fs::write(&path, b"[zoo]\nname = '\xff'\n").unwrap();
        assert!(error(&path).contains("m.toml: is not UTF-8 text"));
        std::fs::write(&path, "#".repeat((1 << 20) + 1)).unwrap();
        assert!(error(&path).contains("m.toml: is larger than the 1048576 bytes"));
        std::fs::write(&path, "#".repeat(1 << 20)).unwrap();
        let manifest = Manifest::load(&path).unwrap();
        assert_eq!(manifest.path(), path);
        let error = manifest.required::<Train>("train").unwrap_err();
        assert_eq!((error.line, error.key.as_deref()), (None, None));
        assert!(error.to_string().ends_with("m.toml: has no section [train]; docs/manifest.md lists its keys"));
    }

    #[test]
    fn only_what_is_near_is_suggested() {
        assert_eq!(suggestion("Epoch", ["batch-size", "epochs"]), " (did you mean `epochs`?)");
        assert_eq!(suggestion("colour", ["batch-size", "epochs"]), "");
        assert_eq!(suggestion("modl", ["mode", "model"]), " (did you mean `model`?)");
    }

    #[test]
    fn errors_are_at_the_innermost_key() {
        let text =
            "[train]\nepochs = 1\naugment = { crop = 1, flip = 'yes' }\n[[sparsify]]\na = 1\n[[sparsify]]\nb = 2\n";
        let manifest = manifest(text).unwrap();
        #[derive(Debug, Deserialize)]
        #[allow(dead_code)]
        struct Augment {
            flip: bool,
        }
        #[derive(Debug, Deserialize)]
        #[allow(dead_code)]
        struct WithAugment {
            augment: Augment,
        }
        let error = manifest.section::<WithAugment>("train").unwrap_err();
        assert_eq!((error.line, error.key.as_deref()), (Some(3), Some("train.augment.flip")));
        let lines = ["sparsify.a", "sparsify.b", "sparsify.c"].map(|key| manifest.error(key, "is odd").line);
        assert_eq!(lines, [Some(5), Some(7), None]);
    }
}
