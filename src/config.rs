//! The configuration tree: defaults, file, environment, flags, in rising order of precedence.
//!
//! Everything that is wrong is reported at once: unknown keys, and values that cannot be, each with
//! where it came from and what is allowed. The only module that reads environment variables.

mod security;
mod setting;
mod web;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use bytesize::ByteSize;

use crate::authorization;
use crate::embedded;
use crate::identity;
use crate::model::Origins;
use crate::model::limits::{
    DEFAULT_COMMAND_RETENTION, MAX_COMMAND_RETENTION, MAX_REQUEST_BYTES, MIN_COMMAND_RETENTION,
};
use crate::telemetry::{self, Log, LogFormat};
use crate::tls;

pub use self::setting::Setting;

/// What environment variables of the server begin with. `storage.segment_size` is
/// `COLUMBA_STORAGE_SEGMENT_SIZE`.
const ENV_PREFIX: &str = "COLUMBA_";
/// The environment variable that names the configuration file.
const ENV_FILE: &str = "COLUMBA_CONFIG";
/// Variables with the prefix that are not the server's: Kubernetes sets them for a Service of that
/// name, and the client commands have their own and give some to programs.
const FOREIGN_ENV: [&str; 7] = [
    "COLUMBA_PORT",
    "COLUMBA_SERVICE_",
    "COLUMBA_SERVER",
    "COLUMBA_CLIENT_",
    "COLUMBA_TOKEN",
    "COLUMBA_COMMAND_",
    "COLUMBA_QUERY_",
];

/// The whole configuration of a server.
#[derive(Debug, Clone)]
pub struct Config {
    /// `listen`: where the API listens. Default: 127.0.0.1:7171.
    pub listen: SocketAddr,
    /// `admin_listen`: where probes and `/metrics` are answered. Default: 127.0.0.1:7172.
    pub admin_listen: SocketAddr,
    /// `data_dir`: where the embedded engine keeps its log. Default: ./columba-data.
    pub data_dir: PathBuf,
    /// `insecure`: allows addresses that other machines can reach, although TLS or identity is
    /// missing. Default: false.
    pub insecure: bool,
    /// `log`: what is logged, and how.
    pub log: Log,
    /// `storage`: the embedded engine's settings: `segment_size` (32 MiB to 1 GiB),
    /// `tail_cache_size` (1 MiB to 64 GiB), `write_queue_size` (17 MiB to 16 GiB) and `disk_reserve`
    /// (0 to 1 TiB).
    pub storage: embedded::Options,
    /// `shutdown`: how the server stops.
    pub shutdown: Shutdown,
    /// `limits`: what the server takes.
    pub limits: Limits,
    /// `commands`: how commands are kept.
    pub commands: Commands,
    /// `tls`: `certificate`, `key`, `client_ca` and `client_certificate`. Default: no TLS.
    pub tls: Option<tls::Settings>,
    /// `identity`: `tokens`, `jwt`, `open_health` and `open_reflection`. Default: no identity.
    pub identity: identity::Settings,
    /// `authorization`: `rules` or, with identity, `allow_all`. Default: neither, which identity needs one of.
    pub authorization: authorization::Settings,
    /// `web.origins`: whose pages in browsers may call, by gRPC-Web. Default: nobody's, and the API speaks
    /// HTTP/2 only.
    pub web: Option<Origins>,
}

/// How commands are kept.
#[derive(Debug, Clone)]
pub struct Commands {
    /// `commands.retention`: how long the execution of a command is kept after its end, 1 min to 30 days.
    /// Default: 24 h.
    pub retention: Duration,
}

/// How the server stops.
#[derive(Debug, Clone)]
pub struct Shutdown {
    /// `shutdown.deadline`: how long stopping may take, 1 s to 1 h. Default: 25 s.
    pub deadline: Duration,
}

/// What the server takes.
#[derive(Debug, Clone)]
pub struct Limits {
    /// `limits.connections`: connections open at once, 1 to 1,000,000. Default: 10,000.
    pub connections: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 7171)),
            admin_listen: SocketAddr::from(([127, 0, 0, 1], 7172)),
            data_dir: PathBuf::from("./columba-data"),
            insecure: false,
            log: Log { level: "info".into(), format: LogFormat::Text },
            storage: embedded::Options::default(),
            shutdown: Shutdown { deadline: Duration::from_secs(25) },
            limits: Limits { connections: 10_000 },
            commands: Commands { retention: DEFAULT_COMMAND_RETENTION },
            tls: None,
            identity: identity::Settings::default(),
            authorization: authorization::Settings::default(),
            web: None,
        }
    }
}

/// All that is wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct Problems(pub Vec<String>);

/// Where the system looks for programs, as `PATH` says.
pub(crate) fn program_directories() -> Vec<PathBuf> {
    std::env::var_os("PATH").iter().flat_map(std::env::split_paths).collect()
}

impl Config {
    /// Loads the configuration of this process. `flags` are keys and values from the command line;
    /// without a `file`, `COLUMBA_CONFIG` may name one.
    pub fn load(file: Option<PathBuf>, flags: Vec<(&'static str, String)>) -> Result<Self, Problems> {
        Self::load_settings(file, flags).map(|(config, _)| config)
    }

    /// The same, with every setting as it was given.
    pub fn load_settings(
        file: Option<PathBuf>,
        flags: Vec<(&'static str, String)>,
    ) -> Result<(Self, Vec<Setting>), Problems> {
        let named = std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value)));
        let own = named.filter(|(name, _)| is_own(name) || name == ENV_FILE);
        let mut env = BTreeMap::new();
        for (name, value) in own {
            let no_text = |value: std::ffi::OsString| {
                format!("{name} is {}, which is not UTF-8; set it to text", value.display())
            };
            let value = value.into_string().map_err(|value| Problems(vec![no_text(value)]))?;
            env.insert(name, value);
        }
        let file = file.or_else(|| env.get(ENV_FILE).map(PathBuf::from));
        let file = match &file {
            Some(path) => Some((path.as_path(), read(path).map_err(|problem| Problems(vec![problem]))?)),
            None => None,
        };
        Self::layered_settings(file.as_ref().map(|(path, text)| (*path, text.as_str())), env, flags)
    }

    /// Puts the layers together, and leaves out how the settings were given.
    #[cfg(test)]
    fn layered(
        file: Option<(&Path, &str)>,
        env: BTreeMap<String, String>,
        flags: Vec<(&'static str, String)>,
    ) -> Result<Self, Problems> {
        Self::layered_settings(file, env, flags).map(|(config, _)| config)
    }

    /// Puts the layers together: a file's path and text, the environment, and flags.
    fn layered_settings(
        file: Option<(&Path, &str)>,
        env: BTreeMap<String, String>,
        flags: Vec<(&'static str, String)>,
    ) -> Result<(Self, Vec<Setting>), Problems> {
        let mut layers = Layers::new(file, env, flags);
        let defaults = Self::default();
        let config = Self {
            listen: layers.parsed("listen", defaults.listen, ADDRESS),
            admin_listen: layers.parsed("admin_listen", defaults.admin_listen, ADDRESS),
            data_dir: layers.take("data_dir", defaults.data_dir, "the path of a directory", |path| {
                (!path.is_empty()).then(|| PathBuf::from(path))
            }),
            insecure: layers.parsed("insecure", defaults.insecure, "true or false"),
            log: layers.log(defaults.log),
            storage: layers.storage(&defaults.storage),
            shutdown: Shutdown { deadline: layers.deadline(defaults.shutdown.deadline) },
            limits: Limits { connections: layers.connections(defaults.limits.connections) },
            commands: Commands { retention: layers.retention(defaults.commands.retention) },
            tls: layers.tls(),
            identity: layers.identity(&defaults.identity),
            authorization: layers.authorization(),
            web: layers.origins(),
        };
        layers.require_loopback(&config);
        layers.require_authorization(&config);
        layers.finish().map(|settings| (config, settings))
    }
}

const ADDRESS: &str = "an IP address and a port, such as 127.0.0.1:7171 or [::1]:7171";

fn read(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|error| {
        let advice = match error.kind() {
            std::io::ErrorKind::InvalidData => "save it as UTF-8",
            _ => "check the path and its permissions",
        };
        format!("cannot read the configuration file {}: {error}; {advice}", path.display())
    })
}

/// Where a value came from.
enum Origin {
    Flag,
    Env(String),
    File,
}

/// The layers, from which every known key is taken; what remains is unknown.
struct Layers {
    flags: BTreeMap<&'static str, String>,
    env: BTreeMap<String, String>,
    file: BTreeMap<String, String>,
    path: PathBuf,
    settings: Vec<Setting>,
    problems: Vec<String>,
}

impl Layers {
    fn new(
        file: Option<(&Path, &str)>,
        mut env: BTreeMap<String, String>,
        flags: Vec<(&'static str, String)>,
    ) -> Self {
        env.retain(|name, _| is_own(name));
        let flags = flags.into_iter().collect();
        let (path, text) = file.map_or((PathBuf::new(), ""), |(path, text)| (path.to_owned(), text));
        let mut layers =
            Self { flags, env, file: BTreeMap::new(), path, settings: Vec::new(), problems: Vec::new() };
        match toml::Table::from_str(text) {
            Ok(table) => layers.problems = flatten(table, "", &mut layers.file),
            Err(error) => {
                layers.problems.push(format!("{} is not TOML: {error}", layers.path.display()));
            }
        }
        layers
    }

    /// The value of a key from the highest layer that has it. What the others say must be possible, too.
    fn take<T: fmt::Debug>(
        &mut self,
        key: &'static str,
        default: T,
        allowed: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> T {
        let variable = format!("{ENV_PREFIX}{}", key.replace('.', "_").to_uppercase());
        let file = self.file.remove(key).map(|text| (text, Origin::File));
        let env = self.env.remove(&variable).map(|text| (text, Origin::Env(variable)));
        let flag = self.flags.remove(key).map(|text| (text, Origin::Flag));
        let mut setting = Setting::new(key, &default);
        let mut value = default;
        for (text, origin) in [file, env, flag].into_iter().flatten() {
            match parse(&text) {
                Some(parsed) => {
                    value = parsed;
                    setting.give(&text, self.origin(&origin));
                }
                None => self.refuse(key, &text, &origin, allowed),
            }
        }
        self.settings.push(setting);
        value
    }

    fn origin(&self, origin: &Origin) -> String {
        match origin {
            Origin::Flag => "from the command line".into(),
            Origin::Env(variable) => format!("from {variable}"),
            Origin::File => format!("from {}", self.path.display()),
        }
    }

    fn refuse(&mut self, key: &str, value: &str, origin: &Origin, allowed: &str) {
        let origin = self.origin(origin);
        self.problems.push(format!("{key} is {value:?} ({origin}); it must be {allowed}"));
    }

    fn parsed<T: FromStr + fmt::Debug>(&mut self, key: &'static str, default: T, allowed: &str) -> T {
        self.take(key, default, allowed, |text| text.parse().ok())
    }

    fn size(&mut self, key: &'static str, default: u64, allowed: RangeInclusive<ByteSize>) -> u64 {
        let described = format!("a size from {} to {}, such as 128MiB", allowed.start(), allowed.end());
        self.take(key, default, &described, |text| {
            text.parse().ok().filter(|size| allowed.contains(size)).map(|size| size.as_u64())
        })
    }

    fn log(&mut self, defaults: Log) -> Log {
        let levels = "error, warn, info, debug, trace, or a filter such as info,columba=debug";
        Log {
            level: self.take("log.level", defaults.level, levels, |text| {
                telemetry::is_filter(text).then(|| text.to_owned())
            }),
            format: self.take("log.format", defaults.format, "text or json", |text| match text {
                "text" => Some(LogFormat::Text),
                "json" => Some(LogFormat::Json),
                _ => None,
            }),
        }
    }

    fn storage(&mut self, defaults: &embedded::Options) -> embedded::Options {
        let in_memory = |size: u64| usize::try_from(size).unwrap_or(usize::MAX);
        let segments = ByteSize::mib(32)..=ByteSize::gib(1);
        let caches = ByteSize::mib(1)..=ByteSize::gib(64);
        // A queue must take the largest request.
        let queues = ByteSize::b(MAX_REQUEST_BYTES as u64)..=ByteSize::gib(16);
        let reserves = ByteSize::b(0)..=ByteSize::tib(1);
        embedded::Options {
            segment_bytes: self.size("storage.segment_size", defaults.segment_bytes, segments),
            tail_cache_bytes: in_memory(self.size(
                "storage.tail_cache_size",
                defaults.tail_cache_bytes as u64,
                caches,
            )),
            write_queue_bytes: in_memory(self.size(
                "storage.write_queue_size",
                defaults.write_queue_bytes as u64,
                queues,
            )),
            disk_reserve_bytes: self.size("storage.disk_reserve", defaults.disk_reserve_bytes, reserves),
            cleaning_period: defaults.cleaning_period,
        }
    }

    fn deadline(&mut self, default: Duration) -> Duration {
        let allowed = Duration::from_secs(1)..=Duration::from_hours(1);
        self.take("shutdown.deadline", default, "a time from 1s to 1h, such as 25s", |text| {
            humantime::parse_duration(text).ok().filter(|deadline| allowed.contains(deadline))
        })
    }

    fn retention(&mut self, default: Duration) -> Duration {
        let allowed = MIN_COMMAND_RETENTION..=MAX_COMMAND_RETENTION;
        self.take("commands.retention", default, "a time from 1m to 30d, such as 24h", |text| {
            humantime::parse_duration(text).ok().filter(|retention| allowed.contains(retention))
        })
    }

    fn connections(&mut self, default: usize) -> usize {
        self.take("limits.connections", default, "a number from 1 to 1000000", |text| {
            text.parse().ok().filter(|connections| (1..=1_000_000).contains(connections))
        })
    }

    /// Notes the keys that nobody took.
    fn finish(mut self) -> Result<Vec<Setting>, Problems> {
        let known: Vec<_> = self.settings.iter().map(Setting::key).collect();
        let known = known.join(", ");
        for key in self.file.keys() {
            let path = self.path.display();
            self.problems.push(format!("unknown key {key} in {path}; the keys are {known}"));
        }
        for variable in self.env.keys() {
            self.problems.push(format!(
                "unknown environment variable {variable}; variables are {ENV_PREFIX} and a key in capitals \
                 with '_' for '.', and the keys are {known}"
            ));
        }
        debug_assert!(self.flags.is_empty(), "flags without a key: {:?}", self.flags);
        if self.problems.is_empty() { Ok(self.settings) } else { Err(Problems(self.problems)) }
    }
}

/// Whether an environment variable is meant for the server's configuration.
fn is_own(name: &str) -> bool {
    let foreign = FOREIGN_ENV.iter().any(|foreign| name.starts_with(foreign));
    name.starts_with(ENV_PREFIX) && name != ENV_FILE && !foreign
}

/// The sections of the configuration file.
const SECTIONS: [&str; 10] = [
    "authorization",
    "commands",
    "identity",
    "identity.jwt",
    "limits",
    "log",
    "shutdown",
    "storage",
    "tls",
    "web",
];

/// Turns tables into dotted keys, and values into the text that a variable or a flag would have.
/// Returns what cannot be turned into either.
fn flatten(table: toml::Table, prefix: &str, flat: &mut BTreeMap<String, String>) -> Vec<String> {
    let mut problems = Vec::new();
    for (key, value) in table {
        let key = format!("{prefix}{key}");
        match value {
            toml::Value::Table(table) if table.is_empty() && !SECTIONS.contains(&&*key) => {
                let known = SECTIONS.join(", ");
                problems.push(format!("unknown section [{key}]; the sections are {known}"));
            }
            toml::Value::Table(table) => problems.extend(flatten(table, &format!("{key}."), flat)),
            toml::Value::Array(_) => problems.push(format!("{key} is a list; give it one value")),
            toml::Value::String(text) => _ = flat.insert(key, text),
            other => _ = flat.insert(key, other.to_string()),
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(file: &str, env: &[(&str, &str)], flags: &[(&'static str, &str)]) -> Result<Config, Problems> {
        Config::layered(
            Some((Path::new("columba.toml"), file)),
            env.iter().map(|&(name, value)| (name.into(), value.into())).collect(),
            flags.iter().map(|&(key, value)| (key, value.into())).collect(),
        )
    }

    #[test]
    fn flags_win_over_the_environment_over_the_file_over_defaults() {
        let file = "listen = '127.0.0.1:1'\nadmin_listen = '127.0.0.1:1'\nlimits.connections = 1\n";
        let env = [("COLUMBA_LISTEN", "127.0.0.1:2"), ("COLUMBA_ADMIN_LISTEN", "127.0.0.1:2")];
        let config = load(file, &env, &[("listen", "127.0.0.1:3")]).unwrap();
        assert_eq!(config.listen.port(), 3);
        assert_eq!(config.admin_listen.port(), 2);
        assert_eq!(config.limits.connections, 1);
        assert_eq!(config.shutdown.deadline, Duration::from_secs(25));
    }

    #[test]
    fn reads_sizes_times_and_sections() {
        let file = "[storage]\nsegment_size = '64MiB'\ndisk_reserve = 0\n[shutdown]\ndeadline = '3s'\n";
        let config = load(file, &[("COLUMBA_LOG_FORMAT", "json")], &[]).unwrap();
        assert_eq!(config.storage.segment_bytes, 64 << 20);
        assert_eq!(config.storage.disk_reserve_bytes, 0);
        assert_eq!(config.shutdown.deadline, Duration::from_secs(3));
        assert_eq!(config.log.format, LogFormat::Json);
    }

    #[test]
    fn reports_everything_that_is_wrong_at_once() {
        let file = "lisen = 'x'\n[storage]\nsegment_size = '1KiB'\n[limits]\nconnections = 'many'\n\
                    [commands]\nretention = '1s'\n";
        let env = [("COLUMBA_LOG_LEVEL", "loud=="), ("COLUMBA_TYPO", "1")];
        let Problems(problems) = load(file, &env, &[("shutdown.deadline", "0s")]).unwrap_err();
        for (part, value) in [
            ("storage.segment_size", "1KiB"),
            ("limits.connections", "many"),
            ("from COLUMBA_LOG_LEVEL", "loud=="),
            ("shutdown.deadline", "0s"),
            ("commands.retention", "1s"),
            ("unknown key lisen in columba.toml", "admin_listen"),
            ("COLUMBA_TYPO", "log.level"),
        ] {
            let named = problems.iter().any(|problem| problem.contains(part) && problem.contains(value));
            assert!(named, "{part} and {value} in {problems:#?}");
        }
        assert_eq!(problems.len(), 7, "{problems:#?}");
    }

    #[test]
    fn what_is_hidden_by_another_layer_must_be_possible_too() {
        let Problems(problems) = load("listen = 'nowhere'", &[], &[("listen", "127.0.0.1:1")]).unwrap_err();
        assert!(problems[0].contains("nowhere"), "{problems:?}");
    }

    #[test]
    fn refuses_sections_and_lists_that_mean_nothing() {
        let Problems(problems) = load("[storagee]\n[log]\nlevel = ['info']\n", &[], &[]).unwrap_err();
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert!(problems.iter().any(|problem| problem.contains("[storagee]")), "{problems:?}");
        assert!(problems.iter().any(|problem| problem.contains("log.level is a list")), "{problems:?}");
    }

    #[test]
    fn refuses_a_public_address_unless_insecure() {
        let public = [("listen", "0.0.0.0:7171")];
        assert!(load("", &[], &public).unwrap_err().0[0].contains("--insecure"));
        assert!(load("insecure = true", &[], &public).is_ok());
        let tls = "tls.certificate = 'a'\ntls.key = 'b'\n";
        let tokens = "identity.tokens = 'c'\nauthorization.rules = 'r'\n";
        for (half, missing) in [(tls, "no identity"), (tokens, "no TLS")] {
            let Problems(problems) = load(half, &[], &public).unwrap_err();
            assert!(problems[0].contains(missing), "{problems:?}");
        }
        for whole in
            [[tls, tokens].concat(), [tls, "tls.client_ca = 'd'\nauthorization.allow_all = true\n"].concat()]
        {
            assert!(load(&whole, &[], &public).is_ok(), "{whole}");
        }
    }

    #[test]
    fn leaves_variables_of_others_alone() {
        let env = [("COLUMBA_PORT_7171_TCP", "tcp://10.0.0.1:7171"), ("COLUMBA_SERVICE_HOST", "10.0.0.1")];
        assert!(load("", &env, &[]).is_ok());
    }

    #[test]
    fn a_file_that_is_no_toml_is_refused_with_its_place() {
        let Problems(problems) = load("listen = ", &[], &[]).unwrap_err();
        assert!(problems[0].contains("columba.toml") && problems[0].contains("line 1"), "{problems:?}");
    }
}
