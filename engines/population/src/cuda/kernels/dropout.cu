// A model's place in the random draws of dropout.
struct draw {
    u64 seed;
    u32 epoch, step; // epoch 0: dropout is off
    u32 threshold;
    float kept;
    int in_batch; // place of the sample in the mini-batch
};

// Drops units of one sample: multiplies output and derivative by 0 or 1 / (1 - p). A thread takes the
// units of one Philox block, in the order (channel, position).
DEVICE void drop(struct layer l, struct draw draw, float *shared) {
    const int positions = positions_of(l), count = positions * l.outputs, start = draw.in_batch * count;
    for EACH (i, (start + count + 3) / 4 - start / 4) {
        const int block = start / 4 + i;
        const struct words words = philox(block, draw.step, draw.epoch, 5 | l.dropout << 8, draw.seed);
#pragma unroll
        for (int w = 0; w < 4; w++) {
            const int index = 4 * block + w - start;
            if (index < 0 || index >= count) continue;
            const int channel = index / positions, position = index % positions;
            const float factor = words.word[w] >= draw.threshold ? draw.kept : 0.0f;
            shared[l.output + position * l.output_stride + channel] *= factor;
            if (l.is_pooled)
                UNITS(l.gradient)[channel * l.unit_stride + position].gradient *= factor;
            else
                shared[l.gradient + position * l.outputs + channel] *= factor;
        }
    }
}
