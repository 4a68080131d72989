//! Progress bars on standard error; nothing is shown where that is no terminal.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A bar that is gone when the work is done.
pub(crate) struct Progress(ProgressBar);

impl Progress {
    /// For work of unknown length.
    pub(crate) fn spinner(what: &'static str) -> Self {
        let bar = ProgressBar::new_spinner().with_message(what);
        bar.enable_steady_tick(Duration::from_millis(100));
        Self(bar)
    }

    /// For `len` things called `unit`; of no more than one nothing is shown.
    pub(crate) fn new(len: usize, unit: &str) -> Self {
        let bar = ProgressBar::with_draw_target(Some(len as u64), ProgressDrawTarget::stderr());
        if len <= 1 {
            bar.set_draw_target(ProgressDrawTarget::hidden());
        }
        let style = format!("{{bar:30}} {{pos}}/{{len}} {unit} {{elapsed}} {{msg}}");
        Self(bar.with_style(ProgressStyle::with_template(&style).expect("the template is valid")))
    }

    pub(crate) fn set(&self, position: usize) {
        self.0.set_position(position as u64);
    }

    pub(crate) fn message(&self, message: String) {
        self.0.set_message(message);
    }

    /// Runs `print` with the bar out of the way.
    pub(crate) fn suspend<T>(&self, print: impl FnOnce() -> T) -> T {
        self.0.suspend(print)
    }

    pub(crate) fn finish(&self) {
        self.0.finish_and_clear();
    }
}
