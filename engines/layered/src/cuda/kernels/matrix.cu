// Convolutions and their gradients as products of matrices.
//
// A block computes a tile of rows x columns, each of its threads `down` x `across` of it in registers,
// as groups of four (or two) that lie apart, so that a warp reads shared memory without conflicts. `depth`
// terms of all of the tile's sums are in shared memory, and the next ones on their way there. A sum is
// one chain of fused multiply-adds; terms whose tap is in padding are not in it.

#define MAX_DOWN 8
#define MAX_ACROSS 8

// A tile's sizes: constants.
struct tile {
    int rows, columns, down, across, depth;
};

DEVICE struct tile tile_of(int rows, int columns, int down, int across, int depth) {
    const struct tile tile = {rows, columns, down, across, depth};
    return tile;
}

// The first operand is (depth, rows) in shared memory, with gaps against conflicts; the second one
// (depth, columns).
DEVICE int row_stride(struct tile t) { return t.rows + 4; }
DEVICE int tile_floats(struct tile t) { return t.depth * (row_stride(t) + t.columns); }

// The thread's rows are `first_row` + j of each group, the groups `row_distance` apart; so are its columns.
DEVICE int group_rows(struct tile t) { return least(t.down, 4); }
DEVICE int group_columns(struct tile t) { return least(t.across, 4); }
DEVICE int row_distance(struct tile t) { return t.rows * group_rows(t) / t.down; }
DEVICE int column_distance(struct tile t) { return t.columns * group_columns(t) / t.across; }
DEVICE int first_row(struct tile t) { return (int)threadIdx.x / (t.columns / t.across) * group_rows(t); }
DEVICE int first_column(struct tile t) { return (int)threadIdx.x % (t.columns / t.across) * group_columns(t); }

DEVICE void load_groups(const float *from, int count, int distance, float *to) {
#pragma unroll
    for (int i = 0; i < count; i += 4) {
        if (count >= 4) {
            load_quad(from + i / 4 * distance, to + i);
        } else {
            const float2 pair = *(const float2 *)from;
            to[0] = pair.x, to[1] = pair.y;
        }
    }
}

DEVICE void store_groups(const float *from, int count, float *to) {
    if (count >= 4) {
        store_quad(from, to);
    } else {
        const float2 pair = {from[0], from[1]};
        *(float2 *)to = pair;
    }
}

// Adds one term to the sums of those groups of rows whose bit is set.
DEVICE void add_products(struct tile t, const float *a, const float *b, int groups, float (*sums)[MAX_ACROSS]) {
    float x[MAX_DOWN], w[MAX_ACROSS];
    load_groups(a + first_row(t), t.down, row_distance(t), x);
    load_groups(b + first_column(t), t.across, column_distance(t), w);
#pragma unroll
    for (int i = 0; i < t.down; i++) {
        if (!(groups >> i / 4 & 1)) continue;
#pragma unroll
        for (int j = 0; j < t.across; j++) sums[i][j] = fmaf(x[i], w[j], sums[i][j]);
    }
}

// Adds `count` terms.
DEVICE void multiply(struct tile t, const float *operands, int count, int groups, float (*sums)[MAX_ACROSS]) {
    const float *a = operands, *b = operands + t.depth * row_stride(t);
    const int all = t.down > 4 ? 3 : 1;
    if (count == t.depth && (groups & all) == all) {
#pragma unroll
        for (int k = 0; k < t.depth; k++) add_products(t, a + k * row_stride(t), b + k * t.columns, 3, sums);
    } else {
#pragma unroll 1
        for (int k = 0; k < count; k++) add_products(t, a + k * row_stride(t), b + k * t.columns, groups, sums);
    }
}

// Where a convolution, or the gradient of its input, reads: at `at` of what it writes, under a tap, along
// an axis of the given size; -1 where that is padding.
DEVICE int source(int at, int tap, int size, int stride, int padding, int is_gradient) {
    if (!is_gradient) {
        const int place = at * stride + tap - padding;
        return place >= 0 && place < size ? place : -1;
    }
    const int place = at + padding - tap;
    return place >= 0 && place % stride == 0 && place / stride < size ? place / stride : -1;
}

// From the given tap on, the first one that is not in padding; one after the last one if there is none.
// Gives the position under it.
DEVICE int next_tap(const struct convolution *c, int y, int x, int tap, int *position) {
    for (; tap < c->kernel_height * c->kernel_width; tap++) {
        const int row = source(y, tap / c->kernel_width, c->input_height, c->stride, c->padding, c->is_gradient);
        const int column = source(x, tap % c->kernel_width, c->input_width, c->stride, c->padding, c->is_gradient);
        *position = row * c->input_width + column;
        if (row >= 0 && column >= 0) break;
    }
    return tap;
}

// What a thread has loaded of the operands: quads.
struct loaded {
    float a[4][4], b[2][4];
};

// Quads that each thread loads of an operand of depth x `size`; some threads none if that is few.
DEVICE int quads(struct tile t, int size) { return (size * t.depth / 4 + THREADS - 1) / THREADS; }

// Loads the terms of a tap's channels from `channel` on. Places are what all threads have in common, and a
// part that stays the same for each.
DEVICE void load_convolution(struct tile t, const struct convolution *c, int image, int output, int tap, int position,
                             int channel, struct loaded *loaded) {
    const int inputs = (c->inputs + LANES - 1) / LANES * LANES, thread = (int)threadIdx.x;
    const float *x = c->x + (((long long)position * c->images + image) * inputs + channel);
    const int row = thread / (t.depth / 4), place = row * inputs + thread % (t.depth / 4) * 4;
    const int row_step = THREADS / (t.depth / 4);
#pragma unroll
    for (int q = 0; q < quads(t, t.rows); q++) {
        zero_quad(loaded->a[q]);
        if (row + q * row_step < t.rows && row + q * row_step < c->images - image)
            load_quad(x + (place + q * row_step * inputs), loaded->a[q]);
    }
    const float *w = c->weights + (((long long)tap * c->inputs + channel) * c->outputs + output);
    const int k = thread / (t.columns / 4), column = thread % (t.columns / 4) * 4, w_place = k * c->outputs + column;
    const int k_step = THREADS / (t.columns / 4);
#pragma unroll
    for (int q = 0; q < quads(t, t.columns); q++) {
        zero_quad(loaded->b[q]);
        if (k + q * k_step < t.depth && k + q * k_step < c->inputs - channel && column < c->outputs - output)
            load_quad(w + (w_place + q * k_step * c->outputs), loaded->b[q]);
    }
}

// Stores them in shared memory, rows of the first operand turned to columns.
DEVICE void store_convolution(struct tile t, const struct loaded *loaded, float *operands) {
#pragma unroll
    for (int q = 0; q < quads(t, t.rows); q++) {
        const int i = (int)threadIdx.x + q * THREADS, k = i % (t.depth / 4) * 4;
        if (i < t.rows * t.depth / 4)
            for QUAD (j) operands[(k + j) * row_stride(t) + i / (t.depth / 4)] = loaded->a[q][j];
    }
#pragma unroll
    for (int q = 0; q < quads(t, t.columns); q++) {
        const int i = (int)threadIdx.x + q * THREADS;
        if (i < t.columns * t.depth / 4) store_quad(loaded->b[q], operands + t.depth * row_stride(t) + i * 4);
    }
}

// What the sums begin with: zeros, the bias, or what is there.
DEVICE void begin_sums(struct tile t, const struct convolution *c, int at, int image, int output,
                       float (*sums)[MAX_ACROSS]) {
#pragma unroll
    for (int i = 0; i < t.down; i++)
#pragma unroll
        for (int j = 0; j < t.across; j++) sums[i][j] = 0.0f;
    if (c->bias) {
#pragma unroll
        for (int j = 0; j < t.across; j++) {
            const int column = output + j / 4 * column_distance(t) + first_column(t) + j % 4;
            const float bias = column < c->outputs ? c->bias[column] : 0.0f;
#pragma unroll
            for (int i = 0; i < t.down; i++) sums[i][j] = bias;
        }
    }
    if (!c->accumulates) return;
    const float *there = c->out + (((long long)at * c->images + image) * c->outputs + output);
#pragma unroll
    for (int i = 0; i < t.down; i++) {
        const int row = i / 4 * row_distance(t) + first_row(t) + i % 4;
        if (row >= c->images - image) continue;
#pragma unroll
        for (int j = 0; j < t.across; j++) {
            const int column = j / 4 * column_distance(t) + first_column(t) + j % 4;
            if (column < c->outputs - output) sums[i][j] = there[row * c->outputs + column];
        }
    }
}

// Images x outputs at one position.
DEVICE void convolve(struct tile t, const struct convolution *c, float *shared) {
    const int image = (int)blockIdx.x / c->column_tiles % c->row_tiles * t.rows;
    const int output = (int)blockIdx.x % c->column_tiles * t.columns;
    const int at = (int)blockIdx.x / (c->column_tiles * c->row_tiles);
    const int y = at / c->output_width, x = at % c->output_width, taps = c->kernel_height * c->kernel_width;
    float sums[MAX_DOWN][MAX_ACROSS];
    begin_sums(t, c, at, image, output, sums);

    int position, channel = 0, buffer = 0;
    int tap = next_tap(c, y, x, 0, &position);
    struct loaded loaded;
    if (tap < taps) {
        load_convolution(t, c, image, output, tap, position, channel, &loaded);
        store_convolution(t, &loaded, shared);
    }
    while (tap < taps) {
        __syncthreads();
        const int count = least(t.depth, c->inputs - channel);
        channel += t.depth;
        if (channel >= c->inputs) {
            channel = 0;
            tap = next_tap(c, y, x, tap + 1, &position);
        }
        if (tap < taps) load_convolution(t, c, image, output, tap, position, channel, &loaded);
        multiply(t, shared + buffer * tile_floats(t), count, 3, sums);
        buffer ^= 1;
        if (tap < taps) store_convolution(t, &loaded, shared + buffer * tile_floats(t));
    }

    float *out = c->out + (((long long)at * c->images + image) * c->outputs + output);
#pragma unroll
    for (int i = 0; i < t.down; i++) {
        const int row = i / 4 * row_distance(t) + first_row(t) + i % 4;
        if (row >= c->images - image) continue;
#pragma unroll
        for (int j = 0; j < t.across; j += 4) {
            const int column = j / 4 * column_distance(t) + first_column(t);
            if (column < c->outputs - output)
                store_groups(sums[i] + j, group_columns(t), out + (row * c->outputs + column));
        }
    }
}

KERNEL(convolution_256x64, struct convolution) {
    SHARED(shared);
    convolve(tile_of(256, 64, 8, 8, 8), &arguments, shared);
}
KERNEL(convolution_128x128, struct convolution) {
    SHARED(shared);
    convolve(tile_of(128, 128, 8, 8, 8), &arguments, shared);
}
KERNEL(convolution_128x64, struct convolution) {
    SHARED(shared);
    convolve(tile_of(128, 64, 8, 4, 16), &arguments, shared);
}
KERNEL(convolution_64x64, struct convolution) {
    SHARED(shared);
    convolve(tile_of(64, 64, 4, 4, 16), &arguments, shared);
}
KERNEL(convolution_32x32, struct convolution) {
    SHARED(shared);
    convolve(tile_of(32, 32, 2, 2, 16), &arguments, shared);
}

// A row of the gradient of weights: a tap and an input channel.
struct weight_row {
    int ky, kx, channel; // ky: -1 beyond the last one
};

DEVICE struct weight_row weight_row(const struct weight_gradient *g, int row) {
    const int tap = row / g->inputs;
    const struct weight_row found = {tap < g->kernel_height * g->kernel_width ? tap / g->kernel_width : -1,
                                     tap % g->kernel_width, row % g->inputs};
    return found;
}

// The position under a row's tap for an output position, -1 where that is padding.
DEVICE int position_under(const struct weight_gradient *g, struct weight_row row, int at) {
    if (row.ky < 0) return -1;
    const int y = source(at / g->output_width, row.ky, g->input_height, g->stride, g->padding, 0);
    const int x = source(at % g->output_width, row.kx, g->input_width, g->stride, g->padding, 0);
    return y >= 0 && x >= 0 ? y * g->input_width + x : -1;
}

// The terms of a segment that are under way: those of images of one position.
struct terms {
    int at, image, end; // output position, and range of images
};

// The first position from `at` on that is not padding under all of the tile's taps, and its terms in the
// segment; beyond the segment if there is none.
DEVICE struct terms next_terms(struct tile t, const struct weight_gradient *g, int row, int at, long long start,
                               long long end) {
    const int last = least(row + t.rows, g->rows) - 1;
    for (; (long long)at * g->images < end; at++) {
        int is_valid = 0;
        for (int r = row; r <= last; r = (r / g->inputs + 1) * g->inputs)
            is_valid |= position_under(g, weight_row(g, r), at) >= 0;
        if (is_valid) break;
    }
    const long long first = (long long)at * g->images;
    const struct terms terms = {at, (int)(first < start ? start - first : 0),
                                (int)(end - first < g->images ? end - first : g->images)};
    return terms;
}

// Loads up to `depth` terms; `position` is under the tap of the row that this thread loads.
DEVICE void load_terms(struct tile t, const struct weight_gradient *g, struct terms terms, int position, int channel,
                       int output, struct loaded *loaded) {
    const int thread = (int)threadIdx.x, left = terms.end - terms.image;
    const float *x = g->x + ((long long)position * g->images + terms.image) * g->inputs;
    const int k = thread / (t.rows / 4), place = k * g->inputs + channel, k_step = THREADS / (t.rows / 4);
#pragma unroll
    for (int q = 0; q < quads(t, t.rows); q++) {
        zero_quad(loaded->a[q]);
        if (k + q * k_step < t.depth && k + q * k_step < left && position >= 0)
            load_quad(x + (place + q * k_step * g->inputs), loaded->a[q]);
    }
    const float *dy = g->by_output + (((long long)terms.at * g->images + terms.image) * g->outputs + output);
    const int dy_k = thread / (t.columns / 4), column = thread % (t.columns / 4) * 4;
    const int dy_place = dy_k * g->outputs + column, dy_step = THREADS / (t.columns / 4);
#pragma unroll
    for (int q = 0; q < quads(t, t.columns); q++) {
        zero_quad(loaded->b[q]);
        if (dy_k + q * dy_step < t.depth && dy_k + q * dy_step < left && column < g->outputs - output)
            load_quad(dy + (dy_place + q * dy_step * g->outputs), loaded->b[q]);
    }
}

DEVICE void store_terms(struct tile t, const struct loaded *loaded, float *operands) {
#pragma unroll
    for (int q = 0; q < quads(t, t.rows); q++) {
        const int i = (int)threadIdx.x + q * THREADS;
        if (i < t.rows * t.depth / 4)
            store_quad(loaded->a[q], operands + i / (t.rows / 4) * row_stride(t) + i % (t.rows / 4) * 4);
    }
#pragma unroll
    for (int q = 0; q < quads(t, t.columns); q++) {
        const int i = (int)threadIdx.x + q * THREADS;
        if (i < t.columns * t.depth / 4) store_quad(loaded->b[q], operands + t.depth * row_stride(t) + i * 4);
    }
}

// Rows (taps and inputs) x outputs, over one segment.
DEVICE void add_segment(struct tile t, const struct weight_gradient *g, float *shared) {
    const int output = (int)blockIdx.x % g->column_tiles * t.columns;
    const int row = (int)blockIdx.x / g->column_tiles % g->row_tiles * t.rows;
    const int segment = (int)blockIdx.x / (g->column_tiles * g->row_tiles);
    const long long start = (long long)segment * SEGMENT;
    const long long end = start + SEGMENT < g->terms ? start + SEGMENT : g->terms;
    const struct weight_row mine = weight_row(g, row + (int)threadIdx.x % (t.rows / 4) * 4);
    const struct weight_row upper = weight_row(g, row + first_row(t));
    const struct weight_row lower = weight_row(g, row + row_distance(t) + first_row(t));
    float sums[MAX_DOWN][MAX_ACROSS];
#pragma unroll
    for (int i = 0; i < t.down; i++)
#pragma unroll
        for (int j = 0; j < t.across; j++) sums[i][j] = 0.0f;

    struct loaded loaded;
    int buffer = 0;
    struct terms terms = next_terms(t, g, row, (int)(start / g->images), start, end);
    int is_more = (long long)terms.at * g->images < end;
    // Which groups of this thread's rows have a term at the position.
    int groups = 0, next_groups = 0, position = -1;
    if (is_more) {
        position = position_under(g, mine, terms.at);
        next_groups = (position_under(g, upper, terms.at) >= 0) | (position_under(g, lower, terms.at) >= 0) << 1;
        load_terms(t, g, terms, position, mine.channel, output, &loaded);
        store_terms(t, &loaded, shared);
    }
    while (is_more) {
        __syncthreads();
        const int count = least(t.depth, terms.end - terms.image);
        groups = next_groups;
        terms.image += t.depth;
        if (terms.image >= terms.end) {
            terms = next_terms(t, g, row, terms.at + 1, start, end);
            is_more = (long long)terms.at * g->images < end;
            if (is_more) {
                position = position_under(g, mine, terms.at);
                next_groups = (position_under(g, upper, terms.at) >= 0) | (position_under(g, lower, terms.at) >= 0) << 1;
            }
        }
        if (is_more) load_terms(t, g, terms, position, mine.channel, output, &loaded);
        multiply(t, shared + buffer * tile_floats(t), count, groups, sums);
        buffer ^= 1;
        if (is_more) store_terms(t, &loaded, shared + buffer * tile_floats(t));
    }

    float *sum = g->sums + segment * ((long long)g->kernel_height * g->kernel_width * g->real_inputs * g->outputs);
#pragma unroll
    for (int i = 0; i < t.down; i++) {
        const int r = row + i / 4 * row_distance(t) + first_row(t) + i % 4;
        if (r >= g->rows || r % g->inputs >= g->real_inputs) continue;
        const long long weight = (long long)(r / g->inputs) * g->real_inputs + r % g->inputs;
#pragma unroll
        for (int j = 0; j < t.across; j += 4) {
            const int column = output + j / 4 * column_distance(t) + first_column(t);
            if (column < g->outputs) store_groups(sums[i] + j, group_columns(t), sum + weight * g->outputs + column);
        }
    }
}

KERNEL(weight_gradient_256x64, struct weight_gradient) {
    SHARED(shared);
    add_segment(tile_of(256, 64, 8, 8, 8), &arguments, shared);
}
KERNEL(weight_gradient_128x128, struct weight_gradient) {
    SHARED(shared);
    add_segment(tile_of(128, 128, 8, 8, 8), &arguments, shared);
}
KERNEL(weight_gradient_128x64, struct weight_gradient) {
    SHARED(shared);
    add_segment(tile_of(128, 64, 8, 4, 16), &arguments, shared);
}
KERNEL(weight_gradient_64x64, struct weight_gradient) {
    SHARED(shared);
    add_segment(tile_of(64, 64, 4, 4, 16), &arguments, shared);
}
KERNEL(weight_gradient_32x32, struct weight_gradient) {
    SHARED(shared);
    add_segment(tile_of(32, 32, 2, 2, 16), &arguments, shared);
}

// Adds up the segments of a gradient of weights.
KERNEL(add_segments, struct add_segments) {
    for EVERY (i, arguments.floats) arguments.out[i] = tree(arguments.sums + i, arguments.floats, arguments.segments);
}
