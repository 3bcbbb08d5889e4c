//! The API: HTTP with JSON under `/v1`, over the unix socket of this host, and over TCP for others.
//!
//! - [`shape`] is what it takes and answers, and [`problem`] how it says what is wrong. Both sides use them.
//! - [`auth`] says who asks: whoever opens the unix socket may do everything; over TCP it takes a token, or the secret
//!   of a member's owner. [`extract`] reads what a request brings.
//! - `here` asks the relay of this process, and [`tables`](networks) of records each have a module of their own, which
//!   turns a request into a [command](crate::model::Command) and the record into an answer. All rules are the model's.
//! - The OpenAPI document is made of the handlers themselves.

mod auth;
mod changes;
mod enrol;
mod extract;
mod here;
mod keys;
mod listen;
mod members;
mod networks;
mod openapi;
pub mod problem;
mod relays;
mod schema;
pub mod shape;
mod tokens;
mod turn_users;
mod write;

use std::{collections::BTreeSet, net::IpAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{DefaultBodyLimit, Request, State},
    middleware::{Next, from_fn_with_state, map_response},
    response::{IntoResponse as _, Response},
};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

pub use auth::Access;
pub use listen::{Listener, listen};
use problem::Problem;

use crate::{
    engine,
    members::PublicKey,
    model::Name,
    store::{Followers, Writer},
};

/// How large a body may be: a thousand names of hosts fit.
const BODY_BYTES: usize = 256 << 10;
/// Requests at once, at one listener.
const AT_ONCE: usize = 256;
/// How long one may take.
const TIME: Duration = Duration::from_secs(30);
/// Those that wait for a change, at once.
const WAITING: usize = 16_384;
/// The longest that one of these may wait.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// Change streams at once.
const STREAMS: usize = 1024;

/// A way to ask the engine.
#[derive(Clone)]
pub struct Engine(mpsc::Sender<engine::Request>);

impl Engine {
    /// Asks by this channel.
    pub fn new(requests: mpsc::Sender<engine::Request>) -> Self {
        Self(requests)
    }

    /// Asks one question; `None` if the engine has ended.
    pub async fn ask<T>(&self, question: impl FnOnce(oneshot::Sender<T>) -> engine::Request) -> Option<T> {
        let (answer, answered) = oneshot::channel();
        self.0.send(question(answer)).await.ok()?;
        answered.await.ok()
    }

    /// Tells something.
    pub async fn tell(&self, request: engine::Request) {
        // The engine has ended: then nobody is there to be told.
        let _ = self.0.send(request).await;
    }
}

/// The control plane, as the API has it.
#[derive(Clone)]
pub struct Control {
    /// Who does what is asked.
    pub writer: Writer,
    /// The relays that are alive.
    pub alive: watch::Receiver<BTreeSet<String>>,
    /// The relay of this process.
    pub own: Option<Own>,
    /// The hosts that wait for a change of their configuration.
    pub followers: Followers,
}

/// The relay of this process, as others have to know it.
#[derive(Clone, Debug)]
pub struct Own {
    /// Its name.
    pub name: Name,
    /// The public key of its interface.
    pub public_key: PublicKey,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Its port.
    pub port: u16,
}

/// What all handlers share.
#[derive(Clone)]
struct Api {
    access: Access,
    engine: Option<Engine>,
    control: Option<Control>,
    failures: Arc<auth::Failures>,
    streams: Arc<Semaphore>,
}

impl Api {
    /// The relay of this process.
    fn engine(&self) -> Result<&Engine, Problem> {
        let none = || {
            Problem::new(404, "no_relay_here", "this process is no relay: ask one that `wgrelay run` started")
        };
        self.engine.as_ref().ok_or_else(none)
    }

    /// The control plane.
    fn control(&self) -> Result<&Control, Problem> {
        let detail = "the members of this relay stand in its file: set `source = \"store\"` in [control]";
        self.control.as_ref().ok_or_else(|| Problem::new(404, "no_control_plane", detail))
    }
}

/// The API, for one listener: of the relay of this process if there is one, and of the control plane if it has one.
pub fn router(engine: Option<Engine>, control: Option<Control>, access: Access) -> Router {
    let failures = Arc::new(auth::Failures::new());
    let api = Api { access, engine, control, failures, streams: Arc::new(Semaphore::new(STREAMS)) };
    let (quick, waiting, document) = openapi::routes();
    let quick = quick.layer(from_fn_with_state(Limits::new(AT_ONCE, TIME), limited));
    let waiting = waiting.layer(from_fn_with_state(Limits::new(WAITING, LONGEST_WAIT + TIME), limited));
    quick
        .merge(waiting)
        .merge(openapi::served(&document))
        .layer(DefaultBodyLimit::max(BODY_BYTES))
        .layer(map_response(problem::tidy))
        .with_state(api)
}

/// How many requests there may be at once, and how long they may take.
#[derive(Clone)]
struct Limits {
    permits: Arc<Semaphore>,
    time: Duration,
}

impl Limits {
    fn new(at_once: usize, time: Duration) -> Self {
        Self { permits: Arc::new(Semaphore::new(at_once)), time }
    }
}

async fn limited(State(limits): State<Limits>, request: Request, next: Next) -> Response {
    let Ok(_permit) = limits.permits.try_acquire() else {
        let busy = Problem::new(503, "busy", "too many requests at once: try again in a moment");
        return busy.retry_after(Duration::from_secs(1)).into_response();
    };
    match tokio::time::timeout(limits.time, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Problem::new(408, "timed_out", "the request took too long").into_response(),
    }
}
