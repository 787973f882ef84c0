//! The settings of TLS and identity, and what an address that others can reach needs of them.

use std::path::PathBuf;
use std::time::Duration;

use super::{Config, Layers};
use crate::authorization;
use crate::identity::{self, jwt};
use crate::tls;

const FILE: &str = "the path of a file";
/// How far the clocks of those who issue tokens may be off.
const LEEWAY: Duration = Duration::from_secs(10);
/// With more, streams would not end within 30 s of their token's expiry.
const MAX_LEEWAY: Duration = Duration::from_secs(20);
/// How often an issuer's keys are asked for.
const REFRESH: Duration = Duration::from_mins(5);

impl Config {
    /// Whether anything shows who calls.
    fn identifies(&self) -> bool {
        let certificates = self.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some());
        certificates || self.identity.tokens.is_some() || self.identity.jwt.is_some()
    }
}

impl Layers {
    fn file(&mut self, key: &'static str) -> Option<PathBuf> {
        self.take(key, None, FILE, |path| (!path.is_empty()).then(|| Some(PathBuf::from(path))))
    }

    fn text(&mut self, key: &'static str) -> Option<String> {
        self.take(key, None, "text", |text| (!text.trim().is_empty()).then(|| Some(text.to_owned())))
    }

    pub(super) fn tls(&mut self) -> Option<tls::Settings> {
        use tls::ClientCertificates::{Optional, Required};
        let (certificate, key) = (self.file("tls.certificate"), self.file("tls.key"));
        let client_ca = self.file("tls.client_ca");
        let client_certificate =
            self.take("tls.client_certificate", None, "required or optional", |text| match text {
                "required" => Some(Some(Required)),
                "optional" => Some(Some(Optional)),
                _ => None,
            });
        if client_certificate.is_some() && client_ca.is_none() {
            self.problems.push(
                "tls.client_certificate is set, and tls.client_ca is not; name the authorities whose client \
                 certificates are trusted in tls.client_ca"
                    .into(),
            );
        }
        match (certificate, key) {
            (Some(certificate), Some(key)) => {
                let client_certificate = client_certificate.unwrap_or_default();
                Some(tls::Settings { certificate, key, client_ca, client_certificate })
            }
            (None, None) if client_ca.is_none() => None,
            (certificate, key) => {
                for (name, given) in [("tls.certificate", certificate), ("tls.key", key)] {
                    if given.is_none() {
                        self.problems.push(format!(
                            "{name} is not set; TLS needs the server's certificate in tls.certificate and its \
                             private key in tls.key"
                        ));
                    }
                }
                None
            }
        }
    }

    pub(super) fn identity(&mut self, defaults: &identity::Settings) -> identity::Settings {
        let boolean = "true or false";
        identity::Settings {
            tokens: self.file("identity.tokens"),
            jwt: self.jwt(),
            open_health: self.parsed("identity.open_health", defaults.open_health, boolean),
            open_reflection: self.parsed("identity.open_reflection", defaults.open_reflection, boolean),
            recheck: defaults.recheck,
        }
    }

    pub(super) fn authorization(&mut self) -> authorization::Settings {
        authorization::Settings {
            rules: self.file("authorization.rules"),
            allow_all: self.parsed("authorization.allow_all", false, "true or false"),
        }
    }

    fn jwt(&mut self) -> Option<jwt::Settings> {
        let (issuer, audience) = (self.text("identity.jwt.issuer"), self.text("identity.jwt.audience"));
        let (keys, given) = self.jwks();
        let algorithms = self.algorithms();
        let leeway = self.time("identity.jwt.leeway", Duration::ZERO, MAX_LEEWAY);
        let principal_claim = self.text("identity.jwt.principal_claim");
        let groups_claim = self.text("identity.jwt.groups_claim");
        let given = given
            || issuer.is_some()
            || audience.is_some()
            || algorithms.is_some()
            || leeway.is_some()
            || principal_claim.is_some()
            || groups_claim.is_some();
        if !given {
            return None;
        }
        for (key, missing) in [
            ("identity.jwt.issuer", issuer.is_none()),
            ("identity.jwt.audience", audience.is_none()),
            ("identity.jwt.jwks", keys.is_none()),
        ] {
            if missing {
                self.problems.push(format!(
                    "{key} is not set; JWTs need identity.jwt.issuer (their `iss`), identity.jwt.audience (their \
                     `aud`) and identity.jwt.jwks (where the issuer's keys are)"
                ));
            }
        }
        Some(jwt::Settings {
            issuer: issuer?,
            audience: audience?,
            algorithms: algorithms.unwrap_or_else(|| vec![jwt::Algorithm::RS256, jwt::Algorithm::ES256]),
            keys: keys?,
            leeway: leeway.unwrap_or(LEEWAY),
            principal_claim: principal_claim.unwrap_or_else(|| "sub".into()),
            groups_claim: groups_claim.unwrap_or_else(|| "groups".into()),
        })
    }

    /// Where the keys are, and whether anything about them is set.
    fn jwks(&mut self) -> (Option<jwt::Location>, bool) {
        let allowed = "the path of a file, http://HOST[:PORT]/PATH or https://HOST[:PORT]/PATH";
        let keys = self.take("identity.jwt.jwks", None, allowed, |text| {
            if text.contains("://") {
                text.parse().ok().map(|url| Some(jwt::Location::url(url, None, REFRESH)))
            } else {
                (!text.is_empty()).then(|| Some(jwt::Location::File(text.into())))
            }
        });
        let trusted = self.file("identity.jwt.jwks_ca");
        let often = self.time("identity.jwt.jwks_refresh", Duration::from_secs(10), Duration::from_hours(24));
        let given = keys.is_some() || trusted.is_some() || often.is_some();
        let keys = match keys {
            Some(jwt::Location::Url { url, .. }) => {
                Some(jwt::Location::url(url, trusted, often.unwrap_or(REFRESH)))
            }
            keys => {
                if given && (trusted.is_some() || often.is_some()) {
                    self.problems.push(
                        "identity.jwt.jwks_ca and identity.jwt.jwks_refresh are for an address in \
                         identity.jwt.jwks; leave them out for a file, which is watched"
                            .into(),
                    );
                }
                keys
            }
        };
        (keys, given)
    }

    fn algorithms(&mut self) -> Option<Vec<jwt::Algorithm>> {
        let allowed = format!("some of {}, with commas between them", jwt::ALGORITHMS.join(", "));
        self.take("identity.jwt.algorithms", None, &allowed, |text| {
            text.split(',').map(|name| jwt::algorithm(name.trim())).collect::<Option<_>>().map(Some)
        })
    }

    fn time(&mut self, key: &'static str, least: Duration, most: Duration) -> Option<Duration> {
        let (from, to) = (humantime::format_duration(least), humantime::format_duration(most));
        let allowed = format!("a time from {from} to {to}");
        self.take(key, None, &allowed, |text| {
            let time = humantime::parse_duration(text).ok()?;
            (least..=most).contains(&time).then_some(Some(time))
        })
    }

    /// With identity, nobody may do anything that no rule allows: without rules, that must be meant otherwise.
    pub(super) fn require_authorization(&mut self, config: &Config) {
        let authorization::Settings { rules, allow_all } = &config.authorization;
        let problem = match (config.identifies(), rules.is_some(), allow_all) {
            (true, true, true) => {
                "authorization.allow_all is true, and authorization.rules is set; leave one of them out"
            }
            (true, false, false) => {
                "authorization.rules is not set, and there is identity; name a file of rules that say who may do \
                 what, or say authorization.allow_all = true to let everybody with an identity do everything"
            }
            (false, true, _) => {
                "authorization.rules is set, and there is no identity, so nobody is known that rules could be about; \
                 set up identity.* or tls.client_ca"
            }
            _ => return,
        };
        self.problems.push(problem.into());
    }

    /// Without TLS everybody on the way can listen, and without identity whoever reaches the port may do
    /// everything.
    pub(super) fn require_loopback(&mut self, config: &Config) {
        let missing = match (config.tls.is_some(), config.identifies()) {
            (true, true) => return,
            (true, false) => "there is no identity",
            (false, true) => "there is no TLS",
            (false, false) => "there is no TLS and no identity",
        };
        for (key, address) in [("listen", config.listen), ("admin_listen", config.admin_listen)] {
            if !address.ip().is_loopback() && !config.insecure {
                self.problems.push(format!(
                    "{key} is {address}, which other machines can reach, and {missing}; set up both tls.* and \
                     identity.*, or listen on 127.0.0.1, or say --insecure (insecure = true) on a network that \
                     you trust"
                ));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;

    use super::*;
    use crate::config::Problems;

    fn load(file: &str) -> Result<Config, Problems> {
        Config::layered(Some((Path::new("columba.toml"), file)), BTreeMap::new(), Vec::new())
    }

    #[test]
    fn reads_everything() {
        let config = load(
            "[tls]\ncertificate = 'a'\nkey = 'b'\nclient_ca = 'c'\nclient_certificate = 'optional'\n\
             [identity]\ntokens = 'd'\nopen_health = false\nopen_reflection = true\n\
             [identity.jwt]\nissuer = 'https://idp'\naudience = 'columba'\nalgorithms = 'ES256, EdDSA'\n\
             jwks = 'https://idp/keys'\njwks_ca = 'e'\njwks_refresh = '1m'\nleeway = '5s'\n\
             principal_claim = 'email'\ngroups_claim = 'roles'\n\
             [authorization]\nrules = 'f'\n",
        )
        .unwrap();
        let tls = config.tls.clone().unwrap();
        assert_eq!((tls.certificate, tls.client_ca), (PathBuf::from("a"), Some(PathBuf::from("c"))));
        assert_eq!(tls.client_certificate, tls::ClientCertificates::Optional);
        assert_eq!(config.authorization.rules, Some(PathBuf::from("f")));
        assert!(!config.identity.open_health && config.identity.open_reflection);
        let jwt = config.identity.jwt.unwrap();
        assert_eq!(jwt.algorithms, [jwt::Algorithm::ES256, jwt::Algorithm::EdDSA]);
        assert_eq!((jwt.leeway, &*jwt.principal_claim), (Duration::from_secs(5), "email"));
        let jwt::Location::Url { ca, refresh, .. } = jwt.keys else { panic!("an address") };
        assert_eq!((ca, refresh), (Some(PathBuf::from("e")), Duration::from_secs(60)));
    }

    #[test]
    fn nothing_is_on_by_default() {
        let config = load("").unwrap();
        assert!(config.tls.is_none() && !config.identifies());
        assert_eq!(config.identity, identity::Settings::default());
    }

    #[test]
    fn says_everything_that_is_missing_or_wrong() {
        for (file, parts) in [
            ("tls.certificate = 'a'", vec!["tls.key is not set"]),
            ("tls.client_ca = 'a'", vec!["tls.certificate is not set", "tls.key is not set"]),
            ("tls.client_certificate = 'optional'", vec!["tls.client_ca is not"]),
            ("tls.client_certificate = 'maybe'", vec!["required or optional"]),
            (
                "identity.jwt.leeway = '1s'",
                vec!["jwt.issuer is not", "jwt.audience is not", "jwt.jwks is not"],
            ),
            ("identity.jwt.algorithms = 'HS256'", vec!["\"HS256\""]),
            (
                "identity.jwt.jwks_ca = 'a'",
                vec!["for an address", "jwt.issuer", "jwt.audience", "jwt.jwks is"],
            ),
            ("identity.open_health = 'perhaps'", vec!["true or false"]),
            ("identity.tokens = 'a'", vec!["authorization.rules is not set"]),
            ("authorization.rules = 'a'", vec!["there is no identity"]),
            ("authorization = { rules = 'a', allow_all = true }\nidentity.tokens = 'b'", vec!["leave one"]),
        ] {
            let Problems(problems) = load(file).unwrap_err();
            for part in &parts {
                assert!(problems.iter().any(|problem| problem.contains(part)), "{part} in {problems:#?}");
            }
            assert_eq!(problems.len(), parts.len(), "{problems:#?}");
        }
        let jwt = "identity.jwt.issuer = 'a'\nidentity.jwt.audience = 'b'\n";
        for bad in ["leeway = '21s'", "jwks = 'ftp://idp'", "jwks_refresh = '1s'", "algorithms = ''"] {
            let key = bad.split(' ').next().unwrap();
            let Problems(problems) = load(&format!("{jwt}identity.jwt.{bad}")).unwrap_err();
            assert!(problems[0].contains(&format!("identity.jwt.{key} is ")), "{problems:#?}");
        }
    }
}
