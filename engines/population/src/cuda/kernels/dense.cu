// Convolutions that are not pooled, and linear layers, whose kernel is as large as their input.
// Weights are (tap, output).

DEVICE void dense_forward(struct layer l, float *shared) {
    const int columns = columns_of(l), outputs = l.outputs;
    for EACH (unit, positions_of(l) * outputs) {
        const int position = unit / outputs, o = unit % outputs;
        const float *patch = S(l.input) + (position / columns * l.width + position % columns) * l.input_stride;
        const float *w = S(l.weight) + o;
        float sum = shared[l.bias + o];
        for (int ky = 0; ky < l.kernel_rows; ky++)
            for (int kx = 0; kx < l.kernel_columns; kx++)
#pragma unroll
                for (int c = 0; c < l.channels; c++, w += outputs)
                    sum = fmaf(*w, patch[(ky * l.width + kx) * l.input_stride + c], sum);
        float slope = 1.0f;
        shared[l.output + unit] = l.is_activated ? activate(sum, &slope) : sum;
        shared[l.gradient + unit] = slope;
    }
}

// Adds to the gradients of a layer's parameters.
DEVICE void dense_weights_backward(struct layer l, float *shared) {
    const float *input = S(l.input), *gradient = S(l.gradient);
    float *weight_gradient = S(GRADIENTS + l.weight), *bias_gradient = S(GRADIENTS + l.bias);
    const int width = l.width, channels = l.channels, stride = l.input_stride, outputs = l.outputs;
    const int columns = columns_of(l), positions = positions_of(l);
    const int tap_row = l.kernel_columns * channels, taps = l.kernel_rows * tap_row;
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
}

// Hands the gradient of the layer before on: that of its sums, whose derivatives it finds there. Block
// by block of outputs, as on the CPU.
DEVICE void dense_input_backward(struct layer l, struct layer before, float *shared) {
    const float *weight = S(l.weight), *gradient = S(l.gradient);
    const int height = l.height, width = l.width, channels = l.channels, outputs = l.outputs;
    const int kernel_rows = l.kernel_rows, kernel_columns = l.kernel_columns, tap_row = kernel_columns * channels;
    const int rows = rows_of(l), columns = columns_of(l);
    for EACH (place, height * width * channels) {
        const int pixel = place / channels, channel = place % channels;
        const int row = pixel / width, column = pixel % width;
        const int first_row = row < kernel_rows ? 0 : row + 1 - kernel_rows;
        const int first_column = column < kernel_columns ? 0 : column + 1 - kernel_columns;
        const int blocks = (outputs + MAX_BLOCK - 1) / MAX_BLOCK;
        float sum = 0.0f;
        for (int part = 0; part < blocks; part++)
            for (int y = first_row; y <= row && y < rows; y++)
                for (int x = first_column; x <= column && x < columns; x++) {
                    const int tap = (row - y) * tap_row + (column - x) * channels + channel;
                    const float *g = gradient + (y * columns + x) * outputs;
                    for (int o = part * outputs / blocks; o < (part + 1) * outputs / blocks; o++)
                        sum = fmaf(weight[tap * outputs + o], g[o], sum);
                }
        if (before.is_pooled)
            UNITS(before.gradient)[channel * before.unit_stride + pixel].gradient *= sum;
        else
            shared[before.gradient + place] *= sum;
    }
}
