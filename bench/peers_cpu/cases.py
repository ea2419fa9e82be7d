"""The steps that are compared: the lines of the issue by name, and random ones. Plain data.

Not here: tensors (store.py), timing (peers_cpu.py).
"""
import dataclasses
import os
import random
import sys

sys.path.append(os.path.join(os.path.dirname(os.path.abspath(__file__)), os.pardir, "gpu"))
import step_cases  # noqa: E402  the paper's lengths

MIB = 2 ** 20
ELEMENT_BYTES = {"f16": 2, "bf16": 2, "f32": 4}
DTYPES = tuple(ELEMENT_BYTES)


@dataclasses.dataclass(frozen=True)
class Case:
    """One decode step. page and nhd are our cache's; peers have their own layouts of the same values."""
    name: str
    lens: tuple
    hq: int = 32
    hkv: int = 8
    d: int = 128
    page: int = 16
    nhd: bool = False
    dtype: str = "f16"

    @property
    def group(self):
        return self.hq // self.hkv

    @property
    def kv_bytes(self):
        return 2 * sum(self.lens) * self.hkv * self.d * ELEMENT_BYTES[self.dtype]

    def facts(self):
        return {"name": self.name, "rows": len(self.lens), "tokens": sum(self.lens), "longest": max(self.lens),
                "lens": list(self.lens) if len(self.lens) <= 16 else None, "kv_mib": round(self.kv_bytes / MIB, 2),
                "q_heads": self.hq, "kv_heads": self.hkv, "group": self.group, "d": self.d, "page": self.page,
                "layout": "NHD" if self.nhd else "HND", "dtype": self.dtype}


def named():
    b1 = {f"B1 {k}K": (k * 1024,) for k in (1, 8, 32, 64)}
    cases = [Case("B1 256", (256,))] + [Case(name, lens) for name, lens in b1.items()]
    cases += [Case("B8 x 8K", (8192,) * 8), Case("B64 x 512", (512,) * 64)]
    cases += [Case(f"B8 {family}", step_cases.paper_lens(family)) for family in ("bimodal", "uniform", "zipf")]
    long = b1["B1 32K"]
    cases += [Case("B1 32K NHD", long, nhd=True), Case("B8 x 8K NHD", (8192,) * 8, nhd=True)]
    cases += [Case(f"B1 32K page {page}", long, page=page) for page in (4, 32, 64, 128, 256)]
    cases += [Case("B1 32K page 1 NHD", long, page=1, nhd=True)]
    cases += [Case(f"B1 32K G{g}", long, hq=8 * g) for g in (1, 2, 8, 16)]
    cases += [Case("B1 32K bf16", long, dtype="bf16"), Case("B8 x 8K bf16", (8192,) * 8, dtype="bf16"),
              Case("B1 32K bf16 page 128", long, dtype="bf16", page=128),
              Case("B1 32K bf16 G8", long, hq=64, dtype="bf16"),
              Case("B1 32K f32", long, dtype="f32"), Case("B8 x 8K f32", (8192,) * 8, dtype="f32"),
              Case("B1 32K f32 G8", long, hq=64, dtype="f32")]
    return cases


LIMITS_MIB = (4, 128)
MAX_Q_HEADS = 128


def random_case(r, number):
    """Group sizes, head dimensions and block sizes that most peers have, so that a case is a comparison."""
    while True:
        group, hkv = r.choice((1, 2, 3, 4, 5, 6, 7, 8, 16)), r.choice((1, 2, 3, 4, 8, 16, 32))
        d, dtype = r.choice((64, 80, 96, 128, 192, 256)), r.choice(DTYPES)
        page, nhd = r.choice((1, 4, 16, 16, 16, 32, 64, 128, 256)), r.random() < 0.4
        rows = r.choice((1, 1, 2, 3, 4, 8, 16, 32))
        kind = r.choice(("equal", "uniform", "lognormal", "one long"))
        parts = {"equal": lambda: [1.0] * rows,
                 "uniform": lambda: [r.uniform(0.1, 1.0) for _ in range(rows)],
                 "lognormal": lambda: [r.lognormvariate(0.0, 1.0) for _ in range(rows)],
                 "one long": lambda: [float(r.choice((8, 32)))] + [1.0] * (rows - 1)}[kind]()
        mib = 2 ** r.uniform(2, 7)
        tokens = mib * MIB / (2 * hkv * d * ELEMENT_BYTES[dtype])
        lens = tuple(max(1, round(tokens * part / sum(parts))) for part in parts)
        case = Case(f"#{number} B{rows} {kind} G{group} Hkv{hkv} d{d} {dtype} {'NHD' if nhd else 'HND'} page {page}",
                    lens, group * hkv, hkv, d, page, nhd, dtype)
        held = sum(-(-length // page) * page for length in lens)
        in_limits = LIMITS_MIB[0] <= case.kv_bytes / MIB <= LIMITS_MIB[1]
        if case.hq <= MAX_Q_HEADS and in_limits and max(lens) <= 131072 and held <= 2 * sum(lens):
            return case


def sample(count, seed):
    r = random.Random(seed)
    return [random_case(r, i) for i in range(count)]


def select(pattern):
    """The named cases whose names contain one of the |-separated words, or all. Errors: ValueError."""
    cases = named()
    if not pattern:
        return cases
    words = pattern.split("|")
    chosen = [case for case in cases if any(word == case.name for word in words)]
    chosen = chosen or [case for case in cases if any(word in case.name for word in words)]
    if not chosen:
        raise ValueError(f"--cases '{pattern}' names no case; there are: {', '.join(case.name for case in cases)}")
    return chosen
