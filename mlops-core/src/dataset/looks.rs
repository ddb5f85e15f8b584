//! The columns of a CSV file, by what all its values look like.
//!
//! The rules are those of the `arrow-csv` crate, whose own search costs more than all else that a commit does.

use std::fs::File;

use arrow::datatypes::{DataType, Field, Schema, TimeUnit};

const BOOLEAN: u16 = 1;
const WHOLE: u16 = 1 << 1;
const FRACTION: u16 = 1 << 2;
const DATE: u16 = 1 << 3;
const SECONDS: u16 = 1 << 4;
const MILLIS: u16 = 1 << 5;
const MICROS: u16 = 1 << 6;
const NANOS: u16 = 1 << 7;
const TEXT: u16 = 1 << 8;
const TIMES: u16 = SECONDS | MILLIS | MICROS | NANOS;

/// The columns of a CSV file with a header line, found by reading it through; every one may hold nulls.
pub(super) fn schema(file: File) -> Result<Schema, csv::Error> {
    let mut reader = csv::ReaderBuilder::new().buffer_capacity(1 << 18).from_reader(file);
    let names = reader.headers()?.clone();
    let mut looks = vec![0; names.len()];
    let mut record = csv::ByteRecord::new();
    while reader.read_byte_record(&mut record)? {
        for (look, value) in looks.iter_mut().zip(&record) {
            // A column of texts stays one, and nothing is no value.
            if *look & TEXT == 0 && !value.is_empty() {
                *look |= look_of(value);
            }
        }
    }
    let fields = names.iter().zip(looks).map(|(name, look)| Field::new(name, data_type(look), true));
    Ok(Schema::new(fields.collect::<Vec<_>>()))
}

/// The type that holds values of all these looks.
fn data_type(looks: u16) -> DataType {
    match looks {
        0 => DataType::Null,
        BOOLEAN => DataType::Boolean,
        WHOLE => DataType::Int64,
        _ if looks & !(WHOLE | FRACTION) == 0 => DataType::Float64,
        DATE => DataType::Date32,
        _ if looks & !(DATE | TIMES) == 0 => {
            let unit = match looks {
                _ if looks & NANOS > 0 => TimeUnit::Nanosecond,
                _ if looks & MICROS > 0 => TimeUnit::Microsecond,
                _ if looks & MILLIS > 0 => TimeUnit::Millisecond,
                _ => TimeUnit::Second,
            };
            DataType::Timestamp(unit, None)
        }
        _ => DataType::Utf8,
    }
}

/// What one value looks like.
fn look_of(value: &[u8]) -> u16 {
    if value.eq_ignore_ascii_case(b"true") || value.eq_ignore_ascii_case(b"false") {
        return BOOLEAN;
    }
    number(value).or_else(|| time(value)).unwrap_or(match value {
        b"NaN" | b"nan" | b"inf" | b"-inf" => FRACTION,
        _ => TEXT,
    })
}

/// The digits that `text` starts with, and the rest.
fn digits(text: &[u8]) -> (&[u8], &[u8]) {
    text.split_at(text.iter().take_while(|byte| byte.is_ascii_digit()).count())
}

fn number(value: &[u8]) -> Option<u16> {
    let (whole, rest) = digits(value.strip_prefix(b"-").unwrap_or(value));
    if rest.is_empty() && !whole.is_empty() {
        let fits = value.len() < 19 || std::str::from_utf8(value).is_ok_and(|text| text.parse::<i64>().is_ok());
        return Some(if fits { WHOLE } else { TEXT });
    }
    let (fraction, rest) = match rest.strip_prefix(b".") {
        Some(rest) => digits(rest),
        // Without a point an exponent is needed, and then digits before it.
        None if rest.is_empty() => return None,
        None => (&[][..], rest),
    };
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    match rest {
        [] => Some(FRACTION),
        [b'e' | b'E', rest @ ..] => {
            let rest = if let [b'+' | b'-', rest @ ..] = rest { rest } else { rest };
            let (exponent, rest) = digits(rest);
            (!exponent.is_empty() && rest.is_empty()).then_some(FRACTION)
        }
        _ => None,
    }
}

fn time(value: &[u8]) -> Option<u16> {
    let shaped = |text: &[u8], shape: &[u8]| {
        text.iter().zip(shape).all(|(byte, like)| if *like == b'0' { byte.is_ascii_digit() } else { byte == like })
    };
    let (date, rest) = value.split_first_chunk::<10>()?;
    if !shaped(date, b"0000-00-00") {
        return None;
    }
    let [b'T' | b' ', rest @ ..] = rest else { return rest.is_empty().then_some(DATE) };
    let (clock, rest) = rest.split_first_chunk::<8>()?;
    if !shaped(clock, b"00:00:00") {
        return None;
    }
    let (look, zone) = match rest {
        [b'.', rest @ ..] => {
            let (fraction, zone) = digits(rest);
            let look = match fraction.len() {
                1..=3 => MILLIS,
                4..=6 => MICROS,
                7..=9 => NANOS,
                _ => return None,
            };
            (look, zone)
        }
        [b'0'..=b'9', ..] => return None,
        _ => (SECONDS, rest),
    };
    // Whatever follows, such as a time zone, is one line.
    (!zone.iter().skip(1).any(|byte| *byte == b'\n')).then_some(look)
}

#[cfg(test)]
mod tests {
    use std::io::{Seek, Write};

    use proptest::prelude::*;

    use super::*;

    /// The columns of a file with one column of these values, by this module and by `arrow-csv`.
    fn both(values: &[String]) -> (Schema, Schema) {
        let mut file = tempfile::tempfile().unwrap();
        let mut writer = csv::Writer::from_writer(&file);
        writer.write_record(["a", "b"]).unwrap();
        values.iter().for_each(|value| writer.write_record([value.as_str(), "x"]).unwrap());
        writer.flush().unwrap();
        drop(writer);
        file.flush().unwrap();
        file.rewind().unwrap();
        let ours = schema(file.try_clone().unwrap()).unwrap();
        file.rewind().unwrap();
        let format = arrow::csv::reader::Format::default().with_header(true);
        (ours, format.infer_schema(file, None).unwrap().0)
    }

    #[test]
    fn looks_are_those_of_arrow() {
        let odd = "true FALSE tru 1 -1 - -- +1 007 1.5 -.5 . -. 1. 1e5 1.e5 .e5 1e 1e+ 1E-5 e5 1e5x NaN nan NAN inf -inf \
                   infinity 9223372036854775807 9223372036854775808 -9223372036854775808 -9223372036854775809 \
                   2020-01-02 2020-1-2 2020-01-02x 2020-01-02T 2020-01-02T03:04:05 2020-01-02T03:04:05Z 12:00:00 \
                   2020-01-02T03:04:056 2020-01-02T03:04:05. 2020-01-02T03:04:05.1 2020-01-02T03:04:05.1234Z \
                   2020-01-02T03:04:05.1234567 2020-01-02T03:04:05.1234567890 2020-01-02T03:04:05+01:00 \"quoted\" \"1\"";
        let mut odd: Vec<String> = odd.split(' ').map(str::to_owned).collect();
        odd.extend(
            ["2020-01-02 03:04:05 UTC", "2020-01-02 03:04:05\n", "2020-01-02 03:04:05Z\nx", ""].map(str::to_owned),
        );
        for (i, a) in odd.iter().enumerate() {
            for b in &odd[i..] {
                let (ours, theirs) = both(&[a.clone(), b.clone()]);
                assert_eq!(ours, theirs, "{a:?} and {b:?}");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]
        #[test]
        fn looks_of_random_values_are_those_of_arrow(
            values in prop::collection::vec("-?[0-9]{0,20}(\\.[0-9]{0,3})?([eE][-+]?[0-9]{0,2})?|[0-9]{4}-[0-9]{2}-[0-9]{2}([T ][0-9]{2}:[0-9]{2}:[0-9]{2,3}(\\.[0-9]{0,10})?[Z+x. \n]{0,3})?", 1..4)
        ) {
            let (ours, theirs) = both(&values);
            prop_assert_eq!(ours, theirs);
        }
    }
}
