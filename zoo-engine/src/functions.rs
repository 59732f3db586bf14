//! exp, ln and the activations in f64, from IEEE operations alone and in the order written here, so
//! that every device has the same bits: the CUDA kernels repeat them.
//!
//! Good to some units of the last place, tanh and sigmoid in absolute terms (they are close to 1,
//! or summed with what is).

use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI, LOG2_E, SQRT_2};

use zoo_model::Activation;

/// ln 2 as a sum: the first part has so few digits that its multiples are exact.
const LN_2: [f64; 2] = [0.693_147_180_369_123_8, 1.908_214_929_270_587_7e-10];

/// 1 / k!
const EXP_SERIES: [f64; 14] = [
    1.0,
    1.0,
    1.0 / 2.0,
    1.0 / 6.0,
    1.0 / 24.0,
    1.0 / 120.0,
    1.0 / 720.0,
    1.0 / 5_040.0,
    1.0 / 40_320.0,
    1.0 / 362_880.0,
    1.0 / 3_628_800.0,
    1.0 / 39_916_800.0,
    1.0 / 479_001_600.0,
    1.0 / 6_227_020_800.0,
];

/// 2^n for an integral n in -1022..=1023.
fn pow2(n: f64) -> f64 {
    f64::from_bits(((n as i64 + 1023) as u64) << 52)
}

/// e^x.
pub fn exp(x: f64) -> f64 {
    // Beyond these, the result is 0 or infinite.
    let x = if x < -750.0 { -750.0 } else { x };
    let x = if x > 710.0 { 710.0 } else { x };
    if x.is_nan() {
        return x;
    }
    // x = n ln 2 + r with |r| <= ln 2 / 2, then e^r by its Taylor polynomial, remainder below 4e-18.
    let n = (x * LOG2_E).round_ties_even();
    let r = (x - n * LN_2[0]) - n * LN_2[1];
    let e = EXP_SERIES.iter().rev().fold(0.0, |e, coefficient| e * r + coefficient);
    // In two steps, since 2^n alone may overflow or be subnormal.
    let half = (n * 0.5).round_ties_even();
    e * pow2(half) * pow2(n - half)
}

/// ln x of a positive normal number or infinity; NaN of NaN.
pub fn ln(x: f64) -> f64 {
    if x.is_nan() || x == f64::INFINITY {
        return x;
    }
    // x = 2^n m with m in [sqrt(1/2), sqrt 2), ln m = 2 artanh((m - 1) / (m + 1)) as a series.
    let bits = x.to_bits();
    let mut n = ((bits >> 52) as i64 - 1023) as f64;
    let mut m = f64::from_bits(bits & 0x000f_ffff_ffff_ffff | 0x3ff0_0000_0000_0000);
    if m > SQRT_2 {
        m *= 0.5;
        n += 1.0;
    }
    let t = (m - 1.0) / (m + 1.0);
    let square = t * t;
    let mut series = 0.0;
    for k in (1..=11).rev() {
        series = (series + 1.0 / f64::from(2 * k + 1)) * square;
    }
    n * LN_2[0] + (n * LN_2[1] + 2.0 * (t + t * series))
}

/// 1 / (1 + e^-x).
pub fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + exp(-x))
}

/// tanh x.
pub fn tanh(x: f64) -> f64 {
    let power = exp(-2.0 * x.abs());
    ((1.0 - power) / (1.0 + power)).copysign(x)
}

/// erf x = 2 / sqrt(pi) e^(-x^2) (x + 2 x^3 / 3 + 4 x^5 / 15 + ...), all of one sign (Abramowitz and
/// Stegun 7.1.6).
pub fn erf(x: f64) -> f64 {
    let a = x.abs();
    // erf rounds to 1 from 5.93 on.
    if a > 6.0 {
        return 1f64.copysign(x);
    }
    let (mut term, mut sum, mut n) = (a, a, 1.0);
    while term > sum * 1e-17 {
        term = term * (2.0 * a * a) / (2.0 * n + 1.0);
        sum += term;
        n += 1.0;
    }
    (FRAC_2_SQRT_PI * exp(-(a * a)) * sum).copysign(x)
}

/// An activation's value.
pub fn activate(activation: Activation, x: f64) -> f64 {
    match activation {
        Activation::Tanh => tanh(x),
        Activation::Relu => {
            if x > 0.0 {
                x
            } else {
                0.0
            }
        }
        Activation::Sigmoid => sigmoid(x),
        Activation::Gelu => 0.5 * x * (1.0 + erf(x * FRAC_1_SQRT_2)),
        Activation::LeakyRelu => {
            if x > 0.0 {
                x
            } else {
                0.01 * x
            }
        }
        Activation::Silu => x * sigmoid(x),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_those_of_libm() {
        let relative = |found: f64, expected: f64| (found - expected).abs() / expected.abs().max(f64::MIN_POSITIVE);
        for i in -200_000..200_000 {
            let x = f64::from(i) * 0.003_7;
            if x.abs() < 700.0 {
                assert!(relative(exp(x), libm::exp(x)) < 1e-15, "exp {x}");
            }
            assert!((tanh(x) - libm::tanh(x)).abs() < 3e-16, "tanh {x}");
            let small = x * 0.01;
            assert!(relative(erf(small), libm::erf(small)) < 1e-14 || small == 0.0, "erf {small}");
            let positive = libm::exp(x.clamp(-700.0, 700.0));
            assert!((ln(positive) - libm::log(positive)).abs() <= 4e-16 * x.abs().max(0.5), "ln {positive}");
        }
        assert_eq!((exp(0.0), exp(-800.0), exp(800.0)), (1.0, 0.0, f64::INFINITY));
        assert_eq!((exp(f64::NEG_INFINITY), exp(f64::INFINITY)), (0.0, f64::INFINITY));
        assert!(relative(exp(-745.0), libm::exp(-745.0)) < 0.1, "subnormal");
        assert_eq!((ln(1.0), ln(f64::INFINITY)), (0.0, f64::INFINITY));
        assert_eq!((tanh(1e300), tanh(f64::NEG_INFINITY), erf(-7.0)), (1.0, -1.0, -1.0));
        for f in [exp, ln, tanh, sigmoid, erf] {
            assert!(f(f64::NAN).is_nan());
        }
    }

    #[test]
    fn activations_have_their_definitions_values() {
        for (activation, x, expected) in [
            (Activation::Tanh, 0.5, 0.462_117_157_260_009_74),
            (Activation::Relu, 1.5, 1.5),
            (Activation::Relu, -1.5, 0.0),
            (Activation::Sigmoid, 1.0, 0.731_058_578_630_004_9),
            (Activation::Sigmoid, -2.0, 0.119_202_922_022_117_55),
            (Activation::Gelu, 1.0, 0.841_344_746_068_542_9),
            (Activation::Gelu, -2.0, -0.045_500_263_896_358_42),
            (Activation::LeakyRelu, 1.5, 1.5),
            (Activation::LeakyRelu, -3.0, -0.03),
            (Activation::Silu, 1.0, 0.731_058_578_630_004_9),
            (Activation::Silu, -2.0, -0.238_405_844_044_235_1),
        ] {
            let found = activate(activation, x);
            assert!((found - expected).abs() < 1e-15, "{activation:?} of {x} is {found}");
        }
        assert_eq!(activate(Activation::Relu, -0.0).to_bits(), 0);
    }
}
