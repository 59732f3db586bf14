// The population engine on CUDA: one block per model, its parameters, gradients and activations in
// shared memory. Every sum runs in the order that reference.rs writes down and every operation is
// one that IEEE 754 defines, so that a model has the bits it has on the CPU.
//
// The files of this folder and those that engines share (engines/cuda) are one program, in the order
// in which source.rs lists them. Before them it defines the sizes of one network and the places of its
// arrays, in upper case, and among them a function for each layer and the two that go through all of
// them, `forward` and `backward`. The subset of C is one that a C compiler takes too: tests compile it
// with shim.h.
//
// Compiled without contraction: a multiply-add is one only where it says fmaf.

// A layer: its sizes, and where its arrays lie in the block's shared memory, in floats. source.rs
// writes a function for each one that returns it; since that is inlined, all of this is constant.
//
// Maps are channels-last, a pixel's values a stride apart from the next one's. The stride is odd where
// threads read neighbouring windows, which then lie in different banks.

struct layer {
    int height, width, channels; // of the input
    int kernel_rows, kernel_columns, outputs;
    int is_pooled, is_activated;
    int dropout; // number of the dropout module that follows, or -1
    int group;   // outputs that a thread computes together, if pooled
    int weight, bias;
    int input, input_stride;
    int output, output_stride;
    int gradient;    // if pooled: of units, else of the gradients of its sums
    int unit_stride; // distance of two outputs' units, if pooled
};

// A unit of a pooled layer: first the derivative of its output by the winning sum, then that sum's
// gradient; and where the winning patch begins in the layer's input.
struct unit {
    float gradient;
    // Place << 2 | down << 1 | right.
    u32 winner;
};

#define PLACE(winner) ((int)((winner) >> 2))

#define S(place) (shared + (place))
#define UNITS(place) ((struct unit *)(shared + (place)))

// PyTorch's maximum: NaN is larger than any number, the first of equals wins.
#define EXCEEDS(a, b) ((a) > (b) || ((a) != (a) && (b) == (b)))

DEVICE int rows_of(struct layer l) { return (l.height + 1 - l.kernel_rows) / (l.is_pooled ? 2 : 1); }
DEVICE int columns_of(struct layer l) { return (l.width + 1 - l.kernel_columns) / (l.is_pooled ? 2 : 1); }
DEVICE int positions_of(struct layer l) { return rows_of(l) * columns_of(l); }
