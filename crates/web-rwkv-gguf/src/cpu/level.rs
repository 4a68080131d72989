//! Instruction sets: a kernel is written once over `Vector` and compiled for each of them.

use std::fmt;

use crate::format::{Bytes, Eights};

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

    /// See [`Vector::PAIRS`].
    pub(super) fn pairs(self) -> bool {
        self != Self::Scalar && dispatch(self, Traits).0
    }

    /// See [`Vector::BYTES`].
    pub(super) fn bytes(self) -> usize {
        dispatch(self, Traits).1
    }

    /// Whether products of integers are best folded, two into one: where the CPU adds more of them in a cycle than it multiplies,
    /// as with AVX2, and with AVX-512 those of AMD.
    pub(super) fn folds(self) -> bool {
        match self {
            Self::Avx2 => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => {
                let vendor = std::arch::x86_64::__cpuid(0);
                let name = [vendor.ebx, vendor.edx, vendor.ecx].map(u32::to_le_bytes);
                name.as_flattened() == b"AuthenticAMD"
            }
            _ => false,
        }
    }

    /// The numbers of a register.
    pub(super) fn lanes(self) -> usize {
        dispatch(self, Traits).3
    }

    /// See [`Vector::BESIDE`].
    pub(crate) fn beside(self) -> bool {
        self != Self::Scalar && dispatch(self, Traits).2
    }

    /// The level of this name: `scalar`, `avx2`, `avx512` or `neon`.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|l| l.to_string() == name)
    }
}

struct Traits;

impl Kernel for Traits {
    type Output = (bool, usize, bool, usize);
    #[inline(always)]
    unsafe fn run<V: Vector>(self) -> Self::Output {
        (V::PAIRS, V::BYTES, V::BESIDE, V::LANES)
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

/// Lanes of f32: a register of an instruction set, or one number.
///
/// # Safety
/// The functions may be called only where the CPU has the instruction set, that is inside [`dispatch`], and
/// pointers must be good for a register of what they point to.
pub(super) trait Lanes: Copy {
    const LANES: usize;
    unsafe fn splat(x: f32) -> Self;
    unsafe fn load(x: *const f32) -> Self;
    unsafe fn store(y: *mut f32, x: Self);
    unsafe fn mul(a: Self, b: Self) -> Self;
    /// `a · b + c`
    unsafe fn fma(a: Self, b: Self, c: Self) -> Self;
    /// Asks for `n` registers from x on in the second-level cache; they need not be there.
    unsafe fn fetch(x: *const f32, n: usize);
}

/// Registers of an instruction set: `Self` has f32 lanes, `Int` as many i32 lanes, pairs of i16 or four bytes.
///
/// # Safety
/// As [`Lanes`].
pub(super) trait Vector: Lanes {
    type Int: Eights<Floats = Self>;
    type Bytes: Bytes;
    /// Eight lanes, or fewer.
    type Eight: Vector<Bytes = Self::Bytes>;
    /// Tokens of a tile of a product of floats with two registers of rows: as many as there are registers for.
    const TOKENS: usize;
    /// Whether products of 16-bit integers are faster than those of floats.
    const PAIRS: bool;
    /// The most that a code times the length of its group may be for sums of products of bytes to have room; zero where
    /// such products are not faster than those of floats.
    const BYTES: usize;
    /// Whether rows that stand side by side, see [`beside`](crate::format::beside), are faster: then `Eight` has a lane for each
    /// of eight.
    const BESIDE: bool = false;
    /// Runs a kernel in a function of its own, which the compiler gives all the registers.
    unsafe fn call<K: Kernel>(k: K) -> K::Output;
    /// `x[0]` in the lower half of the lanes, `x[1]` in the upper.
    unsafe fn halves(x: *const f32) -> Self;
    /// `LANES` numbers of 16 bits.
    unsafe fn load_f16(x: *const [u8; 2]) -> Self;
    unsafe fn load_bf16(x: *const [u8; 2]) -> Self;
    /// `y[j][i] = x[i][j]` for i and j below `LANES`; the rows of x and y begin `from` and `to` bytes apart.
    unsafe fn transpose(x: *const f32, from: usize, y: *mut f32, to: usize);
    /// Signed codes as numbers: `code · scale + offset`, of which each half has its own.
    unsafe fn decode(codes: Self::Bytes, scale: [f32; 2], offset: [f32; 2], y: &mut [f32; 32]);
    unsafe fn sum(x: Self) -> f32;
    /// `max(a, |x|)`
    unsafe fn max_abs(a: Self, x: Self) -> Self;
    /// The largest lane.
    unsafe fn largest(x: Self) -> f32;
    /// The nearest whole numbers.
    unsafe fn round(x: Self) -> Self;
    /// Writes the lanes, which fit, as whole numbers.
    unsafe fn store_codes(y: *mut i16, x: Self);
    unsafe fn zero() -> Self::Int;
    unsafe fn load_ints(x: *const i32) -> Self::Int;
    unsafe fn store_ints(y: *mut i32, x: Self::Int);
    /// The same lane everywhere.
    unsafe fn splat_int(x: *const i32) -> Self::Int;
    /// Puts 32 numbers in the order in which `dot_codes` takes them.
    unsafe fn arrange(x: &mut [i16; 32]);
    /// Sums of products of 32 unsigned codes and 32 arranged numbers, those of each half in a half of the lanes.
    unsafe fn dot_codes(codes: Self::Bytes, x: *const i16) -> Self::Int;
    /// Puts 32 numbers in the order in which `dot_beside` takes them.
    unsafe fn arrange_beside(_x: &mut [i16; 32]) {
        unreachable!("rows do not stand side by side")
    }
    /// In the lane of each row the products of four unsigned codes, below 128, and of numbers `4 w ..` of 32 arranged ones, added
    /// to sums that `sum_beside` adds up.
    unsafe fn dot_beside(_codes: Self::Int, _x: *const i32, _w: usize, _c: [Self::Int; 2]) -> [Self::Int; 2] {
        unreachable!("rows do not stand side by side")
    }
    unsafe fn sum_beside(_c: [Self::Int; 2]) -> Self::Int {
        unreachable!("rows do not stand side by side")
    }
    /// With `PAIRS` `LANES` times four signed bytes as pairs: of each four the first two, and the last two.
    unsafe fn widen_quads(_x: Self::Int) -> [Self::Int; 2] {
        unreachable!("numbers do not stand in pairs")
    }
    /// With `BESIDE` and `PAIRS` pairs of `(x · times / 2^bits + offset) / 4` of four signed bytes x, which have `bits` bits besides
    /// their sign; the first division rounds to the nearest, the last down.
    unsafe fn scale_quads(
        _x: Self::Int,
        _bits: u32,
        _times: Self::Int,
        _offset: Self::Int,
    ) -> [Self::Int; 2] {
        unreachable!("rows do not stand side by side")
    }
    /// With `PAIRS` pairs of the nearest whole numbers, which fit in 16 bits.
    unsafe fn round_pairs(_a: Self, _b: Self) -> Self::Int {
        unreachable!("numbers do not stand in pairs")
    }
    /// Pairs times pairs, of which each product fits.
    unsafe fn mul_pairs(_a: Self::Int, _b: Self::Int) -> Self::Int {
        unreachable!("rows do not stand side by side")
    }
    /// In each lane `a₀ b₀ + a₁ b₁ + c` of the pairs a and b.
    unsafe fn dot(a: Self::Int, b: Self::Int, c: Self::Int) -> Self::Int;
    unsafe fn to_float(x: Self::Int) -> Self;
    /// In each lane the sum of products of four unsigned bytes of a and four signed ones of b, added to the sums c, which
    /// only the functions below take: in 16 bits two of two products each, or one in 32 bits.
    unsafe fn dot_quads(a: Self::Int, b: Self::Int, c: Self::Int) -> Self::Int;
    unsafe fn negate_quads(x: Self::Int) -> Self::Int;
    /// Sums of lanes, of pairs and of quads, where products are folded.
    unsafe fn add(_a: Self::Int, _b: Self::Int) -> Self::Int {
        unreachable!("nothing is folded")
    }
    unsafe fn add_pairs(_a: Self::Int, _b: Self::Int) -> Self::Int {
        unreachable!("nothing is folded")
    }
    unsafe fn add_quads(_a: Self::Int, _b: Self::Int) -> Self::Int {
        unreachable!("nothing is folded")
    }
    /// Sixteen numbers of 16 bits, and zeros in what lanes are left.
    unsafe fn load_sixteen(_x: *const i16) -> Self::Int {
        unreachable!("nothing is folded")
    }
    unsafe fn negate(_x: Self::Int) -> Self::Int {
        unreachable!("nothing is folded")
    }
    unsafe fn quads_to_float(x: Self::Int) -> Self;
    /// Asks for the line of the cache at x, which need not be there.
    unsafe fn prefetch(x: *const u8);
    /// Asks for the line of x, which will be wanted again.
    unsafe fn prefetch_kept(x: *const u8);
}

/// Work that is compiled for each instruction set. `run` must be `#[inline(always)]`.
pub(super) trait Kernel {
    type Output;
    unsafe fn run<V: Vector>(self) -> Self::Output;
}

/// Runs a kernel at a level, which the machine must have; scalar code has none.
pub(super) fn dispatch<K: Kernel>(level: Level, k: K) -> K::Output {
    debug_assert!(level.is_available());
    #[allow(unused_unsafe)] // elsewhere
    // SAFETY: a `Cpu` is made only at a level that the machine has.
    unsafe {
        match level {
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => <std::arch::x86_64::__m256 as Vector>::call(k),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => <std::arch::x86_64::__m512 as Vector>::call(k),
            #[cfg(target_arch = "aarch64")]
            Level::Neon => <std::arch::aarch64::float32x4_t as Vector>::call(k),
            _ => unreachable!("{level} has no registers"),
        }
    }
}

/// Functions of registers: the caller has the instructions, and gives places that may be read or written.
macro_rules! functions {
    ($(fn $name:ident($($x:tt)*) $(-> $out:ty)? = $body:expr;)*) => {
        $(#[inline(always)]
        #[allow(unused_unsafe)] // some need no instructions
        unsafe fn $name($($x)*) $(-> $out)? {
            // SAFETY: as above.
            unsafe { $body }
        })*
    };
}

/// `Vector::call` with instructions enabled.
macro_rules! call {
    ($features:literal) => {
        #[inline(always)]
        unsafe fn call<K: Kernel>(k: K) -> K::Output {
            #[inline(never)]
            #[target_feature(enable = $features)]
            unsafe fn call<V: Vector, K: Kernel>(k: K) -> K::Output {
                // SAFETY: this function has the features.
                unsafe { k.run::<V>() }
            }
            // SAFETY: the CPU has the features.
            unsafe { call::<Self, K>(k) }
        }
    };
}

impl Lanes for f32 {
    const LANES: usize = 1;
    functions! {
        fn splat(x: f32) -> f32 = x;
        fn load(x: *const f32) -> f32 = *x;
        fn store(y: *mut f32, x: f32) = *y = x;
        fn mul(a: f32, b: f32) -> f32 = a * b;
        fn fma(a: f32, b: f32, c: f32) -> f32 = a * b + c;
        fn fetch(_x: *const f32, _n: usize) = ();
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Bytes, Eights, Kernel, Lanes, Vector};
    use crate::format::{Bits, beside::ROWS, q4_k::Factors};
    use std::arch::{asm, x86_64::*};

    impl Lanes for __m256 {
        const LANES: usize = 8;
        functions! {
            fn splat(x: f32) -> __m256 = _mm256_set1_ps(x);
            fn load(x: *const f32) -> __m256 = _mm256_loadu_ps(x);
            fn store(y: *mut f32, x: __m256) = _mm256_storeu_ps(y, x);
            fn mul(a: __m256, b: __m256) -> __m256 = _mm256_mul_ps(a, b);
            fn fma(a: __m256, b: __m256, c: __m256) -> __m256 = _mm256_fmadd_ps(a, b, c);
            fn fetch(x: *const f32, n: usize) = fetch_lines(x, 8 * n);
        }
    }

    impl Vector for __m256 {
        type Int = __m256i;
        type Bytes = __m256i;
        type Eight = Self;
        const TOKENS: usize = 6;
        const PAIRS: bool = true;
        // Sums may overflow on their way, but not in the end: half a group of codes times 127.
        const BYTES: usize = 2 * 256;
        const BESIDE: bool = true;
        call! { "avx2,fma,f16c" }
        functions! {
            fn halves(x: *const f32) -> __m256 = {
                let both = _mm256_castpd_ps(_mm256_set1_pd(x.cast::<f64>().read_unaligned()));
                let (low, high) = (0x0302_0100, 0x0706_0504);
                shuffle(both, _mm256_setr_epi32(low, low, low, low, high, high, high, high))
            };
            fn load_f16(x: *const [u8; 2]) -> __m256 = _mm256_cvtph_ps(_mm_loadu_si128(x.cast()));
            fn load_bf16(x: *const [u8; 2]) -> __m256 =
                _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(x.cast())), 16));
            fn transpose(x: *const f32, from: usize, y: *mut f32, to: usize) = transpose_8(x, from, y, to);
            fn decode(codes: __m256i, scale: [f32; 2], offset: [f32; 2], y: &mut [f32; 32]) = {
                let halves = [_mm256_castsi256_si128(codes), _mm256_extracti128_si256(codes, 1)];
                for (i, half) in halves.into_iter().enumerate() {
                    let (scale, offset) = (_mm256_set1_ps(scale[i]), _mm256_set1_ps(offset[i]));
                    for (j, codes) in [half, _mm_unpackhi_epi64(half, half)].into_iter().enumerate() {
                        let x = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(codes));
                        _mm256_storeu_ps(y.as_mut_ptr().add(16 * i + 8 * j), _mm256_fmadd_ps(x, scale, offset));
                    }
                }
            };
            fn sum(x: __m256) -> f32 = {
                let x = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
                let x = _mm_add_ps(x, _mm_movehl_ps(x, x));
                _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)))
            };
            fn max_abs(a: __m256, x: __m256) -> __m256 = _mm256_max_ps(a, _mm256_andnot_ps(_mm256_set1_ps(-0.0), x));
            fn largest(x: __m256) -> f32 = {
                let x = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
                let x = _mm_max_ps(x, _mm_movehl_ps(x, x));
                _mm_cvtss_f32(_mm_max_ss(x, _mm_movehdup_ps(x)))
            };
            fn round(x: __m256) -> __m256 = _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
            fn store_codes(y: *mut i16, x: __m256) = {
                let x = _mm256_cvtps_epi32(x);
                _mm_storeu_si128(y.cast(), _mm_packs_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1)));
            };
            fn round_pairs(a: __m256, b: __m256) -> __m256i =
                _mm256_blend_epi16(_mm256_cvtps_epi32(a), _mm256_slli_epi32(_mm256_cvtps_epi32(b), 16), 0xaa);
            fn zero() -> __m256i = _mm256_setzero_si256();
            fn load_ints(x: *const i32) -> __m256i = _mm256_loadu_si256(x.cast());
            fn store_ints(y: *mut i32, x: __m256i) = _mm256_storeu_si256(y.cast(), x);
            fn splat_int(x: *const i32) -> __m256i = _mm256_set1_epi32(*x);
            fn arrange(x: &mut [i16; 32]) = {
                // The bytes at even places, then those at odd ones: so a register is taken apart fastest.
                let pairs = x.as_chunks::<2>().0;
                *x = std::array::from_fn(|i| pairs[i % 16][i / 16]);
            };
            fn dot_codes(codes: __m256i, x: *const i16) -> __m256i = {
                let even = _mm256_and_si256(codes, _mm256_set1_epi16(0xff));
                let odd = _mm256_srli_epi16(codes, 8);
                let even = _mm256_madd_epi16(even, _mm256_loadu_si256(x.cast()));
                _mm256_add_epi32(even, _mm256_madd_epi16(odd, _mm256_loadu_si256(x.add(16).cast())))
            };
            fn arrange_beside(x: &mut [i16; 32]) = Self::arrange(x);
            fn dot_beside(codes: __m256i, x: *const i32, w: usize, [c, none]: [__m256i; 2]) -> [__m256i; 2] = {
                let even = _mm256_and_si256(codes, _mm256_set1_epi16(0xff));
                let even = _mm256_madd_epi16(even, _mm256_set1_epi32(*x.add(w)));
                let odd = _mm256_madd_epi16(_mm256_srli_epi16(codes, 8), _mm256_set1_epi32(*x.add(8 + w)));
                [_mm256_add_epi32(c, _mm256_add_epi32(even, odd)), none]
            };
            fn sum_beside([c, _]: [__m256i; 2]) -> __m256i = c;
            fn widen_quads(x: __m256i) -> [__m256i; 2] = {
                // Each byte to the top of a 16-bit half, from where it is shifted down with its sign.
                let first = _mm256_broadcastsi128_si256(_mm_setr_epi8(-1, 0, -1, 1, -1, 4, -1, 5, -1, 8, -1, 9, -1, 12, -1, 13));
                let last = _mm256_broadcastsi128_si256(_mm_setr_epi8(-1, 2, -1, 3, -1, 6, -1, 7, -1, 10, -1, 11, -1, 14, -1, 15));
                let pairs = |bytes| _mm256_srai_epi16(_mm256_shuffle_epi8(x, bytes), 8);
                [pairs(first), pairs(last)]
            };
            fn scale_quads(x: __m256i, bits: u32, times: __m256i, offset: __m256i) -> [__m256i; 2] = {
                // Each byte to the top of a 16-bit half, of which a product with 16 bits is divided by 2^15.
                let first = _mm256_broadcastsi128_si256(_mm_setr_epi8(-1, 0, -1, 1, -1, 4, -1, 5, -1, 8, -1, 9, -1, 12, -1, 13));
                let last = _mm256_broadcastsi128_si256(_mm_setr_epi8(-1, 2, -1, 3, -1, 6, -1, 7, -1, 10, -1, 11, -1, 14, -1, 15));
                let pairs = |bytes| {
                    let x = _mm256_sll_epi16(_mm256_shuffle_epi8(x, bytes), _mm_cvtsi32_si128(7 - bits as i32));
                    _mm256_srai_epi16(_mm256_add_epi16(_mm256_mulhrs_epi16(x, times), offset), 2)
                };
                [pairs(first), pairs(last)]
            };
            fn mul_pairs(a: __m256i, b: __m256i) -> __m256i = _mm256_mullo_epi16(a, b);
            fn add(a: __m256i, b: __m256i) -> __m256i = _mm256_add_epi32(a, b);
            fn add_pairs(a: __m256i, b: __m256i) -> __m256i = _mm256_add_epi16(a, b);
            fn load_sixteen(x: *const i16) -> __m256i = _mm256_loadu_si256(x.cast());
            fn negate(x: __m256i) -> __m256i = _mm256_sub_epi32(_mm256_setzero_si256(), x);
            fn dot(a: __m256i, b: __m256i, c: __m256i) -> __m256i = _mm256_add_epi32(c, _mm256_madd_epi16(a, b));
            fn to_float(x: __m256i) -> __m256 = _mm256_cvtepi32_ps(x);
            fn dot_quads(a: __m256i, b: __m256i, c: __m256i) -> __m256i = _mm256_add_epi16(c, _mm256_maddubs_epi16(a, b));
            fn negate_quads(x: __m256i) -> __m256i = _mm256_sub_epi16(_mm256_setzero_si256(), x);
            fn quads_to_float(x: __m256i) -> __m256 = _mm256_cvtepi32_ps(_mm256_madd_epi16(x, _mm256_set1_epi16(1)));
            fn prefetch(x: *const u8) = prefetch(x);
            fn prefetch_kept(x: *const u8) = _mm_prefetch::<_MM_HINT_T0>(x.cast());
        }
    }

    impl Bits for __m256i {
        functions! {
            fn bits(self, shift: u32, mask: u8) -> Self = {
                let x = _mm256_srl_epi16(self, _mm_cvtsi32_si128(shift as i32));
                _mm256_and_si256(x, _mm256_set1_epi8(mask as i8))
            };
            fn or(self, x: Self, shift: u32) -> Self =
                _mm256_or_si256(self, _mm256_sll_epi16(x, _mm_cvtsi32_si128(shift as i32)));
            fn less(self, n: u8) -> Self = _mm256_sub_epi8(self, _mm256_set1_epi8(n as i8));
        }
    }

    impl Eights for __m256i {
        type Floats = __m256;
        functions! {
            fn load(eights: &[*const u8], at: usize) -> Self = _mm256_loadu_si256(eights[0].add(ROWS * at).cast());
            fn f16s(self) -> [__m256; 2] = {
                // The first of all rows, then the last.
                let order = _mm256_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15, 0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15);
                let halves = _mm256_permute4x64_epi64(_mm256_shuffle_epi8(self, order), 0b11_01_10_00);
                [_mm256_cvtph_ps(_mm256_castsi256_si128(halves)), _mm256_cvtph_ps(_mm256_extracti128_si256(halves, 1))]
            };
            fn last_f16(eights: &[*const u8], at: usize) -> __m256 = _mm256_cvtph_ps(_mm_loadu_si128(eights[0].add(ROWS * at).cast()));
            fn numbers(self) -> [__m256; 4] = {
                // From the top of a lane a byte is shifted down with its sign.
                [
                    _mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_slli_epi32(self, 24), 24)),
                    _mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_slli_epi32(self, 16), 24)),
                    _mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_slli_epi32(self, 8), 24)),
                    _mm256_cvtepi32_ps(_mm256_srai_epi32(self, 24)),
                ]
            };
            fn product(a: __m256, b: __m256) -> __m256 = _mm256_mul_ps(a, b);
            fn negative(x: __m256) -> __m256 = _mm256_xor_ps(x, _mm256_set1_ps(-0.0));
        }
    }

    impl Bytes for __m256i {
        functions! {
            // Into all lanes: into one, it would wait for what was in the others.
            fn f16(x: [u8; 2]) -> f32 = _mm_cvtss_f32(_mm_cvtph_ps(_mm_set1_epi16(i16::from_le_bytes(x))));
            fn f16s(x: [[u8; 4]; 8], y: &mut [f32; 8]) = {
                // By fours, which need a load alone: two bytes would wait for what was in the register.
                let [a, b, c, d, e, f, g, h] = x.map(|x| _mm_cvtsi32_si128(i32::from_le_bytes(x)));
                let [ab, cd, ef, gh] = [[a, b], [c, d], [e, f], [g, h]].map(|[a, b]| _mm_unpacklo_epi16(a, b));
                let x = _mm_unpacklo_epi64(_mm_unpacklo_epi32(ab, cd), _mm_unpacklo_epi32(ef, gh));
                _mm256_storeu_ps(y.as_mut_ptr(), _mm256_cvtph_ps(x));
            };
            fn scaled(x: [i8; 8], by: [u8; 2], y: &mut [f32; 8]) = {
                let x = _mm_cvtsi64_si128(i64::from_le_bytes(x.map(|x| x as u8)));
                let by = _mm256_cvtph_ps(_mm_set1_epi16(i16::from_le_bytes(by)));
                _mm256_storeu_ps(y.as_mut_ptr(), _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(x)), by));
            };
            fn factors(x: &Factors, scale: &mut [f32; 8], offset: &mut [f32; 8]) = {
                let x = _mm_loadu_si128((&raw const *x).cast()); // d and dmin; first scales; first minimums; last of both
                let first = _mm_and_si128(x, _mm_set1_epi8(63));
                let low = _mm_srlv_epi32(_mm_shuffle_epi32(x, 0b1111_1111), _mm_setr_epi32(0, 0, 4, 0));
                let high = _mm_and_si128(_mm_srli_epi16(x, 2), _mm_set1_epi8(0x30));
                let last = _mm_or_si128(_mm_and_si128(low, _mm_set1_epi8(15)), high);
                let scales = _mm_unpackhi_epi64(_mm_unpacklo_epi32(first, last), x);
                let minimums = _mm_unpackhi_epi32(first, last);
                let numbers = |x| _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(x));
                let halves = _mm_cvtph_ps(x);
                let (d, dmin) = (_mm256_broadcastss_ps(halves), _mm256_broadcastss_ps(_mm_movehdup_ps(halves)));
                let dmin = _mm256_xor_ps(dmin, _mm256_set1_ps(-0.0));
                _mm256_storeu_ps(scale.as_mut_ptr(), _mm256_mul_ps(numbers(scales), d));
                _mm256_storeu_ps(offset.as_mut_ptr(), _mm256_mul_ps(numbers(minimums), dmin));
            };
            fn load(x: &[u8; 32]) -> Self = _mm256_loadu_si256(x.as_ptr().cast());
            fn store(self, y: &mut [u8; 32]) = _mm256_storeu_si256(y.as_mut_ptr().cast(), self);
            fn nibbles(x: &[u8; 16]) -> Self = {
                let x = _mm_loadu_si128(x.as_ptr().cast());
                _mm256_and_si256(_mm256_set_m128i(_mm_srli_epi16(x, 4), x), _mm256_set1_epi8(15))
            };
            fn spread(bits: [u8; 4]) -> Self = {
                let x = _mm256_set1_epi32(i32::from_le_bytes(bits));
                let bytes = _mm256_setr_epi64x(0, each(1), each(2), each(3));
                let bit = _mm256_set1_epi64x(0x8040_2010_0804_0201u64 as i64);
                let x = _mm256_and_si256(_mm256_shuffle_epi8(x, bytes), bit);
                _mm256_and_si256(_mm256_cmpeq_epi8(x, bit), _mm256_set1_epi8(1))
            };
            fn lookup(self, table: &[i8; 16]) -> Self = {
                let table = _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast()));
                _mm256_shuffle_epi8(table, self)
            };
        }
    }

    #[inline(always)]
    fn fetch_lines(x: *const f32, len: usize) {
        for at in (0..len).step_by(16) {
            // SAFETY: every x86-64 has the instruction, and it may be given any address.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(x.wrapping_add(at).cast()) };
        }
    }

    /// The same byte eight times.
    const fn each(byte: u8) -> i64 {
        i64::from_le_bytes([byte; 8])
    }

    /// Asks for a line in the second-level cache: with `prefetchnta`, which passes it by, Intel's cores read half as fast. LLVM
    /// gathers loads around the intrinsic, which costs more registers than there are.
    #[inline(always)]
    unsafe fn prefetch(x: *const u8) {
        // SAFETY: nothing is read.
        unsafe { asm!("prefetcht1 [{}]", in(reg) x, options(readonly, nostack, preserves_flags)) };
    }

    /// In each half its bytes in an order. LLVM would make two shuffles of the intrinsic, one of which crosses the halves, and
    /// `vpermilps` takes four times as long on Zen 2.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn shuffle(x: __m256, order: __m256i) -> __m256 {
        let y;
        // SAFETY: the instruction works on these registers only.
        unsafe {
            asm!("vpshufb {}, {}, {}", out(ymm_reg) y, in(ymm_reg) x, in(ymm_reg) order,
                options(pure, nomem, nostack, preserves_flags));
        }
        y
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn transpose_8(x: *const f32, from: usize, y: *mut f32, to: usize) {
        // SAFETY: x and y have the room that the caller promises.
        unsafe {
            let x: [__m256; 8] = std::array::from_fn(|i| _mm256_loadu_ps(x.byte_add(i * from)));
            let mut a = x;
            for i in 0..4 {
                a[2 * i] = _mm256_unpacklo_ps(x[2 * i], x[2 * i + 1]);
                a[2 * i + 1] = _mm256_unpackhi_ps(x[2 * i], x[2 * i + 1]);
            }
            let mut b = a;
            for (i, j) in [(0, 0), (2, 1), (4, 4), (6, 5)] {
                b[i] = _mm256_shuffle_ps(a[j], a[j + 2], 0x44);
                b[i + 1] = _mm256_shuffle_ps(a[j], a[j + 2], 0xee);
            }
            for i in 0..4 {
                _mm256_storeu_ps(y.byte_add(i * to), _mm256_permute2f128_ps(b[i], b[i + 4], 0x20));
                _mm256_storeu_ps(y.byte_add((i + 4) * to), _mm256_permute2f128_ps(b[i], b[i + 4], 0x31));
            }
        }
    }

    /// Products that are added to sums. LLVM would take the intrinsic of the first apart again, into a product and a sum,
    /// which is half as fast.
    macro_rules! sums {
        ($($name:ident $instruction:literal $int:ident $register:ident)*) => {
            $(#[inline]
            #[target_feature(enable = "avx512f,avx512vnni")]
            fn $name(a: $int, b: $int, mut sum: $int) -> $int {
                // SAFETY: the instruction works on these registers only.
                unsafe {
                    asm!(concat!($instruction, " {}, {}, {}"), inout($register) sum, in($register) a, in($register) b,
                        options(pure, nomem, nostack, preserves_flags));
                }
                sum
            })*
        };
    }
    sums! {
        dpwssd "vpdpwssd" __m512i zmm_reg
        dpbusd "vpdpbusd" __m512i zmm_reg
    }

    impl Bits for __m512i {
        functions! {
            fn bits(self, shift: u32, mask: u8) -> Self = {
                let x = _mm512_srl_epi16(self, _mm_cvtsi32_si128(shift as i32));
                _mm512_and_si512(x, _mm512_set1_epi8(mask as i8))
            };
            fn or(self, x: Self, shift: u32) -> Self =
                _mm512_or_si512(self, _mm512_sll_epi16(x, _mm_cvtsi32_si128(shift as i32)));
            fn less(self, n: u8) -> Self = _mm512_sub_epi8(self, _mm512_set1_epi8(n as i8));
        }
    }

    impl Eights for __m512i {
        type Floats = __m512;
        functions! {
            fn load(eights: &[*const u8], at: usize) -> Self = {
                let a = _mm512_castsi256_si512(_mm256_loadu_si256(eights[0].add(ROWS * at).cast()));
                _mm512_inserti64x4(a, _mm256_loadu_si256(eights[1].add(ROWS * at).cast()), 1)
            };
            fn f16s(self) -> [__m512; 2] = {
                let last = _mm512_srli_epi32(self, 16);
                [_mm512_cvtph_ps(_mm512_cvtepi32_epi16(self)), _mm512_cvtph_ps(_mm512_cvtepi32_epi16(last))]
            };
            fn last_f16(eights: &[*const u8], at: usize) -> __m512 = {
                let a = _mm_loadu_si128(eights[0].add(ROWS * at).cast());
                _mm512_cvtph_ps(_mm256_set_m128i(_mm_loadu_si128(eights[1].add(ROWS * at).cast()), a))
            };
            fn numbers(self) -> [__m512; 4] = {
                [
                    _mm512_cvtepi32_ps(_mm512_srai_epi32(_mm512_slli_epi32(self, 24), 24)),
                    _mm512_cvtepi32_ps(_mm512_srai_epi32(_mm512_slli_epi32(self, 16), 24)),
                    _mm512_cvtepi32_ps(_mm512_srai_epi32(_mm512_slli_epi32(self, 8), 24)),
                    _mm512_cvtepi32_ps(_mm512_srai_epi32(self, 24)),
                ]
            };
            fn product(a: __m512, b: __m512) -> __m512 = _mm512_mul_ps(a, b);
            fn negative(x: __m512) -> __m512 = _mm512_xor_ps(x, _mm512_set1_ps(-0.0));
        }
    }

    impl Lanes for __m512 {
        const LANES: usize = 16;
        functions! {
            fn splat(x: f32) -> __m512 = _mm512_set1_ps(x);
            fn load(x: *const f32) -> __m512 = _mm512_loadu_ps(x);
            fn store(y: *mut f32, x: __m512) = _mm512_storeu_ps(y, x);
            fn mul(a: __m512, b: __m512) -> __m512 = _mm512_mul_ps(a, b);
            fn fma(a: __m512, b: __m512, c: __m512) -> __m512 = _mm512_fmadd_ps(a, b, c);
            fn fetch(x: *const f32, n: usize) = fetch_lines(x, 16 * n);
        }
    }

    impl Vector for __m512 {
        type Int = __m512i;
        type Bytes = __m256i;
        type Eight = __m256;
        const TOKENS: usize = 12;
        const PAIRS: bool = true;
        const BYTES: usize = usize::MAX;
        const BESIDE: bool = true;
        call! { "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni" }
        functions! {
            fn halves(x: *const f32) -> __m512 = _mm512_mask_blend_ps(0xff00, _mm512_set1_ps(*x), _mm512_set1_ps(*x.add(1)));
            fn load_f16(x: *const [u8; 2]) -> __m512 = _mm512_cvtph_ps(_mm256_loadu_si256(x.cast()));
            fn load_bf16(x: *const [u8; 2]) -> __m512 =
                _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(x.cast())), 16));
            fn transpose(x: *const f32, from: usize, y: *mut f32, to: usize) = {
                for (i, j) in [(0, 0), (0, 8), (8, 0), (8, 8)] {
                    transpose_8(x.byte_add(i * from).add(j), from, y.byte_add(j * to).add(i), to);
                }
            };
            fn decode(codes: __m256i, scale: [f32; 2], offset: [f32; 2], y: &mut [f32; 32]) = {
                let halves = [_mm256_castsi256_si128(codes), _mm256_extracti128_si256(codes, 1)];
                for (i, half) in halves.into_iter().enumerate() {
                    let x = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(half));
                    let x = _mm512_fmadd_ps(x, _mm512_set1_ps(scale[i]), _mm512_set1_ps(offset[i]));
                    _mm512_storeu_ps(y.as_mut_ptr().add(16 * i), x);
                }
            };
            fn sum(x: __m512) -> f32 = _mm512_reduce_add_ps(x);
            fn max_abs(a: __m512, x: __m512) -> __m512 = _mm512_max_ps(a, _mm512_abs_ps(x));
            fn largest(x: __m512) -> f32 = _mm512_reduce_max_ps(x);
            fn round(x: __m512) -> __m512 = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
            fn store_codes(y: *mut i16, x: __m512) =
                _mm256_storeu_si256(y.cast(), _mm512_cvtepi32_epi16(_mm512_cvtps_epi32(x)));
            fn round_pairs(a: __m512, b: __m512) -> __m512i = {
                let b = _mm512_slli_epi32(_mm512_cvtps_epi32(b), 16);
                _mm512_mask_blend_epi16(0xaaaa_aaaa, _mm512_cvtps_epi32(a), b)
            };
            fn zero() -> __m512i = _mm512_setzero_si512();
            fn load_ints(x: *const i32) -> __m512i = _mm512_loadu_si512(x.cast());
            fn store_ints(y: *mut i32, x: __m512i) = _mm512_storeu_si512(y.cast(), x);
            fn splat_int(x: *const i32) -> __m512i = _mm512_set1_epi32(*x);
            fn arrange(_x: &mut [i16; 32]) = ();
            fn dot_codes(codes: __m256i, x: *const i16) -> __m512i =
                dpwssd(_mm512_cvtepu8_epi16(codes), _mm512_loadu_si512(x.cast()), _mm512_setzero_si512());
            fn arrange_beside(x: &mut [i16; 32]) = {
                // The low bytes, which are unsigned, then the high ones.
                let y = _mm512_loadu_si512(x.as_ptr().cast());
                let y = _mm512_inserti64x4(_mm512_castsi256_si512(_mm512_cvtepi16_epi8(y)), _mm512_cvtepi16_epi8(_mm512_srli_epi16(y, 8)), 1);
                _mm512_storeu_si512(x.as_mut_ptr().cast(), y);
            };
            fn dot_beside(codes: __m512i, x: *const i32, w: usize, [low, high]: [__m512i; 2]) -> [__m512i; 2] = [
                _mm512_dpbusd_epi32(low, _mm512_set1_epi32(*x.add(w)), codes),
                _mm512_dpbusd_epi32(high, codes, _mm512_set1_epi32(*x.add(8 + w))),
            ];
            fn sum_beside([low, high]: [__m512i; 2]) -> __m512i = _mm512_add_epi32(low, _mm512_slli_epi32(high, 8));
            fn scale_quads(x: __m512i, bits: u32, times: __m512i, offset: __m512i) -> [__m512i; 2] = {
                let first = _mm512_broadcast_i32x4(_mm_setr_epi8(-1, 0, -1, 1, -1, 4, -1, 5, -1, 8, -1, 9, -1, 12, -1, 13));
                let last = _mm512_broadcast_i32x4(_mm_setr_epi8(-1, 2, -1, 3, -1, 6, -1, 7, -1, 10, -1, 11, -1, 14, -1, 15));
                let pairs = |bytes| {
                    let x = _mm512_sll_epi16(_mm512_shuffle_epi8(x, bytes), _mm_cvtsi32_si128(7 - bits as i32));
                    _mm512_srai_epi16(_mm512_add_epi16(_mm512_mulhrs_epi16(x, times), offset), 2)
                };
                [pairs(first), pairs(last)]
            };
            fn mul_pairs(a: __m512i, b: __m512i) -> __m512i = _mm512_mullo_epi16(a, b);
            fn widen_quads(x: __m512i) -> [__m512i; 2] = {
                let first = _mm512_broadcast_i32x4(_mm_setr_epi8(-1, 0, -1, 1, -1, 4, -1, 5, -1, 8, -1, 9, -1, 12, -1, 13));
                let last = _mm512_broadcast_i32x4(_mm_setr_epi8(-1, 2, -1, 3, -1, 6, -1, 7, -1, 10, -1, 11, -1, 14, -1, 15));
                let pairs = |bytes| _mm512_srai_epi16(_mm512_shuffle_epi8(x, bytes), 8);
                [pairs(first), pairs(last)]
            };
            fn dot(a: __m512i, b: __m512i, c: __m512i) -> __m512i = dpwssd(a, b, c);
            fn to_float(x: __m512i) -> __m512 = _mm512_cvtepi32_ps(x);
            fn dot_quads(a: __m512i, b: __m512i, c: __m512i) -> __m512i = dpbusd(a, b, c);
            fn negate_quads(x: __m512i) -> __m512i = _mm512_sub_epi32(_mm512_setzero_si512(), x);
            fn add(a: __m512i, b: __m512i) -> __m512i = _mm512_add_epi32(a, b);
            fn add_pairs(a: __m512i, b: __m512i) -> __m512i = _mm512_add_epi16(a, b);
            fn add_quads(a: __m512i, b: __m512i) -> __m512i = _mm512_add_epi8(a, b);
            fn load_sixteen(x: *const i16) -> __m512i = _mm512_zextsi256_si512(_mm256_loadu_si256(x.cast()));
            fn negate(x: __m512i) -> __m512i = _mm512_sub_epi32(_mm512_setzero_si512(), x);
            fn quads_to_float(x: __m512i) -> __m512 = _mm512_cvtepi32_ps(x);
            fn prefetch(x: *const u8) = prefetch(x);
            fn prefetch_kept(x: *const u8) = _mm_prefetch::<_MM_HINT_T0>(x.cast());
        }
    }
}

#[cfg(target_arch = "aarch64")]
mod arm {
    use super::{Bytes, Eights, Kernel, Lanes, Vector};
    use crate::format::Bits;
    use std::arch::{aarch64::*, asm};

    impl Lanes for float32x4_t {
        const LANES: usize = 4;
        functions! {
            fn splat(x: f32) -> float32x4_t = vdupq_n_f32(x);
            fn load(x: *const f32) -> float32x4_t = vld1q_f32(x);
            fn store(y: *mut f32, x: float32x4_t) = vst1q_f32(y, x);
            fn mul(a: float32x4_t, b: float32x4_t) -> float32x4_t = vmulq_f32(a, b);
            fn fma(a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t = vfmaq_f32(c, a, b);
            fn fetch(x: *const f32, n: usize) = {
                for at in (0..4 * n).step_by(16) {
                    let x = x.wrapping_add(at);
                    asm!("prfm pldl2keep, [{}]", in(reg) x, options(nostack, preserves_flags));
                }
            };
        }
    }

    impl Vector for float32x4_t {
        type Int = int32x4_t;
        type Bytes = uint8x16x2_t;
        type Eight = Self;
        const TOKENS: usize = 12;
        const PAIRS: bool = false;
        // Not every CPU has the instructions that do.
        const BYTES: usize = 0;
        call! { "neon" }
        functions! {
            fn halves(x: *const f32) -> float32x4_t = vcombine_f32(vdup_n_f32(*x), vdup_n_f32(*x.add(1)));
            fn load_f16(x: *const [u8; 2]) -> float32x4_t = {
                let y: float32x4_t;
                let halves = vld1_u16(x.cast());
                asm!("fcvtl {0:v}.4s, {1:v}.4h", out(vreg) y, in(vreg) halves, options(pure, nomem, nostack, preserves_flags));
                y
            };
            fn load_bf16(x: *const [u8; 2]) -> float32x4_t = vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(x.cast()), 16));
            fn transpose(x: *const f32, from: usize, y: *mut f32, to: usize) = {
                let x = float32x4x4_t(vld1q_f32(x), vld1q_f32(x.byte_add(from)), vld1q_f32(x.byte_add(2 * from)), vld1q_f32(x.byte_add(3 * from)));
                let mut turned = [[0.0; 4]; 4];
                vst4q_f32(turned.as_mut_ptr().cast(), x);
                for (i, row) in turned.iter().enumerate() {
                    vst1q_f32(y.byte_add(i * to), vld1q_f32(row.as_ptr()));
                }
            };
            fn decode(codes: uint8x16x2_t, scale: [f32; 2], offset: [f32; 2], y: &mut [f32; 32]) = {
                for (i, half) in [codes.0, codes.1].into_iter().enumerate() {
                    let half = vreinterpretq_s8_u8(half);
                    let (scale, offset) = (vdupq_n_f32(scale[i]), vdupq_n_f32(offset[i]));
                    for (j, x) in [vmovl_s8(vget_low_s8(half)), vmovl_high_s8(half)].into_iter().enumerate() {
                        let quads = [vmovl_s16(vget_low_s16(x)), vmovl_high_s16(x)];
                        for (k, x) in quads.into_iter().enumerate() {
                            let x = vfmaq_f32(offset, vcvtq_f32_s32(x), scale);
                            vst1q_f32(y.as_mut_ptr().add(16 * i + 8 * j + 4 * k), x);
                        }
                    }
                }
            };
            fn sum(x: float32x4_t) -> f32 = vaddvq_f32(x);
            fn max_abs(a: float32x4_t, x: float32x4_t) -> float32x4_t = vmaxq_f32(a, vabsq_f32(x));
            fn largest(x: float32x4_t) -> f32 = vmaxvq_f32(x);
            fn round(x: float32x4_t) -> float32x4_t = vrndnq_f32(x);
            fn store_codes(y: *mut i16, x: float32x4_t) = vst1_s16(y, vmovn_s32(vcvtnq_s32_f32(x)));
            fn zero() -> int32x4_t = vdupq_n_s32(0);
            fn load_ints(x: *const i32) -> int32x4_t = vld1q_s32(x);
            fn store_ints(y: *mut i32, x: int32x4_t) = vst1q_s32(y, x);
            fn splat_int(x: *const i32) -> int32x4_t = vdupq_n_s32(*x);
            fn arrange(_x: &mut [i16; 32]) = ();
            fn dot_codes(codes: uint8x16x2_t, x: *const i16) -> int32x4_t = {
                let half = |codes, x: *const i16| {
                    let wide = |codes| vreinterpretq_s16_u16(vmovl_u8(codes));
                    let (a, b) = (wide(vget_low_u8(codes)), wide(vget_high_u8(codes)));
                    let (x, y) = (vld1q_s16(x), vld1q_s16(x.add(8)));
                    let sum = vmull_s16(vget_low_s16(a), vget_low_s16(x));
                    let sum = vmlal_high_s16(sum, a, x);
                    let sum = vmlal_s16(sum, vget_low_s16(b), vget_low_s16(y));
                    vmlal_high_s16(sum, b, y)
                };
                vpaddq_s32(half(codes.0, x), half(codes.1, x.add(16)))
            };
            fn dot(a: int32x4_t, b: int32x4_t, c: int32x4_t) -> int32x4_t = {
                let (a, b) = (vreinterpretq_s16_s32(a), vreinterpretq_s16_s32(b));
                let (low, high) = (vmull_s16(vget_low_s16(a), vget_low_s16(b)), vmull_high_s16(a, b));
                vaddq_s32(c, vpaddq_s32(low, high))
            };
            fn to_float(x: int32x4_t) -> float32x4_t = vcvtq_f32_s32(x);
            fn dot_quads(a: int32x4_t, b: int32x4_t, c: int32x4_t) -> int32x4_t = {
                let (a, b) = (vreinterpretq_u8_s32(a), vreinterpretq_s8_s32(b));
                let wide = |a: uint8x8_t| vreinterpretq_s16_u16(vmovl_u8(a));
                let (a_low, b_low) = (wide(vget_low_u8(a)), vmovl_s8(vget_low_s8(b)));
                let (a_high, b_high) = (wide(vget_high_u8(a)), vmovl_high_s8(b));
                let low = vpaddq_s32(vmull_s16(vget_low_s16(a_low), vget_low_s16(b_low)), vmull_high_s16(a_low, b_low));
                let high = vpaddq_s32(vmull_s16(vget_low_s16(a_high), vget_low_s16(b_high)), vmull_high_s16(a_high, b_high));
                vaddq_s32(c, vpaddq_s32(low, high))
            };
            fn negate_quads(x: int32x4_t) -> int32x4_t = vnegq_s32(x);
            fn quads_to_float(x: int32x4_t) -> float32x4_t = vcvtq_f32_s32(x);
            fn prefetch(x: *const u8) = asm!("prfm pldl1keep, [{}]", in(reg) x, options(nostack, preserves_flags));
            fn prefetch_kept(x: *const u8) = <Self as Vector>::prefetch(x);
        }
    }

    // Rows do not stand side by side.
    impl Bits for int32x4_t {
        functions! {
            fn bits(self, _shift: u32, _mask: u8) -> Self = unreachable!();
            fn or(self, _x: Self, _shift: u32) -> Self = unreachable!();
            fn less(self, _n: u8) -> Self = unreachable!();
        }
    }

    impl Eights for int32x4_t {
        type Floats = float32x4_t;
    }

    impl Bits for uint8x16x2_t {
        functions! {
            fn bits(self, shift: u32, mask: u8) -> Self = {
                let (shift, mask) = (vdupq_n_s8(-(shift as i8)), vdupq_n_u8(mask));
                uint8x16x2_t(vandq_u8(vshlq_u8(self.0, shift), mask), vandq_u8(vshlq_u8(self.1, shift), mask))
            };
            fn or(self, x: Self, shift: u32) -> Self = {
                let shift = vdupq_n_s8(shift as i8);
                uint8x16x2_t(vorrq_u8(self.0, vshlq_u8(x.0, shift)), vorrq_u8(self.1, vshlq_u8(x.1, shift)))
            };
            fn less(self, n: u8) -> Self =
                uint8x16x2_t(vsubq_u8(self.0, vdupq_n_u8(n)), vsubq_u8(self.1, vdupq_n_u8(n)));
        }
    }

    impl Bytes for uint8x16x2_t {
        functions! {
            fn f16(x: [u8; 2]) -> f32 = crate::format::f16(x);
            fn scaled(x: [i8; 8], by: [u8; 2], y: &mut [f32; 8]) = {
                let (x, by) = (vmovl_s8(vld1_s8(x.as_ptr())), crate::format::f16(by));
                let scaled = |x| vmulq_n_f32(vcvtq_f32_s32(vmovl_s16(x)), by);
                vst1q_f32(y.as_mut_ptr(), scaled(vget_low_s16(x)));
                vst1q_f32(y.as_mut_ptr().add(4), scaled(vget_high_s16(x)));
            };
            fn load(x: &[u8; 32]) -> Self = vld1q_u8_x2(x.as_ptr());
            fn store(self, y: &mut [u8; 32]) = vst1q_u8_x2(y.as_mut_ptr(), self);
            fn nibbles(x: &[u8; 16]) -> Self = {
                let x = vld1q_u8(x.as_ptr());
                uint8x16x2_t(vandq_u8(x, vdupq_n_u8(15)), vshrq_n_u8(x, 4))
            };
            fn spread(bits: [u8; 4]) -> Self = {
                let bit = vreinterpretq_u8_u64(vdupq_n_u64(0x8040_2010_0804_0201));
                let spread = |a, b| vtstq_u8(vcombine_u8(vdup_n_u8(a), vdup_n_u8(b)), bit);
                let (a, b) = (spread(bits[0], bits[1]), spread(bits[2], bits[3]));
                uint8x16x2_t(vandq_u8(a, vdupq_n_u8(1)), vandq_u8(b, vdupq_n_u8(1)))
            };
            fn lookup(self, table: &[i8; 16]) -> Self = {
                let table = vreinterpretq_u8_s8(vld1q_s8(table.as_ptr()));
                uint8x16x2_t(vqtbl1q_u8(table, self.0), vqtbl1q_u8(table, self.1))
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every function of a level beside what its documentation says, on numbers that tell the lanes apart.
    struct Functions;

    impl Kernel for Functions {
        type Output = ();
        #[inline(always)]
        unsafe fn run<V: Vector>(self) {
            let x: Vec<f32> = (0..16).map(|i| i as f32 - 5.5).collect();
            let p: Vec<i16> = (0..32).map(|i| (i * 2001 - 32000) as i16).collect();
            let q: Vec<i8> = (0..64).map(|i| (i * 37 - 128) as i8).collect();
            let n = V::LANES;
            // SAFETY: the arrays are as long as the longest register.
            unsafe {
                let floats = |v: V| {
                    let mut y = [f32::NAN; 16];
                    V::store(y.as_mut_ptr(), v);
                    assert!(y[n..].iter().all(|y| y.is_nan()));
                    y[..n].to_vec()
                };
                let ints = |v: V::Int| {
                    let mut y = [7; 17];
                    V::store_ints(y.as_mut_ptr(), v);
                    assert!(y[n..].iter().all(|y| *y == 7));
                    y[..n].to_vec()
                };
                let pairs = |v: V::Int| -> Vec<i16> {
                    ints(v).into_iter().flat_map(|x| [x as i16, (x >> 16) as i16]).collect()
                };
                let wide_lanes: Vec<i32> = (0..16_i32).map(|i| i.wrapping_mul(0x1234_5678)).collect();
                let wide = |i: usize| i16::from(q[i]);
                let bytes: [u8; 32] = std::array::from_fn(|i| q[i] as u8);
                let signed = V::Bytes::load(&bytes);
                let a = V::load(x.as_ptr());
                assert_eq!(
                    floats(V::mul(a, V::splat(2.0))),
                    x[..n].iter().map(|x| x * 2.0).collect::<Vec<_>>()
                );
                assert_eq!(
                    floats(V::fma(a, a, V::splat(0.5))),
                    x[..n].iter().map(|x| x * x + 0.5).collect::<Vec<_>>()
                );
                assert_eq!(V::sum(a), x[..n].iter().sum::<f32>());
                // Zero, the smallest number, a subnormal one, 1, -2, the largest.
                let halves = [0, 1, 0x3ff, 0x3c00, 0xc000, 0x7bff].map(u16::to_le_bytes);
                let halves: Vec<_> = halves.into_iter().cycle().take(16).collect();
                let values = [0.0, 2f32.powi(-24), 1023.0 * 2f32.powi(-24), 1.0, -2.0, 65504.0];
                assert_eq!(floats(V::load_f16(halves.as_ptr())), values.repeat(3)[..n]);
                let magnitudes: Vec<f32> = x[..n].iter().map(|x| x.abs().max(2.0)).collect();
                assert_eq!(floats(V::max_abs(V::splat(2.0), a)), magnitudes);
                assert_eq!(V::largest(a), x[n - 1]);
                assert_eq!(
                    floats(V::round(a)),
                    x[..n].iter().map(|x| x.round_ties_even()).collect::<Vec<_>>()
                );
                let mut codes = [7; 18];
                V::store_codes(codes.as_mut_ptr(), a);
                let whole = x[..n].iter().map(|x| x.round_ties_even() as i16).chain([7]);
                assert_eq!(codes[..=n], whole.collect::<Vec<_>>());
                if V::PAIRS {
                    let want = x[..n].iter().map(|x| x.round_ties_even() as i16);
                    let want: Vec<i16> = want.flat_map(|x| [x, -x]).collect();
                    assert_eq!(pairs(V::round_pairs(a, V::mul(a, V::splat(-1.0)))), want);
                    for (half, v) in V::widen_quads(V::load_ints(q.as_ptr().cast())).into_iter().enumerate() {
                        let want = (0..n).flat_map(|i| [0, 1].map(|j| wide(4 * i + 2 * half + j)));
                        assert_eq!(pairs(v), want.collect::<Vec<_>>());
                    }
                }
                let both = [vec![x[0]; n / 2], vec![x[1]; n / 2]].concat();
                assert_eq!(floats(V::halves(x.as_ptr())), both);
                assert_eq!(ints(V::load_ints(wide_lanes.as_ptr())), wide_lanes[..n]);
                assert_eq!(ints(V::splat_int(&wide_lanes[3])), [wide_lanes[3]].repeat(n));
                assert_eq!(pairs(V::zero()), vec![0; 2 * n]);
                let mut decoded = [0.0; 32];
                V::decode(signed, [0.5, 0.25], [1.0, 2.0], &mut decoded);
                for (i, y) in decoded.into_iter().enumerate() {
                    let (scale, offset) = ([0.5, 0.25][i / 16], [1.0, 2.0][i / 16]);
                    assert_eq!(y, f32::from(wide(i)) * scale + offset);
                }
                let square: Vec<f32> = (0..17 * 16).map(|i| i as f32).collect();
                let mut turned = vec![-1.0; 18 * 16];
                V::transpose(square.as_ptr(), 4 * 17, turned.as_mut_ptr(), 4 * 18);
                for (i, y) in turned.into_iter().enumerate() {
                    let (j, i) = (i / 18, i % 18);
                    assert_eq!(y, if i < n && j < n { square[i * 17 + j] } else { -1.0 });
                }
                let halves =
                    [[0, 0], [0xc0, 0x3f], [0x80, 0xff]].into_iter().cycle().take(16).collect::<Vec<_>>();
                assert_eq!(
                    floats(V::load_bf16(halves.as_ptr())),
                    [0.0, 1.5, f32::NEG_INFINITY].repeat(6)[..n]
                );
                let small: Vec<i16> = p.iter().map(|x| x >> 2).collect();
                let (a, b) = (V::load_ints(small.as_ptr().cast()), V::load_ints(small.as_ptr().cast()));
                let dot = |i: usize| i32::from(small[2 * i]).pow(2) + i32::from(small[2 * i + 1]).pow(2);
                let want: Vec<f32> = (0..n).map(|i| 2.0 * dot(i) as f32).collect();
                assert_eq!(floats(V::to_float(V::dot(b, a, V::dot(a, b, V::zero())))), want);
                // Codes of 6 bits and numbers of 8, added up over four lanes of them: the most that has room.
                let unsigned: Vec<u8> = (0..64_i32).map(|i| (i * 91 + 3) as u8).collect();
                let codes: Vec<i8> = q.iter().map(|x| x >> 2).collect();
                let (a, b) = (V::load_ints(unsigned.as_ptr().cast()), V::load_ints(codes.as_ptr().cast()));
                let dot = |i: usize| {
                    (4 * i..4 * i + 4).map(|i| i32::from(unsigned[i]) * i32::from(codes[i])).sum::<i32>()
                        as f32
                };
                let sum = V::dot_quads(a, b, V::dot_quads(a, b, V::zero()));
                let want: Vec<f32> = (0..n).map(|i| 2.0 * dot(i)).collect();
                assert_eq!(floats(V::quads_to_float(sum)), want);
                let want: Vec<f32> = want.iter().map(|x| -x).collect();
                assert_eq!(floats(V::quads_to_float(V::negate_quads(sum))), want);
                let mut arranged: [i16; 32] = std::array::from_fn(|i| p[i]);
                V::arrange(&mut arranged);
                let sums = ints(V::dot_codes(V::Bytes::load(&bytes), arranged.as_ptr()));
                let half = |h: usize| {
                    (16 * h..16 * h + 16).map(|i| i32::from(p[i]) * i32::from(bytes[i])).sum::<i32>()
                };
                assert_eq!(sums[..n / 2].iter().sum::<i32>(), half(0));
                assert_eq!(sums[n / 2..].iter().sum::<i32>(), half(1));
                if V::BESIDE && V::PAIRS {
                    let half: Vec<i16> = p.iter().map(|x| x >> 1).collect();
                    let (x, y) = (V::load_ints(codes.as_ptr().cast()), V::load_ints(half.as_ptr().cast()));
                    for (i, scaled) in V::scale_quads(x, 5, y, y).into_iter().enumerate() {
                        let want = |r: usize| {
                            [0, 1].map(|j| {
                                let (x, y) =
                                    (f64::from(codes[4 * r + 2 * i + j]), f64::from(half[2 * r + j]));
                                (((x * y / 32.0 + 0.5).floor() + y) / 4.0).floor() as i16
                            })
                        };
                        assert_eq!(pairs(scaled), (0..n).flat_map(want).collect::<Vec<_>>());
                    }
                    let square = |x: i16| x.wrapping_mul(x);
                    let x = V::load_ints(p.as_ptr().cast());
                    let want: Vec<_> = p[..2 * n].iter().map(|x| square(*x)).collect();
                    assert_eq!(pairs(V::mul_pairs(x, x)), want);
                }
                if V::BESIDE {
                    // Rows of an eight, or two; codes are below 128.
                    let eights: Vec<[u8; 32]> =
                        (0..n / 8).map(|e| bytes.map(|x| x.wrapping_mul(3 + 4 * e as u8) & 127)).collect();
                    let places: Vec<_> = eights.iter().map(|x| x.as_ptr()).collect();
                    let (codes, w) = (<V::Int as Eights>::load(&places, 0), 5);
                    let code = |r: usize, i: usize| eights.as_flattened()[4 * r + i];
                    let mut arranged: [i16; 32] = std::array::from_fn(|i| p[i]);
                    V::arrange_beside(&mut arranged);
                    let sums = V::dot_beside(codes, arranged.as_ptr().cast(), w, [V::zero(); 2]);
                    let sums = V::sum_beside(V::dot_beside(codes, arranged.as_ptr().cast(), w + 1, sums));
                    let numbers = codes.numbers().map(floats);
                    for (r, sum) in ints(sums).into_iter().enumerate() {
                        let dot = |w: usize| {
                            (0..4).map(|i| i32::from(p[4 * w + i]) * i32::from(code(r, i))).sum::<i32>()
                        };
                        assert_eq!(sum, dot(w) + dot(w + 1));
                        for (i, numbers) in numbers.iter().enumerate() {
                            assert_eq!(numbers[r], f32::from(code(r, i)));
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn every_function_does_what_it_says() {
        for &level in &Level::ALL[1..] {
            if level.is_available() {
                dispatch(level, Functions);
            } else {
                println!("skipped {level}: this machine does not have it");
            }
        }
    }
}
