//! Rows into Parquet files whose bytes repeat where rows repeat.
//!
//! Rows are cut into segments where a hash of a row says so, each segment is one file, and within a file the writer cuts
//! pages by content. So rows inserted anywhere change the pages that hold them and nothing else, and the store keeps
//! each page (or a few small ones) as one chunk.

use std::io;

use ::parquet::arrow::{ArrowSchemaConverter, ArrowWriter};
use ::parquet::basic::{Compression, Encoding, Type, ZstdLevel};
use ::parquet::file::metadata::ParquetMetaData;
use ::parquet::file::properties::{CdcOptions, EnabledStatistics, WriterProperties};
use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Schema, SchemaRef};
use arrow::ipc::writer::StreamWriter;
use bytes::Bytes;

use super::stats::mix;
use crate::digest::Hasher;
use crate::{Digest, Error, Result};

/// About how many bytes of rows make a segment.
const SEGMENT: usize = 16 << 20;
/// A segment ends at the latest when its texts and numbers take that many bytes.
const LARGEST: u64 = 4 * SEGMENT as u64;
/// Sizes of a page before it is encoded. A page ends at the eighth of a row of marks in its values, of which none counts
/// within the least size: the smaller that is, the sooner pages after a change are what they were.
const PAGES: CdcOptions = CdcOptions { min_chunk_size: 1 << 10, max_chunk_size: 128 << 10, norm_level: 0 };
/// Pages smaller than this share a chunk with their neighbours.
const SMALL_PART: usize = 16 << 10;
/// The most bytes of different values that a column is encoded by. Such an encoding changes from the first new value on,
/// so it is for columns of few.
const DICTIONARY: usize = 16 << 10;
/// Told to be another whenever [`encode`] makes other bytes of the same rows.
const ENCODING: &[u8] = b"segment 2";

/// Cuts a stream of batches into segments. Where it cuts depends on the rows, not on how they are batched.
#[derive(Debug)]
pub(super) struct Segmenter {
    schema: SchemaRef,
    pending: Vec<RecordBatch>,
    rows: usize,
    bytes: u64,
    /// A power of two: one row in so many may end a segment.
    usual: usize,
}

impl Segmenter {
    pub(super) fn new(schema: SchemaRef) -> Self {
        let row: usize = schema.fields().iter().map(|field| width(field.data_type())).sum();
        let usual = (SEGMENT / row.max(1)).next_power_of_two().clamp(1 << 10, 1 << 20);
        Self { schema, pending: Vec::new(), rows: 0, bytes: 0, usual }
    }

    /// About the bytes of the rows after the last cut.
    pub(super) fn pending(&self) -> u64 {
        self.bytes
    }

    /// Adds rows, and returns the segments that are complete by them.
    pub(super) fn push(&mut self, batch: &RecordBatch) -> Result<Vec<RecordBatch>> {
        let (hashes, sizes) = describe_rows(batch);
        let mut done = Vec::new();
        let mut start = 0;
        for (i, (hash, size)) in hashes.iter().zip(&sizes).enumerate() {
            self.rows += 1;
            self.bytes += size;
            let marked = hash & (self.usual as u64 - 1) == 0 && self.rows >= self.usual / 4;
            if marked || self.rows >= 4 * self.usual || self.bytes >= LARGEST {
                self.pending.push(batch.slice(start, i + 1 - start));
                start = i + 1;
                done.extend(self.finish()?);
            }
        }
        if start < batch.num_rows() {
            self.pending.push(batch.slice(start, batch.num_rows() - start));
        }
        Ok(done)
    }

    /// The rows after the last cut.
    pub(super) fn finish(&mut self) -> Result<Option<RecordBatch>> {
        (self.rows, self.bytes) = (0, 0);
        let pending = std::mem::take(&mut self.pending);
        if pending.is_empty() {
            return Ok(None);
        }
        // As one batch: where Parquet ends its pages depends on how rows come in, and equal rows must be equal bytes.
        Ok(Some(arrow::compute::concat_batches(&self.schema, &pending)?))
    }
}

/// About the bytes of a value, where its type tells.
fn width(kind: &DataType) -> usize {
    match kind {
        DataType::FixedSizeBinary(n) => usize::try_from(*n).unwrap_or(0),
        DataType::FixedSizeList(field, n) => usize::try_from(*n).unwrap_or(0).saturating_mul(width(field.data_type())),
        DataType::Struct(fields) => fields.iter().map(|field| width(field.data_type())).sum(),
        DataType::Dictionary(keys, _) => width(keys),
        kind => kind.primitive_width().unwrap_or(32),
    }
}

/// About the bytes of each value of a nested type: those of a list by its length.
fn nested_sizes(array: &dyn Array) -> Vec<usize> {
    let sums = |values: &dyn Array, start: usize, lengths: &mut dyn Iterator<Item = usize>| {
        let sizes = nested_sizes(values);
        let mut rest = sizes.get(start..).unwrap_or(&[]);
        let sum = |length: usize| {
            let (these, others) = rest.split_at(length.min(rest.len()));
            rest = others;
            8 + these.iter().sum::<usize>()
        };
        lengths.map(sum).collect()
    };
    match array.data_type() {
        DataType::List(_) | DataType::Map(..) => {
            let (values, offsets): (&dyn Array, _) = match array.as_list_opt::<i32>() {
                Some(list) => (list.values(), list.offsets()),
                None => (array.as_map().entries(), array.as_map().offsets()),
            };
            sums(values, usize::try_from(offsets[0]).unwrap_or(0), &mut offsets.lengths())
        }
        DataType::LargeList(_) => {
            let list = array.as_list::<i64>();
            sums(list.values(), usize::try_from(list.offsets()[0]).unwrap_or(0), &mut list.offsets().lengths())
        }
        DataType::Struct(_) => {
            let mut sizes = vec![0; array.len()];
            for column in array.as_struct().columns() {
                sizes.iter_mut().zip(nested_sizes(column)).for_each(|(sum, size)| *sum += size);
            }
            sizes
        }
        DataType::Utf8 | DataType::Binary | DataType::LargeUtf8 | DataType::LargeBinary => {
            let lengths = |array: &dyn Array| -> Option<Vec<usize>> {
                if let Some(texts) = array.as_string_opt::<i32>() {
                    return Some(texts.offsets().lengths().collect());
                }
                if let Some(texts) = array.as_string_opt::<i64>() {
                    return Some(texts.offsets().lengths().collect());
                }
                if let Some(bytes) = array.as_binary_opt::<i32>() {
                    return Some(bytes.offsets().lengths().collect());
                }
                Some(array.as_binary_opt::<i64>()?.offsets().lengths().collect())
            };
            lengths(array).unwrap_or_else(|| vec![32; array.len()]).into_iter().map(|length| length + 8).collect()
        }
        kind => vec![width(kind); array.len()],
    }
}

/// A hash of each row and about the bytes it takes. Columns of nested types have a size and no hash: fewer rows
/// differ then.
fn describe_rows(batch: &RecordBatch) -> (Vec<u64>, Vec<u64>) {
    let mut hashes = vec![0u64; batch.num_rows()];
    let mut sizes = vec![0u64; batch.num_rows()];
    for array in batch.columns() {
        let mut add = |i: usize, hash: u64, size: usize| {
            hashes[i] = mix(hashes[i].rotate_left(5) ^ hash);
            sizes[i] += size as u64;
        };
        let rows = 0..array.len();
        macro_rules! texts {
            ($array:expr) => {{
                let texts = $array;
                for i in rows {
                    let text: &[u8] = if texts.is_null(i) { b"" } else { texts.value(i).as_ref() };
                    add(i, hash_bytes(text), text.len() + 8);
                }
            }};
        }
        match array.data_type() {
            DataType::Utf8 => texts!(array.as_string::<i32>()),
            DataType::LargeUtf8 => texts!(array.as_string::<i64>()),
            DataType::Utf8View => texts!(array.as_string_view()),
            DataType::Binary => texts!(array.as_binary::<i32>()),
            DataType::LargeBinary => texts!(array.as_binary::<i64>()),
            DataType::BinaryView => texts!(array.as_binary_view()),
            DataType::Boolean => {
                let flags = array.as_boolean();
                rows.for_each(|i| add(i, u64::from(flags.is_valid(i) && flags.value(i)) + 1, 1));
            }
            kind => {
                let Some(width) = kind.primitive_width() else {
                    // Added by themselves: a hash would move the cuts of rows that were committed.
                    for (i, size) in nested_sizes(array).into_iter().enumerate() {
                        sizes[i] += size as u64;
                    }
                    continue;
                };
                let data = array.to_data();
                let bytes = data.buffers().first().map_or(&[][..], |buffer| buffer.as_slice());
                let bytes = bytes.get(data.offset() * width..).unwrap_or(&[]);
                for (i, value) in bytes.chunks_exact(width).take(array.len()).enumerate() {
                    // What lies under a null is not data.
                    let hash = if array.is_null(i) { 1 } else { hash_bytes(value) };
                    add(i, hash, width);
                }
            }
        }
    }
    (hashes, sizes)
}

fn hash_bytes(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    let step = |hash: u64, word: &[u8; 8]| {
        (hash.rotate_left(5) ^ u64::from_le_bytes(*word)).wrapping_mul(0x517c_c1b7_2722_0a95)
    };
    words.iter().chain([&last]).fold(bytes.len() as u64, step)
}

/// The digest of rows of which [`encode`] makes the same bytes.
pub(super) fn digest(rows: &RecordBatch) -> Result<Digest> {
    struct Sink(Hasher);
    impl io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.update(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut hasher = Hasher::default();
    hasher.field(ENCODING);
    let mut writer = StreamWriter::try_new(Sink(hasher), &rows.schema())?;
    writer.write(rows)?;
    writer.finish()?;
    Ok(writer.get_ref().0.finish())
}

/// One segment as a Parquet file, cut into the parts that the store shall keep as chunks.
pub(super) fn encode(rows: &RecordBatch) -> Result<Vec<Bytes>> {
    let failed = |error| Error::invalid("rows", error);
    let mut properties = WriterProperties::builder();
    let leaves = ArrowSchemaConverter::new().convert(&rows.schema()).map_err(failed)?;
    for leaf in leaves.columns().iter().filter(|leaf| matches!(leaf.physical_type(), Type::INT32 | Type::INT64)) {
        // Keys and times take next to nothing like this, and numbers at random no more than as they are.
        properties = properties.set_column_encoding(leaf.path().clone(), Encoding::DELTA_BINARY_PACKED);
    }
    let properties = properties
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(1).map_err(failed)?))
        // The writer's name and version stay out of the file's digest.
        .set_created_by("mlops-core".to_owned())
        .set_content_defined_chunking(Some(PAGES))
        .set_dictionary_page_size_limit(DICTIONARY)
        // Nobody reads those of pages, and they would make each footer longer that changes.
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_data_page_row_count_limit(usize::MAX)
        .set_max_row_group_row_count(None)
        .build();
    let mut file = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut file, rows.schema(), Some(properties)).map_err(failed)?;
    writer.write(rows).map_err(failed)?;
    let meta = writer.close().map_err(failed)?;
    let file = Bytes::from(file);
    let mut parts: Vec<Bytes> = Vec::new();
    let mut start = 0;
    let mut previous = 0;
    for cut in page_starts(&meta, file.len()) {
        let page = &file[previous..cut];
        // A large page is a part of its own, lest a small one before it that changed makes it another.
        if page.len() >= SMALL_PART && start < previous {
            parts.push(file.slice(start..previous));
            start = previous;
        }
        previous = cut;
        // Small pages share a part; where it ends is told by a page's content, so that one more page moves one end only.
        let marked = cut - start >= SMALL_PART / 8 && Digest::of(page).as_bytes()[0].is_multiple_of(4);
        if cut - start >= SMALL_PART || marked || cut == file.len() {
            parts.push(file.slice(start..cut));
            start = cut;
        }
    }
    Ok(parts)
}

/// Where pages begin, the footer included, and where the file ends.
fn page_starts(meta: &ParquetMetaData, end: usize) -> Vec<usize> {
    let mut cuts: Vec<usize> = Vec::new();
    for (group, index) in meta.row_groups().iter().zip(meta.offset_index().into_iter().flatten()) {
        for (column, pages) in group.columns().iter().zip(index) {
            let (start, size) = column.byte_range();
            let pages = pages.page_locations().iter().map(|page| page.offset as u64);
            cuts.extend(pages.chain([start, start + size]).filter_map(|at| usize::try_from(at).ok()));
        }
    }
    cuts.push(end);
    cuts.retain(|at| (1..=end).contains(at));
    cuts.sort_unstable();
    cuts.dedup();
    cuts
}

/// Types that can be written.
pub(super) fn check_types(schema: &Schema) -> Result<()> {
    fn supported(kind: &DataType) -> bool {
        match kind {
            DataType::Union(..) | DataType::RunEndEncoded(..) => false,
            DataType::List(f) | DataType::LargeList(f) | DataType::FixedSizeList(f, _) | DataType::Map(f, _) => {
                supported(f.data_type())
            }
            DataType::Struct(fields) => fields.iter().all(|f| supported(f.data_type())),
            DataType::Dictionary(_, values) => supported(values),
            _ => true,
        }
    }
    match schema.fields().iter().find(|f| !supported(f.data_type())) {
        Some(field) => Err(Error::column(field.name(), format!("is {}, which Parquet has not", field.data_type()))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Float64Array, StringArray};

    use super::*;

    fn rows(n: usize) -> RecordBatch {
        let x: ArrayRef = Arc::new(Float64Array::from_iter_values((0..n).map(|i| mix(i as u64) as f64)));
        let s: ArrayRef = Arc::new(StringArray::from_iter_values((0..n).map(|i| format!("row {i}"))));
        RecordBatch::try_from_iter([("x", x), ("s", s)]).unwrap()
    }

    fn cut(batches: &[RecordBatch]) -> Vec<usize> {
        let mut segmenter = Segmenter::new(batches[0].schema());
        let mut sizes = Vec::new();
        for batch in batches {
            sizes.extend(segmenter.push(batch).unwrap().iter().map(RecordBatch::num_rows));
        }
        sizes.extend(segmenter.finish().unwrap().iter().map(RecordBatch::num_rows));
        sizes
    }

    #[test]
    fn segments_do_not_depend_on_batches_and_find_their_place_again_after_an_insert() {
        let all = rows(5_000_000);
        let whole = cut(std::slice::from_ref(&all));
        assert!(whole.len() >= 3, "{whole:?}");
        let pieces: Vec<RecordBatch> = (0..500).map(|i| all.slice(i * 10_000, 10_000)).collect();
        assert_eq!(cut(&pieces), whole);
        let inserted = [all.slice(0, 1_000), rows(50), all.slice(1_000, 4_999_000)];
        let moved = cut(&inserted);
        assert_eq!(moved[moved.len() - 2..], whole[whole.len() - 2..], "{moved:?} after {whole:?}");
    }

    #[test]
    fn rows_of_nested_columns_are_counted_by_their_bytes() {
        use arrow::array::{FixedSizeListArray, Float32Array, ListArray};
        use arrow::datatypes::{Field, Float32Type};
        // 60,000 images of 784 numbers are 188 MB.
        let pixels = Arc::new(Float32Array::from(vec![0.5; 784 * 60_000]));
        let item = Arc::new(Field::new_list_field(DataType::Float32, false));
        let images: ArrayRef = Arc::new(FixedSizeListArray::new(item, 784, pixels, None));
        let images = RecordBatch::try_from_iter([("image", images)]).unwrap();
        let sizes = cut(&[images.slice(0, 25_000), images.slice(25_000, 35_000)]);
        assert!(sizes.iter().all(|rows| rows * 784 * 4 <= LARGEST as usize + 4_096), "{sizes:?}");
        assert_eq!(sizes, cut(std::slice::from_ref(&images)));
        let lists = (0..20_000).map(|i| Some(vec![Some(i as f32); 4_000 * usize::from(i % 2 == 0)]));
        let lists: ArrayRef = Arc::new(ListArray::from_iter_primitive::<Float32Type, _, _>(lists));
        let lists = RecordBatch::try_from_iter([("list", lists)]).unwrap();
        let sizes = cut(&[lists.slice(0, 7), lists.slice(7, 19_993)]);
        assert!(sizes.iter().all(|rows| rows / 2 * 16_000 <= LARGEST as usize + 32_000), "{sizes:?}");
        assert_eq!(sizes, cut(std::slice::from_ref(&lists)));
    }

    #[test]
    fn parts_are_the_file() {
        let parts = encode(&rows(200_000)).unwrap();
        assert!(parts.len() > 5, "{}", parts.len());
        let file = Bytes::from(parts.concat());
        let reader = ::parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
        let read: usize = reader.build().unwrap().map(|b| b.unwrap().num_rows()).sum();
        assert_eq!(read, 200_000);
    }
}
