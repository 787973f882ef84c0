//! `ExplainAuthorization`: asks the rules, and says which one decided.

use super::access::Access;
use super::status::Refusal;
use super::validate::{Violations, check};
use super::wire::admin;
use crate::authorization::{Authorizer, Decision, Target, Verb, Who};
use crate::identity::{MAX_GROUPS, MAX_NAME_BYTES};

const OFF: &str = "allowed: this server has no rules, and whoever is let in may do everything";

/// Answers for the caller or, if somebody else is named, for them.
pub(super) fn explain(
    authorizer: Option<&Authorizer>,
    access: &Access,
    request: admin::ExplainAuthorizationRequest,
) -> Result<admin::ExplainAuthorizationResponse, Refusal> {
    let (verb, name) = check(|violations| read(violations, &request))?;
    let admin::ExplainAuthorizationRequest { principal, groups, .. } = request;
    let own = access.principal().filter(|_| principal.is_empty() && groups.is_empty());
    let who = own.map_or(Who { name: &principal, groups: &groups }, Who::from);
    let Some(authorizer) = authorizer else {
        return Ok(admin::ExplainAuthorizationResponse {
            allowed: true,
            rule: None,
            explanation: OFF.into(),
        });
    };
    Ok(authorizer.with_rules(|rules| answer(rules.decide(who, verb, Target::Names(&name)))))
}

fn answer(decision: Decision<'_>) -> admin::ExplainAuthorizationResponse {
    let number = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    let rule = match decision {
        Decision::Allowed(basis) | Decision::Denied(basis) => Some(admin::AuthorizationRule {
            number: number(basis.rule),
            line: number(basis.line),
            holder: basis.holder.to_owned(),
            group: basis.is_group,
            pattern: basis.pattern.to_string(),
        }),
        Decision::NotAllowed => None,
    };
    let (allowed, explanation) = (decision.is_allowed(), decision.to_string());
    admin::ExplainAuthorizationResponse { allowed, rule, explanation }
}

fn read(violations: &mut Violations, request: &admin::ExplainAuthorizationRequest) -> Option<(Verb, String)> {
    violations.text("principal", &request.principal, MAX_NAME_BYTES);
    if request.groups.len() > MAX_GROUPS {
        let description = format!("has {} entries; at most {MAX_GROUPS} are allowed", request.groups.len());
        violations.add("groups", "TOO_MANY_GROUPS", description);
    }
    for group in request.groups.iter().take(MAX_GROUPS) {
        violations.text("groups", group, MAX_NAME_BYTES);
    }
    let verb = verb(violations, request.verb);
    let name = violations.topics("name", &request.name);
    Some((verb?, name?.to_string()))
}

fn verb(violations: &mut Violations, value: i32) -> Option<Verb> {
    Some(match admin::Verb::try_from(value) {
        Ok(admin::Verb::Publish) => Verb::Publish,
        Ok(admin::Verb::Consume) => Verb::Consume,
        Ok(admin::Verb::Manage) => Verb::Manage,
        Ok(admin::Verb::Send) => Verb::Send,
        Ok(admin::Verb::Handle) => Verb::Handle,
        Ok(admin::Verb::Query) => Verb::Query,
        Ok(admin::Verb::Read) => Verb::Read,
        Ok(admin::Verb::Write) => Verb::Write,
        Ok(admin::Verb::Admin) => Verb::Admin,
        Ok(admin::Verb::Unspecified) => {
            return violations.refuse("verb", "REQUIRED", "is required; say what somebody wants to do");
        }
        Err(_) => {
            let description =
                format!("is {value}, which is not known; use VERB_PUBLISH (1) to VERB_ADMIN (9)");
            return violations.refuse("verb", "UNKNOWN_ENUM_VALUE", description);
        }
    })
}
