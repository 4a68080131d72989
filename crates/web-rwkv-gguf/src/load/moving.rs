//! Weights that move into huge pages while they are in use: a model answers before they are there, and each call moves some.

use std::{
    ops::Range,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use super::{
    Bytes,
    huge::{Part, Room, TurnEight},
};
use crate::format::Format;

/// How many bytes move at least, by whole tensors, for each token that is read: they take a few milliseconds.
const STEP: usize = 32 << 20;

/// Bytes of a line of the cache, with which each part begins.
const LINE: usize = 64;

/// The format and the bytes of eight rows, if these are to stand side by side.
pub(super) type InEights = Option<(Format, usize)>;

/// Bytes that stand where they came from until they have moved.
pub(super) struct Moving {
    from: Bytes,
    pub(super) eights: InEights,
    room: Arc<Room>,
    to: Range<usize>,
    moved: AtomicBool,
}

impl Moving {
    /// They where they came from, or in the same order where they have moved to.
    pub(super) fn in_order(&self) -> &[u8] {
        match self.eights {
            None => self.moved().unwrap_or(&self.from),
            Some(_) => &self.from,
        }
    }

    /// They where they have moved to.
    pub(super) fn moved(&self) -> Option<&[u8]> {
        // SAFETY: they have been read by then, and move once.
        self.moved.load(Ordering::Acquire).then(|| unsafe { self.room.bytes(self.to.clone()) })
    }
}

/// What has not moved yet.
#[derive(Default)]
pub(crate) struct Moves {
    /// The last first.
    waiting: Mutex<Vec<Arc<Moving>>>,
    begun: AtomicBool,
}

impl Moves {
    /// Lets these move, in order, of which some come to stand side by side; does nothing where there are no huge pages.
    pub(super) fn new(parts: Vec<(&mut Bytes, InEights)>) -> Self {
        Self::within(Room::new, parts)
    }

    /// The same, to such a room for so many bytes.
    fn within(room: fn(usize) -> Option<Room>, parts: Vec<(&mut Bytes, InEights)>) -> Self {
        let mut end = 0_usize;
        let place = |(bytes, _): &(&mut Bytes, InEights)| {
            let at = end.next_multiple_of(LINE);
            end = at + bytes.len();
            at..end
        };
        let places: Vec<_> = parts.iter().map(place).collect();
        let Some(room) = room(end).map(Arc::new) else { return Self::default() };
        let mut waiting: Vec<_> = parts
            .into_iter()
            .zip(places)
            .map(|((bytes, eights), to)| {
                let (from, room, moved) = (bytes.clone(), room.clone(), AtomicBool::new(false));
                let moving = Arc::new(Moving { from, eights, room, to, moved });
                *bytes = moving.clone().into();
                moving
            })
            .collect();
        waiting.reverse();
        Self { waiting: Mutex::new(waiting), ..Self::default() }
    }

    /// Moves some by so many threads before so many tokens are read; none the first time, when an answer is waited for since the
    /// model was opened. What cannot move stays where it is.
    pub(crate) fn step(&self, tokens: usize, threads: usize, turn: TurnEight<'_>) {
        if !self.begun.swap(true, Ordering::Relaxed) {
            return;
        }
        let (mut some, mut len) = (vec![], 0);
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        while len < STEP.saturating_mul(tokens)
            && let Some(moving) = waiting.pop()
        {
            len += moving.to.len();
            some.push(moving);
        }
        drop(waiting);
        let Some(Moving { room, .. }) = some.first().map(|first| &**first) else { return };
        // What was used of the file counts as memory too.
        some.iter().for_each(|moving| moving.from.release());
        let parts = some.iter().map(|moving| {
            let Moving { from, eights, to, .. } = &**moving;
            let source = from.source().expect("only what has one is to move");
            Part { source, range: from.range.clone(), eights: *eights, to: to.clone() }
        });
        // SAFETY: each part has a place of its own, at which nobody looks before it is told to have moved.
        if unsafe { room.fill(&parts.collect::<Vec<_>>(), threads, turn) } {
            some.iter().for_each(|moving| moving.moved.store(true, Ordering::Release));
        }
    }
}

/// Rows that come to stand side by side with the first step but one.
#[cfg(all(test, target_os = "linux"))]
pub(crate) fn beside(format: Format, eight: usize, rows: &[u8]) -> (Bytes, Moves) {
    let mut bytes = Bytes::from(&*rows.to_vec().leak());
    let moves = Moves::within(Room::map, vec![(&mut bytes, Some((format, eight)))]);
    (bytes, moves)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn parts_move_as_tokens_are_read() {
        let all: &[u8] = (0..250).cycle().take(3 * STEP).collect::<Vec<u8>>().leak();
        let part = |range| Bytes::from(all).slice(range).unwrap();
        let [mut a, mut b, mut c, mut d] =
            [3..STEP, STEP + 5..STEP + 10, STEP + 20..2 * STEP, 2 * STEP..3 * STEP].map(part);
        let moves = Moves::new(vec![(&mut a, None), (&mut b, None), (&mut c, None), (&mut d, None)]);
        if moves.waiting.lock().unwrap().is_empty() {
            return println!("skipped: there are no huge pages");
        }
        let turn: TurnEight<'_> = &|_, _, _| unreachable!("none stand side by side");
        for (tokens, moved) in [(1000, 0), (0, 0), (1, 2), (2, 4), (1, 4)] {
            moves.step(tokens, 2, turn);
            for (i, bytes) in [&a, &b, &c, &d].into_iter().enumerate() {
                assert_eq!(!all.as_ptr_range().contains(&bytes.as_ptr()), i < moved);
            }
            assert!(a[..] == all[3..STEP] && b[..] == all[STEP + 5..STEP + 10]);
            assert!(c[..] == all[STEP + 20..2 * STEP] && d[..] == all[2 * STEP..]);
        }
    }
}
