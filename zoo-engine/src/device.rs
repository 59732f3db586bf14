//! Where the arithmetic is done, and what can be wrong there.

use std::fmt;
use std::str::FromStr;

/// Where the arithmetic is done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum DeviceName {
    /// GPUs if there are any and the engine's bits do not depend on it, else the processor.
    #[default]
    Auto,
    /// The processor.
    Cpu,
    /// This GPU, or all of them.
    Cuda(Option<usize>),
}

impl FromStr for DeviceName {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        match s.split_once(':') {
            None if s == "auto" => Ok(Self::Auto),
            None if s == "cpu" => Ok(Self::Cpu),
            None if s == "cuda" => Ok(Self::Cuda(None)),
            Some(("cuda", number)) if number.parse::<usize>().is_ok() => Ok(Self::Cuda(number.parse().ok())),
            _ => Err("a device is auto, cpu, cuda (all GPUs) or cuda:N, such as cuda:0".into()),
        }
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Auto => write!(f, "auto"),
            Self::Cpu => write!(f, "cpu"),
            Self::Cuda(None) => write!(f, "cuda"),
            Self::Cuda(Some(number)) => write!(f, "cuda:{number}"),
        }
    }
}

/// Why a device does not do what it should.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// There is none, or what it takes to use it is missing.
    #[error("{0}")]
    Unavailable(String),
    /// Its memory is full.
    #[error("{device} is out of memory ({bytes} more bytes needed): free its memory, or train with --device cpu")]
    OutOfMemory {
        /// Name of the device.
        device: String,
        /// What was asked for.
        bytes: usize,
    },
    /// An operation failed.
    #[error("{device}: {what}: {why}")]
    Failed {
        /// Name of the device.
        device: String,
        /// What was to be done.
        what: &'static str,
        /// What the driver says.
        why: String,
    },
    /// Its bits are not the processor's.
    #[error(
        "{device} does not compute the same bits as the processor ({what}): train with --device cpu, and report it"
    )]
    BitMismatch {
        /// Name of the device.
        device: String,
        /// Where the two differ.
        what: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_names_are_read_as_they_are_written() {
        for name in ["auto", "cpu", "cuda", "cuda:3"] {
            assert_eq!(name.parse::<DeviceName>().unwrap().to_string(), name);
        }
        for name in ["", "gpu", "cuda:", "cuda:x", "cpu:0"] {
            assert!(name.parse::<DeviceName>().is_err(), "{name}");
        }
    }
}
