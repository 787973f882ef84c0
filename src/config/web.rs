//! The setting of gRPC-Web.

use super::Layers;
use crate::model::Origins;

const ORIGINS: &str = "origins with commas between them, such as https://app.example.com,\
                       http://localhost:5173, or * for any";

impl Layers {
    pub(super) fn origins(&mut self) -> Option<Origins> {
        self.take("web.origins", None, ORIGINS, |text| Origins::parse(text).map(Some))
    }
}
