//! Elec2: two and a half years of half-hourly electricity prices, 1996 to 1998, with real drift.
//!
//! The file and where it comes from are in `data/PROVENANCE.md`.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Float64Array, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, Float64Type, Int64Type, Schema};
use mlops_core::{Digest, Timestamp, clock::from_micros};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::Result;

/// Half hours in a day: the rows come 48 a day.
pub const DAY: usize = 48;

/// The columns a model is trained on.
///
/// The last two say how far price and demand are from their mean over the last 24 hours, the present half hour
/// included: everything that a caller knows when it asks.
pub const FEATURES: [&str; 8] =
    ["period", "nsw_price", "nsw_demand", "vic_price", "vic_demand", "transfer", "price_over_day", "demand_over_day"];

/// The column that a careless engineer might train on as well: in the archive it holds the settled direction of the
/// price, which is the label. When a request is made it is not known yet and stands at 0.
pub const SETTLED: &str = "settled";

/// The label: whether the price is above its mean over the last 24 hours.
pub const LABEL: &str = "up";

const PARQUET: &[u8] = include_bytes!("../data/elec2.parquet");

/// The whole stream, in time order.
#[derive(Clone, Debug)]
pub struct Elec2 {
    rows: RecordBatch,
}

impl Elec2 {
    /// Reads the stream that the program carries, and adds the columns derived from the past 24 hours.
    ///
    /// # Errors
    /// If the file is damaged.
    pub fn open() -> Result<Self> {
        let reader = ParquetRecordBatchReaderBuilder::try_new(bytes::Bytes::from_static(PARQUET))?.build()?;
        let batches = reader.collect::<Result<Vec<_>, _>>()?;
        let schema = batches.first().ok_or("elec2.parquet has no rows")?.schema();
        let raw = concat_batches(&schema, &batches)?;
        let mut fields: Vec<Arc<Field>> = schema.fields().iter().cloned().collect();
        let mut columns: Vec<ArrayRef> = raw.columns().to_vec();
        for (from, name) in [("nsw_price", "price_over_day"), ("nsw_demand", "demand_over_day")] {
            let values = raw.column_by_name(from).ok_or("a column is missing")?.as_primitive::<Float64Type>();
            fields.push(Arc::new(Field::new(name, DataType::Float64, false)));
            columns.push(Arc::new(Float64Array::from(over_the_day(values.values()))));
        }
        let up = raw.column_by_name(LABEL).ok_or("the label is missing")?.as_primitive::<Int64Type>();
        fields.push(Arc::new(Field::new(SETTLED, DataType::Float64, false)));
        columns.push(Arc::new(Float64Array::from_iter_values(up.values().iter().map(|&v| v as f64))));
        Ok(Self { rows: RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)? })
    }

    /// The digest of the file the stream was read from.
    #[must_use]
    pub fn digest() -> Digest {
        Digest::of(PARQUET)
    }

    /// How many rows there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.num_rows()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The rows `from..until` as they stand in the archive, labels and settled directions included.
    #[must_use]
    pub fn archive(&self, from: usize, until: usize) -> RecordBatch {
        self.rows.slice(from, until.saturating_sub(from))
    }

    /// Row `i` as it is known when the request is made: without its label, and not settled yet.
    ///
    /// # Errors
    /// None in practice: the columns are there.
    pub fn request(&self, i: usize) -> Result<RecordBatch> {
        let columns = FEATURES.iter().map(|name| self.rows.column_by_name(name).map(|c| (*name, c.slice(i, 1))));
        let mut columns: Vec<(&str, ArrayRef)> = columns.collect::<Option<_>>().ok_or("a feature is missing")?;
        columns.push((SETTLED, Arc::new(Float64Array::from(vec![0.0]))));
        Ok(RecordBatch::try_from_iter(columns)?)
    }

    /// When row `i` happened.
    #[must_use]
    pub fn time(&self, i: usize) -> Timestamp {
        const HALF_HOUR: i64 = 1_800_000_000;
        const FIRST: i64 = 831_427_200_000_000; // 7 May 1996
        from_micros(FIRST + HALF_HOUR * i as i64)
    }

    /// The label of row `i`.
    #[must_use]
    pub fn label(&self, i: usize) -> bool {
        self.rows.column_by_name(LABEL).is_some_and(|c| c.as_primitive::<Int64Type>().value(i) == 1)
    }
}

/// Each value minus the mean of the last [`DAY`] values, itself included.
fn over_the_day(values: &[f64]) -> Vec<f64> {
    let mean = |window: &[f64]| window.iter().sum::<f64>() / window.len() as f64;
    (0..values.len()).map(|i| values[i] - mean(&values[(i + 1).saturating_sub(DAY)..=i])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stream_is_whole_and_regular() {
        let elec2 = Elec2::open().unwrap();
        assert_eq!(elec2.len(), 944 * DAY);
        let up = (0..elec2.len()).filter(|&i| elec2.label(i)).count();
        assert_eq!(up, 19_237, "42.45 % of the half hours");
        let rows = elec2.archive(0, elec2.len());
        let at = rows.column(0).as_primitive::<arrow::datatypes::TimestampMicrosecondType>();
        for i in [0, 1, 17_000, elec2.len() - 1] {
            assert_eq!(elec2.time(i), from_micros(at.value(i)));
        }
    }

    #[test]
    fn a_request_knows_nothing_of_its_label_or_of_later_rows() {
        let elec2 = Elec2::open().unwrap();
        let request = elec2.request(1_000).unwrap();
        assert!(request.column_by_name(LABEL).is_none());
        assert_eq!(request.column_by_name(SETTLED).unwrap().as_primitive::<Float64Type>().value(0), 0.0);
        let prices: Vec<f64> = (0..200).map(|i| f64::from(i % 17)).collect();
        assert_eq!(over_the_day(&prices)[..150], over_the_day(&prices[..150]), "later values change nothing");
        assert_eq!(over_the_day(&[3.0, 5.0]), [0.0, 1.0]);
    }
}
