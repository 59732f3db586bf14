//! Which entries a damaged part of an archive reaches.

use zoo_model::zoo_dir::names;
use zoo_pack::entries::{padding, Entry};
use zoo_pack::members::Damage;

use crate::checker::Checker;
use crate::report::Level;

/// Size of a tar header.
const HEADER: u64 = 512;

/// An entry in the decoded stream.
struct Span {
    start: u64,
    /// With its padding.
    end: u64,
    path: String,
}

/// Where entries are in the decoded stream: the last one, and those that damage not yet described
/// may reach.
#[derive(Default)]
pub struct Spans {
    spans: Vec<Span>,
    described: usize,
}

impl Spans {
    pub fn push(&mut self, entry: &Entry) {
        let end = entry.start + HEADER + entry.size + padding(entry.size) as u64;
        self.spans.push(Span { start: entry.start, end, path: entry.path.clone() });
    }

    /// Notes the damage that ends before `position`, with the entry that it begins in, and forgets
    /// the entries that no other damage can reach.
    pub fn describe(&mut self, damages: &[Damage], position: u64, checker: &mut Checker) {
        for damage in damages[self.described..].iter().take_while(|d| d.end <= position) {
            let (entry, message) = self.locate_damage(damage);
            checker.fail(Level::Structure, &entry, message);
            self.described += 1;
        }
        if self.described == damages.len() {
            self.spans.drain(..self.spans.len().saturating_sub(1));
        }
    }

    /// The entry that damage begins in, and a message that says how far it may reach.
    fn locate_damage(&self, damage: &Damage) -> (String, String) {
        let first = self.spans.partition_point(|span| span.start <= damage.start).saturating_sub(1);
        let end = self.spans.partition_point(|span| span.start < damage.end);
        let within = self.spans.get(first..end.max(first + 1)).unwrap_or_default();
        let reach = match within {
            [_, .., last] => format!(" (the damage may reach up to {})", last.path),
            _ => String::new(),
        };
        let entry = match within {
            // A cut after a complete entry; what is missing is named as such.
            [span] if span.end <= damage.start => String::new(),
            [span, ..] => span.path.clone(),
            // Nothing could be read, so the damage is in what every archive begins with.
            [] if damage.end > damage.start => names::CHECKSUMS.to_owned(),
            [] => String::new(),
        };
        (entry, format!("at byte {} of the archive: {}{reach}", damage.offset, damage.message))
    }
}
