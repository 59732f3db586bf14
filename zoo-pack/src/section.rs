//! `[pack]`.

use serde::{de, Deserialize, Deserializer, Serialize};

/// Smallest volume size that is accepted.
const VOLUME_MINIMUM: u64 = 1 << 20;
/// Largest: a pebibyte, below which f64 counts every byte.
const VOLUME_MAXIMUM: u64 = 1 << 50;

/// `[pack]`: how the archive is compressed and split.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", expecting = "a table")]
pub struct PackSection {
    /// Deflate level, 0 to 9.
    #[serde(default = "default_level", deserialize_with = "level")]
    pub level: u32,
    /// Maximum number of bytes of an archive file; a larger zoo is split into volumes.
    #[serde(default, deserialize_with = "volume_size")]
    pub volume_size: Option<u64>,
}

impl Default for PackSection {
    fn default() -> Self {
        Self { level: default_level(), volume_size: None }
    }
}

fn default_level() -> u32 {
    6
}

fn level<'de, D: Deserializer<'de>>(d: D) -> Result<u32, D::Error> {
    match i64::deserialize(d).map_err(|_| de::Error::custom("must be a whole number from 0 to 9"))? {
        n @ 0..=9 => Ok(n as u32),
        n => Err(de::Error::custom(format!("must be from 0 to 9, not {n}"))),
    }
}

fn volume_size<'de, D: Deserializer<'de>>(d: D) -> Result<Option<u64>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Size {
        Bytes(u64),
        Text(String),
    }
    let text =
        match Size::deserialize(d).map_err(|_| de::Error::custom("must be a size such as \"2GB\" or \"500MiB\""))? {
            Size::Bytes(bytes) => bytes.to_string(),
            Size::Text(text) => text,
        };
    parse_size(&text).map(Some).map_err(de::Error::custom)
}

/// Parses a size such as `2GB`, `1.5GB`, `500MiB` or `1048576`.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor: u64 = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kb" => 1000,
        "mb" => 1000 * 1000,
        "gb" => 1000 * 1000 * 1000,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        unit => return Err(format!("`{unit}` is not a unit of size; use MB, GB, MiB or GiB")),
    };
    let number = digits.trim();
    let wrong = || format!("`{text}` is not a size; write 2GB, 1.5GB or 500MiB");
    if !number.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return Err(wrong());
    }
    let bytes = number.parse::<f64>().map_err(|_| wrong())? * factor as f64;
    match bytes as u64 {
        VOLUME_MINIMUM..=VOLUME_MAXIMUM => Ok(bytes as u64),
        0..VOLUME_MINIMUM => Err(format!("a volume must have at least {VOLUME_MINIMUM} bytes (1MiB), not {text}")),
        _ => Err(format!("{text} is larger than any volume; omit the key for a single archive")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zoo_model::Manifest;

    #[test]
    fn sizes_and_levels_are_checked() {
        let of = |text: &str| -> Result<PackSection, _> {
            Manifest::parse("m.toml", format!("[pack]\n{text}")).unwrap().required("pack")
        };
        assert_eq!(of("").unwrap(), PackSection::default());
        assert_eq!(of("volume-size = \"2GB\"").unwrap().volume_size, Some(2_000_000_000));
        assert_eq!(of("volume-size = 1048576").unwrap().volume_size, Some(1 << 20));
        assert_eq!(of("volume-size = \"1.5GB\"").unwrap().volume_size, Some(1_500_000_000));
        assert_eq!(of("volume-size = \"1.5 MiB\"").unwrap().volume_size, Some(3 << 19));
        assert_eq!(of("volume-size = 123456789012345").unwrap().volume_size, Some(123_456_789_012_345));
        assert!(of("volume-size = \"99999999999GB\"").unwrap_err().to_string().contains("larger than any volume"));
        for wrong in ["1.5.2GB", "-2GB", "1e5GB", "GB", ""] {
            assert!(
                of(&format!("volume-size = \"{wrong}\"")).unwrap_err().to_string().contains("is not a size"),
                "{wrong}"
            );
        }
        assert!(of("volume-size = \"2 parsecs\"").unwrap_err().to_string().contains("parsecs"));
        assert!(of("volume-size = \"1kB\"").unwrap_err().to_string().contains("at least"));
        assert!(of("level = 10").unwrap_err().to_string().starts_with("m.toml:2: pack.level: must be from 0 to 9"));
        for wrong in ["level = \"six\"", "level = 6.5", "level = [6]"] {
            assert!(of(wrong).unwrap_err().to_string().ends_with("pack.level: must be a whole number from 0 to 9"));
        }
        assert!(of("levle = 1").unwrap_err().to_string().contains("did you mean `level`?"));
    }

    #[test]
    fn sizes_have_units_and_limits() {
        for (text, size) in [
            ("1048576", 1 << 20),
            ("1048576B", 1 << 20),
            ("2000kB", 2_000_000),
            ("3 MB", 3_000_000),
            ("2GB", 2_000_000_000),
            ("2048KiB", 2 << 20),
            ("1MiB", 1 << 20),
            ("3gib", 3 << 30),
            ("1048576GiB", 1 << 50),
        ] {
            assert_eq!(parse_size(text), Ok(size), "{text}");
        }
        assert!(parse_size("1048575").unwrap_err().contains("at least 1048576 bytes"));
        assert!(parse_size("1048577GiB").unwrap_err().contains("larger than any volume"));
        assert!(parse_size("0.5MiB").unwrap_err().contains("at least 1048576 bytes (1MiB), not 0.5MiB"));
        let level = |level: i64| {
            let manifest = Manifest::parse("m.toml", format!("[pack]\nlevel = {level}")).unwrap();
            manifest.required::<PackSection>("pack").map(|pack| pack.level).map_err(|e| e.message)
        };
        assert_eq!([0, 9].map(level), [Ok(0), Ok(9)]);
        assert_eq!([-1, 10].map(level), [-1, 10].map(|n| Err(format!("must be from 0 to 9, not {n}"))));
        assert_eq!(PackSection::default().level, 6);
    }
}
