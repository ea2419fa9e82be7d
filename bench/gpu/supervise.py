"""Runs a list of cases in a process of its own, and starts another where that one dies or hangs.

A kernel that faults takes its CUDA context with it. So a child process measures and writes a line a case; the
parent, which never touches the GPU, notes what ended the child and goes on, without the engine that did it.
Not here: what is measured, CUDA.
"""
import json
import os
import subprocess
import sys
import time
import traceback

STALL_SECONDS = 30  # without a line from the child; run-time modules are built ahead
LAST_SECONDS = 12    # of the limit: the child is to end by then, and is ended by then plus half of it


def failure(error):
    lines = [line for line in str(error).strip().split("\n") if line.strip()] or [type(error).__name__]
    return lines[-1].strip()[:200]


class Progress:
    """What a measuring function tells the parent: where it is, so that a dying process can be explained."""

    def __init__(self, rows, skipped):
        self.rows, self.skipped, self.index = rows, skipped, 0

    def write(self, **line):
        self.rows.write(json.dumps(line) + "\n")
        self.rows.flush()

    def allows(self, engine):
        return f"{self.index}:{engine}" not in self.skipped and f"*:{engine}" not in self.skipped

    def at(self, engine):
        self.write(index=self.index, engine=engine)


def add_arguments(parser, seconds, json_name):
    out = os.environ.get("OUT", "/tmp")
    parser.add_argument("--seconds", type=float, default=seconds, help=f"ends by then ({seconds})")
    parser.add_argument("--json", default=os.path.join(out, json_name), help=f"$OUT/{json_name}")
    parser.add_argument("--only", default="", help="cases with this in their name; several with | between")
    parser.add_argument("--trace", action="store_true", help="whole tracebacks of failures on standard error")
    for name in ("--child", "--rows", "--skip", "--deadline"):
        parser.add_argument(name, default="", help="used by the parent process only")


def selected(args, items, name):
    words = [word for word in args.only.split("|") if word]
    return [item for item in items if not words or any(word in name(item) for word in words)]


def child(args, items, name, open_bench):
    """open_bench(args) -> (measure(item, progress) -> row, is_healthy() -> bool, facts of the machine)."""
    with open(args.rows, "a") as rows:
        progress = Progress(rows, set(filter(None, args.skip.split(","))))
        measure, is_healthy, facts = open_bench(args)
        progress.write(facts=facts)
        for progress.index in range(int(args.child), len(items)):
            item = items[progress.index]
            if time.time() > float(args.deadline) - LAST_SECONDS:
                progress.write(stopped=progress.index)
                return 0
            progress.write(index=progress.index, engine="")
            try:
                row = measure(item, progress)
            except Exception as error:  # one case must not end the others
                if args.trace:
                    traceback.print_exc()
                row = {"case": name(item), "fail": failure(error)}
                print(f"{name(item):28s} failed: {row['fail']}", flush=True)
            if not is_healthy():
                return 3
            progress.write(index=progress.index, row=row)
        progress.write(done=True)
    return 0


class Outcome:
    """The child's lines as read so far."""

    def __init__(self, path):
        self.rows, self.facts, self.at, self.ended, self.stopped = {}, {}, None, False, None
        for text in open(path):
            try:
                line = json.loads(text)
            except ValueError:
                continue  # cut off by the end of the process
            if "facts" in line:
                self.facts = line["facts"]
            elif "row" in line:
                self.rows[line["index"]] = line["row"]
                self.at = None
            elif "engine" in line:
                self.at = (line["index"], line["engine"])
            elif "stopped" in line:
                self.ended, self.stopped = True, line["stopped"]
            elif "done" in line:
                self.ended = True


def wait(process, path, deadline):
    """How the child ended, in words; ends it when it stalls or is late."""
    size, changed = -1, time.time()
    while process.poll() is None:
        time.sleep(0.2)
        now, new_size = time.time(), os.path.getsize(path)
        if new_size != size:
            size, changed = new_size, now
        late = now > deadline - LAST_SECONDS / 2
        if late or now - changed > STALL_SECONDS:
            process.kill()
            process.wait()
            return "out of time" if late else f"no progress in {STALL_SECONDS} s"
    return "" if process.returncode == 0 else f"process ended with code {process.returncode}"


def run(args, items, name, open_bench, finish):
    """finish(rows, facts) -> summary, printed and written with the rows. Returns an exit code."""
    if args.child:
        return child(args, items, name, open_bench)
    deadline = time.time() + args.seconds
    path = args.json + ".rows"
    open(path, "w").close()
    start, skip, killers, starts_failed = 0, [], {}, 0
    fails = {}  # case -> {engine: words}
    while start < len(items):
        command = [sys.executable, sys.argv[0], *sys.argv[1:], "--child", str(start), "--rows", path,
                   "--skip", ",".join(skip), "--deadline", str(deadline)]
        how = wait(subprocess.Popen(command), path, deadline)
        outcome = Outcome(path)
        if outcome.ended or how == "out of time":
            break
        if outcome.at is None or outcome.at[0] < start:  # it never came to a case
            starts_failed += 1
            print(f"the measuring process did not start: {how}", flush=True)
            if starts_failed > 1:
                break
            continue
        start, engine = outcome.at
        print(f"{name(items[start])}: {engine or 'setup'}: {how}", flush=True)
        fails.setdefault(start, {})[engine or "setup"] = how
        killers[engine] = killers.get(engine, 0) + 1
        if not engine or f"{start}:{engine}" in skip:
            start += 1  # nothing to leave out
        elif killers[engine] > 2:
            skip.append(f"*:{engine}")
        else:
            skip.append(f"{start}:{engine}")  # the same case again, without it
    outcome = Outcome(path)
    rows = []
    for i, item in enumerate(items):
        row = dict(outcome.rows.get(i, {}))
        for engine, how in fails.get(i, {}).items():
            row[f"{engine}_fail"] = how
        if row:
            rows.append({"case": name(item), **row})
    summary = finish(rows, outcome.facts)
    summary = {"cases": len(items), "measured": len(outcome.rows), **(summary or {})}
    text = json.dumps({"script": os.path.basename(sys.argv[0]), "arguments": sys.argv[1:], "facts": outcome.facts,
                       "summary": summary, "rows": rows}, indent=1)
    with open(args.json + ".new", "w") as file:
        file.write(text)
    os.replace(args.json + ".new", args.json)
    os.remove(path)
    left = len(items) - len(outcome.rows)
    print(f"{args.json}: {len(rows)} rows" + (f", {left} cases not measured" if left else ""), flush=True)
    return 0 if outcome.rows else 1
