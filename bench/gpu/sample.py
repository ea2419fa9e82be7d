"""A seeded sample of random steps: ratio to the best peer, share of the read limit, errors.

python3 bench/gpu/sample.py --warm         builds FlashInfer's run-time modules that the sample needs, side by side
python3 bench/gpu/sample.py [--cases 200]  measures
Not here: how a step is drawn (step_cases.py) or timed (harness.py).
"""
import argparse
import os
import signal
import subprocess
import sys
import time

import step_cases
import supervise

LARGE_MIB = 128  # above it the share of the limit says something of the kernel, not of its start
TYPES, ENGINES = ("f16", "bf16"), ("fi_core", "fi_tensor", "fi_persistent")
COMPILERS = min(64, 2 * (os.cpu_count() or 16))  # at once, over all modules; a few GiB of memory each

BUILD = """
import sys, torch
sys.path.insert(0, {here!r})
import harness, step_cases
step = step_cases.Step("warm", (64,) * 2, 8, 2, {d}, 16, 0, {dtype!r})
harness.POOL_BYTES = 64 << 20
harness.WORKSPACE_BYTES = 128 << 20
harness.FlashInfer.require_module = staticmethod(lambda engine, step: None)
bench = harness.Bench()
case = bench.case(step)
engine = bench.make({engine!r}, case)
out = engine.run(case.q, *case.kv[0])
torch.cuda.synchronize()
print("error", bench.error(case, out, bench.reference(case)))
"""


def warm(args):
    """One process a module; a module that is there already costs a load."""
    here = os.path.dirname(os.path.abspath(__file__))
    wanted = [w.split(":") for w in args.modules.split(",")] if args.modules else [
        (dtype, str(d)) for dtype in TYPES for d in step_cases.HEAD_DIMS]
    jobs = [(engine, dtype, int(d)) for dtype, d in wanted for engine in args.engines.split(",")]
    environment = {**os.environ, "MAX_JOBS": str(max(1, COMPILERS // len(jobs)))}
    begun, running = time.time(), {}
    for engine, dtype, d in jobs:
        code = BUILD.format(here=here, d=d, dtype=dtype, engine=engine)
        running[f"{engine} {dtype} d{d}"] = subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env=environment, start_new_session=True)
    failed = 0
    for name, process in running.items():
        try:
            text = process.communicate(timeout=max(1, begun + args.seconds - 5 - time.time()))[0]
            words = text.strip().split("\n")[-1][-200:]
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # with its compilers
            process.communicate()
            words = "out of time"
        failed += process.returncode != 0
        print(f"{name:24s} {'built' if process.returncode == 0 else 'FAILED'} by {time.time() - begun:.0f} s  {words}",
              flush=True)
    print(f"{len(running) - failed} of {len(running)} modules", flush=True)
    return 1 if failed == len(running) else 0


def finish(rows, facts):
    measured = [row for row in rows if "pkv" in row]
    ratios = sorted((row["ratio"], row["case"]) for row in measured if "ratio" in row)
    shares = sorted((row["share"], row["case"]) for row in measured if "share" in row)
    large = sorted((row["share"], row["case"]) for row in measured if "share" in row and row["MiB"] > LARGE_MIB)
    summary = {
        "pkv_measured": len(measured),
        "with_peer": len(ratios),
        "worst_ratio": ratios[0] if ratios else None,
        "median_ratio": ratios[len(ratios) // 2][0] if ratios else None,
        "below_1": sum(ratio < 1 for ratio, _ in ratios),
        "below_0.97": sum(ratio < 0.97 for ratio, _ in ratios),
        "worst_share": shares[0] if shares else None,
        "large": len(large),
        "worst_share_large": large[0] if large else None,
        "pkv_failed": [row["case"] for row in rows if "pkv_fail" in row or "fail" in row],
        "pkv_wrong": [row["case"] for row in rows if row.get("pkv_wrong")],
        "peer_wrong": [f"{row['case']}: {n}" for row in rows for n in ENGINES if row.get(n + "_wrong")],
        "peer_failed": {n: sum(n + "_fail" in row for row in rows) for n in ENGINES},
    }
    print("\nslowest beside a peer:")
    by_name = {row["case"]: row for row in rows}
    for ratio, name in ratios[:12]:
        row = by_name[name]
        print(f"  {ratio:.3f} {name:26s} {row['hq']}/{row['hkv']} d{row['d']} {row['dtype']} {row['layout']} page "
              f"{row['page']} {row['MiB']:.0f} MiB: {row['pkv']:.1f} us, {row['peer']} {row['peer_us']:.1f}; "
              f"{row.get('pkv_is', '')}")
    print(f"furthest from the limit above {LARGE_MIB} MiB:")
    for share, name in large[:8]:
        row = by_name[name]
        print(f"  {share:.3f} {name:26s} {row['hq']}/{row['hkv']} d{row['d']} {row['dtype']} {row['layout']} page "
              f"{row['page']} {row['MiB']:.0f} MiB; {row.get('pkv_is', '')}")
    for key, value in summary.items():
        print(f"  {key}: {value}")
    sys.stdout.flush()
    return summary


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    supervise.add_arguments(parser, 400, "sample.json")
    parser.add_argument("--cases", type=int, default=200)
    parser.add_argument("--seed", type=int, default=20260623)
    parser.add_argument("--first", type=int, default=0, help="passes over the first cases of the sample")
    parser.add_argument("--no-peers", action="store_true", help="ours and the limit only")
    parser.add_argument("--warm", action="store_true", help="build run-time modules and end")
    parser.add_argument("--modules", default="", help="of --warm: f16:64,bf16:128; all six when empty")
    parser.add_argument("--engines", default=",".join(ENGINES), help="of --warm, and the peers of the sample")
    args = parser.parse_args()
    if args.warm:
        return warm(args)
    steps = step_cases.random_steps(args.first + args.cases, args.seed)[args.first:]
    steps = supervise.selected(args, steps, lambda step: step.name)

    def open_bench(arguments):
        import harness
        peers = () if args.no_peers else tuple(args.engines.split(","))

        def measure(bench, step, progress):
            row = bench.standard(step, progress, ("pkv",) + peers + ("read_seq",))
            print(f"{step.shape():30s} " + harness.standard_line(row), flush=True)
            return row

        return harness.opener(measure, bool(peers), " " * 31 + harness.HEADER)(arguments)

    return supervise.run(args, steps, lambda step: step.name, open_bench, finish)


if __name__ == "__main__":
    sys.exit(main())
