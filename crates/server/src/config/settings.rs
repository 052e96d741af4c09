//! From arguments and environment to one text per flag, and from text to typed values. Knows the flag table, not the
//! meaning of flags.

use super::flags::{self, FLAGS, Flag, Status};
use crate::StartError;
use std::collections::HashMap;
use std::ffi::OsString;
use std::time::Duration;

/// What asked for a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Flag,
    QuorateEnv,
    EtcdEnv,
}

/// Every flag that was set, as text.
#[derive(Debug, Default)]
pub struct Settings {
    values: HashMap<&'static str, (String, Source)>,
    /// What the log should say once there is one.
    pub warnings: Vec<String>,
}

impl Settings {
    /// Reads arguments (without the program's name) and environment. A flag beats `QUORATE_...` beats `ETCD_...`.
    pub fn read(
        args: impl IntoIterator<Item = OsString>,
        env: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, StartError> {
        let args = std::iter::once(OsString::from("quorate server")).chain(args.into_iter().map(double_dash));
        let matches = flags::command().try_get_matches_from(args).map_err(StartError::Usage)?;
        let mut settings = Self::default();
        settings.read_env(env)?;
        for flag in FLAGS {
            if matches.value_source(flag.name) == Some(clap::parser::ValueSource::CommandLine)
                && let Some(value) = matches.get_one::<String>(flag.name)
            {
                settings.set(flag, value.clone(), Source::Flag)?;
            }
        }
        Ok(settings)
    }

    fn read_env(&mut self, env: impl IntoIterator<Item = (String, String)>) -> Result<(), StartError> {
        let mut env: Vec<_> = env.into_iter().collect();
        // The environment has no order of its own; errors and warnings must not depend on it.
        env.sort();
        for (variable, value) in env {
            let (name, source) = if let Some(name) = variable.strip_prefix("ETCD_") {
                (name, Source::EtcdEnv)
            } else if let Some(name) = variable.strip_prefix("QUORATE_") {
                (name, Source::QuorateEnv)
            } else {
                continue;
            };
            match flags::find(&name.to_ascii_lowercase().replace('_', "-")) {
                Some(flag) => self.set(flag, value, source)?,
                None => self.warnings.push(format!("{variable} is set and names no flag: it is ignored")),
            }
        }
        Ok(())
    }

    fn set(&mut self, flag: &'static Flag, value: String, source: Source) -> Result<(), StartError> {
        // As in etcd, an empty variable is one that is not set.
        if value.is_empty() && source != Source::Flag {
            return Ok(());
        }
        match flag.status {
            Status::Used => {}
            Status::Alias(of) => {
                self.warnings.push(format!("--{} is an old name of --{of}", flag.name));
                let target = flags::find(of).ok_or_else(|| StartError::config(format!("--{of}: no such flag")))?;
                return self.set(target, value, source);
            }
            Status::Inert(why) => {
                self.warnings.push(format!("--{} changes nothing here: {why}", flag.name));
                return Ok(());
            }
            Status::NotYet { accepts, hint } => {
                return if value == accepts {
                    Ok(())
                } else {
                    Err(StartError::config(format!("--{}: {hint}", flag.name)))
                };
            }
        }
        match self.values.get(flag.name) {
            // A weaker source does not overwrite a stronger one, in whatever order they come.
            Some((_, Source::Flag)) if source != Source::Flag => {}
            Some((_, Source::QuorateEnv)) if source == Source::EtcdEnv => {}
            Some(_) | None => {
                self.values.insert(flag.name, (value, source));
            }
        }
        Ok(())
    }

    /// Whether the flag was set at all.
    pub fn is_set(&self, name: &str) -> bool {
        self.values.contains_key(name)
    }

    /// The value, or the default of the table.
    pub fn text(&self, name: &str) -> &str {
        match self.values.get(name) {
            Some((value, _)) => value,
            None => flags::find(name).map_or("", |flag| flag.default),
        }
    }

    /// The value of a `Bool` flag. Takes what Go's flag package takes.
    pub fn boolean(&self, name: &str) -> Result<bool, StartError> {
        match self.text(name) {
            "true" | "1" | "t" | "T" | "TRUE" | "True" => Ok(true),
            "false" | "0" | "f" | "F" | "FALSE" | "False" => Ok(false),
            other => Err(StartError::config(format!("--{name}: {other:?} is neither true nor false"))),
        }
    }

    /// The value of an `Integer` flag, if it fits `T`.
    pub fn integer<T: TryFrom<i64>>(&self, name: &str) -> Result<T, StartError> {
        let text = self.text(name);
        text.parse::<i64>()
            .ok()
            .and_then(|number| T::try_from(number).ok())
            .ok_or_else(|| StartError::config(format!("--{name}: {text:?} is not a number in range")))
    }

    /// The value of a `Bytes` flag.
    pub fn bytes(&self, name: &str) -> Result<usize, StartError> {
        self.integer(name)
    }

    /// The value of a `Duration` flag.
    pub fn duration(&self, name: &str) -> Result<Duration, StartError> {
        let text = self.text(name);
        parse_duration(text).ok_or_else(|| {
            StartError::config(format!("--{name}: {text:?} is not a duration such as 300ms, 5s or 1h30m"))
        })
    }

    /// The value of a list, split at commas, without empty parts.
    pub fn list(&self, name: &str) -> Vec<String> {
        self.text(name).split(',').map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect()
    }
}

/// Go's flag package takes `-flag` for `--flag`; clap does not.
fn double_dash(arg: OsString) -> OsString {
    match arg.to_str() {
        Some(text) if text.len() > 2 && text.starts_with('-') && !text.starts_with("--") => {
            let name = text[1..].split('=').next().unwrap_or_default();
            if flags::find(name).is_some() || matches!(name, "help" | "version") {
                format!("-{text}").into()
            } else {
                arg
            }
        }
        _ => arg,
    }
}

/// Parses Go's notation for a duration that is not negative: a sum of numbers with units, or a bare 0.
pub fn parse_duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut total = 0f64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let seconds = match &rest[..unit] {
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        total += number * seconds;
        rest = &rest[unit..];
    }
    if text.is_empty() { None } else { Duration::try_from_secs_f64(total).ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(args: &[&str], env: &[(&str, &str)]) -> Result<Settings, StartError> {
        Settings::read(
            args.iter().map(OsString::from),
            env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
        )
    }

    #[test]
    fn durations_are_read_as_go_reads_them() {
        for (text, millis) in [("0", Some(0)), ("300ms", Some(300)), ("1h30m", Some(5_400_000)), ("1.5s", Some(1500))] {
            assert_eq!(parse_duration(text).map(|d| d.as_millis()), millis, "{text}");
        }
        for text in ["", "5", "s", "5x", "-1s", "1s5", "1..2s"] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }

    #[test]
    fn all_ways_to_write_a_flag_are_the_same() {
        for args in [&["--name=a"][..], &["--name", "a"], &["-name=a"], &["-name", "a"], &["--name=b", "--name=a"]] {
            assert_eq!(read(args, &[]).unwrap().text("name"), "a", "{args:?}");
        }
    }

    #[test]
    fn a_boolean_flag_may_stand_alone() {
        for (args, expected) in [
            (&["--pre-vote"][..], true),
            (&["--pre-vote=false"], false),
            (&["-pre-vote=0"], false),
            (&["--pre-vote", "--name=a"], true),
            (&[], true),
        ] {
            assert_eq!(read(args, &[]).unwrap().boolean("pre-vote").unwrap(), expected, "{args:?}");
        }
    }

    #[test]
    fn flag_beats_quorate_beats_etcd() {
        let env = [("QUORATE_NAME", "q"), ("ETCD_NAME", "e"), ("ETCD_DATA_DIR", "d"), ("ETCD_LOG_LEVEL", "")];
        let settings = read(&["--name=f"], &env).unwrap();
        assert_eq!((settings.text("name"), settings.text("data-dir")), ("f", "d"));
        let settings = read(&[], &env).unwrap();
        assert_eq!((settings.text("name"), settings.text("log-level")), ("q", "info"));
    }

    #[test]
    fn an_unknown_variable_warns_and_an_unknown_flag_fails_with_the_nearest_name() {
        assert_eq!(read(&[], &[("ETCD_NONSENSE", "1")]).unwrap().warnings.len(), 1);
        let error = read(&["--listen-client-url=http://localhost:1"], &[]).unwrap_err().to_string();
        assert!(error.contains("--listen-client-urls"), "{error}");
    }

    #[test]
    fn what_is_not_there_is_refused_unless_it_asks_for_nothing() {
        let error = read(&["--cert-file=x.pem"], &[]).unwrap_err().to_string();
        assert_eq!(error, "--cert-file: TLS is not there yet: serve on loopback or behind a TLS proxy");
        assert!(
            read(&["--auto-tls=false", "--enable-grpc-gateway=false"], &[("ETCD_CLIENT_CERT_AUTH", "false")]).is_ok()
        );
        assert!(read(&[], &[("ETCD_CLIENT_CERT_AUTH", "true")]).is_err());
    }

    #[test]
    fn an_inert_flag_says_why() {
        let settings = read(&["--snapshot-count=10000"], &[]).unwrap();
        assert_eq!(
            settings.warnings,
            ["--snapshot-count changes nothing here: the log is kept by size; see --wal-keep-bytes"]
        );
    }

    #[test]
    fn an_old_name_sets_the_new_one() {
        let settings = read(&["--experimental-watch-progress-notify-interval=5s"], &[]).unwrap();
        assert_eq!(settings.duration("watch-progress-notify-interval").unwrap(), Duration::from_secs(5));
    }
}
