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

/// The columns a model is trained on: what is known when the half hour begins.
///
/// The label is decided by the price of the half hour itself, so that price is not among them, nor is Victoria's. The
/// market's forecasts of demand and transfer are; prices are those of the past:
///
/// | column | from |
/// | --- | --- |
/// | `period`, `nsw_demand`, `vic_demand`, `transfer` | the half hour |
/// | `price_before` | the price of the half hour before |
/// | `price_over_day` | how far that is from the mean of the 24 hours up to it |
/// | `price_step` | how far that is from the price before it |
/// | `price_yesterday` | how far the price 24 hours ago was from its own mean of 24 hours |
/// | `demand_over_day`, `demand_step` | how far demand is from its mean of 24 hours, and from the half hour before |
///
/// The three differences of prices are divided by the standard deviation of the price over those 24 hours and squeezed by
/// `tanh`, since prices have spikes.
pub const FEATURES: [&str; 10] = [
    "period",
    "nsw_demand",
    "vic_demand",
    "transfer",
    "price_before",
    "price_over_day",
    "price_step",
    "price_yesterday",
    "demand_over_day",
    "demand_step",
];

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
        let column = |name| raw.column_by_name(name).map(|c| c.as_primitive::<Float64Type>().values().to_vec());
        let (price, demand) = column("nsw_price").zip(column("nsw_demand")).ok_or("a column is missing")?;
        for (name, values) in derived(&price, &demand) {
            fields.push(Arc::new(Field::new(name, DataType::Float64, false)));
            columns.push(Arc::new(Float64Array::from(values)));
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

/// The columns made from the past; the first rows make do with the past there is.
fn derived(price: &[f64], demand: &[f64]) -> [(&'static str, Vec<f64>); 6] {
    let back = |values: &[f64], i: usize, by: usize| values[i.saturating_sub(by)];
    // The 24 hours up to row `until`, itself excluded; never empty.
    let past = |values: &[f64], until: usize| {
        let until = until.max(1);
        let window = &values[until.saturating_sub(DAY)..until];
        let mean = window.iter().sum::<f64>() / window.len() as f64;
        let variance = window.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / window.len() as f64;
        (mean, variance.sqrt().max(1e-4))
    };
    let each = |f: &dyn Fn(usize) -> f64| (0..price.len()).map(f).collect::<Vec<f64>>();
    [
        ("price_before", each(&|i| back(price, i, 1))),
        (
            "price_over_day",
            each(&|i| {
                let (mean, deviation) = past(price, i);
                ((back(price, i, 1) - mean) / deviation).tanh()
            }),
        ),
        ("price_step", each(&|i| ((back(price, i, 1) - back(price, i, 2)) / past(price, i).1).tanh())),
        (
            "price_yesterday",
            each(&|i| {
                let then = i.saturating_sub(DAY);
                ((price[then] - past(price, then + 1).0) / past(price, i).1).tanh()
            }),
        ),
        ("demand_over_day", each(&|i| demand[i] - past(demand, i + 1).0)),
        ("demand_step", each(&|i| demand[i] - back(demand, i, 1))),
    ]
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
    fn a_request_knows_nothing_of_its_own_price_its_label_or_later_rows() {
        let elec2 = Elec2::open().unwrap();
        let request = elec2.request(1_000).unwrap();
        for unknown in [LABEL, "nsw_price", "vic_price"] {
            assert!(request.column_by_name(unknown).is_none(), "{unknown}");
        }
        assert_eq!(request.column_by_name(SETTLED).unwrap().as_primitive::<Float64Type>().value(0), 0.0);

        let price: Vec<f64> = (0..300u32).map(|i| f64::from(i * 31 % 17)).collect();
        let demand: Vec<f64> = (0..300u32).map(|i| f64::from(i * 7 % 23)).collect();
        let (mut other_price, mut other_demand) = (price.clone(), demand.clone());
        other_price[200..].fill(99.0);
        other_demand[201..].fill(99.0);
        for ((name, a), (_, b)) in derived(&price, &demand).into_iter().zip(derived(&other_price, &other_demand)) {
            assert_eq!(a[..=200], b[..=200], "{name} of row 200 looks at its own price or at later rows");
            assert_ne!(a[201..], b[201..], "{name}");
        }
    }
}
