//! `result.json`: one JSON object per line, one line per kept state.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::files::{read_limited, FileError};
use crate::text::json_fault;

/// Size limit of a `result.json`.
pub const SIZE_LIMIT: u64 = 64 << 20;

/// Metrics of one kept state, with the published collection's keys. Losses are means of the cross
/// entropy over samples, accuracies shares of samples; a loss that is not finite is `None`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ResultLine {
    /// Epoch; 0 is the initialisation (in a twin: the pruned model before fine-tuning).
    pub training_iteration: u32,
    /// Running mean over the epoch's batches as trained, dropout on; epoch 0: an evaluation.
    pub train_loss: Option<f64>,
    /// As `train_loss`.
    pub train_acc: Option<f64>,
    /// Evaluated on the test split.
    pub test_loss: Option<f64>,
    /// Evaluated on the test split.
    pub test_acc: Option<f64>,
    /// Evaluated on the validation split; `None` if that is empty.
    pub val_loss: Option<f64>,
    /// Evaluated on the validation split; `None` if that is empty.
    pub val_acc: Option<f64>,
    /// Whether a weight or a loss of this state is not finite.
    #[serde(default)]
    pub diverged: bool,
    /// In a twin: share of the weights (biases left out) that are zero.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sparsity_ratio: Option<f64>,
    /// In a twin: share of the test split on which it predicts as its parent's last state does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test_agreement: Option<f64>,
    /// Keys that this program does not know.
    #[serde(flatten)]
    pub extra: BTreeMap<String, Value>,
}

/// A finite number, or `None`: what JSON can hold.
pub fn finite(value: f64) -> Option<f64> {
    value.is_finite().then_some(value)
}

/// The file's content.
pub fn to_json_lines(lines: &[ResultLine]) -> String {
    lines.iter().map(|l| serde_json::to_string(l).expect("plain data serialises") + "\n").collect()
}

/// Parses a `result.json`; blank lines do not count.
///
/// # Errors
/// A sentence that names the line.
pub fn from_json_lines(json: &[u8]) -> Result<Vec<ResultLine>, String> {
    let text = std::str::from_utf8(json).map_err(|e| e.to_string())?;
    let lines: Vec<ResultLine> = text
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty())
        .map(|(i, line)| {
            let fault = |e| json_fault::<ResultLine>(line.as_bytes(), &sound(), &e);
            serde_json::from_str(line).map_err(|e| format!("line {}: {}", i + 1, fault(e)))
        })
        .collect::<Result<_, _>>()?;
    if let Some(w) = lines.windows(2).find(|w| w[0].training_iteration >= w[1].training_iteration) {
        let [before, after] = [&w[0], &w[1]].map(|line| line.training_iteration);
        return Err(format!("`training_iteration` does not ascend: {after} follows {before}"));
    }
    Ok(lines)
}

fn sound() -> Value {
    serde_json::json!({
        "training_iteration": 0, "train_loss": 0, "train_acc": 0, "test_loss": 0, "test_acc": 0, "val_loss": 0, "val_acc": 0
    })
}

/// Reads a `result.json`.
pub fn read(path: &Path) -> Result<Vec<ResultLine>, FileError> {
    from_json_lines(&read_limited(path, SIZE_LIMIT)?).map_err(|m| FileError::format(path, m))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_round_trip_and_losses_that_are_not_finite_are_null() {
        let line = |epoch| ResultLine {
            training_iteration: epoch,
            train_loss: finite(f64::NAN),
            train_acc: finite(0.1),
            test_loss: finite(0.1 + 0.2),
            test_acc: finite(1.0 / 3.0),
            val_loss: None,
            val_acc: None,
            diverged: true,
            sparsity_ratio: None,
            test_agreement: None,
            extra: BTreeMap::from([("note".into(), "mine".into())]),
        };
        let lines = vec![line(0), line(1)];
        let json = to_json_lines(&lines);
        assert!(json.starts_with("{\"training_iteration\":0,\"train_loss\":null,\"train_acc\":0.1,"), "{json}");
        assert_eq!(from_json_lines(json.as_bytes()).unwrap(), lines);
        let twice = to_json_lines(&[line(1), line(1)]);
        assert!(from_json_lines(twice.as_bytes()).unwrap_err().contains("does not ascend: 1 follows 1"));
        let blank = format!("\n{}\n \r\n", json.replace('\n', "\r\n\r\n"));
        assert_eq!(from_json_lines(blank.as_bytes()).unwrap(), lines);
        assert!(from_json_lines(b"\n{}\n").unwrap_err().starts_with("line 2: missing field"));
        let wrong = json.replacen("\"train_acc\":0.1", "\"train_acc\":\"0.1\"", 1);
        assert!(from_json_lines(wrong.as_bytes()).unwrap_err().starts_with("line 1: `train_acc`: invalid type"));
        assert!(from_json_lines(b"{}\n").unwrap_err().starts_with("line 1"));
    }
}
