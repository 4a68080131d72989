//! What a model's matrices are multiplied with on a text: where that is large, errors of the weights matter.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use crate::{
    Result,
    batch::{Progress, RnnInput, RnnOption},
    cpu::Watch,
    device::Device,
    load::Checkpoint,
    model::{Model, Options},
    save::Importance,
};

/// Runs a model on the CPU over the tokens of texts, each from the start, and gives, for each matrix that it
/// multiplies, the root mean square of each column's factor, relative to all of them.
///
/// The root, because columns that are large on one text are not on another (`docs/quantization.md`). A column that is
/// never used keeps a thousandth, so that its weights do not go astray.
///
/// # Errors
/// As [`Model::from_checkpoint`] and [`Model::run`].
pub fn importance(
    checkpoint: &Checkpoint,
    options: Options,
    texts: &[Vec<u32>],
    progress: &mut dyn FnMut(Progress),
) -> Result<Importance> {
    let squares = Arc::new(Mutex::new(HashMap::<usize, Vec<f64>>::new()));
    let seen = squares.clone();
    let watch: Watch = Box::new(move |weights, x| {
        let mut squares = seen.lock().expect("no holder panics");
        add(squares.entry(weights.as_ptr() as usize).or_default(), x);
    });
    let options = Options { device: Device::Cpu, ..options };
    let model = Model::watched(checkpoint, options, Some(watch))?;
    let mut head = vec![];
    let mut told = Progress { read: 0, total: texts.iter().map(Vec::len).sum() };
    for tokens in texts {
        let mut state = model.init_state();
        for chunk in tokens.chunks(RnnInput::CHUNK) {
            // What the head is multiplied with is what an embedding is.
            let hidden = model.run(chunk, RnnOption::EmbedFull, &mut state)?;
            hidden.chunks(model.info().num_emb).for_each(|x| add(&mut head, x));
            told.read += chunk.len();
            progress(told);
        }
    }
    let squares = squares.lock().expect("no holder panics");
    let matrices = checkpoint.tensors.iter().filter_map(|(name, tensor)| {
        let squares = match name.as_str() {
            "head.weight" => &head,
            _ => squares.get(&(tensor.data.as_ptr() as usize))?,
        };
        let mean = squares.iter().sum::<f64>() / squares.len().max(1) as f64;
        let relative =
            squares.iter().map(|s| if mean > 0.0 { (s / mean).max(1e-6).sqrt() as f32 } else { 1.0 });
        Some((name.clone(), relative.collect()))
    });
    Ok(matrices.collect())
}

/// Adds the squares of a row.
fn add(squares: &mut Vec<f64>, row: &[f32]) {
    squares.resize(row.len(), 0.0);
    for (sum, x) in squares.iter_mut().zip(row) {
        *sum += f64::from(*x).powi(2);
    }
}
