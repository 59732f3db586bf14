#define ADAM 0
#define SGD 1

// One optimiser step along the gradients in shared memory, which it clears.
DEVICE void update(const struct train *a, int model, int step, float *shared) {
    const struct models *models = &a->models;
    const long long first = (long long)model * PARAMETERS;
    float *moments = models->moments + first * MOMENTS;
    const u8 *mask = models->masks ? models->masks + first : 0;
    const float weight_decay = models->weight_decays[model];
#if OPTIMIZER == ADAM
    const float step_size = (float)(models->learning_rates[model] / a->bias_corrections[step]);
    const float correction = a->corrections[step];
#elif OPTIMIZER == SGD
    const float step_size = (float)models->learning_rates[model], momentum = models->momenta[model];
#else
#error "an optimiser that the kernels do not know"
#endif
#pragma unroll 4
    for EACH (i, PARAMETERS) {
        const float p = shared[i], g = fmaf(weight_decay, p, shared[GRADIENTS + i]);
        shared[GRADIENTS + i] = 0.0f;
#if OPTIMIZER == ADAM
        float m = moments[i], v = moments[PARAMETERS + i];
        m = fmaf(g - m, ADAM_RATE1, m);
        v = fmaf(v, ADAM_BETA2, (g * g) * ADAM_RATE2);
        moments[PARAMETERS + i] = v;
        const float change = step_size * __fdiv_rn(m, __fdiv_rn(__fsqrt_rn(v), correction) + ADAM_EPSILON);
#elif OPTIMIZER == SGD
        const float m = fmaf(momentum, moments[i], g);
        const float change = step_size * m;
#endif
        moments[i] = m;
        shared[i] = !mask || mask[i] ? p - change : 0.0f;
    }
}
