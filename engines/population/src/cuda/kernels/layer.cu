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
