//! Other projects' decoders, run on bytes from outside.

use std::cell::Cell;
use std::panic::{catch_unwind, set_hook, take_hook, AssertUnwindSafe};
use std::sync::Once;

/// A decoder panicked: a fault of the bytes that it was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the decoder crashed")]
pub struct DecoderPanicked;

/// Runs another project's decoder on bytes from outside; a panic in it is an error, and prints nothing.
///
/// # Errors
/// It panicked.
pub fn guarded<T>(decode: impl FnOnce() -> T) -> Result<T, DecoderPanicked> {
    thread_local!(static GUARDED: Cell<bool> = const { Cell::new(false) });
    static SILENCED: Once = Once::new();
    SILENCED.call_once(|| {
        let print = take_hook();
        set_hook(Box::new(move |panic| {
            if !GUARDED.get() {
                print(panic);
            }
        }));
    });
    let outer = GUARDED.replace(true);
    let outcome = catch_unwind(AssertUnwindSafe(decode));
    GUARDED.set(outer);
    outcome.map_err(|_| DecoderPanicked)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_error() {
        assert_eq!(guarded(|| 1), Ok(1));
        assert_eq!(guarded(|| panic!("not printed")), Err::<(), _>(DecoderPanicked));
        assert_eq!(guarded(|| guarded(|| panic!("not printed")).is_err()), Ok(true));
    }
}
