//! Progress bars on standard error; nothing is shown where that is no terminal.

use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use web_rwkv_gguf as engine;

/// From so many tokens on, reading them shows a bar.
const LONG: usize = 1024;

/// A bar that is gone when the work is done, and room for those of its parts below it.
pub(crate) struct Progress {
    bars: MultiProgress,
    bar: ProgressBar,
}

impl Progress {
    /// For work of unknown length.
    pub(crate) fn spinner(what: &'static str) -> Self {
        let bars = MultiProgress::new();
        let bar = bars.add(ProgressBar::new_spinner().with_message(what));
        bar.enable_steady_tick(Duration::from_millis(100));
        Self { bars, bar }
    }

    /// For `len` things called `unit`; of no more than one nothing is shown.
    pub(crate) fn new(len: usize, unit: &str) -> Self {
        let bars = MultiProgress::new();
        let bar = if len > 1 { bars.add(bar(len, unit)) } else { ProgressBar::hidden() };
        Self { bars, bar }
    }

    /// For tokens that are read as a part of this work.
    pub(crate) fn tokens(&self) -> Tokens<'_> {
        Tokens { progress: self, bar: None }
    }

    pub(crate) fn set(&self, position: usize) {
        self.bar.set_position(position as u64);
    }

    pub(crate) fn message(&self, message: String) {
        self.bar.set_message(message);
    }

    /// Runs `print` with the bars out of the way.
    pub(crate) fn suspend<T>(&self, print: impl FnOnce() -> T) -> T {
        self.bars.suspend(print)
    }

    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

/// A bar of the tokens that the engine has read, below that of the whole work, once it tells of a long text.
pub(crate) struct Tokens<'a> {
    progress: &'a Progress,
    bar: Option<ProgressBar>,
}

impl Tokens<'_> {
    pub(crate) fn told(&mut self, told: engine::Progress) {
        if told.total >= LONG {
            let bar = self.bar.get_or_insert_with(|| self.progress.bars.add(bar(told.total, "tokens")));
            bar.set_position(told.read as u64);
        }
    }
}

impl Drop for Tokens<'_> {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
            self.progress.bars.remove(bar);
        }
    }
}

fn bar(len: usize, unit: &str) -> ProgressBar {
    // Hidden until it is given its place on the terminal.
    let bar = ProgressBar::with_draw_target(Some(len as u64), indicatif::ProgressDrawTarget::hidden());
    let style = format!("{{bar:30}} {{pos}}/{{len}} {unit} {{elapsed}} {{msg}}");
    bar.with_style(ProgressStyle::with_template(&style).expect("the template is valid"))
}
