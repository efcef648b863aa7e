//! The query parameters of a call: each known, none twice but `select` and `roles`.

use std::borrow::Cow;

use e3_wire::Role;
use json_span::Selector;

use crate::error::{ApiFault, Failure, Parameter, QueryCause};
use crate::values::choice::selector;

/// Most bytes of a call's selectors together. They are compiled for that call alone, whose caller is not known yet: of this many, the worst cost some milliseconds.
const SELECT_MOST: usize = 1024;

/// What a call says beside its body.
#[derive(Default)]
pub(super) struct Query<'q> {
    role: Option<Cow<'q, str>>,
    roles: Vec<Cow<'q, str>>,
    deterministic: Option<Cow<'q, str>>,
    tokens: Option<Cow<'q, str>>,
    select: Vec<Cow<'q, str>>,
    on_refused: Option<Cow<'q, str>>,
}

fn fault(parameter: Parameter, cause: QueryCause) -> Failure {
    Failure::Api(ApiFault::Query { parameter, cause })
}

impl<'q> Query<'q> {
    /// Reads the parameters that a call has, in the form of HTML (`application/x-www-form-urlencoded`).
    pub(super) fn read(text: Option<&'q str>, known: &[Parameter]) -> Result<Self, Failure> {
        let mut query = Self::default();
        for (name, value) in form_urlencoded::parse(text.unwrap_or_default().as_bytes()) {
            let parameter = known.iter().find(|parameter| parameter.name() == name).copied();
            let one = match parameter {
                Some(Parameter::Select) => {
                    query.select.push(value);
                    continue;
                }
                Some(Parameter::Roles) => {
                    query.roles.push(value);
                    continue;
                }
                Some(Parameter::Role) => &mut query.role,
                Some(Parameter::Deterministic) => &mut query.deterministic,
                Some(Parameter::Tokens) => &mut query.tokens,
                Some(Parameter::OnRefused) => &mut query.on_refused,
                Some(Parameter::Other) | None => return Err(fault(Parameter::Other, QueryCause::Unknown)),
            };
            if one.replace(value).is_some() {
                return Err(fault(parameter.unwrap_or(Parameter::Other), QueryCause::Repeated));
            }
        }
        if query.select.iter().map(|text| text.len()).sum::<usize>() > SELECT_MOST {
            return Err(fault(Parameter::Select, QueryCause::TooLong { most: SELECT_MOST }));
        }
        Ok(query)
    }

    /// `role`, which the call needs.
    pub(super) fn role(&self) -> Result<Role, Failure> {
        self.role_if_any()?.ok_or(fault(Parameter::Role, QueryCause::Missing))
    }

    /// `role`.
    pub(super) fn role_if_any(&self) -> Result<Option<Role>, Failure> {
        let role = self.role.as_ref().map(|text| Role::parse(text.as_bytes()));
        role.transpose().map_err(|_| fault(Parameter::Role, QueryCause::Role))
    }

    /// `roles`, repeated or with commas.
    pub(super) fn roles(&self) -> Result<Box<[Role]>, Failure> {
        let mut roles: Vec<Role> = Vec::new();
        for text in self.roles.iter().flat_map(|list| list.split(',')) {
            let role = Role::parse(text.trim().as_bytes()).map_err(|_| fault(Parameter::Roles, QueryCause::Role))?;
            if !roles.contains(&role) {
                roles.push(role);
            }
        }
        if roles.len() > usize::from(u8::MAX) {
            return Err(fault(Parameter::Roles, QueryCause::Repeated));
        }
        Ok(roles.into())
    }

    /// `deterministic=true|false`.
    pub(super) fn deterministic(&self) -> Result<bool, Failure> {
        word(self.deterministic.as_deref(), Parameter::Deterministic, ["false", "true"])
    }

    /// `tokens=seal|keep`: whether genuine tokens are kept.
    pub(super) fn keeps(&self) -> Result<bool, Failure> {
        word(self.tokens.as_deref(), Parameter::Tokens, ["seal", "keep"])
    }

    /// `on_refused=refuse|leave`: whether what is refused stays.
    pub(super) fn leaves(&self) -> Result<bool, Failure> {
        word(self.on_refused.as_deref(), Parameter::OnRefused, ["refuse", "leave"])
    }

    /// `select`: selectors alone.
    pub(super) fn selectors(&self) -> Result<Vec<Selector>, Failure> {
        self.select.iter().enumerate().map(|(index, text)| read(index, text)).collect()
    }

    /// `select`, with roles: `$.card.number:card-number`, `$.email:email:deterministic`, or a selector alone, which has the call's `role`.
    pub(super) fn selectors_with_roles(&self) -> Result<Vec<(Selector, Role, bool)>, Failure> {
        let (all, deterministic) = (self.role_if_any()?, self.deterministic()?);
        let mut chosen = Vec::with_capacity(self.select.len());
        for (index, text) in self.select.iter().enumerate() {
            let Roled { text, role, deterministic: own } = roled(text);
            let number = index + 1;
            let role = role.or(all).ok_or(fault(Parameter::Select, QueryCause::NoRole { number }))?;
            chosen.push((read(index, text)?, role, own || deterministic));
        }
        Ok(chosen)
    }

    /// Whether it has selectors.
    pub(super) fn selects(&self) -> bool {
        !self.select.is_empty()
    }
}

/// A selector with a role behind it.
pub(crate) struct Roled<'t> {
    /// The selector.
    pub(crate) text: &'t str,
    /// Its role.
    pub(crate) role: Option<Role>,
    /// `:deterministic` stands behind the role.
    pub(crate) deterministic: bool,
}

/// Splits `selector[:role[:deterministic]]`. No selector of RFC 9535 ends so: behind its last colon there is a quote or a bracket.
pub(crate) fn roled(text: &str) -> Roled<'_> {
    let split = |text| {
        let (before, role): (&str, &str) = str::rsplit_once(text, ':')?;
        Some((before, Role::parse(role.as_bytes()).ok()?))
    };
    if let Some((text, role)) = text.strip_suffix(":deterministic").and_then(split) {
        return Roled { text, role: Some(role), deterministic: true };
    }
    match split(text) {
        Some((text, role)) => Roled { text, role: Some(role), deterministic: false },
        None => Roled { text, role: None, deterministic: false },
    }
}

fn read(index: usize, text: &str) -> Result<Selector, Failure> {
    // A short regular expression can be a large program. In quotes the words are none, but who would know.
    if ["match(", "search("].into_iter().any(|function| text.contains(function)) {
        return Err(fault(Parameter::Select, QueryCause::Pattern { number: index + 1 }));
    }
    selector(text).map_err(|error| fault(Parameter::Select, QueryCause::Selector { number: index + 1, error }))
}

fn word(text: Option<&str>, parameter: Parameter, words: [&str; 2]) -> Result<bool, Failure> {
    match text {
        None => Ok(false),
        Some(text) if text == words[0] => Ok(false),
        Some(text) if text == words[1] => Ok(true),
        Some(_) => Err(fault(parameter, QueryCause::Word)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_behind_a_selector_is_told_from_colons_in_it() {
        let of = |text| {
            let Roled { text, role, deterministic } = roled(text);
            (text, role.map(|role| role.to_string()), deterministic)
        };
        let some = |role: &str| Some(role.to_owned());
        assert_eq!(of("$.card.number:card-number"), ("$.card.number", some("card-number"), false));
        assert_eq!(of("$.e:email:deterministic"), ("$.e", some("email"), true));
        assert_eq!(of("$.e:deterministic"), ("$.e", some("deterministic"), false));
        assert_eq!(of("$[1:2]"), ("$[1:2]", None, false));
        assert_eq!(of("$['a:b']"), ("$['a:b']", None, false));
        assert_eq!(of("$['a:b']:x"), ("$['a:b']", some("x"), false));
        assert_eq!(of("$.a"), ("$.a", None, false));
    }

    #[test]
    fn parameters_are_known_and_stand_once() {
        let known = [Parameter::Role, Parameter::Deterministic, Parameter::Select];
        let cause = |text| match Query::read(Some(text), &known).and_then(|q| Ok((q.role()?, q.deterministic()?))) {
            Err(Failure::Api(ApiFault::Query { cause, .. })) => Some(cause),
            Err(_) => panic!("another failure"),
            Ok(_) => None,
        };
        assert_eq!(cause("role=a"), None);
        assert_eq!(cause("role=a&deterministic=true&select=%24.a%5B0%5D"), None);
        assert_eq!(cause(""), Some(QueryCause::Missing));
        assert_eq!(cause("role=a&role=a"), Some(QueryCause::Repeated));
        assert_eq!(cause("role=A"), Some(QueryCause::Role));
        assert_eq!(cause("role=a&tokens=keep"), Some(QueryCause::Unknown));
        assert_eq!(cause("role=a&deterministic=yes"), Some(QueryCause::Word));
        let query = Query::read(Some("select=$.a&select=$..%5B"), &known).ok().unwrap();
        let failed = query.selectors().err().unwrap();
        let Failure::Api(ApiFault::Query { cause: QueryCause::Selector { number, .. }, .. }) = failed else { panic!() };
        assert_eq!(number, 2);
    }
}
