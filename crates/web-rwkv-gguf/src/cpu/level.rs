//! Instruction sets: a kernel is written once over `Vector` and compiled for each of them.

use std::fmt;

/// An instruction set of the CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// The plain loops that specify every operation; slow.
    Scalar,
    /// x86-64 with AVX2, FMA and F16C.
    Avx2,
    /// x86-64 with AVX-512 (F, BW, VL, DQ, VNNI).
    Avx512,
    /// aarch64.
    Neon,
}

impl Level {
    /// Every level.
    pub const ALL: &[Self] = &[Self::Scalar, Self::Avx2, Self::Avx512, Self::Neon];

    /// Whether this machine has it.
    pub fn is_available(self) -> bool {
        match self {
            Self::Scalar => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => {
                is_x86_feature_detected!("avx2")
                    && is_x86_feature_detected!("fma")
                    && is_x86_feature_detected!("f16c")
            }
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => {
                Self::Avx2.is_available()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vnni")
            }
            #[cfg(target_arch = "aarch64")]
            Self::Neon => true,
            #[allow(unreachable_patterns)]
            _ => false,
        }
    }

    /// The best one of this machine.
    pub fn best() -> Self {
        [Self::Avx512, Self::Avx2, Self::Neon].into_iter().find(|l| l.is_available()).unwrap_or(Self::Scalar)
    }

    /// The level of this name: `scalar`, `avx2`, `avx512` or `neon`.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|l| l.to_string() == name)
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Scalar => "scalar",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Neon => "neon",
        })
    }
}

/// A register of f32 lanes.
///
/// # Safety
/// The methods may be called only where the CPU has the instruction set, that is inside [`dispatch`].
pub(super) trait Vector: Copy {
    const LANES: usize;
    /// Rows and tokens of the accumulator tile of a product that the registers hold.
    const TILE: (usize, usize);
    unsafe fn splat(x: f32) -> Self;
    unsafe fn load(x: *const f32) -> Self;
    /// `LANES` signed bytes as floats.
    unsafe fn load_i8(x: *const i8) -> Self;
    unsafe fn store(self, y: *mut f32);
    unsafe fn mul(self, b: Self) -> Self;
    /// `a · b + self`
    unsafe fn fma(self, a: Self, b: Self) -> Self;
    unsafe fn sum(self) -> f32;
}

/// Work that is compiled for each instruction set. `run` must be `#[inline(always)]`.
pub(super) trait Kernel {
    unsafe fn run<V: Vector>(self);
}

/// Runs a kernel at a level, which the machine must have; scalar runs it on single floats.
pub(super) fn dispatch(level: Level, k: impl Kernel) {
    assert!(level.is_available());
    // SAFETY: the machine has the level's instructions.
    unsafe {
        match level {
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => x86::avx2(k),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => x86::avx512(k),
            #[cfg(target_arch = "aarch64")]
            Level::Neon => k.run::<std::arch::aarch64::float32x4_t>(),
            _ => k.run::<f32>(),
        }
    }
}

impl Vector for f32 {
    const LANES: usize = 1;
    const TILE: (usize, usize) = (2, 2);
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        x
    }
    #[inline(always)]
    unsafe fn load(x: *const f32) -> Self {
        // SAFETY: the caller gives a readable float.
        unsafe { *x }
    }
    #[inline(always)]
    unsafe fn load_i8(x: *const i8) -> Self {
        // SAFETY: the caller gives a readable byte.
        unsafe { *x as f32 }
    }
    #[inline(always)]
    unsafe fn store(self, y: *mut f32) {
        // SAFETY: the caller gives a writable float.
        unsafe { *y = self }
    }
    #[inline(always)]
    unsafe fn mul(self, b: Self) -> Self {
        self * b
    }
    #[inline(always)]
    unsafe fn fma(self, a: Self, b: Self) -> Self {
        a * b + self
    }
    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        self
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Kernel, Vector};
    use std::arch::x86_64::*;

    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) unsafe fn avx2(k: impl Kernel) {
        // SAFETY: this function has the features.
        unsafe { k.run::<__m256>() }
    }

    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    pub(super) unsafe fn avx512(k: impl Kernel) {
        // SAFETY: this function has the features.
        unsafe { k.run::<__m512>() }
    }

    macro_rules! vector {
        ($t:ty, $lanes:literal, $tile:expr, $splat:ident $load:ident $load_i8:expr, $store:ident $mul:ident $fma:ident $sum:expr) => {
            impl Vector for $t {
                const LANES: usize = $lanes;
                const TILE: (usize, usize) = $tile;
                #[inline(always)]
                unsafe fn splat(x: f32) -> Self {
                    // SAFETY: the caller has the feature, here and below.
                    unsafe { $splat(x) }
                }
                #[inline(always)]
                unsafe fn load(x: *const f32) -> Self {
                    // SAFETY: and gives readable floats.
                    unsafe { $load(x) }
                }
                #[inline(always)]
                unsafe fn load_i8(x: *const i8) -> Self {
                    // SAFETY: and gives readable bytes.
                    unsafe { $load_i8(x) }
                }
                #[inline(always)]
                unsafe fn store(self, y: *mut f32) {
                    // SAFETY: and gives writable floats.
                    unsafe { $store(y, self) }
                }
                #[inline(always)]
                unsafe fn mul(self, b: Self) -> Self {
                    // SAFETY: as above.
                    unsafe { $mul(self, b) }
                }
                #[inline(always)]
                unsafe fn fma(self, a: Self, b: Self) -> Self {
                    // SAFETY: as above.
                    unsafe { $fma(a, b, self) }
                }
                #[inline(always)]
                unsafe fn sum(self) -> f32 {
                    // SAFETY: as above.
                    unsafe { $sum(self) }
                }
            }
        };
    }

    /// Sum of the lanes of `__m256`.
    #[inline(always)]
    unsafe fn sum256(x: __m256) -> f32 {
        // SAFETY: the caller has AVX.
        unsafe {
            let x = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
            let x = _mm_add_ps(x, _mm_movehl_ps(x, x));
            _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)))
        }
    }

    vector!(__m256, 8, (3, 4), _mm256_set1_ps _mm256_loadu_ps |x: *const i8| _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(x.cast()))), _mm256_storeu_ps _mm256_mul_ps _mm256_fmadd_ps sum256);
    vector!(__m512, 16, (4, 6), _mm512_set1_ps _mm512_loadu_ps |x: *const i8| _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(x.cast()))), _mm512_storeu_ps _mm512_mul_ps _mm512_fmadd_ps _mm512_reduce_add_ps);
}

#[cfg(target_arch = "aarch64")]
impl Vector for std::arch::aarch64::float32x4_t {
    const LANES: usize = 4;
    const TILE: (usize, usize) = (4, 6);
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        // SAFETY: aarch64 has NEON, here and below.
        unsafe { std::arch::aarch64::vdupq_n_f32(x) }
    }
    #[inline(always)]
    unsafe fn load(x: *const f32) -> Self {
        // SAFETY: and the caller gives readable floats.
        unsafe { std::arch::aarch64::vld1q_f32(x) }
    }
    #[inline(always)]
    unsafe fn load_i8(x: *const i8) -> Self {
        use std::arch::aarch64::{vcreate_s8, vcvtq_f32_s32, vget_low_s16, vmovl_s8, vmovl_s16};
        // SAFETY: and the caller gives four readable bytes.
        unsafe {
            let bytes = vcreate_s8(x.cast::<u32>().read_unaligned() as u64);
            vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(bytes))))
        }
    }
    #[inline(always)]
    unsafe fn store(self, y: *mut f32) {
        // SAFETY: and the caller gives writable floats.
        unsafe { std::arch::aarch64::vst1q_f32(y, self) }
    }
    #[inline(always)]
    unsafe fn mul(self, b: Self) -> Self {
        // SAFETY: as above.
        unsafe { std::arch::aarch64::vmulq_f32(self, b) }
    }
    #[inline(always)]
    unsafe fn fma(self, a: Self, b: Self) -> Self {
        // SAFETY: as above.
        unsafe { std::arch::aarch64::vfmaq_f32(self, a, b) }
    }
    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        // SAFETY: as above.
        unsafe { std::arch::aarch64::vaddvq_f32(self) }
    }
}
