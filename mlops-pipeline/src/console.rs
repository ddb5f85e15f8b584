use std::collections::HashMap;
use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::sync::{Mutex, PoisonError};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use mlops_core::RunId;

use crate::{RunEvent, RunObserver};

/// Shows runs on standard error: a bar for each running step on a terminal, plain lines anywhere else.
///
/// ```
/// let shown = mlops_pipeline::ConsoleObserver::new().plain(); // lines even on a terminal
/// # let _ = shown;
/// ```
pub struct ConsoleObserver(Mutex<Screen>);

enum Screen {
    Bars { all: MultiProgress, running: HashMap<(RunId, String), ProgressBar> },
    Lines { to: Box<dyn Write + Send>, tenths: HashMap<(RunId, String), u64> },
}

impl ConsoleObserver {
    /// Bars if standard error is a terminal, else lines.
    #[must_use]
    pub fn new() -> Self {
        if io::stderr().is_terminal() {
            Self(Mutex::new(Screen::Bars { all: MultiProgress::new(), running: HashMap::new() }))
        } else {
            Self::lines(io::stderr())
        }
    }

    /// Lines, even on a terminal.
    #[must_use]
    pub fn plain(self) -> Self {
        match self.0.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Screen::Bars { .. } => Self::lines(io::stderr()),
            lines @ Screen::Lines { .. } => Self(Mutex::new(lines)),
        }
    }

    /// Lines to any writer: a log file, a buffer.
    pub fn lines(to: impl Write + Send + 'static) -> Self {
        Self(Mutex::new(Screen::Lines { to: Box::new(to), tenths: HashMap::new() }))
    }
}

impl Default for ConsoleObserver {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for ConsoleObserver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ConsoleObserver")
    }
}

impl RunObserver for ConsoleObserver {
    fn on_event(&self, run: RunId, event: &RunEvent) {
        match &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            Screen::Bars { all, running } => bars(all, running, run, event),
            Screen::Lines { to, tenths } => {
                if is_worth_a_line(tenths, run, event) {
                    // Nobody reads it: a run must not fail because its terminal is gone.
                    let _ = writeln!(to, "{event}");
                }
            }
        }
    }
}

/// Whether progress has reached another tenth; other events always get a line.
fn is_worth_a_line(tenths: &mut HashMap<(RunId, String), u64>, run: RunId, event: &RunEvent) -> bool {
    match event {
        RunEvent::StepProgress { step, done, total } => {
            let tenth = done.saturating_mul(10) / (*total).max(1);
            tenths.insert((run, step.clone()), tenth) != Some(tenth)
        }
        RunEvent::StepStarted { step, .. } => {
            tenths.insert((run, step.clone()), 0);
            true
        }
        RunEvent::RunFinished { .. } => {
            tenths.retain(|(of, _), _| *of != run);
            true
        }
        _ => true,
    }
}

fn bars(all: &MultiProgress, running: &mut HashMap<(RunId, String), ProgressBar>, run: RunId, event: &RunEvent) {
    let style = |template| ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    let mut end = |step: &String| {
        if let Some(bar) = running.remove(&(run, step.clone())) {
            bar.finish_and_clear();
            all.remove(&bar);
        }
        let _ = all.println(event.to_string());
    };
    match event {
        RunEvent::StepStarted { step, .. } => {
            let bar = running.entry((run, step.clone())).or_insert_with(|| all.add(ProgressBar::new_spinner()));
            bar.set_style(style("{spinner} {prefix} {elapsed}"));
            bar.set_prefix(step.clone());
            bar.tick();
        }
        RunEvent::StepProgress { step, done, total } => {
            if let Some(bar) = running.get(&(run, step.clone())) {
                if bar.length() != Some(*total) {
                    bar.set_style(style("{spinner} {prefix} [{bar:30}] {pos}/{len} {eta}"));
                    bar.set_length(*total);
                }
                bar.set_position(*done);
            }
        }
        RunEvent::StepCached { step, .. } | RunEvent::StepFinished { step, .. } | RunEvent::StepFailed { step, .. } => {
            end(step);
        }
        RunEvent::RunFinished { .. } => {
            running.retain(|(of, _), bar| {
                if *of == run {
                    bar.finish_and_clear();
                }
                *of != run
            });
            let _ = all.println(event.to_string());
        }
        RunEvent::RunStarted { .. } | RunEvent::StepRetrying { .. } => {
            let _ = all.println(event.to_string());
        }
    }
}
