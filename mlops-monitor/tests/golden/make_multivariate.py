"""Writes multivariate.json beside it. Needs numpy, scipy and scikit-learn: `python make_multivariate.py`."""

import json
import math
import pathlib
import platform

import numpy as np
import scipy
import sklearn
from scipy import optimize, stats
from scipy.spatial.distance import cdist, pdist
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.preprocessing import StandardScaler

from streams import MASK, SplitMix, sample

HERE = pathlib.Path(__file__).parent
VERSIONS = {"python": platform.python_version(), "numpy": np.__version__, "scipy": scipy.__version__,
            "sklearn": sklearn.__version__}


def table(seed, rows, columns, shift, mix):
    """Uniform values; each column after the first has `mix` of the one before it, the last one is shifted."""
    data = np.array(sample(seed, rows * columns)).reshape(rows, columns)
    for j in range(1, columns):
        data[:, j] += mix * data[:, j - 1]
    data[:, -1] += shift
    return data


class Rng(SplitMix):
    def below(self, n):
        self.state = (self.state + 0x9E3779B97F4A7C15) & MASK
        z = self.state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        return ((z ^ (z >> 31)) * n) >> 64

    def folds(self, rows, k):
        of = [i % k for i in range(rows)]
        for i in range(rows - 1, 0, -1):
            j = self.below(i + 1)
            of[i], of[j] = of[j], of[i]
        return np.array(of)


def logistic(x, y):
    scaler = StandardScaler().fit(x)
    model = LogisticRegression(C=1.0, solver="newton-cholesky", tol=1e-13, max_iter=200).fit(scaler.transform(x), y)
    return scaler, model


def main():
    cases = []
    for name, a, b in [
        ("same", (1, 60, 3, 0.0, 0.5), (2, 50, 3, 0.0, 0.5)),
        ("shifted", (1, 60, 3, 0.0, 0.5), (3, 80, 3, 0.4, 0.5)),
        ("other correlation", (4, 100, 4, 0.0, 0.9), (5, 100, 4, 0.0, 0.1)),
        ("one column", (6, 40, 1, 0.0, 0.0), (7, 45, 1, 0.2, 0.0)),
        ("apart", (8, 30, 2, 0.0, 0.3), (9, 30, 2, 20.0, 0.3)),
        ("few rows", (10, 10, 5, 0.0, 0.3), (11, 12, 5, 0.3, 0.3)),
    ]:
        x, y = table(*a), table(*b)
        n, m, p = len(x), len(y), x.shape[1]
        keys = ["seed", "rows", "columns", "shift", "mix"]
        case = {"case": name, "a": dict(zip(keys, a)), "b": dict(zip(keys, b))}
        both = np.vstack([x, y])
        zx, zy = [(side - both.mean(0)) / both.std(0) for side in (x, y)]
        sigma = float(np.median(pdist(np.vstack([zx, zy]))))
        gamma = 1 / (2 * sigma**2)
        kxx, kyy, kxy = rbf_kernel(zx, gamma=gamma), rbf_kernel(zy, gamma=gamma), rbf_kernel(zx, zy, gamma=gamma)
        case["mmd"] = float((kxx.sum() - n) / (n * (n - 1)) + (kyy.sum() - m) / (m * (m - 1)) - 2 * kxy.mean())
        cross = cdist(zx, zy).mean()
        case["energy"] = float(2 * cross - cdist(zx, zx).mean() - cdist(zy, zy).mean())
        case["energy_coefficient"] = float(case["energy"] / (2 * cross))

        gap = x.mean(0) - y.mean(0)
        pooled = (np.cov(x.T, ddof=1) * (n - 1) + np.cov(y.T, ddof=1) * (m - 1)).reshape(p, p) / (n + m - 2)
        t2 = n * m / (n + m) * gap @ np.linalg.solve(pooled, gap)
        df2 = n + m - p - 1
        f = df2 / ((n + m - 2) * p) * t2
        case["t2"], case["t2_p"] = float(t2), float(stats.f.sf(f, p, df2))
        if t2 < 1000:
            def end(goal):
                if stats.f.sf(f, p, df2) >= goal:
                    return 0.0
                low = optimize.brentq(lambda l: stats.ncf.sf(f, p, df2, l) - goal, 1e-9, 10 * t2 + 100, xtol=1e-12)
                return math.sqrt(low * (n + m) / (n * m))

            case["mahalanobis"] = [float(math.sqrt(t2 * (n + m) / (n * m))), end(0.025), end(0.975)]

        if p > 1:
            scaler = StandardScaler().fit(x)
            z = scaler.transform(x)
            pca = PCA(n_components=0.65).fit(z)

            def errors(side):
                z = scaler.transform(side)
                return np.linalg.norm(z - pca.inverse_transform(pca.transform(z)), axis=1)

            if pca.n_components_ < p:
                chunks = [errors(x)[i:i + 7].mean() for i in range(0, n, 7)]
                case["pca"] = [int(pca.n_components_), float(errors(x).mean()), float(errors(y).mean()),
                               float(max(0, np.mean(chunks) - 3 * np.std(chunks))),
                               float(np.mean(chunks) + 3 * np.std(chunks))]

        labels = np.array([0] * n + [1] * m)
        _, model = logistic(both, labels)
        case["weights"] = [float(w) for w in model.coef_[0]]
        rng = Rng(0)
        folds = np.concatenate([rng.folds(n, 5), rng.folds(m, 5)])
        areas = []
        for fold in range(5):
            inside = folds == fold
            scaler, model = logistic(both[~inside], labels[~inside])
            areas.append(roc_auc_score(labels[inside], model.decision_function(scaler.transform(both[inside]))))
        case["auc"] = float(np.mean(areas))
        cases.append(case)

    shifts = []
    for name, confusion, live in [
        ("two classes", [90, 10, 10, 90], [400, 600]),
        ("three classes", [800, 60, 20, 70, 400, 50, 30, 40, 230], [300, 500, 900]),
        ("unlike classes", [9000, 30, 100, 70], [950, 150]),
    ]:
        k = len(live)
        joint = np.array(confusion).reshape(k, k) / sum(confusion)
        w = np.linalg.solve(joint, np.array(live) / sum(live))
        shifts.append({"case": name, "confusion": confusion, "live": live, "weights": w.tolist(),
                       "shares": (w * joint.sum(0)).tolist()})
    made = {"versions": VERSIONS, "cases": cases, "shifts": shifts}
    text = json.dumps(made, separators=(",", ":")).replace('{"case"', '\n{"case"')
    (HERE / "multivariate.json").write_text(text + "\n")
    print({key: len(value) for key, value in made.items()})


if __name__ == "__main__":
    main()
