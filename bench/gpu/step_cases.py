"""Decode steps to measure: the paper's, isolated lengths, random ones. Plain data, no GPU.

Not here: tensors, timing (harness.py).
"""
import dataclasses
import random

MIB = 2.0 ** 20
CALIBRATION_SEED = 20260622  # of the paper's traces; later ones are held out


@dataclasses.dataclass(frozen=True)
class Step:
    """One decode step. K,V have 2 bytes an element; `holes` is the share of physical pages that hold nothing."""
    name: str
    lens: tuple
    hq: int = 32
    hkv: int = 8
    d: int = 128
    page: int = 16
    nhd: int = 0
    dtype: str = "f16"
    holes: float = 0.5
    seed: int = 1

    @property
    def bytes(self):
        return sum(self.lens) * self.hkv * self.d * 4

    @property
    def group(self):
        return self.hq // self.hkv

    def shape(self):
        return f"{self.hq}/{self.hkv} d{self.d} {self.dtype} {'NHD' if self.nhd else 'HND'} page {self.page}"

    def facts(self):
        """What a JSON row says of the step; not all lengths."""
        return {"case": self.name, "rows": len(self.lens), "tokens": sum(self.lens), "longest": max(self.lens),
                "MiB": round(self.bytes / MIB, 3), "hq": self.hq, "hkv": self.hkv, "group": self.group, "d": self.d,
                "page": self.page, "layout": "NHD" if self.nhd else "HND", "dtype": self.dtype, "holes": self.holes}

    def but(self, **fields):
        return dataclasses.replace(self, **fields)


class Mt19937:
    """std::mt19937(seed), word for word: Python's generator with the seeding of the C++ standard."""

    def __init__(self, seed):
        state = [seed & 0xFFFFFFFF]
        for i in range(1, 624):
            state.append((1812433253 * (state[-1] ^ (state[-1] >> 30)) + i) & 0xFFFFFFFF)
        self.words = random.Random()
        self.words.setstate((3, tuple(state) + (624,), None))

    def draw(self, low, high):
        return low + self.words.getrandbits(32) % (high - low)


def requests(family, seed, count):
    """The paper's requests: (prompt rounded up to 16, tokens to decode)."""
    r, out = Mt19937(seed), []
    for i in range(count):
        if family == "uniform":
            prompt, decode = r.draw(4096, 32769), r.draw(16, 97)
        elif family == "bimodal":
            if i % 4 == 0:
                prompt, decode = r.draw(24576, 65537), r.draw(32, 129)
            else:
                prompt, decode = r.draw(2048, 12289), r.draw(8, 65)
        elif family == "zipf":
            rank = r.draw(1, 33)
            prompt = max(1024, int(2048 + 65536 / rank ** 0.5) + r.draw(-512, 513))
            decode = r.draw(8, 129)
        elif family == "bucketed":
            prompt, decode = (8192, 16384, 32768, 65536)[i % 4], r.draw(32, 97)
        else:
            prompt, decode = 32768, r.draw(32, 97)
        out.append(((prompt + 15) // 16 * 16, decode))
    return out


def paper_lens(family, max_active=8, step=8, seed=20260623, count=24):
    rows = []
    for i, (prompt, decode) in enumerate(requests(family, seed, count)):
        generated = step - i // max_active
        if 0 <= generated < decode:
            rows.append(prompt + generated)
    return tuple(rows[:max_active])


def lognormal_lens(rows, seed=7):
    """Lengths of about 1,200 tokens, many short and few long."""
    r = random.Random(seed)
    return tuple(int(min(16384, max(16, r.lognormvariate(6.6, 1.0)))) for _ in range(rows))


def paper_steps():
    steps = [Step(f"B8 {family}", paper_lens(family)) for family in ("bimodal", "uniform", "zipf")]
    return steps + [Step("B4 bimodal", paper_lens("bimodal", max_active=4))]


def calibration_steps():
    """The paper's families by the seed that is for fitting, as their rows come and go."""
    families = ("bimodal", "uniform", "zipf")
    rows = [(family, active, step, 8) for family in families for active in (4, 8) for step in (4, 16, 40)]
    rows += [(family, active, 16, 8) for family in families for active in (2, 16)]
    rows += [(family, 8, 16, 4) for family in families]
    return [Step(f"{family} of {active} after {step} G{32 // hkv}", paper_lens(family, active, step, CALIBRATION_SEED, 48),
                 hkv=hkv) for family, active, step, hkv in rows]


def isolated(*thousands):
    return [Step(f"B1 {k}K", (k * 1024,)) for k in thousands]


def standard_steps():
    """The steps of ../shared/design/gpu_facts.md; lognormal lengths are drawn by another generator."""
    steps = paper_steps() + [Step("B8 homogeneous 32K", (32768,) * 8)] + isolated(1, 4, 8, 16, 32, 64, 128)
    steps += [Step("B2 64K + 1K", (65536, 1024)), Step("B16 64K + 15 x 1K", (65536,) + (1024,) * 15),
              Step("B32 x 2K", (2048,) * 32), Step("B64 lognormal", lognormal_lens(64)),
              Step("B128 x 512", (512,) * 128), Step("B256 lognormal", lognormal_lens(256))]
    steps += [Step(f"B8 x 8K G{hq // hkv} ({hq}/{hkv})", (8192,) * 8, hq, hkv)
              for hq, hkv in ((8, 8), (16, 8), (24, 8), (40, 8), (28, 4), (64, 8), (32, 2))]
    return steps + [Step(f"B1 32K G{hq // hkv} ({hq}/{hkv})", (32768,), hq, hkv)
                    for hq, hkv in ((8, 8), (64, 8), (32, 2), (32, 1))]


def grid_steps():
    """Small steps of equal rows, where launches and merges weigh most."""
    return [Step(f"B{rows} {k}K d{d} ({hkv * group}/{hkv})", (k * 1024,) * rows, hkv * group, hkv, d)
            for hkv, group in ((8, 4), (8, 1), (8, 8), (4, 8), (2, 16), (1, 32), (16, 2), (32, 1))
            for rows, k in ((1, 1), (1, 2), (1, 4), (1, 8), (1, 16), (1, 32), (2, 2), (2, 8), (4, 4))
            if rows * hkv <= 64 for d in HEAD_DIMS]


GROUPS = (1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 32)
PAGES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
HEAD_DIMS = (64, 128, 256)
MAX_LEN = 262144
MAX_WASTE = 4  # tokens that pages hold, by those in use: one short row in each large page is no cache of anybody's


def shares(r, kind, rows):
    """Relative lengths of the rows."""
    if kind == "lognormal":
        return [r.lognormvariate(0.0, 1.0) for _ in range(rows)]
    if kind == "uniform":
        return [r.uniform(0.05, 1.0) for _ in range(rows)]
    if kind == "equal":
        return [1.0] * rows
    return [float(r.choice((8, 32, 128)))] + [1.0] * (rows - 1)  # one long row


def random_step(r, number):
    while True:
        kind = r.choice(("lognormal", "uniform", "equal", "one-long"))
        rows = max(1, min(256, round(2 ** r.uniform(0, 8))))
        group, hkv, d = r.choice(GROUPS), r.choice((1, 2, 4, 8, 16, 32)), r.choice(HEAD_DIMS)
        page, nhd, dtype = r.choice(PAGES), r.randrange(2), r.choice(("f16", "bf16"))
        tokens = 2 ** r.uniform(1, 9) * MIB / (hkv * d * 4)
        parts = shares(r, kind, rows)
        lens = tuple(max(1, round(tokens * p / sum(parts))) for p in parts)
        step = Step(f"#{number} B{rows} {kind}", lens, group * hkv, hkv, d, page, nhd, dtype, seed=r.randrange(1 << 30))
        held = sum(-(-length // page) * page for length in lens)
        if (step.hq <= 128 and max(lens) <= MAX_LEN and held <= MAX_WASTE * sum(lens)
                and 2 <= step.bytes / MIB <= 512):
            return step


def random_steps(count, seed):
    r = random.Random(seed)
    return [random_step(r, i) for i in range(count)]


if __name__ == "__main__":
    for s in standard_steps() + random_steps(20, 1):
        print(f"{s.name:28s} {s.shape():36s} {s.bytes / MIB:7.1f} MiB", s.lens[:8])
