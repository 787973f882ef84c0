//! Checks of what commands and queries have in common.

use std::collections::{BTreeMap, HashMap};

use super::validate::Violations;
use crate::model::Name;
use crate::model::limits::{
    MAX_ATTRIBUTE_NAME_BYTES, MAX_ATTRIBUTE_VALUE_BYTES, MAX_ATTRIBUTES, MAX_HANDLED_TYPES,
};

/// Headers for the handler, with the limits of `Message.attributes`.
pub(super) fn attributes(
    violations: &mut Violations,
    attributes: HashMap<String, String>,
) -> Option<BTreeMap<String, String>> {
    let before = violations.count;
    if attributes.len() > MAX_ATTRIBUTES {
        let description = format!("has {} entries; at most {MAX_ATTRIBUTES} are allowed", attributes.len());
        violations.add("attributes", "TOO_MANY_ATTRIBUTES", description);
    }
    for (name, value) in &attributes {
        if name.is_empty() {
            let description = "has an entry without a name; give it one of 1 to 255 bytes";
            violations.add("attributes", "INVALID_ATTRIBUTE", description);
        }
        violations.text("attributes", name, MAX_ATTRIBUTE_NAME_BYTES);
        violations.text("attributes", value, MAX_ATTRIBUTE_VALUE_BYTES);
    }
    (violations.count == before).then(|| attributes.into_iter().collect())
}

/// The types of a handler, each once.
pub(super) fn types(violations: &mut Violations, types: &[String]) -> Option<Vec<Name>> {
    if !(1..=MAX_HANDLED_TYPES).contains(&types.len()) {
        let description = format!("has {} entries; name 1 to {MAX_HANDLED_TYPES} types", types.len());
        let reason = if types.is_empty() { "REQUIRED" } else { "TOO_MANY_TYPES" };
        return violations.refuse("types", reason, description);
    }
    let names =
        types.iter().enumerate().map(|(index, name)| violations.name(&format!("types[{index}]"), name));
    // All of them are looked at, so that everything bad is found.
    let names: Vec<_> = names.collect();
    let mut names = names.into_iter().collect::<Option<Vec<_>>>()?;
    names.sort_unstable();
    names.dedup();
    Some(names)
}

/// Checks the size of a payload or result.
pub(super) fn size(violations: &mut Violations, field: &str, size: usize, limit: usize) -> Option<()> {
    if size <= limit {
        return Some(());
    }
    let description = format!(
        "is {size} bytes long; at most {limit} are allowed: keep what is large elsewhere, and send where"
    );
    violations.refuse(field, "TOO_LARGE", description)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_limited_as_those_of_messages() {
        let reasons = |attributes: &[(&str, &str)]| {
            let owned = attributes.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
            let mut violations = Violations::default();
            let read = super::attributes(&mut violations, owned.collect());
            assert_eq!(read.is_some(), violations.list.is_empty());
            violations.list.into_iter().map(|violation| violation.reason).collect::<Vec<_>>()
        };
        let (name, value) = ("n".repeat(256), "v".repeat(8_193));
        assert_eq!(reasons(&[("a", ""), ("b", &value[1..])]), [""; 0]);
        assert_eq!(reasons(&[("", "x")]), ["INVALID_ATTRIBUTE"]);
        assert_eq!(reasons(&[(&name, &value)]), ["TOO_LONG", "TOO_LONG"]);
        let names: Vec<_> = (0..65).map(|number| number.to_string()).collect();
        let many: Vec<_> = names.iter().map(|name| (name.as_str(), "")).collect();
        assert_eq!(reasons(&many), ["TOO_MANY_ATTRIBUTES"]);
    }
}
