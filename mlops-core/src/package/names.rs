//! Which paths a package may have, and how much of everything.

use std::collections::BTreeMap;

use crate::{Error, Result};

/// How much a package may hold: what is beyond is refused before it is read or written.
///
/// ```
/// use mlops_core::package::Limits;
/// let limits = Limits::default().files(100).bytes(2 << 30);
/// # let _ = limits;
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Limits {
    pub(super) files: usize,
    pub(super) bytes: u64,
    pub(super) file_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { files: 10_000, bytes: 64 << 30, file_bytes: 64 << 30 }
    }
}

impl Limits {
    /// Most files (default 10,000).
    pub fn files(mut self, files: usize) -> Self {
        self.files = files;
        self
    }

    /// Most bytes in all files together (default 64 GiB).
    pub fn bytes(mut self, bytes: u64) -> Self {
        self.bytes = bytes;
        self
    }

    /// Most bytes in one file (default 64 GiB).
    pub fn file_bytes(mut self, bytes: u64) -> Self {
        self.file_bytes = bytes;
        self
    }
}

/// Checks files one by one: their paths, that no two are in each other's way, and how many and large they are.
#[derive(Debug)]
pub(super) struct Inspector {
    limits: Limits,
    files: usize,
    bytes: u64,
    /// By lower-case path, the path as it is and whether it is a file.
    seen: BTreeMap<String, (String, bool)>,
}

impl Inspector {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, files: 0, bytes: 0, seen: BTreeMap::new() }
    }

    /// Takes one more file.
    pub(super) fn file(&mut self, path: &str, bytes: u64) -> Result<()> {
        check_path(path)?;
        let Limits { files, bytes: most, file_bytes } = self.limits;
        if self.files >= files {
            return Err(Error::invalid("package", format!("has more than {files} files; raise `Limits::files`")));
        }
        if bytes > file_bytes {
            let reason = format!("{path:?} has {bytes} bytes, more than {file_bytes}; raise `Limits::file_bytes`");
            return Err(Error::invalid("package file", reason));
        }
        self.bytes = self.bytes.checked_add(bytes).filter(|all| *all <= most).ok_or_else(|| {
            Error::invalid("package", format!("has more than {most} bytes with {path:?}; raise `Limits::bytes`"))
        })?;
        self.files += 1;
        for (at, _) in path.match_indices('/') {
            let folder = &path[..at];
            let there = self.seen.entry(folder.to_lowercase()).or_insert_with(|| (folder.to_owned(), false));
            if there.1 {
                return Err(clash(&there.0, path));
            }
        }
        match self.seen.insert(path.to_lowercase(), (path.to_owned(), true)) {
            None => Ok(()),
            Some((there, _)) => Err(clash(&there, path)),
        }
    }
}

fn clash(there: &str, path: &str) -> Error {
    let reason = if there == path {
        format!("{path:?} is given twice")
    } else {
        format!("{there:?} and {path:?} cannot both be unpacked where names are not told apart by case")
    };
    Error::invalid("package file", reason)
}

/// Checks the path of a file in a package: segments joined by `/`, at most 1,024 bytes in all, that every file system
/// takes as they are and that lead nowhere else.
///
/// No segment is empty, `.` or `..`, ends with a dot or a space, or holds a control character or one of `\ : * ? " < > |`.
/// A drive letter, a leading slash and a NUL byte are among these.
///
/// ```
/// use mlops_core::package::check_path;
/// check_path("data/größen v2.bin")?;
/// assert!(check_path("../weights").is_err());
/// # Ok::<(), mlops_core::Error>(())
/// ```
///
/// # Errors
/// [`Error::InvalidInput`] quoting the path.
pub fn check_path(path: &str) -> Result<()> {
    let plain = |segment: &str| {
        !matches!(segment, "" | "." | "..")
            && !segment.ends_with(['.', ' '])
            && !segment.chars().any(|c| c.is_control() || r#"\:*?"<>|"#.contains(c))
    };
    if path.len() <= 1_024 && path.split('/').all(plain) {
        return Ok(());
    }
    let shown: String = path.chars().take(80).collect();
    let reason = format!("{shown:?} is not a relative path of at most 1024 bytes that every file system takes");
    Err(Error::invalid("package path", reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_lead_elsewhere_or_that_some_system_cannot_hold_are_refused() {
        for bad in [
            "",
            "/a",
            "a/",
            "a//b",
            "..",
            "a/../b",
            "./a",
            "a/.",
            "a\\b",
            "C:/a",
            "c:a",
            "a\0",
            "a\nb",
            "a\u{85}b",
            "a.",
            "a /b",
            "a*",
            "con?",
            &"x".repeat(1_025),
        ] {
            assert!(check_path(bad).is_err(), "{bad:?}");
        }
        for good in ["a", "MLmodel", "a/b.json", "a/..b", "d/b c.bin", "größe/重み.bin", ".gitignore"] {
            check_path(good).unwrap();
        }
    }

    #[test]
    fn paths_in_each_others_way_are_refused() {
        for (a, b) in [("a", "a"), ("Weights", "weights"), ("a", "a/b"), ("a/b", "A"), ("A", "a/b"), ("Ä", "ä")] {
            let mut inspector = Inspector::new(Limits::default());
            inspector.file(a, 0).unwrap();
            assert!(inspector.file(b, 0).is_err(), "{a:?} and {b:?}");
        }
        let mut inspector = Inspector::new(Limits::default());
        ["a/b", "a/c", "A/d", "ab"].iter().for_each(|path| inspector.file(path, 0).unwrap());
    }

    #[test]
    fn what_is_too_much_is_named() {
        let mut inspector = Inspector::new(Limits::default().files(2).bytes(10).file_bytes(8));
        let message = |result: Result<()>| result.unwrap_err().to_string();
        assert!(message(inspector.file("a", 9)).contains("\"a\" has 9 bytes, more than 8"));
        inspector.file("a", 8).unwrap();
        assert!(message(inspector.file("b", 3)).contains("more than 10 bytes with \"b\""));
        assert!(message(inspector.file("b", u64::MAX)).contains("file_bytes"));
        inspector.file("b", 2).unwrap();
        assert!(message(inspector.file("c", 0)).contains("more than 2 files"));
    }
}
