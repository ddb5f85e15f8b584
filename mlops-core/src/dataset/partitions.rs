//! Rows as segments, those of each partition apart.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch, UInt32Array};
use arrow::compute::{cast, take_record_batch};
use arrow::datatypes::{DataType, SchemaRef};
use futures::TryStreamExt;
use futures::stream::{self, BoxStream, StreamExt};

use super::segment::Segmenter;
use super::{Partition, same_columns};
use crate::{Error, Result};

/// The most partitions of one commit.
const MOST_PARTITIONS: usize = 10_000;
/// How many bytes of rows may wait in the segments of all partitions; beyond that, the largest is written as it is.
const WAITING: u64 = 256 << 20;
/// After so many rows it is looked whether too many wait: it must not depend on how rows are batched.
const LOOK: usize = 8_192;

/// Splits a batch by the values of some columns.
fn split(batch: &RecordBatch, by: &[String]) -> Result<Vec<(Vec<Option<String>>, RecordBatch)>> {
    if by.is_empty() {
        return Ok(vec![(Vec::new(), batch.clone())]);
    }
    let columns = by.iter().map(|name| {
        let column = batch.column_by_name(name).ok_or_else(|| Error::column(name, "no such column to partition by"))?;
        cast(column, &DataType::Utf8).map_err(|e| Error::column(name, format!("cannot be partitioned by: {e}")))
    });
    let columns: Vec<_> = columns.collect::<Result<_>>()?;
    let mut groups: BTreeMap<Vec<Option<String>>, Vec<u32>> = BTreeMap::new();
    for row in 0..batch.num_rows() {
        let value = |column: &arrow::array::ArrayRef| {
            let column = column.as_string::<i32>();
            column.is_valid(row).then(|| column.value(row).to_owned())
        };
        let row = u32::try_from(row).map_err(|_| Error::invalid("batch", "has more than 4 billion rows"))?;
        groups.entry(columns.iter().map(value).collect()).or_default().push(row);
    }
    let take = |(key, rows)| Ok((key, take_record_batch(batch, &UInt32Array::from(rows))?));
    groups.into_iter().map(take).collect()
}

/// The segments of all partitions that are not complete.
struct Open<'a> {
    schema: SchemaRef,
    by: &'a [String],
    segments: BTreeMap<Vec<Option<String>>, Segmenter>,
    rows: usize,
    waiting: u64,
}

impl Open<'_> {
    fn partition(&self, key: &[Option<String>]) -> Partition {
        self.by.iter().cloned().zip(key.iter().cloned()).collect()
    }

    /// Adds rows, and returns the segments that are complete by them or have to make room.
    fn push(&mut self, batch: &RecordBatch) -> Result<Vec<(Partition, RecordBatch)>> {
        same_columns(&self.schema, &batch.schema())?;
        let mut done = Vec::new();
        let mut start = 0;
        while start < batch.num_rows() {
            // Where there is one partition, its segments are bounded by themselves.
            let left = if self.by.is_empty() { usize::MAX } else { LOOK - self.rows % LOOK };
            let rows = left.min(batch.num_rows() - start);
            for (key, rows) in split(&batch.slice(start, rows), self.by)? {
                let partition = self.partition(&key);
                let segmenter = self.segments.entry(key).or_insert_with(|| Segmenter::new(Arc::clone(&self.schema)));
                done.extend(segmenter.push(&rows)?.into_iter().map(|rows| (partition.clone(), rows)));
            }
            if self.segments.len() > MOST_PARTITIONS {
                let by = self.by;
                let reason =
                    format!("{by:?} has more than {MOST_PARTITIONS} different values; choose a coarser column");
                return Err(Error::invalid("partition_by", reason));
            }
            start += rows;
            self.rows += rows;
            if self.rows.is_multiple_of(LOOK) && !self.by.is_empty() {
                done.extend(self.make_room()?);
            }
        }
        Ok(done)
    }

    fn make_room(&mut self) -> Result<Vec<(Partition, RecordBatch)>> {
        let mut done = Vec::new();
        let mut waiting: u64 = self.segments.values().map(Segmenter::pending).sum();
        while waiting > self.waiting {
            let Some((key, largest)) = self.segments.iter_mut().max_by_key(|(_, segmenter)| segmenter.pending()) else {
                break;
            };
            waiting -= largest.pending();
            let (key, rows) = (key.clone(), largest.finish()?);
            done.extend(rows.map(|rows| (self.partition(&key), rows)));
        }
        Ok(done)
    }

    /// What is left.
    fn finish(&mut self) -> Result<Vec<(Partition, RecordBatch)>> {
        let mut segments = std::mem::take(&mut self.segments);
        let rest = segments.iter_mut().map(|(key, segmenter)| Ok((self.partition(key), segmenter.finish()?)));
        let rest: Vec<_> = rest.collect::<Result<_>>()?;
        Ok(rest.into_iter().filter_map(|(partition, rows)| Some((partition, rows?))).collect())
    }
}

/// Rows as segments, each with its partition.
pub(super) fn segments<'a>(
    schema: SchemaRef,
    batches: BoxStream<'a, Result<RecordBatch>>,
    by: &'a [String],
) -> BoxStream<'a, Result<(Partition, RecordBatch)>> {
    let open = Open { schema, by, segments: BTreeMap::new(), rows: 0, waiting: WAITING };
    let step = |(mut batches, mut open, ended): (BoxStream<'a, Result<RecordBatch>>, Open<'a>, bool)| async move {
        if ended {
            return Ok::<_, Error>(None);
        }
        let (done, ended) = match batches.try_next().await? {
            Some(batch) => (open.push(&batch)?, false),
            None => (open.finish()?, true),
        };
        Ok(Some((done.into_iter().map(Ok), (batches, open, ended))))
    };
    stream::try_unfold((batches, open, false), step).map_ok(stream::iter).try_flatten().boxed()
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, Int64Array, StringArray};

    use super::*;

    #[test]
    fn partitions_that_wait_take_no_more_than_the_limit_however_rows_are_batched() {
        let n: i64 = 100_000;
        let day: ArrayRef = Arc::new(StringArray::from_iter_values((0..n).map(|i| format!("{}", i % 50))));
        let text: ArrayRef = Arc::new(StringArray::from_iter_values((0..n).map(|i| format!("{i:0100}"))));
        let id: ArrayRef = Arc::new(Int64Array::from_iter_values(0..n));
        let all = RecordBatch::try_from_iter([("day", day), ("text", text), ("id", id)]).unwrap();
        let by = ["day".to_owned()];
        let cut = |sizes: usize| {
            // A hundredth of the rows' bytes may wait, and what comes between two looks.
            let (segments, waiting) = (BTreeMap::new(), 1 << 20);
            let mut open = Open { schema: all.schema(), by: &by, segments, rows: 0, waiting };
            let mut cut = Vec::new();
            for start in (0..all.num_rows()).step_by(sizes) {
                let batch = all.slice(start, sizes.min(all.num_rows() - start));
                cut.extend(open.push(&batch).unwrap());
                let held: u64 = open.segments.values().map(Segmenter::pending).sum();
                assert!(held <= (1 << 20) + 200 * LOOK as u64, "{held} bytes wait");
            }
            cut.extend(open.finish().unwrap());
            cut.sort_by(|a, b| a.0.cmp(&b.0));
            cut
        };
        let whole = cut(all.num_rows());
        assert!(whole.len() > 50 && whole.iter().map(|(_, rows)| rows.num_rows()).sum::<usize>() == all.num_rows());
        assert!(cut(3_001) == whole && cut(LOOK) == whole);
    }
}
