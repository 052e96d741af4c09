//! An engine of others that panics where its files are not what it wrote: the panic becomes [`EngineError::Corrupt`].
//!
//! Engines trust their files further than they check them. After a panic nothing is asked of the engine any more, not even to
//! close: what it holds is left alone, and what it had made durable stays as it is.
//!
//! This needs unwinding. A program that ends at every other panic, as a member has to, asks [`is_shielded`] in its panic hook.

use super::{Batch, DiskSpace, Engine, EngineUsage, Tell, Visit};
use crate::EngineError;
use bytes::Bytes;
use parking_lot::Mutex;
use std::any::Any;
use std::cell::Cell;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::PathBuf;

thread_local! {
    static SHIELDED: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread runs code of an engine whose panic is caught.
pub fn is_shielded() -> bool {
    SHIELDED.get()
}

/// Runs code of an engine. A panic of it is an error; one of ours that the engine has called goes on.
fn shielded<T>(place: &str, call: impl FnOnce() -> Result<T, EngineError>) -> Result<T, EngineError> {
    let before = SHIELDED.replace(true);
    let outcome = catch_unwind(AssertUnwindSafe(call));
    let was_ours = !SHIELDED.replace(before);
    match outcome {
        Ok(outcome) => outcome,
        Err(panic) if was_ours => resume_unwind(panic),
        Err(panic) => Err(EngineError::Corrupt { place: place.to_owned(), what: words(panic.as_ref()) }),
    }
}

/// Runs code of ours that an engine has called.
fn unshielded<T>(call: impl FnOnce() -> T) -> T {
    SHIELDED.set(false);
    let value = call();
    SHIELDED.set(true);
    value
}

fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    format!("the engine gave up reading it: {}", text.unwrap_or("it did not say why"))
}

/// An engine whose panics are errors.
pub(super) struct Shield<E: Engine> {
    /// `None` once it is being dropped.
    engine: Option<E>,
    place: String,
    /// What it panicked with.
    broken: Mutex<Option<String>>,
}

impl<E: Engine> Shield<E> {
    /// Opens the engine whose files are at `place`.
    pub(super) fn open(
        place: Option<PathBuf>,
        open: impl FnOnce() -> Result<E, EngineError>,
    ) -> Result<Self, EngineError> {
        let place = place.map_or_else(String::new, |path| path.display().to_string());
        let engine = shielded(&place, open)?;
        Ok(Self { engine: Some(engine), place, broken: Mutex::new(None) })
    }

    fn call<T>(&self, call: impl FnOnce(&E) -> Result<T, EngineError>) -> Result<T, EngineError> {
        let broken = self.broken.lock().clone();
        let (Some(engine), None) = (&self.engine, &broken) else {
            let what = broken.unwrap_or_else(|| "it is closed".to_owned());
            return Err(EngineError::Corrupt { place: self.place.clone(), what });
        };
        let mut has_panicked = true;
        let outcome = shielded(&self.place, || {
            let outcome = call(engine);
            has_panicked = false;
            outcome
        });
        if has_panicked && let Err(EngineError::Corrupt { what, .. }) = &outcome {
            self.broken.lock().get_or_insert_with(|| what.clone());
        }
        outcome
    }
}

impl<E: Engine> Drop for Shield<E> {
    fn drop(&mut self) {
        let engine = self.engine.take();
        if self.broken.get_mut().is_some() {
            // What it was doing when it panicked is half done: it must not write that down.
            std::mem::forget(engine);
            return;
        }
        let closed = shielded(&self.place, || {
            drop(engine);
            Ok(())
        });
        // What was flushed is on the disk, and whoever opens the files next finds out the same.
        let _ = closed;
    }
}

impl<E: Engine> Engine for Shield<E> {
    fn name(&self) -> &'static str {
        self.engine.as_ref().map_or("closed", E::name)
    }

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.call(|engine| engine.get(key))
    }

    fn scan(&self, from: &[u8], until: &[u8], visit: Visit<'_, ControlFlow<()>>) -> Result<(), EngineError> {
        self.call(|engine| engine.scan(from, until, &mut |key, value| unshielded(|| visit(key, value))))
    }

    fn write(&self, batch: &Batch) -> Result<(), EngineError> {
        self.call(|engine| engine.write(batch))
    }

    fn flush(&self) -> Result<(), EngineError> {
        self.call(E::flush)
    }

    fn usage(&self) -> Result<EngineUsage, EngineError> {
        self.call(E::usage)
    }

    fn disk(&self) -> Result<Option<DiskSpace>, EngineError> {
        self.call(E::disk)
    }

    fn compact(&self, progress: Tell<'_>) -> Result<(), EngineError> {
        self.call(|engine| engine.compact(&mut |done, total| unshielded(|| progress(done, total))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::MemoryEngine;
    use std::sync::atomic::{AtomicBool, Ordering};

    /// An engine that panics when it is told to, and notices when it is closed.
    struct Fragile<'a> {
        rows: MemoryEngine,
        panics: bool,
        closed: &'a AtomicBool,
    }

    impl Drop for Fragile<'_> {
        fn drop(&mut self) {
            self.closed.store(true, Ordering::Relaxed);
        }
    }

    impl Engine for Fragile<'_> {
        fn name(&self) -> &'static str {
            "fragile"
        }
        fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
            assert!(!self.panics, "page 7 is no page");
            self.rows.get(key)
        }
        fn scan(&self, from: &[u8], until: &[u8], visit: Visit<'_, ControlFlow<()>>) -> Result<(), EngineError> {
            self.rows.scan(from, until, visit)
        }
        fn write(&self, batch: &Batch) -> Result<(), EngineError> {
            self.rows.write(batch)
        }
        fn flush(&self) -> Result<(), EngineError> {
            self.rows.flush()
        }
        fn usage(&self) -> Result<EngineUsage, EngineError> {
            self.rows.usage()
        }
        fn compact(&self, progress: Tell<'_>) -> Result<(), EngineError> {
            self.rows.compact(progress)
        }
    }

    fn open(closed: &AtomicBool, panics: bool) -> Shield<Fragile<'_>> {
        let rows = MemoryEngine::default();
        let mut batch = Batch::default();
        batch.put(b"a".to_vec(), b"1".to_vec());
        rows.write(&batch).unwrap();
        Shield::open(Some(PathBuf::from("/data/fragile")), || Ok(Fragile { rows, panics, closed })).unwrap()
    }

    #[test]
    fn a_panic_is_an_error_with_the_place_and_the_last_that_is_asked() {
        let closed = AtomicBool::new(false);
        let engine = open(&closed, true);
        for error in [engine.get(b"a").unwrap_err(), engine.flush().unwrap_err()] {
            let text = error.to_string();
            assert!(matches!(error, EngineError::Corrupt { .. }), "{text}");
            assert!(text.contains("/data/fragile") && text.contains("page 7 is no page"), "{text}");
        }
        assert!(!is_shielded());
        drop(engine);
        assert!(!closed.load(Ordering::Relaxed), "it could write what is half done");
    }

    #[test]
    fn an_engine_that_is_well_works_and_is_closed() {
        let closed = AtomicBool::new(false);
        let engine = open(&closed, false);
        assert_eq!(engine.get(b"a").unwrap(), Some(Bytes::from_static(b"1")));
        drop(engine);
        assert!(closed.load(Ordering::Relaxed));
    }

    #[test]
    fn a_panic_of_the_visitor_is_not_the_engines() {
        let closed = AtomicBool::new(false);
        let engine = open(&closed, false);
        let visit = &mut |_: &[u8], _: &[u8]| {
            assert!(!is_shielded());
            panic!("ours")
        };
        let scan = || engine.scan(b"", b"z", visit);
        let panic = catch_unwind(AssertUnwindSafe(scan)).unwrap_err();
        assert_eq!(panic.downcast_ref::<&str>(), Some(&"ours"));
        assert!(!is_shielded());
        assert!(engine.get(b"a").is_ok(), "the engine is well");
    }

    #[test]
    fn a_panic_while_it_opens_is_an_error() {
        let path = Some(PathBuf::from("/data/fragile"));
        let opened = Shield::open(path, || -> Result<MemoryEngine, EngineError> { panic!("no header") });
        let error = opened.err().unwrap().to_string();
        assert!(error.contains("/data/fragile") && error.contains("no header"), "{error}");
    }
}
