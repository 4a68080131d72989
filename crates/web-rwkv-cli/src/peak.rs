//! What the machine can do, bytes from memory and operations per second, and what memory the process has had.

#[cfg(target_arch = "x86_64")]
use std::arch::asm;
use std::{hint::black_box, thread, time::Instant};

use memmap2::MmapMut;
use web_rwkv_gguf::Level;

/// Bytes that are read to measure the memory: more than the caches of common machines hold.
const BYTES: usize = 480 << 20;
/// How far ahead lines are asked for, as the products do.
const AHEAD: usize = 2048;
/// Multiply-adds in a row on each accumulator.
const ROUNDS: usize = 4_000_000;
/// Accumulators: enough to hide the latency of two units, few enough for 16 registers.
const CHAINS: usize = 12;

/// Highest of `repeats` measured rates of reading memory, in bytes per second: out of huge pages where the system has
/// them, as weights are read.
pub(crate) fn bandwidth(threads: usize, repeats: usize) -> f64 {
    let Ok(mut memory) = MmapMut::map_anon(BYTES) else { return f64::NAN };
    #[cfg(target_os = "linux")]
    drop(memory.advise(memmap2::Advice::HugePage)); // or else small ones
    // Ones, because untouched zeros are one page for all addresses.
    memory.fill(1);
    // SAFETY: any bytes are numbers.
    let (_, data, _) = unsafe { memory.align_to::<u64>() };
    best(repeats, BYTES as f64, || {
        thread::scope(|scope| {
            for part in data.chunks(data.len().div_ceil(threads)) {
                scope.spawn(move || black_box(sum(part)));
            }
        });
    })
}

/// Reads four streams at once, line by line, as products do: that is faster than one.
fn sum(data: &[u64]) -> u64 {
    let lines = data.as_chunks::<8>().0;
    let (front, back) = lines.split_at(lines.len() / 2);
    let ((a, b), (c, d)) = (front.split_at(front.len() / 2), back.split_at(back.len() / 2));
    let mut sums = [0_u64; 8];
    for (((a, b), c), d) in a.iter().zip(b).zip(c).zip(d) {
        for line in [a, b, c, d] {
            prefetch(line.as_ptr().wrapping_byte_add(AHEAD));
            sums.iter_mut().zip(line).for_each(|(sum, x)| *sum = sum.wrapping_add(*x));
        }
    }
    sums.into_iter().fold(0, u64::wrapping_add)
}

fn prefetch(at: *const u64) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 has the instruction, and it may be given any address.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T1>(at.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// Highest of `repeats` measured rates of the arithmetic that products of many tokens take, in operations per second; a multiply-add
/// is two. It is that of f32, but with AVX2 and AVX-512 that of integers of 16 bits, or of 8 bits if products are to be `fast`.
/// The additions of folded products are among them, with AVX-512 if this CPU does more with them.
pub(crate) fn arithmetic(level: Level, fast: bool, threads: usize, repeats: usize) -> f64 {
    let rate = |folded| {
        let operations = (2 * products(level, fast, folded) * CHAINS * ROUNDS * threads) as f64;
        best(repeats, operations, || {
            thread::scope(|scope| {
                for _ in 0..threads {
                    scope.spawn(move || black_box(multiply_add(level, fast, folded)));
                }
            });
        })
    };
    let folded: &[bool] = if level == Level::Avx512 { &[false, true] } else { &[true] };
    folded.iter().map(|folded| rate(*folded)).fold(0.0, f64::max)
}

/// The most memory that this process has had, in bytes; only Linux tells.
pub(crate) fn memory() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.parse::<usize>().ok().map(|kb| kb * 1024)
}

fn best(repeats: usize, work: f64, mut run: impl FnMut()) -> f64 {
    let mut rate = || {
        let start = Instant::now();
        run();
        work / start.elapsed().as_secs_f64()
    };
    (0..repeats.max(1)).map(|_| rate()).fold(0.0, f64::max)
}

/// Products of a round on one accumulator.
fn products(level: Level, fast: bool, folded: bool) -> usize {
    match level {
        Level::Avx512 => (if folded { 96 } else { 32 }) * if fast { 2 } else { 1 },
        Level::Avx2 => 32,
        Level::Neon => 4,
        _ => 1,
    }
}

fn multiply_add(level: Level, fast: bool, folded: bool) -> f32 {
    assert!(level.is_available());
    match level {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the machine has the level's instructions.
        Level::Avx512 => unsafe { avx512(fast, folded) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Level::Avx2 => unsafe { avx2(fast) },
        #[cfg(target_arch = "aarch64")]
        // SAFETY: every aarch64 machine that runs this has NEON.
        Level::Neon => unsafe { neon() },
        _ => {
            let mut sums = [0.0_f32; CHAINS];
            let (a, b) = black_box((0.5, 1.0));
            for _ in 0..ROUNDS {
                sums.iter_mut().for_each(|s| *s = black_box(*s * a + b));
            }
            sums.iter().sum()
        }
    }
}

/// Rounds of instructions on all accumulators; as assembly, since LLVM takes some intrinsics apart, and others together.
#[cfg(target_arch = "x86_64")]
macro_rules! rounds {
    ($sums:ident, $x:ident, $register:ident, $($line:literal),+) => {
        for _ in 0..ROUNDS {
            for s in &mut $sums {
                // SAFETY: the machine has the instructions, which read and write registers alone.
                unsafe {
                    asm!($($line,)+ "/* {a} {b} */", s = inout($register) *s, x = in($register) $x,
                        a = out($register) _, b = out($register) _,
                        options(pure, nomem, nostack, preserves_flags));
                }
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn avx512(fast: bool, folded: bool) -> f32 {
    use std::arch::x86_64::{_mm512_reduce_add_epi32, _mm512_set1_epi32};
    let x = _mm512_set1_epi32(black_box(1));
    let mut sums = [_mm512_set1_epi32(0); CHAINS];
    match (fast, folded) {
        (false, false) => rounds!(sums, x, zmm_reg, "vpdpwssd {s}, {x}, {x}"),
        (true, false) => rounds!(sums, x, zmm_reg, "vpdpbusd {s}, {x}, {x}"),
        (false, true) => rounds!(
            sums,
            x,
            zmm_reg,
            "vpaddw {a}, {x}, {x}",
            "vpaddw {b}, {x}, {x}",
            "vpdpwssd {s}, {a}, {b}",
            "vpdpwssd {s}, {x}, {x}"
        ),
        (true, true) => rounds!(
            sums,
            x,
            zmm_reg,
            "vpaddb {a}, {x}, {x}",
            "vpaddb {b}, {x}, {x}",
            "vpdpbusd {s}, {a}, {b}",
            "vpdpbusd {s}, {x}, {x}"
        ),
    }
    sums.into_iter().map(|s| _mm512_reduce_add_epi32(s) as f32).sum()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn avx2(fast: bool) -> f32 {
    use std::arch::x86_64::{_mm256_cvtsi256_si32, _mm256_set1_epi32};
    let x = _mm256_set1_epi32(black_box(1));
    let mut sums = [_mm256_set1_epi32(0); CHAINS];
    if fast {
        rounds!(sums, x, ymm_reg, "vpmaddubsw {a}, {x}, {x}", "vpaddw {s}, {s}, {a}");
    } else {
        rounds!(
            sums,
            x,
            ymm_reg,
            "vpaddw {a}, {x}, {x}",
            "vpaddw {b}, {x}, {x}",
            "vpmaddwd {a}, {a}, {b}",
            "vpaddd {s}, {s}, {a}"
        );
    }
    sums.into_iter().map(|s| _mm256_cvtsi256_si32(s) as f32).sum()
}

#[cfg(target_arch = "aarch64")]
#[target_feature(enable = "neon")]
fn neon() -> f32 {
    use std::arch::aarch64::{vaddvq_f32, vdupq_n_f32, vfmaq_f32};
    let (a, b) = (vdupq_n_f32(black_box(0.5)), vdupq_n_f32(black_box(1e-9)));
    let mut sums = [vdupq_n_f32(0.0); CHAINS];
    for _ in 0..ROUNDS {
        for s in &mut sums {
            *s = vfmaq_f32(*s, a, b);
        }
    }
    let mut total = 0.0;
    for s in sums {
        total += vaddvq_f32(s);
    }
    total
}
