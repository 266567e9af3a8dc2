//! One HTTP exchange with an endpoint, over a kept connection where there is one.
//!
//! A request is on the wire at most twice: the second time only when a kept connection died so soon, and without a byte
//! of an answer, that the engine had most likely closed it for idling. A connection that is lost in any other way may
//! have been lost *by* the request, and the caller is told so.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, Uri};
use http_body_util::Full;
use overnight_domain::fault::Fault;
use tokio::sync::Semaphore;
use tokio_rustls::TlsConnector;

use crate::connection::{Connection, Dial};
use crate::endpoint::{Address, EndpointConfig, EndpointError};
use crate::patience::Patience;
use crate::pool::Pool;
use crate::reply::{BodyEnd, Reply, Room};
use crate::tls;

/// A kept connection that the engine had closed answers the first write with a reset within a round trip. One that dies
/// later was at work on the request.
const STALE_MAX: Duration = Duration::from_secs(1);

/// An engine's refusal is recorded as it is, up to here.
pub(crate) const REFUSAL_LEN_MAX: u64 = 1024 * 1024;

/// An engine's error is kept to be looked at; traces of several screens fit.
pub(crate) const ERROR_LEN_MAX: u64 = 64 * 1024;

pub(crate) struct Client {
    pub(crate) address: Address,
    headers: HeaderMap,
    tls: Option<TlsConnector>,
    pool: Pool,
    connect_timeout: Duration,
    idle_max: Duration,
    answer_len_max: u64,
    long_answers: Semaphore,
}

/// Why an exchange gave no reply.
enum Broken {
    /// The connection is gone and not a byte had come. `was_sent` is false when the request never left.
    Unanswered {
        was_sent: bool,
        detail: String,
    },
    Fault(Fault),
}

impl Client {
    pub(crate) fn new(config: &EndpointConfig) -> Result<Self, EndpointError> {
        let address = Address::parse(config)?;
        Ok(Self {
            headers: address.headers(config)?,
            tls: if address.is_tls { Some(tls::connector(config)?) } else { None },
            address,
            pool: Pool::default(),
            connect_timeout: config.connect_timeout,
            idle_max: config.idle_max,
            answer_len_max: config.answer_len_max,
            long_answers: Semaphore::new(config.long_answers_max.max(1)),
        })
    }

    pub(crate) async fn exchange(
        &self,
        method: Method,
        uri: Uri,
        body: Bytes,
        patience: &mut Patience,
    ) -> Result<Reply, Fault> {
        let mut lost = None;
        if let Some(kept) = self.pool.take() {
            let request = self.request(method.clone(), uri.clone(), body.clone());
            match self.exchange_over(kept, request, patience).await {
                Ok(reply) => return Ok(reply),
                Err(Broken::Unanswered { was_sent: false, .. }) => {}
                Err(Broken::Unanswered { was_sent: true, detail }) => {
                    if patience.since_sent() > STALE_MAX {
                        return Err(Fault::Lost { detail });
                    }
                    lost = Some(detail);
                }
                Err(Broken::Fault(fault)) => return Err(fault),
            }
        }
        let fresh = match self.dial(patience).connect().await {
            Ok(fresh) => fresh,
            Err(refusal) => {
                // The engine took this request and is gone: it may have died of it, and must not count as merely down.
                return Err(match lost {
                    Some(detail) => Fault::Lost { detail: format!("{detail}; then {refusal}") },
                    None => Fault::Down { detail: refusal },
                });
            }
        };
        let request = self.request(method, uri, body);
        self.exchange_over(fresh, request, patience).await.map_err(|broken| match broken {
            Broken::Unanswered { detail, .. } => Fault::Lost { detail },
            Broken::Fault(fault) => fault,
        })
    }

    /// Whether a connection is left from the last exchange, and stays open.
    pub(crate) async fn has_kept_connection(&self) -> bool {
        /// An engine that closes does so within this after its answer.
        const CLOSES_WITHIN: Duration = Duration::from_millis(100);
        let Some(kept) = self.pool.take() else { return false };
        tokio::time::sleep(CLOSES_WITHIN).await;
        !kept.sender.is_closed()
    }

    fn dial(&self, patience: &Patience) -> Dial<'_> {
        Dial {
            host: &self.address.host,
            port: self.address.port,
            tls: self.tls.as_ref(),
            timeout: self.connect_timeout.min(patience.remaining()),
            idle_max: self.idle_max,
        }
    }

    fn request(&self, method: Method, uri: Uri, body: Bytes) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        *request.headers_mut() = self.headers.clone();
        request
    }

    /// The connection goes back to the pool only after a whole body; in all other cases it is closed here.
    async fn exchange_over(
        &self,
        mut connection: Connection,
        request: Request<Full<Bytes>>,
        patience: &mut Patience,
    ) -> Result<Reply, Broken> {
        patience.begin_to_wait();
        let received_before = connection.meter.received();
        let sender = &mut connection.sender;
        let sent = async {
            // A connection just given back may still have to see the end of the call before.
            if let Err(error) = sender.ready().await {
                return Err((false, error));
            }
            let sent = sender.try_send_request(request).await;
            sent.map_err(|mut error| (error.take_message().is_none(), error.into_error()))
        };
        let sent = patience.wait(&connection.meter, sent).await.map_err(Broken::Fault)?;
        let response = sent.map_err(|(was_sent, error)| {
            let has_bytes = connection.meter.received() > received_before;
            classify(was_sent, has_bytes, &error)
        })?;
        patience.note_first_byte();
        let (head, body) = response.into_parts();
        let room = Room { len_max: self.body_len_max(head.status), long: &self.long_answers };
        let reply = Reply::read(head, body, &room, patience, &connection.meter).await;
        if matches!(reply.end, BodyEnd::Whole) {
            self.pool.put(connection);
        }
        Ok(reply)
    }

    fn body_len_max(&self, status: StatusCode) -> u64 {
        if status.is_success() {
            self.answer_len_max
        } else if status.is_client_error() {
            REFUSAL_LEN_MAX
        } else {
            ERROR_LEN_MAX
        }
    }
}

/// For a request that got no head of an answer.
fn classify(was_sent: bool, has_bytes: bool, error: &hyper::Error) -> Broken {
    let detail = match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    };
    if error.is_parse() {
        Broken::Fault(Fault::Garbage { detail: format!("not HTTP: {detail}") })
    } else if has_bytes {
        Broken::Fault(Fault::Lost { detail })
    } else {
        Broken::Unanswered { was_sent, detail }
    }
}
