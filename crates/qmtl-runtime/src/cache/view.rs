//! What a strategy sees of a cache: contiguous columns of neighbouring rows.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use arrow_array::cast::AsArray;
use arrow_array::types::Float64Type;
use arrow_array::{Array, ArrayRef, RecordBatch, RecordBatchOptions};
use qmtl_history_api::frame::NotNumbers;
use qmtl_history_api::{Error, ErrorKind, Result, Timestamp, arrow_array, arrow_schema, frame};

use super::NodeCache;

/// One column of a view, without a copy.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ColumnView<'a> {
    /// Doubles without nulls, oldest first.
    F64(&'a [f64]),
    /// Anything else, oldest first; shares the cache's buffers.
    Arrow(ArrayRef),
}

/// Neighbouring rows of a [`NodeCache`], oldest first.
#[derive(Clone)]
pub struct CacheView<'a> {
    cache: &'a NodeCache,
    rows: Range<usize>,
}

impl<'a> CacheView<'a> {
    pub(super) fn new(cache: &'a NodeCache, rows: Range<usize>) -> Self {
        Self { cache, rows }
    }

    /// The number of rows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// True when no row is in the view.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// When the bars open, ascending.
    #[must_use]
    pub fn timestamps(&self) -> &'a [Timestamp] {
        &self.cache.rows.ts()[self.rows.clone()]
    }

    /// A column of doubles; does not allocate. `NotFound` for a column that the cache lacks,
    /// `Schema` for one of another type or with a null in the view: take [`CacheView::column`].
    pub fn f64(&self, name: &str) -> Result<&'a [f64]> {
        let column = self.index_of(name)?;
        self.cache.rows.doubles(column, &self.rows).ok_or_else(|| {
            Error::schema("the column is not one of doubles without nulls")
                .with("series", self.cache.key())
                .with("column", name)
        })
    }

    /// A column of any type. `NotFound` for a column that the cache lacks.
    pub fn column(&self, name: &str) -> Result<ColumnView<'a>> {
        let column = self.index_of(name)?;
        Ok(match self.cache.rows.doubles(column, &self.rows) {
            Some(values) => ColumnView::F64(values),
            None => ColumnView::Arrow(self.cache.rows.array(column, &self.rows)),
        })
    }

    /// A column of doubles by its place; `None` for one of another type or with a null in the view.
    pub(crate) fn doubles(&self, column: usize) -> Option<&'a [f64]> {
        self.cache.rows.doubles(column, &self.rows)
    }

    /// A column of doubles by its place; copies it when it has a null, which becomes NaN.
    pub(crate) fn f64_or_nan(&self, column: usize) -> Result<Cow<'a, [f64]>> {
        if let Some(values) = self.doubles(column) {
            return Ok(Cow::Borrowed(values));
        }
        let array = self.cache.rows.array(column, &self.rows);
        let doubles = array.as_primitive_opt::<Float64Type>().ok_or_else(|| {
            let name = self.cache.schema().map_or("", |schema| schema.field(column).name());
            Error::schema("the column is not one of doubles")
                .with("series", self.cache.key())
                .with("column", name)
                .with("type", array.data_type())
        })?;
        Ok(Cow::Owned(doubles.iter().map(|value| value.unwrap_or(f64::NAN)).collect()))
    }

    /// The rows as a canonical batch. This copies `ts` and columns of doubles.
    pub fn to_batch(&self) -> Result<RecordBatch> {
        let fields = self.cache.schema().map_or_else(arrow_schema::Fields::empty, |s| s.fields().clone());
        let schema =
            std::iter::once(frame::ts_field()).chain(fields.iter().map(|field| field.as_ref().clone()));
        let mut columns: Vec<ArrayRef> =
            vec![std::sync::Arc::new(frame::ts_array(self.timestamps().iter().copied()))];
        columns.extend((0..fields.len()).map(|column| self.cache.rows.array(column, &self.rows)));
        let options = RecordBatchOptions::new().with_row_count(Some(self.len()));
        let schema = std::sync::Arc::new(arrow_schema::Schema::new(schema.collect::<Vec<_>>()));
        RecordBatch::try_new_with_options(schema, columns, &options).map_err(|e| {
            Error::unexpected("cannot assemble the cache's rows")
                .with("series", self.cache.key())
                .caused_by(e)
        })
    }

    /// The columns of doubles in which a row has NaN, and those of prices in which one is null: whatever is
    /// computed from those is NaN too.
    #[must_use]
    pub fn not_numbers(&self) -> Vec<NotNumbers> {
        let fields = self.cache.schema().map_or_else(arrow_schema::Fields::empty, |s| s.fields().clone());
        let told = |(at, field): (usize, &arrow_schema::FieldRef)| {
            let name = field.name();
            let values = match self.cache.rows.doubles(at, &self.rows) {
                Some(values) => Cow::Borrowed(values),
                None if frame::is_price(name) => self.f64_or_nan(at).ok()?,
                None => return None,
            };
            NotNumbers::of(name, &values, |row| self.timestamps()[row])
        };
        fields.iter().enumerate().filter_map(told).collect()
    }

    /// The most rows that the cache holds.
    pub(crate) fn period(&self) -> usize {
        self.cache.period
    }

    /// Whether the cache was [ready](NodeCache::is_ready) when its first `rows` rows were there, all of which open
    /// before `until`.
    pub(crate) fn is_ready_at(&self, rows: usize, until: Timestamp) -> bool {
        self.cache.is_ready_at(rows, until)
    }

    /// The place of a column. `NotFound` for one that the cache lacks.
    pub(crate) fn index_of(&self, name: &str) -> Result<usize> {
        let schema = self.cache.schema();
        schema.and_then(|schema| schema.index_of(name).ok()).ok_or_else(|| {
            let known = schema.into_iter().flat_map(|schema| schema.fields());
            let known: Vec<_> = known.map(|field| field.name().as_str()).collect();
            Error::new(ErrorKind::NotFound, "the cache has no such column")
                .with("series", self.cache.key())
                .with("column", name)
                .with("columns", known.join(", "))
        })
    }
}

impl fmt::Debug for CacheView<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CacheView").field("series", self.cache.key()).field("rows", &self.rows).finish()
    }
}
