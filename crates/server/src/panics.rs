//! What a panic does to the process: it ends it. A member that goes on without one of its tasks would be worse than none.
//!
//! Those of a storage engine over damaged files are the exception: they are caught where the engine is called, and become errors
//! with the place.

use std::panic::PanicHookInfo;

/// Sets the hook. Once, at the start.
pub fn install() {
    let tell = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if quorate_node::is_engine_panic() {
            let at = panic.location().map(ToString::to_string);
            tracing::error!(what = words(panic), at, "the storage engine cannot make sense of its files");
            return;
        }
        tell(panic);
        eprintln!("quorate: this is a bug, and the process cannot go on. Please report it with the lines above");
        std::process::abort();
    }));
}

fn words<'a>(panic: &'a PanicHookInfo<'_>) -> &'a str {
    panic.payload_as_str().unwrap_or("it did not say why")
}
