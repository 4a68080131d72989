//! The operations, each recorded as a dispatch or two.

use super::*;

/// A token of a chunk that is still to be chosen, by a row of what a device chooses.
type Coming = (usize, Arc<Chosen>, usize);

impl Ops for Gpu {
    type Vector = Vector;
    type Matrix = Matrix;
    type Acts = Acts;
    type Batch<'a> = Batch<'a>;

    fn vector(&self, values: Vec<f32>) -> Result<Vector> {
        let mut m = self.memory.lock().expect("no holder panics");
        let at = m.vectors.len();
        m.vectors.extend(values);
        // Kernels take four at a time.
        let end = m.vectors.len().next_multiple_of(4);
        m.vectors.resize(end, 0.0);
        Ok(Vector(at as u32))
    }

    fn matrix(&self, w: FileMatrix) -> Result<Matrix> {
        let layout = Layout::of(w.format, self.info.tier);
        let stride = layout.row_bytes(w.columns);
        let mut m = self.memory.lock().expect("no holder panics");
        let m = &mut *m;
        m.layouts.insert(layout);
        m.columns = m.columns.max(padded(w.columns));
        // Matrices are cut where tiles begin.
        let tile = (16 * stride) as u64;
        let limit = self.context.binding_limit / tile * tile;
        let mut matrix = Matrix { layout, rows: w.rows, columns: w.columns, pieces: vec![] };
        let mut first = 0;
        while first < w.rows {
            let left = ((w.rows - first) * stride) as u64;
            let room = m.weights.last().map_or(0, |w| w.buffer.size() - w.used);
            // A matrix that fits into a buffer of its own is not cut.
            if room < left.min(limit) {
                let least = left.min(limit);
                let buffer = match m.allocated.pop_front().filter(|buffer| buffer.size() >= least) {
                    Some(buffer) => buffer,
                    None => {
                        let size = m.to_come.clamp(least, self.context.binding_limit);
                        self.context.allocate("weights", size)?
                    }
                };
                m.weights.push(Weights { buffer, used: 0 });
            }
            let buffer = m.weights.len() - 1;
            let to = &mut m.weights[buffer];
            let room = to.buffer.size() - to.used;
            let rows = if room < left { (room / tile * 16) as usize } else { w.rows - first };
            let at = (to.used / VECTOR as u64) as u32;
            let piece = Piece { buffer, at, first, rows };
            to.used += (rows * stride) as u64;
            m.to_come = m.to_come.saturating_sub((rows * stride) as u64);
            let at = u64::from(piece.at) * VECTOR as u64;
            m.upload.add(&self.context, (&w, layout), (first, rows), (&to.buffer, at))?;
            matrix.pieces.push(piece);
            first += rows;
        }
        Ok(matrix)
    }

    fn rows(&self, w: &Matrix) -> usize {
        w.rows
    }

    fn acts(&self, width: usize, kind: Kind) -> Acts {
        let padded = if kind == Kind::Input { padded(width) } else { width };
        let before = self
            .widths
            .get(kind as usize)
            .map_or(0, |all| all.fetch_add(padded.next_multiple_of(4), Relaxed));
        self.widest.get(kind as usize).inspect(|widest| _ = widest.fetch_max(padded, Relaxed));
        Acts { kind, before, width, padded, tokens: 0, tiled: false }
    }

    fn resize(&self, b: &mut Batch<'_>, acts: &mut Acts, tokens: usize) -> Result<()> {
        self.count(acts, tokens);
        let Some(arena) = b.memory.acts.get_mut(acts.kind as usize) else { return Ok(()) };
        let width = self.widths[acts.kind as usize].load(Relaxed);
        let mut rows = tokens.next_power_of_two();
        if self.info.tier == Tier::Matrix {
            rows += Tile::TOKENS; // a tile may be stored whole
        }
        if rows > arena.rows || width > arena.width {
            assert!(b.recording.pass.is_none(), "activations are made before operations are recorded");
            arena.rows = arena.rows.max(rows);
            arena.width = width;
            let mut moved = 0;
            if acts.kind == Kind::Stream {
                arena.parts = self.room_for_parts(arena.rows);
                moved = self.widest[acts.kind as usize].load(Relaxed);
            }
            let size = if acts.kind == Kind::Input && self.info.tier >= Tier::Subgroup { 2 } else { 4 };
            let label = ["acts", "inputs", "outputs"][acts.kind as usize];
            let bytes = ((arena.rows * (arena.width + moved) + arena.parts) * size) as u64;
            if bytes > self.context.binding_limit {
                return Err(Error::Request {
                    thing: format!("activations of {tokens} tokens"),
                    expected: format!("at most {} bytes on {}", self.context.binding_limit, self.info.name),
                    found: bytes.to_string(),
                });
            }
            arena.buffer = self.context.buffer(label, bytes);
            b.memory.renew();
        }
        if acts.bytes() > b.memory.results.size() / 2 && acts.kind != Kind::Input {
            assert!(b.recording.pass.is_none(), "results have room before operations are recorded");
            b.memory.results = self.context.mappable(2 * acts.bytes());
            b.memory.renew();
        }
        Ok(())
    }

    fn least_chunk(&self) -> usize {
        self.chunk.load(Relaxed)
    }

    fn begin<'a>(&'a self, chunk: Chunked<'a>) -> Result<Batch<'a>> {
        let mut memory = self.memory.lock().expect("no holder panics");
        let m = &mut *memory;
        let sizes = chunk.states.first().map_or([0; 3], State::dims);
        let pool = self.pool(m, sizes);
        let states = chunk.seqs.iter().filter_map(|seq| chunk.states[seq.slot].slot());
        pool.begin(states.filter(|slot| slot.same_pool(&pool)))?;
        m.upload.end(&self.context)?;
        let bytes = 4 * m.vectors.len() as u64;
        if m.vectors_buffer.size() < bytes {
            m.vectors_buffer = self.context.buffer("vectors", bytes);
            self.context.queue.write_buffer(&m.vectors_buffer, 0, bytemuck::cast_slice(&m.vectors));
            m.renew();
        }
        let penalties: usize = chunk.choices.iter().map(|c| 2 * c.penalties.len()).sum();
        let words = 4 * (TABLE + penalties) as u64;
        if m.table.size() < words {
            m.table = self.context.buffer("table", words.next_power_of_two());
            m.renew();
        }
        let (tokens, sequences) = (chunk.tokens.len(), chunk.seqs.len());
        let tokens_at = SEQUENCE * sequences as u32;
        let sequence_of = tokens_at + tokens as u32;
        let choices_at = sequence_of + tokens as u32;
        Self::bind(m, &pool);
        self.leave_chains(m);
        let alone = chunk.seqs.iter().all(|seq| seq.len == 1);
        let is_large = m.weights.iter().map(|w| w.used).sum::<u64>() >= LARGE;
        let texts = !alone && sequences > 1 && chunk.choices.is_empty() && is_large;
        let like = Like {
            lengths: chunk.seqs.iter().map(|seq| seq.len).collect(),
            rows: chunk.rows.map(<[usize]>::to_vec),
            choices: chunk.choices.len(),
        };
        let mut may_follow = (alone || texts) && chunk.coming.is_empty() && self.profile.is_none();
        let ahead = m.ahead.take().filter(|ahead| ahead.fits(&chunk));
        let mut recorded = ahead.is_some();
        let (recording, slots) = if let Some(Ahead { mut recording, slots, .. }) = ahead {
            recording.table[tokens_at as usize..sequence_of as usize].copy_from_slice(chunk.tokens);
            (recording, slots)
        } else {
            let mut encoder = self.encoder();
            let slots = Self::settle(&pool, &chunk)?;
            Self::bind(m, &pool);
            // Neighbours come together.
            let follows =
                |a: &Coming, b: &Coming| Arc::ptr_eq(&a.1, &b.1) && (a.0 + 1, a.2 + 1) == (b.0, b.2);
            for run in chunk.coming.chunk_by(follows) {
                let (token, chosen, row) = &run[0];
                let (from, to) = (4 * *row as u64, 4 * (tokens_at as usize + token) as u64);
                encoder.copy_buffer_to_buffer(&chosen.buffers[0], from, &m.table, to, 4 * run.len() as u64);
            }
            let places = || slots.iter().map(|(before, after)| [*before, after.index()]);
            let mut table = head(chunk.seqs, chunk.tokens, places());
            let mut kept = None;
            if texts && may_follow {
                let known = m.texts.iter_mut().find(|(known, _)| *known == like);
                // What comes a second time may come more often.
                may_follow = known.is_some();
                kept = known.and_then(|(_, recording)| recording.take());
                if !may_follow {
                    m.texts.truncate(TEXTS - 1);
                    m.texts.push_front((like.clone(), None));
                }
            }
            table.resize(table.len() + CHOICE as usize * chunk.choices.len(), 0);
            recorded = kept.is_some();
            let recording = match kept {
                Some(mut recording) => {
                    recording.table[..table.len()].copy_from_slice(&table);
                    if let Some(tails) = chunk.tails {
                        let head = head(&tails.seqs, &tails.rows, places());
                        recording.table[recording.tails_at..][..head.len()].copy_from_slice(&head);
                    }
                    recording
                }
                None => {
                    let chain = self.chain(m, &chunk);
                    Recording { encoder: Some(encoder), table, chain, ..Recording::default() }
                }
            };
            (recording, slots.into_iter().map(|(_, after)| after).collect())
        };
        let like = may_follow.then_some(like);
        let outgoing = if let ([_], false) = (&slots[..], alone) { pool.outgoing() } else { None };
        // Nothing is written where there are no tokens.
        let changed = chunk.seqs.iter().zip(slots).filter(|(seq, _)| seq.len > 0);
        Ok(Batch {
            memory,
            outgoing,
            slots: changed.map(|(seq, slot)| (seq.slot, slot)).collect(),
            states: chunk.states,
            recording,
            like,
            ahead: recorded,
            submission: None,
            tokens,
            sequences,
            alone,
            idle: chunk.coming.is_empty(),
            unfinished: None,
            moved: None,
            tails: chunk.tails,
            all_tails: chunk.tails,
            choices: chunk.choices,
            chosen: None,
            sequences_at: 0,
            sequence_of,
            tokens_at,
            gates: None,
            choices_at,
        })
    }

    fn is_recorded(&self, b: &Batch<'_>) -> bool {
        b.ahead
    }

    fn submit(&self, b: &mut Batch<'_>, wanted: &[&Acts]) -> bool {
        self.end_chain(b);
        self.finish(&mut b.recording, &b.memory, wanted);
        let Recording { commands, mut table, chosen, timed, chain, .. } = std::mem::take(&mut b.recording);
        write_choices(b.choices, b.choices_at, &mut table);
        assert!(4 * table.len() as u64 <= b.memory.table.size(), "the size of a chunk is limited");
        self.context.queue.write_buffer(&b.memory.table, 0, bytemuck::cast_slice(&table));
        let submission = self.context.queue.submit(commands);
        b.chosen = chosen.map(|(_, chosen)| chosen);
        b.chosen.iter().for_each(|c| c.submission.set(submission.clone()).expect("submitted once"));
        b.submission = Some(submission);
        if let ([(_, slot)], false) = (&b.slots[..], b.alone) {
            slot.left(b.outgoing.take());
        }
        b.memory.running.get_or_insert((Instant::now(), 0)).1 += b.tokens;
        b.recording.timed = timed; // for `close`
        b.ahead = b.like.is_some();
        if b.ahead {
            // Tokens and choices are put in when they are known, and states of texts; others are where this chunk leaves them.
            table.truncate(b.choices_at as usize + CHOICE as usize * b.choices.len());
            for words in table.chunks_exact_mut(SEQUENCE as usize).take(b.sequences) {
                words[0] = words[1];
            }
            b.recording.table = table;
            b.recording.chain.kernel = chain.kernel;
            (b.tails, b.sequences_at, b.sequence_of) = (b.all_tails, 0, b.tokens_at + b.tokens as u32);
        }
        b.ahead
    }

    fn end(&self, mut b: Batch<'_>, wanted: &[&Acts]) -> Result<Vec<Vec<f32>>> {
        if b.submission.is_none() {
            self.submit(&mut b, wanted);
        }
        self.keep_ahead(&mut b, wanted);
        let context = &self.context;
        let size: u64 = wanted.iter().map(|acts| acts.bytes()).sum();
        let mut out = vec![];
        if size == 0 {
            context.check()?;
        } else {
            let view = context.map(&b.memory.results, size + 4, b.submission.as_ref().expect("set above"))?;
            let mut data: &[f32] = bytemuck::cast_slice(&view);
            for acts in wanted {
                let (own, rest) = data.split_at(acts.tokens * acts.padded);
                let mut values = Vec::with_capacity(acts.tokens * acts.width);
                own.chunks_exact(acts.padded).for_each(|row| values.extend(&row[..acts.width]));
                out.push(values);
                data = rest;
            }
            let gave_up = data[0].to_bits();
            drop(view);
            b.memory.results.unmap();
            context.arrived(gave_up)?;
            self.pace(&mut b.memory);
        }
        self.close(b)?;
        Ok(out)
    }

    fn end_chosen(&self, mut b: Batch<'_>) -> Result<Vec<Token>> {
        if b.submission.is_none() {
            self.submit(&mut b, &[]);
        }
        self.keep_ahead(&mut b, &[]);
        let tokens: Vec<_> = match &b.chosen {
            Some(chosen) => (0..b.choices.len()).map(|row| Token::Coming(chosen.clone(), row)).collect(),
            None => vec![],
        };
        if b.tokens == b.sequences {
            b.memory.running = None;
        } else if let Some(token) = tokens.first() {
            // Of a prompt: its time tells how large chunks should be.
            token.id()?;
            self.pace(&mut b.memory);
        }
        self.context.check()?;
        self.close(b)?;
        Ok(tokens)
    }

    fn ahead(&self, sequences: usize) -> usize {
        let steps = AHEAD.iter().find(|(most, _)| sequences <= *most).map_or(0, |(_, steps)| *steps);
        let memory = self.memory.lock().expect("no holder panics");
        let has_room = |pool: &Arc<Pool>| pool.make_room(sequences * (1 + steps));
        if self.profile.is_none() && memory.pool.as_ref().is_some_and(has_room) { steps } else { 0 }
    }

    fn can_await(&self, chosen: &Chosen) -> bool {
        Arc::ptr_eq(&chosen.context, &self.context)
    }

    fn sample(&self, b: &mut Batch<'_>, logits: &Acts) {
        let (at, rows) = (b.recording.table.len() as u32, b.choices.len());
        b.recording.table.resize(at as usize + rows, 0);
        b.recording.chosen = Some((at, Arc::new(Chosen::new(&self.context, rows))));
        let [bests, count] = b.recording.chain.bests.take().unwrap_or_default();
        let params = [b.choices_at, at, self.place(b, logits), logits.padded as u32, bests, count];
        self.dispatch(b, Bound::default(), &Kernel::Sample, &params, (rows, 1));
    }

    fn embed(&self, b: &mut Batch<'_>, emb: &Matrix, ln0: &Norm<Self>, x: &mut Acts) {
        b.unfinished = None; // sums that nothing of the recording before wanted
        b.moved = None;
        for piece in &emb.pieces {
            let params = [
                b.tokens_at,
                piece.at,
                emb.stride() as u32,
                piece.first as u32,
                piece.rows as u32,
                padded(emb.columns) as u32,
                self.place(b, x),
                ln0.weight.0,
                ln0.bias.0,
                ln0.eps.to_bits(),
            ];
            self.dispatch(
                b,
                Bound::weights(piece.buffer),
                &Kernel::Embed { layout: emb.layout, width: x.width },
                &params,
                (b.tokens, 1),
            );
        }
    }

    fn shift(
        &self,
        b: &mut Batch<'_>,
        (layer, shift): (usize, Shift),
        norm: &Norm<Self>,
        mix: &[Vector],
        x: &Acts,
        h: &mut Acts,
        y: &mut [Acts],
    ) {
        y.iter_mut().chain([&mut *h]).for_each(|acts| self.count(acts, x.tokens));
        let last = b.states[0].dims()[1] - 1;
        let (bound, [state, slot]) = Self::state_at(b, layer, if shift == Shift::Att { 0 } else { last });
        let step = |places: &[u32]| places.get(1).map_or(0, |second| second - places[0]);
        let mixes: Vec<_> = mix.iter().map(|v| v.0).collect();
        let places: Vec<_> = y.iter().map(|y| self.place(b, y)).collect();
        let even = |places: &[u32]| places.windows(2).all(|p| p[1] - p[0] == places[1] - places[0]);
        assert!(even(&mixes) && even(&places), "mixes are made one after another");
        let mut params = vec![
            b.sequences_at,
            b.sequence_of,
            self.place(b, x),
            norm.weight.0,
            norm.bias.0,
            norm.eps.to_bits(),
            state,
            slot,
            mixes[0],
            step(&mixes),
            places[0],
            step(&places),
            y[0].pitch(),
            self.place(b, h),
        ];
        let (keep, mut splits) = (h.kind == Kind::Stream, 0);
        let may_move = b.moved.is_none_or(|before| before == x.before);
        match b.unfinished.take_if(|sums| may_move && sums.before == x.before) {
            Some(sums) => {
                splits = sums.splits;
                b.moved = if b.moved.is_none() { Some(x.before) } else { None };
                params.extend(&sums.params[sums.params.len() - 3..]);
                params.push(self.place(b, x));
            }
            None => params.extend([0; 4]),
        }
        let kernel = Kernel::Shift { width: x.width, mixes: mixes.len(), keep, alone: b.alone, splits };
        if !self.link_shift(b, bound, &params, mixes, places) {
            let across = if b.alone && splits == 0 { x.width.div_ceil(Kernel::THREADS) } else { 1 };
            self.dispatch(b, bound, &kernel, &params, (x.tokens, across));
        }
    }

    fn project(&self, b: &mut Batch<'_>, products: &mut [Product<'_, Self>]) {
        products.iter_mut().for_each(|p| self.count(p.y, p.x.tokens));
        let jobs: Vec<_> = products.iter().map(|p| Job::new(p.w, p.x, p.y, p.act)).collect();
        self.products(b, &jobs);
    }

    fn gates(&self, b: &mut Batch<'_>, p: &Gates<Self>, _: usize, low: &[Acts; 4], t: &mut Heads<Self>) {
        let [lw, la, lg, lv] = low;
        let job = |w, x, y| Job::new(w, x, y, Act::Id);
        let mut jobs = vec![
            Job { act: DECAY, bias: Some(&p.w0), ..job(&p.w2, lw, &t.w) },
            Job { act: GATE, bias: Some(&p.a0), ..job(&p.a2, la, &t.a) },
            job(&p.g2, lg, &t.g),
        ];
        if let Some((v0, v2)) = &p.v {
            let other = Some(&t.v_first);
            jobs.push(Job { act: RESIDUAL, bias: Some(v0), other, ..job(v2, lv, &t.v) });
        }
        self.products(b, &jobs);
        let v0 = p.v.as_ref().map(|(v0, _)| v0.0);
        b.gates = Some(Biases { k_k: p.k_k.0, k_a: p.k_a.0, w0: p.w0.0, a0: p.a0.0, v0 });
    }

    fn wkv7(
        &self,
        b: &mut Batch<'_>,
        layer: usize,
        norm: &Norm<Self>,
        r_k: &Vector,
        head_size: usize,
        t: &Heads<Self>,
        y: &mut Acts,
    ) {
        let Biases { k_k, k_a, w0, a0, v0 } = b.gates.take().expect("gates come before wkv7");
        let (mut bound, [state, slot]) = Self::state_at(b, layer, 1);
        let [r, k, v, v_first] = [&t.r, &t.k, &t.v, &t.v_first].map(|acts| self.place(b, acts));
        let width = t.r.padded as u32;
        let sums = b.unfinished.take_if(|sums| sums.before == t.w.before);
        let ([w, a, g, nu], pitch, part) = match sums.as_ref().map(|sums| &sums.params[..]) {
            // Those of gates, one after another.
            Some([.., parts, pitch, part]) => {
                let each = pitch / if v0.is_some() { 4 } else { 3 };
                ([0, 1, 2, 3].map(|i| parts + i * each), *pitch, *part)
            }
            _ => ([&t.w, &t.a, &t.g, &t.nu].map(|acts| self.place(b, acts)), width, 0),
        };
        let mut params = [
            0,
            state,
            slot,
            width,
            r,
            w,
            k,
            v,
            a,
            g,
            v_first,
            u32::from(v0.is_none()),
            k_k,
            k_a,
            r_k.0,
            norm.weight.0,
            norm.bias.0,
            norm.eps.to_bits(),
            self.place(b, y),
            y.pitch(),
            self.parts(b).0,
            pitch,
            part,
            nu,
            w0,
            a0,
            v0.unwrap_or(0),
            0,
            0,
        ];
        let heads = t.r.width / head_size;
        if self.link_wkv7(b, bound, heads, &params) {
            return;
        }
        // Of short sequences small blocks leave room for more of them at a time; of few long ones several workgroups share
        // a head.
        let (alone, gates) = (b.alone, sums.map_or(0, |sums| sums.splits));
        let scan = |block, split| (Kernel::Wkv7 { head_size, block, split, alone, gates }, split);
        let (kernel, split) = match (b.length(), self.kernels.matrix_heads(head_size)) {
            (0..2, _) => scan(1, 1),
            (2..LONG, _) => scan(4, 1),
            (_, Some(split)) => (Kernel::Wkv7Matrix { head_size }, split),
            _ if heads * b.sequences <= HEADS && head_size.is_multiple_of(8) => scan(16, 2),
            _ => scan(16, 1),
        };
        let mut groups = heads * split;
        let [.., sends, sent] = &mut params;
        *sends = groups as u32;
        let can_send = matches!(kernel, Kernel::Wkv7Matrix { .. });
        if let Some(to) = can_send.then(|| self.send_before(b, layer, &mut bound)).flatten() {
            *sent = to;
            groups += SENDERS;
        }
        self.dispatch(b, bound, &kernel, &params, (groups, b.sequences));
        if split > 1 {
            let kernel = Kernel::Wkv7Norm { head_size };
            let (heads_of_group, tokens) = (self.kernels.tile(&kernel).0, b.tokens);
            self.dispatch(b, Bound::default(), &kernel, &params, (heads.div_ceil(heads_of_group), tokens));
        }
    }

    fn tails(&self, b: &mut Batch<'_>, layer: usize, x: &mut Acts, y: &mut Acts) {
        let Some(tails) = b.tails.take_if(|tails| tails.layer == layer) else { return };
        let slots = b.recording.table.chunks(SEQUENCE as usize).map(|words| [words[0], words[1]]);
        let head = head(&tails.seqs, &tails.rows, slots);
        let count = tails.rows.len();
        b.recording.tails_at = b.recording.table.len();
        b.sequences_at = b.recording.tails_at as u32;
        b.sequence_of = b.sequences_at + (head.len() - count) as u32;
        b.recording.table.extend(head);
        [x.tokens, y.tokens] = [count; 2];
        let rows = b.sequence_of - count as u32;
        // They stay in tiles, however few are left.
        let params = [rows, count as u32, self.place(b, x), x.pitch(), self.place(b, y), y.pitch()];
        self.dispatch(
            b,
            Bound::default(),
            &Kernel::Tails,
            &params,
            (y.padded.div_ceil(4 * Kernel::TAILS_THREADS), 1),
        );
    }

    fn norm_rows(&self, b: &mut Batch<'_>, norm: &Norm<Self>, rows: &[usize], x: &Acts, y: &mut Acts) {
        let linked = [self.place(b, x), norm.weight.0, norm.bias.0, norm.eps.to_bits()];
        if y.kind == Kind::Input && self.link_norm(b, linked, self.place(b, y)) {
            return;
        }
        let at = b.recording.table.len() as u32;
        b.recording.table.extend(rows.iter().map(|row| *row as u32));
        let params = [
            at,
            self.place(b, x),
            norm.weight.0,
            norm.bias.0,
            norm.eps.to_bits(),
            self.place(b, y),
            y.pitch(),
            y.kind as u32,
        ];
        self.dispatch(b, Bound::default(), &Kernel::NormRows { width: x.width }, &params, (rows.len(), 1));
    }

    fn ddlerp(
        &self,
        b: &mut Batch<'_>,
        p: &Ddlerp<Self>,
        h: &Acts,
        before: &Acts,
        low: &[Acts; 5],
        y: &mut [Acts],
    ) {
        self.lerps(b, p, h, before, low, y);
    }

    fn wkv6(
        &self,
        b: &mut Batch<'_>,
        layer: usize,
        p: &Wkv6<Self>,
        head_size: usize,
        t: &Rkv<'_, Self>,
        y: &mut Acts,
    ) {
        self.record_wkv6(b, layer, p, head_size, t, y);
    }

    fn wkv4(&self, b: &mut Batch<'_>, layer: usize, p: &Wkv4<Self>, rkv: [&Acts; 3], y: &mut Acts) {
        self.record_wkv4(b, layer, p, rkv, y);
    }

    fn add_gated(&self, b: &mut Batch<'_>, g: &Acts, y: &Acts, scale: f32, x: &mut Acts) {
        let [g, y, to] = [g, y, x].map(|acts| self.place(b, acts));
        let params = [g, y, to, x.width as u32, scale.to_bits()];
        self.dispatch(b, Bound::default(), &Kernel::AddGated, &params, (x.tokens, 1));
    }
}
