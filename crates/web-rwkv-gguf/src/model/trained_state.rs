//! Trained states: what state tuning makes of the state before any token.

use std::path::Path;

use crate::{
    Error, Result, format,
    load::{Bytes, Checkpoint, ModelVersion, is_named},
    state::{State, StateShape},
};

impl StateShape {
    /// The trained state of a checkpoint: `blocks.N.att.time_state` of every layer, `[H, N, N]` by value and key
    /// index. `None` where there is none.
    pub(crate) fn trained(self, checkpoint: &Checkpoint) -> Result<Option<State>> {
        let name = |i: usize| format!("blocks.{i}.att.time_state");
        let found = checkpoint.tensors.keys().any(|name| name.ends_with(".att.time_state"));
        if !found {
            return Ok(None);
        }
        let (n, c) = (self.head_size, self.channels);
        let mut state = State::zero(self);
        state.to_host()?;
        let mut values = vec![0.0; n * c];
        for i in 0..self.layers {
            let thing = format!("tensor `{}`", name(i));
            let tensor = checkpoint
                .tensors
                .get(&name(i))
                .ok_or_else(|| Error::Missing { file: checkpoint.file.clone(), thing: thing.clone() })?;
            let shape = [c / n, n, n];
            if tensor.shape != shape || self.version == ModelVersion::V4 {
                let expected = format!("{shape:?} of {self}");
                let found = format!("{:?}", tensor.shape);
                return Err(Error::invalid(&checkpoint.file, thing, expected, found));
            }
            format::decode(tensor.format, &tensor.data, &mut values);
            let (_, wkv, _) = state.layer(i);
            for (at, keys) in values.chunks_exact(n).enumerate() {
                keys.iter().enumerate().for_each(|(j, x)| wkv[j * c + at] = *x);
            }
        }
        Ok(Some(state))
    }

    /// The state in a file: one that was saved, or a trained one in safetensors or `.pth`.
    pub(crate) fn load(self, path: &Path) -> Result<State> {
        let file = path.display().to_string();
        let bytes = Bytes::map(path)?;
        if !is_named(&bytes) {
            let state = State::from_bytes(&file, &bytes)?;
            if state.shape() != self {
                return Err(Error::invalid(&file, "state", self.to_string(), state.shape().to_string()));
            }
            return Ok(state);
        }
        let checkpoint = Checkpoint::from_bytes(&file, bytes)?;
        let other = |name: &&String| !name.ends_with(".att.time_state");
        if let Some(name) = checkpoint.tensors.keys().find(other) {
            return Err(Error::invalid(&file, format!("tensor `{name}`"), "trained states alone", "another"));
        }
        let highest = |name: &String| name.split('.').nth(1)?.parse::<usize>().ok();
        if let Some(layer) = checkpoint.tensors.keys().filter_map(highest).find(|layer| *layer >= self.layers)
        {
            let thing = format!("tensor `blocks.{layer}.att.time_state`");
            return Err(Error::invalid(&file, thing, format!("a layer of {self}"), "another"));
        }
        self.trained(&checkpoint)?.ok_or_else(|| Error::Missing { file, thing: "a state".into() })
    }
}
