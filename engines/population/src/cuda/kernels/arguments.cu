// What the kernels are called with; the same in cohort.rs.

// Images and labels of a split, and what pixels become.
struct images {
    const u8 *pixels;    // (samples, channels, height, width)
    const u16 *labels;   // (samples)
    const float *values; // (channels, 256)
};

// A cohort's models; their vectors are laid out as source.rs places them.
struct models {
    float *parameters;           // (models, PARAMETERS)
    float *moments;              // (models, MOMENTS, PARAMETERS)
    const u8 *masks;             // (models, PARAMETERS): whether a parameter may differ from zero
    const u64 *seeds;            // (models)
    const double *learning_rates; // (models)
    const float *weight_decays;  // (models)
    const float *momenta;        // (models)
    const u32 *thresholds;       // (models): of dropout, see dropout_threshold
    const float *kept;           // (models): 1 / (1 - p)
    double *losses;              // (models): summed over the samples of the epoch so far
    u32 *hits;                   // (models)
    int count;
};

struct train {
    struct images images;
    struct models models;
    const u32 *orders;        // (models, samples)
    const double *bias_corrections; // (steps): of Adam's mean; see adam_rates
    const float *corrections; // (steps): of its mean square
    float *gradients;         // (models, PARAMETERS), or null: then the models are trained
    int samples;              // of an epoch
    int batch_size;
    int first_step, steps;    // of the epoch
    u32 epoch;                // 0: dropout is off
};

struct evaluate {
    struct images images;
    struct models models;
    float *logits; // (models, samples, CLASSES)
    int first, samples;
};

struct score {
    struct models models;
    const float *logits; // (models, samples, CLASSES)
    const u16 *labels;   // (samples)
    u16 *predictions;    // (models, samples)
    int samples;
};

struct shuffle {
    const u64 *seeds; // (models)
    u32 *orders;      // (models, samples)
    int models, samples;
    u32 epoch;
};

struct prune {
    struct models models;
};
