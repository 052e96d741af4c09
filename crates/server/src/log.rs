//! The log of the process: JSON lines or text, on one stream.

use crate::config::{LogFormat, LogOutput, ServerConfig};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::writer::BoxMakeWriter;

/// Starts the log. A process that has one already keeps it.
pub fn start(config: &ServerConfig) {
    let writer = match config.log_output {
        LogOutput::Stderr => BoxMakeWriter::new(std::io::stderr),
        LogOutput::Stdout => BoxMakeWriter::new(std::io::stdout),
    };
    // At debug level the network stack would say far more than we do. openraft's warnings are for whoever works on it: what an
    // operator has to know of them, the node says itself.
    let level = config.log_level.as_str().to_ascii_lowercase();
    let filter = EnvFilter::new(format!(
        "warn,openraft=error,quorate={level},quorate_server={level},quorate_node={level},quorate_storage={level},quorate_wal={level}"
    ));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer).with_ansi(false);
    let started = match config.log_format {
        LogFormat::Json => builder.json().flatten_event(true).with_current_span(false).with_span_list(false).try_init(),
        LogFormat::Text => builder.try_init(),
    };
    // An embedding program may have its own log.
    drop(started);
}
