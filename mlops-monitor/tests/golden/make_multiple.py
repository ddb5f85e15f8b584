"""Writes multiple.json and power.json: statsmodels and scipy for p-values and sample sizes, the definition for e-BH."""

import json
import math
import pathlib
import platform

import numpy as np
import scipy
import statsmodels
from scipy import integrate, stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import NormalIndPower, normal_sample_size_one_tail

from streams import sample

HERE = pathlib.Path(__file__).parent
VERSIONS = {"python": platform.python_version(), "numpy": np.__version__, "scipy": scipy.__version__,
            "statsmodels": statsmodels.__version__}
METHODS = {"bonferroni": "bonferroni", "holm": "holm", "hommel": "hommel", "benjamini_hochberg": "fdr_bh",
           "benjamini_yekutieli": "fdr_by"}


def write(name, data):
    text = json.dumps({"versions": VERSIONS, **data}, separators=(",", ":")).replace('{"case"', '\n{"case"')
    (HERE / f"{name}.json").write_text(text + "\n")
    print(name, {k: len(v) for k, v in data.items()}, VERSIONS)


def families():
    yield [0.03]
    yield [0.02, 0.01]
    yield [0.0, 1.0, 0.5, 0.0]
    yield [0.05] * 6
    yield [0.001, 0.008, 0.039, 0.041, 0.042, 0.06, 0.074, 0.205, 0.212, 0.216, 0.222, 0.251, 0.269, 0.275, 0.34,
           0.341, 0.384, 0.569, 0.594, 0.696, 0.762, 0.94, 0.942, 0.975, 0.986]
    for seed, n in [(1, 10), (2, 37), (3, 60)]:
        yield [u**3 for u in sample(seed, n)]


def multiple():
    adjusted = []
    for i, p in enumerate(families()):
        for name, method in METHODS.items():
            values = [float(v) for v in multipletests(p, method=method)[1]]
            if method in ("fdr_bh", "fdr_by"):
                assert np.allclose(values, stats.false_discovery_control(p, method=method[-2:]), rtol=1e-12)
            adjusted.append({"case": f"{name} {i}", "method": name, "p": p, "adjusted": values})
    e_bh = []
    for seed, n, alpha in [(1, 5, 0.1), (2, 40, 0.05), (3, 40, 0.2), (4, 1, 0.5), (5, 100, 0.05)]:
        e = np.array([0.05 / u**1.5 for u in sample(seed, n, scale=0.999, shift=0.001)])
        order = np.argsort(-e)
        k = max([j for j in range(1, n + 1) if j * e[order[j - 1]] / n >= 1 / alpha], default=0)
        rejected = [False] * n
        for i in order[:k]:
            rejected[i] = True
        e_bh.append({"case": f"e-BH {seed}", "e": e.tolist(), "alpha": alpha, "rejected": rejected})
    calibrated = []
    for p in [1e-12, 1e-6, 1e-4, 0.01, 0.05, 0.3, 0.9, 0.999, 0.99999]:
        # The average over κ of κ p^(κ-1), by quadrature.
        value = integrate.quad(lambda k: k * p ** (k - 1), 0, 1, epsabs=0, epsrel=1e-12)[0]
        calibrated.append({"case": f"p {p}", "p": p, "half": 0.5 * p**-0.5, "mixed": value})
    write("multiple", {"adjusted": adjusted, "e_bh": e_bh, "calibrated": calibrated})


def power():
    mean, means, proportions, ks = [], [], [], []
    for effect, sd, alpha, level in [(0.1, 0.5, 0.05, 0.8), (0.02, 0.3, 0.01, 0.95), (2.0, 15.0, 0.05, 0.9)]:
        n = NormalIndPower(ddof=0).solve_power(effect / sd, None, alpha, level, ratio=0)
        mean.append({"case": f"{effect} {sd}", "effect": effect, "sd": sd, "alpha": alpha, "power": level,
                     "n": math.ceil(n - 1e-9)})
        n = NormalIndPower(ddof=0).solve_power(effect / sd, None, alpha, level, ratio=1)
        means.append({"case": f"{effect} {sd}", "effect": effect, "sd": sd, "alpha": alpha, "power": level,
                      "n": math.ceil(n - 1e-9)})
    for a, b, alpha, level in [(0.1, 0.15, 0.05, 0.8), (0.05, 0.08, 0.05, 0.8), (0.5, 0.52, 0.01, 0.9), (0.0, 0.01, 0.05, 0.8)]:
        p = (a + b) / 2
        n = normal_sample_size_one_tail(b - a, level, alpha / 2, std_null=math.sqrt(2 * p * (1 - p)),
                                        std_alternative=math.sqrt(a * (1 - a) + b * (1 - b)))
        proportions.append({"case": f"{a} {b}", "a": a, "b": b, "alpha": alpha, "power": level,
                            "n": math.ceil(n)})
    for d, alpha, level in [(0.1, 0.05, 0.8), (0.02, 0.01, 0.95), (1.0, 0.05, 0.5)]:
        n = ((math.sqrt(math.log(2 / alpha)) + math.sqrt(math.log(1 / (1 - level)))) / d) ** 2
        ks.append({"case": f"{d}", "distance": d, "alpha": alpha, "power": level, "n": math.ceil(n)})
    write("power", {"mean": mean, "means": means, "proportions": proportions, "ks": ks})


if __name__ == "__main__":
    multiple()
    power()
