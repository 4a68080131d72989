//! A model on an executor: its weights, and the forward pass over them.

use std::sync::Mutex;

use crate::{
    Result,
    batch::{Chunk, RnnOutput, Token},
    format::Format,
    load::Checkpoint,
    ops::{Act, Chunked, Kind, Norm, Ops, Product},
    state::State,
};

use super::{
    Sizes,
    layers::{self, Layers},
    source::Source,
};

/// The weights of a model on an executor.
pub(crate) struct Net<O: Ops> {
    pub(crate) ops: O,
    emb: O::Matrix, // [V, C]
    ln0: Norm<O>,
    layers: Layers<O>,
    ln_out: Norm<O>,
    head: O::Matrix, // [V, C]
    pub(crate) sizes: Sizes,
    /// Format, bytes and number of weights of each matrix that decoding a token reads.
    pub(crate) matrices: Vec<(Format, usize, usize)>,
    scratch: Mutex<Vec<Scratch<O>>>,
}

/// The activations of a forward pass.
struct Scratch<O: Ops> {
    layer: layers::Scratch<O>,
    hidden: O::Acts,   // [rows, C] after ln_out, what is wanted
    selected: O::Acts, // [rows, C] after ln_out, before the head
    logits: O::Acts,   // [rows, V]
}

impl<O: Ops> Scratch<O> {
    /// What is wanted of a chunk.
    fn wanted(&self, chunk: &Chunk) -> Vec<&O::Acts> {
        let logits = !chunk.logits.is_empty() && chunk.choices.is_empty();
        let both = [(!chunk.hidden.is_empty(), &self.hidden), (logits, &self.logits)];
        both.into_iter().filter(|(wanted, _)| *wanted).map(|(_, acts)| acts).collect()
    }
}

impl<O: Ops> Net<O> {
    /// Checks every tensor of the checkpoint and takes it.
    pub(crate) fn new(ops: O, checkpoint: &Checkpoint) -> Result<Self> {
        let source = Source::new(checkpoint, &ops)?;
        let layers = Layers::load(&source)?;
        let (vocab, channels) = (source.vocab, source.channels);
        let head = source.matrix("head.weight", vocab, channels)?;
        let matrices = source.matrices.take();
        let emb = source.matrix("emb.weight", vocab, channels)?; // of which a token reads one row
        let (ln0, ln_out) = (source.norm("blocks.0.ln0", source.eps)?, source.norm("ln_out", source.eps)?);
        let sizes = Sizes {
            version: source.version,
            layers: source.layers,
            channels,
            hidden: source.hidden,
            vocab,
            head_size: source.head_size,
        };
        let scratch = Mutex::default();
        Ok(Self { emb, ln0, layers, ln_out, head, sizes, matrices, scratch, ops })
    }

    fn scratch(&self) -> Scratch<O> {
        let Sizes { channels, vocab, .. } = self.sizes;
        let o = &self.ops;
        Scratch {
            layer: self.layers.scratch(o, &self.sizes),
            hidden: o.acts(channels, Kind::Stream),
            selected: o.acts(channels, Kind::Input),
            logits: o.acts(vocab, Kind::Output),
        }
    }

    /// One chunk through all layers; appends what is wanted of it to `output`.
    pub(crate) fn forward(&self, chunk: &Chunk, states: &mut [State], output: &mut RnnOutput) -> Result<()> {
        let values = self.run(chunk, states, |b, scratch| self.ops.end(b, &scratch.wanted(chunk)))?;
        let wanted = [(&chunk.hidden, self.sizes.channels), (&chunk.logits, self.sizes.vocab)];
        let wanted = wanted.iter().filter(|(rows, _)| !rows.is_empty());
        for ((rows, width), values) in wanted.zip(values) {
            for ((_, slot), row) in rows.iter().zip(values.chunks_exact(*width)) {
                output.0[*slot].extend(row);
            }
        }
        Ok(())
    }

    /// One chunk through all layers; the token that is chosen by each row of its logits.
    pub(crate) fn choose(&self, chunk: &Chunk, states: &mut [State]) -> Result<Vec<Token>> {
        self.run(chunk, states, |b, _| self.ops.end_chosen(b))
    }

    fn run<T>(
        &self,
        chunk: &Chunk,
        states: &mut [State],
        end: impl FnOnce(O::Batch<'_>, &Scratch<O>) -> Result<T>,
    ) -> Result<T> {
        let o = &self.ops;
        let tails = chunk.tails(self.sizes.layers - 1);
        let row = |row: usize| tails.as_ref().map_or(row, |tails| tails.place(row));
        let rows = |wanted: &[(usize, usize)]| wanted.iter().map(|(at, _)| row(*at)).collect::<Vec<_>>();
        let rows = [&chunk.hidden, &chunk.logits].map(|wanted| rows(wanted));
        let mut batch = o.begin(Chunked {
            tokens: &chunk.tokens,
            coming: &chunk.coming,
            seqs: &chunk.seqs,
            states,
            tails: tails.as_ref(),
            rows: rows.each_ref().map(|r| &r[..]),
            choices: &chunk.choices,
            chosen: vec![],
        })?;
        let b = &mut batch;
        let mut scratch =
            self.scratch.lock().expect("no holder panics").pop().unwrap_or_else(|| self.scratch());
        if !o.is_recorded(b) {
            self.record(b, chunk, &rows, &mut scratch)?;
        }
        if o.submit(b, &scratch.wanted(chunk)) {
            self.record(b, chunk, &rows, &mut scratch)?;
        }
        let result = end(batch, &scratch);
        self.scratch.lock().expect("no holder panics").push(scratch);
        result
    }

    /// The operations of a chunk.
    fn record(
        &self,
        b: &mut O::Batch<'_>,
        chunk: &Chunk,
        [hidden, logits]: &[Vec<usize>; 2],
        scratch: &mut Scratch<O>,
    ) -> Result<()> {
        let o = &self.ops;
        let t = &mut scratch.layer;
        t.resize(o, b, chunk.tokens.len())?;
        o.resize(b, &mut scratch.hidden, hidden.len())?;
        o.resize(b, &mut scratch.selected, logits.len())?;
        o.resize(b, &mut scratch.logits, logits.len())?;
        o.embed(b, &self.emb, &self.ln0, t.x());
        self.layers.run(o, b, self.sizes.head_size, t);
        let x = &*t.x();
        if !hidden.is_empty() {
            o.norm_rows(b, &self.ln_out, hidden, x, &mut scratch.hidden);
        }
        if !logits.is_empty() {
            o.norm_rows(b, &self.ln_out, logits, x, &mut scratch.selected);
            let (x, y) = (&scratch.selected, &mut scratch.logits);
            o.project(b, &mut [Product { w: &self.head, x, act: Act::Id, y }]);
        }
        if !chunk.choices.is_empty() {
            o.sample(b, &scratch.logits);
        }
        Ok(())
    }
}
