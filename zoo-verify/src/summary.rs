//! The verdicts on everything that was given.

use std::fmt;

use serde::Serialize;
use zoo_model::stage::SummaryError;

use crate::report::{Report, VolumeSet};
use crate::VerifyError;

/// The verdicts on everything that was given.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct VerifySummary {
    /// Whether all of it is valid.
    pub ok: bool,
    /// One report per path.
    pub reports: Vec<Report>,
    /// Which volumes were verified, of zoos that have several.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<VolumeSet>,
    /// Why there is no report on the other paths.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<String>,
}

impl VerifySummary {
    /// The summary of these reports, and of the errors on all other paths, if all is well; `complete`
    /// demands all volumes of a zoo.
    ///
    /// # Errors
    /// All is not well: the worst that happened. The summary is part of the error, unless it is empty.
    pub(crate) fn conclude(
        reports: Vec<Report>,
        mut errors: Vec<VerifyError>,
        complete: bool,
    ) -> Result<Self, VerifyError> {
        let volumes = VolumeSet::of(&reports);
        let failed = reports.iter().filter(|r| !r.ok).map(|r| r.path.display().to_string());
        let incomplete = volumes.iter().filter(|set| complete && !set.complete).map(|set| set.name.clone());
        let failed: Vec<String> = failed.chain(incomplete).collect();
        let ok = failed.is_empty() && errors.is_empty();
        let summary = Self { ok, reports, volumes, errors: errors.iter().map(ToString::to_string).collect() };
        if ok {
            return Ok(summary);
        }
        if failed.is_empty() && summary.reports.is_empty() && errors.len() == 1 {
            return Err(errors.remove(0));
        }
        if failed.is_empty() {
            let message = summary.errors.join("; ");
            let usage = errors.iter().position(|e| matches!(e, VerifyError::Usage(_))).unwrap_or(0);
            let source = errors.swap_remove(usage);
            return Err(SummaryError::new(&summary, message, Some(source.into())).into());
        }
        let failed = format!("{}: verification failed", failed.join(", "));
        let message = std::iter::once(failed).chain(summary.errors.clone()).collect::<Vec<_>>().join("; ");
        Err(SummaryError::new(&summary, message, None).into())
    }
}

impl fmt::Display for VerifySummary {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let reports = self.reports.iter().map(ToString::to_string);
        let lines: Vec<String> = reports.chain(self.volumes.iter().map(ToString::to_string)).collect();
        f.write_str(&lines.join("\n"))
    }
}
