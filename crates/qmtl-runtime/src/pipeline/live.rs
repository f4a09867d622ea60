//! Live bars: what waits, what is late, and what is recorded and ordered once a moment has come.

use std::sync::Arc;
use std::time::Duration;

use qmtl_history_api::arrow_array::{ArrayRef, Float64Array, RecordBatch};
use qmtl_history_api::arrow_schema::{DataType, Field, Schema};
use qmtl_history_api::{Error, NodeId, Result, SeriesKey, StreamKind, Timestamp, frame};

use super::align::Ripe;
use super::delivered::Signal;
use super::merge::rows_up_to;
use super::{Pipeline, Replayed};
use crate::{Appended, EventRecorderService, Order, StreamInput};

/// What a live bar did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Fed {
    /// What became of it in the cache.
    pub appended: Appended,
    /// How many bars were delivered because of it: none while its moment waits for another input.
    pub bars: u64,
    /// How many results came of them.
    pub results: u64,
}

/// A live moment, and what nodes made of it.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct LiveMoment {
    /// When its bars close.
    pub at: Timestamp,
    /// A result of each node that ran.
    pub results: Vec<NodeResult>,
    /// The orders that were handed to the nodes' sinks.
    pub orders: Vec<Order>,
}

/// What a node computed at a moment.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct NodeResult {
    /// The node.
    pub node: NodeId,
    /// When the bar opens that it is.
    pub ts: Timestamp,
    /// One value for each of the node's outputs.
    pub values: Vec<f64>,
}

/// Who hears of live moments.
pub(super) type MomentFn = dyn FnMut(&Pipeline, &LiveMoment) -> Result<()> + Send;

/// An input for whose bars a moment has waited in vain.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GivenUp {
    /// The moment.
    pub moment: Timestamp,
    /// The input.
    pub input: SeriesKey,
    /// The close up to which it had said which bars it has.
    pub told_up_to: Timestamp,
}

/// A live bar that closes at or before a moment which had been delivered when it came.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LateBar {
    /// Whose bar it is.
    pub input: SeriesKey,
    /// When it opens.
    pub ts: Timestamp,
    /// The newest moment that had been delivered by then; at later ones nodes see it.
    pub after: Timestamp,
}

/// Live bars that were not delivered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LateBars {
    /// They close at or before the newest moment that was delivered.
    pub late: u64,
    /// A second bar of one time.
    pub duplicate: u64,
}

type Record = (Arc<EventRecorderService>, SeriesKey, Timestamp, RecordBatch);

impl Pipeline {
    /// Takes a live bar that came before history was replayed: into its cache, where it wins, and
    /// to its recorder. The next [`replay`](Self::replay) delivers it. Fails as [`feed`](Self::feed) does.
    pub async fn merge_live(
        &mut self,
        input: &SeriesKey,
        ts: Timestamp,
        payload: &RecordBatch,
    ) -> Result<Appended> {
        let stream = &self.inputs[self.input(input)?];
        let appended = stream.cache().write(|cache| cache.append(ts, payload))?;
        if appended == Appended::Duplicate {
            self.late.duplicate += 1;
        }
        if let Some(recorder) = recorder_for(stream, appended) {
            recorder.record(stream.key(), ts, without_ts(payload)?).await?;
        }
        Ok(appended)
    }

    /// Takes a live bar of an input: into its cache and its recorder, and once nothing is waited for any more that
    /// closes with it, to the nodes and theirs.
    ///
    /// `NotFound` for an unknown input, `Schema` for a row that contradicts the cache, the node's
    /// error when one panicked and [`OnPanic::Stop`](crate::OnPanic::Stop) was chosen, else what a recorder answers.
    pub async fn feed(&mut self, input: &SeriesKey, ts: Timestamp, payload: &RecordBatch) -> Result<Fed> {
        let mut records = Vec::new();
        let now = self.now();
        let appended = self.take(input, ts, payload, now, &mut records)?;
        let Replayed { bars, results } = self.deliver_live(false, now, records).await?;
        Ok(Fed { appended, bars, results })
    }

    /// Takes in that an input has no bar that is not there by now and closes at `close` or before: its source has
    /// said so. Fails as [`feed`](Self::feed) does.
    pub async fn settle(&mut self, input: &SeriesKey, close: Timestamp) -> Result<Replayed> {
        let at = self.input(input)?;
        self.aligner.settle(at, close);
        self.deliver_live(false, self.now(), Vec::new()).await
    }

    /// Delivers the moments that have waited long enough; [`due`](Self::due) says when there are any. Fails as
    /// [`feed`](Self::feed) does.
    pub async fn give_up(&mut self) -> Result<Replayed> {
        self.deliver_live(false, self.now(), Vec::new()).await
    }

    /// Delivers all moments that wait: no further bar will come. Fails as [`feed`](Self::feed) does.
    pub async fn finish(&mut self) -> Result<Replayed> {
        self.deliver_live(true, self.now(), Vec::new()).await
    }

    /// Delivers the moments that are ripe, and has recorded what came of them, behind what is to be recorded already.
    async fn deliver_live(
        &mut self,
        at_end: bool,
        now: Duration,
        mut records: Vec<Record>,
    ) -> Result<Replayed> {
        let released = self.release(at_end, now, &mut records)?;
        for (recorder, key, ts, payload) in records {
            recorder.record(&key, ts, payload).await?;
        }
        Ok(released)
    }

    /// When the oldest moment that waits has waited long enough, on the monotonic clock of the inputs; `None` when
    /// none waits.
    #[must_use]
    pub fn due(&self) -> Option<Duration> {
        self.aligner.due()
    }

    /// The time by which live bars wait, on the monotonic clock: a strategy's inputs have one.
    fn now(&self) -> Duration {
        self.inputs.first().map_or(Duration::ZERO, |input| input.clock().monotonic())
    }

    /// Puts a live bar into its cache, and notes when it closes.
    fn take(
        &mut self,
        input: &SeriesKey,
        ts: Timestamp,
        payload: &RecordBatch,
        now: Duration,
        records: &mut Vec<Record>,
    ) -> Result<Appended> {
        self.check_running()?;
        let at = self.input(input)?;
        let (stream, released) = (&self.inputs[at], self.released);
        let close = stream.key().interval.next(ts).unwrap_or(Timestamp::MAX);
        let appended = stream.cache().write(|cache| {
            // Those that wait take no room from those that nodes see.
            let waiting = cache.len() - rows_up_to(cache, released) + usize::from(close > released);
            cache.append_within(ts, payload, cache.period() + waiting)
        })?;
        match appended {
            Appended::Duplicate => self.late.duplicate += 1,
            Appended::New | Appended::Late | Appended::TooOld if close <= released => {
                self.late.late += 1;
                let (input, ts) = (stream.key().clone(), stream.key().interval.floor(ts).unwrap_or(ts));
                self.came_late.push(LateBar { input, ts, after: released });
            }
            Appended::Replaced if close <= released => self.late.late += 1,
            _ => self.aligner.came(at, close, now),
        }
        if let Some(recorder) = recorder_for(stream, appended) {
            records.push((Arc::clone(recorder), stream.key().clone(), ts, without_ts(payload)?));
        }
        Ok(appended)
    }

    /// Delivers the moments that are ripe, with what is to be recorded of them and the orders that come of them.
    fn release(&mut self, at_end: bool, now: Duration, records: &mut Vec<Record>) -> Result<Replayed> {
        let mut total = Replayed::default();
        while let Some(Ripe { at, given_up }) = self.aligner.ripe(now, at_end) {
            for (input, told_up_to) in given_up {
                // A bar of its that closes by then and comes now is late.
                self.aligner.settle(input, at);
                let input = self.inputs[input].key().clone();
                self.given_up.push(GivenUp { moment: at, input, told_up_to });
            }
            let mut signals = Vec::new();
            let (told_all, has_orders) = (self.on_moment.is_some(), self.activation.is_some());
            total.add(self.deliver(&[], at, &mut |delivered| {
                signals.extend(delivered.signals(told_all, has_orders));
            })?);
            self.aligner.delivered(at);
            let orders = self.signal(&signals, records)?;
            self.note_failures();
            if let Some(mut on_moment) = self.on_moment.take() {
                let nodes = &self.nodes;
                let result = |Signal { node, ts, values, .. }: Signal| NodeResult {
                    node: nodes[node].spec.id.clone(),
                    ts,
                    values,
                };
                let results = signals.into_iter().map(result).collect();
                let heard = on_moment(self, &LiveMoment { at, results, orders });
                self.on_moment = Some(on_moment);
                heard?;
            }
        }
        Ok(total)
    }

    /// Has results recorded, and hands those of the moment to the nodes' orders; the orders that came of it.
    fn signal(&mut self, signals: &[Signal], records: &mut Vec<Record>) -> Result<Vec<Order>> {
        let mut orders = Vec::new();
        for Signal { node, ts, values, acts } in signals {
            let node = &mut self.nodes[*node];
            if let Some(recorder) = &node.spec.recorder {
                let key = SeriesKey { node_id: node.spec.id.clone(), interval: node.interval };
                records.push((Arc::clone(recorder), key, *ts, payload_of(&node.spec.outputs, values)?));
            }
            let activation = self.activation.as_ref().filter(|_| *acts);
            if let Some(order) = activation.and_then(|activation| node.order(*ts, values[0], activation)) {
                node.send(&order);
                orders.push(order);
            }
        }
        Ok(orders)
    }
}

/// Who records a live row: a bar once, a plain event always, since several may come in one bar.
fn recorder_for(stream: &StreamInput, appended: Appended) -> Option<&Arc<EventRecorderService>> {
    let is_new = appended != Appended::Duplicate || stream.binding().kind == StreamKind::Events;
    stream.event_service().filter(|_| is_new)
}

/// The values of a moment as an event's payload.
fn payload_of(outputs: &[String], values: &[f64]) -> Result<RecordBatch> {
    let fields: Vec<_> = outputs.iter().map(|name| Field::new(name, DataType::Float64, true)).collect();
    let columns = values.iter().map(|value| Arc::new(Float64Array::from(vec![*value])) as ArrayRef).collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)
        .map_err(|e| Error::unexpected("cannot make a payload of a result").caused_by(e))
}

fn without_ts(payload: &RecordBatch) -> Result<RecordBatch> {
    let fields = payload.schema_ref().fields().iter().enumerate();
    let columns: Vec<usize> =
        fields.filter(|(_, field)| field.name() != frame::TS).map(|(at, _)| at).collect();
    payload.project(&columns).map_err(|e| Error::unexpected("cannot leave out a payload's time").caused_by(e))
}
