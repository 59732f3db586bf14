// Trains and evaluates models with the kernels of KERNELS, a thread of the processor each thread of a
// block, for ThreadSanitizer to watch.
#include KERNELS

static void *zeros(size_t bytes) { return calloc(bytes + 16, 1); }

int main(void) {
    enum { MODELS = 2, SAMPLES = 5 };
    u8 *pixels = zeros(SAMPLES * IMAGE);
    u16 *labels = zeros(SAMPLES * sizeof *labels);
    u32 *orders = zeros(MODELS * SAMPLES * sizeof *orders);
    for (int i = 0; i < SAMPLES * IMAGE; i++) pixels[i] = (i + 1) * 2654435761u >> 24;
    for (int s = 0; s < SAMPLES; s++) labels[s] = s % CLASSES;
    for (int i = 0; i < MODELS * SAMPLES; i++) orders[i] = i * 3 % SAMPLES;
    float *values = zeros(256 * CHANNELS * sizeof *values);
    for (int i = 0; i < 256 * CHANNELS; i++) values[i] = (i % 256 / 255.0 - 0.5) / 0.5;

    struct train train = {0};
    train.images = (struct images){pixels, labels, values};
    struct models *models = &train.models;
    models->parameters = zeros(MODELS * PARAMETERS * 4);
    for (int i = 0; i < MODELS * PARAMETERS; i++) models->parameters[i] = ((i * 2654435761u >> 8) % 1000 / 1000.0f - 0.5f) * 0.3f;
    models->moments = zeros(MODELS * MOMENTS * PARAMETERS * 4);
    u64 *seeds = zeros(MODELS * 8);
    double *rates = zeros(MODELS * 8);
    float *kept = zeros(MODELS * 4);
    u32 *thresholds = zeros(MODELS * 4);
    for (int m = 0; m < MODELS; m++) seeds[m] = m, rates[m] = 1e-3, kept[m] = 2.0f, thresholds[m] = 1u << 31;
    models->seeds = seeds, models->learning_rates = rates, models->kept = kept;
    models->thresholds = thresholds;
    models->weight_decays = zeros(MODELS * 4), models->momenta = zeros(MODELS * 4);
    models->losses = zeros(MODELS * 8), models->hits = zeros(MODELS * 4);
    models->count = MODELS;
    double corrections[3] = {0.1, 0.19, 0.271};
    float roots[3] = {0.03f, 0.04f, 0.05f};
    train.orders = orders, train.bias_corrections = corrections, train.corrections = roots;
    train.samples = SAMPLES, train.batch_size = 2, train.steps = 3, train.epoch = 1;
    launch_train(&train, MODELS, 1, 0);

    struct evaluate evaluate = {0};
    evaluate.images = train.images, evaluate.models = train.models, evaluate.samples = 3;
    evaluate.logits = zeros(MODELS * 3 * CLASSES * 4);
    launch_evaluate(&evaluate, MODELS, 2, 0);
    printf("loss %.17g, logit %.9g\n", models->losses[0], evaluate.logits[0]);
    return models->losses[0] > 0.0 ? 0 : 1;
}
