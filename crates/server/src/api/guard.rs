//! Who may be meant by a call, and which pages may make one.
//!
//! A page of any website can make a browser call a server on loopback, and by pointing its own name at 127.0.0.1 it can
//! even read the answers. Two headers that a page cannot forge tell it apart: `Host` must be one of our names, and
//! `Origin`, when there is one, must be ours too. No CORS header is ever sent.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use http::header::{HOST, ORIGIN};
use http::uri::Authority;
use http::{HeaderMap, Uri};

use crate::api::error::{self, ApiError};
use crate::context::Context;

/// The two ends of the connection that a call came over.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ends {
    pub(crate) peer: SocketAddr,
    pub(crate) local: SocketAddr,
}

impl Ends {
    pub(crate) fn is_loopback(self) -> bool {
        self.peer.ip().to_canonical().is_loopback()
    }
}

pub(super) async fn layer(State(ctx): State<Arc<Context>>, request: Request, next: Next) -> Response {
    let ends = request.extensions().get::<Ends>().copied();
    match check(&ctx, ends, request.uri(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err(refusal) => refusal.into_response(),
    }
}

fn check(ctx: &Context, ends: Option<Ends>, uri: &Uri, headers: &HeaderMap) -> Result<(), ApiError> {
    let host = match uri.authority() {
        Some(authority) => authority.as_str(),
        None => match headers.get(HOST) {
            Some(value) => value.to_str().map_err(|_| error::unknown_host("?"))?,
            None => return Err(error::unknown_host("")),
        },
    };
    let authority: Authority = host.parse().map_err(|_| error::unknown_host(host))?;
    if !is_ours(ctx, ends, authority.host()) {
        return Err(error::unknown_host(host));
    }
    match headers.get(ORIGIN) {
        None => Ok(()),
        Some(origin) => {
            let origin = origin.to_str().map_err(|_| error::foreign_origin("?"))?;
            let theirs = origin.split_once("://").map(|(_, authority)| authority);
            match theirs {
                Some(theirs) if theirs.eq_ignore_ascii_case(host) => Ok(()),
                _ => Err(error::foreign_origin(origin)),
            }
        }
    }
}

fn is_ours(ctx: &Context, ends: Option<Ends>, host: &str) -> bool {
    let server = &ctx.config.server;
    if host.eq_ignore_ascii_case("localhost")
        || server.hosts.iter().any(|ours| ours.eq_ignore_ascii_case(host))
    {
        return true;
    }
    let Ok(address) = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() else {
        return false;
    };
    let address = address.to_canonical();
    // Listening on every address, ours is the one that the connection was made to.
    address.is_loopback()
        || address == server.listen.ip().to_canonical()
        || ends.is_some_and(|ends| address == ends.local.ip().to_canonical())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;
    use crate::api::harness::Harness;

    fn call(harness: &Harness, host: &str, origin: Option<&str>) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, HeaderValue::from_str(host).unwrap());
        if let Some(origin) = origin {
            headers.insert(ORIGIN, HeaderValue::from_str(origin).unwrap());
        }
        let ends = Ends { peer: "10.0.0.9:5".parse().unwrap(), local: "10.0.0.1:8642".parse().unwrap() };
        check(&harness.ctx, Some(ends), &Uri::from_static("/v1/files"), &headers).is_ok()
    }

    #[test]
    fn only_our_names_are_hosts() {
        let harness = Harness::with(|config| config.server.hosts = vec!["gpu-box.lan".to_owned()]);
        for host in [
            "127.0.0.1:8642",
            "localhost:1",
            "LOCALHOST",
            "[::1]:8642",
            "127.9.9.9",
            "gpu-box.lan:8642",
            "10.0.0.1:8642",
        ] {
            assert!(call(&harness, host, None), "`{host}` was refused");
        }
        for host in ["evil.example", "127.0.0.1.evil.example:8642", "10.0.0.2", "localhost.evil.example"]
        {
            assert!(!call(&harness, host, None), "`{host}` was taken");
        }
    }

    #[test]
    fn only_our_own_page_is_an_origin() {
        let harness = Harness::new();
        let host = "127.0.0.1:8642";
        assert!(call(&harness, host, Some("http://127.0.0.1:8642")));
        for origin in ["http://evil.example", "null", "http://127.0.0.1:3000", "http://localhost:8642"] {
            assert!(!call(&harness, host, Some(origin)), "`{origin}` was taken");
        }
    }
}
