//! Every format against `gguf.quants`: `tools/witness_blocks.py $WITNESS_DIR/blocks`.

use std::{env, fs, path::Path};

use web_rwkv_gguf::format::{Format, decode, encode};

#[test]
fn blocks_equal_gguf() {
    let Some(dir) = env::var_os("WITNESS_DIR") else {
        println!("skipped: WITNESS_DIR is not set");
        return;
    };
    let dir = Path::new(&dir).join("blocks");
    let read = |name: String| fs::read(dir.join(&name)).unwrap_or_else(|e| panic!("{name}: {e}"));
    for &format in Format::ALL {
        let name = format.name();
        let bytes = read(format!("{name}.bin"));
        let want = read(format!("{name}.f32"));
        let (want, rest) = want.as_chunks::<4>();
        assert!(rest.is_empty() && want.len() >= 64 * format.block_len(), "{name}: too few values");
        assert_eq!(format.row_bytes(want.len()), Some(bytes.len()), "{name}");

        let mut got = vec![f32::NAN; want.len()];
        decode(format, &bytes, &mut got);
        for (i, (&got, &want)) in got.iter().zip(want).enumerate() {
            let want = f32::from_le_bytes(want);
            let same = got.to_bits() == want.to_bits() || (got == 0.0 && want == 0.0);
            assert!(same, "{name}[{i}]: expected {want:e}, found {got:e}");
        }
    }
}

/// Numbers that are about normally distributed, some far out, always the same.
fn weights(count: usize) -> Vec<f32> {
    let mut seed = 1_u64;
    let mut uniform = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    let mut one =
        |i: usize| (0..6).map(|_| uniform()).sum::<f32>() * if i.is_multiple_of(97) { 0.2 } else { 0.05 };
    (0..count).map(&mut one).collect()
}

/// The values that a format makes of others.
fn through(format: Format, x: &[f32], importance: Option<&[f32]>) -> Vec<f32> {
    let mut bytes = vec![0; format.row_bytes(x.len()).unwrap()];
    let mut y = vec![f32::NAN; x.len()];
    encode(format, x, importance, &mut bytes);
    decode(format, &bytes, &mut y);
    y
}

fn error(x: &[f32], y: &[f32]) -> f64 {
    x.iter().zip(y).map(|(x, y)| f64::from(x - y).powi(2)).sum()
}

/// What rounding to evenly spaced levels from the least to the largest value of each group gives, or to as many
/// around zero: no search, but scales and minimums of full precision.
fn rounded(x: &[f32], levels: usize, group: usize, around_zero: bool) -> Vec<f32> {
    let one = |x: &[f32]| -> Vec<f32> {
        let most = x.iter().fold(0.0, |a: f32, x| a.max(x.abs()));
        let least = x.iter().fold(f32::INFINITY, |a, x| a.min(*x));
        let range = x.iter().fold(f32::NEG_INFINITY, |a, x| a.max(*x)) - least;
        let (step, from) = match around_zero {
            true => (2.0 * most / (levels - 1) as f32, -most),
            false => (range / (levels - 1) as f32, least),
        };
        x.iter().map(|x| ((x - from) / step).round() * step + from).collect()
    };
    x.chunks(group).flat_map(one).collect()
}

#[test]
fn blocks_are_nearer_than_rounded_values() {
    let x = weights(256 * 64);
    for (format, levels, group, around_zero) in [
        (Format::Q8_0, 255, 32, true),
        (Format::Q4_0, 16, 32, true),
        (Format::Q4_1, 16, 32, false),
        (Format::Q5_0, 32, 32, true),
        (Format::Q5_1, 32, 32, false),
        (Format::Q2K, 4, 16, false),
        (Format::Q3K, 8, 16, true),
        (Format::Q4K, 16, 32, false),
        (Format::Q5K, 32, 32, false),
        (Format::Q6K, 64, 16, true),
        (Format::IQ4NL, 16, 32, true),
        (Format::IQ4XS, 16, 32, true),
    ] {
        let (found, bound) =
            (error(&x, &through(format, &x, None)), error(&x, &rounded(&x, levels, group, around_zero)));
        assert!(found < bound, "{format:?}: expected an error below {bound:e}, found {found:e}");
    }
}

#[test]
fn what_is_important_is_nearer() {
    let x = weights(256 * 16);
    let importance: Vec<f32> = (0..x.len()).map(|i| if i.is_multiple_of(8) { 50.0 } else { 1.0 }).collect();
    let weighted = |y: &[f32]| -> f64 {
        let terms = x.iter().zip(y).zip(&importance);
        terms.map(|((x, y), w)| f64::from(*w) * f64::from(x - y).powi(2)).sum()
    };
    for &format in Format::ALL.iter().filter(|f| f.block_len() > 1) {
        let (with, without) =
            (weighted(&through(format, &x, Some(&importance))), weighted(&through(format, &x, None)));
        assert!(with < 0.9 * without, "{format:?}: {with:e} with importance, {without:e} without");
    }
}

#[test]
fn blocks_of_few_values() {
    let spike = |at: usize, to: f32| (0..256).map(|i| if i == at { to } else { 0.0 }).collect::<Vec<_>>();
    for &format in Format::ALL.iter().filter(|f| f.block_len() > 1) {
        for zero in [0.0, -0.0, 1e-30, f32::MIN_POSITIVE / 4.0] {
            assert!(through(format, &[zero; 256], None).iter().all(|y| *y == 0.0), "{format:?} of {zero:e}");
        }
        for value in [1.0, -1.0, 0.37, -65504.0, 65504.0, 0.03] {
            for x in [vec![value; 256], spike(77, value)] {
                // The tables of 4 bits have no code for zero: 31 of a block are off by one step of its scale.
                let table = matches!(format, Format::IQ4NL | Format::IQ4XS);
                let share = if table { 32.0 / 127.0_f64.powi(2) } else { 2e-4 };
                let bound = error(&x, &vec![0.0; 256]) * share;
                let found = error(&x, &through(format, &x, None));
                assert!(found <= bound, "{format:?} of {value:e}: error {found:e}, expected {bound:e}");
            }
        }
        let nothing = vec![0.0; 256];
        let finite = through(format, &weights(256), Some(&nothing)).iter().all(|y| y.is_finite());
        assert!(finite, "{format:?} where nothing is important");
    }
}

#[test]
fn floats_round_to_the_nearest() {
    let every = |format: Format, bits: u16| through(format, &through_bits(format, bits), None)[0];
    for format in [Format::F16, Format::BF16] {
        for bits in 0..=u16::MAX {
            let x = through_bits(format, bits)[0];
            assert!(x.is_nan() || every(format, bits) == x, "{format:?} {bits:#06x}");
        }
        // Between two numbers of the format: the nearer one, and from the middle the even one.
        for bits in (0..0x7000).step_by(13) {
            let [a, b] = [bits, bits + 1].map(|b| f64::from(through_bits(format, b)[0]));
            let even = if bits % 2 == 0 { a } else { b };
            for (at, expected) in [(0.25, a), (0.5, even), (0.75, b)] {
                let found = through(format, &[(a + (b - a) * at) as f32], None)[0];
                assert_eq!(f64::from(found), expected, "{format:?} {bits:#06x} + {at}");
            }
        }
    }
}

/// The number of a 16-bit format with these bits.
fn through_bits(format: Format, bits: u16) -> Vec<f32> {
    let mut y = vec![0.0];
    decode(format, &bits.to_le_bytes(), &mut y);
    y
}
