//! Records of fixed length: the binary versions of CIFAR-10, CIFAR-100 and STL-10.

/// Splits `bytes` into records of `length` bytes.
///
/// # Errors
/// The last one is not whole.
///
/// ```
/// let mut records = zoo_data::formats::records::records(&[1, 10, 11, 2, 20, 21], 3).unwrap();
/// assert_eq!(records.next(), Some(&[1, 10, 11][..]));
/// assert!(zoo_data::formats::records::records(&[1, 10], 3).is_err());
/// ```
pub fn records(bytes: &[u8], length: usize) -> Result<std::slice::ChunksExact<'_, u8>, String> {
    match bytes.len() % length {
        0 => Ok(bytes.chunks_exact(length)),
        rest => Err(format!("holds {} records of {length} bytes and {rest} bytes more", bytes.len() / length)),
    }
}

/// Rows to columns and back, in every channel: MATLAB stores (C, W, H) where we want (C, H, W).
///
/// ```
/// // One channel of 2 rows and 3 columns, column by column.
/// let rows = zoo_data::formats::records::from_columns(&[1, 4, 2, 5, 3, 6], [1, 2, 3]);
/// assert_eq!(rows, [1, 2, 3, 4, 5, 6]);
/// ```
pub fn from_columns(pixels: &[u8], [channels, height, width]: [usize; 3]) -> Vec<u8> {
    let pixel = |c, y, x| pixels[(c * width + x) * height + y];
    let rows = (0..channels).flat_map(|c| (0..height).map(move |y| (c, y)));
    rows.flat_map(|(c, y)| (0..width).map(move |x| pixel(c, y, x))).collect()
}
