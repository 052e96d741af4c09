//! Why the server did not start, or stopped by itself.

/// Why the server did not start, or stopped by itself. `Display` is one line that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The arguments do not parse; or help or version was asked for. clap knows the text and the exit code.
    #[error("{0}")]
    Usage(clap::Error),
    /// A flag's value cannot be.
    #[error("{0}")]
    Config(String),
    /// An address cannot be listened on.
    #[error("cannot listen on {url}: {} (--{flag})", quorate_node::urls::why_not_listening(source))]
    Listen {
        /// The flag that gave the address.
        flag: &'static str,
        /// The address.
        url: String,
        /// The reason.
        source: std::io::Error,
    },
    /// The runtime or the signal handlers could not be set up.
    #[error("cannot set up the process: {0}")]
    Process(std::io::Error),
    /// The node did not start, or stopped by itself.
    #[error("{0}")]
    Node(quorate_node::Error),
}

impl StartError {
    pub(crate) fn config(text: impl Into<String>) -> Self {
        Self::Config(text.into())
    }

    /// The exit code of a process that ends with this.
    pub fn exit_code(&self) -> u8 {
        match self {
            // Asking for help is no failure.
            Self::Usage(error) => u8::try_from(error.exit_code()).unwrap_or(2),
            Self::Config(_) => 2,
            Self::Listen { .. } | Self::Process(_) | Self::Node(_) => 1,
        }
    }
}
