//! Threads that meet cheaply: workers spin for a while after each step before they sleep, tasks are claimed
//! one by one so that a slow core takes fewer, and a worker that is not there yet is not waited for.

use std::{
    hint, mem,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering::*},
    },
    thread::{self, JoinHandle},
};

/// How often an idle worker looks for work before it sleeps: about 50 µs.
const SPINS: usize = 2_000;
/// Lowest bit of `Shared::state`: a step may be joined. Then the count of workers in it, then its number.
const OPEN: u64 = 1;
const WORKER: u64 = 2;
const STEP: u64 = 1 << 32;

type Task<'a> = &'a (dyn Fn(usize) + Sync);

pub(crate) struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    caller: Mutex<()>,
}

struct Shared {
    state: AtomicU64,
    task: AtomicPtr<Task<'static>>,
    next: AtomicUsize,
    tasks: AtomicUsize,
    sleepers: AtomicUsize,
    panicked: AtomicBool,
    stop: AtomicBool,
    lock: Mutex<()>,
    wake: Condvar,
}

impl Pool {
    pub(crate) fn new(threads: usize) -> Self {
        let shared = Arc::new(Shared {
            state: AtomicU64::new(0),
            task: AtomicPtr::new(std::ptr::null_mut()),
            next: AtomicUsize::new(0),
            tasks: AtomicUsize::new(0),
            sleepers: AtomicUsize::new(0),
            panicked: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            lock: Mutex::new(()),
            wake: Condvar::new(),
        });
        let workers = (1..threads)
            .filter_map(|i| {
                let shared = shared.clone();
                let name = format!("web-rwkv {i}");
                thread::Builder::new().name(name).spawn(move || shared.work()).ok()
            })
            .collect();
        Self { shared, workers, caller: Mutex::new(()) }
    }

    pub(crate) fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs `f(0)` to `f(tasks - 1)`, each once, on all threads. A call while another one is under way
    /// (from another thread) does its tasks alone.
    pub(crate) fn run(&self, tasks: usize, f: impl Fn(usize) + Sync) {
        let guard = (tasks > 1 && !self.workers.is_empty()).then(|| self.caller.try_lock().ok()).flatten();
        if guard.is_none() {
            (0..tasks).for_each(f);
            return;
        }
        let shared = &*self.shared;
        let task: Task<'_> = &f;
        // SAFETY: only the lifetime changes. Workers use the task between joining an open step and
        // leaving it, and this function closes the step and waits for them before it returns or unwinds.
        let task: Task<'static> = unsafe { mem::transmute(task) };
        let mut task = task;
        shared.task.store(&mut task, Relaxed);
        shared.next.store(0, Relaxed);
        shared.tasks.store(tasks, Relaxed);
        let step = (shared.state.load(Relaxed) / STEP).wrapping_add(1).wrapping_mul(STEP);
        shared.state.store(step | OPEN, SeqCst);
        if shared.sleepers.load(SeqCst) > 0 {
            drop(shared.lock.lock());
            shared.wake.notify_all();
        }
        let close = Close(shared);
        shared.claim(&f);
        drop(close);
        assert!(!shared.panicked.swap(false, Relaxed), "a worker panicked");
    }
}

struct Close<'a>(&'a Shared);

impl Drop for Close<'_> {
    fn drop(&mut self) {
        self.0.next.fetch_max(self.0.tasks.load(Relaxed), Relaxed);
        self.0.state.fetch_and(!OPEN, AcqRel);
        let mut spins = 0;
        while !self.0.state.load(Acquire).is_multiple_of(STEP) {
            spins += 1;
            if spins % 10_000 == 0 { thread::yield_now() } else { hint::spin_loop() }
        }
    }
}

impl Shared {
    fn claim(&self, f: Task<'_>) {
        loop {
            let i = self.next.fetch_add(1, Relaxed);
            if i >= self.tasks.load(Relaxed) {
                return;
            }
            f(i);
        }
    }

    fn work(&self) {
        let (mut seen, mut spins) = (0, 0);
        while !self.stop.load(Relaxed) {
            let state = self.state.load(Acquire);
            if state & OPEN == 0 || state / STEP == seen {
                spins += 1;
                if spins < SPINS {
                    hint::spin_loop()
                } else {
                    self.sleep(seen)
                }
                continue;
            }
            if self.state.compare_exchange(state, state + WORKER, AcqRel, Relaxed).is_err() {
                continue;
            }
            (seen, spins) = (state / STEP, 0);
            // SAFETY: the step was open and counts this worker, so its caller keeps the task alive.
            let task = unsafe { *self.task.load(Relaxed) };
            if std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.claim(task))).is_err() {
                self.panicked.store(true, Relaxed);
            }
            self.state.fetch_sub(WORKER, AcqRel);
        }
    }

    fn sleep(&self, seen: u64) {
        self.sleepers.fetch_add(1, SeqCst);
        let mut guard = self.lock.lock().expect("no holder of this lock panics");
        let idle = || {
            let state = self.state.load(SeqCst);
            state & OPEN == 0 || state / STEP == seen
        };
        while idle() && !self.stop.load(Relaxed) {
            guard = self.wake.wait(guard).expect("no holder of this lock panics");
        }
        drop(guard);
        self.sleepers.fetch_sub(1, SeqCst);
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, SeqCst);
        drop(self.shared.lock.lock());
        self.shared.wake.notify_all();
        for worker in self.workers.drain(..) {
            worker.join().ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once() {
        let pool = Pool::new(3);
        for step in 0..20_000 {
            let tasks = step % 7;
            let counts: Vec<_> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
            pool.run(tasks, |i| {
                counts[i].fetch_add(1, Relaxed);
            });
            assert!(counts.iter().all(|c| c.load(Relaxed) == 1), "step {step}");
            if step % 5_000 == 0 {
                thread::sleep(std::time::Duration::from_millis(5)); // workers fall asleep
            }
        }
    }

    #[test]
    fn several_callers_share_a_pool() {
        let pool = Pool::new(2);
        thread::scope(|s| {
            for _ in 0..4 {
                s.spawn(|| {
                    for _ in 0..2_000 {
                        let sum = AtomicUsize::new(0);
                        pool.run(10, |i| {
                            sum.fetch_add(i, Relaxed);
                        });
                        assert_eq!(sum.into_inner(), 45);
                    }
                });
            }
        });
    }
}
