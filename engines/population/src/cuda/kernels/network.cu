// A layer's passes. `before` is the layer before, of which the first one has none.

DEVICE void forward_layer(struct layer l, int training, struct draw draw, float *shared) {
    if (l.is_pooled)
        pooled_forward(l, training, shared);
    else
        dense_forward(l, shared);
    __syncthreads();
    if (DROPOUT && training && l.dropout >= 0 && draw.epoch) {
        drop(l, draw, shared);
        __syncthreads();
    }
}

DEVICE void backward_first_layer(struct layer l, float *shared) {
    pooled_weights_backward(l, shared);
    __syncthreads();
}

DEVICE void backward_layer(struct layer l, struct layer before, float *shared) {
    if (l.is_pooled) {
        pooled_weights_backward(l, shared);
        pooled_input_backward(l, before, shared);
    } else {
        dense_weights_backward(l, shared);
        dense_input_backward(l, before, shared);
    }
    __syncthreads();
}
