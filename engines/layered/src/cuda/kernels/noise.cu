// Variational dropout: functions.rs of zoo-engine-simd, operation by operation.

// ln x of a positive normal number.
DEVICE float logarithm(float x) {
    const u32 bits = __float_as_uint(x);
    float n = __int_as_float((int)(bits >> 23 ^ 0x4b000000u)) - 8388735.0f;
    float m = __int_as_float((int)((bits & 0x007fffffu) ^ 0x3f800000u));
    const int large = 1.41421356237309504880f < m;
    m = large ? m * 0.5f : m;
    n = large ? n + 1.0f : n;
    const float f = m - 1.0f, t = __fdiv_rn(f, 2.0f + f), square = t * t;
    float p = 2.0f / 9.0f;
    p = fmaf(p, square, 2.0f / 7.0f);
    p = fmaf(p, square, 2.0f / 5.0f);
    p = fmaf(p, square, 2.0f / 3.0f);
    const float ln_m = fmaf(p * square, t, t + t);
    return fmaf(n, 0.69314575f, fmaf(n, 1.4286068e-6f, ln_m));
}

// The top 23 bits as a fraction of 1.
DEVICE float fraction(u32 word) { return __int_as_float((int)(word >> 9 ^ 0x3f800000u)) - 1.0f; }

// One of a pair of normal draws.
DEVICE float normal(u32 radius_word, u32 angle_word, int is_second) {
    const float radius = __fsqrt_rn(-2.0f * logarithm(fraction(radius_word) + 1.0f / 16777216.0f));
    const float turn = fraction(angle_word), quarters = rintf(turn * 4.0f);
    const float x = fmaf(quarters, -0.25f, turn) * 6.28318530717958647693f, square = x * x;
    float p = 1.0f / 362880.0f;
    p = fmaf(p, square, -1.0f / 5040.0f);
    p = fmaf(p, square, 1.0f / 120.0f);
    p = fmaf(p, square, -1.0f / 6.0f);
    const float sine = fmaf(p * square, x, x);
    p = -1.0f / 3628800.0f;
    p = fmaf(p, square, 1.0f / 40320.0f);
    p = fmaf(p, square, -1.0f / 720.0f);
    p = fmaf(p, square, 1.0f / 24.0f);
    p = fmaf(p, square, -0.5f);
    const float cosine = fmaf(p, square, 1.0f);
    const int first = quarters == 1.0f, second = quarters == 2.0f, third = quarters == 3.0f;
    const float c = first || third ? sine : cosine, s = first || third ? cosine : sine;
    if (is_second) return radius * (second || third ? 0.0f - s : s);
    return radius * (first || second ? 0.0f - c : c);
}

// Adds noise to sums, of which an image's are numbered in the order (position, channel); variances become the
// sums' derivatives by them. Each thread draws one block of Philox.
KERNEL(add_noise, struct add_noise) {
    const struct add_noise *a = &arguments;
    const int of_image = a->positions * a->channels, blocks = (of_image + 3) / 4;
    const int padded = (a->channels + LANES - 1) / LANES * LANES;
    for EVERY (block, (long long)a->images * blocks) {
        const struct words words = philox((u32)block, a->step, a->epoch, a->purpose, a->seed);
        const long long image = block / blocks;
        for QUAD (w) {
            const int sum = (int)(block % blocks) * 4 + w;
            if (sum >= of_image) break;
            const float draw = normal(words.word[w / 2 * 2], words.word[w / 2 * 2 + 1], w % 2);
            const long long at = (sum / a->channels * (long long)a->images + image) * padded + sum % a->channels;
            const float deviation = __fsqrt_rn(a->variances[at] + NOISE_FLOOR);
            a->sums[at] = fmaf(deviation, draw, a->sums[at]);
            a->variances[at] = __fdiv_rn(draw * 0.5f, deviation);
        }
    }
}

KERNEL(square, struct vectors) {
    for EVERY (i, arguments.floats) arguments.to[i] = arguments.from[i] * arguments.from[i];
}

KERNEL(multiply_by, struct vectors) {
    for EVERY (i, arguments.floats) arguments.to[i] = arguments.to[i] * arguments.from[i];
}

KERNEL(exponentials, struct vectors) {
    for EVERY (i, arguments.floats) arguments.to[i] = exponential(arguments.from[i]);
}

KERNEL(add_of_squares, struct add_of_squares) {
    const struct add_of_squares *a = &arguments;
    for EVERY (i, a->floats) a->gradient[i] = fmaf(a->x[i] + a->x[i], a->by_squares[i], a->gradient[i]);
}

KERNEL(add_divergence, struct add_divergence) {
    const struct add_divergence *a = &arguments;
    for EVERY (i, a->floats) {
        const float weight = a->weights[i], size = fabsf(weight) + KL_SMALLEST;
        const float log_alpha = fmaf(-2.0f, logarithm(size), a->log_sigma2[i]);
        const float y = logistic(fmaf(KL_3, log_alpha, KL_2));
        float slope = (KL_1 * KL_3) * (y * (1.0f - y));
        slope = fmaf(0.5f, logistic(0.0f - log_alpha), slope);
        const float by_noise = fabsf(log_alpha) < KL_LIMIT ? 0.0f - slope : 0.0f;
        const float by_weight = weight == 0.0f ? 0.0f : __fdiv_rn(by_noise * -2.0f, copysignf(size, weight));
        a->by_weights[i] = fmaf(a->kl_weight, by_weight, a->by_weights[i]);
        a->by_noise[i] = fmaf(a->kl_weight, by_noise, a->by_noise[i] * a->sigma2[i]);
    }
}
