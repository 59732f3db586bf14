//! Parameters as a device stores them, and as PyTorch orders them.

use zoo_model::architecture::Parameter;

use crate::geometry::{padded, Geometry};

/// How a tensor of the network is stored.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Storage {
    /// Weights as (taps, inputs, padded outputs), where PyTorch has (outputs, inputs, taps).
    Weights(Geometry),
    /// A vector of this many channels, padded.
    Vector(usize),
}

impl Storage {
    /// Floats, padding included.
    pub fn floats(&self) -> usize {
        match self {
            Self::Weights(geometry) => geometry.weights(),
            Self::Vector(channels) => padded(*channels),
        }
    }

    /// Calls `visit` with each element's place in PyTorch's order, from 0, and its place here.
    fn places(&self, mut visit: impl FnMut(usize, usize)) {
        match *self {
            Self::Weights(geometry) => {
                let Geometry { inputs, outputs, .. } = geometry;
                let (taps, row) = (geometry.taps(), padded(outputs));
                for output in 0..outputs {
                    for input in 0..inputs {
                        let flat = (output * inputs + input) * taps;
                        for tap in 0..taps {
                            visit(flat + tap, (tap * inputs + input) * row + output);
                        }
                    }
                }
            }
            Self::Vector(channels) => (0..channels).for_each(|i| visit(i, i)),
        }
    }

    /// What is stored for a parameter of a flat vector; padding is 0.
    pub fn store(&self, parameter: &Parameter, flat: &[f32]) -> Vec<f32> {
        let mut stored = vec![0.0; self.floats()];
        let values = &flat[parameter.range.clone()];
        self.places(|from, to| stored[to] = values[from]);
        stored
    }

    /// The inverse of [`store`](Self::store), into the flat vector's place.
    pub fn restore(&self, parameter: &Parameter, stored: &[f32], flat: &mut [f32]) {
        let values = &mut flat[parameter.range.clone()];
        self.places(|to, from| values[to] = stored[from]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geometry::Map;
    use zoo_model::architecture::Role;

    #[test]
    fn weights_are_stored_by_tap_and_come_back() {
        let map = |side| Map { height: side, width: side };
        let geometry =
            Geometry { input: map(4), output: map(3), kernel: map(2), stride: 1, padding: 0, inputs: 3, outputs: 17 };
        let range = 5..5 + 17 * 3 * 4;
        let parameter = Parameter { name: "w".into(), shape: vec![17, 3, 2, 2], role: Role::Weight, range };
        let flat: Vec<f32> = (0..parameter.range.end).map(|i| i as f32).collect();
        let storage = Storage::Weights(geometry);
        let stored = storage.store(&parameter, &flat);
        assert_eq!(stored.len(), 4 * 3 * 32);
        // Tap 2 of input 1 of output 16.
        assert_eq!(stored[(2 * 3 + 1) * 32 + 16], flat[5 + (16 * 3 + 1) * 4 + 2]);
        assert_eq!(stored[17], 0.0);
        let mut again = flat[..5].to_vec();
        again.resize(flat.len(), -1.0);
        storage.restore(&parameter, &stored, &mut again);
        assert_eq!(again, flat);
    }
}
