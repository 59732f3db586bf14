// What the kernels are called with; the same in mod.rs. Addresses first, then numbers of 32 bits.

// A convolution or the gradient of its input.
struct convolution {
    const float *x, *weights;
    const float *bias; // or null
    float *out;
    int images, inputs, outputs; // outputs padded
    int input_height, input_width, output_height, output_width;
    int kernel_height, kernel_width, stride, padding;
    int is_gradient; // x is the gradient of a convolution's output, out that of its input
    int accumulates; // on what is in `out`
    int row_tiles, column_tiles;
};

struct weight_gradient {
    const float *x, *by_output;
    float *sums; // (segments, taps, real inputs, outputs)
    int images, inputs, real_inputs, outputs; // the first and last padded
    int input_height, input_width, output_height, output_width;
    int kernel_height, kernel_width, stride, padding;
    int rows;  // taps * inputs
    int terms; // positions * images
    int row_tiles, column_tiles;
};

struct add_segments {
    const float *sums; // (segments, floats)
    float *out;
    int floats, segments;
};

struct transpose {
    const float *weights; // (taps, inputs, padded outputs)
    float *out;           // (taps, outputs, padded inputs)
    int taps, inputs, outputs;
};

// A pointwise layer: addresses may be null. Channels are padded.
struct pointwise {
    const float *x;
    const float *mean, *inverse_deviation, *scale, *shift; // all or none
    const float *addend;
    const float *factors;
    float *out; // or, of the layer's gradient, the gradient
    float *sums; // (segments, 2, channels): of the gradients of shift and scale
    int rows;    // positions * images
    int channels;
    int activation; // or -1
};

// Sums of a segment's rows, or, with a mean, of the squares of their distances from it.
struct sum_segments {
    const float *x;
    const float *mean;
    float *sums; // (segments, channels)
    int rows, channels;
};

// What is done with sums.
#define KEEP 0
#define MEAN 1
#define VARIANCE 2

struct finish_sums {
    const float *sums;           // (segments, columns)
    float *first, *second;       // each of the padded channels; the second of KEEP gets the columns beyond them
    float *running;              // of MEAN and VARIANCE
    int segments, columns, channels;
    int rows, what;
};

struct norm_gradient {
    const float *x, *mean, *inverse_deviation, *scale, *gradient, *by_scale, *by_shift;
    float *out;
    int rows, channels;
};

struct vectors {
    const float *from;
    float *to;
    long long floats;
};

struct pool {
    const float *x;
    float *out;
    float *winners; // of the maximum
    int height, width, images, channels; // of the larger map
};

struct dropout {
    float *out;
    u64 seed;
    int positions, images, channels; // channels as they are
    u32 purpose, epoch, step, threshold;
    float kept;
};

struct load_images {
    const u8 *pixels;   // (images, channels, height, width)
    const float *table; // (channels, 256)
    float *out;
    int images, channels, positions, is_flat;
};

// Labels come with the call, so that nothing waits for a copy of them.
struct cross_entropy {
    const float *logits;
    float *out;
    int images; // of the mini-batch
    int classes, first;
    int unused;
    u16 labels[LABELS]; // from image `first` on
};

struct update {
    const float *gradient;
    const float *mask; // or null
    float *parameters;
    float *first, *second; // moments; second only of Adam
    long long floats;
    int is_adam;
    float step_size;  // or the learning rate
    float correction; // of Adam
    float rate;       // of Adam's mean, or the momentum
    float weight_decay;
};

struct add_noise {
    float *variances, *sums;
    u64 seed;
    int positions, images, channels; // channels as they are
    u32 purpose, epoch, step;
};

struct add_of_squares {
    const float *x, *by_squares;
    float *gradient;
    long long floats;
};

struct add_divergence {
    const float *weights, *log_sigma2, *sigma2;
    float *by_weights, *by_noise;
    long long floats;
    float kl_weight;
};
