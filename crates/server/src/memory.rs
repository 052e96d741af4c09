//! Keeping the memory of the process out of swap (`--memory-mlock`).

use rustix::mm::{MlockAllFlags, mlockall};
use rustix::process::{Resource, getrlimit};
use rustix::thread::{CapabilitySet, capabilities};

/// Locks what the process has of memory and what it will have, each page once it is used.
///
/// # Errors
/// Why not, and what to do. A finite limit of locked memory is refused even if it is enough for now: beyond it, an
/// allocation would fail while the member serves, and that is the end of the process.
pub fn lock() -> Result<(), String> {
    let limit = getrlimit(Resource::Memlock).current;
    let may_pass = capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::IPC_LOCK));
    if let (Some(bytes), false) = (limit, may_pass) {
        return Err(format!(
            "this process may lock no more than {bytes} bytes of memory: lift the limit (LimitMEMLOCK=infinity in the \
             unit, ulimit -l unlimited), or give it CAP_IPC_LOCK"
        ));
    }
    mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT)
        .map_err(|error| format!("cannot lock memory: {error}"))
}
