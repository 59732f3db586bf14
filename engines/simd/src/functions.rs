//! exp, ln, tanh, sigmoid, erf, normal draws and the activations with their derivatives, from IEEE
//! operations alone.
//!
//! Coefficients are minimax fits (Lawson's algorithm) of this project; `cargo test -p zoo-engine-simd
//! --release functions -- --nocapture` measures every function's largest error against f64. All
//! accept any f32: NaN gives NaN, infinities and subnormal numbers what the function has there.

use zoo_engine::variational::{K, LOG_ALPHA_LIMIT, SMALLEST, VARIANCE_FLOOR};
use zoo_model::Activation;

use super::Simd;

/// e^r - 1 for |r| <= ln 2 / 2: r + r^2 q(r), relative error of e^r below 4e-9.
#[inline(always)]
fn expm1_reduced<S: Simd>(s: S, r: S::F) -> S::F {
    let q = s.splat(0.001_381_454);
    let q = s.fma(q, r, s.splat(0.008_368_745));
    let q = s.fma(q, r, s.splat(0.041_668_39));
    let q = s.fma(q, r, s.splat(0.166_665_21));
    let q = s.fma(q, r, s.splat(0.499_999_94));
    s.fma(s.mul(r, r), q, r)
}

/// x = n ln 2 + r with an integral n and |r| <= ln 2 / 2 (Cody and Waite 1980).
#[inline(always)]
fn reduce<S: Simd>(s: S, x: S::F) -> (S::F, S::F) {
    let n = s.round(s.mul(x, s.splat(std::f32::consts::LOG2_E)));
    let r = s.fma(n, s.splat(-0.693_145_75), x);
    (n, s.fma(n, s.splat(-1.428_606_8e-6), r))
}

/// e^x.
#[inline(always)]
pub fn exp<S: Simd>(s: S, x: S::F) -> S::F {
    // Beyond these, the result is 0 or infinite; NaN is in neither comparison and stays.
    let x = s.select(s.lt(x, s.splat(-105.0)), s.splat(-105.0), x);
    let x = s.select(s.lt(s.splat(90.0), x), s.splat(90.0), x);
    let (n, r) = reduce(s, x);
    let e = s.add(s.splat(1.0), expm1_reduced(s, r));
    // In two steps, since 2^n alone may overflow or be subnormal; only the last one rounds.
    let half = s.round(s.mul(n, s.splat(0.5)));
    s.mul(s.mul(e, s.pow2(half)), s.pow2(s.sub(n, half)))
}

/// tanh x = -t / (2 + t) with t = e^(-2|x|) - 1, which keeps the relative error small near 0.
#[inline(always)]
pub fn tanh<S: Simd>(s: S, x: S::F) -> S::F {
    let a = s.abs(x);
    // tanh rounds to 1 from 9.02 on.
    let a = s.select(s.lt(s.splat(10.0), a), s.splat(10.0), a);
    let (n, r) = reduce(s, s.mul(a, s.splat(-2.0)));
    let power = s.pow2(n);
    let t = s.fma(expm1_reduced(s, r), power, s.sub(power, s.splat(1.0)));
    s.copysign(s.div(t, s.add(s.splat(2.0), t)), x)
}

/// 1 / (1 + e^-x), from z = e^-|x|: 1 / (1 + z) or z / (1 + z).
#[inline(always)]
pub fn sigmoid<S: Simd>(s: S, x: S::F) -> S::F {
    let z = exp(s, s.sub(s.splat(0.0), s.abs(x)));
    let numerator = s.select(s.lt(x, s.splat(0.0)), z, s.splat(1.0));
    s.div(numerator, s.add(s.splat(1.0), z))
}

/// erf x: x + x p(x^2) below 0.85, 1 - e^-g(|x|) above, g(t) = -ln erfc t as a polynomial.
#[inline(always)]
pub fn erf<S: Simd>(s: S, x: S::F) -> S::F {
    let square = s.mul(x, x);
    let p = s.splat(-0.000_631_512_67);
    let p = s.fma(p, square, s.splat(0.005_051_094));
    let p = s.fma(p, square, s.splat(-0.026_802_547));
    let p = s.fma(p, square, s.splat(0.112_827_174));
    let p = s.fma(p, square, s.splat(-0.376_125_72));
    let p = s.fma(p, square, s.splat(0.128_379_17));
    let near = s.fma(p, x, x);

    let t = s.abs(x);
    // erf rounds to 1 from 3.84 on; the polynomial is fitted up to 4.
    let t = s.select(s.lt(s.splat(4.0), t), s.splat(4.0), t);
    let g = s.splat(-0.000_215_708_15);
    let g = s.fma(g, t, s.splat(0.003_229_045_5));
    let g = s.fma(g, t, s.splat(-0.022_934_745));
    let g = s.fma(g, t, s.splat(0.105_331_01));
    let g = s.fma(g, t, s.splat(0.635_666_4));
    let g = s.fma(g, t, s.splat(1.128_529_5));
    let (n, r) = reduce(s, s.mul(s.sub(s.splat(0.0), t), g));
    let power = s.pow2(n);
    let far = s.sub(s.splat(1.0), s.fma(expm1_reduced(s, r), power, power));
    s.select(s.lt(s.abs(x), s.splat(0.85)), near, s.copysign(far, x))
}

/// ln x of a positive normal number (of others, any number): x = 2^n m with m in [sqrt(1/2),
/// sqrt 2), ln m = 2 artanh((m - 1) / (m + 1)) as a Taylor polynomial, relative error below 3e-9.
#[inline(always)]
pub fn ln<S: Simd>(s: S, x: S::F) -> S::F {
    let (one, bits) = (s.splat(1.0), s.as_u32(x));
    // 2^23 + the exponent, then without 2^23 and the exponent's bias.
    let n = s.as_f32(s.xor_u32(s.shift_right::<23>(bits), s.splat_u32(0x4b00_0000)));
    let n = s.sub(n, s.splat(8_388_735.0));
    let m = s.as_f32(s.xor_u32(s.and_u32(bits, s.splat_u32(0x007f_ffff)), s.splat_u32(0x3f80_0000)));
    let large = s.lt(s.splat(std::f32::consts::SQRT_2), m);
    let m = s.select(large, s.mul(m, s.splat(0.5)), m);
    let n = s.select(large, s.add(n, one), n);
    let f = s.sub(m, one);
    let t = s.div(f, s.add(s.splat(2.0), f));
    let square = s.mul(t, t);
    let p = s.splat(2.0 / 9.0);
    let p = s.fma(p, square, s.splat(2.0 / 7.0));
    let p = s.fma(p, square, s.splat(2.0 / 5.0));
    let p = s.fma(p, square, s.splat(2.0 / 3.0));
    let ln_m = s.fma(s.mul(p, square), t, s.add(t, t));
    s.fma(n, s.splat(0.693_145_75), s.fma(n, s.splat(1.428_606_8e-6), ln_m))
}

/// `zoo_engine::variational::normals` of four words.
#[inline(always)]
pub fn normals<S: Simd>(s: S, words: [S::U; 4]) -> [S::F; 4] {
    let ([a, b], [c, d]) = (normal_pair(s, words[0], words[1]), normal_pair(s, words[2], words[3]));
    [a, b, c, d]
}

#[inline(always)]
fn normal_pair<S: Simd>(s: S, radius: S::U, angle: S::U) -> [S::F; 2] {
    let (zero, one) = (s.splat(0.0), s.splat(1.0));
    // The top 23 bits as a fraction of 1.
    let unit = |word: S::U| s.sub(s.as_f32(s.xor_u32(s.shift_right::<9>(word), s.splat_u32(0x3f80_0000))), one);
    let half_step = s.splat(1.0 / 16_777_216.0);
    let radius = s.sqrt(s.mul(s.splat(-2.0), ln(s, s.add(unit(radius), half_step))));
    // The turn as quarters and an exact rest of at most an eighth.
    let turn = unit(angle);
    let quarters = s.round(s.mul(turn, s.splat(4.0)));
    let x = s.mul(s.fma(quarters, s.splat(-0.25), turn), s.splat(std::f32::consts::TAU));
    let square = s.mul(x, x);
    // Taylor polynomials, errors below 3e-9 up to an eighth of a turn.
    let p = s.splat(1.0 / 362_880.0);
    let p = s.fma(p, square, s.splat(-1.0 / 5_040.0));
    let p = s.fma(p, square, s.splat(1.0 / 120.0));
    let p = s.fma(p, square, s.splat(-1.0 / 6.0));
    let sine = s.fma(s.mul(p, square), x, x);
    let p = s.splat(-1.0 / 3_628_800.0);
    let p = s.fma(p, square, s.splat(1.0 / 40_320.0));
    let p = s.fma(p, square, s.splat(-1.0 / 720.0));
    let p = s.fma(p, square, s.splat(1.0 / 24.0));
    let p = s.fma(p, square, s.splat(-0.5));
    let cosine = s.fma(p, square, one);
    let (first, second, third) = (s.eq(quarters, one), s.eq(quarters, s.splat(2.0)), s.eq(quarters, s.splat(3.0)));
    let odd = s.or(first, third);
    let (c, n) = (s.select(odd, sine, cosine), s.select(odd, cosine, sine));
    let c = s.select(s.or(first, second), s.sub(zero, c), c);
    let n = s.select(s.or(second, third), s.sub(zero, n), n);
    [s.mul(radius, c), s.mul(radius, n)]
}

/// An activation's value and derivative.
#[inline(always)]
pub fn activate<S: Simd>(s: S, activation: Activation, x: S::F) -> (S::F, S::F) {
    let (zero, one) = (s.splat(0.0), s.splat(1.0));
    match activation {
        Activation::Tanh => {
            let y = tanh(s, x);
            (y, s.sub(one, s.mul(y, y)))
        }
        Activation::Sigmoid => {
            let y = sigmoid(s, x);
            (y, s.mul(y, s.sub(one, y)))
        }
        // `<= 0` rather than `> 0`: NaN goes through, as in PyTorch.
        Activation::Relu => {
            let off = s.le(x, zero);
            (s.select(off, zero, x), s.select(off, zero, one))
        }
        Activation::LeakyRelu => {
            let (on, slope) = (s.lt(zero, x), s.splat(0.01));
            (s.select(on, x, s.mul(x, slope)), s.select(on, one, slope))
        }
        // x Phi(x); Phi(x) + x phi(x).
        Activation::Gelu => {
            let half = s.splat(0.5);
            let erf = erf(s, s.mul(x, s.splat(std::f32::consts::FRAC_1_SQRT_2)));
            let cdf = s.fma(half, erf, half);
            let density = s.mul(exp(s, s.mul(s.mul(x, x), s.splat(-0.5))), s.splat(0.398_942_3));
            (s.mul(x, cdf), s.fma(x, density, cdf))
        }
        Activation::Silu => {
            let y = sigmoid(s, x);
            let value = s.mul(x, y);
            (value, s.fma(value, s.sub(one, y), y))
        }
    }
}

/// A noisy sum, and its derivative by the variance.
#[inline(always)]
pub fn add_noise<S: Simd>(s: S, mean: S::F, variance: S::F, draw: S::F) -> (S::F, S::F) {
    let deviation = s.sqrt(s.add(variance, s.splat(VARIANCE_FLOOR as f32)));
    (s.fma(deviation, draw, mean), s.div(s.mul(draw, s.splat(0.5)), deviation))
}

/// [`kl_gradient`](zoo_engine::variational::kl_gradient) in f32.
#[inline(always)]
pub fn kl_gradient<S: Simd>(s: S, weight: S::F, log_sigma2: S::F) -> [S::F; 2] {
    let [k1, k2, k3] = K.map(|k| k as f32);
    let (zero, one) = (s.splat(0.0), s.splat(1.0));
    let size = s.add(s.abs(weight), s.splat(SMALLEST as f32));
    let log_alpha = s.fma(s.splat(-2.0), ln(s, size), log_sigma2);
    let y = sigmoid(s, s.fma(s.splat(k3), log_alpha, s.splat(k2)));
    let slope = s.mul(s.splat(k1 * k3), s.mul(y, s.sub(one, y)));
    let slope = s.fma(s.splat(0.5), sigmoid(s, s.sub(zero, log_alpha)), slope);
    let within = s.lt(s.abs(log_alpha), s.splat(LOG_ALPHA_LIMIT as f32));
    let by_noise = s.select(within, s.sub(zero, slope), zero);
    let by_weight = s.div(s.mul(by_noise, s.splat(-2.0)), s.copysign(size, weight));
    [s.select(s.eq(weight, zero), zero, by_weight), by_noise]
}

#[cfg(test)]
mod tests {
    use super::super::Portable;
    use super::*;

    type One = Portable<1>;

    /// f32 values of every exponent and both signs, and what is special.
    fn inputs() -> impl Iterator<Item = f32> {
        // A stride that is prime to 2^32 visits all mantissa patterns in time; special values follow.
        let sampled = (0..=u32::MAX / 997).map(|i| f32::from_bits(i.wrapping_mul(997)));
        // The range where the functions bend, densely.
        let bent = (-1_400_000..1_400_000).map(|i| i as f32 * 7.500_1e-5);
        sampled.chain(bent).filter(|x| !x.is_nan())
    }

    /// Distance in units of the last place of the expected value's f32.
    fn ulp_error(found: f32, expected: f64) -> f64 {
        let rounded = expected as f32;
        if rounded.is_infinite() || found.is_infinite() {
            return if found == rounded { 0.0 } else { f64::INFINITY };
        }
        let magnitude = rounded.abs().max(f32::MIN_POSITIVE);
        let ulp = f64::from(f32::from_bits(magnitude.to_bits() + 1)) - f64::from(magnitude);
        (f64::from(found) - expected).abs() / ulp
    }

    fn largest_error(name: &str, f: impl Fn(f32) -> f32, exact: impl Fn(f64) -> f64) -> f64 {
        let mut worst = (0.0, 0.0);
        for x in inputs() {
            let error = ulp_error(f(x), exact(x.into()));
            if error > worst.0 {
                worst = (error, x);
            }
        }
        println!("{name}: at most {:.3} ulp, at {:e}", worst.0, worst.1);
        worst.0
    }

    #[test]
    fn functions_are_within_four_ulp_over_all_floats() {
        let one = |f: fn(One, [f32; 1]) -> [f32; 1]| move |x| f(Portable::<1>, [x])[0];
        let mut errors = vec![
            largest_error("exp", one(exp), libm::exp),
            largest_error("tanh", one(tanh), libm::tanh),
            largest_error("erf", one(erf), libm::erf),
        ];
        errors.push(largest_error("sigmoid", one(sigmoid), |x| {
            // Without the cancellation of 1 + e^-x for small results.
            if x < 0.0 {
                libm::exp(x) / (1.0 + libm::exp(x))
            } else {
                1.0 / (1.0 + libm::exp(-x))
            }
        }));
        let positive = |x: f32| x.abs().clamp(f32::MIN_POSITIVE, f32::MAX);
        errors.push(largest_error(
            "ln",
            |x| ln(Portable::<1>, [positive(x)])[0],
            |x| libm::log(positive(x as f32).into()),
        ));
        assert!(errors.iter().all(|&e| e <= 2.5), "{errors:?}");
    }

    #[test]
    fn normal_draws_are_those_of_double_precision() {
        for i in 0..200_000u32 {
            let words = [0, 1, 2, 3].map(|k| (i * 4 + k).wrapping_mul(2_654_435_761));
            let words = if i == 0 { [0, u32::MAX, u32::MAX, 0] } else { words };
            let found = normals(Portable::<1>, words.map(|w| [w]));
            for ([found], expected) in found.into_iter().zip(zoo_engine::variational::normals(words)) {
                assert!((f64::from(found) - expected).abs() < 1e-6, "{words:?}: {found} {expected}");
            }
        }
    }

    #[test]
    fn special_values_are_what_the_functions_have_there() {
        let s = Portable::<1>;
        let of = |f: fn(One, [f32; 1]) -> [f32; 1], x: f32| f(s, [x])[0];
        let (inf, nan) = (f32::INFINITY, f32::NAN);
        for (f, low, high) in
            [(exp as fn(One, [f32; 1]) -> [f32; 1], 0.0, inf), (tanh, -1.0, 1.0), (sigmoid, 0.0, 1.0), (erf, -1.0, 1.0)]
        {
            assert_eq!((of(f, -inf), of(f, inf)), (low, high));
            assert!(of(f, nan).is_nan());
        }
        for f in [tanh as fn(One, [f32; 1]) -> [f32; 1], erf] {
            assert_eq!(of(f, -0.0).to_bits(), (-0.0f32).to_bits());
            assert_eq!(of(f, 0.0).to_bits(), 0);
        }
        assert_eq!((of(exp, 0.0), of(sigmoid, 0.0)), (1.0, 0.5));
        assert_eq!(of(tanh, 1e-45), 1e-45);
    }

    #[test]
    fn derivatives_match_differences() {
        let s = Portable::<1>;
        use Activation::*;
        for activation in [Tanh, Relu, Sigmoid, Gelu, LeakyRelu, Silu] {
            for x in [-6.3f32, -1.7, -0.4, 0.02, 0.3, 1.1, 2.9, 7.7] {
                let step = 0.01;
                let value = |x: f32| f64::from(activate(s, activation, [x]).0[0]);
                let expected = (value(x + step) - value(x - step)) / (f64::from(x + step) - f64::from(x - step));
                let found = f64::from(activate(s, activation, [x]).1[0]);
                assert!((found - expected).abs() < 2e-4, "{activation:?} at {x}: {found}, {expected}");
            }
            assert!(activate(s, activation, [f32::NAN]).0[0].is_nan(), "{activation:?}");
        }
    }

    #[test]
    fn every_instruction_set_computes_the_same_bits() {
        fn all<S: Simd>(s: S) -> Vec<u32> {
            use Activation::*;
            let xs: Vec<f32> = inputs().step_by(1009).take(64_000).collect();
            let mut out = Vec::new();
            let canonical = |v: f32| if v.is_nan() { f32::NAN.to_bits() } else { v.to_bits() };
            for xs in xs.chunks_exact(16) {
                for activation in [Tanh, Relu, Sigmoid, Gelu, LeakyRelu, Silu] {
                    let (mut y, mut d) = ([0.0; 16], [0.0; 16]);
                    for at in (0..16).step_by(S::LANES) {
                        let (value, derivative) = activate(s, activation, s.load(&xs[at..]));
                        s.store(value, &mut y[at..]);
                        s.store(derivative, &mut d[at..]);
                    }
                    out.extend(y.into_iter().chain(d).map(canonical));
                }
                for at in (0..16).step_by(S::LANES) {
                    let x = s.load(&xs[at..]);
                    let mut values = [0.0; 16];
                    s.store(s.add(ln(s, x), normals(s, [s.as_u32(x); 4])[1]), &mut values[at..]);
                    out.extend(values[at..at + S::LANES].iter().copied().map(canonical));
                }
            }
            out
        }
        let scalar = all(Portable::<1>);
        assert!(all(Portable::<8>) == scalar);
        #[cfg(target_arch = "x86_64")]
        {
            use super::super::{Avx2, Avx512};
            assert!(Avx2::detect().is_none_or(|s| all(s) == scalar));
            assert!(Avx512::detect().is_none_or(|s| all(s) == scalar));
        }
    }

    #[test]
    fn the_divergences_gradient_is_that_of_double_precision() {
        for weight in [-1.3f32, -0.2, 1e-4, 0.0, 0.4, 3.0] {
            for log_sigma2 in [-200.0f32, -10.0, -4.0, 0.0, 2.5] {
                let found = kl_gradient(Portable::<1>, [weight], [log_sigma2]);
                let expected = zoo_engine::variational::kl_gradient(weight.into(), log_sigma2.into());
                for ([found], expected) in found.into_iter().zip(expected) {
                    assert!(
                        (f64::from(found) - expected).abs() <= 3e-5 * expected.abs(),
                        "{weight} {log_sigma2}: {found} {expected}"
                    );
                }
            }
        }
    }
}
