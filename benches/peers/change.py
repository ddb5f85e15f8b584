"""Change detectors beside those of river and frouros on the same streams, in one run: time, false alarms, delay.

    python -m venv V && V/bin/pip install numpy==2.4.6 scipy==1.17.1 river==0.26.1 requests tqdm matplotlib
    V/bin/pip install --no-deps frouros==0.9.0  # it asks for an older scipy, and runs with this one
    cargo build --release -p mlops-monitor --example change_points
    V/bin/python benches/peers/change.py target/release/examples/change_points [STREAMS [PARTS]]

Prints tables as Markdown: nanoseconds an update (`times`; theirs in processor time); whether our change points equal theirs (`equal`); then false
alarms and delays on STREAMS (default 20) seeded streams of each kind of drift, 0/1 errors first (`errors`) and values in
[0, 1] after them (`values`). Theirs are started anew after each alarm, as ours start anew by themselves. KSWIN of the
others takes so long that it gets the first four streams of each kind.
"""

import json
import math
import pathlib
import random
import statistics
import struct
import subprocess
import sys
import tempfile
import time
import warnings

import frouros.detectors.concept_drift as frouros
from river import drift

warnings.simplefilter("ignore")
binary = sys.argv[1]
streams = int(sys.argv[2]) if len(sys.argv) > 2 else 20
parts = sys.argv[3].split(",") if len(sys.argv) > 3 else ["times", "equal", "errors", "values"]
scratch = tempfile.TemporaryDirectory()
ours_process = subprocess.Popen([binary], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


class Ours:
    def __init__(self, **config):
        self.config = config

    def run(self, rows, passes=1):
        path = pathlib.Path(scratch.name) / "rows.f64"
        path.write_bytes(struct.pack(f"<{len(rows)}d", *rows))
        request = {"config": self.config, "file": str(path), "passes": passes}
        ours_process.stdin.write(json.dumps(request) + "\n")
        ours_process.stdin.flush()
        answer = json.loads(ours_process.stdout.readline())
        return answer["changes"], answer["ns"]


class River:
    def __init__(self, make, whole_numbers=False):
        self.make, self.kind = make, int if whole_numbers else float

    def run(self, rows, passes=1):
        rows, best = [self.kind(x) for x in rows], math.inf
        for _ in range(passes):
            detector, changes = self.make(), []
            start = time.process_time_ns()
            for i, x in enumerate(rows):
                detector.update(x)
                if detector.drift_detected:
                    changes.append(i)
            best = min(best, (time.process_time_ns() - start) / len(rows))
        return changes, best


class Frouros:
    def __init__(self, method, right=False, reset=True, **options):
        config = getattr(frouros, method.__name__ + "Config")(**options)
        self.make, self.right, self.reset = (lambda: method(config=config)), right, reset

    def run(self, rows, passes=1):
        rows, best = [1 - x if self.right else x for x in rows], math.inf
        for _ in range(passes):
            detector, changes = self.make(), []
            start = time.process_time_ns()
            for i, x in enumerate(rows):
                detector.update(value=x)
                if detector.drift:
                    changes.append(i)
                    if self.reset:
                        detector.reset()
            best = min(best, (time.process_time_ns() - start) / len(rows))
        return changes, best


# --- streams: (rows, rows at which a drift begins, rows it may take to be found) ---


def errors(rng, rate):
    return 1.0 if rng.random() < rate else 0.0


def values(rng, level):
    return min(1.0, max(0.0, rng.gauss(level, 0.15)))


def none(rng, draw, low, high):
    return [draw(rng, low) for _ in range(10_000)], [], 0


def abrupt(rng, draw, low, high):
    return [draw(rng, low if i < 2_000 else high) for i in range(4_000)], [2_000], 2_000


def gradual(rng, draw, low, high):
    """Stretches of 25 rows of the old or the new, the new more and more often over 1,000 rows."""
    rows = []
    for block in range(160):
        new = rng.random() < (block * 25 - 2_000) / 1_000
        rows += [draw(rng, high if new else low) for _ in range(25)]
    return rows, [2_000], 2_000


def incremental(rng, draw, low, high):
    return [draw(rng, low + (high - low) * min(1, max(0, (i - 2_000) / 1_000))) for i in range(4_000)], [2_000], 2_000


def recurring(rng, draw, low, high):
    """Up at 2,000 and 4,000, down at 3,000 and 5,000; rises count, and falls are no false alarms."""
    return [draw(rng, high if i // 1_000 in (2, 4) else low) for i in range(6_000)], [2_000, 4_000], 1_000


KINDS = [none, abrupt, gradual, incremental, recurring]


def judge(changes, begins, within):
    """False alarms before the first drift, and the delay of each drift, `None` if it was not found in time."""
    first = begins[0] if begins else math.inf
    found = [next((c - begin for c in changes if begin <= c < begin + within), None) for begin in begins]
    return sum(c < first for c in changes), found


def table(title, draw, low, high, detectors):
    print(f"\n{title}: {low} to {high}, {streams} streams of each kind\n")
    print("| detector | false alarms per 10,000 rows | abrupt | gradual | incremental | recurring |")
    print("| --- | --- | --- | --- | --- | --- |")
    made = {kind: [kind(random.Random(f"{kind.__name__} {seed}"), draw, low, high) for seed in range(streams)]
            for kind in KINDS}
    for name, detector in detectors:
        cells, alarms, quiet = [], 0, 0
        for kind in KINDS:
            delays = []
            slow = name.startswith("KSWIN") and not name.endswith("ours")
            for rows, begins, within in made[kind][: 4 if slow else None]:
                false, found = judge(detector.run(rows)[0], begins, within)
                alarms += false
                quiet += begins[0] if begins else len(rows)
                delays += found
            if delays:
                hits = [delay for delay in delays if delay is not None]
                missed = len(delays) - len(hits)
                cells.append((f"{statistics.median(hits):.0f}" if hits else "–") + (f" ({missed} missed)" if missed else ""))
        print(f"| {name} | {alarms / quiet * 10_000:.2f} | " + " | ".join(cells) + " |", flush=True)


binary_drift = drift.binary
ERRORS = [
    ("ADWIN", Ours(method="adwin"), River(drift.ADWIN), Frouros(frouros.ADWIN)),
    ("Page–Hinkley", Ours(method="page_hinkley"), River(drift.PageHinkley), Frouros(frouros.PageHinkley)),
    ("KSWIN, alpha 1e-4", Ours(method="kswin", alpha=1e-4), River(lambda: drift.KSWIN(alpha=1e-4, seed=1)),
     Frouros(frouros.KSWIN, seed=1)),
    ("DDM", Ours(method="ddm"), River(binary_drift.DDM, True), Frouros(frouros.DDM)),
    ("EDDM", Ours(method="eddm"), River(binary_drift.EDDM, True), Frouros(frouros.EDDM)),
    ("HDDM-A", Ours(method="hddm_a"), River(binary_drift.HDDMA), Frouros(frouros.HDDMA)),
    ("HDDM-W", Ours(method="hddm_w"), River(binary_drift.HDDMW), Frouros(frouros.HDDMW)),
    ("RDDM", Ours(method="rddm"), None, Frouros(frouros.RDDM, reset=False)),
    ("STEPD", Ours(method="stepd"), None, Frouros(frouros.STEPD, right=True)),
    ("ECDD", Ours(method="ecdd"), None, Frouros(frouros.ECDDWT)),
    ("CUSUM, threshold 12", Ours(method="cusum", threshold=12.0, slack=0.25, direction="up", baseline_rows=500), None,
     Frouros(frouros.CUSUM)),
    ("EWMA, weight 0.02, limit 4", Ours(method="ewma", weight=0.02, limit=4.0, direction="up", baseline_rows=500), None, None),
    ("e-detector, at most 0.22", Ours(method="e_detector", in_control=0.22), None, None),
]
VALUES = [
    *(row for row in ERRORS[:3]),
    ("HDDM-A", Ours(method="hddm_a"), River(binary_drift.HDDMA), None),
    ("HDDM-W", Ours(method="hddm_w"), River(binary_drift.HDDMW), None),
    ("CUSUM, known", Ours(method="cusum", in_control=[0.4, 0.15], threshold=8.0, direction="up"), None, Frouros(frouros.CUSUM)),
    ("CUSUM, learnt", Ours(method="cusum", threshold=8.0, direction="up", baseline_rows=500), None, None),
    ("EWMA, known", Ours(method="ewma", in_control=[0.4, 0.15], weight=0.1, limit=4.0, direction="up"), None, None),
    ("Shewhart, first rule, known", Ours(method="shewhart", in_control=[0.4, 0.15], rules=["beyond_three"]), None, None),
    ("Shewhart, all rules, known", Ours(method="shewhart", in_control=[0.4, 0.15]), None, None),
    ("e-detector, at most 0.41", Ours(method="e_detector", in_control=0.41), None, None),
]


def beside(rows):
    for name, ours, river, other in rows:
        for whose, detector in (("ours", ours), ("river", river), ("frouros", other)):
            if detector:
                yield f"{name}: {whose}", detector


def times():
    print("\nNanoseconds an update; the fastest of 3 passes over 0/1 errors at a rate of 0.2, 50,000 rows (KSWIN 3,000)\n")
    print("| detector | ours | river | ratio | frouros | ratio |")
    print("| --- | --- | --- | --- | --- | --- |")
    rng = random.Random(1)
    rows = [errors(rng, 0.2) for _ in range(50_000)]
    for name, ours, river, other in ERRORS:
        fed = rows[:3_000] if name.startswith("KSWIN") else rows
        mine = ours.run(fed, 3)[1]
        cells = [f"{mine:.1f}"]
        for peer in (river, other):
            ns = peer.run(fed, 3)[1] if peer else None
            cells += [f"{ns:,.0f}", f"{ns / mine:,.0f}"] if peer else ["–", "–"]
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


def equal():
    print(f"\nStreams on which all change points are equal, of {2 * streams} with abrupt and recurring drift\n")
    print("| detector | river | frouros: all | frouros: the first |")
    print("| --- | --- | --- | --- |")
    for name, ours, river, other in ERRORS:
        counts = [0, 0, 0]
        for kind in (abrupt, recurring):
            for seed in range(streams):
                rows = kind(random.Random(f"{kind.__name__} {seed}"), errors, 0.2, 0.4)[0]
                mine = ours.run(rows)[0]
                if river and not name.startswith("KSWIN"):
                    counts[0] += mine == river.run(rows)[0]
                if other and not name.startswith("KSWIN"):
                    theirs = other.run(rows)[0]
                    counts[1] += mine == theirs
                    counts[2] += mine[:1] == theirs[:1]
        comparable = not name.startswith("KSWIN")  # its draws are random
        known = [bool(river) and comparable, bool(other) and comparable, bool(other) and comparable]
        print(f"| {name} | " + " | ".join(str(c) if k else "–" for c, k in zip(counts, known)) + " |", flush=True)


if "times" in parts:
    times()
if "equal" in parts:
    equal()
if "errors" in parts:
    table("0/1 errors", errors, 0.2, 0.4, beside(ERRORS))
if "values" in parts:
    table("Values, standard deviation 0.15", values, 0.4, 0.5, beside(VALUES))
ours_process.stdin.close()
