//! Numbers that start at a line of the cache.

use std::{
    cell::RefCell,
    marker::PhantomData,
    mem,
    ops::{Deref, DerefMut},
};

/// A line of the cache.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// A number of which any bytes are one.
pub(super) trait Number: Copy {}
impl Number for u8 {}
impl Number for i32 {}
impl Number for f32 {}

/// A vector whose registers lie in lines of the cache whole.
pub(super) struct Lines<T> {
    lines: Vec<Line>,
    len: usize,
    /// Whether the thread keeps it.
    kept: bool,
    number: PhantomData<T>,
}

/// How many vectors of [`Lines::new`] that are no longer wanted a thread keeps for the next ones: the system clears memory that
/// it gives.
const KEPT: usize = 32;

thread_local! {
    static FREE: RefCell<Vec<Vec<Line>>> = const { RefCell::new(vec![]) };
}

impl<T> Default for Lines<T> {
    fn default() -> Self {
        Self { lines: vec![], len: 0, kept: false, number: PhantomData }
    }
}

impl<T> Drop for Lines<T> {
    fn drop(&mut self) {
        if !self.kept {
            return;
        }
        let lines = mem::take(&mut self.lines);
        // At the end of a thread there is no list.
        let _ = FREE.try_with(|free| {
            let mut free = free.borrow_mut();
            if free.len() < KEPT && lines.capacity() > 0 {
                free.push(lines);
            }
        });
    }
}

impl<T: Number> Clone for Lines<T> {
    fn clone(&self) -> Self {
        let mut lines = Self::new(self.len);
        lines.copy_from_slice(self);
        lines
    }
}

impl<T: Number> Lines<T> {
    /// So many numbers, which are what stood there before, or zero.
    pub(super) fn new(len: usize) -> Self {
        let mut lines = Self::default();
        let bytes = len * size_of::<T>();
        lines.lines = FREE.with_borrow_mut(|free| {
            let fits = free.iter().position(|lines| lines.capacity() * size_of::<Line>() >= bytes);
            fits.map(|i| free.swap_remove(i)).unwrap_or_default()
        });
        lines.kept = true;
        lines.resize(len);
        lines
    }

    /// Makes room for `len` numbers; what they are is left as it is, or zero.
    pub(super) fn resize(&mut self, len: usize) {
        let lines = (len * size_of::<T>()).div_ceil(size_of::<Line>());
        // Lines behind the last number stay, lest they be filled again.
        self.lines.resize(lines.max(self.lines.len()), Line([0; 64]));
        self.len = len;
    }
}

impl<T: Number> Deref for Lines<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        // SAFETY: the lines have room for so many numbers, which any bytes are.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.len) }
    }
}

impl<T: Number> DerefMut for Lines<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.len) }
    }
}
