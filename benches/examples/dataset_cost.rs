//! What versions of a dataset cost, in time and bytes, beside a plain copy with BLAKE3 of the same bytes.
//!
//!     cargo run --release -p mlops-benches --example dataset_cost -- DIR [MiB [csv|parquet]]
//!
//! Makes a CSV file of about so many MiB (default 1,024), commits it as it is, after 1 % of rows are appended, and after
//! 1 % are inserted at one place and at a hundred, each into a store with nothing but the first; then the same rows as record
//! batches, kept as Parquet. One JSON object a line. The files stay in DIR for whoever compares (`peers/dvc.py`).
#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray};
use futures::TryStreamExt;
use mlops_core::dataset::{DatasetStore, DatasetStoreExt, DatasetVersion, NewDataset, ParquetDatasets};
use mlops_core::digest::Hasher;
use mlops_core::store::LocalStore;
use serde_json::json;

const BATCH: u64 = 50_000;

fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Rows of a plausible table: key, time, three measurements, a category, a free text.
fn rows(ids: std::ops::Range<u64>) -> RecordBatch {
    let ints = |f: &dyn Fn(u64) -> i64| -> ArrayRef { Arc::new(Int64Array::from_iter_values(ids.clone().map(f))) };
    let floats = |salt: u64| -> ArrayRef {
        let value = |i| (mix(i * 8 + salt) % 1_000_003) as f64 / 1_000.0;
        Arc::new(Float64Array::from_iter_values(ids.clone().map(value)))
    };
    let texts = |f: &dyn Fn(u64) -> String| -> ArrayRef { Arc::new(StringArray::from_iter_values(ids.clone().map(f))) };
    let columns: [(&str, ArrayRef); 7] = [
        ("id", ints(&|i| i as i64)),
        ("at", ints(&|i| 1_700_000_000_000 + (i * 137) as i64)),
        ("a", floats(1)),
        ("b", floats(2)),
        ("c", floats(3)),
        ("kind", texts(&|i| format!("kind {}", mix(i) % 40))),
        ("note", texts(&|i| format!("{:x} {:x}", mix(i * 3), mix(i * 5) >> 20))),
    ];
    RecordBatch::try_from_iter(columns).unwrap()
}

/// Row numbers `0..count` with 1 % of others put in at `places`, in batches.
fn with_inserts(count: u64, places: u64) -> Vec<std::ops::Range<u64>> {
    let more = count / 100;
    let mut parts = Vec::new();
    let mut from = 0;
    for k in 0..places {
        let at = if places == 1 { count / 2 + 12_345 } else { (2 * k + 1) * count / (2 * places) };
        parts.push(from..at);
        parts.push(10 * count + k * more / places..10 * count + (k + 1) * more / places);
        from = at;
    }
    parts.push(from..count);
    parts
}

fn batches(parts: Vec<std::ops::Range<u64>>) -> impl Iterator<Item = RecordBatch> {
    parts.into_iter().flat_map(|part| {
        let end = part.end;
        part.step_by(BATCH as usize).map(move |from| rows(from..(from + BATCH).min(end)))
    })
}

fn write_csv(path: &Path, parts: Vec<std::ops::Range<u64>>) {
    let mut writer = arrow::csv::Writer::new(BufWriter::with_capacity(1 << 20, File::create(path).unwrap()));
    batches(parts).for_each(|batch| writer.write(&batch).unwrap());
}

/// Copies a file and digests it on the way, and forces the copy to the disk.
fn copy(from: &Path, to: &Path) -> f64 {
    let start = Instant::now();
    let (mut from, mut to, mut hasher) = (File::open(from).unwrap(), File::create(to).unwrap(), Hasher::default());
    let mut piece = vec![0; 1 << 20];
    loop {
        let read = from.read(&mut piece).unwrap();
        if read == 0 {
            break;
        }
        hasher.update(&piece[..read]);
        to.write_all(&piece[..read]).unwrap();
    }
    to.sync_all().unwrap();
    std::hint::black_box(hasher.finish());
    start.elapsed().as_secs_f64()
}

/// The processor time of this process so far, in seconds, where /proc tells it.
fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let ticks = stat.rsplit(')').next().unwrap_or_default().split_ascii_whitespace().skip(11).take(2);
    ticks.filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
}

fn say(what: &str, (seconds, cpu): (f64, f64), bytes: u64, versions: Option<(&DatasetVersion, &DatasetVersion)>) {
    let mib = bytes as f64 / f64::from(1 << 20);
    let share = versions.map(|(first, version)| version.new_bytes() as f64 / first.bytes() as f64);
    let line = json!({"what": what, "seconds": seconds, "cpu_seconds": cpu, "MiB": mib, "MiB/s": mib / seconds, "new_share": share});
    println!("{line}");
}

#[tokio::main]
async fn main() {
    let mut args = std::env::args().skip(1);
    let dir = PathBuf::from(args.next().expect("the first argument is a directory"));
    let mib: u64 = args.next().map_or(1_024, |mib| mib.parse().expect("the second argument is a number of MiB"));
    std::fs::create_dir_all(&dir).unwrap();
    // About 80 bytes of CSV a row.
    let count = mib * (1 << 20) / 81;
    let versions: [(&str, Vec<std::ops::Range<u64>>); 4] = [
        ("first", std::iter::once(0..count).collect()),
        ("1 % appended", vec![0..count, 10 * count..10 * count + count / 100]),
        ("1 % inserted at one place", with_inserts(count, 1)),
        ("1 % inserted at 100 places", with_inserts(count, 100)),
    ];
    let path = |i: usize| dir.join(format!("{i}.csv"));
    for (i, (_, parts)) in versions.iter().enumerate() {
        write_csv(&path(i), parts.clone());
    }
    let bytes = std::fs::metadata(path(0)).unwrap().len();
    let before = cpu();
    let seconds = copy(&path(0), &dir.join("copy.csv"));
    say("plain copy with BLAKE3 of the CSV file", (seconds, cpu() - before), bytes, None);
    std::fs::remove_file(dir.join("copy.csv")).unwrap();

    let only = std::env::args().nth(3).unwrap_or_default();
    if "csv".starts_with(&only) {
        let store = Store::new(&dir, "csv");
        for (i, (what, _)) in versions.iter().enumerate() {
            store.commit(&format!("CSV, commit: {what}"), || NewDataset::files("csv", [path(i)]), None).await;
        }
        store.read("CSV, open and read").await;
    }
    if "parquet".starts_with(&only) {
        let store = Store::new(&dir, "parquet");
        for (what, parts) in &versions {
            // Made before the clock starts, so that only the commit is timed.
            let made: Vec<RecordBatch> = batches(parts.clone()).collect();
            let memory: usize = made.iter().map(RecordBatch::get_array_memory_size).sum();
            let what = format!("Parquet, commit of rows: {what}");
            store.commit(&what, || NewDataset::new("parquet", made), Some(memory as u64)).await;
        }
        let appended: Vec<RecordBatch> = batches(versions[1].1[1..].to_vec()).collect();
        let memory: usize = appended.iter().map(RecordBatch::get_array_memory_size).sum();
        let first = store.first.get().unwrap();
        let new = || NewDataset::new("parquet", appended).append_to(first);
        store.commit("Parquet, append_to", new, Some(memory as u64)).await;
        store.read("Parquet, open and read").await;
    }
}

/// A store with the first version, of which each further version gets a copy: none profits from another.
struct Store {
    dir: PathBuf,
    first: OnceLock<DatasetVersion>,
}

impl Store {
    fn new(dir: &Path, name: &str) -> Self {
        Self { dir: dir.join(format!("store-{name}")), first: OnceLock::new() }
    }

    async fn commit(&self, what: &str, new: impl FnOnce() -> NewDataset, bytes: Option<u64>) {
        let dir = if self.first.get().is_some() { self.dir.with_extension("copy") } else { self.dir.clone() };
        if self.first.get().is_some() {
            link(&self.dir, &dir);
        }
        let store = ParquetDatasets::new(LocalStore::open(&dir).unwrap());
        let new = new();
        let (start, before) = (Instant::now(), cpu());
        let version = store.commit(new).await.unwrap();
        let (seconds, cpu) = (start.elapsed().as_secs_f64(), cpu() - before);
        let first = self.first.get_or_init(|| version.clone());
        say(what, (seconds, cpu), bytes.unwrap_or(version.bytes()), Some((first, &version)));
        if dir != self.dir {
            std::fs::remove_dir_all(dir).unwrap();
        }
    }

    async fn read(&self, what: &str) {
        read(&ParquetDatasets::new(LocalStore::open(&self.dir).unwrap()), what, self.first.get().unwrap()).await;
    }
}

/// Copies a folder by hard links: a store never changes a file that is there.
fn link(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            link(&entry.path(), &to)
        } else {
            std::fs::hard_link(entry.path(), to).unwrap()
        }
    }
}

async fn read(store: &ParquetDatasets, what: &str, version: &DatasetVersion) {
    let (start, before) = (Instant::now(), cpu());
    let version = store.open(&format!("{}@{}", version.name, version.digest)).await.unwrap();
    let (mut rows, mut bytes) = (0, 0);
    let mut batches = store.read(&version).await.unwrap();
    while let Some(batch) = batches.try_next().await.unwrap() {
        rows += batch.num_rows() as u64;
        bytes += batch.get_array_memory_size() as u64;
    }
    assert_eq!(rows, version.rows);
    say(what, (start.elapsed().as_secs_f64(), cpu() - before), bytes, None);
}
