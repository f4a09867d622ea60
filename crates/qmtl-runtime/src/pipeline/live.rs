//! Live bars: what waits, what is late, and what is recorded and ordered once a moment has come.

use std::sync::Arc;
use std::time::Duration;

use qmtl_history_api::arrow_array::{ArrayRef, Float64Array, RecordBatch};
use qmtl_history_api::arrow_schema::{DataType, Field, Schema};
use qmtl_history_api::{Error, NodeId, RangeSet, Result, SeriesKey, StreamKind, TimeRange, Timestamp, frame};

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
    /// The opening time of the bar that this result represents.
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

pub(super) type Record = (Arc<EventRecorderService>, SeriesKey, Timestamp, RecordBatch);

impl Pipeline {
    /// Takes a live bar that came before history was replayed: into its cache, where it wins, and
    /// to its recorder. The next [`replay`](Self::replay) delivers it. Fails as [`feed`](Self::feed) does.
    pub async fn merge_live(
        &mut self,
        input: &SeriesKey,
        ts: Timestamp,
        payload: &RecordBatch,
    ) -> Result<Appended> {
        self.claim()?;
        let at = self.input(input)?;
        check(&self.inputs[at], ts, payload)?;
        let appended = self.inputs[at].cache().write(|cache| cache.append(ts, payload))?;
        if appended == Appended::Duplicate {
            self.late.duplicate += 1;
        }
        self.note_record(at, ts, payload, appended)?;
        self.record().await?;
        Ok(appended)
    }

    /// Takes a live bar of an input: into its cache and its recorder, and once nothing is waited for any more that
    /// closes with it, to the nodes and theirs.
    ///
    /// `NotFound` for an unknown input; `InvalidInput` for a bar that opens off the grid of its input or whose payload
    /// has another `ts`; `Schema` for a row that contradicts the cache; `Conflict` while another pipeline delivers the
    /// bars of an input; the node's error when one failed and [`OnPanic::Stop`](crate::OnPanic::Stop) was chosen; else
    /// what a hook or a recorder returns. Rows to be recorded are kept until their recorder has taken them.
    pub async fn feed(&mut self, input: &SeriesKey, ts: Timestamp, payload: &RecordBatch) -> Result<Fed> {
        let now = self.now();
        let appended = self.take(input, ts, payload, now)?;
        let Replayed { bars, results } = self.deliver_live(false, now).await?;
        Ok(Fed { appended, bars, results })
    }

    /// Records that every bar of an input closing at or before `close` has arrived: its source has proved it. Bars that
    /// are not there do not exist, and are skipped. Fails as [`feed`](Self::feed) does.
    pub async fn settle(&mut self, input: &SeriesKey, close: Timestamp) -> Result<Replayed> {
        let at = self.input(input)?;
        let interval = self.inputs[at].key().interval;
        self.inputs[at].cache().write(|cache| {
            let proven = cache.oldest().zip(interval.floor(close));
            if let Some(proven) = proven.and_then(|(first, end)| TimeRange::checked(first, end)) {
                cache.note_known_empty(&RangeSet::from(proven));
            }
        });
        self.aligner.settle(at, close);
        self.deliver_live(false, self.now()).await
    }

    /// Delivers the moments that have waited long enough; [`due`](Self::due) says when there are any. Fails as
    /// [`feed`](Self::feed) does.
    pub async fn give_up(&mut self) -> Result<Replayed> {
        self.deliver_live(false, self.now()).await
    }

    /// Delivers all moments that wait: no further bar will come. Fails as [`feed`](Self::feed) does.
    pub async fn finish(&mut self) -> Result<Replayed> {
        self.deliver_live(true, self.now()).await
    }

    /// Delivers the moments that are ripe, and has recorded what came of them, whatever else went wrong.
    async fn deliver_live(&mut self, at_end: bool, now: Duration) -> Result<Replayed> {
        let released = self.release(at_end, now);
        self.record().await?;
        let released = released?;
        self.check_running().map(|()| released)
    }

    /// Has recorded what is to be; what a recorder does not take stays.
    async fn record(&mut self) -> Result<()> {
        while let Some((recorder, key, ts, payload)) = self.records.front() {
            recorder.record(key, *ts, payload.clone()).await?;
            self.records.pop_front();
        }
        Ok(())
    }

    /// Notes that a live row is to be recorded: a bar once, a plain event always, since several may come in one bar.
    fn note_record(
        &mut self,
        at: usize,
        ts: Timestamp,
        payload: &RecordBatch,
        appended: Appended,
    ) -> Result<()> {
        let stream = &self.inputs[at];
        let is_new = appended != Appended::Duplicate || stream.binding().kind == StreamKind::Events;
        if let Some(recorder) = stream.event_service().filter(|_| is_new) {
            let payload = without_ts(payload)?;
            self.records.push_back((Arc::clone(recorder), stream.key().clone(), ts, payload));
        }
        Ok(())
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
    ) -> Result<Appended> {
        self.check_running()?;
        self.claim()?;
        let at = self.input(input)?;
        let (stream, released) = (&self.inputs[at], self.released);
        check(stream, ts, payload)?;
        let close = stream.key().interval.next(ts).unwrap_or(Timestamp::MAX);
        let appended = stream.cache().write(|cache| {
            // Those that wait take no room from those that nodes see.
            let waiting = cache.len() - rows_up_to(cache, released) + usize::from(close > released);
            cache.append_within(ts, payload, cache.period().saturating_add(waiting))
        })?;
        match appended {
            Appended::Duplicate => self.late.duplicate += 1,
            _ if close <= released => {
                self.late.late += 1;
                let (input, ts) = (stream.key().clone(), stream.key().interval.floor(ts).unwrap_or(ts));
                self.came_late.push(LateBar { input, ts, after: released });
            }
            _ => self.aligner.came(at, close, now),
        }
        self.note_record(at, ts, payload, appended)?;
        Ok(appended)
    }

    /// Delivers the moments that are ripe, with what is to be recorded of them and the orders that come of them.
    fn release(&mut self, at_end: bool, now: Duration) -> Result<Replayed> {
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
            let orders = self.signal(&signals)?;
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
    fn signal(&mut self, signals: &[Signal]) -> Result<Vec<Order>> {
        let mut orders = Vec::new();
        for Signal { node, ts, values, acts } in signals {
            let node = &mut self.nodes[*node];
            if let Some(recorder) = &node.spec.recorder {
                let key = SeriesKey { node_id: node.spec.id.clone(), interval: node.interval };
                let payload = payload_of(&node.spec.outputs, values)?;
                self.records.push_back((Arc::clone(recorder), key, *ts, payload));
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

/// `InvalidInput` for a live bar whose time is not that of a bar, or not that of its payload. Events that are not bars
/// may come at any time.
fn check(stream: &StreamInput, ts: Timestamp, payload: &RecordBatch) -> Result<()> {
    let interval = stream.key().interval;
    let refuse = |message: &str| Err(Error::invalid(message).with("series", stream.key()).with("ts", ts));
    if stream.binding().kind != StreamKind::Bars {
        return Ok(());
    }
    if !interval.is_on_grid(ts) || interval.next(ts).is_none() {
        return refuse("a live bar must open on the grid of its input");
    }
    // A payload without times is the usual one, and an error for it would cost more than all else here.
    let own = payload.column_by_name(frame::TS).and_then(|_| frame::timestamps(payload).ok());
    match own {
        Some(own) if own.len() == 1 && own.value(0) != ts.as_micros() => {
            refuse("a live bar's payload has another ts than the bar")
        }
        _ => Ok(()),
    }
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
