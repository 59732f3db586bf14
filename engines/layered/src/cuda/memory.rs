//! How much device memory a model takes.

use std::collections::HashMap;

use zoo_engine::optimizer::moment_count;
use zoo_model::{Dataset, Hyperparameters, Network, Split};

use crate::cohort::images_at_a_time;
use crate::geometry::{padded, segments};
use crate::graph::{Graph, Operation};
use crate::model::storages;

/// Gradients of values of one size that are in memory at the same time: a residual block has a value's, those of
/// both of its paths, and one that is being computed.
const GRADIENTS: usize = 4;

/// Bytes of device memory that a model takes.
pub fn bytes_per_model(h: &Hyperparameters, network: &Network, data: &Dataset, is_noisy: bool) -> usize {
    let graph = Graph::new(network);
    let largest = Split::ALL.map(|split| data.len(split)).into_iter().max().unwrap_or(0);
    let images = images_at_a_time(&graph, h.batch_size, data.len(Split::Train)).min(largest);
    let parameters: Vec<usize> = storages(network, &graph).iter().map(|s| s.floats()).collect();
    let trained: usize = network
        .parameters()
        .iter()
        .zip(&parameters)
        .filter(|(p, _)| p.role.is_trained())
        .map(|(_, floats)| floats)
        .sum();
    // With gradients, a mask, and moments.
    let vectors = 2 + moment_count(h.optimizer);
    let transposed = graph.geometries().map(|g| g.transposed_weights()).max().unwrap_or(0);
    let mut sizes: HashMap<usize, usize> = HashMap::new();
    (0..graph.values.len()).for_each(|value| *sizes.entry(graph.floats(value, images)).or_default() += 1);
    let gradients: usize = sizes.into_iter().map(|(floats, values)| floats * values.min(GRADIENTS)).sum();
    let left: usize = graph
        .nodes
        .iter()
        .map(|node| match node.operation {
            Operation::MaxPool => graph.floats(node.output, images),
            Operation::Pointwise(layers) if layers.dropout.is_some() => graph.floats(node.output, images),
            Operation::Convolution { .. } | Operation::Pointwise(_) | Operation::AveragePool => 0,
        })
        .sum();
    let values = images * graph.floats_per_image() + gradients + left;
    let noise = if is_noisy { noise_floats(&graph, images, moment_count(h.optimizer)) } else { 0 };
    let floats = parameters.iter().sum::<usize>() + trained * vectors + transposed + values;
    (floats + sums_floats(&graph, images) + noise) * size_of::<f32>() + images * data.image_len()
}

/// Floats of the largest sums of segments.
fn sums_floats(graph: &Graph, images: usize) -> usize {
    let of_weights = graph.geometries().map(|g| match segments(g.output.positions() * images).count() {
        1 => 0,
        count => count * g.weights(),
    });
    let of_channels =
        graph.values.iter().map(|shape| segments(shape.map.positions() * images).count() * 2 * padded(shape.channels));
    of_weights.chain(of_channels).max().unwrap_or(0)
}

/// Floats of variational dropout.
fn noise_floats(graph: &Graph, images: usize, moments: usize) -> usize {
    let layers = graph.nodes.iter().filter_map(|node| match node.operation {
        Operation::Convolution { geometry, .. } => Some((node, geometry)),
        Operation::Pointwise(_) | Operation::MaxPool | Operation::AveragePool => None,
    });
    let of_layers =
        layers.clone().map(|(node, geometry)| geometry.weights() * (3 + moments) + graph.floats(node.output, images));
    let largest = layers.clone().map(|(node, _)| graph.floats(node.input, images)).max().unwrap_or(0);
    let transposed = layers.map(|(_, geometry)| geometry.transposed_weights()).max().unwrap_or(0);
    of_layers.sum::<usize>() + 2 * largest + transposed
}
