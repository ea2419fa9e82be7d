"""Fits the constants of src/cost/gpu_kernels.cc to what sweep.py measured, and prints them as the table there.

python3 bench/gpu/fit_prices.py sweep.json[@bytes a us]... [--seeds 20260623,1] [--rounds 1500] [--starts 6] [--standard-weight 10]
Least squares of log times first, then random steps that lower the regret of the choice (the chosen time over the best
measured one) with a little of the error, from several starts. The formula is gpu_price. Needs NumPy and SciPy, no GPU.
"""
import argparse
import collections
import json
import math
import re

import numpy as np
from scipy.optimize import least_squares

import step_cases

SMS = 132                  # of the machines that were measured
READ_BYTES_PER_US = 3.2e6  # of an H100; an H200 has 4.5e6
BINS, MAX_WAVES, TILE = 32, 64, 64  # as in gpu_kernels.cc and gpu_rule.cc
# Blocks an SM by class (head dimension, group) and width; 0: no kernel. tests/unit/exec_cuda compares them.
BLOCKS = {(64, 8): (1, 3, 4, 6), (64, 16): (2, 2, 3, 0), (64, 32): (1, 2, 3, 0), (128, 8): (1, 2, 3, 11),
          (128, 16): (1, 2, 3, 6), (128, 32): (1, 1, 2, 3), (256, 8): (1, 2, 3, 6), (256, 16): (1, 2, 3, 0),
          (256, 32): (1, 1, 0, 0)}
TOKEN_NS = {64: 3.0, 128: 4.0, 256: 9.0}  # where the fit begins
POWER = 2.5                               # of GpuPrice::decode_us
MOST_REGRET = 0.3                         # that one step can count for
LAST = 0.3                                # kLastShare of gpu_kernels.cc
LEAST_START = 0.3                         # kLeastStartUs
RANDOM_NAME = re.compile(r"S\d+ #|G ")    # of a step of a sample or of the grid, as sweep.py names them


def class_of(step):
    return (next(d for d in (64, 128, 256) if step.d <= d), next(g for g in (8, 16, 32) if step.group <= g))


class Sizes:
    """The tasks of a step in equal chunks ("4096") or equal counts a row ("q12"), as gpu_rule cuts it."""

    def __init__(self, step, cut):
        lens = np.array(step.lens)
        tiles = -(-lens // TILE)
        if cut.startswith("q"):
            splits = np.minimum(int(cut[1:]), tiles)
        else:
            chunk = min(int(cut), int(lens.max()))
            chunk_tiles = max(1, -(-int(tiles.max()) // -(-int(lens.max()) // chunk)))
            splits = -(-tiles // chunk_tiles)
        size = np.ceil(lens / splits)
        self.longest = int(size.max())
        bins = (np.minimum(size, self.longest) * BINS // (self.longest + 1)).astype(int)
        count = splits * step.hkv
        self.counts = np.bincount(bins, weights=count, minlength=BINS)[::-1]
        self.sums = np.bincount(bins, weights=count * size, minlength=BINS)[::-1]
        self.slots = float((splits[splits > 1]).sum() * step.hkv)

    def last(self):
        """Tokens of a task among those that hold the last kLast of all tokens, on average by tokens."""
        left = total = LAST * self.sums.sum()
        weighed = 0.0
        for count, tokens in zip(self.counts[::-1], self.sums[::-1]):
            if count > 0 and left > 0:
                weighed += min(left, tokens) * tokens / count
                left -= min(left, tokens)
        return weighed / max(total, 1e-9)

    def waves(self, blocks):
        """(k + 1, tokens of the task that begins it) of every wave k that is looked at."""
        found, above, wave = [], 0, 1
        last = min(MAX_WAVES, int((self.counts.sum() - 1) // blocks))
        for count, total in zip(self.counts, self.sums):
            above += count
            while count > 0 and wave <= last and wave * blocks < above:
                found.append((wave + 1, total / count))
                wave += 1
        return found


Measured = collections.namedtuple("Measured", "name width sizes step us read_rate")


class Table:
    """What was measured of one class, as arrays; a row is a step, a chunk and a width."""

    def __init__(self, cls, measured, standard_weight):
        self.blocks = BLOCKS[cls]
        self.widths = [w for w, b in enumerate(self.blocks) if b]
        self.width = np.array([self.widths.index(m.width) for m in measured])
        names = {name: i for i, name in enumerate(dict.fromkeys(m.name for m in measured))}
        self.step = np.array([names[m.name] for m in measured])
        weights = np.array([1.0 if RANDOM_NAME.match(name) else standard_weight for name in names])
        self.weights = weights / weights.sum()
        self.us = np.array([m.us for m in measured])
        self.servers = np.array([float(SMS * self.blocks[m.width]) for m in measured])
        self.tasks = np.array([m.sizes.counts.sum() for m in measured])
        self.is_wide = np.array([self.blocks[m.width] == 1 for m in measured])
        self.tokens = np.array([m.sizes.sums.sum() for m in measured])
        self.longest = np.array([float(m.sizes.longest) for m in measured])
        self.last = np.array([m.sizes.last() for m in measured])
        self.bytes = self.tokens * np.array([m.step.d * 4 for m in measured])
        self.read_us = self.bytes / np.array([m.read_rate for m in measured])
        self.merges = np.array([float(m.sizes.slots > 0) for m in measured])
        self.merge_mb = np.array([m.sizes.slots * m.step.group * m.step.d * 4e-6 for m in measured])
        self.wave = np.zeros((len(measured), MAX_WAVES))
        self.wave_tokens = np.zeros((len(measured), MAX_WAVES))
        for i, m in enumerate(measured):
            for k, (wave, tokens) in enumerate(m.sizes.waves(self.servers[i])):
                self.wave[i, k], self.wave_tokens[i, k] = wave, wave * tokens
        self.best = np.full(len(names), np.inf)
        np.minimum.at(self.best, self.step, self.us)
        share = self.us / self.best[self.step]
        self.near = np.where(share < 1.15, 1.0, np.where(share < 1.6, 0.35, 0.1))


class Prices:
    """Constants of one class, from a vector of logarithms."""

    def __init__(self, x, table):
        n, v = len(table.widths), np.exp(x)
        self.blocks, self.widths = table.blocks, table.widths
        self.task, self.token, self.uneven = v[:n], v[n:2 * n], v[2 * n:3 * n]
        (self.start, self.overlap, *self.rooms, self.merge, self.merge_mb, self.evening,
         self.sparing) = v[3 * n:]

    def us(self, t):
        task, token, uneven = self.task[t.width], self.token[t.width] * 1e-3, self.uneven[t.width]
        busy = np.maximum((t.tasks * task + t.tokens * token) / t.servers, task + token * t.longest)
        busy = np.maximum(busy, (t.wave * task[:, None] + t.wave_tokens * token[:, None]).max(1))
        full = np.minimum(1.0, t.servers / t.tasks) ** self.evening * np.minimum(1.0, t.tasks / t.servers) ** self.sparing
        whole, fading = (np.where(t.is_wide, self.rooms[i], self.rooms[i + 2]) for i in (0, 1))
        room = np.clip((whole + fading - t.tasks / t.servers) / fading, 0, 1)
        read = t.read_us * (1 + uneven * full * (1 - room) * t.last * t.tasks / np.maximum(t.tokens, 1))
        start = np.maximum(LEAST_START, self.start - self.overlap * room)
        return start + (read ** POWER + busy ** POWER) ** (1 / POWER) + self.merge * t.merges + self.merge_mb * t.merge_mb

    def line(self, cls):
        widths = ["{}"] * 4
        for i, w in enumerate(self.widths):
            widths[w] = f"{{{self.blocks[w]}, {self.task[i]:.2f}, {self.token[i]:.2f}, {self.uneven[i]:.3f}}}"
        return (f"    {{{cls[0]}, {cls[1]}, {self.start:.2f}, {self.overlap:.2f}, "
                f"{{{self.rooms[0]:.2f}, {self.rooms[1]:.2f}}}, {{{self.rooms[2]:.2f}, {self.rooms[3]:.2f}}}, "
                f"{self.merge:.2f}, {self.merge_mb:.2f}, {self.evening:.2f}, {self.sparing:.2f}, {{{{{', '.join(widths)}}}}}}},")


def load(paths, seeds):
    steps = {f"S{seed} {step.name}": step for seed in seeds for step in step_cases.random_steps(200, seed)}
    steps.update({f"G {step.name}": step for step in step_cases.grid_steps()})
    steps.update({f"P {step.name}": step for step in step_cases.calibration_steps()})
    steps.update({step.name: step for step in step_cases.standard_steps()})
    measured = collections.defaultdict(list)
    for path in paths:
        path, _, rate = path.partition("@")
        with open(path) as file:
            rows = json.load(file)
        for row in rows:
            step, sizes = steps[row["name"]], {}
            for key, us in row["res"].items():
                if key == "read_seq" or key.startswith("0|"):
                    continue
                width, cut = key.split("|")
                if BLOCKS[class_of(step)][int(width) - 1]:
                    sizes.setdefault(cut, Sizes(step, cut))
                    measured[class_of(step)].append(Measured(f"{row['name']} {path}", int(width) - 1, sizes[cut], step, us,
                                                            float(rate or READ_BYTES_PER_US)))
    return measured


def regret_and_error(prices, table):
    """By step: the time of what is cheapest by price, over the best. By row: the error of the price."""
    us = prices.us(table)
    order = np.lexsort((us, table.step))
    chosen = order[np.unique(table.step[order], return_index=True)[1]]
    return table.us[chosen] / table.best - 1, np.abs(np.log(us / table.us))


def fit(cls, table, rounds, starts):
    n = len(table.widths)
    k = 3 * n
    token = TOKEN_NS[cls[0]] * cls[1] / 8
    x = np.log(np.array([3.5] * n + [token * table.blocks[w] for w in table.widths] + [0.06] * n
                        + [3.0, 1.9, 0.3, 0.5, 0.5, 0.3, 0.3, 0.8, 0.7, 1.5]))
    low, high = x - 2.5, x + 2.5
    low[2 * n:k], high[2 * n:k] = math.log(0.002), math.log(0.6)
    # Evening above 1: dearer with more SMs.
    low[k:] = np.log([0.8, 0.05, 0.03, 0.02, 0.2, 0.02, 0.05, 0.02, 0.05, 0.02])
    high[k:] = np.log([6.0, 3.5, 0.6, 1.2, 0.9, 1.0, 1.9, 5.0, 1.0, 4.0])
    x = least_squares(lambda y: table.near * np.log(Prices(y, table).us(table) / table.us), x, bounds=(low, high),
                      loss="soft_l1", f_scale=0.05, max_nfev=30).x

    def badness(y):
        regrets, errors = regret_and_error(Prices(y, table), table)
        return (table.weights * np.minimum(regrets, MOST_REGRET)).sum() + 0.05 * np.average(errors, weights=table.near)

    ends = [descend(badness, x, low, high, rounds, seed) for seed in range(starts)]
    return Prices(np.array(min(ends)[1]), table)


def descend(badness, x, low, high, rounds, seed):
    """(badness, seed-dependent local minimum) by random steps that become smaller; all starts but the first are moved."""
    random = np.random.default_rng(seed)
    if seed > 0:
        x = np.clip(x + random.normal(size=x.size) * 0.15, low, high)
    least = badness(x)
    for i in range(rounds):
        width = 0.1 if i < rounds / 2 else 0.04
        y = np.clip(x + random.normal(size=x.size) * width * (random.random(x.size) < 0.35), low, high)
        found = badness(y)
        if found < least:
            x, least = y, found
    return least, tuple(x)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("sweeps", nargs="+")
    parser.add_argument("--seeds", default="20260623,1", help="of the sweeps")
    parser.add_argument("--rounds", type=int, default=1500)
    parser.add_argument("--starts", type=int, default=6, help="searches from different places; the best counts")
    parser.add_argument("--standard-weight", type=float, default=10.0, help="of a standard step beside a random one")
    parser.add_argument("--only", nargs="*", help="classes, as 128,8")
    args = parser.parse_args()
    for cls, measured in sorted(load(args.sweeps, [int(word) for word in args.seeds.split(",")]).items()):
        if args.only and f"{cls[0]},{cls[1]}" not in args.only:
            continue
        table = Table(cls, measured, args.standard_weight)
        prices = fit(cls, table, args.rounds, args.starts)
        regrets, errors = regret_and_error(prices, table)
        print(f"// {len(regrets)} steps: regret {np.mean(regrets):.4f}, 95% {np.quantile(regrets, 0.95):.3f}, at most "
              f"{max(regrets):.3f}; error {np.median(errors):.3f}, 90% {np.quantile(errors, 0.9):.3f}")
        print(prices.line(cls), flush=True)


if __name__ == "__main__":
    main()
