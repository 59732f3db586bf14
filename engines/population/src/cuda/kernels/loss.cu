// The cross entropy of one sample.

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

// The loss of a sample's logits, computed by one thread.
DEVICE double sample_loss(const float *logits, int label) {
    const double largest = largest_logit(logits);
    double sum = 0.0;
    for (int c = 0; c < CLASSES; c++) sum += double_exponential((double)logits[c] - largest);
    return largest + double_logarithm(sum) - (double)logits[label];
}

// The gradient of the last layer's sums, from their derivatives and the logits of a sample of a
// mini-batch of `batch` samples; thread 32 adds to loss and hits.
DEVICE void cross_entropy(int label, int batch, float *shared, double *loss, u32 *hits) {
    // Two warps: one for the gradient, one for the loss in double precision.
    const float *logits = S(LOGITS);
    float *powers = S(POWERS);
    double *losses = (double *)S(LOSSES);
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
        *loss += largest_logit(logits) + double_logarithm(sum) - (double)logits[label];
        *hits += predicted_class(logits) == label;
    }
    __syncthreads();
}
