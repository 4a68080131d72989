//! Products `y = act(W x)`: panels of rows are decoded to f32 once for all tokens, then multiplied in tiles
//! of registers.

use crate::{
    format::{self, Format, Quant, with_quant},
    ops::{Act, Product},
};

use super::{
    Acts, Cpu, Matrix, SMALL, Shared,
    level::{Kernel, Vector, dispatch},
    scalar,
};

/// Rows that are decoded together when many tokens use them: they stay in the second-level cache.
const PANEL: usize = 32;

/// Runs products; panels of all of them are shared out among the threads.
pub(super) fn project(cpu: &Cpu, products: &mut [Product<'_, Cpu>]) {
    let jobs: Vec<_> =
        products.iter_mut().map(|p| Job { w: p.w, x: p.x, act: p.act, y: p.y.shared() }).collect();
    let work: usize = jobs.iter().map(|j| j.w.rows * j.w.columns * j.x.tokens()).sum();
    let panels: Vec<_> =
        jobs.iter().flat_map(|job| (0..job.w.rows).step_by(PANEL).map(move |at| (job, at))).collect();
    let tasks = if work < SMALL { 1 } else { panels.len().min(16 * cpu.threads()) };
    cpu.pool.run(tasks, |task| {
        for &(job, at) in &panels[panels.len() * task / tasks..panels.len() * (task + 1) / tasks] {
            dispatch(cpu.level, Panel { job, at, rows: PANEL.min(job.w.rows - at) });
        }
    });
}

struct Job<'a> {
    w: &'a Matrix,
    x: &'a Acts,
    act: Act,
    y: Shared,
}

/// Rows `at..at + rows` of a product.
struct Panel<'a> {
    job: &'a Job<'a>,
    at: usize,
    rows: usize,
}

impl Kernel for Panel<'_> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let (w, tokens) = (self.job.w, self.job.x.tokens());
        let (rows, tile) = if tokens == 1 { (V::TILE.0, 1) } else { (PANEL, V::TILE.1) };
        let mut panel = vec![0.0; rows * w.columns];
        for at in (self.at..self.at + self.rows).step_by(rows) {
            let rows = rows.min(self.at + self.rows - at);
            for i in 0..rows {
                let n = w.row_bytes();
                let bytes = &w.data[(at + i) * n..(at + i + 1) * n];
                // SAFETY: this runs inside `dispatch`.
                unsafe { decode::<V>(w.format, bytes, &mut panel[i * w.columns..][..w.columns]) };
            }
            for t in (0..tokens).step_by(tile) {
                for r in (0..rows).step_by(V::TILE.0) {
                    let rows = V::TILE.0.min(rows - r);
                    let tokens = tile.min(tokens - t);
                    // SAFETY: this panel alone writes these rows.
                    unsafe { self.job.tile::<V>(&panel[r * w.columns..], at + r, rows, t, tokens) };
                }
            }
        }
    }
}

impl Job<'_> {
    /// `rows` decoded rows times `tokens` tokens.
    #[inline(always)]
    unsafe fn tile<V: Vector>(&self, panel: &[f32], row: usize, rows: usize, t: usize, tokens: usize) {
        // SAFETY: the caller's promise is handed on.
        unsafe {
            match (rows, tokens) {
                (4, 6) => self.dots::<V, 4, 6>(panel, row, t),
                (3, 4) => self.dots::<V, 3, 4>(panel, row, t),
                (4, 1) => self.dots::<V, 4, 1>(panel, row, t),
                (3, 1) => self.dots::<V, 3, 1>(panel, row, t),
                _ => {
                    let columns = self.w.columns;
                    for i in 0..rows {
                        for t in t..t + tokens {
                            self.dots::<V, 1, 1>(&panel[i * columns..], row + i, t);
                        }
                    }
                }
            }
        }
    }

    /// `R` rows times `T` tokens in registers.
    #[inline(always)]
    unsafe fn dots<V: Vector, const R: usize, const T: usize>(&self, panel: &[f32], row: usize, t: usize) {
        let n = self.w.columns;
        let w: [&[f32]; R] = std::array::from_fn(|r| &panel[r * n..(r + 1) * n]);
        let x: [&[f32]; T] = std::array::from_fn(|i| &self.x.row(t + i)[..n]);
        let mut sums = [[0.0; T]; R];
        let whole = n - n % V::LANES;
        // SAFETY: the slices have n values each.
        unsafe {
            let mut acc = [[V::splat(0.0); T]; R];
            let mut k = 0;
            while k < whole {
                let w: [V; R] = std::array::from_fn(|r| V::load(w[r].as_ptr().add(k)));
                for i in 0..T {
                    let x = V::load(x[i].as_ptr().add(k));
                    for r in 0..R {
                        acc[r][i] = acc[r][i].fma(w[r], x);
                    }
                }
                k += V::LANES;
            }
            for r in 0..R {
                for i in 0..T {
                    sums[r][i] = acc[r][i].sum();
                }
            }
        }
        for r in 0..R {
            for i in 0..T {
                let rest: f32 = (whole..n).map(|k| w[r][k] * x[i][k]).sum();
                // SAFETY: this panel alone writes this row.
                let y = unsafe { self.y.part(t + i, row + r, 1) };
                scalar::write(self.act, sums[r][i] + rest, &mut y[0]);
            }
        }
    }
}

/// [`format::decode`] in registers.
#[inline(always)]
unsafe fn decode<V: Vector>(format: Format, bytes: &[u8], out: &mut [f32]) {
    // SAFETY: the caller's promise is handed on.
    unsafe {
        with_quant!(format, Q => decode_blocks::<V, Q>(bytes, out), _ => format::decode_plain(format, bytes, out))
    }
}

#[inline(always)]
unsafe fn decode_blocks<V: Vector, Q: Quant>(bytes: &[u8], out: &mut [f32]) {
    let (mut codes, mut scale, mut offset) = ([0; 256], [0.0; 16], [0.0; 16]);
    for (block, out) in format::cast::<Q>(bytes).iter().zip(out.chunks_exact_mut(Q::LEN)) {
        block.unpack(&mut codes, &mut scale, &mut offset);
        for at in (0..Q::LEN).step_by(V::LANES) {
            let group = at / Q::GROUP;
            // SAFETY: a block has LEN codes and values, and LANES divides GROUP, which divides LEN.
            unsafe {
                let code = V::load_i8(codes.as_ptr().add(at));
                V::splat(offset[group]).fma(code, V::splat(scale[group])).store(out.as_mut_ptr().add(at));
            }
        }
    }
}
