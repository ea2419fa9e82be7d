"""Fits the constants of src/cost/gpu_kernels.cc to what sweep.py measured, and prints them as the table there.

python3 bench/gpu/fit_prices.py sweep.json [--seeds 20260623,1] [--rounds 150]
Least squares of log times first, then random steps that lower the regret of the choice (the chosen time over the best
measured one) with a little of the error. The formula is gpu_price_us. Needs NumPy and SciPy, no GPU.
"""
import argparse
import collections
import json
import math

import numpy as np
from scipy.optimize import least_squares

import step_cases

SMS = 132                  # of the machine that was measured
BINS, MAX_WAVES, TILE = 32, 64, 64  # as in gpu_kernels.cc and gpu_rule.cc
# Blocks an SM by class (head dimension, group) and width; 0: no kernel. tests/unit/exec_cuda compares them.
BLOCKS = {(64, 8): (1, 2, 5, 12), (64, 16): (1, 2, 0, 10), (64, 32): (1, 2, 0, 0), (128, 8): (1, 2, 4, 8),
          (128, 16): (1, 2, 0, 0), (128, 32): (1, 2, 0, 0), (256, 8): (1, 2, 0, 6), (256, 16): (1, 2, 0, 0),
          (256, 32): (1, 0, 0, 0)}
TOKEN_NS = {64: 3.0, 128: 4.0, 256: 9.0}  # where the fit begins


def class_of(step):
    return (next(d for d in (64, 128, 256) if step.d <= d), next(g for g in (8, 16, 32) if step.group <= g))


class Sizes:
    """The tasks of a step cut by a chunk, as gpu_rule cuts it."""

    def __init__(self, step, chunk):
        lens = np.array(step.lens)
        tiles = -(-lens // TILE)
        chunk_tiles = max(1, -(-int(tiles.max()) // -(-int(lens.max()) // chunk)))
        splits = -(-tiles // chunk_tiles)
        size = np.ceil(lens / splits)
        self.longest = min(int(lens.max()), chunk_tiles * TILE)
        bins = (np.minimum(size, self.longest) * BINS // (self.longest + 1)).astype(int)
        count = splits * step.hkv
        self.counts = np.bincount(bins, weights=count, minlength=BINS)[::-1]
        self.sums = np.bincount(bins, weights=count * size, minlength=BINS)[::-1]
        self.slots = float((splits[splits > 1]).sum() * step.hkv)


Measured = collections.namedtuple("Measured", "name width sizes step us")


class Prices:
    """Constants of one class, from a vector of logarithms."""

    def __init__(self, x, blocks):
        widths = [w for w, b in enumerate(blocks) if b]
        n, v = len(widths), np.exp(x)
        self.blocks = blocks
        self.width = {w: (v[i], v[n + i], v[2 * n + i]) for i, w in enumerate(widths)}
        self.start, self.merge, self.merge_mb, self.read = v[3 * n:3 * n + 4]

    def us(self, m):
        task, token, uneven = self.width[m.width]
        s, servers = m.sizes, SMS * self.blocks[m.width]
        tasks, tokens = s.counts.sum(), s.sums.sum()
        busy = max((tasks * task + tokens * token * 1e-3) / servers, task + token * 1e-3 * s.longest)
        above, wave, last = 0, 1, min(MAX_WAVES, int((tasks - 1) // servers))
        for count, total in zip(s.counts, s.sums):
            if count > 0:
                above += count
                while wave <= last and wave * servers < above:
                    busy = max(busy, (wave + 1) * (task + token * 1e-3 * total / count))
                    wave += 1
        full = min(1.0, servers / tasks)
        read = tokens * m.step.d * 4 / (self.read * 1e6) * (1 + uneven * full * s.longest * tasks / max(tokens, 1))
        merge = self.merge + self.merge_mb * s.slots * m.step.group * m.step.d * 4e-6 if s.slots else 0.0
        return self.start + math.hypot(read, busy) + merge

    def line(self, cls):
        widths = ["{}"] * 4
        for w, (task, token, uneven) in self.width.items():
            widths[w] = f"{{{self.blocks[w]}, {task:.2f}, {token:.2f}, {uneven:.3f}}}"
        return (f"    {{{cls[0]}, {cls[1]}, {self.start:.2f}, {self.merge:.2f}, {self.merge_mb:.2f}, "
                f"{{{{{', '.join(widths)}}}}}}},")


def load(path, seeds):
    steps = {f"S{seed} {step.name}": step for seed in seeds for step in step_cases.random_steps(200, seed)}
    steps.update({step.name: step for step in step_cases.standard_steps()})
    measured = collections.defaultdict(list)
    with open(path) as file:
        for row in json.load(file):
            step, sizes = steps[row["name"]], {}
            for key, us in row["res"].items():
                if key == "read_seq" or key.startswith("0|"):
                    continue
                width, chunk = (int(word) for word in key.split("|"))
                if BLOCKS[class_of(step)][width - 1]:
                    sizes.setdefault(chunk, Sizes(step, chunk))
                    measured[class_of(step)].append(Measured(row["name"], width - 1, sizes[chunk], step, us))
    return measured


def regret_and_error(prices, measured):
    by_step = collections.defaultdict(list)
    for m in measured:
        by_step[m.name].append((prices.us(m), m.us))
    regrets = [min(pairs)[1] / min(us for _, us in pairs) - 1 for pairs in by_step.values()]
    errors = [abs(math.log(price / us)) for pairs in by_step.values() for price, us in pairs]
    return regrets, errors


def fit(cls, measured, rounds):
    blocks = BLOCKS[cls]
    widths = [b for b in blocks if b]
    n, k = len(widths), 3 * len(widths)
    token = TOKEN_NS[cls[0]] * cls[1] / 8
    x = np.log(np.array([3.5] * n + [token * b for b in widths] + [0.06] * n + [2.0, 0.8, 0.4, 3.12]))
    low, high = x - 2.5, x + 2.5
    low[2 * n:k], high[2 * n:k] = math.log(0.002), math.log(0.35)
    low[k:], high[k:] = np.log([1.0, 0.5, 0.02, 2.95]), np.log([4.0, 1.8, 5.0, 3.16])
    best = {}
    for m in measured:
        best[m.name] = min(best.get(m.name, math.inf), m.us)
    near = np.array([1.0 if m.us < 1.15 * best[m.name] else 0.35 if m.us < 1.6 * best[m.name] else 0.1 for m in measured])

    def residuals(y):
        prices = Prices(y, blocks)
        return near * np.array([math.log(prices.us(m) / m.us) for m in measured])

    def badness(y):
        regrets, errors = regret_and_error(Prices(y, blocks), measured)
        return np.mean(regrets) + 0.1 * np.mean(errors)

    x = least_squares(residuals, x, bounds=(low, high), loss="soft_l1", f_scale=0.05, max_nfev=15).x
    least, random = badness(x), np.random.default_rng(0)
    for _ in range(rounds):
        y = np.clip(x + random.normal(size=x.size) * 0.1 * (random.random(x.size) < 0.4), low, high)
        found = badness(y)
        if found < least:
            x, least = y, found
    return Prices(x, blocks)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("sweep")
    parser.add_argument("--seeds", default="20260623,1", help="of the sweep")
    parser.add_argument("--rounds", type=int, default=150)
    args = parser.parse_args()
    for cls, measured in sorted(load(args.sweep, [int(word) for word in args.seeds.split(",")]).items()):
        prices = fit(cls, measured, args.rounds)
        regrets, errors = regret_and_error(prices, measured)
        print(f"// {len(regrets)} steps: regret {np.mean(regrets):.3f}, at most {max(regrets):.3f}; error "
              f"{np.median(errors):.3f}; {prices.read:.2f} TB/s")
        print(prices.line(cls), flush=True)


if __name__ == "__main__":
    main()
