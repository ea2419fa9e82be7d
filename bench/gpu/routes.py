"""Which route wins where, what each design decision is worth, and how speed depends on splits, groups, layouts, holes.

python3 bench/gpu/routes.py                    all tables
python3 bench/gpu/routes.py --tables routes    one or several of: routes, splits, groups, layouts, holes, ablations
Not here: steps (step_cases.py), engines and timing (harness.py).
"""
import argparse
import sys

import step_cases
import supervise

ROUTES = {"row": 0, "padded": 1, "bucket": 2, "split": 3, "workqueue": 4, "pages": 5}
PAPER_SPLITS = (20, 24, 28, 32)
TILE_TOKENS = 32  # the paper's; the rule has its own
AFTER, DEPENDENT = 1, 2  # DecodeEntry
WIDE, NARROW = 1, 2      # 1 + KernelWidth: kWide, kMedium


def route(name, splits=0, **more):
    return {"route": ROUTES[name], "splits": splits, "tile_tokens": TILE_TOKENS, **more}


# Every engine of a table is "pkv" with overrides of pkv_peer.PeerCase, or a name of harness.ENGINES.
ROUTE_ENGINES = {"rule": {}, **{name: route(name) for name in ROUTES},
                 "bucket 32": route("bucket", 32), "padded 32": route("padded", 32),
                 **{f"workqueue {s}": route("workqueue", s) for s in PAPER_SPLITS},
                 "fi_core": None, "fi_tensor": None, "fi_persistent": None, "read_seq": None}
SPLIT_COUNTS = (1, 2, 4, 8, 16, 32, 64, 128)
SPLIT_ENGINES = {"rule": {}, **{f"split {s}": route("split", s) for s in SPLIT_COUNTS}, "read_seq": None}
PEER_ENGINES = {"rule": {}, "fi_core": None, "fi_tensor": None, "fi_persistent": None, "read_seq": None}
LAYOUT_ENGINES = {"rule": {}, "fi_core": None, "fi_tensor": None, "read_seq": None}
ABLATION_ENGINES = {"rule": {}, "eager": {}, "fused": {"fused": 1}, "entry after": {"entry": AFTER},
                    "entry dependent": {"entry": DEPENDENT}, "wide": {"width": WIDE}, "narrow": {"width": NARROW},
                    "read_seq": None}


def named(name):
    return next(step for step in step_cases.standard_steps() if step.name == name)


def tables():
    """{table: (engines, steps)}."""
    bucketed = [step_cases.Step(f"B1 bucketed at {s}", step_cases.paper_lens("bucketed", 1, s, count=16))
                for s in (8, 9)]
    b8 = step_cases.Step("B8 x 8K", (8192,) * 8)
    groups = [b8.but(name=f"G{g} ({g * hkv}/{hkv})", hq=g * hkv, hkv=hkv)
              for g, hkv in ((1, 8), (2, 8), (3, 8), (4, 8), (5, 8), (6, 8), (7, 8), (8, 8), (12, 4), (16, 2), (16, 4),
                             (32, 1), (32, 4))]
    groups += [b8.but(name=f"G{g} d{d} {dtype}", hq=g * 8, d=d, dtype=dtype)
               for d, dtype in ((64, "f16"), (128, "bf16"), (256, "f16")) for g in (1, 4, 8)]
    layouts = [b8.but(name=f"{'NHD' if nhd else 'HND'} page {page}", nhd=nhd, page=page)
               for nhd in (0, 1) for page in step_cases.PAGES]
    holes = [named("B8 bimodal").but(name=f"holes {share:.2f}", holes=share) for share in (0.0, 0.25, 0.5, 0.75, 0.9)]
    ablations = [named(n) for n in ("B1 1K", "B1 8K", "B1 32K", "B8 bimodal", "B64 lognormal", "B256 lognormal",
                                    "B8 x 8K G16 (32/2)")]
    return {
        "routes": (ROUTE_ENGINES, step_cases.paper_steps() + step_cases.isolated(8, 32, 64) + bucketed[:1]),
        "splits": (SPLIT_ENGINES, step_cases.isolated(1, 8, 32) + [named("B8 bimodal"), named("B64 lognormal")]),
        "groups": (PEER_ENGINES, groups),
        "layouts": (LAYOUT_ENGINES, layouts),
        "holes": (LAYOUT_ENGINES, holes),
        "ablations": (ABLATION_ENGINES, ablations),
    }


def items(chosen):
    return [(table, step) for table, (_, steps) in tables().items() if table in chosen for step in steps]


def builds_of(bench, case, engines):
    import harness
    builds = {}
    for label, overrides in engines.items():
        if overrides is None:
            builds[label] = lambda label=label: bench.make(label, case)
        else:
            def build(overrides=overrides):
                return bench.make("pkv", case, **overrides)
            builds[label] = (build, harness.Eager) if label == "eager" else build
    return builds


def measure(bench, item, progress):
    table, step = item
    engines = tables()[table][0]
    row = {"table": table, **step.facts()}
    case = bench.case(step)
    bench.compare(case, builds_of(bench, case, engines), row, progress)
    own = {label: row[label] for label, overrides in engines.items() if overrides is not None and label in row
           and label != "eager"}
    peers = {label: row[label] for label, overrides in engines.items() if label.startswith("fi_") and label in row}
    if own:
        row["best"] = min(own, key=own.get)
    if peers:
        row["peer"] = min(peers, key=peers.get)
        row["peer_us"] = peers[row["peer"]]
    if "rule" in row:
        row["ratio"] = round(row["peer_us"] / row["rule"], 4) if peers else None
        row["share"] = round(row["read_seq"] / row["rule"], 4) if "read_seq" in row else None
        row["rule_loss"] = round(row["rule"] / min(own.values()), 4)  # what a better choice would have gained
    print(f"{table:9s} {step.name:20s} {row['MiB']:7.1f} "
          + " ".join(f"{label}={row[label]:.1f}" if label in row else f"{label}=fail" for label in engines)
          + f" | best {row.get('best')} {row.get('rule_is', '')}"
          + "".join(f" WRONG:{label}" for label in engines if f"{label}_wrong" in row), flush=True)
    return row


def finish(rows, facts):
    summary = {"worst_rule_loss": max(((row["rule_loss"], row["case"]) for row in rows if "rule_loss" in row),
                                      default=None),
               "worst_ratio": min(((row["ratio"], row["case"]) for row in rows if row.get("ratio")), default=None),
               "failed": sorted({key[:-5] for row in rows for key in row if key.endswith("_fail")})}
    print("summary:", summary, flush=True)
    return summary


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    supervise.add_arguments(parser, 300, "routes.json")
    parser.add_argument("--tables", default=",".join(tables()), help="comma-separated; all by default")
    args = parser.parse_args()
    unknown = set(args.tables.split(",")) - set(tables())
    if unknown:
        parser.error(f"unknown tables {', '.join(sorted(unknown))}; there are {', '.join(tables())}")
    chosen = supervise.selected(args, items(args.tables.split(",")), lambda item: item[1].name)

    def open_bench(arguments):
        import harness
        return harness.opener(measure)(arguments)

    return supervise.run(args, chosen, lambda item: item[1].name, open_bench, finish)


if __name__ == "__main__":
    sys.exit(main())
