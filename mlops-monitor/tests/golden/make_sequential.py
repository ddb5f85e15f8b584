"""Writes sequential.json: the published formulas of the anytime-valid methods, row by row in numpy and mpmath.

confseq 0.0.11 (PyPI) has no wheel for current Pythons, needs Boost to build and numpy below 2 to run, so it is not a
requirement here. Where its pure-Python modules can be imported (`PYTHONPATH` at the `src` folder of its sdist, with numpy
1.26, matplotlib and multiprocess), the numbers below are compared with it as they are made; that was done once for those
committed. The values of its C++ boundaries are the ones its own unit tests state.
"""

import json
import math
import pathlib
import platform

import mpmath
import numpy as np
import scipy
from scipy import optimize, special

from streams import SplitMix, stream

try:
    from confseq import betting, betting_strategies, predmix
except ImportError:
    betting = None

HERE = pathlib.Path(__file__).parent
VERSIONS = {"python": platform.python_version(), "numpy": np.__version__, "scipy": scipy.__version__,
            "mpmath": mpmath.__version__, "confseq": "0.0.11" if betting else "not at hand"}
ZETA = float(mpmath.zeta(mpmath.mpf("1.4")))
STREAMS = [
    ("bernoulli", [[1500, 0.5]]),
    ("bernoulli", [[1500, 0.01]]),
    ("bernoulli", [[1500, 0.98]]),
    ("level", [[1500, 0.5]]),
    ("level", [[700, 0.3], [800, 0.7]]),
    ("bernoulli", [[300, 0.0]]),
]
LOOKS = [1, 2, 3, 10, 50, 200, 300, 700, 1500]


def plug_in(x, alpha):
    """λ_t, and the means before and after each row."""
    t = np.arange(1, len(x) + 1)
    mu = (0.5 + np.cumsum(x)) / (t + 1)
    before = np.append(0.5, mu[:-1])
    var = np.append(0.25, ((0.25 + np.cumsum((x - mu) ** 2)) / (t + 1))[:-1])
    return np.sqrt(2 * math.log(2 / alpha) / (var * t * np.log1p(t))), before


def psi(lam):
    return np.array([float(-mpmath.log1p(-mpmath.mpf(v)) - mpmath.mpf(v)) for v in lam])


def empirical_bernstein(x, alpha):
    lam, before = plug_in(x, alpha)
    lam = np.minimum(lam, 0.5)
    v = (x - before) ** 2
    centre = np.cumsum(lam * x) / np.cumsum(lam)
    radius = (math.log(2 / alpha) + np.cumsum(v * psi(lam))) / np.cumsum(lam)
    if betting:
        theirs = predmix.predmix_lower_cs(
            x, v=v, lambdas_fn=lambda y: betting_strategies.lambda_predmix_eb(y, truncation=0.5, alpha=alpha / 2),
            psi_fn=lambda l: -np.log(1 - l) - l, alpha=alpha / 2)
        assert np.allclose(theirs, np.maximum(centre - radius, 0), rtol=1e-9, atol=1e-12)
    return centre - radius, centre + radius


def hedged(x, alpha, grid):
    lam, _ = plug_in(x, alpha)
    low, high = np.zeros(len(x)), np.ones(len(x))
    for k in range(1, grid):
        m = k / grid
        above = np.cumsum(np.log1p(np.minimum(lam, 0.5 / m) * (x - m)))
        below = np.cumsum(np.log1p(-np.minimum(lam, 0.5 / (1 - m)) * (x - m)))
        low[above >= math.log(2 / alpha)] = m
        high = np.where((below >= math.log(2 / alpha)) & (high == 1), m, high)
    if betting:
        stake = lambda y, m: betting_strategies.lambda_predmix_eb(y, alpha=alpha / 2)
        l, u = betting.betting_cs(x, [stake], alpha=alpha, breaks=grid)
        assert np.allclose(l, low, atol=1e-12) and np.allclose(u, high, atol=1e-12)
    return low, high


def stitched(v, alpha, m, c):
    eta, s = 2.0, 1.4
    v = max(v, m)
    ell = s * math.log(math.log(eta * v / m)) + math.log(ZETA / (alpha * math.log(eta) ** s))
    k1, k2 = (eta**0.25 + eta**-0.25) / math.sqrt(2), (math.sqrt(eta) + 1) / 2
    return math.sqrt(k1**2 * v * ell + (k2 * c * ell) ** 2) + k2 * c * ell


def stitched_cs(x, alpha):
    _, before = plug_in(x, alpha)
    v, t = np.cumsum((x - before) ** 2), np.arange(1, len(x) + 1)
    radius = np.array([stitched(a, alpha / 2, 1.0, 1.0) for a in v]) / t
    return np.cumsum(x) / t - radius, np.cumsum(x) / t + radius


def looks(x, low, high, running):
    if running:
        low, high = np.maximum.accumulate(low), np.minimum.accumulate(high)
    return [[n, max(0.0, float(low[n - 1])), min(1.0, float(high[n - 1]))] for n in LOOKS if n <= len(x)]


def means():
    cases = []
    for seed, (kind, segments) in enumerate(STREAMS):
        x = np.array(stream(seed, kind, segments))
        for alpha, running in [(0.05, False), (0.01, True)]:
            if running and len(segments) > 1:
                running = False
            base = {"seed": seed, "kind": kind, "segments": segments, "alpha": alpha, "running": running}
            for method, grid, interval in [
                ("empirical_bernstein", 0, empirical_bernstein(x, alpha)),
                ("hedged", 100, hedged(x, alpha, 100)),
                ("stitched", 0, stitched_cs(x, alpha)),
            ]:
                cases.append({"case": f"{method} {seed} {alpha}", "method": method, "grid": grid, **base,
                              "looks": looks(x, *interval, running)})
    return cases


def asymptotic():
    cases = []
    for seed, (kind, segments) in enumerate(STREAMS[:5]):
        x = 1000.0 * np.array(stream(seed, kind, segments)) - 50.0
        for alpha, tuned, n in [(0.05, 1000, 100), (0.05, 1000, 1500), (0.001, 50, 700)]:
            rho2 = (-2 * math.log(alpha) + math.log(1 - 2 * math.log(alpha))) / tuned
            radius = np.std(x[:n]) * math.sqrt(
                2 * (n * rho2 + 1) / (n * n * rho2) * math.log(math.sqrt(n * rho2 + 1) / alpha))
            cases.append({"case": f"asymptotic {seed} {alpha} {n}", "seed": seed, "kind": kind, "segments": segments,
                          "alpha": alpha, "tuned_for": tuned, "n": n, "low": float(np.mean(x[:n]) - radius),
                          "high": float(np.mean(x[:n]) + radius)})
    return cases


def quantiles():
    cases = []
    for seed, (p, alpha, tuned, n) in enumerate([
        (0.5, 0.05, 1000, 10), (0.5, 0.05, 1000, 1000), (0.9, 0.01, 100, 400), (0.99, 0.05, 1000, 3000),
        (0.05, 0.05, 10, 150), (0.5, 0.05, 1000, 3),
    ]):
        rng = SplitMix(seed)
        x = np.sort([int(rng.uniform() * 64) / 64 for _ in range(n)])
        variance, level = p * (1 - p), -2 * math.log(alpha)
        r = max(tuned * variance / (level + math.log(1 + level)) - variance, 1e-3 * variance)
        a, b = mpmath.mpf(r / (1 - p)), mpmath.mpf(r / p)
        kept = [k for k in range(n + 1)
                if mpmath.log(mpmath.beta(a + k, b + n - k) / mpmath.beta(a, b))
                - k * mpmath.log(p) - (n - k) * mpmath.log(1 - p) < -math.log(alpha)]
        cases.append({"case": f"quantile {seed}", "seed": seed, "p": p, "alpha": alpha, "tuned_for": tuned, "n": n,
                      "low": float(x[kept[0] - 1]) if kept[0] > 0 else None,
                      "high": float(x[kept[-1]]) if kept[-1] < n else None})
    return cases


def lil_error(C, eta, A=0.85):
    """The error of the empirical-process bound, theorem 2 of the quantile paper, before its parameter eta is chosen."""
    if A <= math.sqrt(2 * (eta - 1) / C):
        return math.inf
    g = 2 / eta * (A - math.sqrt(2 * (eta - 1) / C)) ** 2
    return 4 * math.exp(-g * C) * (1 + 1 / ((g - 1) * math.log(eta))) if g > 1 else math.inf


def boundaries():
    # That 0.8 ln(1612/α) is large enough, for every α the band accepts.
    for alpha in [0.3, 0.2, 0.1, 0.05, 0.025, 0.01, 1e-3, 1e-6, 1e-12]:
        C = 0.8 * math.log(1612 / alpha)
        assert min(lil_error(C, eta) for eta in np.linspace(1.0001, 1.445, 5000)) <= alpha, alpha
    best = optimize.brentq(lambda C: min(lil_error(C, e) for e in np.linspace(1.0001, 1.445, 5000)) - 0.05, 3, 40)
    assert abs(0.85 * math.sqrt((math.log(1 + math.log(10)) + best) / 1000) - 0.08204769) < 1e-6  # confseq's test
    assert abs(stitched(100, 0.05, 10, 3) - 64.48755) < 1e-5  # confseq's test
    cases = [{"case": f"stitched {v} {alpha} {m} {c}", "v": v, "alpha": alpha, "m": m, "c": c,
              "value": stitched(v, alpha, m, c)}
             for v, alpha, m, c in [(100.0, 0.05, 10.0, 3.0), (0.0, 0.025, 1.0, 1.0), (1e6, 1e-6, 1.0, 1.0),
                                    (33.0, 0.2, 0.5, 0.0)]]
    bands = [{"case": f"band {n} {alpha} {m}", "n": n, "alpha": alpha, "first_look": m,
              "value": min(1.0, 0.85 * math.sqrt((math.log(1 + math.log(n / m)) + 0.8 * math.log(1612 / alpha)) / n))}
             for n, alpha, m in [(1, 0.05, 1), (100, 0.05, 100), (1000, 0.05, 100), (1000, 0.3, 1), (1500, 1e-4, 7)]]
    return cases, bands


STAKES = np.array([0.99 * 2.0 ** (-k / 2) for k in range(25)])


def mixed(gains):
    logs = np.array([np.sum(np.log1p(f * np.array(gains))) for f in STAKES])
    return float(special.logsumexp(logs) - math.log(25))


def arms(seed, n, share_b):
    """Rows (is it b?, value): multiples of 1/64, b's squared so that its distribution is another."""
    rng = SplitMix(seed)
    rows = []
    for _ in range(n):
        b = rng.uniform() < share_b
        u = rng.uniform()
        rows.append((b, int((u * u if b else u) * 64) / 64))
    return rows


def blocks(rows, value):
    """The mean of b less that of a, for each block that closes; `value` is told how many have."""
    out, held = [], {False: [], True: []}
    for i, (b, x) in enumerate(rows):
        held[b].append(value(x, i, len(out)))
        if held[False] and held[True]:
            out.append((np.mean(held[True]) - np.mean(held[False]), i))
            held = {False: [], True: []}
    return out


def two_sample():
    cases = []
    for seed, n, share_b, margin in [(1, 400, 0.5, 0.0), (2, 1500, 0.1, 0.05), (3, 1500, 0.5, 0.4), (4, 3, 0.5, 0.0)]:
        rows = arms(seed, n, share_b)
        g = np.array([d for d, _ in blocks(rows, lambda x, i, k: x)])
        x, up, down = (1 + g) / 2, (1 + margin) / 2, (1 - margin) / 2
        # Kolmogorov-Smirnov: the cut is looked for at 8 blocks and whenever they have grown by an eighth.
        state = {"renew": 8, "cut": None, "signs": []}

        def below(value, i, closed):
            if closed >= state["renew"]:
                state["renew"] = closed + closed // 8 + 1
                seen = rows[:i]
                a = np.array([v for b, v in seen if not b])
                b = np.array([v for b, v in seen if b])
                gaps = [(c, (b <= c).sum() / len(b) - (a <= c).sum() / len(a)) for c in np.arange(64) / 64]
                best = max(gaps, key=lambda pair: abs(pair[1]))
                state["cut"] = (best[0], math.copysign(1.0, best[1])) if best[1] != 0 else None
            while len(state["signs"]) <= closed:
                state["signs"].append(0.0)
            if state["cut"] is None:
                return 0.0
            state["signs"][closed] = state["cut"][1]
            return float(value <= state["cut"][0])

        ks = [d * state["signs"][k] for k, (d, _) in enumerate(blocks(rows, below))]
        cases.append({"case": f"two-sample {seed}", "seed": seed, "n": n, "share_b": share_b, "margin": margin,
                      "above": mixed((x - up) / up), "below": mixed((down - x) / (1 - down)),
                      "within_below": mixed((up - x) / (1 - up)), "within_above": mixed((x - down) / down),
                      "ks": mixed(ks)})
    return cases


def risk():
    cases = []
    for seed, (p0, m, segments, tolerance, alpha) in enumerate([
        (0.1, 2000, [[1500, 0.3]], 0.05, 0.05), (0.1, 2000, [[1500, 0.1]], 0.05, 0.05),
        (0.3, 500, [[500, 0.3], [2000, 0.8]], 0.1, 0.01), (0.0, 200, [[300, 0.0]], 0.3, 0.05),
    ]):
        source = np.array(stream(100 + seed, "bernoulli", [[m, p0]]))
        live = np.array(stream(200 + seed, "bernoulli", segments))
        level = math.log(2 / (alpha / 2))
        radius = math.sqrt(2 * np.var(source, ddof=1) * level / m) + 7 * level / (3 * (m - 1))
        low, high = stitched_cs(live, alpha)
        bound = min(1.0, source.mean() + radius)
        hits = np.flatnonzero(np.maximum(low, 0) > bound + tolerance)
        cases.append({"case": f"risk {seed}", "seed": seed, "p0": p0, "m": m, "segments": segments,
                      "tolerance": tolerance, "alpha": alpha, "source_low": max(0.0, float(source.mean() - radius)),
                      "source_high": float(bound), "alarm_at": int(hits[0]) + 1 if len(hits) else None})
    return cases


def main():
    cases, bands = boundaries()
    data = {"versions": VERSIONS, "means": means(), "asymptotic": asymptotic(), "quantiles": quantiles(),
            "boundaries": cases, "bands": bands, "two_sample": two_sample(), "risk": risk()}
    text = json.dumps(data, separators=(",", ":")).replace('{"case"', '\n{"case"')
    (HERE / "sequential.json").write_text(text + "\n")
    print("sequential", {k: len(v) for k, v in data.items() if k != "versions"}, VERSIONS)


if __name__ == "__main__":
    main()
