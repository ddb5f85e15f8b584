"""Writes the JSON files beside it. Needs numpy, scipy and river: `python make.py`."""

import json
import math
import pathlib
import platform
from decimal import Decimal, getcontext

import numpy as np
import river
import scipy
from river import drift
from scipy import optimize, special, stats

from streams import sample, stream

HERE = pathlib.Path(__file__).parent
VERSIONS = {
    "python": platform.python_version(),
    "numpy": np.__version__,
    "scipy": scipy.__version__,
    "river": river.__version__,
}
getcontext().prec = 60


def write(name, cases):
    text = json.dumps({"versions": VERSIONS, "cases": cases}, indent=None, separators=(",", ":"))
    text = text.replace('{"case"', '\n{"case"')
    (HERE / f"{name}.json").write_text(text + "\n")
    print(name, len(cases), VERSIONS)


def spec(seed, n, **kwargs):
    return {"seed": seed, "n": n, "shift": 0.0, "scale": 1.0, "levels": 0, **kwargs}


def ks():
    pairs = [
        ("two against two", spec(1, 2), spec(2, 2), "exact"),
        ("two against three", spec(1, 2), spec(2, 3, shift=2.0), "exact"),
        ("one against one", spec(1, 1), spec(2, 1), "exact"),
        ("one against many", spec(1, 1), spec(2, 500), "exact"),
        ("equal sizes", spec(3, 100), spec(4, 100, shift=0.1), "exact"),
        ("coprime sizes", spec(3, 100), spec(5, 131, shift=0.15), "exact"),
        ("far apart", spec(3, 40), spec(5, 57, shift=5.0), "exact"),
        ("five levels", spec(6, 300, levels=5), spec(7, 200, levels=5), "exact"),
        ("two levels", spec(6, 300, levels=2), spec(7, 301, levels=2, scale=1.0), "exact"),
        ("equal constants", spec(8, 50, scale=0.0), spec(9, 70, scale=0.0), "exact"),
        ("other constants", spec(8, 50, scale=0.0), spec(9, 70, scale=0.0, shift=1.0), "exact"),
        ("thousands", spec(10, 1000), spec(11, 777, shift=0.03), "exact"),
        ("ten thousand", spec(12, 10000), spec(13, 10000, shift=0.01), "exact"),
        ("ten thousand, tied", spec(12, 10000, levels=20), spec(14, 10000, levels=20), "exact"),
        ("ten thousand, coprime", spec(12, 10000), spec(15, 9973, shift=0.01), "exact"),
        ("large, same", spec(16, 30000), spec(17, 20000), "asymp"),
        ("large, close", spec(16, 30000), spec(18, 20000, shift=0.008), "asymp"),
        ("large, apart", spec(16, 30000), spec(19, 20000, shift=0.02), "asymp"),
        ("large, far", spec(16, 30000), spec(20, 20000, shift=0.06), "asymp"),
    ]
    cases = []
    for name, a, b, method in pairs:
        result = stats.ks_2samp(sample(**a), sample(**b), method=method)
        cases.append({"case": name, "a": a, "b": b, "method": method,
                      "statistic": float(result.statistic), "p_value": float(result.pvalue)})
    write("ks", cases)


def psi():
    pairs = [
        ("same", spec(1, 5000), spec(2, 3000), 10),
        ("shifted", spec(1, 5000), spec(2, 3000, shift=0.2), 10),
        ("wider", spec(1, 5000), spec(2, 3000, shift=-0.5, scale=2.0), 20),
        ("few rows", spec(1, 5000), spec(2, 40, shift=0.1), 10),
        ("tied", spec(1, 5000, levels=4), spec(2, 700, levels=5), 10),
        ("binary", spec(1, 400, levels=2), spec(2, 600, levels=2, shift=0.5), 10),
        ("constant", spec(1, 100, scale=0.0), spec(2, 100, scale=0.0), 10),
        ("constant, below", spec(1, 100, scale=0.0), spec(2, 100, scale=0.0, shift=-1.0), 10),
        ("more bins than rows", spec(1, 50), spec(2, 60), 100),
        ("many bins", spec(1, 5000), spec(2, 5000, scale=1.1), 100),
    ]
    cases = []
    for name, a, b, bins in pairs:
        x, y = np.sort(sample(**a)), np.array(sample(**b))
        n, m = len(x), len(y)
        edges = []
        for value in sorted({x[math.ceil(k * n / bins) - 1] if (k * n) % bins else x[k * n // bins - 1]
                             for k in range(1, bins)}):
            ties = int((x == value).sum())
            if ties > 1 and ties / n > 1 / bins:
                edges.append(np.nextafter(value, -np.inf))
            edges.append(value)
        edges = np.unique(edges)
        e = np.bincount(np.searchsorted(edges, x, side="left"), minlength=len(edges) + 1)
        o = np.bincount(np.searchsorted(edges, y, side="left"), minlength=len(edges) + 1)
        used = (e + o) > 0
        B = int(used.sum())
        p = (e[used] + 0.5) / (n + B / 2)
        q = (o[used] + 0.5) / (m + B / 2)
        statistic = float(special.rel_entr(p, q).sum() + special.rel_entr(q, p).sum())
        noise = (B - 1) * (1 / n + 1 / m)
        g, h = np.log(p / q) + 1 - q / p, np.log(q / p) + 1 - p / q
        var = ((p * (g - (p * g).sum()) ** 2).sum() / n + (q * (h - (q * h).sum()) ** 2).sum() / m
               + 2 * (B - 1) * (1 / n + 1 / m) ** 2)
        value = max(0.0, statistic - noise)
        margin = stats.norm.ppf(0.975) * math.sqrt(var)
        cases.append({"case": name, "a": a, "b": b, "bins": bins, "baseline": e.tolist(), "live": o.tolist(),
                      "statistic": statistic, "value": value, "low": max(0.0, value - margin),
                      "high": value + margin})
    write("psi", cases)


def wilson():
    cases = []
    for k, n in [(0, 1), (1, 1), (0, 10), (3, 10), (10, 10), (842, 1000), (1, 100000), (3678, 4368)]:
        for confidence in [0.5, 0.9, 0.95, 0.999]:
            ci = stats.binomtest(k, n).proportion_ci(confidence_level=confidence, method="wilson")
            cases.append({"case": f"{k} of {n}", "successes": k, "n": n, "confidence": confidence,
                          "low": float(ci.low), "high": float(ci.high)})
    write("wilson", cases)


PROFILES = [
    ("bernoulli", [[1500, 0.1], [1500, 0.3], [1000, 0.3]]),
    ("bernoulli", [[1000, 0.5], [1000, 0.2], [1000, 0.7], [1000, 0.4]]),
    ("bernoulli", [[3000, 0.05], [1000, 0.06]]),
    ("level", [[1000, 0.3], [1000, 0.5], [2000, 0.4]]),
    ("level", [[500, 0.5]] + [[50, 0.5 + 0.005 * i] for i in range(40)] + [[1500, 0.7]]),
    ("level", [[4000, 0.5]]),
]


def change():
    cases = []
    adwin_options = [
        {},
        {},
        {"delta": 0.05, "clock": 1},
        {"delta": 0.3, "clock": 8, "max_buckets": 3, "min_window_length": 1, "grace_period": 2},
    ]
    for seed in range(24):
        kind, segments = PROFILES[seed % len(PROFILES)]
        options = adwin_options[seed // len(PROFILES)]
        detector, hits = drift.ADWIN(**options), []
        for i, x in enumerate(stream(seed, kind, segments)):
            detector.update(x)
            if detector.drift_detected:
                hits.append(i)
        cases.append({"case": f"adwin {seed}", "detector": "adwin", "seed": seed, "kind": kind,
                      "segments": segments, "options": options, "changes": hits,
                      "width": int(detector.width), "mean": detector.estimation,
                      "variance": detector.variance})
    page_options = [
        {"threshold": 5.0},
        {"threshold": 20.0, "delta": 0.02},
        {"threshold": 10.0, "alpha": 1.0, "mode": "up"},
        {"threshold": 10.0, "alpha": 0.99, "mode": "down", "min_instances": 5},
        {},
    ]
    for seed in range(30):
        kind, segments = PROFILES[seed % len(PROFILES)]
        options = page_options[seed // len(PROFILES)]
        detector, hits = drift.PageHinkley(**options), []
        for i, x in enumerate(stream(seed, kind, segments)):
            detector.update(x)
            if detector.drift_detected:
                hits.append(i)
        cases.append({"case": f"page_hinkley {seed}", "detector": "page_hinkley", "seed": seed, "kind": kind,
                      "segments": segments, "options": options, "changes": hits})
    ddm_options = [{}, {}, {"warm_start": 100}, {"warning_threshold": 1.5, "drift_threshold": 2.5}]
    for seed in range(24):
        kind, segments = PROFILES[seed % 3]
        options = ddm_options[seed // 6]
        detector, hits, warnings = drift.binary.DDM(**options), [], 0
        for i, x in enumerate(stream(seed, kind, segments)):
            detector.update(int(x))
            warnings += detector.warning_detected
            if detector.drift_detected:
                hits.append(i)
        cases.append({"case": f"ddm {seed}", "detector": "ddm", "seed": seed, "kind": kind,
                      "segments": segments, "options": options, "changes": hits, "warnings": int(warnings)})
    write("change", cases)


STAKES = [Decimal("0.99") * Decimal(2) ** (Decimal(-k) / 2) for k in range(25)]


def capital(xs, mean0):
    """Mixture of constant bets on a mean above `mean0`: the published product, row by row."""
    total = Decimal(0)
    for f in STAKES:
        product = Decimal(1)
        for x in xs:
            product *= 1 + f * (x - mean0) / mean0
        total += product
    return float((total / len(STAKES)).ln())


def betting():
    cases = []
    for seed, n, shift, scale, mean0 in [
        (1, 1, 0.0, 1.0, 0.5), (2, 15, 0.0, 1.0, 0.3), (3, 16, 0.0, 1.0, 0.7), (4, 400, 0.0, 1.0, 0.5),
        (5, 400, 0.1, 0.8, 0.4), (6, 300, 0.0, 0.1, 0.01), (7, 300, 0.9, 0.1, 0.999), (8, 500, 1.0, 0.0, 0.001),
    ]:
        xs = [Decimal(x) for x in sample(seed, n, shift=shift, scale=scale)]
        m = Decimal(mean0)
        cases.append({"case": f"mean {seed}", "kind": "mean", "seed": seed, "n": n, "shift": shift, "scale": scale,
                      "mean0": mean0, "above": capital(xs, m), "below": capital([1 - x for x in xs], 1 - m)})
    for only_a, only_b, same, margin in [
        (0, 0, 0, 0.0), (1, 0, 0, 0.0), (0, 0, 10, 0.02), (5, 5, 90, 0.0), (40, 10, 150, 0.0), (10, 40, 150, 0.05),
        (60, 30, 310, 0.02), (3, 2, 395, 0.1), (100, 0, 0, 0.5),
    ]:
        up = [Decimal(1)] * only_b + [Decimal("0.5")] * same + [Decimal(0)] * only_a
        down = [1 - x for x in up]
        half, m = Decimal("0.5"), Decimal(margin)

        def low(ones, halves, zeros):
            fs = np.array([float(f) for f in STAKES])

            def gap(mu):
                logs = (ones * np.log(1 - fs + fs / mu) + halves * np.log(1 - fs + fs / (2 * mu))
                        + zeros * np.log(1 - fs))
                return special.logsumexp(logs) - math.log(25) - math.log(40)

            if gap(1e-12) < 0:
                return -1.0
            return 2 * optimize.brentq(gap, 1e-12, 1.0, xtol=1e-14, rtol=1e-14) - 1

        cases.append({"case": f"paired {only_a} {only_b} {same} {margin}", "kind": "paired", "only_a": only_a,
                      "only_b": only_b, "same": same, "margin": margin,
                      "worse": capital(down, half * (1 + m)), "noninferior": capital(up, half * (1 - m)),
                      "better": capital(up, half), "low": low(only_b, same, only_a),
                      "high": -low(only_a, same, only_b)})
    write("betting", cases)


if __name__ == "__main__":
    for make in [ks, psi, wilson, change, betting]:
        make()
