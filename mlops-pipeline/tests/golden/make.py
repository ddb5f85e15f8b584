"""Writes paired.json beside it. Needs numpy, scipy and statsmodels: `python make.py`.

Tango's interval is found from its definition: the likelihood restricted to a difference is maximised by solving its
derivative for zero (the crate solves the quadratic in closed form), and the score is inverted by Brent's method.
"""

import json
import pathlib
import platform

import numpy as np
import scipy
import statsmodels
from scipy import optimize, stats
from statsmodels.stats.contingency_tables import mcnemar

HERE = pathlib.Path(__file__).parent


def restricted(b, c, rest, delta):
    """Most likely share of rows that only the champion answered right, if the difference is `delta`."""
    only_b, only_c, most = max(0.0, delta), max(0.0, -delta), (1.0 - abs(delta)) / 2.0

    def slope(s):
        value = 0.0
        if b:
            value += b / (only_b + s)
        if c:
            value += c / (only_c + s)
        if rest:
            value -= rest / (most - s)
        return value

    low, high = most * 1e-18, most * (1.0 - 1e-15)
    if most == 0.0 or slope(low) <= 0.0:
        return only_c
    if slope(high) >= 0.0:
        return only_c + most
    return only_c + optimize.brentq(slope, low, high, xtol=1e-18, rtol=8.9e-16, maxiter=500)


def tango(b, c, n, confidence):
    z = stats.norm.ppf(0.5 + confidence / 2.0)
    value = (b - c) / n

    def score(delta):
        variance = 2.0 * restricted(b, c, n - b - c, delta) + delta * (1.0 - delta)
        return (b - c - n * delta) / np.sqrt(n * max(variance, 1e-300))

    def limit(end, target):
        if value == end:
            return end
        inside = end * (1.0 - 1e-13)
        ends = sorted((inside, value))
        return optimize.brentq(lambda d: score(d) - target, *ends, xtol=1e-15, rtol=8.9e-16, maxiter=500)

    return limit(-1.0, z), limit(1.0, -z)


cases = []
for b, c, n in [
    (1, 7, 21),
    (0, 0, 30),
    (0, 0, 1),
    (5, 0, 5),
    (0, 5, 5),
    (9, 0, 12),
    (43, 0, 86),
    (16, 16, 32),
    (3, 11, 40),
    (120, 96, 1_000),
    (640, 700, 4_368),
    (2_000, 1_900, 10_000),
    (90_000, 91_500, 1_000_000),
    (1, 300, 100_000),
]:
    for confidence in [0.8, 0.95, 0.999]:
        low, high = tango(b, c, n, confidence)
        p = mcnemar([[n - b - c, b], [c, 0]], exact=True).pvalue
        case = {"b": b, "c": c, "n": n, "confidence": confidence, "low": low, "high": high}
        cases.append({**case, "mcnemar": min(1.0, float(p))})

versions = {
    "python": platform.python_version(),
    "numpy": np.__version__,
    "scipy": scipy.__version__,
    "statsmodels": statsmodels.__version__,
}
text = json.dumps({"versions": versions, "cases": cases}, separators=(",", ":")).replace('{"b"', '\n{"b"')
(HERE / "paired.json").write_text(text + "\n")
print(len(cases), versions)
