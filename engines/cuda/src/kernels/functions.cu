// Functions in f32: functions.rs of engines/simd, operation by operation.

DEVICE float power_of_two(float n) { return __int_as_float((__float2int_rn(n) + 127) << 23); }

DEVICE float expm1_reduced(float r) {
    float q = 0.001381454f;
    q = fmaf(q, r, 0.008368745f);
    q = fmaf(q, r, 0.04166839f);
    q = fmaf(q, r, 0.16666521f);
    q = fmaf(q, r, 0.49999994f);
    return fmaf(r * r, q, r);
}

DEVICE float reduce(float x, float *n) {
    *n = rintf(x * 1.44269504088896340736f);
    const float r = fmaf(*n, -0.69314575f, x);
    return fmaf(*n, -1.4286068e-6f, r);
}

DEVICE float exponential(float x) {
    x = x < -105.0f ? -105.0f : x;
    x = 90.0f < x ? 90.0f : x;
    float n;
    const float r = reduce(x, &n);
    const float e = 1.0f + expm1_reduced(r);
    const float half = rintf(n * 0.5f);
    return (e * power_of_two(half)) * power_of_two(n - half);
}

DEVICE float hyperbolic_tangent(float x) {
    float a = fabsf(x);
    a = 10.0f < a ? 10.0f : a;
    float n;
    const float r = reduce(a * -2.0f, &n);
    const float power = power_of_two(n);
    const float t = fmaf(expm1_reduced(r), power, power - 1.0f);
    return copysignf(__fdiv_rn(t, 2.0f + t), x);
}

DEVICE float logistic(float x) {
    const float z = exponential(0.0f - fabsf(x));
    return __fdiv_rn(x < 0.0f ? z : 1.0f, 1.0f + z);
}

DEVICE float error_function(float x) {
    const float square = x * x;
    float p = -0.00063151267f;
    p = fmaf(p, square, 0.005051094f);
    p = fmaf(p, square, -0.026802547f);
    p = fmaf(p, square, 0.112827174f);
    p = fmaf(p, square, -0.37612572f);
    p = fmaf(p, square, 0.12837917f);
    const float near = fmaf(p, x, x);
    float t = fabsf(x);
    t = 4.0f < t ? 4.0f : t;
    float g = -0.00021570815f;
    g = fmaf(g, t, 0.0032290455f);
    g = fmaf(g, t, -0.022934745f);
    g = fmaf(g, t, 0.10533101f);
    g = fmaf(g, t, 0.6356664f);
    g = fmaf(g, t, 1.1285295f);
    float n;
    const float r = reduce((0.0f - t) * g, &n);
    const float power = power_of_two(n);
    const float far = 1.0f - fmaf(expm1_reduced(r), power, power);
    return fabsf(x) < 0.85f ? near : copysignf(far, x);
}

#define TANH 0
#define RELU 1
#define SIGMOID 2
#define GELU 3
#define LEAKY_RELU 4
#define SILU 5

// An activation's value and derivative.
DEVICE float activate(float x, float *derivative) {
#if ACTIVATION == TANH
    const float y = hyperbolic_tangent(x);
    *derivative = 1.0f - y * y;
    return y;
#elif ACTIVATION == SIGMOID
    const float y = logistic(x);
    *derivative = y * (1.0f - y);
    return y;
#elif ACTIVATION == RELU
    const int off = x <= 0.0f;
    *derivative = off ? 0.0f : 1.0f;
    return off ? 0.0f : x;
#elif ACTIVATION == LEAKY_RELU
    const int on = 0.0f < x;
    *derivative = on ? 1.0f : 0.01f;
    return on ? x : x * 0.01f;
#elif ACTIVATION == GELU
    const float cdf = fmaf(0.5f, error_function(x * 0.707106781186547524401f), 0.5f);
    const float density = exponential((x * x) * -0.5f) * 0.3989423f;
    *derivative = fmaf(x, density, cdf);
    return x * cdf;
#elif ACTIVATION == SILU
    const float y = logistic(x);
    const float value = x * y;
    *derivative = fmaf(value, 1.0f - y, y);
    return value;
#else
#error "an activation that the kernels do not know"
#endif
}

// Functions in f64: functions.rs of zoo-engine.

DEVICE double double_power_of_two(double n) { return __longlong_as_double(((long long)n + 1023) << 52); }

// 1 / k!
CONSTANT double EXP_SERIES[] = {
    1.0,         1.0,          1.0 / 2.0,      1.0 / 6.0,       1.0 / 24.0,       1.0 / 120.0,       1.0 / 720.0,
    1.0 / 5040.0, 1.0 / 40320.0, 1.0 / 362880.0, 1.0 / 3628800.0, 1.0 / 39916800.0, 1.0 / 479001600.0, 1.0 / 6227020800.0,
};

COLD double double_exponential(double x) {
    x = x < -750.0 ? -750.0 : x;
    x = x > 710.0 ? 710.0 : x;
    if (x != x) return x;
    const double n = rint(x * 1.4426950408889634074);
    const double r = (x - n * 0.6931471803691238) - n * 1.9082149292705877e-10;
    double e = EXP_SERIES[13];
#pragma unroll
    for (int k = 12; k >= 0; k--) e = e * r + EXP_SERIES[k];
    const double half = rint(n * 0.5);
    return e * double_power_of_two(half) * double_power_of_two(n - half);
}

COLD double double_logarithm(double x) {
    if (x != x || x == INFINITE) return x;
    const long long bits = __double_as_longlong(x);
    double n = (double)((bits >> 52) - 1023);
    double m = __longlong_as_double((bits & 0x000fffffffffffffll) | 0x3ff0000000000000ll);
    if (m > 1.41421356237309504880) {
        m *= 0.5;
        n += 1.0;
    }
    const double t = (m - 1.0) / (m + 1.0);
    const double square = t * t;
    double series = 0.0;
#pragma unroll
    for (int k = 11; k >= 1; k--) series = (series + 1.0 / (double)(2 * k + 1)) * square;
    return n * 0.6931471803691238 + (n * 1.9082149292705877e-10 + 2.0 * (t + t * series));
}
