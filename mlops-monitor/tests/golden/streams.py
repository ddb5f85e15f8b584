"""Numbers that this script's neighbours and the Rust tests both generate, so that only results are stored."""

MASK = (1 << 64) - 1


class SplitMix:
    """SplitMix64 (Steele, Lea, Flood 2014); `tests/it/golden.rs` has the same."""

    def __init__(self, seed):
        self.state = seed

    def uniform(self):
        self.state = (self.state + 0x9E3779B97F4A7C15) & MASK
        z = self.state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        return ((z ^ (z >> 31)) >> 11) * 2.0**-53


def sample(seed, n, shift=0.0, scale=1.0, levels=0):
    """Uniform values, `levels` > 0 rounds them down to that many values before scale and shift."""
    rng = SplitMix(seed)
    out = []
    for _ in range(n):
        u = rng.uniform()
        if levels > 0:
            u = int(u * levels) / levels
        out.append(shift + scale * u)
    return out


def stream(seed, kind, segments):
    """Segments of [rows, level]: 0/1 with that rate, or a value spread by ±0.25 around the level."""
    rng = SplitMix(seed)
    out = []
    for rows, level in segments:
        for _ in range(rows):
            u = rng.uniform()
            if kind == "bernoulli":
                out.append(1.0 if u < level else 0.0)
            else:
                out.append(level + 0.5 * (u - 0.5))
    return out
