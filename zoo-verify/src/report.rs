//! What was checked and what was found.

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;
use zoo_model::files::Sha256;
use zoo_model::text::{counted, escaped};

/// The levels of verification, each resting on those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// The archive's own checksum, in the `.sha256` file beside it.
    Archive,
    /// Entries in order, plain files only, nothing outside, twice, unlisted or missing.
    Structure,
    /// Every entry's checksum.
    Checksums,
    /// Tensors fit the architecture, metrics fit the states, twins fit their parents.
    Meaning,
    /// Models evaluated again: equal metrics.
    Replay,
    /// Models trained again: equal bits.
    Retrain,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Self::Archive => "archive checksum",
            Self::Structure => "structure",
            Self::Checksums => "checksums",
            Self::Meaning => "meaning",
            Self::Replay => "replay",
            Self::Retrain => "retrain",
        })
    }
}

/// Failures of one level that are kept in a report; the others are only counted.
pub const KEPT_FAILURES: usize = 1000;

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// At which level it shows.
    pub level: Level,
    /// The entry, as a path in the zoo; the archive itself if empty.
    pub entry: String,
    /// What was expected and what was found.
    pub message: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let entry = if self.entry.is_empty() { "the archive" } else { &self.entry };
        write!(f, "{}: {}: {}", self.level, escaped(entry), escaped(&self.message))
    }
}

/// Which volumes of a zoo that has several an archive or directory holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VolumesHere {
    /// Their numbers, from 1 and ascending; an archive holds one.
    pub numbers: Vec<usize>,
    /// How many the zoo has.
    pub of: usize,
    /// The names of all, as `volumes.json` lists them.
    #[serde(skip)]
    pub files: Vec<String>,
    /// SHA-256 of `SHA256SUMS`, which is the same in all volumes of a zoo, and in no other.
    #[serde(skip)]
    pub sums: Option<Sha256>,
}

impl fmt::Display for VolumesHere {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let numbers: Vec<String> = self.numbers.iter().map(ToString::to_string).collect();
        match numbers.as_slice() {
            [] => write!(f, "no volume of {}", self.of),
            all if all.len() == self.of => write!(f, "all {} volumes", self.of),
            [number] => write!(f, "volume {number} of {}", self.of),
            several => write!(f, "volumes {} of {}", several.join(", "), self.of),
        }
    }
}

/// What was verified of a zoo that has several volumes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VolumeSet {
    /// Name of the zoo.
    pub name: String,
    /// The volumes that were verified.
    #[serde(flatten)]
    pub checked: VolumesHere,
    /// Files of the volumes that were not.
    pub unchecked: Vec<String>,
    /// Whether all were.
    pub complete: bool,
}

impl VolumeSet {
    /// The volumes that these reports are about, zoo by zoo.
    pub fn of(reports: &[Report]) -> Vec<Self> {
        let mut sets: Vec<Self> = Vec::new();
        for (name, here) in reports.iter().filter_map(|r| Some((r.name.as_ref()?, r.volumes.as_ref()?))) {
            match sets.iter_mut().find(|set| set.checked.sums == here.sums && set.checked.files == here.files) {
                Some(set) => set.checked.numbers.extend(&here.numbers),
                None => {
                    let (name, checked) = (name.clone(), here.clone());
                    sets.push(Self { name, checked, unchecked: Vec::new(), complete: false });
                }
            }
        }
        for set in &mut sets {
            set.checked.numbers.sort_unstable();
            set.checked.numbers.dedup();
            let files =
                (1..).zip(&set.checked.files).filter(|(number, _)| set.checked.numbers.binary_search(number).is_err());
            set.unchecked = files.map(|(_, file)| file.clone()).collect();
            set.complete = set.unchecked.is_empty();
        }
        sets
    }
}

impl fmt::Display for VolumeSet {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}: {} checked", escaped(&self.name), self.checked)?;
        match self.unchecked.as_slice() {
            [] => Ok(()),
            [file] => write!(f, "; 1 other was not: {}", escaped(file)),
            files => write!(f, "; {} others were not: {}", files.len(), escaped(&files.join(", "))),
        }
    }
}

/// The verdict on one archive or directory.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// What was verified.
    pub path: PathBuf,
    /// Whether nothing is wrong.
    pub ok: bool,
    /// Levels that were carried out.
    pub levels: Vec<Level>,
    /// Name of the zoo, if its record could be read.
    pub name: Option<String>,
    /// Which volumes of the zoo these are, if it has several.
    pub volumes: Option<VolumesHere>,
    /// Models seen.
    pub models: usize,
    /// States seen.
    pub states: usize,
    /// Entries seen.
    pub entries: usize,
    /// Bytes of all entries.
    pub bytes: u64,
    /// Ids of models evaluated again.
    pub replayed: Vec<String>,
    /// Ids of models trained again.
    pub retrained: Vec<String>,
    /// What could not be checked, and why.
    pub notes: Vec<String>,
    /// What is wrong: everything, or the first [`KEPT_FAILURES`] of each level.
    pub failures: Vec<Failure>,
    /// Failures that were counted and not kept.
    pub more_failures: usize,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let path = self.path.display().to_string();
        let path = escaped(&path);
        for failure in &self.failures {
            writeln!(f, "{path}: {failure}")?;
        }
        if self.more_failures > 0 {
            writeln!(f, "{path}: and {}", counted(self.more_failures, "more failure"))?;
        }
        for note in &self.notes {
            writeln!(f, "{path}: note: {}", escaped(note))?;
        }
        let level = |level: &Level| match level {
            Level::Replay => format!("replay of {}", counted(self.replayed.len(), "model")),
            Level::Retrain => format!("retrain of {}", counted(self.retrained.len(), "model")),
            other => other.to_string(),
        };
        let levels = self.levels.iter().map(level).collect::<Vec<_>>().join(", ");
        let verdict = match self.failures.len() + self.more_failures {
            0 => "verified".to_owned(),
            n => format!("FAILED with {}", counted(n, "failure")),
        };
        let volumes = self.volumes.as_ref().map_or(String::new(), |here| format!("{here}: "));
        let entries = if self.entries == 1 { "1 entry".to_owned() } else { format!("{} entries", self.entries) };
        let [models, states, bytes] = [(self.models, "model"), (self.states, "state"), (self.bytes as usize, "byte")]
            .map(|(count, thing)| counted(count, thing));
        write!(f, "{path}: {verdict} ({volumes}{models}, {states}, {entries}, {bytes}; {levels})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zoo_model::files::sha256;

    fn report(file: &str, numbers: &[usize], sums: u8) -> Report {
        let files = (1..=3).map(|n| format!("noise.{n}-of-3.tar.gz")).collect();
        Report {
            path: file.into(),
            ok: true,
            levels: vec![Level::Structure, Level::Replay],
            name: Some("noise".into()),
            volumes: Some(VolumesHere { numbers: numbers.into(), of: 3, files, sums: Some(sha256(&[sums])) }),
            models: 1,
            states: 1,
            entries: 1,
            bytes: 1,
            replayed: vec!["000001".into()],
            retrained: Vec::new(),
            notes: Vec::new(),
            failures: Vec::new(),
            more_failures: 0,
        }
    }

    #[test]
    fn counts_of_one_are_singular() {
        let text = report("a", &[2], 0).to_string();
        let expected = "a: verified (volume 2 of 3: 1 model, 1 state, 1 entry, 1 byte; structure, replay of 1 model)";
        assert_eq!(text, expected);
    }

    #[test]
    fn volumes_are_counted_zoo_by_zoo() {
        let shown = |reports: &[Report]| VolumeSet::of(reports).iter().map(ToString::to_string).collect::<Vec<_>>();
        let two = [report("c", &[3], 0), report("a", &[1], 0), report("c again", &[3], 0)];
        assert_eq!(shown(&two), ["noise: volumes 1, 3 of 3 checked; 1 other was not: noise.2-of-3.tar.gz"]);
        let all = [report("unpacked", &[1, 2], 0), report("c", &[3], 0)];
        assert_eq!(shown(&all), ["noise: all 3 volumes checked"]);
        let mixed = [report("a", &[1], 0), report("b of another packing", &[2], 1)];
        assert_eq!(
            shown(&mixed)[0],
            "noise: volume 1 of 3 checked; 2 others were not: noise.2-of-3.tar.gz, noise.3-of-3.tar.gz"
        );
        assert_eq!(shown(&mixed).len(), 2);
    }
}
