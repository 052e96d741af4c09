//! From arguments, environment and configuration file to one text per flag, and from text to typed values. Knows the flag
//! table, not the meaning of flags.

use super::file::{self, Problem};
use super::flags::{self, FLAGS, Flag, Status};
use crate::StartError;
use std::collections::HashMap;
use std::ffi::OsString;
use std::io::Read;
use std::time::Duration;

/// What asked for a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The command line.
    Flag,
    /// `QUORATE_...`
    QuorateEnv,
    /// `ETCD_...`
    EtcdEnv,
    /// The configuration file, at this line.
    File {
        /// From 1.
        line: usize,
    },
}

/// Every flag that was set, as text.
#[derive(Debug, Default)]
pub struct Settings {
    values: HashMap<&'static str, (String, Source)>,
    /// The configuration file, if there is one.
    file: Option<String>,
    /// What the log should say once there is one.
    pub warnings: Vec<String>,
}

impl Settings {
    /// Reads arguments (without the program's name) and environment. A flag beats `QUORATE_...` beats `ETCD_...`; a
    /// configuration file, as in etcd, is all that counts.
    pub fn read(
        args: impl IntoIterator<Item = OsString>,
        env: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, StartError> {
        let args = std::iter::once(OsString::from("quorate server")).chain(args.into_iter().map(double_dash));
        let matches = flags::command().try_get_matches_from(args).map_err(StartError::Usage)?;
        let given = |flag: &&Flag| {
            (matches.value_source(flag.name) == Some(clap::parser::ValueSource::CommandLine))
                .then(|| matches.get_one::<String>(flag.name).cloned().map(|value| (flag.name, value)))
                .flatten()
        };
        let given: Vec<_> = FLAGS.iter().filter_map(|flag| given(&flag)).collect();
        let mut env: Vec<_> = env.into_iter().collect();
        // The environment has no order of its own; errors and warnings must not depend on it.
        env.sort();
        if let Some(path) = config_file(&given, &env) {
            let mut settings = Self::read_file(&path)?;
            let others = ignored(&given, &env);
            if !others.is_empty() {
                let names = others.join(", ");
                settings.warnings.push(format!("{path} is all that counts, as in etcd: {names} are ignored"));
            }
            return Ok(settings);
        }
        let mut settings = Self::default();
        settings.read_env(env)?;
        for (name, value) in given {
            if let Some(flag) = flags::find(name) {
                settings.set(flag, value, Source::Flag)?;
            }
        }
        Ok(settings)
    }

    /// Reads a configuration file, and nothing else.
    ///
    /// # Errors
    /// [`StartError::Config`] with one line for each problem: `path:line: text`.
    pub fn read_file(path: &str) -> Result<Self, StartError> {
        let cannot = |error| StartError::config(format!("cannot read the configuration file {path}: {error}"));
        let mut bytes = Vec::new();
        // One byte more than is allowed shows that there is too much, without reading all of it.
        let file = std::fs::File::open(path).map_err(cannot)?;
        file.take(file::FILE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes).map_err(cannot)?;
        let text = String::from_utf8(bytes).map_err(|_| StartError::config(format!("{path}: it is not UTF-8")))?;
        let located = |problem: &Problem| format!("{path}:{problem}");
        let contents = file::read(&text)
            .map_err(|problems| StartError::config(problems.iter().map(located).collect::<Vec<_>>().join("\n")))?;
        let mut settings = Self { file: Some(path.to_owned()), ..Self::default() };
        settings.warnings.extend(contents.warnings.iter().map(located));
        for entry in contents.entries {
            let line = entry.line;
            settings
                .set(entry.flag, entry.value, Source::File { line })
                .map_err(|error| StartError::config(format!("{path}:{line}: {error}")))?;
        }
        Ok(settings)
    }

    /// Says of an error about a flag, which begins with its name, where the file sets it.
    pub fn locate(&self, error: StartError) -> StartError {
        let (StartError::Config(text), Some(path)) = (&error, &self.file) else { return error };
        let name = text.strip_prefix("--").map(|rest| rest.split([':', ' ', '[']).next().unwrap_or_default());
        match name.and_then(|name| self.values.get(name)) {
            Some((_, Source::File { line })) => StartError::config(format!("{path}:{line}: {text}")),
            Some(_) | None => StartError::config(format!("{path}: {text}")),
        }
    }

    /// Where the value of a flag comes from, in words for people: `--name`, `ETCD_NAME`, `etcd.yaml:3`, or `default`.
    pub fn origin(&self, name: &str) -> String {
        let variable = || name.to_ascii_uppercase().replace('-', "_");
        match (self.values.get(name), &self.file) {
            (None, _) => "default".to_owned(),
            (Some((_, Source::Flag)), _) => format!("--{name}"),
            (Some((_, Source::QuorateEnv)), _) => format!("QUORATE_{}", variable()),
            (Some((_, Source::EtcdEnv)), _) => format!("ETCD_{}", variable()),
            (Some((_, Source::File { line })), path) => format!("{}:{line}", path.as_deref().unwrap_or_default()),
        }
    }

    fn read_env(&mut self, env: Vec<(String, String)>) -> Result<(), StartError> {
        for (variable, value) in env {
            let Some((name, source)) = flag_of_variable(&variable) else { continue };
            match flags::find(&name) {
                Some(flag) => self.set(flag, value, source)?,
                None => {
                    let hint = file::nearest(&name, FLAGS.iter().map(|flag| flag.name));
                    let hint = hint.map(|name| format!("; did you mean --{name}?")).unwrap_or_default();
                    self.warnings.push(format!("{variable} is set and names no flag: it is ignored{hint}"));
                }
            }
        }
        Ok(())
    }

    /// Sets a flag, as if it had been given by its own name.
    pub fn choose(&mut self, name: &str, value: &str) -> Result<(), StartError> {
        let flag = flags::find(name).ok_or_else(|| StartError::config(format!("--{name}: no such flag")))?;
        self.set(flag, value.to_owned(), Source::Flag)
    }

    fn set(&mut self, flag: &'static Flag, value: String, source: Source) -> Result<(), StartError> {
        // As in etcd, an empty variable is one that is not set.
        if value.is_empty() && source != Source::Flag {
            return Ok(());
        }
        match flag.status {
            Status::Used => {}
            Status::Alias(of) => {
                let target = flags::find(of).ok_or_else(|| StartError::config(format!("--{of}: no such flag")))?;
                if let Status::Inert(why) = target.status {
                    self.warnings.push(format!("--{} changes nothing here: {why}", flag.name));
                    return Ok(());
                }
                self.warnings.push(format!("--{} is an old name of --{of}", flag.name));
                return self.set(target, value, source);
            }
            Status::Inert(why) => {
                self.warnings.push(format!("--{} changes nothing here: {why}", flag.name));
                return Ok(());
            }
            Status::Refused { accepts, .. } if value == accepts => return Ok(()),
            Status::Refused { why, .. } => return Err(StartError::config(format!("--{}: {why}", flag.name))),
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
        let wrong = |what: &str| StartError::config(format!("--{name}: {text:?} {what}"));
        let number = text.parse::<i64>().map_err(|_| match name.ends_with("bytes") {
            true => wrong("is not a number of bytes: digits alone, as 8589934592 for 8 GiB"),
            false => wrong("is not a whole number"),
        })?;
        T::try_from(number).map_err(|_| wrong("is out of range"))
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

/// The flag that a variable names, whether there is one or not, and whose variable it is.
fn flag_of_variable(variable: &str) -> Option<(String, Source)> {
    let (name, source) = match (variable.strip_prefix("ETCD_"), variable.strip_prefix("QUORATE_")) {
        (Some(name), _) => (name, Source::EtcdEnv),
        (None, Some(name)) => (name, Source::QuorateEnv),
        (None, None) => return None,
    };
    Some((name.to_ascii_lowercase().replace('_', "-"), source))
}

/// The configuration file that is asked for: by the flag, or by a variable.
fn config_file(given: &[(&str, String)], env: &[(String, String)]) -> Option<String> {
    let variable = |name: &str| env.iter().find(|(variable, value)| variable == name && !value.is_empty());
    let flag = given.iter().find(|(name, value)| *name == "config-file" && !value.is_empty());
    flag.map(|(_, value)| value)
        .or_else(|| variable("QUORATE_CONFIG_FILE").or_else(|| variable("ETCD_CONFIG_FILE")).map(|(_, value)| value))
        .cloned()
}

/// What was given beside a configuration file.
fn ignored(given: &[(&str, String)], env: &[(String, String)]) -> Vec<String> {
    let flags = given.iter().filter(|(name, _)| *name != "config-file").map(|(name, _)| format!("--{name}"));
    let names_flag = |variable: &str| {
        flag_of_variable(variable).is_some_and(|(name, _)| name != "config-file" && flags::find(&name).is_some())
    };
    let variables = env.iter().filter(|(variable, value)| !value.is_empty() && names_flag(variable));
    flags.chain(variables.map(|(variable, _)| variable.clone())).collect()
}

/// Go's flag package takes `-flag` for `--flag`; clap does not.
fn double_dash(arg: OsString) -> OsString {
    match arg.to_str() {
        Some(text) if text.len() > 1 && text.starts_with('-') && !text.starts_with("--") => {
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
            (&["-v", "--pre-vote=false"], false),
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
        let error = read(&["--proxy=on"], &[]).unwrap_err().to_string();
        assert_eq!(error, "--proxy: there is no v2 proxy, and a member would start in its place");
        assert!(read(&["--proxy=off"], &[("ETCD_FORCE_NEW_CLUSTER_BUMP_AMOUNT", "0")]).is_ok());
        assert!(read(&[], &[("ETCD_DISCOVERY", "https://discovery.example.org/x")]).is_err());
    }

    fn write(text: &str) -> (tempfile::TempDir, String) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("q.yaml");
        std::fs::write(&path, text).unwrap();
        (dir, path.to_str().unwrap().to_owned())
    }

    #[test]
    fn a_configuration_file_is_all_that_counts() {
        let (_dir, path) = write("name: f\nwatch-progress-notify-interval: 5000000000\n");
        for (args, env) in [
            (&["--config-file", &path, "--name=g"][..], &[("ETCD_DATA_DIR", "e")][..]),
            (&["--name=g"], &[("ETCD_CONFIG_FILE", path.as_str()), ("ETCD_DATA_DIR", "e")]),
            (&["--name=g"], &[("QUORATE_CONFIG_FILE", path.as_str()), ("ETCD_DATA_DIR", "e")]),
        ] {
            let settings = read(args, env).unwrap();
            assert_eq!((settings.text("name"), settings.text("data-dir")), ("f", "${name}.etcd"));
            assert_eq!(settings.duration("watch-progress-notify-interval").unwrap(), Duration::from_secs(5));
            assert_eq!(settings.origin("name"), format!("{path}:1"));
            assert_eq!(settings.origin("data-dir"), "default");
            assert_eq!(
                settings.warnings,
                [format!("{path} is all that counts, as in etcd: --name, ETCD_DATA_DIR are ignored")]
            );
        }
    }

    #[test]
    fn errors_of_a_file_name_its_line() {
        let (_dir, path) = write("name: f\n\nnam: g\nheartbeat-interval: x\n");
        assert_eq!(
            Settings::read_file(&path).unwrap_err().to_string(),
            format!(
                "{path}:3: unknown key nam; did you mean name?\n{path}:4: heartbeat-interval: \"x\" is not a whole number"
            )
        );
        let (_dir, path) = write("name: f\nmax-connections: 0\n");
        let error = crate::ServerConfig::parse([format!("--config-file={path}").into()], []).unwrap_err();
        assert_eq!(error.to_string(), format!("{path}:2: --max-connections must be at least 1"));
        let error = Settings::read_file("/nonexistent/q.yaml").unwrap_err().to_string();
        assert!(error.starts_with("cannot read the configuration file /nonexistent/q.yaml: No such file"), "{error}");
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
    fn an_old_name_of_an_inert_flag_says_why_in_one_line() {
        let settings = read(&["--experimental-snapshot-catchup-entries=5"], &[("ETCD_ENABLE_V2", "true")]).unwrap();
        assert_eq!(
            settings.warnings,
            [
                "--enable-v2 changes nothing here: there is no v2 store",
                "--experimental-snapshot-catchup-entries changes nothing here: the log is kept by size; see --wal-keep-bytes"
            ]
        );
    }

    #[test]
    fn an_old_name_sets_the_new_one() {
        let settings = read(&["--experimental-watch-progress-notify-interval=5s"], &[]).unwrap();
        assert_eq!(settings.duration("watch-progress-notify-interval").unwrap(), Duration::from_secs(5));
    }
}
