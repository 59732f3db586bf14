//! Shards: parts of a zoo that are made by themselves.

use std::fmt;
use std::str::FromStr;

/// Part `index` (from 1) of `count` equal parts of a zoo's cohorts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    /// From 1.
    pub index: usize,
    /// At least 1.
    pub count: usize,
}

impl Shard {
    /// The one part that is the whole.
    pub const WHOLE: Self = Self { index: 1, count: 1 };

    /// Its part of all cohorts: every `count`-th one.
    pub(super) fn part_of<T>(self, cohorts: Vec<T>) -> Vec<T> {
        cohorts.into_iter().skip(self.index - 1).step_by(self.count).collect()
    }
}

impl FromStr for Shard {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        let parts = s.split_once('/').and_then(|(i, n)| Some((i.parse().ok()?, n.parse().ok()?)));
        match parts {
            Some((index, count)) if (1..=count).contains(&index) => Ok(Self { index, count }),
            _ => Err("a shard is I/N with I from 1 to N, such as 2/8".into()),
        }
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.count)
    }
}
