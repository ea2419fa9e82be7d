"""Every kernel width at several chunk lengths, on random and standard steps: what fit_prices.py fits gpu_rule's prices to.

python3 bench/gpu/sweep.py --seeds 20260623,1 --chunks 64,128,192,256,384,512,768,1024,1536,2048,3072,4096,8192
Ours and the read limit only. Not here: peers (sample.py), the fit (fit_prices.py).
"""
import argparse
import gc
import json
import os
import statistics
import time

import harness
import step_cases

WIDTHS = (1, 2, 3, 4)  # 1 + KernelWidth
WHOLE_ROWS = 1 << 20   # a chunk that cuts none
WORKQUEUE, TILE_TOKENS = 4, 64  # a Route; as gpu_rule cuts
LEAST_RAGGED = 1.2     # longest row by the shortest, below which equal counts are equal chunks
LEAST_COUNTED, MOST_COUNTED = 512, 4096  # tokens of the longest row's tasks in equal counts
MOST_TASKS = 1 << 15    # of cut rows
CALLS, ROUNDS = 8, 4   # of a graph; the first round warms up


def named_steps(seeds, with_standard):
    steps = [(f"S{seed} {step.name}", step) for seed in seeds for step in step_cases.random_steps(200, seed)]
    if not with_standard:
        return steps
    steps += [(f"G {step.name}", step) for step in step_cases.grid_steps()]
    steps += [(f"P {step.name}", step) for step in step_cases.calibration_steps()]
    return steps + [(step.name, step) for step in step_cases.standard_steps()]


def cuts(step, chunks):
    """{key: overrides of pkv_peer.PeerCase}: equal chunks ("C"), and equal counts of them a row ("qN") where rows are
    ragged. Plans that repeat another are left out, and many short tasks of long rows."""
    longest, found, last_splits = max(step.lens), {}, 0
    for chunk in sorted(chunks) + [WHOLE_ROWS]:
        splits = -(-longest // chunk)
        if splits == last_splits or (splits > 1 and sum(step.lens) * step.hkv > MOST_TASKS * chunk):
            continue
        last_splits = splits
        found[str(chunk)] = {"chunk_tokens": chunk}
        if splits > 1 and LEAST_COUNTED <= chunk <= MOST_COUNTED and longest > LEAST_RAGGED * min(step.lens):
            found[f"q{splits}"] = {"route": WORKQUEUE, "splits": splits, "tile_tokens": TILE_TOKENS}
    return found


def variants(bench, case, chunks):
    """{"width|key": graph} and the kernels' names; "0|0" is the rule's own choice."""
    graphs, kernels = {}, {}
    calls = max(case.layers, min(case.calls, CALLS)) // case.layers * case.layers
    for key, overrides in {"0": {}, **cuts(case.step, chunks)}.items():
        seen = set()
        for width in (0,) if key == "0" else WIDTHS:
            engine = bench.make("pkv", case, width=width, **overrides)
            engine.run(case.q, *case.kv[0])
            kernel = " ".join(engine.describe().split()[6:])
            if kernel in seen:  # no kernel of that width: the nearest ran
                continue
            seen.add(kernel)
            kernels[f"{width}|{key}"] = kernel
            graphs[f"{width}|{key}"] = harness.Graph(case, engine, calls=calls)
    graphs["read_seq"] = harness.Graph(case, bench.make("read_seq", case))
    return graphs, kernels


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", default="20260623,1")
    parser.add_argument("--chunks", default="64,128,192,256,384,512,768,1024,1536,2048,3072,4096,8192")
    parser.add_argument("--least-group", type=int, default=1, help="steps of smaller groups are left out")
    parser.add_argument("--no-standard", action="store_true", help="the random steps only")
    parser.add_argument("--part", default="0/1", help="I/N: every N-th step from the I-th, for several GPUs")
    parser.add_argument("--seconds", type=float, default=200.0)
    parser.add_argument("--json", default=os.path.join(os.environ.get("OUT", "/tmp"), "sweep.json"))
    args = parser.parse_args()
    chunks = [int(word) for word in args.chunks.split(",")]
    bench, rows, end = harness.Bench(use_peers=False), [], time.time() + args.seconds
    part, parts = (int(word) for word in args.part.split("/"))
    steps = [named for named in named_steps([int(word) for word in args.seeds.split(",")], not args.no_standard)
             if named[1].group >= args.least_group]
    for name, step in steps[part::parts]:
        if time.time() > end:
            print("out of time at", name)
            break
        graphs, kernels = variants(bench, bench.case(step), chunks)
        times = {key: [] for key in graphs}
        for i in range(ROUNDS):
            for key, graph in graphs.items():
                t = bench.time_once(graph)
                if i > 0:
                    times[key].append(t)
        result = {key: round(statistics.median(values), 2) for key, values in times.items()}
        graphs.clear()
        gc.collect()
        rows.append({"name": name, **step.facts(), "kernels": kernels, "res": result})
        best = min((value, key) for key, value in result.items() if key != "read_seq")
        print(f"{name:28s} limit {result['read_seq']} rule {result['0|0']} best {best[0]} {best[1]}", flush=True)
    with open(args.json, "w") as file:
        json.dump(rows, file)


if __name__ == "__main__":
    main()
