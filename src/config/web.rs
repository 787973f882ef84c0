//! The setting of gRPC-Web.

use http::{HeaderValue, Uri};

use super::Layers;
use crate::api::Origins;

const ORIGINS: &str = "origins with commas between them, such as https://app.example.com,\
                       http://localhost:5173, or * for any";

impl Layers {
    pub(super) fn origins(&mut self) -> Option<Origins> {
        self.take("web.origins", None, ORIGINS, |text| origins(text).map(Some))
    }
}

fn origins(text: &str) -> Option<Origins> {
    if text.trim() == "*" {
        return Some(Origins::Any);
    }
    text.split(',').map(|origin| origin_of(origin.trim())).collect::<Option<_>>().map(Origins::Only)
}

/// As browsers write it: a scheme and an authority, and nothing else.
fn origin_of(text: &str) -> Option<HeaderValue> {
    let uri: Uri = text.parse().ok()?;
    let (scheme, authority) = (uri.scheme_str()?, uri.authority()?);
    let is_bare = text == format!("{scheme}://{authority}") && text == text.to_lowercase();
    let has_user = authority.as_str().contains('@');
    let is_web = matches!(scheme, "http" | "https");
    HeaderValue::from_str(text).ok().filter(|_| is_bare && is_web && !has_user)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_origins() {
        assert_eq!(origins(" * "), Some(Origins::Any));
        let two = ["https://app.example.com", "http://localhost:5173"];
        let both = Origins::Only(two.map(HeaderValue::from_static).to_vec());
        assert_eq!(origins("https://app.example.com, http://localhost:5173"), Some(both));
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
            assert_eq!(origins(bad), None, "{bad:?}");
        }
    }
}
