// The kernels that are launched.

// An image as the network sees it, channels last.
DEVICE void load_image(const struct images *images, int sample, float *image) {
    const u8 *pixels = images->pixels + (long long)sample * IMAGE;
    for EACH (i, IMAGE) {
        const int channel = i / (HEIGHT * WIDTH), position = i % (HEIGHT * WIDTH);
        image[position * CHANNELS + channel] = images->values[256 * channel + pixels[i]];
    }
}

// Trains one model per block for some steps, or computes its gradient on one mini-batch.
KERNEL(train, struct train) {
    SHARED(shared);
    const struct train *a = &arguments;
    const struct images *images = &a->images;
    const struct models *models = &a->models;
    const int model = blockIdx.x;
    const long long first = (long long)model * PARAMETERS;
    float *parameters = models->parameters + first;
    const u32 *order = a->orders + (long long)model * a->samples;
    struct draw draw = {models->seeds[model], a->epoch, 0, models->thresholds[model], models->kept[model], 0};
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
        for (draw.in_batch = 0; draw.in_batch < batch; draw.in_batch++) {
            const int sample = order[start + draw.in_batch], label = images->labels[sample];
            load_image(images, sample, S(INPUT));
            __syncthreads();
            forward(1, draw, shared);
            cross_entropy(label, batch, shared, &loss, &hits);
            backward(shared);
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

// Logits of some samples of a split, dropout off: one model per block, the samples dealt to the blocks
// of the grid's second dimension.
KERNEL(evaluate, struct evaluate) {
    SHARED(shared);
    const struct evaluate *a = &arguments;
    const struct images *images = &a->images;
    const struct models *models = &a->models;
    const int model = blockIdx.x;
    const struct draw none = {0, 0, 0, 0, 0.0f, 0};
    for EACH (i, PARAMETERS) shared[i] = models->parameters[(long long)model * PARAMETERS + i];
    for (int s = blockIdx.y; s < a->samples; s += gridDim.y) {
        load_image(images, a->first + s, S(INPUT));
        __syncthreads();
        forward(0, none, shared);
        for EACH (c, CLASSES) a->logits[((long long)model * a->samples + s) * CLASSES + c] = S(LOGITS)[c];
        // The next image may come: what is read here, only the last layer writes.
    }
}

// Adds the samples' losses and hits in order, one model per thread.
KERNEL(score, struct score) {
    const int model = blockIdx.x * THREADS + threadIdx.x;
    if (model >= arguments.models.count) return;
    double loss = arguments.models.losses[model];
    u32 hits = arguments.models.hits[model];
    for (int s = 0; s < arguments.samples; s++) {
        const long long at = (long long)model * arguments.samples + s;
        const float *logits = arguments.logits + at * CLASSES;
        loss += sample_loss(logits, arguments.labels[s]);
        const int predicted = predicted_class(logits);
        hits += predicted == arguments.labels[s];
        arguments.predictions[at] = predicted;
    }
    arguments.models.losses[model] = loss;
    arguments.models.hits[model] = hits;
}

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

// Sets to zero what the masks remove.
KERNEL(prune, struct prune) {
    const long long first = (long long)blockIdx.x * PARAMETERS;
    for EACH (i, PARAMETERS)
        if (!arguments.models.masks[first + i]) arguments.models.parameters[first + i] = 0.0f;
}
