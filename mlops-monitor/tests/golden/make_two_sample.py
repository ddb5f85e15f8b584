"""Writes two_sample.json beside it. Needs mpmath, numpy, scipy and statsmodels: `python make_two_sample.py`."""

import json
import math
import pathlib
import platform
import warnings

import mpmath
import numpy as np
import scipy
import statsmodels
from scipy import optimize, special, stats
from scipy.spatial import distance
from statsmodels.stats.proportion import confint_proportions_2indep, proportions_ztest

from streams import sample

HERE = pathlib.Path(__file__).parent
VERSIONS = {"python": platform.python_version(), "numpy": np.__version__, "scipy": scipy.__version__,
            "statsmodels": statsmodels.__version__, "mpmath": mpmath.__version__}
mpmath.mp.dps = 25
warnings.simplefilter("ignore")


def spec(seed, n, **kwargs):
    return {"seed": seed, "n": n, "shift": 0.0, "scale": 1.0, "levels": 0, **kwargs}


def smirnov(x, det, ends):
    """P(sum of weighted chi-squares > x): alternating integrals between zeros of the determinant, with 25 digits."""
    if x <= 0.003:
        return 1.0
    x, total = mpmath.mpf(x), mpmath.mpf(0)
    for k in range(200):
        low, high = ends(k)
        middle, half = (low + high) / 2, (high - low) / 2
        if k > 0 and mpmath.exp(-x * low / 2) < 1e-19 * abs(total):
            break

        def f(theta):
            y = middle + half * mpmath.sin(theta)
            return mpmath.exp(-x * y / 2) / (y * mpmath.sqrt(abs(det(y)))) * half * mpmath.cos(theta)

        # Nearly all of it is near the lower end: pieces that grow from there.
        width, end = 1 / mpmath.sqrt(x * half), mpmath.pi / 2
        cuts = [width * 2**i - end for i in range(12) if width * 2**i < 2 * end]
        total += (-1) ** k * mpmath.quad(f, [-end, *cuts, end])
    return float(total / mpmath.pi)


def ad_tail(x):
    return smirnov(x, lambda y: mpmath.cos(mpmath.pi / 2 * mpmath.sqrt(1 + 4 * y)) / (mpmath.pi * y),
                   lambda k: (mpmath.mpf((2 * k + 1) * (2 * k + 2)), mpmath.mpf((2 * k + 2) * (2 * k + 3))))


def cvm_tail(x):
    return smirnov(x, lambda y: mpmath.sin(mpmath.sqrt(y)) / mpmath.sqrt(y),
                   lambda k: ((2 * k + 1) ** 2 * mpmath.pi**2, (2 * k + 2) ** 2 * mpmath.pi**2))


def auc_interval(x, y, u, z):
    n, m = len(x), len(y)
    auc = u / (n * m)
    sx, sy = np.sort(x), np.sort(y)
    px = (np.searchsorted(sy, x, "left") + np.searchsorted(sy, x, "right")) / (2 * m)
    py = (np.searchsorted(sx, y, "left") + np.searchsorted(sx, y, "right")) / (2 * n)
    var = np.nan if min(n, m) < 2 else px.var(ddof=1) / n + py.var(ddof=1) / m
    if not var > 1e-14 / min(n, m):
        half = (n + m) / 2 - 1

        def v(t):
            return z * math.sqrt(t * (1 - t) * (1 + half * (1 - t) / (2 - t) + half * t / (1 + t)) / (n * m))

        low = 0.0 if auc <= 0 else optimize.brentq(lambda t: t + v(t) - auc, 0, auc - 1e-9, xtol=1e-15)
        high = 1.0 if auc >= 1 else optimize.brentq(lambda t: t - v(t) - auc, auc + 1e-9, 1, xtol=1e-15)
        return low, high
    c = (auc * n * m + 0.5) / (n * m + 1)
    d = z * math.sqrt(var) / (c * (1 - c))
    return min(special.expit(special.logit(c) - d), auc), max(special.expit(special.logit(c) + d), auc)


def numeric():
    pairs = [
        ("two against two", spec(1, 2), spec(2, 2)),
        ("two against three, apart", spec(1, 2), spec(2, 3, shift=2.0)),
        ("seven against nine", spec(3, 7), spec(4, 9, shift=0.1)),
        ("eight against two hundred", spec(3, 8), spec(5, 200, shift=0.2)),
        ("twenty", spec(3, 20), spec(5, 20, shift=0.3)),
        ("fifteen, tied", spec(3, 15, levels=4), spec(5, 18, levels=4, shift=0.25)),
        ("hundreds", spec(6, 300), spec(7, 211, shift=0.1)),
        ("wider", spec(6, 300), spec(7, 211, shift=-0.5, scale=2.0)),
        ("five levels", spec(6, 300, levels=5), spec(7, 200, levels=5)),
        ("two levels", spec(6, 300, levels=2), spec(7, 301, levels=2)),
        ("equal constants", spec(8, 50, scale=0.0), spec(9, 70, scale=0.0)),
        ("other constants", spec(8, 50, scale=0.0), spec(9, 70, scale=0.0, shift=1.0)),
        ("constant against spread", spec(8, 50, scale=0.0, shift=0.4), spec(9, 70)),
        ("far apart", spec(3, 40), spec(5, 57, shift=5.0)),
        ("negative, large", spec(3, 1000, shift=-1e6, scale=1e5), spec(5, 800, shift=-1e6, scale=1.1e5)),
        ("1e5, same", spec(16, 100000), spec(17, 100000)),
        ("1e5, close", spec(16, 100000), spec(18, 90000, shift=0.004)),
        ("1e5, tied", spec(16, 100000, levels=10), spec(18, 100000, levels=10)),
        ("1e5 against 30", spec(16, 100000), spec(18, 30, shift=0.1)),
    ]
    cases = []
    for name, a, b in pairs:
        x, y = np.array(sample(**a)), np.array(sample(**b))
        n, m = len(x), len(y)
        both = np.concatenate([x, y])
        case = {"case": name, "a": a, "b": b}
        N = n + m
        # Gaps of the distribution functions, which tied rows close in equal steps.
        values = np.unique(both)
        ends = np.searchsorted(np.sort(x), values, "right") / n - np.searchsorted(np.sort(y), values, "right") / m
        rows = np.searchsorted(np.sort(both), values, "right") - np.searchsorted(np.sort(both), values, "left")
        t = case["cvm"] = float(n * m / N**2 * sum(
            (np.linspace(a, b, l + 1)[1:] ** 2).sum() for a, b, l in zip([0.0, *ends], ends, rows)))
        tied = len(np.unique(both)) < N
        if not tied:
            cvm = stats.cramervonmises_2samp(x, y, method="asymptotic")
            case["cvm_scipy"], case["cvm_asymptotic"] = float(cvm.statistic), float(cvm.pvalue)
            if max(n, m) <= 20:
                case["cvm_exact"] = float(stats.cramervonmises_2samp(x, y, method="exact").pvalue)
        var = (N + 1) * (4 * n * m * N - 3 * (n * n + m * m) - 2 * n * m) / (45 * N * N * 4 * n * m)
        case["cvm_tail"] = min(1.0, cvm_tail(1 / 6 + (t - (1 + 1 / N) / 6) / math.sqrt(45 * var)))
        if len(np.unique(both)) > 1:
            for variant in ["midrank", "right"]:
                ad = stats.anderson_ksamp([x, y], variant=variant)
                case[f"ad_{variant}"] = float(ad.statistic)
                case[f"ad_{variant}_p"] = float(ad.pvalue)
            limit = math.sqrt(2 * (math.pi**2 / 3 - 3))
            case["ad_tail"] = min(1.0, ad_tail(max(1 + case["ad_midrank"] * limit, 0.02)))
        mwu = stats.mannwhitneyu(x, y, method="asymptotic")
        case["u"], case["u_asymptotic"] = float(mwu.statistic), float(mwu.pvalue)
        if min(n, m) <= 8 and len(np.unique(both)) == n + m:
            case["u_exact"] = float(stats.mannwhitneyu(x, y, method="exact").pvalue)
        case["auc_low"], case["auc_high"] = map(float, auc_interval(x, y, mwu.statistic, stats.norm.ppf(0.975)))
        w = stats.wasserstein_distance(x, y)
        sd = np.std(x) if np.ptp(x) > 0 else np.std(both)
        # As Evidently: scipy's distance over numpy's std, without its floor of 0.001.
        case["wasserstein"], case["wasserstein_normed"] = float(w), float(w / sd) if w > 0 else 0.0
        case["energy"] = float(stats.energy_distance(x, y))
        if n * m <= 1e6:
            cross = np.abs(x[:, None] - y[None, :]).mean()
            case["energy_coefficient"] = float(case["energy"] ** 2 / (2 * cross)) if cross > 0 else 0.0
        cases.append(case)
    return cases


def lambda_interval(x, df):
    low = high = 0.0
    if df > 0 and stats.chi2.sf(x, df) < 0.025:
        low = optimize.brentq(lambda l: stats.ncx2.sf(x, df, l) - 0.025, 1e-12, x + 10, xtol=1e-13, rtol=1e-13)
    if df > 0 and stats.chi2.sf(x, df) < 0.975:
        high = optimize.brentq(lambda l: stats.ncx2.sf(x, df, l) - 0.975, 1e-12, 4 * x + 100, xtol=1e-13, rtol=1e-13)
    return low, high


def divergence(p, q, n, m, f, gp, gq, curvature):
    """Plug-in divergence with the noise, standard error and interval that the docs state."""
    total = float(sum(f(a, b) for a, b in zip(p, q)))
    B, rate = len(p), 1 / n + 1 / m
    sp, sq = np.array([gp(a, b) for a, b in zip(p, q)]), np.array([gq(a, b) for a, b in zip(p, q)])
    vp, vq = (p * sp**2).sum() - (p * sp).sum() ** 2, (q * sq**2).sum() - (q * sq).sum() ** 2
    se = math.sqrt(max(vp, 0) / n + max(vq, 0) / m + 2 * (B - 1) * (curvature * rate) ** 2)
    value = max(0.0, total - curvature * (B - 1) * rate)
    z = stats.norm.ppf(0.975)
    return total, value, max(0.0, value - z * se), value + z * se


def counts():
    tables = [
        ("two by two", [8, 2], [1, 5]),
        ("three", [10, 20, 30], [20, 20, 20]),
        ("same", [100, 200, 300], [50, 100, 150]),
        ("small shift", [1000, 2000, 3000], [1100, 1950, 2950]),
        ("vanished and new", [50, 40, 10, 0], [45, 40, 0, 15]),
        ("apart", [10, 0], [0, 10]),
        ("one row each", [1, 0], [0, 1]),
        ("one category", [10], [20]),
        ("hundred", [i * i % 37 + 1 for i in range(100)], [i * 7 % 31 + 1 for i in range(100)]),
        ("millions", [3000000, 2000000, 1000000], [3010000, 1990000, 1000000]),
        ("unlike sizes", [100000, 200000], [3, 9]),
    ]
    cases = []
    for name, a, b in tables:
        o = np.array([a, b])
        n, m = sum(a), sum(b)
        case = {"case": name, "first": a, "second": b}
        df = len(a) - 1
        chi = stats.chi2_contingency(o, correction=False)
        g = stats.chi2_contingency(o, correction=False, lambda_="log-likelihood")
        case["chi"], case["chi_p"] = float(chi.statistic), float(chi.pvalue)
        case["g"], case["g_p"] = float(g.statistic), float(g.pvalue)
        low, high = lambda_interval(chi.statistic, df)
        v = math.sqrt(max(0, chi.statistic - df) / (n + m))
        case["v"] = [v, min(v, math.sqrt(low / (n + m))), max(v, math.sqrt(high / (n + m)))]
        p, q = np.array(a) / n, np.array(b) / m
        case["js2"] = float(distance.jensenshannon(p, q, base=2))
        case["js"] = float(distance.jensenshannon(p, q))
        case["hellinger"] = float(np.linalg.norm(np.sqrt(p) - np.sqrt(q)) / math.sqrt(2))
        case["tv"], case["linf"] = float(np.abs(p - q).sum() / 2), float(np.abs(p - q).max())

        def log(x, c):
            return math.log(x / c) if x > 0 else 0.0

        case["js_effect"] = divergence(
            p, q, n, m, lambda x, y: (x * log(x, (x + y) / 2) + y * log(y, (x + y) / 2)) / 2 / math.log(2),
            lambda x, y: log(x, (x + y) / 2) / 2 / math.log(2), lambda x, y: log(y, (x + y) / 2) / 2 / math.log(2),
            1 / 8 / math.log(2))
        B = len(a)
        ps, qs = (np.array(a) + 0.5) / (n + B / 2), (np.array(b) + 0.5) / (m + B / 2)
        case["kl_smoothed"] = float(stats.entropy(ps, qs))
        case["kl_effect"] = divergence(ps, qs, n, m, lambda x, y: special.kl_div(x, y), lambda x, y: math.log(x / y),
                                       lambda x, y: 1 - x / y, 1 / 2)
        if not any(x > 0 and y == 0 for x, y in zip(a, b)):
            case["kl"] = float(stats.entropy(p, q))
        case["psi"] = float(special.rel_entr(ps, qs).sum() + special.rel_entr(qs, ps).sum())
        cases.append(case)
    return cases


def pairs():
    cases = []
    for a, b, c, d in [(8, 2, 1, 5), (3, 1, 1, 3), (0, 5, 4, 2), (10, 10, 10, 10), (100, 2, 1000, 5), (1, 999, 12, 988),
                       (0, 10, 0, 20), (5, 0, 7, 0), (490, 510, 560, 440), (100000, 900000, 100500, 899500), (1, 0, 0, 1)]:
        fisher = stats.fisher_exact([[a, b], [c, d]])
        case = {"case": f"{a} {b} {c} {d}", "first": [a, b], "second": [c, d], "p": float(fisher.pvalue)}
        if math.isfinite(fisher.statistic):
            case["odds"] = float(fisher.statistic)
        if min(a, b, c, d) > 0 and a < 10000:
            ratio = stats.contingency.odds_ratio([[a, b], [c, d]], kind="conditional")
            ci = ratio.confidence_interval(0.95)
            case["log_odds"] = [math.log(ratio.statistic), math.log(ci.low), math.log(ci.high)]
        z, p = proportions_ztest([a, c], [a + b, c + d])
        low, high = confint_proportions_2indep(c, c + d, a, a + b, method="newcomb", compare="diff")
        if math.isfinite(z):
            case["z"], case["z_p"] = float(z), float(p)
        case["difference"] = [c / (c + d) - a / (a + b), float(low), float(high)]
        cases.append(case)
    return cases


def tails():
    cases = []
    for x in [0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 40.0]:
        cases.append({"case": f"tail {x}", "x": x, "cvm": cvm_tail(x), "ad": ad_tail(max(x, 0.03))})
    return cases


if __name__ == "__main__":
    made = {"versions": VERSIONS, "numeric": numeric(), "counts": counts(), "pairs": pairs(), "tails": tails()}
    text = json.dumps(made, separators=(",", ":")).replace('{"case"', '\n{"case"')
    (HERE / "two_sample.json").write_text(text + "\n")
    print({key: len(value) for key, value in made.items()})
