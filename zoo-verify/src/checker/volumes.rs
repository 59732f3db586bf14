//! Which volumes of a zoo are here, and whether they are what `volumes.json` says.

use std::collections::BTreeSet;

use zoo_model::text::counted;
use zoo_model::zoo_dir::{model_file, names};
use zoo_model::ModelId;
use zoo_pack::{Volume, Volumes, VOLUMES};

use super::totals::Totals;
use super::Checker;
use crate::report::Level;

impl Checker {
    /// Before the first model of an archive: which models are still to come, and whether its volume
    /// continues where the one before it ended.
    pub fn begin_models(&mut self, first: &str) -> Vec<ModelId> {
        let first = model_file(first).map(|(id, _)| id);
        let volume = self.volumes.as_ref().and_then(|v| v.volumes.iter().position(|v| Some(v.first) == first));
        let number = volume.unwrap_or(0);
        if number != self.totals.volumes {
            let Totals { sums, index, .. } = std::mem::take(&mut self.totals);
            // The index of a zoo whose first volumes were not read cannot be rebuilt.
            let index = index.without_models(number == 0);
            self.totals = Totals { sums, partial: number != 0, index, ..Totals::default() };
        }
        let range = self.volumes.as_ref().and_then(|v| v.volumes.get(volume?));
        let offered = |id: &ModelId| range.is_none_or(|v| (v.first..=v.last).contains(id));
        self.listed_models().filter(offered).collect()
    }

    /// Ids of the models whose files `SHA256SUMS` lists, once per file, ascending.
    fn listed_models(&self) -> impl Iterator<Item = ModelId> + '_ {
        let listed = self.listed.iter().flat_map(|l| l.keys());
        listed.filter_map(|path| model_file(path)).map(|(id, _)| id)
    }

    /// The volumes whose models are here, as positions in `volumes.json`.
    pub(super) fn volumes_here(&mut self, archive: bool) -> Vec<usize> {
        let Volumes { volumes } = self.volumes.clone().unwrap_or(Volumes { volumes: Vec::new() });
        let ascending = volumes.windows(2).all(|w| w[0].last < w[1].first);
        if volumes.is_empty() || !ascending || volumes.iter().any(|v| v.first > v.last) {
            self.fail(Level::Structure, VOLUMES, "does not name ascending ranges of models");
            return Vec::new();
        }
        let held = |v: &Volume| self.models.range(v.first..=v.last).count();
        let counts: Vec<usize> = volumes.iter().map(held).collect();
        let here: Vec<usize> = (0..volumes.len()).filter(|&i| counts[i] > 0).collect();
        let whole = |&i: &usize| self.models.contains(&volumes[i].first) && self.models.contains(&volumes[i].last);
        let valid = counts.iter().sum::<usize>() == self.models.len()
            && (here.len() == 1 || !archive && !here.is_empty())
            && (self.cut_short || here.iter().all(whole));
        if !valid {
            let message = "does not name a volume that holds exactly the models found here";
            self.fail(Level::Structure, VOLUMES, message);
        }
        if self.listed.is_some() {
            self.check_listed_models(&volumes);
        }
        here
    }

    /// `volumes.json` and `zoo.json` against `SHA256SUMS`, which lists the models of all volumes.
    fn check_listed_models(&mut self, volumes: &[Volume]) {
        let listed: BTreeSet<ModelId> = self.listed_models().collect();
        let named = volumes.iter().map(|v| listed.range(v.first..=v.last).count()).sum::<usize>();
        if named != listed.len() {
            let message = format!("names volumes for {} of {}", named, counted(listed.len(), "model"));
            self.fail(Level::Structure, VOLUMES, message);
        }
        let expected = self.record.as_ref().map_or(listed.len(), |r| r.models);
        if expected != listed.len() {
            let message = format!("records {}, SHA256SUMS lists {}", counted(expected, "model"), listed.len());
            self.fail(Level::Meaning, names::ZOO, message);
        }
    }
}
