// The layered engine on CUDA. Every sum runs in the order that the trait Kernels prescribes and every
// operation is one that IEEE 754 defines, so that a model has the bits it has on the CPU.
//
// The files of this folder are one program, in the order in which source.rs lists them. A tensor is
// (positions, images, channels) with channels padded to a multiple of LANES. The subset of C is one that
// a C compiler takes too: tests compile it with shim.h.
//
// Compiled without contraction: a multiply-add is one only where it says fmaf.

// Items of a loop are dealt to the threads of all blocks in turn.
#define EVERY(i, count)                                                                                    \
    (long long i = (long long)blockIdx.x * THREADS + threadIdx.x; i < (count); i += (long long)gridDim.x * THREADS)

// Lanes of a float4.
#define QUAD(j) (int j = 0; j < 4; j++)

DEVICE int least(int a, int b) { return a < b ? a : b; }

DEVICE void zero_quad(float *to) { to[0] = to[1] = to[2] = to[3] = 0.0f; }

DEVICE void load_quad(const float *from, float *to) {
    const float4 four = *(const float4 *)from;
    to[0] = four.x, to[1] = four.y, to[2] = four.z, to[3] = four.w;
}

DEVICE void store_quad(const float *from, float *to) {
    const float4 four = {from[0], from[1], from[2], from[3]};
    *(float4 *)to = four;
}

// Sums of aligned powers of two of segments; the sum of 2^b of them is at place b.
#define LEVELS 20

// Adds the sum of 2^level segments, of which `done` came before.
DEVICE void add_to_tree(float *sums, int done, int level, float sum) {
int is_carried = 1;
#pragma unroll
    for (int b = level; b < LEVELS; b++) {
        if (!is_carried) continue;
        if (done >> b & 1) {
            sum = sums[b] + sum;
        } else {
            sums[b] = sum;
            is_carried = 0;
        }
    }
}

// Adds up the sums of fewer than 2^LEVELS segments, a stride apart, in pairs: `tree` of geometry.rs.
DEVICE float tree(const float *values, long long stride, int count) {
    float sums[LEVELS];
    int done = 0;
    // Eight loads at a time do not wait for each other.
    for (; done + 8 <= count; done += 8) {
        float v[8];
#pragma unroll
        for (int i = 0; i < 8; i++) v[i] = values[(done + i) * stride];
        add_to_tree(sums, done, 3, ((v[0] + v[1]) + (v[2] + v[3])) + ((v[4] + v[5]) + (v[6] + v[7])));
    }
    for (; done < count; done++) add_to_tree(sums, done, 0, values[done * stride]);
    float sum = 0.0f;
    int is_first = 1;
#pragma unroll
    for (int b = 0; b < LEVELS; b++) {
        if (!(count >> b & 1)) continue;
        sum = is_first ? sums[b] : sums[b] + sum;
        is_first = 0;
    }
    return sum;
}
