//! The network between workers and the server: the real routes, reached by messages that are late, lost or doubled.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use fastrand::Rng;
use http::{Request, Response};
use qmtl_backfill::lease::Transport;
use qmtl_history_api::{Error, Result, async_trait};
use tower::ServiceExt;

use crate::clock::{SimClock, Truth, calm};
use crate::run::Figures;
use crate::world::World;

/// One worker's way to the server.
#[derive(Clone, Debug)]
pub(crate) struct Net {
    pub(crate) world: Arc<World>,
    /// Whose it is, by number.
    pub(crate) worker: usize,
    pub(crate) clock: SimClock,
    pub(crate) router: Router,
    pub(crate) rng: Arc<Mutex<Rng>>,
    pub(crate) figures: Arc<Figures>,
}

/// Hands a request to the routes; an answer that cannot be read is none.
async fn delivered(router: Router, request: Request<Vec<u8>>) -> Result<Response<Vec<u8>>> {
    let gone = |what: &str| Error::unavailable(what.to_owned());
    let response = router.oneshot(request.map(Body::from)).await.map_err(|_| gone("no answer"))?;
    let (parts, body) = response.into_parts();
    let body = axum::body::to_bytes(body, usize::MAX).await.map_err(|_| gone("a broken answer"))?;
    Ok(Response::from_parts(parts, body.to_vec()))
}

impl Net {
    fn draw<T>(&self, draw: impl FnOnce(&mut Rng) -> T) -> T {
        draw(&mut self.rng.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn truth(&self) -> Truth {
        self.clock.truth
    }

    fn is_down(&self) -> bool {
        let now = self.truth().now();
        self.world.outages.iter().any(|outage| outage.contains(now))
    }

    fn is_cut_off(&self) -> bool {
        let now = self.truth().now();
        self.world
            .workers
            .get(self.worker)
            .is_some_and(|own| own.partitions.iter().any(|cut| cut.contains(now)))
    }

    fn is_calm(&self) -> bool {
        self.truth().now() >= calm()
    }

    fn strikes(&self, chance: f64) -> bool {
        !self.is_calm() && self.draw(Rng::f64) < chance
    }

    fn travel(&self) -> Duration {
        let longest = if self.is_calm() { 0.01 } else { self.world.slow };
        Duration::from_secs_f64(0.001 + self.draw(Rng::f64) * longest)
    }
}

#[async_trait]
impl Transport for Net {
    async fn send(&self, request: Request<Vec<u8>>) -> Result<Response<Vec<u8>>> {
        self.clock.awake().await;
        self.figures.add("requests", 1);
        self.truth().pass(self.travel()).await;
        if self.is_cut_off() {
            self.figures.add("messages cut off", 1);
            std::future::pending::<()>().await;
        }
        if self.is_down() {
            self.figures.add("requests to a server that is down", 1);
            return Err(Error::unavailable("connection refused"));
        }
        if self.strikes(self.world.lost) {
            self.figures.add("requests lost", 1);
            std::future::pending::<()>().await;
        }
        if self.strikes(self.world.doubled) {
            self.figures.add("requests doubled", 1);
            let (again, router, truth) = (request.clone(), self.router.clone(), self.truth());
            let late = Duration::from_secs_f64(self.draw(Rng::f64) * 60.0);
            tokio::spawn(async move {
                truth.pass(late).await;
                // Nobody waits for this answer.
                let _ = delivered(router, again).await;
            });
        }
        // It is carried out also when whoever sent it ends meanwhile.
        let carried = tokio::spawn(delivered(self.router.clone(), request)).await;
        let answer = carried.map_err(|_| Error::unavailable("the server broke off"))??;
        if self.strikes(self.world.lost) {
            self.figures.add("answers lost", 1);
            std::future::pending::<()>().await;
        }
        self.truth().pass(self.travel()).await;
        if self.is_cut_off() {
            std::future::pending::<()>().await;
        }
        self.clock.awake().await;
        Ok(answer)
    }
}
