//! The check of a device before it is used: its kernels beside the processor's.

use std::sync::Arc;

use zoo_engine_cuda::{Driver, Program};
use zoo_engine_simd::Portable;

use super::source::TILES;
use super::{CudaKernels, Tile};
use crate::cpu::Cpu;
use crate::geometry::{padded, Geometry, Map, SEGMENT};
use crate::kernels::{Kernels, Outcome, Shape};
use zoo_engine::DeviceError;

/// The tile that every product gets.
pub(super) const FORCED: [fn(usize, usize, usize) -> Tile; TILES.len()] =
    [|_, _, _| TILES[0], |_, _, _| TILES[1], |_, _, _| TILES[2], |_, _, _| TILES[3], |_, _, _| TILES[4]];

/// Compares convolutions in every tile, and sums of several segments, with the processor's.
///
/// # Errors
/// A bit differs, or the device failed.
pub fn check_kernels(driver: &dyn Driver, program: &Arc<dyn Program>) -> Outcome {
    let square = |side| Map { height: side, width: side };
    let cpu = Cpu(Portable::<8>);
    let differs = |what: String| Err(DeviceError::BitMismatch { device: driver.name(), what });
    // More than a tile of rows and columns, and less than two.
    let [map, kernel] = [square(2), square(3)];
    let geometry = Geometry { input: map, output: map, kernel, stride: 1, padding: 1, inputs: 20, outputs: 132 };
    let expected = passes(&cpu, &geometry, 260)?;
    for (tile, of_tile) in TILES.iter().zip(FORCED) {
        let kernels = CudaKernels { tile: of_tile, ..CudaKernels::new(driver, program.clone(), None)? };
        if passes(&kernels, &geometry, 260)? != expected {
            return differs(format!("convolutions in tiles of {} x {}", tile.rows, tile.columns));
        }
    }
    let images = 2 * SEGMENT + 7;
    let geometry = Geometry { input: square(1), output: square(1), kernel: square(1), padding: 0, ..geometry };
    let geometry = Geometry { inputs: 3, outputs: 5, ..geometry };
    let kernels = CudaKernels::new(driver, program.clone(), None)?;
    if segments(&kernels, &geometry, images)? != segments(&cpu, &geometry, images)? {
        return differs("sums of segments".into());
    }
    Ok(())
}

/// Bits of all passes of a convolution.
pub(super) fn passes<K: Kernels>(kernels: &K, g: &Geometry, images: usize) -> Outcome<Vec<Vec<u32>>> {
    let (from, to) = (g.input.positions() * images, g.output.positions() * images);
    let x = filled(kernels, from, g.inputs, 1)?;
    let weights = filled(kernels, g.taps() * g.inputs, g.outputs, 2)?;
    let bias = filled(kernels, 1, g.outputs, 3)?;
    let by_output = filled(kernels, to, g.outputs, 4)?;
    let mut out = filled(kernels, to, g.outputs, 5)?;
    kernels.convolution(g, images, &x, &weights, Some(&bias), &mut out)?;
    let mut all = vec![bits(kernels, &out, to, g.outputs)?];
    kernels.convolution(g, images, &x, &weights, None, &mut out)?;
    all.push(bits(kernels, &out, to, g.outputs)?);
    let mut transposed = kernels.zeros(g.transposed_weights())?;
    kernels.transpose(g, &weights, &mut transposed)?;
    all.push(bits(kernels, &transposed, g.taps() * g.outputs, g.inputs)?);
    let mut by_input = filled(kernels, from, g.inputs, 6)?;
    for accumulates in [true, false] {
        kernels.input_gradient(g, images, &by_output, &transposed, &mut by_input, accumulates)?;
        all.push(bits(kernels, &by_input, from, g.inputs)?);
    }
    let mut by_weights = filled(kernels, g.taps() * g.inputs, g.outputs, 7)?;
    kernels.weight_gradient(g, images, &x, &by_output, &mut by_weights)?;
    all.push(bits(kernels, &by_weights, g.taps() * g.inputs, g.outputs)?);
    Ok(all)
}

/// Bits of the gradients of a convolution's weights and bias.
pub(super) fn segments<K: Kernels>(kernels: &K, g: &Geometry, images: usize) -> Outcome<[Vec<u32>; 2]> {
    let x = filled(kernels, g.input.positions() * images, g.inputs, 1)?;
    let by_output = filled(kernels, g.output.positions() * images, g.outputs, 4)?;
    let [mut by_weights, mut by_bias] = [kernels.zeros(g.weights())?, kernels.zeros(padded(g.outputs))?];
    kernels.weight_gradient(g, images, &x, &by_output, &mut by_weights)?;
    let shape = Shape { map: g.output, channels: g.outputs };
    kernels.channel_sums(shape, images, &by_output, &mut by_bias)?;
    Ok([bits(kernels, &by_weights, g.taps() * g.inputs, g.outputs)?, bits(kernels, &by_bias, 1, g.outputs)?])
}

/// Values between -1 and 1, some of them zeros of both signs.
pub(super) fn values(count: usize, seed: u32) -> Vec<f32> {
    let value = |i: u32| {
        let mut bits = (i ^ seed.wrapping_mul(0x9E37_79B9)).wrapping_mul(0x85EB_CA6B);
        bits = (bits ^ bits >> 13).wrapping_mul(0xC2B2_AE35);
        bits ^= bits >> 16;
        match bits % 29 {
            0 => 0.0,
            1 => -0.0,
            _ => (bits >> 8) as f32 / 8_388_608.0 - 1.0,
        }
    };
    (0..count as u32).map(value).collect()
}

/// Rows of channels; padding is NaN, which nothing may read.
pub(super) fn with_padding(rows: usize, channels: usize, seed: u32) -> Vec<f32> {
    let mut stored = vec![f32::NAN; rows * padded(channels)];
    for (row, values) in stored.chunks_exact_mut(padded(channels)).zip(values(rows * channels, seed).chunks(channels)) {
        row[..channels].copy_from_slice(values);
    }
    stored
}

/// A buffer of [`with_padding`].
pub(super) fn filled<K: Kernels>(kernels: &K, rows: usize, channels: usize, seed: u32) -> Outcome<K::Buffer> {
    crate::kernels::upload(kernels, &with_padding(rows, channels, seed))
}

/// Bits of a buffer's rows of channels, without padding; of any NaN, the same.
pub(super) fn bits<K: Kernels>(kernels: &K, buffer: &K::Buffer, rows: usize, channels: usize) -> Outcome<Vec<u32>> {
    let mut values = vec![0.0; rows * padded(channels)];
    kernels.download(buffer, &mut values)?;
    let rows = values.chunks_exact(padded(channels)).flat_map(|row| &row[..channels]);
    Ok(rows.map(|v| if v.is_nan() { f32::NAN.to_bits() } else { v.to_bits() }).collect())
}
