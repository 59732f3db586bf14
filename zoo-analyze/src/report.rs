//! The report: one HTML file that needs no network, its figures as SVG files, and all numbers as
//! JSON.

use std::fmt::Write;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Serialize;
use zoo_model::dataset::PerSplit;
use zoo_model::files::{is_system_file, parent_of, write_bytes, FileError};
use zoo_model::stage::{check_outside_zoos, UsageError};
use zoo_model::text::{counted, fixed, percent};
use zoo_model::ZooRecord;

use crate::benchmark::{Benchmark, Predictor};
use crate::diversity::{Distribution, Diversity};
use crate::figures::{self, figures, short, Figure};

/// Who made a report, as its files say near their beginning.
pub const GENERATOR: &str = "zoo-analyze";

const NUMBERS: &str = "report.json";

/// The files of a report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputPaths {
    page: PathBuf,
    folder: PathBuf,
}

impl OutputPaths {
    /// The page `output`, whose ending `.html` may be omitted, and the folder of its name next to it.
    ///
    /// # Errors
    /// One of them would be in a zoo, or exists and was not written by this program.
    pub fn new(output: &Path) -> Result<Self, UsageError> {
        let page = match (output.file_name(), output.extension()) {
            (Some(name), None) if name != "-" => output.with_extension("html"),
            (Some(_), Some(html)) if html == "html" => output.to_owned(),
            _ => return Err(UsageError(format!("the report must be named NAME.html, not {}", output.display()))),
        };
        let folder = page.with_extension("");
        let refused =
            |path: &Path, why: &str| Err(UsageError(format!("{} {why}: choose another --output", path.display())));
        for path in [&page, &folder, parent_of(&page)] {
            check_outside_zoos(path)?;
        }
        if exists(&page) && !is_ours(&page, &format!("<meta name=\"generator\" content=\"{GENERATOR}\">")) {
            return refused(&page, "exists and was not written by zoo-analyze");
        }
        let is_foreign = |entry: fs::DirEntry| !is_system_file(&entry.file_name().to_string_lossy());
        let is_empty = || fs::read_dir(&folder).is_ok_and(|entries| !entries.flatten().any(is_foreign));
        let marker = format!("\"generator\": \"{GENERATOR}\"");
        if exists(&folder) && !is_empty() && !is_ours(&folder.join(NUMBERS), &marker) {
            return refused(&folder, "exists and is not a report's figure folder");
        }
        Ok(Self { page, folder })
    }
}

fn exists(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}

/// Whether a file has this marker near its beginning.
fn is_ours(path: &Path, marker: &str) -> bool {
    let mut start = String::new();
    let read = File::open(path).and_then(|file| file.take(512).read_to_string(&mut start));
    read.is_ok() && start.contains(marker)
}

/// The content of a report.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// [`GENERATOR`].
    pub generator: &'static str,
    /// `zoo.json` of the zoo.
    pub zoo: ZooRecord,
    /// The zoo's diversity.
    pub diversity: Diversity,
    /// The downstream benchmarks; `None` if the zoo is too small for them.
    pub benchmark: Option<Benchmark>,
    /// What is missing, and why.
    pub notes: Vec<String>,
}

impl Report {
    /// Writes the page, and the folder with the figures and `report.json`. Returns what was written,
    /// the page last.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn write(&self, OutputPaths { page, folder }: &OutputPaths) -> Result<Vec<PathBuf>, FileError> {
        let mut written = Vec::new();
        let mut write = |path: PathBuf, content: &[u8]| {
            write_bytes(&path, content)?;
            written.push(path);
            Ok(())
        };
        // The numbers come first: they mark the folder as a report's.
        let json = serde_json::to_string_pretty(self).expect("plain data serialises") + "\n";
        write(folder.join(NUMBERS), json.as_bytes())?;
        let figures = figures(&self.diversity);
        for name in figures::NAMES {
            let path = folder.join(format!("{name}.svg"));
            match figures.iter().find(|figure| figure.name == name) {
                Some(figure) => write(path, figure.svg.as_bytes())?,
                None if exists(&path) => fs::remove_file(&path).map_err(FileError::io("remove", path))?,
                None => {}
            }
        }
        write(page.clone(), self.html().as_bytes())?;
        Ok(written)
    }

    /// The page.
    pub fn html(&self) -> String {
        let mut out = String::new();
        self.page(&mut out).expect("a string takes everything");
        out
    }

    fn page(&self, out: &mut String) -> std::fmt::Result {
        let name = escape(&self.zoo.name);
        write!(out, "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n")?;
        writeln!(out, "<meta name=\"generator\" content=\"{GENERATOR}\">")?;
        writeln!(out, "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">")?;
        writeln!(out, "<title>{name}</title>\n<style>{STYLE}</style>\n<main>\n<h1>{name}</h1>")?;
        let figures = figures(&self.diversity);
        self.overview(out)?;
        self.performance(out, &figures)?;
        self.weights(out, &figures)?;
        self.behaviour(out)?;
        if !self.diversity.twins.is_empty() {
            writeln!(out, "<h2>Sparse twins</h2>")?;
            figure(out, &figures, "twins")?;
            self.twins(out)?;
        }
        if let Some(benchmark) = &self.benchmark {
            benchmark_section(out, benchmark)?;
        }
        writeln!(out, "</main>\n</html>")
    }

    fn overview(&self, out: &mut String) -> std::fmt::Result {
        let record = &self.zoo;
        writeln!(out, "<p>{}</p>", escape(&record.description))?;
        let engine = record.engine.as_ref().map_or("not recorded".into(), |e| format!("{} {}", e.name, e.version));
        facts(
            out,
            &[
                ("models", record.models.to_string()),
                ("states", record.states.to_string()),
                ("parameters", record.parameters.to_string()),
                ("diverged models", record.diverged.to_string()),
                ("dataset", record.dataset.name.clone()),
                ("engine", engine),
            ],
        )?;
        for note in &self.notes {
            writeln!(out, "<p class=\"note\">{}</p>", escape(note))?;
        }
        Ok(())
    }

    fn performance(&self, out: &mut String, figures: &[Figure]) -> std::fmt::Result {
        if !self.diversity.epochs.is_empty() {
            writeln!(out, "<h2>Performance</h2>")?;
        }
        figure(out, figures, "accuracy")?;
        if let Some((epoch, last)) = self.diversity.epochs.last() {
            let mut rows = vec![(format!("test accuracy, epoch {epoch}"), last.accuracy)];
            rows.extend(last.gap.map(|gap| (format!("generalisation gap, epoch {epoch}"), gap)));
            distributions(out, &rows)?;
        }
        figure(out, figures, "gap")?;
        if !self.diversity.hyperparameters.is_empty() {
            writeln!(out, "<h2>Hyperparameters</h2>")?;
            figure(out, figures, "hyperparameters")?;
        }
        let shared: Vec<String> =
            self.diversity.shared.iter().map(|(key, value)| format!("{} {value}", short(key))).collect();
        writeln!(out, "<p>All models share: {}.</p>", escape(&shared.join(", ")))
    }

    fn weights(&self, out: &mut String, figures: &[Figure]) -> std::fmt::Result {
        writeln!(out, "<h2>Weights</h2>")?;
        figure(out, figures, "weights")?;
        figure(out, figures, "map")?;
        let Some(weights) = &self.diversity.weights else { return Ok(()) };
        writeln!(out, "<p>Last states of {}, all pairs:</p>", counted(weights.models, "model"))?;
        distributions(out, &[("l2 distance".into(), weights.l2), ("cosine".into(), weights.cosine)])
    }

    fn behaviour(&self, out: &mut String) -> std::fmt::Result {
        let Some(behaviour) = &self.diversity.behaviour else { return Ok(()) };
        writeln!(out, "<h2>Behaviour</h2>")?;
        let (models, samples) = (counted(behaviour.models, "model"), counted(behaviour.samples, "test image"));
        let cka = behaviour.cka_samples;
        writeln!(out, "<p>Last states of {models}, all pairs: predictions of {samples}, activations of {cka}.</p>")?;
        let mut rows = vec![("agreement".to_owned(), behaviour.agreement)];
        rows.extend(behaviour.kappa.map(|kappa| ("Cohen's kappa".to_owned(), kappa)));
        for (i, layer) in behaviour.cka.iter().enumerate() {
            let last = i + 1 == behaviour.cka.len();
            let label = if last { "CKA, logits".to_owned() } else { format!("CKA, layer {}", i + 1) };
            rows.extend(layer.map(|d| (label, d)));
        }
        distributions(out, &rows)
    }

    fn twins(&self, out: &mut String) -> std::fmt::Result {
        let twins = &self.diversity.twins;
        write!(out, "<div class=\"scroll\"><table><tr><th>twins<th>sparsity<th>accuracy<th>change<th>agreement")?;
        let layers = twins.first().map_or(&[][..], |t| &t.layers);
        for (layer, _) in layers {
            write!(out, "<th>{}", escape(layer))?;
        }
        writeln!(out)?;
        let optional = |d: Option<Distribution>| d.map_or(String::new(), |d| percent(d.mean));
        for twin in twins {
            let sparsity = percent(twin.sparsity.mean);
            let [accuracy, change, agreement] = [twin.accuracy, twin.accuracy_change, twin.agreement].map(optional);
            write!(out, "<tr><td>{}<td>{sparsity}<td>{accuracy}<td>{change}<td>{agreement}", escape(&twin.name))?;
            for (_, share) in &twin.layers {
                write!(out, "<td>{}", percent(*share))?;
            }
            writeln!(out)?;
        }
        writeln!(
            out,
            "</table></div>\n<p>Means over the models: zeros among the weights, test accuracy, its change from the parent, test \
             images that twin and parent classify alike, zeros of each layer.</p>"
        )
    }
}

/// The figure of this name, if there is one.
fn figure(out: &mut String, figures: &[Figure], name: &str) -> std::fmt::Result {
    for figure in figures.iter().filter(|f| f.name == name) {
        let svg = figure.svg.find("<svg").map_or("", |start| &figure.svg[start..]);
        let caption = escape(&figure.caption);
        writeln!(out, "<figure><div class=\"scroll\">{svg}</div><figcaption>{caption}</figcaption></figure>")?;
    }
    Ok(())
}

fn benchmark_section(out: &mut String, benchmark: &Benchmark) -> std::fmt::Result {
    writeln!(out, "<h2>Predicting properties from weights</h2>")?;
    let PerSplit { train, val, test } = benchmark.models;
    let (states, train) = (counted(benchmark.states.iter().sum(), "state"), counted(train, "model"));
    writeln!(
        out,
        "<p>Properties of a model predicted from one state: from its weights w, or from statistics s(w) of each layer. \
         {states}; {train} to train, {val} to choose the ridge penalty and the number of trees, {test} to \
         test. R² with Kendall's τ, or accuracy.</p>"
    )?;
    let predictors = [
        (Predictor::RidgeWeights, "w, ridge"),
        (Predictor::RidgeStatistics, "s(w), ridge"),
        (Predictor::TreesStatistics, "s(w), trees"),
    ];
    write!(out, "<div class=\"scroll\"><table><tr><th>property")?;
    for (_, label) in predictors {
        write!(out, "<th>{label}")?;
    }
    writeln!(out, "<th>most frequent")?;
    for property in benchmark.properties() {
        write!(out, "<tr><td>{property}")?;
        for (predictor, _) in predictors {
            let cell = benchmark.score(property, predictor).map(|s| match (s.r2, s.kendall_tau, s.accuracy) {
                (Some(r2), Some(tau), _) => format!("{} <small>τ {}</small>", fixed(r2, 3), fixed(tau, 2)),
                (_, _, Some(accuracy)) => percent(accuracy),
                _ => "–".into(),
            });
            write!(out, "<td>{}", cell.unwrap_or_else(|| "–".into()))?;
        }
        let majority = benchmark.scores.iter().find(|s| s.property == property).and_then(|s| s.majority);
        writeln!(out, "<td>{}", majority.map_or(String::new(), percent))?;
    }
    writeln!(out, "</table></div>")?;
    for note in &benchmark.notes {
        writeln!(out, "<p class=\"note\">{}</p>", escape(note))?;
    }
    if benchmark.states_left_out > 0 {
        let states = counted(benchmark.states_left_out, "state");
        writeln!(out, "<p>{states} diverged or had no metrics, and were left out.</p>")?;
    }
    Ok(())
}

fn facts(out: &mut String, facts: &[(&str, String)]) -> std::fmt::Result {
    write!(out, "<dl>")?;
    for (what, value) in facts {
        write!(out, "<div><dt>{what}<dd>{}</div>", escape(value))?;
    }
    writeln!(out, "</dl>")
}

fn distributions(out: &mut String, rows: &[(String, Distribution)]) -> std::fmt::Result {
    writeln!(
        out,
        "<div class=\"scroll\"><table><tr><th><th>mean<th>deviation<th>5 %<th>25 %<th>median<th>75 %<th>95 %"
    )?;
    for (label, d) in rows {
        write!(out, "<tr><td>{}", escape(label))?;
        for value in [d.mean, d.std].iter().chain(&d.quantiles[1..6]) {
            write!(out, "<td>{}", fixed(*value, 3))?;
        }
        writeln!(out)?;
    }
    writeln!(out, "</table></div>")
}

/// Text from an untrusted source, as HTML text.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

const STYLE: &str = "
body { margin: 0; background: #fff; color: #1c2128; font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 800px; margin: 0 auto; padding: 16px; }
h1 { font-size: 1.7rem; margin: .5em 0 0; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 2em 0 .5em; border-bottom: 1px solid #d8dee4; }
dl { display: flex; flex-wrap: wrap; gap: 8px 28px; }
dt { font-size: .8rem; color: #57606a; }
dd { margin: 0; font-weight: 600; }
figure { margin: 1em 0; }
figcaption { font-size: .875rem; color: #57606a; }
.scroll { overflow-x: auto; }
svg { display: block; width: 100%; min-width: 620px; height: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: 3px 12px 3px 0; text-align: right; white-space: nowrap; border-bottom: 1px solid #eaeef2; }
th:first-child, td:first-child { text-align: left; }
small { color: #57606a; }
.note { padding: 8px 12px; background: #fff8c5; border-radius: 6px; }
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn untrusted_text_is_text() {
        assert_eq!(escape("<script>\"&'"), "&lt;script&gt;&quot;&amp;&#39;");
    }
}
