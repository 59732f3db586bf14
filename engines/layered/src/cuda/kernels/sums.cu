// Sums of every channel over a mini-batch, which are chains of SEGMENT rows: a block loads CHAINED channels
// of a segment, ROWS rows at a time, and the threads of its first warp each add up a column of them while
// the next rows are on their way. What bounds it: memory where segments are many, else the chains, of
// SEGMENT additions one after the other.

#define CHAINED LANES
// Two terms of each channel, next to each other.
#define TERMS (2 * CHAINED)

// A block's place, the row that a thread loads first, and the first of its four channels.
struct chains {
    int segment, row, end, channel;
};

DEVICE struct chains chains_of_block(int rows, int channels) {
    const int groups = channels / CHAINED, segment = (int)blockIdx.x / groups;
    const struct chains c = {segment, segment * SEGMENT, least(rows - segment * SEGMENT, SEGMENT) + segment * SEGMENT,
                             (int)blockIdx.x % groups * CHAINED + (int)threadIdx.x % (CHAINED / 4) * 4};
    return c;
}

// Of the quads that a thread has a hand in, the row.
#define ROWS_AT_ONCE (THREADS / (CHAINED / 4))
#define QUADS (ROWS / ROWS_AT_ONCE)
DEVICE int row_of(int quad) { return (int)threadIdx.x / (CHAINED / 4) + quad * ROWS_AT_ONCE; }

DEVICE void load_summands(const struct sum_segments *a, struct chains c, const float *mean, float (*terms)[4]) {
#pragma unroll
    for (int q = 0; q < QUADS; q++) {
        const int row = c.row + row_of(q);
        if (row >= c.end) break;
        load_quad(a->x + (long long)row * a->channels + c.channel, terms[q]);
        if (a->mean)
            for QUAD (j) terms[q][j] = terms[q][j] - mean[j];
    }
}

DEVICE void store_summands(const float (*terms)[4], float *shared) {
#pragma unroll
    for (int q = 0; q < QUADS; q++)
        store_quad(terms[q], shared + row_of(q) * TERMS + (int)threadIdx.x % (CHAINED / 4) * 4);
}

KERNEL(sum_segments, struct sum_segments) {
    SHARED(shared);
    const struct sum_segments *a = &arguments;
    struct chains c = chains_of_block(a->rows, a->channels);
    float terms[QUADS][4], mean[4], sum = 0.0f;
    if (a->mean) load_quad(a->mean + c.channel, mean);
    int buffer = 0;
    load_summands(a, c, mean, terms);
    store_summands(terms, shared);
    while (c.row < c.end) {
        __syncthreads();
        const int count = least(ROWS, c.end - c.row);
        c.row += ROWS;
        load_summands(a, c, mean, terms);
        const float *column = shared + buffer * ROWS * TERMS + threadIdx.x;
        if (threadIdx.x < CHAINED) {
            if (a->mean) {
#pragma unroll 8
                for (int r = 0; r < count; r++) sum = fmaf(column[r * TERMS], column[r * TERMS], sum);
            } else {
#pragma unroll 8
                for (int r = 0; r < count; r++) sum = sum + column[r * TERMS];
            }
        }
        buffer ^= 1;
        store_summands(terms, shared + buffer * ROWS * TERMS);
    }
    if (threadIdx.x < CHAINED)
        a->sums[(long long)c.segment * a->channels + (int)blockIdx.x % (a->channels / CHAINED) * CHAINED + threadIdx.x] = sum;
}

// Adds up the segments of CHAINED columns in pairs: each thread an aligned power of two of them, then one
// thread those sums.
KERNEL(finish_sums, struct finish_sums) {
    SHARED(shared);
    const struct finish_sums *a = &arguments;
    const int parts = THREADS / CHAINED, part = (int)threadIdx.x / CHAINED;
    const int column = (int)blockIdx.x * CHAINED + (int)threadIdx.x % CHAINED;
    int size = 1;
    while (size * parts < a->segments) size *= 2;
    const int first = part * size, count = least(size, a->segments - first);
    if (count > 0) shared[threadIdx.x] = tree(a->sums + (long long)first * a->columns + column, a->columns, count);
    __syncthreads();
    if (part > 0) return;
    const float sum = tree(shared + threadIdx.x, CHAINED, (a->segments + size - 1) / size);
    const float n = (float)a->rows;
    if (a->what == KEEP) {
        if (column < a->channels)
            a->first[column] = sum;
        else
            a->second[column - a->channels] = sum;
        return;
    }
    float observed = __fdiv_rn(sum, n);
    if (a->what == MEAN) {
        a->first[column] = observed;
    } else {
        a->first[column] = inverse_deviation_of(observed);
            observed = __fdiv_rn(sum, n > 2.0f ? n - 1.0f : 1.0f);
    }
    a->running[column] = fmaf(observed, MOMENTUM, a->running[column] * (1.0f - MOMENTUM));
}

// What a pointwise layer's gradient and its normalisation have for four values.
struct four {
    float gradient[4], normalised[4];
};

// The gradient of what the activation of a pointwise layer is applied to, left where that of its output
// was, and the input as normalised without scale and shift.
DEVICE void pass_gradient(const struct pointwise *a, const struct norm *norm, long long at, struct four *four) {
    load_quad(a->out + at, four->gradient);
    float x[4], other[4];
    if (a->factors) {
        load_quad(a->factors + at, other);
        for QUAD (j) four->gradient[j] = four->gradient[j] * other[j];
    }
    if (a->mean || a->activation >= 0) load_quad(a->x + at, x);
    if (a->mean)
        for QUAD (j) four->normalised[j] = (x[j] - norm->mean[j]) * norm->inverse_deviation[j];
    if (a->activation >= 0) {
        activated_quad(a, norm, at, x);
        for QUAD (j) {
            float derivative;
            activation(a->activation, x[j], &derivative);
            four->gradient[j] = four->gradient[j] * derivative;
        }
    }
    if (a->factors || a->activation >= 0) store_quad(four->gradient, a->out + at);
}

DEVICE void load_gradients(const struct pointwise *a, const struct norm *norm, struct chains c, struct four *fours) {
#pragma unroll
    for (int q = 0; q < QUADS; q++) {
        const int row = c.row + row_of(q);
        if (row >= c.end) break;
        pass_gradient(a, norm, (long long)row * a->channels + c.channel, &fours[q]);
    }
}

DEVICE void store_gradients(const struct four *fours, float *shared) {
#pragma unroll
    for (int q = 0; q < QUADS; q++) {
        float *row = shared + row_of(q) * TERMS + (int)threadIdx.x % (CHAINED / 4) * 4;
        store_quad(fours[q].gradient, row);
        store_quad(fours[q].normalised, row + CHAINED);
    }
}

// The gradient of a pointwise layer with a norm, and the sums of a segment.
KERNEL(pointwise_gradient_sums, struct pointwise) {
    SHARED(shared);
    const struct pointwise *a = &arguments;
    struct chains c = chains_of_block(a->rows, a->channels);
    const struct norm norm = norm_of(a, c.channel);
    struct four fours[QUADS];
    float sum = 0.0f;
    int buffer = 0;
    load_gradients(a, &norm, c, fours);
    store_gradients(fours, shared);
    while (c.row < c.end) {
        __syncthreads();
        const int count = least(ROWS, c.end - c.row);
        c.row += ROWS;
        load_gradients(a, &norm, c, fours);
        const float *gradient = shared + buffer * ROWS * TERMS + threadIdx.x % CHAINED;
        if (threadIdx.x < CHAINED) {
#pragma unroll 8
            for (int r = 0; r < count; r++) sum = sum + gradient[r * TERMS];
        } else if (threadIdx.x < TERMS) {
#pragma unroll 8
            for (int r = 0; r < count; r++) sum = fmaf(gradient[r * TERMS], gradient[r * TERMS + CHAINED], sum);
        }
        buffer ^= 1;
        store_gradients(fours, shared + buffer * ROWS * TERMS);
    }
    if (threadIdx.x < TERMS) {
        const int channel = (int)blockIdx.x % (a->channels / CHAINED) * CHAINED + threadIdx.x % CHAINED;
        a->sums[((long long)c.segment * 2 + threadIdx.x / CHAINED) * a->channels + channel] = sum;
    }
}

// The gradient of a pointwise layer without one.
KERNEL(pointwise_gradient, struct pointwise) {
    const struct norm norm = norm_of(&arguments, channel_of_thread(arguments.channels));
    for EVERY (i, (long long)arguments.rows * (arguments.channels / 4)) {
        struct four four;
        pass_gradient(&arguments, &norm, i * 4, &four);
    }
}
