//! What the tests of all crates have in common: running a program in a folder of its own, the
//! files that it leaves, reference vectors, and snapshots of what it prints.
//!
//! Everything here panics when something is not as a test expects it.

pub mod failures;
pub mod program;
pub mod reference;
pub mod server;
pub mod snapshot;
pub mod tree;
pub mod workspace;

pub use insta;
pub use program::{shell, tool, Arguments, Outcome, Program};
pub use tree::{assert_same_files, copy_folder, files};
pub use workspace::Workspace;
