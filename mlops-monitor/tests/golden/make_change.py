"""Writes `change_more.json` beside it: changes found by river, or by the published formula in plain Python.

Needs numpy, scipy and river. `config` is the configuration of our detector. Plain versions compute each window anew from
its rows (sums, slices, products), not by the recursions that a streaming detector uses.
"""

import functools
import json
import math
import pathlib
import platform
import warnings

import numpy as np
import river
import scipy
from river import drift
from scipy import special, stats

from streams import MASK, SplitMix, stream

HERE = pathlib.Path(__file__).parent
STABLE, WARNING, CHANGE = "stable", "warning", "change"

RATES = [
    ("bernoulli", [[1500, 0.1], [1500, 0.3], [1000, 0.3]]),
    ("bernoulli", [[1000, 0.5], [1000, 0.2], [1000, 0.7], [1000, 0.4]]),
    ("bernoulli", [[3000, 0.05], [1000, 0.06]]),
    ("bernoulli", [[1000, 0.2]] + [[50, 0.2 + 0.01 * i] for i in range(20)] + [[1000, 0.4]]),
]
LEVELS = [
    ("level", [[1000, 0.3], [1000, 0.5], [2000, 0.4]]),
    ("level", [[500, 0.5]] + [[50, 0.5 + 0.005 * i] for i in range(40)] + [[1500, 0.7]]),
    ("level", [[4000, 0.5]]),
]


@functools.cache
def elec2():
    data = (HERE / "elec2.bin").read_bytes()
    rows = len(data) * 8 // 9
    wrong = [float(byte >> i & 1) for byte in data[: rows // 8] for i in range(8)]
    return {"errors": wrong, "demand": [byte / 255 for byte in data[rows // 8 :]]}


def rows_of(source):
    return elec2()[source] if isinstance(source, str) else stream(**source)


def sources(profiles, count=20):
    for seed in range(count):
        kind, segments = profiles[seed % len(profiles)]
        yield seed, {"seed": seed, "kind": kind, "segments": segments}


# --- river ---


def follow_river(make, rows, whole_numbers=False):
    detector, changes, warned = make(), [], 0
    for i, x in enumerate(rows):
        detector.update(int(x) if whole_numbers else x)
        if detector.drift_detected:
            changes.append(i)
        elif getattr(detector, "warning_detected", False):
            warned += 1
    return {"changes": changes, "warnings": warned}


class OurDraws:
    """Stands in for `random` in river's KSWIN: Floyd's sample by SplitMix64, one generator over all windows."""

    def __init__(self, seed):
        self.rng = SplitMix(seed)

    def Random(self, _):  # noqa: N802
        return self

    def below(self, bound):
        self.rng.state = (self.rng.state + 0x9E3779B97F4A7C15) & MASK
        z = self.rng.state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        return ((z ^ (z >> 31)) * bound) >> 64

    def sample(self, population, count):
        drawn = set()
        for last in range(len(population) - count, len(population)):
            one = self.below(last + 1)
            drawn.add(last if one in drawn else one)
        return sorted(drawn)


class QuickTest:
    """`ks_2samp` of scipy, kept by distance: of two samples of a size the p-value depends on nothing else."""

    def __init__(self):
        self.known = {}

    def ks_2samp(self, a, b, method):
        both = np.concatenate([a, b])
        counts = np.searchsorted(np.sort(a), both, "right") - np.searchsorted(np.sort(b), both, "right")
        key = (len(a), int(np.abs(counts).max()))
        if key not in self.known:
            result = stats.ks_2samp(a, b, method=method)
            self.known[key] = (float(result.statistic), float(result.pvalue))
        return self.known[key]


class KeepsRecent(drift.KSWIN):
    """What river's means: the recent rows stay in the window after a change."""

    def _reset(self):
        window = getattr(self, "window", None)
        super()._reset()
        if window is not None:
            self.window = window


def kswin(seed, keep_recent, **options):
    import river.drift.kswin as module

    module.random = OurDraws(seed)
    module.stats = QUICK
    return (KeepsRecent if keep_recent else drift.KSWIN)(seed=seed, **options)


QUICK = QuickTest()


def river_cases():
    add = []

    def case(method, make, source, name, whole_numbers=False, **config):
        found = follow_river(make, rows_of(source), whole_numbers)
        add.append({"case": f"{method} {name}", "config": {"method": method, **config}, "source": source, **found})

    for name, source in [*sources(RATES), ("elec2", "errors")]:
        seed = name if isinstance(name, int) else 0
        warm, warn, change = [(30, 0.95, 0.9), (100, 0.9, 0.8)][seed % 8 // 4]
        case("eddm", lambda: drift.binary.EDDM(warm_start=warm, alpha=warn, beta=change), source, name, True,
             min_rows=warm, warning_below=warn, change_below=change)
        level, warn_level, two = [(0.001, 0.005, False), (1e-5, 0.01, True)][seed % 8 // 4]
        case("hddm_a", lambda: drift.binary.HDDMA(level, warn_level, two), source, name, False,
             change_level=level, warning_level=warn_level, direction="both" if two else "up")
        weight = [0.05, 0.01, 0.2][seed % 3]
        case("hddm_w", lambda: drift.binary.HDDMW(level, warn_level, weight, two), source, name, False,
             change_level=level, warning_level=warn_level, weight=weight, direction="both" if two else "up")
    for name, source in sources(LEVELS + RATES, 21):
        two = bool(name % 2)
        # Values between 0 and 1 suit the two as well as errors do.
        rows = [min(1.0, max(0.0, x)) for x in rows_of(source)]
        assert rows == rows_of(source)
        if source["kind"] == "level":
            case("hddm_a", lambda: drift.binary.HDDMA(0.001, 0.005, two), source, f"values {name}",
                 direction="both" if two else "up")
            case("hddm_w", lambda: drift.binary.HDDMW(0.001, 0.005, 0.05, two), source, f"values {name}",
                 direction="both" if two else "up")
        alpha, window, recent, keep = [(0.005, 100, 30, False), (1e-4, 100, 30, False), (0.01, 200, 50, True)][name % 3]
        case("kswin", lambda: kswin(name, keep, alpha=alpha, window_size=window, stat_size=recent), source, name,
             alpha=alpha, window_rows=window, recent_rows=recent, seed=name, keep_recent=keep)
    case("kswin", lambda: kswin(1, False, alpha=1e-4, window_size=100, stat_size=30), "demand", "elec2", alpha=1e-4, seed=1)
    case("adwin", drift.ADWIN, "errors", "elec2")
    case("adwin", drift.ADWIN, "demand", "elec2 demand")
    case("page_hinkley", drift.PageHinkley, "errors", "elec2")
    case("page_hinkley", lambda: drift.PageHinkley(threshold=5), "demand", "elec2 demand", threshold=5.0)
    case("ddm", drift.binary.DDM, "errors", "elec2", True)
    return add


# --- the published formulas ---


def in_control(rows, given, baseline):
    """Mean and deviation, and the rows that they were learnt from."""
    if given:
        return *given, 0
    return float(np.mean(rows[:baseline])), float(np.std(rows[:baseline], ddof=1)), baseline


def windows(rows, judge):
    """Runs `judge(rows of the window)`, which yields a state and where the change began, and starts anew at each change."""
    changes, began, warned, start = [], [], 0, 0
    while start < len(rows):
        for i, (state, since) in enumerate(judge(rows[start:])):
            warned += state == WARNING
            if state == CHANGE:
                changes.append(start + i)
                began.append(start + since)
                start += i + 1
                break
        else:
            break
    return {"changes": changes, "began": began, "warnings": warned}


def cusum(rows, given=None, baseline=100, slack=0.5, threshold=5.0, head=0.0, direction="both"):
    mean, deviation, learnt = in_control(rows, given, baseline)
    yield from ((STABLE, None) for _ in range(min(learnt, len(rows))))
    z = (np.array(rows[learnt:]) - mean) / deviation
    sides = []
    for steps in (z - slack, -z - slack):
        sums = np.concatenate([[head * threshold], head * threshold + np.cumsum(steps)])
        # The sum since it was last 0 is how far it is above its least, if that was below 0.
        least = np.minimum.accumulate(np.minimum(sums, 0.0))
        zero_at = np.zeros(len(sums), int)
        for t in range(1, len(sums)):
            zero_at[t] = t if sums[t] <= least[t] else zero_at[t - 1]
        sides.append((sums - least, zero_at))
    for t in range(1, len(z) + 1):
        state = STABLE, None
        if direction != "down" and sides[0][0][t] > threshold:
            state = CHANGE, learnt + int(sides[0][1][t])
        elif direction != "up" and sides[1][0][t] > threshold:
            state = CHANGE, learnt + int(sides[1][1][t])
        yield state


def ewma(rows, given=None, baseline=100, weight=0.2, limit=3.0, warning=2.0, direction="both"):
    mean, deviation, learnt = in_control(rows, given, baseline)
    yield from ((STABLE, None) for _ in range(min(learnt, len(rows))))
    z = (np.array(rows[learnt:]) - mean) / deviation
    weights = weight * (1 - weight) ** np.arange(len(z))
    averages = np.convolve(z, weights)[: len(z)] if len(z) else []
    since = 0
    for t, e in enumerate(averages):
        if t > 0 and (e < 0) != (averages[t - 1] < 0):
            since = t
        deviation = math.sqrt(sum_of_squares(weight, t + 1))
        off = {"both": abs(e), "up": e, "down": -e}[direction]
        yield (CHANGE, learnt + since) if off > limit * deviation else (
            (WARNING, None) if off > warning * deviation else (STABLE, None))


@functools.cache
def sum_of_squares(weight, terms):
    return sum((weight * (1 - weight) ** j) ** 2 for j in range(min(terms, 2000)))


RULES = {"beyond_three": (3, 1, 1), "two_of_three": (2, 3, 2), "four_of_five": (1, 5, 4), "eight_in_a_row": (0, 8, 8)}


def shewhart(rows, fired, given=None, baseline=100, rules=tuple(RULES)):
    mean, deviation, learnt = in_control(rows, given, baseline)
    yield from ((STABLE, None) for _ in range(min(learnt, len(rows))))
    z = [(x - mean) / deviation for x in rows[learnt:]]
    for t in range(len(z)):
        found, first = [], []
        for rule in rules:
            beyond, of, least = RULES[rule]
            for sign in (1, -1):
                hits = [i for i in range(max(0, t - of + 1), t + 1) if sign * z[i] > beyond]
                if len(hits) >= least:
                    found.append(rule)
                    first.append(hits[0])
        if found:
            fired.append(sorted(set(found), key=rules.index))
            yield CHANGE, learnt + min(first)
        else:
            yield (WARNING if abs(z[t]) > 2 else STABLE), None


def ecdd(rows, run=400, weight=0.2, deviations=None, share=0.5, least=30):
    wrong, warned_at = np.array(rows), None
    weights = weight * (1 - weight) ** np.arange(len(rows))
    polynomial = {100: [2.76, -6.23, 18.12, -312.45, 1002.18], 400: [3.97, -6.56, 48.73, -330.13, 848.18]}
    for t in range(len(rows)):
        p, n = float(wrong[: t + 1].sum()) / (t + 1), t + 1
        if n < least:
            yield STABLE, None
            continue
        average = float(weights[:n] @ wrong[t::-1])
        spread = math.sqrt(p * (1 - p) * sum_of_squares(weight, n))
        limit = deviations or sum(c * p**k for c, k in zip(polynomial[run], [0, 1, 3, 5, 7]))
        if average > p + limit * spread:
            yield CHANGE, t if warned_at is None else warned_at
        elif average > p + share * limit * spread:
            warned_at = t if warned_at is None else warned_at
            yield WARNING, None
        else:
            warned_at = None
            yield STABLE, None


def stepd(rows, recent=30, warn=0.05, change=0.003):
    warned_at, sums = None, np.concatenate([[0], np.cumsum(rows)])
    for t in range(len(rows)):
        n = t + 1
        if n < 2 * recent:
            yield STABLE, None
            continue
        old, new, all_ = sums[n - recent], sums[n] - sums[n - recent], sums[n]
        p, inverse = all_ / n, 1 / (n - recent) + 1 / recent
        spread = math.sqrt(p * (1 - p) * inverse)
        p_value = 1.0 if spread == 0 else float(
            stats_sf((new / recent - old / (n - recent) - inverse / 2) / spread))
        if p_value < change:
            yield CHANGE, n - recent if warned_at is None else warned_at
        elif p_value < warn:
            warned_at = t if warned_at is None else warned_at
            yield WARNING, None
        else:
            warned_at = None
            yield STABLE, None


def stats_sf(z):
    return special.ndtr(-z)


def rddm(rows, least=129, warn=1.773, change=2.258, long=40000, short=7000, limit=1400):
    """The pseudocode of the paper, with a plain list of the rows that count and one of those that are kept."""
    changes, began, warned = [], [], 0
    window, kept, best, zone, again, after_change = [0, 0], [], None, [], False, False

    def spread():
        p = window[1] / window[0]
        return p, math.sqrt(p * (1 - p) / window[0])

    for i, x in enumerate(rows):
        if again:
            window, zone = [0, 0], []
            if after_change:
                best = None
            for y in kept:
                window = [window[0] + 1, window[1] + y]
                if after_change and window[0] > least and (best is None or sum(spread()) < sum(best)):
                    best = spread()
            again = after_change = False
        kept = (kept + [x])[-short:]
        window = [window[0] + 1, window[1] + x]
        if window[0] < least:
            continue
        p, s = spread()
        if best is None or p + s < sum(best):
            best = p, s
        if p + s > best[0] + change * best[1]:
            kept = kept[-(i - zone[0] + 1):] if zone else kept[-1:]
        elif p + s > best[0] + warn * best[1]:
            if len(zone) < limit:
                zone.append(i)
                warned += 1
                continue
            kept = kept[-1:]
        else:
            zone = []
            again = window[0] >= long
            continue
        changes.append(i)
        began.append(zone[0] if zone else i)
        again = after_change = True
    return {"changes": changes, "began": began, "warnings": warned}


STAKES = [0.99 * 2.0 ** (-k / 2) for k in range(25)]


def e_detector(rows, mean, alpha, style="shiryaev_roberts", direction="up", share=0.1, trace=None):
    """The definition: a sum (or the greatest) over all rows at which a bet could have been opened, of its capital."""
    x = np.array(rows)
    sides = [x / mean - 1] * (direction != "down") + [(1 - x) / (1 - mean) - 1] * (direction != "up")
    logs = [np.log1p(np.outer(STAKES, side)) for side in sides]
    wealth = [np.concatenate([np.zeros((25, 1)), np.cumsum(log, axis=1)], axis=1) for log in logs]
    for t in range(1, len(rows) + 1):
        total, leader = [], (-np.inf, None)
        for side in wealth:
            opened = side[:, t : t + 1] - side[:, :t]
            total.append(special.logsumexp(opened, axis=1) if style == "shiryaev_roberts" else opened.max(axis=1))
            k = int(opened.max(axis=1).argmax())
            if opened[k].max() > leader[0]:
                leader = float(opened[k].max()), int(opened[k].argmax())
        log = float(special.logsumexp(np.concatenate(total))) - math.log(25 * len(sides))
        if trace is not None:
            trace.append(log)
        if log >= -math.log(alpha):
            yield CHANGE, leader[1]
        else:
            yield (WARNING if log >= math.log(share / alpha) else STABLE), None


def paper_cases():
    add = []

    def case(method, judge, source, name, **config):
        found = windows(rows_of(source), judge) if callable(judge) else judge
        add.append({"case": f"{method} {name}", "config": {"method": method, **config}, "source": source, **found})

    for name, source in sources(LEVELS + RATES[:1], 20):
        spread = 0.5 / math.sqrt(12) if source["kind"] == "level" else 0.3137  # 0.3 would meet the thresholds exactly
        given = [source["segments"][0][1], spread] if name % 2 else None
        known = {"in_control": given} if given else {"baseline_rows": 200}
        slack, threshold, head, direction = [(0.5, 5.0, 0.0, "both"), (0.25, 12.0, 0.5, "up"), (1.0, 4.0, 0.0, "down")][name % 3]
        case("cusum", lambda rows: cusum(rows, given, 200, slack, threshold, head, direction), source, name,
             **known, slack=slack, threshold=threshold, head_start=head, direction=direction)
        weight, limit, warn = [(0.2, 3.0, 2.0), (0.05, 2.8, 2.0), (1.0, 3.5, 3.0)][name % 3]
        case("ewma", lambda rows: ewma(rows, given, 200, weight, limit, warn, direction), source, name,
             **known, weight=weight, limit=limit, warning_at=warn, direction=direction)
        rules, fired = [list(RULES), list(RULES)[:2], list(RULES)[3:], list(RULES)[2:]][name % 4], []
        case("shewhart", lambda rows: shewhart(rows, fired, given, 200, rules), source, name, **known, rules=rules)
        add[-1]["fired"] = [",".join(names) for names in fired][:100]
    for name, source in [*sources(RATES), ("elec2", "errors")]:
        seed = name if isinstance(name, int) else 0
        run, deviations = [(400, None), (100, None), (400, 3.5)][seed % 3]
        limit = {"limit": {"deviations": deviations} if deviations else f"run{run}"}
        case("ecdd", lambda rows: ecdd(rows, run, 0.2, deviations), source, name, **limit)
        recent, warn, change = [(30, 0.05, 0.003), (100, 0.01, 1e-4)][seed % 8 // 4]
        case("stepd", lambda rows: stepd(rows, recent, warn, change), source, name,
             recent_rows=recent, warning_p=warn, change_p=change)
        options = [{}, {"min_rows": 30, "long_window": 800, "short_window": 300, "max_warnings": 60}][seed % 8 // 4]
        names = {"min_rows": "least", "long_window": "long", "short_window": "short", "max_warnings": "limit"}
        case("rddm", rddm(rows_of(source), **{names[key]: value for key, value in options.items()}), source, name,
             **options)
    for name, source in sources(RATES[:2] + LEVELS[:2], 20):
        first = source["segments"][0][1]
        source = {**source, "segments": [[600, level] for _, level in source["segments"][:3]]}
        style = ["shiryaev_roberts", "cusum"][name % 8 // 4]
        direction = ["up", "both", "down"][name % 3]
        case("e_detector", lambda rows: e_detector(rows, first, 1e-3, style, direction), source, name,
             in_control=first, alpha=1e-3, style=style, direction=direction)
        trace = []
        for state, _ in e_detector(rows_of(source), first, 1e-3, style, direction, trace=trace):
            if state == CHANGE:
                break
        add[-1]["log_evidence"] = trace[len(trace) - 1 :: -max(1, len(trace) // 20)]
    return add


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    versions = {"python": platform.python_version(), "numpy": np.__version__, "scipy": scipy.__version__,
                "river": river.__version__}
    cases = river_cases() + paper_cases()
    text = json.dumps({"versions": versions, "cases": cases}, separators=(",", ":")).replace('{"case"', '\n{"case"')
    (HERE / "change_more.json").write_text(text + "\n")
    print("change_more", len(cases), versions)
