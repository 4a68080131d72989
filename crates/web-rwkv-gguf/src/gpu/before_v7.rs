//! The operations of RWKV-4, 5 and 6.

use crate::ops::{Act, Ddlerp, Rkv, Wkv4, Wkv6};

use super::{Acts, Batch, Gpu, Job, LERP, kernel::Kernel};

impl Gpu {
    /// Products, each of which moves h towards the token before.
    pub(super) fn lerps(
        &self,
        b: &mut Batch<'_>,
        p: &Ddlerp<Self>,
        h: &Acts,
        before: &Acts,
        low: &[Acts; 5],
        y: &[Acts],
    ) {
        let each = p.w2.iter().zip(&p.mix).zip(low).zip(y);
        let (other, before) = (Some(h), Some(before));
        let jobs = each.map(|(((w, mix), x), y)| Job {
            act: LERP,
            bias: Some(mix),
            other,
            before,
            ..Job::new(w, x, y, Act::Id)
        });
        self.products(b, &jobs.collect::<Vec<_>>());
    }

    pub(super) fn record_wkv6(
        &self,
        b: &mut Batch<'_>,
        layer: usize,
        p: &Wkv6<Self>,
        head_size: usize,
        t: &Rkv<'_, Self>,
        y: &Acts,
    ) {
        let kernel = Kernel::Wkv6 { head_size, decay: t.w.is_some(), gate: t.g.is_some() };
        let (bound, [state, slot]) = Self::state_at(b, layer, 1);
        let mut params = vec![0, state, slot];
        params.push(t.r.padded as u32);
        params.extend([t.r, t.k, t.v].map(|acts| self.place(b, acts)));
        params.extend([t.w, t.g].map(|acts| acts.map_or(0, |acts| self.place(b, acts))));
        params.extend([p.w0.0, p.u.0, p.ln_x.weight.0, p.ln_x.bias.0, p.ln_x.eps.to_bits()]);
        params.extend([self.place(b, y), y.pitch()]);
        let groups = (t.r.width / head_size, b.sequences);
        self.dispatch(b, bound, &kernel, &params, groups);
    }

    pub(super) fn record_wkv4(
        &self,
        b: &mut Batch<'_>,
        layer: usize,
        p: &Wkv4<Self>,
        rkv: [&Acts; 3],
        y: &Acts,
    ) {
        let width = rkv[0].width;
        let (bound, [state, slot]) = Self::state_at(b, layer, 1);
        let mut params = vec![0, state, slot];
        params.push(width as u32);
        params.extend(rkv.map(|acts| self.place(b, acts)));
        params.extend([p.u.0, p.w.0, self.place(b, y), y.pitch()]);
        let groups = (width.div_ceil(Kernel::WKV4_THREADS), b.sequences);
        self.dispatch(b, bound, &Kernel::Wkv4, &params, groups);
    }
}
