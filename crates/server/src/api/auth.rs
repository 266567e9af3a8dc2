//! Who calls: the tenant and the scope that a key stands for.
//!
//! Without keys every caller on loopback is the owner. Keys are compared as SHA-256 digests in constant time, all of
//! them, so that time tells nothing.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use http::HeaderMap;
use http::header::AUTHORIZATION;
use overnight_domain::ids::TenantId;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use crate::api::error::{self, ApiError};
use crate::api::guard::Ends;
use crate::context::Context;

/// Where the Azure flavour of the SDKs puts the key.
const API_KEY: &str = "api-key";

/// On whose behalf a call is made.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    pub(crate) tenant: TenantId,
    /// May send batches of any size and sees the whole server.
    pub(crate) is_admin: bool,
}

impl Caller {
    pub(crate) fn admin_or(&self, what: &str) -> Result<(), ApiError> {
        if self.is_admin { Ok(()) } else { Err(error::needs_admin(what)) }
    }
}

/// Notes the caller in the request for its handler.
pub(super) async fn layer(
    State(ctx): State<Arc<Context>>,
    mut request: Request,
    next: Next,
) -> Response {
    let ends = request.extensions().get::<Ends>().copied();
    match identify(&ctx, ends, request.headers()) {
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(refusal) => refusal.into_response(),
    }
}

fn identify(ctx: &Context, ends: Option<Ends>, headers: &HeaderMap) -> Result<Caller, ApiError> {
    let keys = &ctx.config.server.keys;
    if keys.is_empty() {
        let is_loopback = ends.is_some_and(Ends::is_loopback);
        if !is_loopback && !ctx.config.server.insecure {
            return Err(error::no_key_off_loopback());
        }
        return Ok(Caller { tenant: TenantId::default(), is_admin: is_loopback });
    }
    let shown = shown_key(headers).ok_or_else(|| error::invalid_key(None))?;
    let digest = Sha256::digest(shown.as_bytes());
    let mut found = None;
    for key in keys {
        let is_equal = Sha256::digest(key.value.expose().as_bytes()).ct_eq(&digest);
        if bool::from(is_equal) {
            found = Some(key);
        }
    }
    match found {
        Some(key) => Ok(Caller { tenant: key.tenant.clone(), is_admin: key.admin }),
        None => Err(error::invalid_key(Some(&mask(shown)))),
    }
}

fn shown_key(headers: &HeaderMap) -> Option<&str> {
    let bearer = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).and_then(|value| {
        let (scheme, key) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
    });
    let key = bearer.or_else(|| headers.get(API_KEY).and_then(|value| value.to_str().ok()));
    key.filter(|key| !key.is_empty())
}

/// Enough to recognise which key was sent, too little to use it.
fn mask(key: &str) -> String {
    let chars: Vec<char> = key.chars().collect();
    if chars.len() < 12 {
        return "***".to_owned();
    }
    let (head, tail): (String, String) =
        (chars[..3].iter().collect(), chars[chars.len() - 4..].iter().collect());
    format!("{head}***{tail}")
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;
    use crate::api::harness::Harness;
    use crate::config::{KeyConfig, Secret};

    fn from(harness: &Harness, peer: &str, headers: &HeaderMap) -> Result<Caller, ApiError> {
        let ends = Ends { peer: peer.parse().unwrap(), local: "127.0.0.1:8642".parse().unwrap() };
        identify(&harness.ctx, Some(ends), headers)
    }

    fn headers(name: &'static str, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name.parse().unwrap(), HeaderValue::from_str(value).unwrap())])
    }

    fn with_key() -> Harness {
        Harness::with(|config| {
            config.server.keys = vec![KeyConfig {
                name: "ci".to_owned(),
                tenant: TenantId::new("blue"),
                value: Secret::new("sk-0123456789abcdef"),
                admin: false,
            }];
        })
    }

    #[test]
    fn without_keys_loopback_is_the_owner_and_nobody_else_is() {
        let harness = Harness::new();
        let dummy = headers("authorization", "Bearer EMPTY");
        let owner = from(&harness, "127.0.0.1:9", &dummy).unwrap();
        assert!(owner.is_admin);
        assert_eq!(owner.tenant, TenantId::default());
        assert!(from(&harness, "192.168.1.9:9", &dummy).is_err());
        assert!(from(&harness, "[::ffff:127.0.0.1]:9", &dummy).unwrap().is_admin);
        let open = Harness::with(|config| config.server.insecure = true);
        assert!(!from(&open, "192.168.1.9:9", &dummy).unwrap().is_admin);
    }

    #[test]
    fn with_keys_everybody_shows_one() {
        let harness = with_key();
        for (name, value) in
            [("authorization", "Bearer sk-0123456789abcdef"), ("api-key", "sk-0123456789abcdef")]
        {
            let caller = from(&harness, "127.0.0.1:9", &headers(name, value)).unwrap();
            assert_eq!(caller.tenant.as_str(), "blue");
            assert!(!caller.is_admin);
        }
        let none = from(&harness, "127.0.0.1:9", &HeaderMap::new());
        assert_eq!(none.unwrap_err().into_response().status(), 401);
    }

    #[test]
    fn a_wrong_key_is_not_shown_in_full() {
        let wrong = headers("authorization", "Bearer sk-wrong-and-secret-9876");
        let refusal = from(&with_key(), "127.0.0.1:9", &wrong).unwrap_err();
        assert!(refusal.message().contains("sk-***9876"), "{}", refusal.message());
        assert!(!refusal.message().contains("secret"));
        assert_eq!(mask("short"), "***");
    }
}
