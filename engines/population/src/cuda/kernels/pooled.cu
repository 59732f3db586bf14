// Pooled convolutions; their kernels are square.

// Loads an even number of values from an even place.
DEVICE void load_pairs(const float *from, int count, float *to) {
#pragma unroll
    for (int i = 0; i < count; i += 2) {
        const float2 pair = *(const float2 *)(from + i);
        to[i] = pair.x;
        to[i + 1] = pair.y;
    }
}

// Adds to the sums of a window's four patches, of `group` outputs from `first` on, for a layer of few
// channels: two rows of the patch in registers, each loaded once. Weights are (group, tap, output of
// the group).
DEVICE void add_few_channels(struct layer l, int first, const float *weight, const float *patch, float *a, float *b,
                             float *c, float *d) {
    const int width = l.width, channels = l.channels, kernel = l.kernel_rows, group = l.group;
    const int taps = kernel * kernel * channels;
    float upper[MAX_PATCH_ROW], lower[MAX_PATCH_ROW];
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
}

// The same for a layer of a multiple of four channels: two pixels of a column in registers, which are
// the left ones of the next tap. Weights are (output, tap).
DEVICE void add_many_channels(struct layer l, int first, const float *weight, const float *patch, float *a, float *b,
                              float *c, float *d) {
    const int width = l.width, channels = l.channels, stride = l.input_stride, kernel = l.kernel_rows, group = l.group;
    const int taps = kernel * kernel * channels;
    float upper[MAX_CHANNELS], lower[MAX_CHANNELS];
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
                float4 w[MAX_GROUP];
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

// Forward pass, of which each thread computes windows of `group` outputs.
DEVICE void pooled_forward(struct layer l, int training, float *shared) {
    const int columns = columns_of(l), windows = positions_of(l), group = l.group;
    struct unit *units = UNITS(l.gradient);
    for EACH (item, windows * (l.outputs / group)) {
        const int first = item / windows * group, window = item % windows;
        const int corner = (window / columns * 2 * l.width + window % columns * 2) * l.input_stride;
        float a[MAX_GROUP], b[MAX_GROUP], c[MAX_GROUP], d[MAX_GROUP];
#pragma unroll
        for (int o = 0; o < group; o++) a[o] = b[o] = c[o] = d[o] = shared[l.bias + first + o];
        if (l.channels % 4)
            add_few_channels(l, first, S(l.weight), S(l.input) + corner, a, b, c, d);
        else
            add_many_channels(l, first, S(l.weight), S(l.input) + corner, a, b, c, d);
#pragma unroll
        for (int o = 0; o < group; o++) {
            float best = a[o];
            u32 winner = 0;
            if (EXCEEDS(b[o], best)) best = b[o], winner = 1;
            if (EXCEEDS(c[o], best)) best = c[o], winner = 2;
            if (EXCEEDS(d[o], best)) best = d[o], winner = 3;
            float derivative;
            shared[l.output + window * l.output_stride + first + o] = activate(best, &derivative);
            if (training) {
                const u32 place = corner + (winner >> 1) * l.width * l.input_stride + (winner & 1) * l.input_stride;
                struct unit *unit = units + (first + o) * l.unit_stride + window;
                unit->gradient = derivative;
                unit->winner = place << 2 | winner;
            }
        }
    }
}

// Adds to the gradients of a layer's parameters; weights as for the forward pass.
DEVICE void pooled_weights_backward(struct layer l, float *shared) {
    const struct unit *units = UNITS(l.gradient);
    const float *input = S(l.input);
    float *weight_gradient = S(GRADIENTS + l.weight), *bias_gradient = S(GRADIENTS + l.bias);
    const int width = l.width, channels = l.channels, stride = l.input_stride, kernel = l.kernel_rows;
    const int outputs = l.outputs, group = l.group, unit_stride = l.unit_stride, windows = positions_of(l);
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

// The gradient of a layer's input, for the units of the pooled layer before: window by window, the
// outputs' kernels where their winners are, and zero in the rest of the patch. In the CPU's order:
// OUTPUTS_PER_PASS outputs at a time, and of these one part of the patch's row, in eights of values,
// after the other.
DEVICE void pooled_input_backward(struct layer l, struct layer before, float *shared) {
    const float *weight = S(l.weight);
    const struct unit *units = UNITS(l.gradient);
    struct unit *below = UNITS(before.gradient);
    const int height = l.height, width = l.width, channels = l.channels, kernel = l.kernel_rows, outputs = l.outputs;
    const int unit_stride = l.unit_stride, below_stride = before.unit_stride;
    const int rows = rows_of(l), columns = columns_of(l), taps = kernel * kernel * channels;
    const int eights = (kernel + 1) * channels / 8, parts = (eights + MAX_BLOCK - 1) / MAX_BLOCK;
    for EACH (i, height * width * (channels / 4)) {
        const int pixel = i / (channels / 4), channel = i % (channels / 4) * 4;
        const int row = pixel / width, column = pixel % width;
        const int first_row = row < kernel ? 0 : (row - kernel + 1) / 2;
        const int first_column = column < kernel ? 0 : (column - kernel + 1) / 2;
        float sum[4] = {0.0f, 0.0f, 0.0f, 0.0f};
        for (int chunk = 0; chunk < outputs; chunk += OUTPUTS_PER_PASS)
            for (int part = 0; part < parts; part++)
                for (int y = first_row; 2 * y <= row && y < rows; y++)
                    for (int x = first_column; 2 * x <= column && x < columns; x++) {
                        const int eighth = ((column - 2 * x) * channels + channel) / 8;
                        if (eighth < part * eights / parts || eighth >= (part + 1) * eights / parts) continue;
                        const struct unit *unit = units + chunk * unit_stride + y * columns + x;
#pragma unroll
                        for (int o = 0; o < OUTPUTS_PER_PASS; o++) {
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
