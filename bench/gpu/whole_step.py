"""The wall clock of a whole decode step: plan on the host, copy, 32 layers, synchronise; and planning alone.

Ours against FlashInfer's plan + 32 runs. Each FlashInfer path runs with its tables in host memory, as ours are, and
in device memory; the best of all counts. `eager` launches every layer from Python; `graph` replays 32 captured
layers after planning anew (FlashInfer's wrappers for graphs); `kernel` is the device time alone, by events.
Not here: steps (step_cases.py), engines (harness.py).
"""
import argparse
import statistics
import sys
import time

import step_cases
import supervise

LAYERS = 32
ROUNDS, WARMUPS = 21, 4
PLAN_ROUNDS = 60
FLASHINFER = [(name, where) for name in ("fi_core", "fi_tensor") for where in ("host", "device")]


def items():
    steps = [("step", step) for step in step_cases.isolated(8) + step_cases.paper_steps()[:3]]
    steps += [("step", step_cases.Step(f"B{n} lognormal", step_cases.lognormal_lens(n))) for n in (64, 256)]
    return steps + [("plan", step_cases.Step(f"plan {n} rows", step_cases.lognormal_lens(n))) for n in (8, 64, 256)]


def flashinfer_engine(bench, case, name, where, graph):
    if bench.flashinfer is None:
        raise RuntimeError("no FlashInfer")
    return bench.flashinfer.decode(case, name == "fi_tensor", host_tables=where == "host", graph=graph)


def engines_of(bench, case, row, progress, graph):
    """{label: Engine}. Without `graph` a path's two engines share a wrapper: each must plan before it runs."""
    builds = {"pkv": lambda: bench.make("pkv", case)}
    for name, where in FLASHINFER:
        builds[f"{name}_{where}"] = lambda name=name, where=where: flashinfer_engine(bench, case, name, where, graph)
    made = {}
    for label, build in builds.items():
        if not progress.allows(label):
            continue
        progress.at(label)
        try:
            made[label] = build()
            made[label].run(case.q, *case.kv[0])
            bench.torch.cuda.synchronize()
        except Exception as error:
            row[f"{label}_fail"] = supervise.failure(error)
            if not bench.is_healthy():
                raise
    return made


def eager_step(case, engine):
    run, q, kv, layers = engine.run, case.q, case.kv, case.layers
    engine.plan()
    for i in range(LAYERS):
        run(q, *kv[i % layers])


def wall_times(bench, steps, rounds=ROUNDS):
    """{label: (median, spread)} in microseconds of functions that enqueue, synchronised before and after."""
    synchronize = bench.torch.cuda.synchronize
    times = {label: [] for label in steps}
    for i in range(WARMUPS + rounds):
        for label, step in steps.items():
            bench.scrub.sum()
            synchronize()
            begun = time.perf_counter()
            step()
            synchronize()
            if i >= WARMUPS:
                times[label].append((time.perf_counter() - begun) * 1e6)
    return {label: (statistics.median(t), (max(t) - min(t)) / statistics.median(t)) for label, t in times.items()}


def plan_times(bench, engines, rounds=PLAN_ROUNDS):
    """{label: median microseconds} of plan() alone, as the host sees it; the GPU is idle before."""
    synchronize = bench.torch.cuda.synchronize
    times = {label: [] for label, engine in engines.items() if engine.plan}
    for i in range(WARMUPS + rounds):
        for label, measured in times.items():
            synchronize()
            begun = time.perf_counter()
            engines[label].plan()
            elapsed = (time.perf_counter() - begun) * 1e6
            if i >= WARMUPS:
                measured.append(elapsed)
    synchronize()
    return {label: statistics.median(t) for label, t in times.items()}


def best_peer(times):
    peers = {label: t for label, t in times.items() if label.startswith("fi_")}
    return min(peers, key=peers.get) if peers else None


def put(row, kind, times):
    """times into the row, with the best peer and its ratio to ours."""
    for label, t in times.items():
        row[f"{kind}_{label}_us"] = round(t, 2)
    peer = best_peer(times)
    if peer:
        row[f"{kind}_peer"], row[f"{kind}_peer_us"] = peer, round(times[peer], 2)
        if "pkv" in times:
            row[f"{kind}_ratio"] = round(times[peer] / times["pkv"], 4)


def put_walls(row, kind, measured):
    put(row, kind, {label: t for label, (t, _) in measured.items()})
    for label, (_, spread) in measured.items():
        row[f"{kind}_{label}_spread"] = round(spread, 4)


def measure_graphs(bench, case, row, progress):
    import harness
    engines = engines_of(bench, case, row, progress, graph=True)
    graphs = {}
    for label, engine in engines.items():
        progress.at(f"graph {label}")
        try:
            graphs[label] = harness.Graph(case, engine, LAYERS)
        except Exception as error:
            row[f"graph_{label}_fail"] = supervise.failure(error)
            if not bench.is_healthy():
                raise

    def step(label):
        def enqueue():
            engines[label].plan()  # the same lengths: into the same device memory that the graph reads
            graphs[label].enqueue()
        return enqueue

    put_walls(row, "graph", wall_times(bench, {label: step(label) for label in graphs}))


def measure_kernels(bench, case, row, progress):
    """Device time alone, with FlashInfer's wrappers for eager use: their grids fit the step."""
    names = ("pkv", "fi_core", "fi_tensor")
    found = bench.compare(case, {name: (lambda name=name: bench.make(name, case)) for name in names}, {}, progress)
    row.update({f"kernel_{key}": value for key, value in found.items() if key.endswith(("_err", "_wrong", "_fail", "_is"))})
    put(row, "kernel", {name: found[name] * LAYERS for name in names if name in found})


def measure_step(bench, step, progress):
    case = bench.case(step)
    row = {**step.facts(), "layers_of_step": LAYERS}
    engines = engines_of(bench, case, row, progress, graph=False)
    progress.at("eager")
    put_walls(row, "eager", wall_times(bench, {label: (lambda e=e: eager_step(case, e)) for label, e in engines.items()}))
    put(row, "plan", plan_times(bench, engines, 20))
    del engines
    measure_graphs(bench, case, row, progress)
    measure_kernels(bench, case, row, progress)
    print(f"{row['case']:18s} {row['MiB']:7.1f} "
          + " ".join(f"{kind}: {row.get(f'{kind}_pkv_us', float('nan')):8.0f} {row.get(f'{kind}_peer_us', float('nan')):8.0f}"
                     f" {row.get(f'{kind}_peer') or '-':>16s} {row.get(f'{kind}_ratio', float('nan')):5.2f} |"
                     for kind in ("eager", "graph", "kernel", "plan")), flush=True)
    return row


def measure_plan(bench, step, progress):
    case = bench.case(step)
    row = step.facts()
    engines = engines_of(bench, case, row, progress, graph=False)
    if progress.allows("fi_persistent"):
        progress.at("fi_persistent")
        try:
            engines["fi_persistent"] = bench.make("fi_persistent", case)
        except Exception as error:
            row["fi_persistent_fail"] = supervise.failure(error)
            if not bench.is_healthy():
                raise
    times = plan_times(bench, engines)
    put(row, "plan", times)
    print(f"{row['case']:18s} " + " ".join(f"{label} {t:.1f}" for label, t in times.items()), "us", flush=True)
    return row


def measure(bench, item, progress):
    kind, step = item
    return measure_step(bench, step, progress) if kind == "step" else measure_plan(bench, step, progress)


def finish(rows, facts):
    summary = {f"worst_{kind}_ratio": min((row[f"{kind}_ratio"] for row in rows if f"{kind}_ratio" in row), default=None)
               for kind in ("eager", "graph", "kernel", "plan")}
    print("summary:", summary, flush=True)
    return summary


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    supervise.add_arguments(parser, 150, "whole_step.json")
    args = parser.parse_args()
    chosen = supervise.selected(args, items(), lambda item: item[1].name)

    def open_bench(arguments):
        import harness
        return harness.opener(measure, True, f"{'case':18s} {'MiB':>7s} per kind: ours, best peer in us, which, ratio")(
            arguments)

    return supervise.run(args, chosen, lambda item: item[1].name, open_bench, finish)


if __name__ == "__main__":
    sys.exit(main())
