// Pooling, dropout, images, the loss, and the optimiser.

// PyTorch's maximum: NaN is larger than any number, the first of equals wins.
#define EXCEEDS(a, b) ((a) > (b) || ((a) != (a) && (b) == (b)))

// A place of a map of the pool's images and channels: quads.
struct place {
    int y, x;
    long long image; // and channel, within the position
};

DEVICE struct place place_of(const struct pool *p, long long quad, int width) {
    const long long size = (long long)p->images * p->channels;
    const int position = (int)(quad * 4 / size);
    const struct place place = {position / width, position % width, quad * 4 % size};
    return place;
}

KERNEL(max_pool, struct pool) {
    const struct pool *p = &arguments;
    const int rows = p->height / 2, columns = p->width / 2;
    const long long size = (long long)p->images * p->channels;
    for EVERY (i, rows * columns * size / 4) {
        const struct place to = place_of(p, i, columns);
        float best[4], winner[4] = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll
        for (int w = 0; w < 4; w++) {
            float x[4];
            load_quad(p->x + (long long)((2 * to.y + w / 2) * p->width + 2 * to.x + w % 2) * size + to.image, x);
            for QUAD (j) {
                if (w > 0 && !EXCEEDS(x[j], best[j])) continue;
                best[j] = x[j];
                winner[j] = (float)w;
            }
        }
        store_quad(best, p->out + i * 4);
        store_quad(winner, p->winners + i * 4);
    }
}

KERNEL(max_pool_gradient, struct pool) {
    const struct pool *p = &arguments;
    const int rows = p->height / 2, columns = p->width / 2;
    const long long size = (long long)p->images * p->channels;
    for EVERY (i, p->height * p->width * size / 4) {
        const struct place to = place_of(p, i, p->width);
        float gradient[4] = {0.0f, 0.0f, 0.0f, 0.0f};
        if (to.y < 2 * rows && to.x < 2 * columns) {
            const long long from = (long long)(to.y / 2 * columns + to.x / 2) * size + to.image;
            const float mine = (float)(to.y % 2 * 2 + to.x % 2);
            float winner[4];
            load_quad(p->x + from, gradient);
            load_quad(p->winners + from, winner);
            for QUAD (j) gradient[j] = winner[j] == mine ? gradient[j] : 0.0f;
        }
        store_quad(gradient, p->out + i * 4);
    }
}

KERNEL(average_pool, struct pool) {
    const struct pool *p = &arguments;
    const int positions = p->height * p->width;
    const long long size = (long long)p->images * p->channels;
    for EVERY (i, size / 4) {
        float sum[4] = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll 4
        for (int position = 0; position < positions; position++) {
            float x[4];
            load_quad(p->x + position * size + i * 4, x);
            for QUAD (j) sum[j] = sum[j] + x[j];
        }
        for QUAD (j) sum[j] = __fdiv_rn(sum[j], (float)positions);
        store_quad(sum, p->out + i * 4);
    }
}

KERNEL(average_pool_gradient, struct pool) {
    const struct pool *p = &arguments;
    const int positions = p->height * p->width;
    const long long size = (long long)p->images * p->channels;
    for EVERY (i, positions * size / 4) {
        float gradient[4];
        load_quad(p->x + i * 4 % size, gradient);
        for QUAD (j) gradient[j] = __fdiv_rn(gradient[j], (float)positions);
        store_quad(gradient, p->out + i * 4);
    }
}

// A thread draws one block of Philox: four units in the order (image, channel, position).
KERNEL(dropout, struct dropout) {
    const struct dropout *a = &arguments;
    const long long units = (long long)a->images * a->channels * a->positions;
    const int padded = (a->channels + LANES - 1) / LANES * LANES;
    for EVERY (block, (units + 3) / 4) {
        const struct words words = philox((u32)block, a->step, a->epoch, a->purpose, a->seed);
        for QUAD (w) {
            const long long unit = block * 4 + w;
            if (unit >= units) break;
            const int position = (int)(unit % a->positions);
            const int channel = (int)(unit / a->positions % a->channels);
            const long long image = unit / a->positions / a->channels;
            const float factor = words.word[w] >= a->threshold ? a->kept : 0.0f;
            a->out[(position * (long long)a->images + image) * padded + channel] = factor;
        }
    }
}

KERNEL(load_images, struct load_images) {
    const struct load_images *a = &arguments;
    const int pixels = a->channels * a->positions;
    const int channels = a->is_flat ? pixels : a->channels, padded = (channels + LANES - 1) / LANES * LANES;
    for EVERY (i, (long long)a->images * pixels) {
        const long long image = i / pixels;
        const int pixel = (int)(i % pixels), channel = pixel / a->positions, position = pixel % a->positions;
        const float value = a->table[256 * channel + a->pixels[i]];
        a->out[a->is_flat ? image * padded + pixel : (position * (long long)a->images + image) * padded + channel] = value;
    }
}

// The first of the largest logits, the first NaN before all.
DEVICE int predicted_class(const float *logits, int classes) {
    int best = 0;
    for (int c = 1; c < classes; c++)
        if (EXCEEDS(logits[c], logits[best])) best = c;
    return best;
}

// An image per block.
KERNEL(cross_entropy, struct cross_entropy) {
    const struct cross_entropy *a = &arguments;
    const int padded = (a->classes + LANES - 1) / LANES * LANES, label = a->labels[blockIdx.x];
    const long long image = a->first + (int)blockIdx.x;
    const float *logits = a->logits + image * padded;
    float *out = a->out + image * padded;
    const float largest = logits[predicted_class(logits, a->classes)];
    for EACH (c, a->classes) out[c] = exponential(logits[c] - largest);
    __syncthreads();
    float sum = 0.0f;
    for (int c = 0; c < a->classes; c++) sum = sum + out[c];
    __syncthreads();
    for EACH (c, a->classes) {
        const float difference = __fdiv_rn(out[c], sum) - (c == label ? 1.0f : 0.0f);
        out[c] = __fdiv_rn(difference, (float)a->images);
    }
}

// Weights with inputs and outputs exchanged, 32 x 32 weights per block.
KERNEL(transpose, struct transpose) {
    SHARED(shared);
    const struct transpose *a = &arguments;
    const int inputs = (a->inputs + LANES - 1) / LANES * LANES, outputs = (a->outputs + LANES - 1) / LANES * LANES;
    const int columns = (outputs + 31) / 32, rows = (inputs + 31) / 32;
    const int column = (int)blockIdx.x % columns * 32, row = (int)blockIdx.x / columns % rows * 32;
    const int tap = (int)blockIdx.x / (columns * rows), x = (int)threadIdx.x % 32;
    for (int y = (int)threadIdx.x / 32; y < 32; y += THREADS / 32)
        shared[y * 33 + x] = row + y < a->inputs && column + x < a->outputs
                                 ? a->weights[((long long)tap * a->inputs + row + y) * outputs + column + x]
                                 : 0.0f;
    __syncthreads();
    for (int y = (int)threadIdx.x / 32; y < 32; y += THREADS / 32)
        if (column + y < a->outputs && row + x < inputs)
            a->out[((long long)tap * a->outputs + column + y) * inputs + row + x] = shared[x * 33 + y];
}

KERNEL(update, struct update) {
    const struct update *a = &arguments;
    for EVERY (i, a->floats) {
        if (a->mask && a->mask[i] == 0.0f) {
            a->parameters[i] = 0.0f;
            continue;
        }
        const float p = a->parameters[i], g = fmaf(a->weight_decay, p, a->gradient[i]);
        float m = a->first[i], change;
        if (a->is_adam) {
            float v = a->second[i];
            m = fmaf(g - m, a->rate, m);
            v = fmaf(v, ADAM_BETA2, (g * g) * ADAM_RATE2);
            a->second[i] = v;
            change = a->step_size * __fdiv_rn(m, __fdiv_rn(__fsqrt_rn(v), a->correction) + ADAM_EPSILON);
        } else {
            m = fmaf(a->rate, m, g);
            change = a->step_size * m;
        }
        a->first[i] = m;
        a->parameters[i] = p - change;
    }
}
