"""Writes `profile.json` beside it. Needs numpy and scipy: `python make_profile.py`."""

import json
import pathlib
import platform

import numpy as np
import scipy
from scipy import stats
from scipy.spatial.distance import jensenshannon

from streams import sample

HERE = pathlib.Path(__file__).parent


def spec(seed, n, **kwargs):
    return {"seed": seed, "n": n, "shift": 0.0, "scale": 1.0, "levels": 0, **kwargs}


def moments():
    specs = [
        ("two", spec(1, 2)),
        ("three", spec(2, 3)),
        ("a block", spec(3, 512)),
        ("many", spec(4, 20_000)),
        ("far from zero", spec(5, 20_000, shift=1e6)),
        ("farther", spec(6, 3_000, shift=1e9)),
        ("tiny", spec(7, 3_000, scale=1e-60)),
        ("tied", spec(8, 5_000, levels=3)),
    ]
    for name, a in specs:
        # In twice the precision, so that the numbers are right where the sum of powers is not.
        x = np.array(sample(**a), dtype=np.longdouble)
        d = x - x.mean()
        m2, m3, m4 = (np.mean((d / np.abs(d).max()) ** p) for p in (2, 3, 4))
        top = np.abs(d).max()
        case = {
            "case": name, "a": a,
            "mean": float(x.mean()), "variance": float(m2 * top * top * len(x) / (len(x) - 1)),
            "skewness": float(m3 / m2**1.5), "kurtosis": float(m4 / m2**2 - 3),
            "quantiles": [float(q) for q in np.quantile(x.astype(float), [0.1, 0.5, 0.9], method="inverted_cdf")],
        }
        if name in ("two", "three", "many", "tied"):
            assert np.isclose(case["skewness"], stats.skew(x.astype(float)), atol=1e-9)
            assert np.isclose(case["kurtosis"], stats.kurtosis(x.astype(float)), atol=1e-9)
        yield case


def categories():
    for name, a, b in [
        ("same", [500, 300, 200], [500, 300, 200]),
        ("shifted", [500, 300, 200], [2_000, 5_000, 3_000]),
        ("one is new", [700, 300, 0], [400, 400, 200]),
        ("one is gone", [700, 200, 100], [800, 200, 0]),
        ("many", list(range(100, 140)), list(range(140, 100, -1))),
    ]:
        x, y = np.array(a, dtype=float), np.array(b, dtype=float)
        occupied = (x + y) > 0
        bins = occupied.sum()
        p, q = ((v[occupied] + 0.5) / (v.sum() + 0.5 * bins) for v in (x, y))
        chi2 = stats.chi2_contingency(np.array([x, y]), correction=False)
        yield {
            "case": name, "reference": a, "live": b,
            "psi": float(np.sum((p - q) * np.log(p / q))),
            "jensen_shannon": float(jensenshannon(x, y) ** 2),
            "chi_square": float(chi2.statistic), "p_value": float(chi2.pvalue),
            "l_infinity": float(np.max(np.abs(x / x.sum() - y / y.sum()))),
        }


out = {
    "versions": {"python": platform.python_version(), "numpy": np.__version__, "scipy": scipy.__version__},
    "moments": list(moments()),
    "categories": list(categories()),
}
text = json.dumps(out, separators=(",", ":")).replace('{"case"', '\n{"case"')
(HERE / "profile.json").write_text(text + "\n")
