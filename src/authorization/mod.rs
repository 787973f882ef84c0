//! What a principal may do: rules in a file, which may change while the server runs.
//!
//! Which call asks for what is not known here.

mod parse;
mod rules;
mod verb;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use tokio_util::sync::CancellationToken;

pub use self::rules::{Basis, Decision, Effect, Rules, Target, Who};
pub use self::verb::Verb;

use crate::identity::Principal;
use crate::model::Kind;
use crate::watched::{self, Watch};

/// Largest file of rules.
const MAX_FILE_BYTES: u64 = 4 << 20;

/// Which rules there are, and who may do everything without.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// The file of rules.
    pub rules: Option<PathBuf>,
    /// Whoever is let in may do everything. Default: false.
    pub allow_all: bool,
}

/// Decides what principals may do.
pub struct Authorizer {
    path: PathBuf,
    current: ArcSwap<Loaded>,
    failures: AtomicU64,
}

struct Loaded {
    bytes: Vec<u8>,
    rules: Rules,
    /// Rises with each file that is taken up.
    generation: u64,
}

/// Somebody may not do what they asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{principal:?} may not {verb} {what}; {advice}", what = self.what(), advice = self.advice())]
pub struct Denied {
    /// Who.
    pub principal: String,
    /// What they wanted to do.
    pub verb: Verb,
    /// With what. None if no name would do.
    pub name: Option<String>,
}

impl Denied {
    fn what(&self) -> String {
        match &self.name {
            None => "anything".into(),
            Some(name) if self.is_wide() => format!("all of {name:?}"),
            Some(name) => format!("{name:?}"),
        }
    }

    fn advice(&self) -> &'static str {
        if self.is_wide() {
            "ask for a name or pattern that the rules allow, or ask whoever keeps this server's rules"
        } else {
            "ask whoever keeps this server's rules"
        }
    }

    /// Whether it is about more than one name.
    fn is_wide(&self) -> bool {
        self.name.as_ref().is_some_and(|name| name.contains(['*', '>']))
    }

    /// The kind of trouble it is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        Kind::PermissionDenied
    }

    /// A name for programs.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        "PERMISSION_DENIED"
    }
}

/// Reads and checks a file of rules. The errors are all that is wrong with it.
pub fn read(path: &Path) -> Result<Rules, Vec<String>> {
    load(path).map(|(_, rules)| rules)
}

fn load(path: &Path) -> Result<(Vec<u8>, Rules), Vec<String>> {
    let bytes = watched::read(path, MAX_FILE_BYTES).map_err(|problem| vec![problem])?;
    let rules = parse(path, &bytes)?;
    Ok((bytes, rules))
}

fn parse(path: &Path, bytes: &[u8]) -> Result<Rules, Vec<String>> {
    let text = str::from_utf8(bytes).map_err(|_| vec!["it is not UTF-8".to_owned()]);
    text.and_then(parse::rules)
        .map_err(|problems| problems.iter().map(|problem| format!("{}: {problem}", path.display())).collect())
}

impl Authorizer {
    /// Reads and checks the file. The errors are all that is wrong with it.
    pub fn open(path: PathBuf) -> Result<Arc<Self>, Vec<String>> {
        let (bytes, rules) = load(&path)?;
        let current = ArcSwap::from_pointee(Loaded { bytes, rules, generation: 0 });
        Ok(Arc::new(Self { path, current, failures: AtomicU64::new(0) }))
    }

    /// Whether a principal may do this.
    pub fn check(&self, principal: &Principal, verb: Verb, target: Target<'_>) -> Result<(), Denied> {
        if self.current.load().rules.decide(Who::from(principal), verb, target).is_allowed() {
            return Ok(());
        }
        Err(Denied {
            principal: principal.name.clone(),
            verb,
            name: match target {
                Target::Names(name) => Some(name.to_owned()),
                Target::Any => None,
            },
        })
    }

    /// Shows the rules to somebody.
    pub fn with_rules<T>(&self, look: impl FnOnce(&Rules) -> T) -> T {
        look(&self.current.load().rules)
    }

    /// A number that changes whenever the rules do.
    pub(crate) fn generation(&self) -> u64 {
        self.current.load().generation
    }

    /// How often a new file could not be taken up, and the rules before were kept.
    #[must_use]
    pub fn failed_reloads(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// Takes up a new file until `stop`.
    pub(crate) async fn follow(self: Arc<Self>, stop: CancellationToken) {
        let watch = Watch::new([&self.path]);
        let mut failed: Option<String> = None;
        while stop.run_until_cancelled(watch.changed()).await.is_some() {
            let rules = Arc::clone(&self);
            let reload = move || rules.reload(failed.as_deref());
            failed = tokio::task::spawn_blocking(reload).await.expect("reloading does not panic");
        }
    }

    /// Loads the file if it changed. What failed is returned, and told once.
    fn reload(&self, failed: Option<&str>) -> Option<String> {
        let loaded = self.current.load();
        let bytes = watched::read(&self.path, MAX_FILE_BYTES).map_err(|problem| vec![problem]);
        if bytes.as_ref().is_ok_and(|bytes| *bytes == loaded.bytes) {
            return None;
        }
        match bytes.and_then(|bytes| parse(&self.path, &bytes).map(|rules| (bytes, rules))) {
            Ok((bytes, rules)) => {
                let count = rules.len();
                let generation = loaded.generation + 1;
                self.current.store(Arc::new(Loaded { bytes, rules, generation }));
                tracing::info!(count, "new rules");
                None
            }
            Err(problems) => {
                let problem = problems.join("; ");
                if failed != Some(&*problem) {
                    self.failures.fetch_add(1, Ordering::Relaxed);
                    tracing::error!("keeping the rules in use: {problem}");
                }
                Some(problem)
            }
        }
    }
}

impl std::fmt::Debug for Authorizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authorizer").field("path", &self.path).finish_non_exhaustive()
    }
}
