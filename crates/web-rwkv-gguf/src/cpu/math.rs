//! Functions of floats, as the C library has them and as loops over them become vector code.

use std::array::from_fn;

/// A float of this size has no fraction: adding it rounds to a whole number, which the low bits then are.
const ROUND: f32 = 1.5 * (1u32 << 23) as f32;

/// How elementary functions are computed.
pub(super) trait Math {
    fn exp(x: f32) -> f32;
    fn tanh(x: f32) -> f32;
    /// `Σ f(i)` for i below n.
    fn sum(n: usize, f: impl Fn(usize) -> f32) -> f32;

    /// `σ(x)`
    #[inline(always)]
    fn sigmoid(x: f32) -> f32 {
        1.0 / (1.0 + Self::exp(-x))
    }
}

/// The C library's functions, and sums one by one.
pub(super) struct Exact;

impl Math for Exact {
    fn exp(x: f32) -> f32 {
        x.exp()
    }

    fn tanh(x: f32) -> f32 {
        x.tanh()
    }

    fn sum(n: usize, f: impl Fn(usize) -> f32) -> f32 {
        (0..n).map(f).sum()
    }
}

/// Without branches and in independent lanes, to within 2.5e-7 of the result.
pub(super) struct Fast;

impl Math for Fast {
    /// `2ⁿ e^r` with n the whole number next to `x / ln 2`, and e^r by its power series (|r| ≤ ln 2 / 2).
    #[inline(always)]
    fn exp(x: f32) -> f32 {
        // Beyond these it is not, or almost not, a normal number; a NaN stays one.
        let x = if x > 88.3 { f32::INFINITY } else { x };
        let x = if x < -87.3 { f32::NEG_INFINITY } else { x };
        let rounded = x * std::f32::consts::LOG2_E + ROUND;
        let n = rounded - ROUND;
        // ln 2 in two parts, the first short enough for n · LN_2.0 to be exact.
        const LN_2: (f32, f32) = (0.693_359_4, -2.121_944_4e-4);
        let r = x - n * LN_2.0 - n * LN_2.1;
        let series = [1.0 / 5040.0, 1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0];
        let e = series.into_iter().fold(0.0, |sum: f32, c| sum.mul_add(r, c));
        let scale = f32::from_bits(rounded.to_bits().wrapping_add(127) << 23);
        if x.is_infinite() { x.max(0.0) } else { e * scale }
    }

    /// `(1 − e^-2|x|) / (1 + e^-2|x|)` with the sign of x; near zero its power series.
    #[inline(always)]
    fn tanh(x: f32) -> f32 {
        let e = Self::exp(-2.0 * x.abs());
        let far = ((1.0 - e) / (1.0 + e)).copysign(x);
        let series = [-1382.0 / 155_925.0, 62.0 / 2835.0, -17.0 / 315.0, 2.0 / 15.0, -1.0 / 3.0, 1.0];
        let near = x * series.into_iter().fold(0.0, |sum, c| sum * (x * x) + c);
        if x.abs() < 0.25 { near } else { far }
    }

    #[inline(always)]
    fn sum(n: usize, f: impl Fn(usize) -> f32) -> f32 {
        const LANES: usize = 16;
        let mut sums = [0.0; LANES];
        for i in 0..n / LANES {
            for (j, sum) in sums.iter_mut().enumerate() {
                *sum += f(i * LANES + j);
            }
        }
        let rest: f32 = (n - n % LANES..n).map(&f).sum();
        // Not a loop, of which LLVM makes single numbers with a branch for each.
        let eight: [f32; 8] = from_fn(|j| sums[j] + sums[j + 8]);
        let four: [f32; 4] = from_fn(|j| eight[j] + eight[j + 4]);
        (four[0] + four[2]) + (four[1] + four[3]) + rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fast_functions_agree_with_f64() {
        let close = |got: f32, want: f64, x: f32| {
            assert!((f64::from(got) - want).abs() <= 2.5e-7 * want.abs() + 1e-37, "{x}: {got} {want}");
        };
        for i in -883_000..883_000 {
            let x = i as f32 * 1e-4;
            let wide = f64::from(x);
            close(Fast::exp(x), if x < -87.3 { 0.0 } else { wide.exp() }, x);
            close(Fast::tanh(x), wide.tanh(), x);
            close(Fast::sigmoid(x), 1.0 / (1.0 + (-wide).exp()), x);
        }
        for x in [f32::INFINITY, f32::NEG_INFINITY, 1e30, -1e30, 0.0] {
            assert_eq!(Fast::tanh(x), Exact::tanh(x));
        }
        assert_eq!((Fast::exp(f32::INFINITY), Fast::exp(f32::NEG_INFINITY)), (f32::INFINITY, 0.0));
        assert!(Fast::exp(f32::NAN).is_nan() && Fast::tanh(f32::NAN).is_nan());
    }

    #[test]
    fn sums_have_every_term() {
        for n in [0, 1, 15, 16, 17, 100] {
            assert_eq!(Fast::sum(n, |i| i as f32), Exact::sum(n, |i| i as f32));
        }
    }
}
