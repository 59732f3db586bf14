//! placeholder
use crate::geometry::Geometry;
use zoo_engine_simd::Simd;
pub fn convolution<S: Simd>(_s: S, _g: &Geometry, _n: usize, _x: &[f32], _w: &[f32], _b: Option<&[f32]>, _o: &mut [f32]) {}
pub fn transpose(_g: &Geometry, _w: &[f32], _o: &mut [f32]) {}
pub fn input_gradient<S: Simd>(_s: S, _g: &Geometry, _n: usize, _d: &[f32], _t: &[f32], _b: &mut [f32], _a: bool) {}
pub fn weight_gradient<S: Simd>(_s: S, _g: &Geometry, _n: usize, _x: &[f32], _d: &[f32], _b: &mut [f32]) {}
