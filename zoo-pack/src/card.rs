//! The dataset card, `README.md` of an archive.

use std::fmt::Write;

use serde_json::Value;
use zoo_model::text::{counted, escaped};
use zoo_model::{ResultLine, ZooRecord};

/// Test accuracies of the models' last states, gathered model by model.
#[derive(Debug, Clone, Default)]
pub struct Accuracies {
    values: Vec<f64>,
    diverged: usize,
}

impl Accuracies {
    /// Adds a model.
    pub fn add(&mut self, lines: &[ResultLine]) {
        match lines.last() {
            Some(last) if last.diverged => self.diverged += 1,
            Some(last) => self.values.extend(last.test_acc),
            None => {}
        }
    }

    fn sentence(&self) -> String {
        let n = self.values.len();
        if n == 0 {
            return "No model has a test accuracy.".into();
        }
        let mean = self.values.iter().sum::<f64>() / n as f64;
        let (low, high) = self.values.iter().fold((f64::MAX, f64::MIN), |(l, h), &a| (l.min(a), h.max(a)));
        let diverged = match self.diverged {
            0 => String::new(),
            n => format!("; {n} more diverged"),
        };
        format!(
            "Test accuracy of the last states: mean {mean:.4}, from {low:.4} to {high:.4} ({}{diverged}).",
            counted(n, "model")
        )
    }
}

/// The card of a zoo; a function of the zoo alone. Its text may be untrusted: it is escaped,
/// so that none becomes a line of its own.
pub fn card(record: &ZooRecord, accuracies: &Accuracies) -> String {
    let mut out = front_matter(record);
    if !record.description.is_empty() {
        let _ = writeln!(out, "{}\n", escaped(&record.description));
    }
    out += &overview(record, accuracies);
    out += &settings(record);
    out += &how_to_use(&record.name);
    out
}

/// What Hugging Face reads of a card, and the title.
fn front_matter(ZooRecord { name, license, states, .. }: &ZooRecord) -> String {
    let size = match states {
        0..1_000 => "n<1K",
        1_000..10_000 => "1K<n<10K",
        10_000..100_000 => "10K<n<100K",
        100_000..1_000_000 => "100K<n<1M",
        _ => "1M<n<10M",
    };
    format!(
        "---\n\
         pretty_name: {name}\n\
         license: {}\n\
         tags:\n- model-zoo\n- weight-space-learning\n\
         size_categories:\n- {size}\n\
         ---\n\n\
         # {name}\n\n",
        escaped(license).to_lowercase(),
    )
}

/// What the zoo is, in a table.
fn overview(record: &ZooRecord, accuracies: &Accuracies) -> String {
    let ZooRecord { models, states, parameters, dataset, .. } = record;
    let kind = match &record.parent {
        Some(parent) => format!("the sparse twin of the model zoo `{}`", escaped(&parent.name)),
        None => "a model zoo".to_owned(),
    };
    let engine =
        record.engine.as_ref().map_or("another program".into(), |e| format!("{}, version {}", e.name, e.version));
    // A zoo that was imported may not know what it was trained on.
    let samples = match (dataset.train, dataset.val, dataset.test) {
        (0, 0, 0) => "number of samples not recorded".to_owned(),
        (train, val, test) => format!("{train} train, {val} validation, {test} test samples"),
    };
    let checksum = match dataset.sha256.as_str() {
        "" => "not recorded".to_owned(),
        sum => format!("`{}`", escaped(sum)),
    };
    let [channels, height, width] = dataset.shape;
    format!(
        "This is {kind}: a population of small neural networks, each with its whole training trajectory.\n\n\
         | | |\n| --- | --- |\n\
         | models | {models} |\n\
         | states | {states} |\n\
         | parameters a model | {parameters} |\n\
         | diverged models | {} |\n\
         | dataset | {}, {channels}x{height}x{width}, {} classes: {samples} |\n\
         | prepared dataset, SHA-256 | {checksum} |\n\
         | trained by | {} |\n\
         | licence | {} |\n\n\
         {}\n\n",
        record.diverged,
        escaped(&dataset.name),
        dataset.classes,
        escaped(&engine),
        escaped(&record.license),
        accuracies.sentence(),
    )
}

/// The sections of the manifest that the zoo was made of.
fn settings(record: &ZooRecord) -> String {
    let mut out = String::new();
    for (section, title) in [
        ("model", "Model"),
        ("grid", "Grid"),
        ("train", "Training"),
        ("sparsify", "Sparsification"),
        ("reduction", "Reduction"),
    ] {
        if let Value::Object(values) = &record.manifest[section] {
            let _ = writeln!(out, "## {title}\n");
            for (key, value) in values {
                let _ = writeln!(out, "- `{}`: `{}`", escaped(key), escaped(&value.to_string()));
            }
            out.push('\n');
        }
    }
    out
}

/// The files, how they are read, and what to cite.
fn how_to_use(name: &str) -> String {
    format!(
        "## Files\n\n\
         - `zoo.json`: what the zoo is and was made of.\n\
         - `index.parquet`: one row per model and kept state, with every hyperparameter and metric.\n\
         - `models/ID/params.json`: a model's hyperparameters.\n\
         - `models/ID/result.json`: its metrics, one line with a JSON object per kept state.\n\
         - `models/ID/states.safetensors`: its parameters, stacked over the kept states, and `epochs`.\n\
         - `SHA256SUMS`: checksums of all of these.\n\n\
         ## Use\n\n\
         ```python\n\
         import pandas as pd\n\
         from safetensors import safe_open\n\n\
         index = pd.read_parquet(\"index.parquet\")\n\
         model = index.id.iloc[0]\n\
         with safe_open(f\"models/{{model:06}}/states.safetensors\", \"np\") as states:\n    \
             last = {{name: states.get_slice(name)[-1] for name in states.keys()}}\n\
         ```\n\n\
         Check it with `sha256sum -c SHA256SUMS`, or the archive as it is with `zoo-verify {name}.tar.gz`.\n\n\
         ## Citation\n\n\
         The zoos follow Schürholt, Taskiran, Knyazev, Giró-i-Nieto and Borth, \"Model Zoos: A Dataset of Diverse\n\
         Populations of Neural Network Models\", NeurIPS 2022 Datasets and Benchmarks (arXiv 2209.14764).\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_imported_zoo_does_not_know_is_said_to_be_unknown() {
        let dir = tempfile::tempdir().unwrap();
        let mut record = zoo_model::synthetic::write(&dir.path().join("z"), "z", 1, 2).unwrap().finished().unwrap();
        record.dataset.sha256 = "0".repeat(64);
        record.dataset.test = 500;
        let known = card(&record, &Accuracies::default());
        assert!(known.contains(" 500 test samples |") && !known.contains("not recorded"), "{known}");
        let dataset = &mut record.dataset;
        (dataset.sha256, dataset.train, dataset.val, dataset.test) = (String::new(), 0, 0, 0);
        let unknown = card(&record, &Accuracies::default());
        assert!(unknown.contains("10 classes: number of samples not recorded |"), "{unknown}");
        assert!(unknown.contains("SHA-256 | not recorded |"), "{unknown}");
    }

    #[test]
    fn words_become_no_lines_and_steer_no_terminal() {
        let dir = tempfile::tempdir().unwrap();
        let zoo = zoo_model::synthetic::write(&dir.path().join("z"), "z", 1, 2).unwrap();
        let plain = zoo.finished().unwrap();
        let lines = card(&plain, &Accuracies::default()).lines().count();
        let hostile = "x\n# forged\u{1b}[2J\u{9b}";
        let mut record = plain.clone();
        record.description = hostile.into();
        record.license = hostile.into();
        record.dataset.name = hostile.into();
        record.manifest = serde_json::json!({"model": {hostile: hostile}});
        let card = card(&record, &Accuracies::default());
        assert_eq!(card.lines().count(), lines + 4, "a section and its line, no more:\n{card}");
        assert!(!card.contains(|c: char| c.is_control() && c != '\n'), "{card:?}");
    }
}
