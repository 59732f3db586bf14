// Elementwise layers: a thread has four channels, of rows that are as far apart as there are threads, which is
// why these are a multiple of the quads of a row.

DEVICE int channel_of_thread(int channels) {
    return (int)(((long long)blockIdx.x * THREADS + threadIdx.x) % (channels / 4)) * 4;
}

DEVICE float inverse_deviation_of(float variance) { return __fdiv_rn(1.0f, __fsqrt_rn(variance + VARIANCE_FLOOR)); }

// A batch normalisation of four channels.
struct norm {
    float mean[4], inverse_deviation[4], factor[4], shift[4];
};

DEVICE struct norm norm_of(const struct pointwise *a, int channel) {
    struct norm norm;
    if (!a->mean) return norm;
    float scale[4];
    load_quad(a->mean + channel, norm.mean);
    load_quad(a->inverse_deviation + channel, norm.inverse_deviation);
    load_quad(a->scale + channel, scale);
    load_quad(a->shift + channel, norm.shift);
    for QUAD (j) norm.factor[j] = scale[j] * norm.inverse_deviation[j];
    return norm;
}

// What a pointwise layer's activation is applied to, in place of x.
DEVICE void activated_quad(const struct pointwise *a, const struct norm *norm, long long at, float *x) {
    if (a->mean)
        for QUAD (j) x[j] = fmaf(x[j] - norm->mean[j], norm->factor[j], norm->shift[j]);
    if (a->addend) {
        float addend[4];
        load_quad(a->addend + at, addend);
        for QUAD (j) x[j] = x[j] + addend[j];
    }
}

KERNEL(pointwise, struct pointwise) {
    const struct pointwise *a = &arguments;
    const struct norm norm = norm_of(a, channel_of_thread(a->channels));
    for EVERY (i, (long long)a->rows * (a->channels / 4)) {
        float y[4];
        load_quad(a->x + i * 4, y);
        activated_quad(a, &norm, i * 4, y);
        if (a->activation >= 0) {
            float derivative;
            for QUAD (j) y[j] = activation(a->activation, y[j], &derivative);
        }
        if (a->factors) {
            float factors[4];
            load_quad(a->factors + i * 4, factors);
            for QUAD (j) y[j] = y[j] * factors[j];
        }
        store_quad(y, a->out + i * 4);
    }
}

KERNEL(norm_gradient, struct norm_gradient) {
    const struct norm_gradient *a = &arguments;
    const int channel = channel_of_thread(a->channels);
    const float n = (float)a->rows;
    float mean[4], inverse_deviation[4], factor[4], by_scale[4], by_shift[4];
    load_quad(a->mean + channel, mean);
    load_quad(a->inverse_deviation + channel, inverse_deviation);
    load_quad(a->scale + channel, factor);
    load_quad(a->by_scale + channel, by_scale);
    load_quad(a->by_shift + channel, by_shift);
    for QUAD (j) {
        factor[j] = factor[j] * inverse_deviation[j];
        by_scale[j] = __fdiv_rn(by_scale[j], n);
        by_shift[j] = __fdiv_rn(by_shift[j], n);
    }
    for EVERY (i, (long long)a->rows * (a->channels / 4)) {
        float x[4], d[4];
        load_quad(a->x + i * 4, x);
        load_quad(a->gradient + i * 4, d);
        for QUAD (j) {
            const float normalised = (x[j] - mean[j]) * inverse_deviation[j];
            x[j] = fmaf(normalised, -by_scale[j], d[j] - by_shift[j]) * factor[j];
        }
        store_quad(x, a->out + i * 4);
    }
}

KERNEL(inverse_deviation, struct vectors) {
    for EVERY (i, arguments.floats) arguments.to[i] = inverse_deviation_of(arguments.from[i]);
}

KERNEL(add, struct vectors) {
    for EVERY (i, arguments.floats) arguments.to[i] = arguments.to[i] + arguments.from[i];
}
