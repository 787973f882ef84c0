//! Whose pages in browsers may call.

use http::Uri;

/// Which pages may call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origins {
    /// Those of any origin.
    Any,
    /// Those of these, each a scheme and a host, with its port unless that is the scheme's own.
    Only(Vec<String>),
}

impl Origins {
    /// Reads `*`, or origins with commas between them.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text.trim() == "*" {
            return Some(Self::Any);
        }
        let origins = text.split(',').map(str::trim);
        origins
            .map(|origin| is_origin(origin).then(|| origin.to_owned()))
            .collect::<Option<_>>()
            .map(Self::Only)
    }

    /// Whether pages of this origin may call.
    pub(crate) fn allow(&self, origin: &[u8]) -> bool {
        match self {
            Self::Any => true,
            Self::Only(only) => only.iter().any(|allowed| allowed.as_bytes() == origin),
        }
    }
}

/// Whether it is one as browsers write it: a scheme and an authority, and nothing else.
fn is_origin(text: &str) -> bool {
    let Ok(uri) = text.parse::<Uri>() else { return false };
    let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else { return false };
    let is_bare = text == format!("{scheme}://{authority}") && text == text.to_lowercase();
    is_bare && matches!(scheme, "http" | "https") && !authority.as_str().contains('@')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_origins() {
        assert_eq!(Origins::parse(" * "), Some(Origins::Any));
        let two = ["https://app.example.com", "http://localhost:5173"];
        let both = Origins::parse("https://app.example.com, http://localhost:5173").unwrap();
        assert_eq!(both, Origins::Only(two.map(str::to_owned).to_vec()));
        assert!(both.allow(two[1].as_bytes()) && !both.allow(b"http://localhost"));
        for bad in [
            "",
            ",",
            "localhost:5173",
            "https://app.example.com/",
            "https://App.example.com",
            "https://app.example.com/path",
            "https://user@app.example.com",
            "ftp://app.example.com",
            "https://app.example.com,*",
            "null",
        ] {
            assert_eq!(Origins::parse(bad), None, "{bad:?}");
        }
    }
}
