//! What came back over a connection, whatever it says: a head, and as much of the body as we take.

use std::error::Error;
use std::io;

use bytes::{Bytes, BytesMut};
use http::response::Parts;
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use overnight_domain::fault::Fault;
use tokio::sync::Semaphore;

use crate::connection::Meter;
use crate::endpoint::LONG_LEN;
use crate::patience::Patience;

pub(crate) struct Reply {
    pub(crate) head: Parts,
    pub(crate) body: Bytes,
    pub(crate) end: BodyEnd,
}

/// How much of a body is taken, and how many long ones at once: a window of them would not fit into memory.
pub(crate) struct Room<'a> {
    pub(crate) len_max: u64,
    pub(crate) long: &'a Semaphore,
}

/// How a body ended.
pub(crate) enum BodyEnd {
    Whole,
    /// It is longer than the limit; what is there was cut at it.
    Over,
    /// It ended early, or not as it said it would.
    Fault(Fault),
}

impl Reply {
    pub(crate) fn is_whole_success(&self) -> bool {
        self.head.status == 200 && matches!(self.end, BodyEnd::Whole)
    }

    pub(crate) async fn read(
        head: Parts,
        mut incoming: Incoming,
        room: &Room<'_>,
        patience: &mut Patience,
        meter: &Meter,
    ) -> Self {
        let mut body = Bytes::new();
        // An answer that says itself that it is too long is not read. Of an error the beginning is wanted all the same.
        if head.status.is_success() && incoming.size_hint().lower() > room.len_max {
            return Self { head, body, end: BodyEnd::Over };
        }
        let end = read_body(&mut incoming, &mut body, room, patience, meter).await;
        Self { head, body, end }
    }
}

/// An answer of a single frame is passed on as it lies in the connection's buffer.
async fn read_body(
    incoming: &mut Incoming,
    body: &mut Bytes,
    room: &Room<'_>,
    patience: &mut Patience,
    meter: &Meter,
) -> BodyEnd {
    let announced = incoming.size_hint().lower();
    let mut rest = BytesMut::new();
    let mut permit = None;
    let end = loop {
        let expected = announced.max((body.len() + rest.len()) as u64);
        if expected > LONG_LEN && permit.is_none() {
            // What has come meanwhile waits on the wire.
            match patience.wait(meter, room.long.acquire()).await {
                Ok(acquired) => permit = Some(acquired.expect("it is never closed")),
                Err(fault) => break BodyEnd::Fault(fault),
            }
        }
        let frame = match patience.wait(meter, incoming.frame()).await {
            Ok(Some(Ok(frame))) => frame,
            Ok(Some(Err(error))) => break BodyEnd::Fault(classify(&error)),
            Ok(None) => break BodyEnd::Whole,
            Err(fault) => break BodyEnd::Fault(fault),
        };
        // Trailers are no part of an answer.
        let Ok(mut piece) = frame.into_data() else { continue };
        let len_left = room.len_max - (body.len() + rest.len()) as u64;
        let is_over = piece.len() as u64 > len_left;
        if is_over {
            piece.truncate(len_left as usize);
        }
        if body.is_empty() && rest.is_empty() {
            *body = piece;
        } else {
            if rest.is_empty() {
                rest.reserve(announced.min(room.len_max) as usize);
                rest.extend_from_slice(body);
                *body = Bytes::new();
            }
            rest.extend_from_slice(&piece);
        }
        if is_over {
            break BodyEnd::Over;
        }
        if incoming.is_end_stream() {
            break BodyEnd::Whole;
        }
    };
    if !rest.is_empty() {
        *body = rest.freeze();
    }
    end
}

/// A body that ends before its announced length, or whose pieces make no sense, contradicts itself; anything else that
/// ends it is the network.
fn classify(error: &hyper::Error) -> Fault {
    let kind = io_kind(error);
    let detail = match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    };
    match kind {
        Some(
            io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput,
        ) => Fault::Garbage { detail },
        _ => Fault::Lost { detail },
    }
}

fn io_kind(error: &hyper::Error) -> Option<io::ErrorKind> {
    let mut source = error.source();
    while let Some(cause) = source {
        if let Some(io) = cause.downcast_ref::<io::Error>() {
            return Some(io.kind());
        }
        source = cause.source();
    }
    None
}
