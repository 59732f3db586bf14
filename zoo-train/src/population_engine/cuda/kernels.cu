// The population engine on CUDA: one block per model, its parameters, gradients and activations in
// shared memory. Every sum runs in the order that reference.rs writes down and every operation is
// one that IEEE 754 defines, so that a model has the bits it has on the CPU.
//
// What is in upper case and not defined here comes from source.rs: the sizes of one network, the
// places of its arrays, and FORWARD_LAYERS and BACKWARD_LAYERS, which name a macro for each layer.
// The subset of C is one that a C compiler takes too: tests compile this file with shim.h.
//
// Compiled without contraction: a multiply-add is one only where it says fmaf.

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

// Items of a loop are dealt to the threads in turn.
#define EACH(i, count) (int i = (int)threadIdx.x; i < (count); i += THREADS)

// ---- f32 functions: functions.rs of the engine, operation by operation ----

DEVICE float power_of_two(float n) { return __int_as_float((__float2int_rn(n) + 127) << 23); }

DEVICE float expm1_reduced(float r) {
    float q = 0.001381454f;
    q = fmaf(q, r, 0.008368745f);
    q = fmaf(q, r, 0.04166839f);
    q = fmaf(q, r, 0.16666521f);
    q = fmaf(q, r, 0.49999994f);
    return fmaf(r * r, q, r);
}

DEVICE float reduce(float x, float *n) {
    *n = rintf(x * 1.44269504088896340736f);
    const float r = fmaf(*n, -0.69314575f, x);
    return fmaf(*n, -1.4286068e-6f, r);
}

DEVICE float exponential(float x) {
    x = x < -105.0f ? -105.0f : x;
    x = 90.0f < x ? 90.0f : x;
    float n;
    const float r = reduce(x, &n);
    const float e = 1.0f + expm1_reduced(r);
    const float half = rintf(n * 0.5f);
    return (e * power_of_two(half)) * power_of_two(n - half);
}

DEVICE float hyperbolic_tangent(float x) {
    float a = fabsf(x);
    a = 10.0f < a ? 10.0f : a;
    float n;
    const float r = reduce(a * -2.0f, &n);
    const float power = power_of_two(n);
    const float t = fmaf(expm1_reduced(r), power, power - 1.0f);
    return copysignf(__fdiv_rn(t, 2.0f + t), x);
}

DEVICE float logistic(float x) {
    const float z = exponential(0.0f - fabsf(x));
    return __fdiv_rn(x < 0.0f ? z : 1.0f, 1.0f + z);
}

DEVICE float error_function(float x) {
    const float square = x * x;
    float p = -0.00063151267f;
    p = fmaf(p, square, 0.005051094f);
    p = fmaf(p, square, -0.026802547f);
    p = fmaf(p, square, 0.112827174f);
    p = fmaf(p, square, -0.37612572f);
    p = fmaf(p, square, 0.12837917f);
    const float near = fmaf(p, x, x);
    float t = fabsf(x);
    t = 4.0f < t ? 4.0f : t;
    float g = -0.00021570815f;
    g = fmaf(g, t, 0.0032290455f);
    g = fmaf(g, t, -0.022934745f);
    g = fmaf(g, t, 0.10533101f);
    g = fmaf(g, t, 0.6356664f);
    g = fmaf(g, t, 1.1285295f);
    float n;
    const float r = reduce((0.0f - t) * g, &n);
    const float power = power_of_two(n);
    const float far = 1.0f - fmaf(expm1_reduced(r), power, power);
    return fabsf(x) < 0.85f ? near : copysignf(far, x);
}

#define TANH 0
#define RELU 1
#define SIGMOID 2
#define GELU 3
#define LEAKY_RELU 4
#define SILU 5

// An activation's value and derivative.
DEVICE float activate(float x, float *derivative) {
#if ACTIVATION == TANH
    const float y = hyperbolic_tangent(x);
    *derivative = 1.0f - y * y;
    return y;
#elif ACTIVATION == SIGMOID
    const float y = logistic(x);
    *derivative = y * (1.0f - y);
    return y;
#elif ACTIVATION == RELU
    const int off = x <= 0.0f;
    *derivative = off ? 0.0f : 1.0f;
    return off ? 0.0f : x;
#elif ACTIVATION == LEAKY_RELU
    const int on = 0.0f < x;
    *derivative = on ? 1.0f : 0.01f;
    return on ? x : x * 0.01f;
#elif ACTIVATION == GELU
    const float cdf = fmaf(0.5f, error_function(x * 0.707106781186547524401f), 0.5f);
    const float density = exponential((x * x) * -0.5f) * 0.3989423f;
    *derivative = fmaf(x, density, cdf);
    return x * cdf;
#elif ACTIVATION == SILU
    const float y = logistic(x);
    const float value = x * y;
    *derivative = fmaf(value, 1.0f - y, y);
    return value;
#endif
}

// ---- f64 functions: functions.rs of the crate ----

DEVICE double double_power_of_two(double n) { return __longlong_as_double(((long long)n + 1023) << 52); }

// 1 / k!
CONSTANT double EXP_SERIES[] = {
    1.0,         1.0,          1.0 / 2.0,      1.0 / 6.0,       1.0 / 24.0,       1.0 / 120.0,       1.0 / 720.0,
    1.0 / 5040.0, 1.0 / 40320.0, 1.0 / 362880.0, 1.0 / 3628800.0, 1.0 / 39916800.0, 1.0 / 479001600.0, 1.0 / 6227020800.0,
};

COLD double double_exponential(double x) {
    x = x < -750.0 ? -750.0 : x;
    x = x > 710.0 ? 710.0 : x;
    if (x != x) return x;
    const double n = rint(x * 1.4426950408889634074);
    const double r = (x - n * 0.6931471803691238) - n * 1.9082149292705877e-10;
    double e = EXP_SERIES[13];
#pragma unroll
    for (int k = 12; k >= 0; k--) e = e * r + EXP_SERIES[k];
    const double half = rint(n * 0.5);
    return e * double_power_of_two(half) * double_power_of_two(n - half);
}

COLD double double_logarithm(double x) {
    if (x != x || x == INFINITE) return x;
    const long long bits = __double_as_longlong(x);
    double n = (double)((bits >> 52) - 1023);
    double m = __longlong_as_double((bits & 0x000fffffffffffffll) | 0x3ff0000000000000ll);
    if (m > 1.41421356237309504880) {
        m *= 0.5;
        n += 1.0;
    }
    const double t = (m - 1.0) / (m + 1.0);
    const double square = t * t;
    double series = 0.0;
#pragma unroll
    for (int k = 11; k >= 1; k--) series = (series + 1.0 / (double)(2 * k + 1)) * square;
    return n * 0.6931471803691238 + (n * 1.9082149292705877e-10 + 2.0 * (t + t * series));
}

COLD double double_activate(double x) {
#if ACTIVATION == TANH
    const double power = double_exponential(-2.0 * fabs(x));
    return copysign((1.0 - power) / (1.0 + power), x);
#elif ACTIVATION == SIGMOID
    return 1.0 / (1.0 + double_exponential(-x));
#elif ACTIVATION == RELU
    return x > 0.0 ? x : 0.0;
#elif ACTIVATION == LEAKY_RELU
    return x > 0.0 ? x : 0.01 * x;
#elif ACTIVATION == GELU
    const double z = x * 0.70710678118654752440, a = fabs(z);
    double error_function = 1.0;
    if (!(a > 6.0)) {
        double term = a, sum = a, n = 1.0;
        while (term > sum * 1e-17) {
            term = term * (2.0 * a * a) / (2.0 * n + 1.0);
            sum += term;
            n += 1.0;
        }
        error_function = 1.12837916709551257390 * double_exponential(-(a * a)) * sum;
    }
    return 0.5 * x * (1.0 + copysign(error_function, z));
#elif ACTIVATION == SILU
    return x * (1.0 / (1.0 + double_exponential(-x)));
#endif
}

// ---- random draws: Philox4x32-10, see zoo-model/src/random.rs ----

struct words {
    u32 word[4];
};

DEVICE struct words philox(u32 a, u32 b, u32 c, u32 d, u64 seed) {
    u32 low = (u32)seed, high = (u32)(seed >> 32);
#pragma unroll
    for (int round = 0; round < 10; round++) {
        const u64 first = (u64)a * 0xD2511F53u, second = (u64)c * 0xCD9E8D57u;
        a = (u32)(second >> 32) ^ b ^ low;
        c = (u32)(first >> 32) ^ d ^ high;
        b = (u32)second;
        d = (u32)first;
        low += 0x9E3779B9u;
        high += 0xBB67AE85u;
    }
    const struct words words = {{a, b, c, d}};
    return words;
}

// ---- layers: maps are channels-last, a pixel's values `stride` apart from the next one's ----
//
// The stride is odd where threads read neighbouring windows, which then lie in different banks.

// A unit of a pooled layer: first the derivative of its output by the winning sum, then that sum's
// gradient; and where the winning patch begins in the layer's input.
struct unit {
    float gradient;
    // Place << 3 | whether rounding may have decided << 2 | down << 1 | right.
    u32 winner;
};

#define PLACE(winner) ((int)((winner) >> 3))
#define OPEN 4u

// PyTorch's maximum: NaN is larger than any number, the first of equals wins.
#define EXCEEDS(a, b) ((a) > (b) || ((a) != (a) && (b) == (b)))

// Which patches of an input equal the one to their right, and the one below: a bit a column, a word
// a row. First single pixels; patches are whole when all their bits are set.
DEVICE void find_equal_pixels(int height, int width, int channels, int stride, const float *input, u32 *right,
                              u32 *below) {
    for (int row = (int)threadIdx.x / 32; row < height; row += THREADS / 32) {
        const int column = (int)threadIdx.x % 32;
        int is_right = column + 1 < width, is_below = row + 1 < height && column < width;
        const float *pixel = input + (row * width + (column < width ? column : 0)) * stride;
        for (int c = 0; c < channels; c++) {
            is_right = is_right && pixel[c] == pixel[stride + c];
            is_below = is_below && pixel[c] == pixel[width * stride + c];
        }
        const u32 right_word = __ballot_sync(0xffffffffu, is_right), below_word = __ballot_sync(0xffffffffu, is_below);
        if (column == 0) {
            right[row] = right_word;
            below[row] = below_word;
        }
    }
}

// Whether all pixels of the patch at (row, column) are marked.
DEVICE int is_marked(const u32 *words, int row, int column, int kernel) {
    u32 all = 0xffffffffu;
    for (int ky = 0; ky < kernel; ky++) all &= words[row + ky];
    return (all >> column & ((1u << kernel) - 1)) == (1u << kernel) - 1;
}

// Whether rounding may have decided a window: `is_open` of exact.rs.
COLD int is_open(float a, float b, float c, float d, float best, int pruned, const u32 *right, const u32 *below,
                 int row, int column, int kernel) {
    const float bound = best - fmaf(fabsf(best), CLOSE, CLOSE);
    const int ab = is_marked(right, row, column, kernel), cd = is_marked(right, row + 1, column, kernel);
    const int ac = is_marked(below, row, column, kernel), bd = is_marked(below, row, column + 1, kernel);
    const int close[4] = {bound < a, bound < b && !ab, bound < c && !(ac || (bd && cd)), bound < d && !(bd || cd)};
    const float sums[4] = {a, b, c, d};
    for (int q = 1; q < 4; q++)
        for (int p = 0; p < q; p++)
            if (close[p] && close[q] && (sums[p] != sums[q] || !pruned)) return 1;
    return 0;
}

// Loads an even number of values from an even place.
DEVICE void load_pairs(const float *from, int count, float *to) {
#pragma unroll
    for (int i = 0; i < count; i += 2) {
        const float2 pair = *(const float2 *)(from + i);
        to[i] = pair.x;
        to[i + 1] = pair.y;
    }
}

// Forward pass of a pooled convolution of which each thread computes windows of `group` outputs.
// Weights: of the first layer as (group, tap, output of the group), else (output, tap).
DEVICE void pooled_forward(int height, int width, int channels, int stride, int kernel, int outputs, int group,
                           int training, const float *weight, const float *bias, const float *input, float *output,
                           int output_stride, struct unit *units, int unit_stride, const u32 *right, const u32 *below,
                           int pruned) {
    const int rows = (height + 1 - kernel) / 2, columns = (width + 1 - kernel) / 2;
    const int windows = rows * columns, taps = kernel * kernel * channels;
    for EACH (item, windows * (outputs / group)) {
        const int first = item / windows * group, window = item % windows;
        const int row = window / columns * 2, column = window % columns * 2;
        const int corner = (row * width + column) * stride;
        const float *patch = input + corner;
        float a[MOST_GROUP], b[MOST_GROUP], c[MOST_GROUP], d[MOST_GROUP];
#pragma unroll
        for (int o = 0; o < group; o++) a[o] = b[o] = c[o] = d[o] = bias[first + o];
        if (channels % 4) {
            // Few channels: two rows of the patch in registers, each loaded once.
            float upper[MOST_PATCH_ROW], lower[MOST_PATCH_ROW];
            load_pairs(patch, (kernel + 1) * channels, upper);
#pragma unroll
            for (int ky = 0; ky < kernel; ky++) {
                load_pairs(patch + (ky + 1) * width * channels, (kernel + 1) * channels, lower);
#pragma unroll
                for (int i = 0; i < kernel * channels; i++) {
                    // The group is of four.
                    const float4 w = *(const float4 *)(weight + first * taps + (ky * kernel * channels + i) * 4);
#pragma unroll
                    for (int o = 0; o < group; o++) {
                        const float v = o == 0 ? w.x : o == 1 ? w.y : o == 2 ? w.z : w.w;
                        a[o] = fmaf(v, upper[i], a[o]);
                        b[o] = fmaf(v, upper[channels + i], b[o]);
                        c[o] = fmaf(v, lower[i], c[o]);
                        d[o] = fmaf(v, lower[channels + i], d[o]);
                    }
                }
#pragma unroll
                for (int i = 0; i < (kernel + 1) * channels; i++) upper[i] = lower[i];
            }
        } else {
            // Two pixels of a column in registers, which are the left ones of the next tap.
            float upper[MOST_CHANNELS], lower[MOST_CHANNELS];
            for (int ky = 0; ky < kernel; ky++) {
                const float *at = patch + ky * width * stride;
#pragma unroll
                for (int i = 0; i < channels; i++) {
                    upper[i] = at[i];
                    lower[i] = at[width * stride + i];
                }
                for (int kx = 0; kx < kernel; kx++) {
                    at += stride;
#pragma unroll
                    for (int i = 0; i < channels; i += 4) {
                        float4 w[MOST_GROUP];
#pragma unroll
                        for (int o = 0; o < group; o++)
                            w[o] = *(const float4 *)(weight + (first + o) * taps + (ky * kernel + kx) * channels + i);
#pragma unroll
                        for (int j = 0; j < 4; j++) {
                            const float right_upper = at[i + j], right_lower = at[width * stride + i + j];
#pragma unroll
                            for (int o = 0; o < group; o++) {
                                const float v = j == 0 ? w[o].x : j == 1 ? w[o].y : j == 2 ? w[o].z : w[o].w;
                                a[o] = fmaf(v, upper[i + j], a[o]);
                                b[o] = fmaf(v, right_upper, b[o]);
                                c[o] = fmaf(v, lower[i + j], c[o]);
                                d[o] = fmaf(v, right_lower, d[o]);
                            }
                            upper[i + j] = right_upper;
                            lower[i + j] = right_lower;
                        }
                    }
                }
            }
        }
#pragma unroll
        for (int o = 0; o < group; o++) {
            float best = a[o];
            u32 winner = 0;
            if (EXCEEDS(b[o], best)) best = b[o], winner = 1;
            if (EXCEEDS(c[o], best)) best = c[o], winner = 2;
            if (EXCEEDS(d[o], best)) best = d[o], winner = 3;
            float derivative;
            output[window * output_stride + first + o] = activate(best, &derivative);
            if (training) {
                // At least two are close; equal patches are sorted out only then.
                const float bound = best - fmaf(fabsf(best), CLOSE, CLOSE);
                const int close = (bound < a[o]) + (bound < b[o]) + (bound < c[o]) + (bound < d[o]);
                const u32 open = close > 1 && is_open(a[o], b[o], c[o], d[o], best, pruned, right, below, row, column,
                                                      kernel);
                const u32 place = corner + (winner >> 1) * width * stride + (winner & 1) * stride;
                struct unit *unit = units + (first + o) * unit_stride + window;
                unit->gradient = derivative;
                unit->winner = place << 3 | open << 2 | winner;
            }
        }
    }
}

// Forward pass of another convolution, or a linear layer (a kernel as large as its input). Weights
// are (tap, output).
DEVICE void dense_forward(int height, int width, int channels, int stride, int kernel_rows, int kernel_columns,
                          int outputs, int activated, const float *weight, const float *bias, const float *input, float *output,
                          float *derivative) {
    const int columns = width + 1 - kernel_columns, rows = height + 1 - kernel_rows;
    for EACH (unit, rows * columns * outputs) {
        const int position = unit / outputs, o = unit % outputs;
        const float *patch = input + (position / columns * width + position % columns) * stride;
        const float *w = weight + o;
        float sum = bias[o];
        for (int ky = 0; ky < kernel_rows; ky++)
            for (int kx = 0; kx < kernel_columns; kx++)
#pragma unroll
                for (int c = 0; c < channels; c++, w += outputs)
                    sum = fmaf(*w, patch[(ky * width + kx) * stride + c], sum);
        float slope = 1.0f;
        output[unit] = activated ? activate(sum, &slope) : sum;
        derivative[unit] = slope;
    }
}

// A model's place in the random draws of dropout.
struct draw {
    u64 seed;
    u32 epoch, step, threshold;
    float kept;
};

// Drops units of one sample: multiplies output and derivative by 0 or 1 / (1 - p). A thread takes the
// units of one Philox block, in the order (channel, position).
DEVICE void drop(int positions, int outputs, int module, int sample, struct draw draw, float *output,
                 int output_stride, float *derivative, struct unit *units, int unit_stride) {
    const int count = positions * outputs, start = sample * count;
    for EACH (i, (start + count + 3) / 4 - start / 4) {
        const int block = start / 4 + i;
        const struct words words = philox(block, draw.step, draw.epoch, 5 | module << 8, draw.seed);
#pragma unroll
        for (int w = 0; w < 4; w++) {
            const int index = 4 * block + w - start;
            if (index < 0 || index >= count) continue;
            const int channel = index / positions, position = index % positions;
            const float factor = words.word[w] >= draw.threshold ? draw.kept : 0.0f;
            output[position * output_stride + channel] *= factor;
            if (units)
                units[channel * unit_stride + position].gradient *= factor;
            else
                derivative[position * outputs + channel] *= factor;
        }
    }
}

// Backward pass of dense_forward: adds to the parameters' gradients and hands that of the layer
// before on: its sums' gradients, already times their derivatives.
DEVICE void dense_backward(int height, int width, int channels, int stride, int kernel_rows, int kernel_columns,
                           int outputs, const float *weight, const float *input, const float *gradient,
                           float *weight_gradient, float *bias_gradient, float *below_gradient,
                           struct unit *below_units, int below_stride) {
    const int columns = width + 1 - kernel_columns, rows = height + 1 - kernel_rows, positions = rows * columns;
    const int tap_row = kernel_columns * channels, taps = kernel_rows * tap_row;
    const int weights = taps * outputs;
    for EACH (i, weights + outputs) {
        const int tap = i / outputs, o = i % outputs;
        if (i >= weights) {
            float sum = bias_gradient[o];
            for (int p = 0; p < positions; p++) sum += gradient[p * outputs + o];
            bias_gradient[o] = sum;
            continue;
        }
        const float *at = input + (tap / tap_row * width + tap % tap_row / channels) * stride + tap % channels;
        float sum = weight_gradient[i];
        for (int p = 0; p < positions; p++)
            sum = fmaf(gradient[p * outputs + o], at[(p / columns * width + p % columns) * stride], sum);
        weight_gradient[i] = sum;
    }
    // Block by block of outputs, as on the CPU.
    for EACH (place, height * width * channels) {
        const int pixel = place / channels, channel = place % channels;
        const int row = pixel / width, column = pixel % width;
        const int first_row = row < kernel_rows ? 0 : row + 1 - kernel_rows;
        const int first_column = column < kernel_columns ? 0 : column + 1 - kernel_columns;
        const int blocks = (outputs + MOST_BLOCK - 1) / MOST_BLOCK;
        float sum = 0.0f;
        for (int part = 0; part < blocks; part++)
            for (int y = first_row; y <= row && y < rows; y++)
                for (int x = first_column; x <= column && x < columns; x++) {
                    const int tap = (row - y) * tap_row + (column - x) * channels + channel;
                    const float *g = gradient + (y * columns + x) * outputs;
                    for (int o = part * outputs / blocks; o < (part + 1) * outputs / blocks; o++)
                        sum = fmaf(weight[tap * outputs + o], g[o], sum);
                }
        if (below_units)
            below_units[channel * below_stride + pixel].gradient *= sum;
        else
            below_gradient[place] *= sum;
    }
}

// Adds to the gradients of a pooled convolution's parameters; weights as for pooled_forward.
DEVICE void pooled_weights_backward(int height, int width, int channels, int stride, int kernel, int outputs,
                                    int group, const float *input, const struct unit *units, int unit_stride,
                                    float *weight_gradient, float *bias_gradient) {
    const int windows = (height + 1 - kernel) / 2 * ((width + 1 - kernel) / 2);
    const int tap_row = kernel * channels, taps = kernel * tap_row;
    const int weights = taps * outputs;
    for EACH (i, weights + outputs) {
        if (i >= weights) {
            const struct unit *of_output = units + (i - weights) * unit_stride;
            float sum = bias_gradient[i - weights];
            for (int w = 0; w < windows; w++) sum += of_output[w].gradient;
            bias_gradient[i - weights] = sum;
            continue;
        }
        const int o = i / taps, tap = i % taps;
        const float *at = input + (tap / tap_row * width + tap % tap_row / channels) * stride + tap % channels;
        float *target = weight_gradient + (channels % 4 ? o / group * group * taps + tap * group + o % group : i);
        float sum = *target;
        // Two units in one load.
        const float4 *pairs = (const float4 *)(units + o * unit_stride);
#pragma unroll 4
        for (int w = 0; w < windows / 2; w++) {
            const float4 pair = pairs[w];
            sum = fmaf(pair.x, at[PLACE(__float_as_uint(pair.y))], sum);
            sum = fmaf(pair.z, at[PLACE(__float_as_uint(pair.w))], sum);
        }
        if (windows % 2) {
            const struct unit unit = units[o * unit_stride + windows - 1];
            sum = fmaf(unit.gradient, at[PLACE(unit.winner)], sum);
        }
        *target = sum;
    }
}

// The gradient of a pooled convolution's input, for the units of the pooled layer before: window by
// window, the outputs' kernels where their winners are, and zero in the rest of the patch. In the
// CPU's order: OUTPUTS_AT_ONCE outputs at a time, and of these one part of the patch's row, in
// eights of values, after the other.
DEVICE void pooled_input_backward(int height, int width, int channels, int kernel, int outputs, const float *weight,
                                  const struct unit *units, int unit_stride, struct unit *below, int below_stride) {
    const int rows = (height + 1 - kernel) / 2, columns = (width + 1 - kernel) / 2;
    const int taps = kernel * kernel * channels;
    const int eights = (kernel + 1) * channels / 8, parts = (eights + MOST_BLOCK - 1) / MOST_BLOCK;
    for EACH (i, height * width * (channels / 4)) {
        const int pixel = i / (channels / 4), channel = i % (channels / 4) * 4;
        const int row = pixel / width, column = pixel % width;
        const int first_row = row < kernel ? 0 : (row - kernel + 1) / 2;
        const int first_column = column < kernel ? 0 : (column - kernel + 1) / 2;
        float sum[4] = {0.0f, 0.0f, 0.0f, 0.0f};
        for (int chunk = 0; chunk < outputs; chunk += OUTPUTS_AT_ONCE)
            for (int part = 0; part < parts; part++)
                for (int y = first_row; 2 * y <= row && y < rows; y++)
                    for (int x = first_column; 2 * x <= column && x < columns; x++) {
                        const int eighth = ((column - 2 * x) * channels + channel) / 8;
                        if (eighth < part * eights / parts || eighth >= (part + 1) * eights / parts) continue;
                        const struct unit *unit = units + chunk * unit_stride + y * columns + x;
#pragma unroll
                        for (int o = 0; o < OUTPUTS_AT_ONCE; o++) {
                            if (chunk + o >= outputs) break;
                            const struct unit here = unit[o * unit_stride];
                            const int ky = row - 2 * y - (int)(here.winner >> 1 & 1);
                            const int kx = column - 2 * x - (int)(here.winner & 1);
                            float4 w = {0.0f, 0.0f, 0.0f, 0.0f};
                            const int tap = (ky * kernel + kx) * channels + channel;
                            if (ky >= 0 && ky < kernel && kx >= 0 && kx < kernel)
                                w = *(const float4 *)(weight + (chunk + o) * taps + tap);
                            sum[0] = fmaf(here.gradient, w.x, sum[0]);
                            sum[1] = fmaf(here.gradient, w.y, sum[1]);
                            sum[2] = fmaf(here.gradient, w.z, sum[2]);
                            sum[3] = fmaf(here.gradient, w.w, sum[3]);
                        }
                    }
#pragma unroll
        for (int c = 0; c < 4; c++) below[(channel + c) * below_stride + pixel].gradient *= sum[c];
    }
}

// ---- what the kernels are called with; the same in cohort.rs ----

// Images and labels of a split, and what pixels become.
struct images {
    const u8 *pixels;    // (samples, channels, height, width)
    const u16 *labels;   // (samples)
    const float *values; // (channels, 256)
    const double *exact; // (channels, 256)
};

// A cohort's models; their vectors are laid out as source.rs places them.
struct models {
    float *parameters;           // (models, PARAMETERS)
    float *residuals;            // (models, PARAMETERS): what rounding took from them
    float *moments;              // (models, MOMENTS, PARAMETERS)
    const u8 *masks;             // (models, PARAMETERS): whether a parameter may differ from zero
    const u8 *pruned;            // (models): whether the model has a mask
    const u64 *seeds;            // (models)
    const double *learning_rates; // (models)
    const float *weight_decays;  // (models)
    const float *momenta;        // (models)
    const u32 *thresholds;       // (models): of dropout, see dropout_threshold
    const float *kept;           // (models): 1 / (1 - p)
    const double *exact_kept;    // (models)
    double *losses;              // (models): summed over the samples of the epoch so far
    u32 *hits;                   // (models)
    double *scratch;             // (models, EXACT)
    int count;
};

// ---- windows that rounding must not decide: exact.rs ----

// Geometry of the pooled layers; `dropout` is the number of the module or -1.
struct pooled_layer {
    int height, width, channels, stride, kernel, outputs, group, dropout, weight, bias;
};

CONSTANT struct pooled_layer POOLED[] = {POOLED_LAYERS};

// Where the values before and after a layer, as far as a window above needs them, begin in the
// scratch memory: CONSTANT so that the compiler needs no array of its own.
CONSTANT int EXACT_PLACES[] = {EXACT_REGIONS};

struct sample {
    int index;    // in the split
    int in_batch; // in the mini-batch
};

DEVICE double exact_parameter(const float *parameters, const float *residuals, int place) {
    return (double)parameters[place] + (double)residuals[place];
}

// Bias + sum of weight x input of output `o` at a position of layer `l`, of whose input the region
// from (top, left) on, `side` wide, is known; of the first layer, the image is.
COLD double exact_sum(int l, int o, int row, int column, const float *parameters, const float *residuals,
                      const u8 *image, const double *values, const double *region, int top, int left, int side) {
    const struct pooled_layer layer = POOLED[l];
    const int taps = layer.kernel * layer.kernel * layer.channels;
    double sum = exact_parameter(parameters, residuals, layer.bias + o);
    int tap = 0;
    for (int ky = 0; ky < layer.kernel; ky++)
        for (int kx = 0; kx < layer.kernel; kx++)
            for (int c = 0; c < layer.channels; c++, tap++) {
                const int first = o / layer.group * layer.group;
                const int place = layer.channels % 4 ? first * taps + tap * layer.group + o - first : o * taps + tap;
                const int y = row + ky, x = column + kx;
                const double value = l == 0 ? values[256 * c + image[(c * layer.height + y) * layer.width + x]]
                                            : region[((y - top) * side + x - left) * layer.channels + c];
                sum += exact_parameter(parameters, residuals, layer.weight + place) * value;
            }
    return sum;
}

// Decides the window of an output of pooled layer `l` from the pixels on; all threads take
// part.
COLD void decide(int l, int window, int output, const struct models *models, int model, const float *parameters,
                 const float *residuals, const struct images *images, struct sample sample, struct draw draw,
                 struct unit *unit) {
    double *scratch = models->scratch + (long long)model * EXACT;
    const u8 *image = images->pixels + (long long)sample.index * IMAGE;
    // Of the map below layer k, the region from (top[k], left[k]) on, side[k] wide.
    int top[POOLED_COUNT], left[POOLED_COUNT], side[POOLED_COUNT];
    const int columns = (POOLED[l].width + 1 - POOLED[l].kernel) / 2;
    top[l] = window / columns * 2;
    left[l] = window % columns * 2;
    side[l] = POOLED[l].kernel + 1;
    for (int k = l - 1; k >= 0; k--) {
        top[k] = 2 * top[k + 1];
        left[k] = 2 * left[k + 1];
        side[k] = 2 * side[k + 1] + POOLED[k].kernel - 1;
    }
    for (int k = 0; k < l; k++) {
        const struct pooled_layer layer = POOLED[k];
        const double *region = k ? scratch + EXACT_PLACES[k] : 0;
        double *above = scratch + EXACT_PLACES[k + 1];
        const int rows = (layer.height + 1 - layer.kernel) / 2, width = (layer.width + 1 - layer.kernel) / 2;
        for EACH (i, side[k + 1] * side[k + 1] * layer.outputs) {
            const int pixel = i / layer.outputs, o = i % layer.outputs;
            const int y = top[k + 1] + pixel / side[k + 1], x = left[k + 1] + pixel % side[k + 1];
            double best = -INFINITE;
            for (int p = 0; p < 4; p++) {
                const double sum = exact_sum(k, o, 2 * y + (p >> 1), 2 * x + (p & 1), parameters, residuals, image,
                                             images->exact, region, top[k], left[k], side[k]);
                best = sum > best ? sum : best;
            }
            double factor = 1.0;
            if (DROPOUT && layer.dropout >= 0 && draw.epoch) {
                const int positions = rows * width;
                const int index = sample.in_batch * positions * layer.outputs + o * positions + y * width + x;
                const struct words words = philox(index / 4, draw.step, draw.epoch, 5 | layer.dropout << 8, draw.seed);
                factor = words.word[index % 4] >= draw.threshold ? models->exact_kept[model] : 0.0;
            }
            above[i] = double_activate(best) * factor;
        }
        __syncthreads();
    }
    double *sums = scratch + EXACT_PLACES[POOLED_COUNT];
    for EACH (p, 4)
        sums[p] = exact_sum(l, output, top[l] + (p >> 1), left[l] + (p & 1), parameters, residuals, image,
                            images->exact, l ? scratch + EXACT_PLACES[l] : 0, top[l], left[l], side[l]);
    __syncthreads();
    if (threadIdx.x == 0) {
        u32 winner = 0;
        for (u32 p = 1; p < 4; p++)
            if (sums[p] > sums[winner]) winner = p;
        const u32 place = ((top[l] + (winner >> 1)) * POOLED[l].width + left[l] + (winner & 1)) * POOLED[l].stride;
        unit->winner = place << 3 | winner;
    }
    __syncthreads();
}

// ---- one sample ----

struct open_units {
    u32 count;
    u32 unit[MOST_OPEN];
};

// Lists the open units of a layer whose derivative matters.
DEVICE void list_open(const struct unit *units, int unit_stride, int windows, int outputs, struct open_units *open) {
    for EACH (i, windows * outputs) {
        const int window = i % windows, o = i / windows;
        const struct unit unit = units[o * unit_stride + window];
        if ((unit.winner & OPEN) && fabsf(unit.gradient) >= SIGNIFICANT) {
            const u32 slot = atomicAdd(&open->count, 1u);
            if (slot < MOST_OPEN) open->unit[slot] = i;
        }
    }
}

// An image as the network sees it, channels last.
DEVICE void load_image(const struct images *images, int sample, float *image) {
    const u8 *pixels = images->pixels + (long long)sample * IMAGE;
    for EACH (i, IMAGE) {
        const int channel = i / (HEIGHT * WIDTH), position = i % (HEIGHT * WIDTH);
        image[position * CHANNELS + channel] = images->values[256 * channel + pixels[i]];
    }
}

#define S(place) (shared + (place))
#define UNITS(place) ((struct unit *)(shared + (place)))
#define WORDS(place) ((u32 *)(shared + (place)))

// A layer's forward pass; `training`, `pruned`, `draw` and so on are those of the kernel around it.
#define FORWARD_POOLED(l, height, width, channels, stride, kernel, outputs, group, dropout, weight, bias, input,       \
                       output, output_stride, units, unit_stride, equal)                                               \
    {                                                                                                                  \
        const int windows = (height + 1 - kernel) / 2 * ((width + 1 - kernel) / 2);                                    \
        if (training) {                                                                                                \
            find_equal_pixels(height, width, channels, stride, S(input), WORDS(equal), WORDS(equal) + height);         \
            __syncthreads();                                                                                           \
        }                                                                                                              \
        pooled_forward(height, width, channels, stride, kernel, outputs, group, training, S(weight), S(bias),          \
                       S(input), S(output), output_stride, UNITS(units), unit_stride, WORDS(equal),                    \
                       WORDS(equal) + height, pruned);                                                                 \
        __syncthreads();                                                                                               \
        if (DROPOUT && training && dropout >= 0 && draw.epoch) {                                                       \
            drop(windows, outputs, dropout, sample.in_batch, draw, S(output), output_stride, 0, UNITS(units),          \
                 unit_stride);                                                                                         \
            __syncthreads();                                                                                           \
        }                                                                                                              \
        if (training) {                                                                                                \
            list_open(UNITS(units), unit_stride, windows, outputs, open + l);                                          \
            __syncthreads();                                                                                           \
            const u32 count = open[l].count;                                                                           \
            if (count > 0 && count <= MOST_OPEN)                                                                       \
                for (u32 i = 0; i < count; i++) {                                                                      \
                    const int o = open[l].unit[i] / windows, window = open[l].unit[i] % windows;                       \
                    decide(l, window, o, models, model, shared, residuals, images, sample, draw,                       \
                           UNITS(units) + o * unit_stride + window);                                                   \
                }                                                                                                      \
        }                                                                                                              \
    }

#define FORWARD_DENSE(height, width, channels, stride, kernel_rows, kernel_columns, outputs, activated, dropout,       \
                      weight, bias, input, output, gradient)                                                           \
    {                                                                                                                  \
        dense_forward(height, width, channels, stride, kernel_rows, kernel_columns, outputs, activated, S(weight),     \
                      S(bias), S(input), S(output), S(gradient));                                                      \
        __syncthreads();                                                                                               \
        if (DROPOUT && training && dropout >= 0 && draw.epoch) {                                                       \
            drop((height + 1 - kernel_rows) * (width + 1 - kernel_columns), outputs, dropout, sample.in_batch, draw,   \
                 S(output), outputs, S(gradient), 0, 0);                                                               \
            __syncthreads();                                                                                           \
        }                                                                                                              \
    }

// The units or gradients below are those of the layer before, units if they have a stride; of the first
// layer there are none.
#define BACKWARD_POOLED(height, width, channels, stride, kernel, outputs, group, weight, bias, input, units,           \
                        unit_stride, below, below_stride)                                                              \
    {                                                                                                                  \
        pooled_weights_backward(height, width, channels, stride, kernel, outputs, group, S(input), UNITS(units),       \
                                unit_stride, S(GRADIENTS + weight), S(GRADIENTS + bias));                              \
        if (below_stride)                                                                                              \
            pooled_input_backward(height, width, channels, kernel, outputs, S(weight), UNITS(units), unit_stride,      \
                                  UNITS(below), below_stride);                                                         \
        __syncthreads();                                                                                               \
    }

#define BACKWARD_DENSE(height, width, channels, stride, kernel_rows, kernel_columns, outputs, weight, bias, input,     \
                       gradient, below, below_stride)                                                                  \
    {                                                                                                                  \
        dense_backward(height, width, channels, stride, kernel_rows, kernel_columns, outputs, S(weight), S(input),     \
                       S(gradient), S(GRADIENTS + weight), S(GRADIENTS + bias), S(below),                              \
                       below_stride ? UNITS(below) : 0, below_stride);                                                 \
        __syncthreads();                                                                                               \
    }

// The first of the largest logits, the first NaN before all; and the largest, as metrics.rs has it.
DEVICE int predicted_class(const float *logits) {
    int best = 0;
    for (int c = 1; c < CLASSES; c++)
        if (EXCEEDS(logits[c], logits[best])) best = c;
    return best;
}

DEVICE double largest_logit(const float *logits) {
    double largest = -INFINITE;
    for (int c = 0; c < CLASSES; c++) {
        const double logit = (double)logits[c];
        if (logit > largest || logit != logit) largest = logit;
    }
    return largest;
}

// ---- kernels ----

struct train {
    struct images images;
    struct models models;
    const u32 *orders;        // (models, samples)
    const double *bias_corrections; // (steps): of Adam's mean; see adam_rates
    const float *corrections; // (steps): of its mean square
    float *gradients;         // (models, PARAMETERS), or null: then the models are trained
    int samples;              // of an epoch
    int batch_size;
    int first_step, steps;    // of the epoch
    u32 epoch;                // 0: dropout is off
};

// One optimiser step along the gradients in shared memory, which it clears.
DEVICE void update(const struct train *a, int model, int step, float *shared) {
    const struct models *models = &a->models;
    const long long first = (long long)model * PARAMETERS;
    float *residuals = models->residuals + first, *moments = models->moments + first * MOMENTS;
    const u8 *mask = models->masks ? models->masks + first : 0;
    const float weight_decay = models->weight_decays[model];
#if MOMENTS == 2
    const float step_size = (float)(models->learning_rates[model] / a->bias_corrections[step]);
    const float correction = a->corrections[step];
#else
    const float step_size = (float)models->learning_rates[model], momentum = models->momenta[model];
#endif
#pragma unroll 4
    for EACH (i, PARAMETERS) {
        const float p = shared[i], g = fmaf(weight_decay, p, shared[GRADIENTS + i]), r = residuals[i];
        shared[GRADIENTS + i] = 0.0f;
#if MOMENTS == 2
        float m = moments[i], v = moments[PARAMETERS + i];
        m = fmaf(g - m, 0.1f, m);
        v = fmaf(v, 0.999f, (g * g) * 0.001f);
        moments[PARAMETERS + i] = v;
        const float change = r - step_size * __fdiv_rn(m, __fdiv_rn(__fsqrt_rn(v), correction) + 1e-8f);
#else
        const float m = fmaf(momentum, moments[i], g);
        const float change = r - step_size * m;
#endif
        moments[i] = m;
        // Knuth's two-sum: what rounding takes from the sum is kept.
        const float sum = p + change, added = sum - p;
        const float rest = (p - (sum - added)) + (change - added);
        const int kept = !mask || mask[i];
        shared[i] = kept ? sum : 0.0f;
        residuals[i] = kept ? rest : 0.0f;
    }
}

// Trains one model per block for some steps, or computes its gradient on one mini-batch.
KERNEL(train, struct train) {
    SHARED(shared);
    const struct train *a = &arguments;
    const struct images *images = &a->images;
    const struct models *models = &a->models;
    const int model = blockIdx.x, training = 1;
    const long long first = (long long)model * PARAMETERS;
    float *parameters = models->parameters + first;
    const float *residuals = models->residuals + first;
    const int pruned = models->pruned[model];
    const u32 *order = a->orders + (long long)model * a->samples;
    struct open_units *open = (struct open_units *)(shared + OPEN_UNITS);
    double *losses = (double *)(shared + LOSSES);
    struct draw draw = {models->seeds[model], a->epoch, 0, models->thresholds[model], models->kept[model]};
    double loss = models->losses[model];
    u32 hits = models->hits[model];
    for EACH (i, PARAMETERS) {
        shared[i] = parameters[i];
        shared[GRADIENTS + i] = 0.0f;
    }
    __syncthreads();
    int step = a->first_step;
    for (; step < a->first_step + a->steps; step++) {
        const int start = step * a->batch_size;
        const int batch = a->samples - start < a->batch_size ? a->samples - start : a->batch_size;
        draw.step = step;
        for (int s = 0; s < batch; s++) {
            const struct sample sample = {(int)order[start + s], s};
            const int label = images->labels[sample.index];
            load_image(images, sample.index, S(INPUT));
            if (threadIdx.x < POOLED_COUNT) open[threadIdx.x].count = 0;
            __syncthreads();
            FORWARD_LAYERS
            // Two warps: one for the gradient, one for the loss in double precision.
            float *logits = S(LOGITS), *powers = S(POWERS);
            if (threadIdx.x < 32) {
                const float largest = logits[predicted_class(logits)];
                for (int c = threadIdx.x; c < CLASSES; c += 32) powers[c] = exponential(logits[c] - largest);
            } else if (threadIdx.x < 64) {
                const double largest = largest_logit(logits);
                for (int c = threadIdx.x - 32; c < CLASSES; c += 32)
                    losses[c] = double_exponential((double)logits[c] - largest);
            }
            __syncthreads();
            if (threadIdx.x < 32) {
                float sum = 0.0f;
                for (int c = 0; c < CLASSES; c++) sum = sum + powers[c];
                for (int c = threadIdx.x; c < CLASSES; c += 32) {
                    const float difference = __fdiv_rn(powers[c], sum) - (c == label ? 1.0f : 0.0f);
                    S(LOGIT_GRADIENTS)[c] *= __fdiv_rn(difference, (float)batch);
                }
            } else if (threadIdx.x == 32) {
                double sum = 0.0;
                for (int c = 0; c < CLASSES; c++) sum += losses[c];
                loss += largest_logit(logits) + double_logarithm(sum) - (double)logits[label];
                hits += predicted_class(logits) == label;
            }
            __syncthreads();
            BACKWARD_LAYERS
        }
        if (a->gradients) break;
        // What it changes, the next step reads behind a barrier.
        update(a, model, step, shared);
    }
    if (a->gradients) {
        for EACH (i, PARAMETERS) a->gradients[first + i] = shared[GRADIENTS + i];
        return;
    }
    for EACH (i, PARAMETERS) parameters[i] = shared[i];
    if (threadIdx.x == 32) {
        models->losses[model] = loss;
        models->hits[model] = hits;
    }
}

struct evaluate {
    struct images images;
    struct models models;
    float *logits; // (models, samples, CLASSES)
    int first, samples;
};

// Logits of some samples of a split, dropout off: one model per block, the samples dealt to the blocks
// of the grid's second dimension.
KERNEL(evaluate, struct evaluate) {
    SHARED(shared);
    const struct evaluate *a = &arguments;
    const struct images *images = &a->images;
    const struct models *models = &a->models;
    const int model = blockIdx.x, training = 0, pruned = 0;
    const float *residuals = models->residuals;
    struct open_units *open = 0;
    struct draw draw = {0, 0, 0, 0, 0.0f};
    for EACH (i, PARAMETERS) shared[i] = models->parameters[(long long)model * PARAMETERS + i];
    for (int s = blockIdx.y; s < a->samples; s += gridDim.y) {
        const struct sample sample = {a->first + s, 0};
        load_image(images, sample.index, S(INPUT));
        __syncthreads();
        FORWARD_LAYERS
        for EACH (c, CLASSES) a->logits[((long long)model * a->samples + s) * CLASSES + c] = S(LOGITS)[c];
        // The next image may come: what is read here, only the last layer writes.
    }
}

struct score {
    struct models models;
    const float *logits; // (models, samples, CLASSES)
    const u16 *labels;   // (samples)
    u16 *predictions;    // (models, samples)
    int samples;
};

// Adds the samples' losses and hits in order, one model per thread.
KERNEL(score, struct score) {
    const int model = blockIdx.x * THREADS + threadIdx.x;
    if (model >= arguments.models.count) return;
    double loss = arguments.models.losses[model];
    u32 hits = arguments.models.hits[model];
    for (int s = 0; s < arguments.samples; s++) {
        const long long at = (long long)model * arguments.samples + s;
        const float *logits = arguments.logits + at * CLASSES;
        const double largest = largest_logit(logits);
        double sum = 0.0;
        for (int c = 0; c < CLASSES; c++) sum += double_exponential((double)logits[c] - largest);
        loss += largest + double_logarithm(sum) - (double)logits[arguments.labels[s]];
        const int predicted = predicted_class(logits);
        hits += predicted == arguments.labels[s];
        arguments.predictions[at] = predicted;
    }
    arguments.models.losses[model] = loss;
    arguments.models.hits[model] = hits;
}

struct shuffle {
    const u64 *seeds; // (models)
    u32 *orders;      // (models, samples)
    int models, samples;
    u32 epoch;
};

// The order of an epoch's samples: epoch_order of zoo-model, one model per thread.
KERNEL(shuffle, struct shuffle) {
    const int model = blockIdx.x * THREADS + threadIdx.x;
    if (model >= arguments.models || arguments.samples < 1) return;
    u32 *order = arguments.orders + (long long)model * arguments.samples;
    const u64 seed = arguments.seeds[model];
    for (int i = 0; i < arguments.samples; i++) order[i] = i;
    struct words words = {{0, 0, 0, 0}};
    u32 block = 0;
    int used = 4;
    for (u32 last = arguments.samples - 1; last > 0; last--) {
        const u32 bound = last + 1;
        u64 product;
        do {
            if (used == 4) {
                words = philox(block++, 0, arguments.epoch, 4, seed);
                used = 0;
            }
            product = (u64)words.word[used++] * bound;
        } while ((u32)product < (0u - bound) % bound);
        const u32 chosen = (u32)(product >> 32), moved = order[last];
        order[last] = order[chosen];
        order[chosen] = moved;
    }
}

struct prune {
    struct models models;
};

// Sets to zero what the masks remove.
KERNEL(prune, struct prune) {
    const long long first = (long long)blockIdx.x * PARAMETERS;
    for EACH (i, PARAMETERS)
        if (!arguments.models.masks[first + i]) {
            arguments.models.parameters[first + i] = 0.0f;
            arguments.models.residuals[first + i] = 0.0f;
        }
}
