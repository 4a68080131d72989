//! Products `y = act(W x)`: shares their rows out among the threads, and chooses the kernel.

use std::{array::from_fn, borrow::Cow, cell::RefCell, marker::PhantomData};

use crate::{
    format::{
        self, Format, Quant,
        beside::{self, Beside, with_beside},
        with_quant,
    },
    ops::{Act, Product},
};

use super::{
    Acts, Cpu, Matrix, SMALL, Shared,
    across::{Across, Codes, Pack, Packed, Target},
    beside::{Few, Pack as PackBeside, ahead},
    dot::{self, Along, AlongDecoded, AlongFloats, PART},
    gemm::{self, PANEL},
    level::{Kernel, Vector, dispatch},
    lines::Lines,
    math::Fast,
    requantized,
    rounded::{Grain, Integers, Order, Pairs, Quads, Rounded, SHARED, Token, tiles},
    scalar,
    sparse::Masks,
};

/// From how many places at a time weights are read of which rows stand side by side: a core reads two faster than one, or four.
const STREAMS: usize = 2;

/// Rows of the tiles whose lanes lie along the columns.
const ROWS: usize = 4;

/// From so many tokens on it pays to decode blocks once for all of them.
const SEVERAL: usize = 6;

/// From so many tokens on it pays to turn blocks, or floats, so that no sum goes across lanes.
const MANY: usize = 12;
const MANY_FLOATS: usize = 20;

/// From so many zeros of ten inputs on it pays to leave them out of products in floats, and of those in integers.
const ZEROS: usize = 4;
const ZEROS_OF_INTEGERS: usize = 7;

/// Columns that integers of a panel are made of at a time, so that they stay in the second-level cache.
const COLUMNS: usize = 2048;

/// Of how many columns integers are summed up whose scales are multiplied with them: the first that have room for activations
/// which are a quarter of the largest on average, or the last.
const SPANS: [usize; 2] = [256, 64];

/// The largest code whose sum with activations of 8 bits leaves these precise enough.
const SMALL_CODE: i32 = 16;

/// Runs products; panels of all of them are shared out among the threads.
pub(super) fn project(cpu: &Cpu, products: &mut [Product<'_, Cpu>]) {
    let mut inputs: Vec<Input<'_>> = vec![];
    let ways: Vec<usize> = products
        .iter()
        .map(|p| {
            let way = Way::of(cpu, p);
            let grain = grain(cpu, p.w, way);
            let same = |i: &Input<'_>| {
                std::ptr::eq(i.x, p.x) && (i.way, i.columns, i.grain) == (way, p.w.columns, grain)
            };
            inputs.iter().position(same).unwrap_or_else(|| {
                inputs.push(Input::new(cpu, p.x, way, p.w.columns, grain));
                inputs.len() - 1
            })
        })
        .collect();
    let jobs: Vec<_> = products
        .iter_mut()
        .zip(ways)
        .map(|(p, i)| Job { w: p.w, x: &inputs[i], act: p.act, y: p.y.shared() })
        .collect();
    let work: usize = jobs.iter().map(|j| j.w.rows * j.w.columns * j.x.x.tokens()).sum();
    // Threads are not to wait for the last panel: few tokens take less time, and 48 rows are whole tiles of 16-bit integers.
    let half = |x: &Input<'_>| x.x.tokens() < MANY || x.way == Way::Across;
    let height = |job: &Job<'_>| if half(job.x) { PANEL / 2 } else { PANEL };
    let panels: Vec<_> =
        jobs.iter().flat_map(|job| (0..job.w.rows).step_by(height(job)).map(move |at| (job, at))).collect();
    let few = jobs.iter().all(|job| job.x.way.few());
    let tasks = if work < SMALL { 1 } else { panels.len().min(if few { 2 } else { 4 } * cpu.threads()) };
    // Long tasks first, since weights are asked for ahead; short ones last, lest a thread be waited for.
    let start = |task: usize| panels.len() - panels.len() * (tasks - task).pow(2) / tasks.pow(2);
    cpu.pool.run(tasks, |task| {
        // Panels of few tokens become one, since the streams that their rows are read in are then longer.
        let one = |a: &(&Job<'_>, usize), b: &(&Job<'_>, usize)| std::ptr::eq(a.0, b.0) && a.0.x.way.few();
        for panels in panels[start(task)..start(task + 1)].chunk_by(one) {
            let (job, at) = panels[0];
            let rows = (panels.len() * height(job)).min(job.w.rows - at);
            let panel = Panel { job, at, rows };
            SCRATCH.with_borrow_mut(|scratch| dispatch(cpu.level, Run { panel, scratch }));
        }
    });
}

/// Whether most products of so many tokens round their activations, of which they then read each once.
pub(super) fn rounds(cpu: &Cpu, tokens: usize) -> bool {
    tokens >= MANY_FLOATS && cpu.level.pairs()
}

/// How a product is computed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Few tokens, blocks.
    Along,
    /// Few tokens, blocks of rows that stand side by side.
    Beside,
    /// Few tokens, floats.
    AlongFloats,
    /// Several tokens.
    AlongDecoded,
    /// Many tokens, in integers of 16 bits.
    Across,
    /// Many tokens, blocks in bytes.
    AcrossBytes,
    /// Many tokens, in floats.
    Gemm,
}

impl Way {
    fn few(self) -> bool {
        matches!(self, Self::Along | Self::Beside | Self::AlongFloats | Self::AlongDecoded)
    }

    fn rounds(self) -> bool {
        matches!(self, Self::Along | Self::Beside | Self::Across | Self::AcrossBytes)
    }

    fn of(cpu: &Cpu, p: &Product<'_, Cpu>) -> Self {
        let bytes = |format: Format| format.largest_group().is_some_and(|n| n <= cpu.level.bytes());
        match (p.x.tokens(), p.w.format.group()) {
            (0..SEVERAL, Some(_)) if p.w.data.is_beside() => Self::Beside,
            (0..SEVERAL, Some(_)) => Self::Along,
            (0..MANY, Some(_)) if !p.w.data.is_beside() => Self::AlongDecoded,
            (0..MANY_FLOATS, None) => Self::AlongFloats,
            (_, Some(_)) if cpu.fast && bytes(p.w.format) => Self::AcrossBytes,
            (_, None) if !requantized::takes(p.w) => Self::Gemm,
            _ if cpu.level.pairs() => Self::Across,
            _ => Self::Gemm,
        }
    }
}

/// How finely activations are rounded for integers. Of many tokens' products sums go over more columns than a group: where rows stand side
/// by side, codes are multiplied with the whole scales of their groups; where weights are rounded anew, they share fewer scales.
fn grain(cpu: &Cpu, w: &Matrix, way: Way) -> Option<Grain> {
    let (span, largest) = (SHARED, Pairs::LARGEST);
    let pairs = Grain { span, group: span, room: i32::MAX, norm: i32::MAX, largest, folded: false };
    if way == Way::Across && requantized::takes(w) {
        let span = requantized::span(w);
        let grain = Grain { span, group: span, norm: requantized::NORM, ..pairs };
        return Some(grain.folded(cpu.folds, requantized::LARGEST));
    }
    let group = w.format.group()?;
    let code = (w.format.largest_group().expect("it is in blocks") / group) as i32;
    let own = Grain { span: group, group, ..pairs };
    Some(match way {
        Way::Across if w.data.is_beside() => {
            let most = with_beside!(w.format, Q => (Q::WHOLE * Q::LARGEST) as i32,
                _ => unreachable!("{:?} stands by rows", w.format));
            let has_room = |span: &usize| i32::MAX / most / *span as i32 >= Pairs::LARGEST / 4;
            let [.., last] = SPANS;
            let span = SPANS.into_iter().find(has_room).unwrap_or(last);
            Grain { span, room: i32::MAX / most, ..own }.folded(cpu.folds, most)
        }
        Way::Across => own.folded(cpu.folds, code),
        Way::AcrossBytes => {
            // Sums of 16 bits are of products that saturate, which folded ones must not.
            let folded = cpu.folds && code <= SMALL_CODE && cpu.level.bytes() == usize::MAX;
            Grain { largest: Quads::LARGEST, ..own }.folded(folded, code)
        }
        _ => own,
    })
}

/// Activations of a product, and what its way makes of them.
struct Input<'a> {
    x: &'a Acts,
    /// The same for those ways that take floats.
    floats: Cow<'a, Acts>,
    way: Way,
    columns: usize,
    /// Of integers.
    grain: Option<Grain>,
    made: Made,
}

enum Made {
    Pairs(Rounded<Pairs>),
    Quads(Rounded<Quads>),
    /// Floats, of which many are zero.
    Masks(Masks),
    Nothing,
}

impl<'a> Input<'a> {
    fn new(cpu: &Cpu, x: &'a Acts, way: Way, columns: usize, grain: Option<Grain>) -> Self {
        let zeros = match way {
            // Mixed rows have hardly any.
            _ if x.is_mixed() => None,
            Way::Gemm => Some(ZEROS),
            Way::Across | Way::AcrossBytes => Some(ZEROS_OF_INTEGERS),
            _ => None,
        };
        let floats = if way.rounds() { Cow::Borrowed(x) } else { x.made(cpu) };
        let made = match (way, grain) {
            (Way::Along, Some(grain)) => Made::Pairs(Rounded::new(cpu, x, columns, Order::Along, grain)),
            (Way::Beside, Some(grain)) => Made::Pairs(Rounded::new(cpu, x, columns, Order::Beside, grain)),
            _ => match (zeros.and_then(|zeros| Masks::new(cpu, x, columns, zeros)), way, grain) {
                (Some(masks), _, _) => Made::Masks(masks),
                (_, Way::Across, Some(grain)) => {
                    Made::Pairs(Rounded::new(cpu, x, columns, Order::Tiles, grain))
                }
                (_, Way::AcrossBytes, Some(grain)) => {
                    Made::Quads(Rounded::new(cpu, x, columns, Order::Tiles, grain))
                }
                _ => Made::Nothing,
            },
        };
        Self { x, floats, way, columns, grain, made }
    }
}

struct Job<'a> {
    w: &'a Matrix,
    x: &'a Input<'a>,
    act: Act,
    y: Shared<f32>,
}

/// Rows `at..at + rows` of a product.
struct Panel<'a> {
    job: &'a Job<'a>,
    at: usize,
    rows: usize,
}

/// What a thread computes in.
#[derive(Default)]
struct Scratch {
    eights: [Lines<u8>; STREAMS],
    codes: Codes,
    requantized: requantized::Scratch,
    packed: Packed,
    sums: Lines<f32>,    // of a panel, tiles of [tokens, registers]
    decoded: Lines<f32>, // [ROWS, PART]
    gemm: gemm::Scratch,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

struct Run<'a> {
    panel: Panel<'a>,
    scratch: &'a mut Scratch,
}

impl Kernel for Run<'_> {
    type Output = ();
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let Self { panel, scratch } = self;
        let (job, format) = (panel.job, panel.job.w.format);
        // SAFETY: this runs inside `dispatch`, and this task alone has these rows.
        unsafe {
            match &job.x.made {
                Made::Pairs(x) if job.x.way == Way::Across => panel.across::<V, _>(x, scratch),
                Made::Quads(x) => panel.across::<V, _>(x, scratch),
                Made::Pairs(x) if job.x.way == Way::Beside => {
                    with_beside!(format, Q => panel.beside::<V, Q>(x, &mut scratch.eights),
                    _ => unreachable!("{format:?} stands by rows"))
                }
                Made::Pairs(x) => with_quant!(format, Q => panel.along::<V, Q>(x),
                    _ => unreachable!("{format:?} is not in blocks")),
                Made::Masks(masks) => panel.gemm::<V>(Some(masks), &mut scratch.gemm),
                Made::Nothing if job.x.way == Way::Gemm => panel.gemm::<V>(None, &mut scratch.gemm),
                Made::Nothing if job.x.way == Way::AlongDecoded => {
                    panel.along_decoded::<V>(&mut scratch.decoded);
                }
                Made::Nothing => panel.along_floats::<V>(),
            }
        }
    }
}

impl Panel<'_> {
    #[inline(always)]
    unsafe fn gemm<V: Vector>(&self, masks: Option<&Masks>, scratch: &mut gemm::Scratch) {
        let &Job { w, x: Input { floats: x, .. }, act, y } = self.job;
        // SAFETY: the caller's promise is handed on.
        unsafe { V::call(gemm::Panel { w, at: self.at, rows: self.rows, x, masks, act, y, scratch }) };
    }

    #[inline(always)]
    unsafe fn across<V: Vector, I: Integers>(&self, x: &Rounded<I>, scratch: &mut Scratch) {
        let (w, tokens) = (self.job.w, self.job.x.x.tokens());
        // Integers that weights are rounded to have none.
        let anew = I::PER == 2 && requantized::takes(w);
        let offsets = !anew && with_quant!(w.format, Q => Q::OFFSETS, _ => false);
        let (all, (together, most)) = (w.eights(), I::tile(V::LANES));
        let registers = together * self.rows.div_ceil(together * V::LANES);
        let (Scratch { eights, codes, requantized, packed, sums, .. }, integers) =
            (scratch, PhantomData::<I>);
        sums.resize(tokens * registers * V::LANES);
        for first in (0..w.columns).step_by(COLUMNS) {
            let columns = first..w.columns.min(first + COLUMNS);
            packed.resize::<I>(registers * V::LANES, columns.len(), x.grain);
            for register in 0..registers {
                let at = register * V::LANES;
                // SAFETY: the caller's promise is handed on, here and below.
                unsafe {
                    // The last registers of a panel may have no rows of their own.
                    if w.data.is_beside() {
                        let at = [at, at + beside::ROWS].map(|at| self.at + at.min(self.rows - beside::ROWS));
                        with_beside!(w.format, Q => {
                            let eights = all.parts::<V, 2>(at, V::LANES, (first, columns.len()), eights);
                            let eights = eights.map(beside::cast::<Q>);
                            let next = V::LANES * w.row_bytes();
                            if anew {
                                let scratch = &mut *requantized;
                                V::call(requantized::PackBeside { eights, next, packed, register, scratch });
                            } else {
                                V::call(PackBeside { eights, next, packed, register, integers });
                            }
                        }, _ => unreachable!("{:?} stands by rows", w.format));
                    } else {
                        let rows = (self.at + at).min(self.at + self.rows)..self.at + self.rows;
                        let columns = columns.clone();
                        if anew {
                            let scratch = &mut *requantized;
                            V::call(requantized::Pack { w, rows, columns, packed, register, scratch });
                        } else {
                            codes.read::<V>(w, rows, columns);
                            V::call(Pack { w: codes, packed, register, integers });
                        }
                    }
                }
            }
            let w = &*packed;
            macro_rules! across {
                ($registers:literal, $span:expr, $folded:literal) => {{
                    tiles!([6, 4, 3, 2] of most, 0..tokens, |t, N| {
                        for register in (0..registers).step_by($registers) {
                            let target = self.target(register * V::LANES, $registers * V::LANES);
                            let sums = &mut sums[(t * registers + N * register) * V::LANES..]
                                [..N * $registers * V::LANES];
                            let columns = columns.clone();
                            // SAFETY: this task alone has these rows.
                            unsafe {
                                V::call(Across::<I, N, $registers, $span, $folded> {
                                    w,
                                    x,
                                    register,
                                    t,
                                    offsets,
                                    columns,
                                    sums,
                                    target,
                                });
                            }
                        }
                    });
                }};
            }
            macro_rules! spans {
                ($registers:literal, $folded:literal) => {
                    match x.grain.span {
                        1024 => across!($registers, 1024, $folded),
                        512 => across!($registers, 512, $folded),
                        256 => across!($registers, 256, $folded),
                        128 => across!($registers, 128, $folded),
                        64 => across!($registers, 64, $folded),
                        16 => across!($registers, 16, false),
                        _ => across!($registers, 32, $folded),
                    }
                };
            }
            match (together, x.grain.folded) {
                (3, true) => spans!(3, true),
                (3, false) => spans!(3, false),
                (_, true) => spans!(2, true),
                (_, false) if x.grain.span == 16 => across!(2, 16, false),
                (_, false) => across!(2, 32, false),
            }
        }
    }

    /// The registers of a tile of rows from `first` of this panel on.
    fn target(&self, first: usize, rows: usize) -> Target {
        let rows = rows.min(self.rows - first);
        Target { y: self.job.y, at: self.at + first, rows, act: self.job.act }
    }

    /// How many rows lie between those of a tile: one is of each quarter, since a core reads several streams faster than one.
    fn quarter(&self) -> usize {
        self.rows.div_ceil(ROWS)
    }

    /// Its rows in tiles, the first of each and all of them; the last row is repeated at the end.
    #[inline(always)]
    fn tiles(&self) -> impl Iterator<Item = (usize, [&[u8]; ROWS])> {
        let (n, last, quarter) = (self.job.w.row_bytes(), self.at + self.rows - 1, self.quarter());
        let bytes = &self.job.w.data[..];
        (self.at..self.at + quarter).map(move |at| {
            let mut rows: [&[u8]; ROWS] = [&[]; ROWS];
            for (i, row) in rows.iter_mut().enumerate() {
                *row = &bytes[(at + i * quarter).min(last) * n..][..n];
            }
            (at, rows)
        })
    }

    #[inline(always)]
    unsafe fn along<V: Vector, Q: Quant>(&self, x: &Rounded<Pairs>) {
        let (columns, tokens) = (self.job.w.columns, self.job.x.x.tokens());
        let first = columns - columns % Q::Span::LEN;
        let (mut starts, mut ends) = ([Token::default(); SEVERAL], [Token::default(); SEVERAL]);
        for t in 0..tokens {
            (starts[t], ends[t]) = (x.token(t, 0), x.token(t, first));
        }
        for (at, rows) in self.tiles() {
            let (mut spans, mut rest): ([&[Q::Span]; ROWS], [&[Q]; ROWS]) = ([&[]; ROWS], [&[]; ROWS]);
            for (i, row) in rows.iter().enumerate() {
                (spans[i], rest[i]) = (format::cast(row), &format::cast(row)[first / Q::LEN..]);
            }
            // SAFETY: the caller's promise is handed on.
            unsafe {
                tiles!([2] of 2, 0..tokens, |t, N| {
                    let x = *starts[t..].first_chunk().expect("tokens of a tile");
                    let mut sums = V::call(Along::<_, ROWS, N> { rows: spans, x });
                    if first < columns {
                        let x = *ends[t..].first_chunk().expect("tokens of a tile");
                        let rest = V::call(Along::<_, ROWS, N> { rows: rest, x });
                        sums.as_flattened_mut().iter_mut().zip(rest.as_flattened()).for_each(|(y, x)| *y += x);
                    }
                    self.write(at, t, sums);
                });
            }
        }
    }

    #[inline(always)]
    unsafe fn beside<V: Vector, Q: Beside>(&self, x: &Rounded<Pairs>, turned: &mut [Lines<u8>; STREAMS]) {
        let (w, tokens) = (self.job.w, self.job.x.x.tokens());
        let mut all = [Token::default(); SEVERAL];
        (0..tokens).for_each(|t| all[t] = x.token(t, 0));
        let (end, apart) = (self.at + self.rows, self.rows.div_ceil(STREAMS * beside::ROWS) * beside::ROWS);
        let (ahead, rows) = (ahead(apart * w.row_bytes()), w.eights());
        for at in (self.at..self.at + apart).step_by(beside::ROWS) {
            // The last eight are repeated at the end.
            let first = from_fn(|i| (at + i * apart).min(end - beside::ROWS));
            // SAFETY: the caller's promise is handed on.
            let eights = unsafe { rows.parts::<V, STREAMS>(first, beside::ROWS, (0, w.columns), turned) };
            let eights = eights.map(beside::cast::<Q>);
            // SAFETY: the caller's promise is handed on.
            unsafe {
                tiles!([2] of 2, 0..tokens, |t, N| {
                    let x = *all[t..].first_chunk().expect("tokens of a tile");
                    let sums = V::call(Few::<_, STREAMS, N> { eights, x, ahead });
                    for (i, sums) in sums.iter().enumerate() {
                        for (row, sums) in (at..end).step_by(apart).zip(sums) {
                            let y = self.job.y.part(t + i, row, beside::ROWS);
                            scalar::write::<Fast>(self.job.act, sums, y);
                        }
                    }
                });
            }
        }
    }

    #[inline(always)]
    unsafe fn along_floats<V: Vector>(&self) {
        let Matrix { format, columns, .. } = *self.job.w;
        let x = &*self.job.x.floats;
        for (at, rows) in self.tiles() {
            // SAFETY: the caller's promise is handed on.
            unsafe {
                tiles!([2] of 2, 0..x.tokens(), |t, N| {
                    self.write(at, t, V::call(AlongFloats::<ROWS, N> { format, rows, x, columns, t }));
                });
            }
        }
    }

    #[inline(always)]
    unsafe fn along_decoded<V: Vector>(&self, decoded: &mut Lines<f32>) {
        let (w, x) = (self.job.w, &*self.job.x.floats);
        decoded.resize(ROWS * PART);
        let (quarter, last) = (self.quarter(), self.at + self.rows - 1);
        for at in self.at..self.at + quarter {
            let mut sums = [[[0.0; 16]; ROWS]; MANY];
            for k in (0..w.columns).step_by(PART) {
                let n = PART.min(w.columns - k);
                // SAFETY: the caller's promise is handed on, here and below.
                unsafe {
                    for (i, y) in decoded.chunks_exact_mut(PART).enumerate() {
                        let bytes = w.part((at + i * quarter).min(last), k, n);
                        dot::prefetch::<V>(bytes.as_ptr().wrapping_add(dot::AHEAD), bytes.len());
                        gemm::decode::<V>(w.format, bytes, &mut y[..n]);
                    }
                    let w: [&[f32]; ROWS] = from_fn(|i| &decoded[i * PART..][..n]);
                    let mut t = 0;
                    while t < x.tokens() {
                        let row = |i: usize| &x.row(t + i)[k..][..n];
                        let sums = &mut sums[t..];
                        // Tiles of three, and of two rather than of one.
                        t += match x.tokens() - t {
                            2 | 4 => {
                                V::call(AlongDecoded { w, x: [row(0), row(1)], sums });
                                2
                            }
                            1 => {
                                V::call(AlongDecoded { w, x: [row(0)], sums });
                                1
                            }
                            _ => {
                                V::call(AlongDecoded { w, x: [row(0), row(1), row(2)], sums });
                                3
                            }
                        };
                    }
                }
            }
            for (t, sums) in sums.iter().enumerate().take(x.tokens()) {
                let mut row = [0.0; ROWS];
                for (y, sum) in row.iter_mut().zip(sums) {
                    // SAFETY: a sum has room for any register.
                    *y = unsafe { V::sum(V::load(sum.as_ptr())) };
                }
                // SAFETY: as above.
                unsafe { self.write(at, t, [row]) };
            }
        }
    }

    /// Puts sums of the tile of row `at` and tokens from `t` through the activation.
    #[inline(always)]
    unsafe fn write<const T: usize>(&self, at: usize, t: usize, sums: [[f32; ROWS]; T]) {
        for (i, sums) in sums.iter().enumerate() {
            let rows = (at..self.at + self.rows).step_by(self.quarter());
            // SAFETY: this task alone has these rows.
            let y = rows.map(|row| unsafe { &mut self.job.y.part(t + i, row, 1)[0] });
            scalar::write::<Fast>(self.job.act, sums, y);
        }
    }
}
