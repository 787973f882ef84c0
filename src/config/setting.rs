//! A setting as it was given, for people to look at.

use std::fmt;

/// A setting as it was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    key: &'static str,
    default: String,
    given: Option<(String, String)>,
}

/// Parts of keys whose values are nobody's business.
const SECRET: [&str; 4] = ["password", "secret", "headers", "private"];
const HIDDEN: &str = "(hidden)";

impl Setting {
    pub(super) fn new(key: &'static str, default: &impl fmt::Debug) -> Self {
        let default = format!("{default:?}");
        let default = if default == "None" { "not set".into() } else { default };
        Self { key, default, given: None }
    }

    /// It is given; what was given before is hidden by it.
    pub(super) fn give(&mut self, value: &str, origin: String) {
        self.given = Some((shown(self.key, value), origin));
    }

    /// Its key.
    #[must_use]
    pub fn key(&self) -> &'static str {
        self.key
    }

    /// Its value and where it comes from, unless it has its default. Secrets are hidden.
    #[must_use]
    pub fn given(&self) -> Option<(&str, &str)> {
        self.given.as_ref().map(|(value, origin)| (&**value, &**origin))
    }

    /// What it is unless it is given.
    #[must_use]
    pub fn default(&self) -> &str {
        &self.default
    }
}

/// A value without what is secret in it: all of it, or the user and password of an address.
fn shown(key: &str, value: &str) -> String {
    if SECRET.iter().any(|part| key.contains(part)) {
        return HIDDEN.into();
    }
    let Some((scheme, rest)) = value.split_once("://") else { return value.to_owned() };
    let authority = rest.split('/').next().unwrap_or_default();
    match authority.rsplit_once('@') {
        Some((user, _)) => format!("{scheme}://{HIDDEN}{}", &rest[user.len()..]),
        None => value.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hides_what_is_secret() {
        assert_eq!(shown("listen", "127.0.0.1:1"), "127.0.0.1:1");
        assert_eq!(shown("telemetry.headers", "a=b"), HIDDEN);
        assert_eq!(shown("identity.jwt.jwks", "https://me:pw@idp/keys@1"), "https://(hidden)@idp/keys@1");
        assert_eq!(shown("identity.jwt.jwks", "https://idp/a@b"), "https://idp/a@b");
    }
}
