"""Decode attention on CPUs: ours, other projects' and the read probe, interleaved in one process. JSON.

    python3 bench/peers_cpu/peers_cpu.py                          sets up what is missing, then the named cases
    python3 bench/peers_cpu/peers_cpu.py --cases "B1 32K|bf16"    those whose names contain a word
    python3 bench/peers_cpu/peers_cpu.py --sample 100 --seed 1    random cases; exit code 1 if a peer is faster
Not here: engines (engines.py), tensors (store.py), tables (tables.py).
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import time

import cases as case_lists

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.normpath(os.path.join(HERE, os.pardir, os.pardir))
VERSION = 1
MIB = 2 ** 20
# Largest error against the oracle, as a share of the largest output: 16-bit kernels round outputs or sums.
ERROR_LIMITS = {"f32": 2e-3, "f16": 3e-2, "bf16": 5e-2}


def parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0],
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--cases", default="", help="|-separated names or words; all named cases when empty")
    parser.add_argument("--sample", type=int, default=0, help="this many random cases instead")
    parser.add_argument("--first", type=int, default=0, help="begin at this case of the sample")
    parser.add_argument("--seed", type=int, default=1, help="of the sample and of K, V and queries")
    parser.add_argument("--engines", default="", help="|-separated words of peers' names; all when empty")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=11, help="turns of every engine and the probe")
    parser.add_argument("--seconds", type=float, default=40.0, help="of timing a case, at least 3 rounds")
    parser.add_argument("--turn-ms", type=float, default=8.0, help="calls of a turn take at least this")
    parser.add_argument("--pool-mib", type=int, default=0, help="K and V that rotate; 0: five last-level caches")
    parser.add_argument("--memory-pages", choices=("huge", "4k"), default="huge", help="of every engine's K and V")
    parser.add_argument("--route", default="", help="of ours; the engine decides when empty")
    parser.add_argument("--isa", default="", help="of ours; the best when empty")
    parser.add_argument("--build", default=os.path.join(ROOT, "build", "peers_cpu"), help="folder for all that is made")
    parser.add_argument("--no-setup", action="store_true", help="use what --build has")
    parser.add_argument("--setup-only", action="store_true")
    parser.add_argument("--list", action="store_true", help="print the cases and stop")
    parser.add_argument("--out", default="-", help="JSON; cases of an earlier run in that file are kept")
    options = parser.parse_args(arguments)
    for name, least in (("sample", 0), ("first", 0), ("threads", 1), ("rounds", 3), ("pool_mib", 0)):
        if getattr(options, name) < least:
            parser.error(f"--{name.replace('_', '-')} {getattr(options, name)} is below {least}")
    if options.seconds <= 0 or options.turn_ms <= 0:
        parser.error("--seconds and --turn-ms must be above 0")
    if options.sample and options.cases:
        parser.error("--sample cannot be combined with --cases")
    return options


def chosen_cases(options):
    if options.sample:
        return case_lists.sample(options.first + options.sample, options.seed)[options.first:]
    return case_lists.select(options.cases)


def spread(values):
    """Median and quartiles; extremes, and how many values there were."""
    ordered = sorted(values)
    quartiles = statistics.quantiles(ordered, n=4, method="inclusive") if len(ordered) > 1 else [ordered[0]] * 3
    return {"median": quartiles[1], "p25": quartiles[0], "p75": quartiles[2], "min": ordered[0], "max": ordered[-1],
            "count": len(ordered)}


class Quiet:
    """Waits until every other thread of the process sleeps, so that no pool spins beside another's turn."""
    LIMIT_S = 2.0

    def __init__(self):
        self.longest_ms, self.failures = 0.0, 0

    @staticmethod
    def running():
        me, found = str(os.getpid()), []
        for task in os.listdir("/proc/self/task"):
            if task == me:
                continue
            try:
                with open(f"/proc/self/task/{task}/stat") as stat:
                    state = stat.read().rsplit(")", 1)[1].split()[0]
            except OSError:
                continue  # it ended
            if state not in "SI":
                found.append(task)
        return found

    def wait(self):
        begun, still = time.perf_counter(), 0
        while still < 2:  # twice: a thread may be between two naps
            still = 0 if self.running() else still + 1
            if time.perf_counter() - begun > self.LIMIT_S:
                self.failures += 1
                break
            if not still:
                time.sleep(0.0005)
        self.longest_ms = max(self.longest_ms, 1e3 * (time.perf_counter() - begun))


class Neighbours:
    """CPU time that other processes took since the last look, as a share of one CPU's."""
    LIMIT = 0.1

    def __init__(self):
        self.look()

    @staticmethod
    def busy_s():
        with open("/proc/stat") as stat:  # user nice system idle iowait irq softirq steal ...
            ticks = [int(word) for word in stat.readline().split()[1:9]]
        return (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")

    def look(self):
        self.wall, self.busy, self.own = time.perf_counter(), self.busy_s(), sum(os.times()[:2])

    def share(self):
        wall, busy, own = self.wall, self.busy, self.own
        self.look()
        return max(0.0, (self.busy - busy) - (self.own - own)) / max(self.wall - wall, 1e-3)


class Turns:
    """One engine's turns: each wakes it, runs half as often untimed, then `calls` times on sets that rotate.

    The untimed calls bring back what the wait took: cores from their sleep, threads to their cores.
    """

    def __init__(self, run, num_sets, wake=lambda: None, sleep=lambda: None):
        self.run, self.num_sets, self.wake, self.sleep = run, num_sets, wake, sleep
        self.calls, self.next_set, self.ns = 1, 0, []

    def advance(self):
        self.next_set = (self.next_set + 1) % self.num_sets
        return self.next_set

    def warm_up(self):
        for _ in range((self.calls + 1) // 2):
            self.run(self.advance())

    def take(self, quiet):
        """Nanoseconds a call."""
        quiet.wait()
        self.wake()
        try:
            self.warm_up()
            begun = time.perf_counter_ns()
            for _ in range(self.calls):
                self.run(self.advance())
            return (time.perf_counter_ns() - begun) / self.calls
        finally:
            self.sleep()

    def calibrate(self, quiet, turn_ms):
        best = min(self.take(quiet) for _ in range(2))
        self.calls = max(1, min(256, round(turn_ms * 1e6 / best)))
        return best


class ProbeTurns(Turns):
    """The probe keeps its own clock: making its list of pages is no part of the read."""

    def __init__(self, probe, num_sets):
        super().__init__(probe, num_sets)

    def take(self, quiet):
        quiet.wait()
        self.warm_up()
        results = [self.run(self.advance()) for _ in range(self.calls)]
        self.bytes = results[0][1]
        return sum(ns for ns, _ in results) / self.calls


def check(engine, expected, case):
    """The largest error as a share of the largest output; raises ValueError above the limit."""
    import numpy as np
    engine.wake()
    try:
        engine.run(0)
    finally:
        engine.sleep()
    out = engine.output()
    if not np.isfinite(out).all():
        raise ValueError("wrong: outputs that are not finite")
    error = float(np.abs(out - expected).max() / np.abs(expected).max())
    if error > ERROR_LIMITS[case.dtype]:
        raise ValueError(f"wrong: error {error:.1e} of the largest output, limit {ERROR_LIMITS[case.dtype]:.0e}")
    return error


class Measurement:
    """One case. Rounds in which other processes took CPU time are measured anew, so many times at most."""
    MOST_DISTURBED = 8

    def __init__(self, lib, engines, options, llc_bytes):
        self.lib, self.engines, self.options, self.llc_bytes = lib, engines, options, llc_bytes

    def run(self, case):
        from store import Store
        pool_bytes = self.options.pool_mib * MIB or 5 * self.llc_bytes
        store = Store(self.lib, case, pool_bytes, self.options.memory_pages == "huge", self.options.seed)
        self.row = {**case.facts(), "sets": store.num_sets, "engines": {}, "without": {}}
        self.quiet = Quiet()
        try:
            ready = self.prepare(case, store)
            self.time(case, store, ready)
            self.row["huge_share"] = {name: round(store.huge_share(name), 3) for name in store.memory}
        finally:
            for engine in self.engines:
                engine.close()
            store.release()
        self.row["quiet"] = {"longest_wait_ms": round(self.quiet.longest_ms, 2), "failures": self.quiet.failures}
        return self.row

    def prepare(self, case, store):
        """Engines that run the case and pass the check, ours first."""
        from engines import Unsupported
        ours, ready, expected = self.engines[0], [], None
        for engine in self.engines:
            try:
                engine.prepare(case, store)
                if engine is ours:
                    expected = ours.oracle(0)
                ready.append((engine, check(engine, expected, case)))
            except (Unsupported, ValueError, RuntimeError) as error:
                if engine is ours:
                    raise
                self.row["without"].setdefault(engine.name, str(error).split("\n")[0][:200])
        return ready

    def fastest_variants(self, ready, num_sets):
        """(engine, error, turns) by name: where an engine has several ways, the fastest in two turns."""
        best = {}
        for engine, error in ready:
            turns = Turns(engine.run, num_sets, engine.wake, engine.sleep)
            ns = turns.calibrate(self.quiet, self.options.turn_ms)
            if engine.name not in best or ns < best[engine.name][0]:
                best[engine.name] = (ns, engine, error, turns)
            self.row["without"].pop(engine.name, None)
        return [entry[1:] for entry in best.values()]

    def time(self, case, store, ready):
        import random
        ours = self.engines[0]
        contenders = self.fastest_variants(ready, store.num_sets)
        probe = ProbeTurns(ours.probe, store.num_sets)
        probe.calibrate(self.quiet, self.options.turn_ms)
        everyone = [probe] + [turns for _, _, turns in contenders]
        order, begun = random.Random(self.options.seed), time.perf_counter()
        plan_us, disturbed, quiet_rounds, neighbours = [], 0, 0, Neighbours()
        while quiet_rounds < self.options.rounds and time.perf_counter() - begun < self.options.seconds or (
                quiet_rounds < 3 and disturbed < self.MOST_DISTURBED):
            for turns in order.sample(everyone, len(everyone)):
                turns.ns.append(turns.take(self.quiet))
            plan_us.append(ours.plan_us())
            if neighbours.share() > Neighbours.LIMIT and disturbed < self.MOST_DISTURBED:
                disturbed += 1  # measured anew
                for turns in everyone:
                    turns.ns.pop()
            else:
                quiet_rounds += 1
        self.row["rounds"], self.row["disturbed_rounds"] = quiet_rounds, disturbed
        self.report(case, probe, contenders, plan_us)

    def report(self, case, probe, contenders, plan_us):
        rates = [probe.bytes / ns for ns in probe.ns]
        self.row["probe"] = {"gb_per_s": spread(rates), "samples": [round(r, 2) for r in rates]}
        ours_ns = contenders[0][2].ns
        for engine, error, turns in contenders:
            gb = [case.kv_bytes / ns for ns in turns.ns]
            entry = {"variant": engine.variant, "planning": engine.planning, "us": spread([n / 1e3 for n in turns.ns]),
                     "gb_per_s": spread(gb), "share_of_probe": spread([g / p for g, p in zip(gb, rates)]),
                     "error": error, "calls": turns.calls, "samples": [round(g, 2) for g in gb]}
            if engine.name == "ours":
                entry.update(plan_us=spread(plan_us), plan=engine.describe())
            else:
                entry["ours_is_faster"] = spread([peer / ours for peer, ours in zip(turns.ns, ours_ns)])
            self.row["engines"][engine.name] = entry
        ratios = {name: entry["ours_is_faster"]["median"] for name, entry in self.row["engines"].items()
                  if "ours_is_faster" in entry}
        self.row["best_peer"] = min(ratios, key=ratios.get) if ratios else None
        self.row["ours_to_best_peer"] = min(ratios.values()) if ratios else None


def last_level_cache_bytes():
    sizes = []
    folder = "/sys/devices/system/cpu/cpu0/cache"
    for index in os.listdir(folder) if os.path.isdir(folder) else []:
        try:
            with open(os.path.join(folder, index, "level")) as level, open(os.path.join(folder, index, "size")) as size:
                text = size.read().strip()
                sizes.append((int(level.read()), int(text[:-1]) * {"K": 1024, "M": MIB}[text[-1]]))
        except (OSError, ValueError, KeyError):
            continue
    return max(sizes)[1] if sizes else 32 * MIB


def machine():
    with open("/proc/cpuinfo") as info:
        model = next((line.split(":", 1)[1].strip() for line in info if line.startswith("model name")), "unknown")
    commit = subprocess.run(["git", "-C", ROOT, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    changed = subprocess.run(["git", "-C", ROOT, "diff", "--quiet", "HEAD", "--", "src", "include"])
    return {"cpu": model, "cpus": len(os.sched_getaffinity(0)), "llc_bytes": last_level_cache_bytes(),
            "date": time.strftime("%Y-%m-%d"), "commit": commit.stdout.strip() or None,
            "changed_since_commit": changed.returncode != 0}


def earlier_rows(path):
    if path == "-" or not os.path.exists(path):
        return []
    with open(path) as text:
        data = json.load(text)
    if data.get("format") != "persistentkv-cpu-peers" or data.get("version") != VERSION:
        raise SystemExit(f"peers_cpu: --out: '{path}' is no persistentkv-cpu-peers file of version {VERSION}")
    return data["cases"]


def write(path, data):
    text = json.dumps(data, indent=1)
    if path == "-":
        print(text)
        return
    with open(path + ".new", "w") as out:
        out.write(text + "\n")
    os.replace(path + ".new", path)


def losses(rows):
    return [(row["name"], row["best_peer"], row["ours_to_best_peer"]) for row in rows
            if row.get("ours_to_best_peer") is not None and row["ours_to_best_peer"] < 1.0]


def drive(options):
    """Inside the virtual environment."""
    from engines import load
    from store import load_library
    rows = earlier_rows(options.out)
    lib = load_library(os.path.join(options.build, "pkv", "bench", "peers_cpu", "libpkv_cpu_peer.so"))
    words = options.engines.split("|") if options.engines else []
    engines, facts = load(options.build, lib, options.threads, options.route, options.isa, words)
    for name, fact in facts.items():
        if "absent" in fact:
            print(f"peers_cpu: absent: {name}: {fact['absent']}", file=sys.stderr)
    data = {"format": "persistentkv-cpu-peers", "version": VERSION, "machine": machine(),
            "options": {key: value for key, value in vars(options).items() if key not in ("build", "out", "no_setup")},
            "engines": facts, "cases": rows}
    measurement = Measurement(lib, engines, options, data["machine"]["llc_bytes"])
    measured = []
    for case in chosen_cases(options):
        row = measurement.run(case)
        measured.append(row)
        data["cases"] = rows = [old for old in rows if old["name"] != case.name] + [row]
        if options.out != "-":
            write(options.out, data)
        ours, best = row["engines"]["ours"], row["best_peer"]
        print(f"{case.name:44s} probe {row['probe']['gb_per_s']['median']:5.1f}  ours "
              f"{ours['gb_per_s']['median']:5.1f} ({ours['share_of_probe']['median']:.2f})  best peer "
              f"{row['engines'][best]['gb_per_s']['median'] if best else 0:5.1f} {best or '-'}: "
              f"{row['ours_to_best_peer'] or 0:.2f} times", file=sys.stderr, flush=True)
    if options.out == "-":
        write("-", data)
    lost = losses(measured)
    for name, peer, ratio in lost:
        print(f"peers_cpu: slower than {peer} on {name}: {ratio:.2f}", file=sys.stderr)
    return 1 if lost and options.sample else 0


def main():
    options = parse(sys.argv[1:])
    options.build = os.path.abspath(options.build)
    try:
        listed = chosen_cases(options)
    except ValueError as error:
        raise SystemExit(f"peers_cpu: {error}") from error
    if options.list:
        for case in listed:
            print(f"{case.name:48s} {case.kv_bytes / MIB:8.1f} MiB  {list(case.lens)[:8]}")
        return 0
    if os.environ.get("PKV_PEERS_INSIDE") == options.build:
        return drive(options)
    if not options.no_setup:
        from setup_peers import Setup
        Setup(ROOT, options.build).all()
    if options.setup_only:
        return 0
    python = os.path.join(options.build, "venv", "bin", "python")
    # The same number of threads for every OpenMP; a finished one spins for its usual time, then sleeps.
    environment = {**os.environ, "PKV_PEERS_INSIDE": options.build, "OMP_NUM_THREADS": str(options.threads),
                   "OPENBLAS_NUM_THREADS": "1"}
    return subprocess.run([python, os.path.abspath(__file__), *sys.argv[1:]], env=environment).returncode


if __name__ == "__main__":
    sys.exit(main())
