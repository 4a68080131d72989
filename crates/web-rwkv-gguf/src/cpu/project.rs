//! Products `y = act(W x)`: shares their rows out among the threads, and chooses the kernel.

use std::{array::from_fn, cell::RefCell};

use crate::ops::{Act, Product};

use super::{
    Acts, Cpu, Matrix, SMALL, Shared,
    dot::{
        Across, AcrossFloats, Acts16, Along, Codes, Decode, Floats, Pack, Packed, Target, Turn, Turned, tile,
    },
    level::{Kernel, Vector, dispatch},
    math::Fast,
    scalar,
};

/// Rows of a task: decoded and used by all tokens, they stay in the second-level cache.
const PANEL: usize = 64;

/// Rows of the tiles whose lanes lie along the columns.
const ROWS: usize = 4;

/// From so many tokens on it pays to turn codes so that lanes lie along the rows.
const MANY: usize = 12;

/// Runs products; panels of all of them are shared out among the threads.
pub(super) fn project(cpu: &Cpu, products: &mut [Product<'_, Cpu>]) {
    let mut quantized: Vec<(&Acts, usize, Acts16)> = vec![];
    for p in &*products {
        let (x, columns) = (p.x, p.w.columns);
        let known = quantized.iter().any(|(y, n, _)| std::ptr::eq(*y, x) && *n == columns);
        if p.w.format.group().is_some() && !known {
            let most = if x.tokens() < MANY { 1 } else { cpu.level.tokens() };
            quantized.push((x, columns, Acts16::new(cpu, x, columns, most)));
        }
    }
    let jobs: Vec<_> = products
        .iter_mut()
        .map(|p| {
            let same = |(x, n, _): &&(&Acts, usize, Acts16)| std::ptr::eq(*x, p.x) && *n == p.w.columns;
            let x16 = p.w.format.group().and_then(|_| quantized.iter().find(same)).map(|(_, _, x)| x);
            Job { w: p.w, x: p.x, x16, act: p.act, y: p.y.shared() }
        })
        .collect();
    let work: usize = jobs.iter().map(|j| j.w.rows * j.w.columns * j.x.tokens()).sum();
    let panels: Vec<_> =
        jobs.iter().flat_map(|job| (0..job.w.rows).step_by(PANEL).map(move |at| (job, at))).collect();
    let tasks = if work < SMALL { 1 } else { panels.len().min(16 * cpu.threads()) };
    cpu.pool.run(tasks, |task| {
        for &(job, at) in &panels[panels.len() * task / tasks..panels.len() * (task + 1) / tasks] {
            let panel = Panel { job, at, rows: PANEL.min(job.w.rows - at) };
            SCRATCH.with_borrow_mut(|scratch| dispatch(cpu.level, Run { panel, scratch }));
        }
    });
}

struct Job<'a> {
    w: &'a Matrix,
    x: &'a Acts,
    /// The activations for quantized weights.
    x16: Option<&'a Acts16>,
    act: Act,
    y: Shared<f32>,
}

/// Rows `at..at + rows` of a product.
struct Panel<'a> {
    job: &'a Job<'a>,
    at: usize,
    rows: usize,
}

/// What a thread decodes weights into.
#[derive(Default)]
struct Scratch {
    codes: Codes,
    packed: Packed,
    rows: Vec<f32>,
    turned: Turned,
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
        let many = panel.job.x.tokens() >= MANY;
        // SAFETY: this runs inside `dispatch`.
        unsafe {
            match (panel.job.x16, panel.job.w.format.group()) {
                (Some(x), Some(group)) if many => panel.many::<V>(x, group, scratch),
                (Some(x), Some(group)) => panel.few::<V>(x, group, &mut scratch.codes),
                _ if many => panel.many_floats::<V>(scratch),
                _ => panel.few_floats::<V>(&mut scratch.rows),
            }
        }
    }
}

/// Runs `$kernel` for each tile of `$n` tokens from `$t`, at most `$most`.
macro_rules! tiles {
    ($most:expr, $tokens:expr, |$t:ident, $n:ident| $kernel:expr) => {
        let mut $t = 0;
        while $t < $tokens {
            $t += match tile($tokens - $t, $most) {
                6 => {
                    const $n: usize = 6;
                    $kernel;
                    $n
                }
                4 => {
                    const $n: usize = 4;
                    $kernel;
                    $n
                }
                2 => {
                    const $n: usize = 2;
                    $kernel;
                    $n
                }
                _ => {
                    const $n: usize = 1;
                    $kernel;
                    $n
                }
            };
        }
    };
}

impl Panel<'_> {
    /// The bytes of `rows` rows from `at`, which may be fewer at the end of the panel.
    fn bytes(&self, at: usize, rows: usize) -> &[u8] {
        let (w, end) = (self.job.w, self.at + self.rows);
        let n = w.row_bytes();
        &w.data[at.min(end) * n..(at + rows).min(end) * n]
    }

    #[inline(always)]
    unsafe fn many<V: Vector>(&self, x: &Acts16, group: usize, scratch: &mut Scratch) {
        let (columns, step) = (self.job.w.columns, 2 * V::LANES);
        let registers = 2 * self.rows.div_ceil(step);
        let Scratch { codes, packed, .. } = scratch;
        codes.resize(V::LANES, columns, group);
        packed.resize(registers * V::LANES, columns, group);
        // SAFETY: the caller's promise is handed on, and this task alone has these rows.
        unsafe {
            for register in 0..registers {
                codes.read::<V>(self.job.w.format, self.bytes(self.at + register * V::LANES, V::LANES));
                V::call(Pack { w: codes, packed, register });
            }
            for register in (0..registers).step_by(2) {
                let (w, target) = (&*packed, self.target::<V>(register * V::LANES));
                tiles!(V::TOKENS, self.job.x.tokens(), |t, N| match group {
                    16 => V::call(Across::<N, 16> { w, x, register, t, target }),
                    _ => V::call(Across::<N, 32> { w, x, register, t, target }),
                });
            }
        }
    }

    /// Two registers of rows from `first` of this panel on.
    fn target<V: Vector>(&self, first: usize) -> Target {
        let rows = (2 * V::LANES).min(self.rows - first);
        Target { y: self.job.y, at: self.at + first, rows, act: self.job.act }
    }

    /// The bytes of the rows after those of `bytes(at, ROWS)`, or of the next panel's first.
    fn next(&self, at: usize) -> &[u8] {
        let (w, n) = (self.job.w, self.job.w.row_bytes());
        &w.data[(at + ROWS).min(w.rows) * n..(at + 2 * ROWS).min(w.rows) * n]
    }

    #[inline(always)]
    unsafe fn few<V: Vector>(&self, x: &Acts16, group: usize, codes: &mut Codes) {
        codes.resize(ROWS, self.job.w.columns, group);
        for at in (self.at..self.at + self.rows).step_by(ROWS) {
            // SAFETY: the caller's promise is handed on.
            unsafe {
                codes.read::<V>(self.job.w.format, self.bytes(at, ROWS));
                let w = &*codes;
                tiles!(V::TOKENS.min(4), self.job.x.tokens(), |t, N| {
                    let next = if t == 0 { self.next(at) } else { &[] };
                    match group {
                        16 => self.write(at, t, V::call(Along::<ROWS, N, 16> { w, x, t, next })),
                        _ => self.write(at, t, V::call(Along::<ROWS, N, 32> { w, x, t, next })),
                    }
                });
            }
        }
    }

    #[inline(always)]
    unsafe fn many_floats<V: Vector>(&self, scratch: &mut Scratch) {
        let Matrix { format, columns, .. } = *self.job.w;
        let step = 2 * V::LANES;
        let Scratch { rows, turned, .. } = scratch;
        rows.resize(step * columns, 0.0);
        turned.resize(columns);
        for first in (0..self.rows).step_by(step) {
            let target = self.target::<V>(first);
            let bytes = self.bytes(self.at + first, step);
            // SAFETY: the caller's promise is handed on, and this task alone has these rows.
            unsafe {
                V::call(Decode { format, bytes, y: &mut rows[..target.rows * columns] });
                V::call(Turn { w: &rows[..target.rows * columns], turned });
                let (w, x) = (&*turned, self.job.x);
                tiles!(V::TOKENS, x.tokens(), |t, N| V::call(AcrossFloats::<N> { w, x, t, target }));
            }
        }
    }

    #[inline(always)]
    unsafe fn few_floats<V: Vector>(&self, rows: &mut Vec<f32>) {
        let Matrix { format, columns, .. } = *self.job.w;
        rows.resize(ROWS * columns, 0.0);
        for at in (self.at..self.at + self.rows).step_by(ROWS) {
            let bytes = self.bytes(at, ROWS);
            let count = bytes.len() / self.job.w.row_bytes();
            // SAFETY: the caller's promise is handed on.
            unsafe {
                V::call(Decode { format, bytes, y: &mut rows[..count * columns] });
                tiles!(V::TOKENS, self.job.x.tokens(), |t, N| {
                    let w = from_fn(|i| &rows[i * columns..][..columns]);
                    let x = from_fn(|i| &self.job.x.row(t + i)[..columns]);
                    let next = if t == 0 { self.next(at) } else { &[] };
                    self.write(at, t, V::call(Floats::<ROWS, N> { w, x, next }));
                });
            }
        }
    }

    /// Puts sums of rows from `row` and tokens from `t` through the activation.
    #[inline(always)]
    unsafe fn write<const R: usize, const T: usize>(&self, row: usize, t: usize, sums: [[f32; R]; T]) {
        let rows = R.min(self.at + self.rows - row);
        for (i, sums) in sums.iter().enumerate() {
            // SAFETY: this task alone has these rows.
            let y = unsafe { self.job.y.part(t + i, row, rows) };
            scalar::write::<Fast>(self.job.act, &sums[..rows], y);
        }
    }
}
