"""JSON of the programs here to the markdown tables of docs/performance.md.

python3 bench/gpu/tables.py FOLDER                              prints every table that the folder has files for
python3 bench/gpu/tables.py FOLDER --write docs/performance.md  puts them between their markers in the document
A marker is a line `<!-- table: NAME -->`; what stands between it and `<!-- end -->` is replaced.
Not here: measuring.
"""
import argparse
import json
import os
import re
import statistics
import sys

FILES = ("cases", "sample", "whole_step", "routes", "paper")
FLASHINFER = ("flashinfer-core", "flashinfer-tensor")
NAMES = {"fi_core": "core", "fi_tensor": "tensor", "fi_persistent": "persistent", "read_seq": "limit", "pkv": "ours",
         "fi_core_host": "core", "fi_tensor_host": "tensor", "fi_core_device": "core, tables on the GPU",
         "fi_tensor_device": "tensor, tables on the GPU", "rule": "chosen"}
PUBLISHED = {"bucketed B1": (1.471, 1.403), "bimodal B8": (1.106, 1.080), "uniform B8": (1.076, 1.044),
             "zipf B8": (1.105, 1.068), "bimodal B4": (1.000, 1.000)}


def number(value, digits=1):
    return "-" if value is None else f"{value:.{digits}f}"


def us(row, name):
    if name in row:
        return number(row[name])
    return "fails" if name + "_fail" in row else "-"


def markdown(head, rows):
    lines = ["| " + " | ".join(head) + " |", "| " + " | ".join("---" for _ in head) + " |"]
    return "\n".join(lines + ["| " + " | ".join(str(c) for c in row) + " |" for row in rows])


def machine(data):
    facts = data.get("facts", {})
    smi = facts.get("nvidia_smi", {})
    if not facts:
        return ""
    return (f"{facts.get('device')}, driver {smi.get('driver_version', '?')}, SM clock at the start "
            f"{smi.get('clocks.sm', '?')} of {smi.get('clocks.max.sm', '?')}, CUDA {facts.get('cuda')}, torch "
            f"{facts.get('torch')}, FlashInfer {facts.get('flashinfer')}, commit {facts.get('commit')}, "
            f"{facts.get('time', '')[:10]}. Microseconds.\n\n")


def kernel(row, name="pkv"):
    """`split splits<=20 tasks=336 ... mma f16 d128 m1x1 w8` -> the route and kernel."""
    text = row.get(f"{name}_is", "")
    found = re.match(r"(\S+) splits<=(\d+) tasks=(\d+).*?(mma .*|simple .*)?$", text)
    return f"{found[3]} tasks, {found[4] or '?'}" if found else "-"


def cases(data):
    head = ("case", "MiB", "limit", "peer (which)", "ours", "limit / ours", "peer / ours", "plan and kernel")
    return machine(data) + markdown(head, [
        (r["case"], number(r.get("MiB"), 0), us(r, "read_seq"),
         f"{number(r.get('peer_us'))} ({NAMES.get(r.get('peer'), '-')})", us(r, "pkv"), number(r.get("share"), 2),
         number(r.get("ratio"), 2), kernel(r)) for r in data["rows"]])


def errors(data):
    engines = ("pkv", "fi_core", "fi_tensor", "fi_persistent")
    rows = []
    for dtype in ("f16", "bf16"):
        of_type = [r for r in data["rows"] if r.get("dtype") == dtype]
        worst = {e: max((r[e + "_err"] for r in of_type if e + "_err" in r), default=None) for e in engines}
        rows.append((dtype, len(of_type), *("-" if v is None else f"{v:.1e}" for v in worst.values())))
    return markdown(("type", "steps", *(NAMES[e] for e in engines)), rows)


def sample(data):
    rows = [r for r in data["rows"] if "ratio" in r]
    summary = data["summary"]
    text = machine(data)
    text += markdown(("what", "figure"), [
        ("steps measured", summary.get("pkv_measured")), ("of them with a peer", summary.get("with_peer")),
        ("worst ratio to the best peer", summary.get("worst_ratio")), ("median ratio", summary.get("median_ratio")),
        ("below 1.0", summary.get("below_1")), ("below 0.97", summary.get("below_0.97")),
        ("steps above 128 MiB", summary.get("large")),
        ("worst share of the limit above 128 MiB", summary.get("worst_share_large")),
        ("wrong or failed", len(summary.get("pkv_wrong", [])) + len(summary.get("pkv_failed", [])))])

    def median_by(title, key):
        groups = {}
        for r in rows:
            groups.setdefault(key(r), []).append(r)
        return "\n\n" + markdown((title, "steps", "median ratio", "worst ratio", "median share of the limit"), [
            (k, len(g), number(statistics.median(r["ratio"] for r in g), 2), number(min(r["ratio"] for r in g), 2),
             number(statistics.median(r.get("share", 0) for r in g), 2)) for k, g in sorted(groups.items())])

    text += median_by("MiB", lambda r: next(f"{low:3d} to {high}" for low, high in
                                            ((2, 8), (8, 32), (32, 128), (128, 1 << 20)) if r["MiB"] < high)
                      .replace(f" to {1 << 20}", " and more"))
    text += median_by("head dim", lambda r: r["d"]) + median_by("group", lambda r: r["group"])
    worst = sorted(rows, key=lambda r: r["ratio"])[:10]
    text += "\n\nThe ten slowest beside a peer:\n\n" + markdown(
        ("step", "shape", "MiB", "ours", "peer (which)", "ratio"),
        [(r["case"], f"{r['hq']}/{r['hkv']} d{r['d']} {r['dtype']} {r['layout']} page {r['page']}", number(r["MiB"], 0),
          us(r, "pkv"), f"{number(r['peer_us'])} ({NAMES.get(r['peer'])})", number(r["ratio"], 2)) for r in worst])
    return text + "\n\nLargest absolute error:\n\n" + errors(data)


def whole(data):
    def three(row, kind):
        peer = row.get(f"{kind}_peer")
        return (number(row.get(f"{kind}_pkv_us"), 0),
                f"{number(row.get(f'{kind}_peer_us'), 0)} ({NAMES.get(peer, '-')})", number(row.get(f"{kind}_ratio"), 2))

    head = ["step", "eager: ours", "FlashInfer", "ratio", "graph: ours", "FlashInfer", "ratio", "kernels: ours",
            "FlashInfer", "ratio"]
    return machine(data) + markdown(head, [
        (r["case"], *three(r, "eager"), *three(r, "graph"), *three(r, "kernel"))
        for r in data["rows"] if not r["case"].startswith("plan")])


def plan(data):
    labels = ("pkv", "fi_core_host", "fi_core_device", "fi_tensor_host", "fi_tensor_device", "fi_persistent")
    return machine(data) + markdown(("rows", *(NAMES[n] for n in labels)), [
        (r["rows"], *(number(r.get(f"plan_{n}_us")) for n in labels))
        for r in data["rows"] if r["case"].startswith("plan")])


def of_table(name):
    def table(data):
        rows = [r for r in data["rows"] if r.get("table") == name]
        if not rows:
            return ""
        skip = ("_is", "_err", "_spread", "_fail", "_wrong")
        facts = {"case", "table", "rows", "tokens", "longest", "MiB", "hq", "hkv", "group", "d", "page", "layout", "dtype",
                 "holes", "calls", "layers", "best", "peer", "peer_us", "ratio", "share", "rule_loss", "fail"}
        engines = []
        for r in rows:
            engines += [k for k in r if k not in facts and k not in engines and not k.endswith(skip)]
            engines += [k[:-5] for k in r if k.endswith("_fail") and k[:-5] not in engines]

        def mark(row, engine):
            text = us(row, engine)
            return f"**{text}**" if engine == row.get("best") else text

        return machine(data) + markdown(("step", *(NAMES.get(e, e) for e in engines), "limit / chosen", "peer / chosen"), [
            (r["case"], *(mark(r, e) for e in engines), number(r.get("share"), 2), number(r.get("ratio"), 2))
            for r in rows])
    return table


def rate(route, clock):
    return route.get(f"tokens_per_s_{clock}")


def paper_runs(data, prefix=""):
    """{label without the seed: [run]} of the runs that succeeded."""
    runs = {}
    for run in data["runs"]:
        label, seed = run["label"].rsplit(" ", 1)
        if "routes" in run and label.startswith(prefix):
            runs.setdefault(label, []).append(run)
    return runs


def spread(values):
    values = [v for v in values if v is not None]
    if not values:
        return "-"
    text = f"{statistics.mean(values):.3f}"
    return text + (f" +- {statistics.stdev(values):.3f}" if len(values) > 1 else "")


def ratio_to(run, route, clock, peers):
    ours = rate(route, clock)
    theirs = [rate(r, clock) for r in run["routes"] if r["name"] in peers and rate(r, clock)]
    return ours / max(theirs) if ours and theirs else None


def paper(data):
    """Device and wall ratios to FlashInfer's best path of the same run, mean and deviation over seeds."""
    rows = []
    for label, published in PUBLISHED.items():
        runs = paper_runs(data).get(label, [])
        names = [r["name"] for r in runs[0]["routes"]] if runs else []
        for name in names:
            values = {key: [] for key in ("core device", "device", "wall", "probe", "plan")}
            for run in runs:
                route = next((r for r in run["routes"] if r["name"] == name), {})
                values["core device"].append(ratio_to(run, route, "device", FLASHINFER[:1]))
                values["device"].append(ratio_to(run, route, "device", FLASHINFER))
                values["wall"].append(ratio_to(run, route, "wall", FLASHINFER))
                values["probe"].append(route.get("probe_share"))
                values["plan"].append(route.get("plan_us_p50"))
            paper_says = f"{published[0]:.3f}, {published[1]:.3f}" if name == names[0] else ""
            rows.append((label if name == names[0] else "", name, spread(values["core device"]), spread(values["device"]),
                         spread(values["wall"]), spread(values["probe"]), spread(values["plan"]), paper_says))
    seeds = max((len(runs) for runs in paper_runs(data).values()), default=0)
    return (f"{seeds} seeds, mean and standard deviation. `split` is the best of equal chunks by the GPU rule.\n\n" + markdown(
        ("trace", "route", "device, to core", "device, to the better FlashInfer", "wall, to the better FlashInfer",
         "share of the page read", "plan us", "paper (RTX 3060): device, wall"), rows))


def counters(data):
    rows = []
    for label in PUBLISHED:
        for run in paper_runs(data).get(label, [])[:1]:
            rows += [(label if i == 0 else "", r["name"], number(r.get("launches_per_step"), 2),
                      number(r.get("nonempty_share"), 3), number(r.get("tasks_per_worker_or_sm"), 1),
                      number(r.get("merge_state_mib_per_step"), 2), number(r.get("merge_launches_per_step"), 2),
                      number(r.get("gb_per_s"), 0), "-" if r.get("max_abs_error") is None else f"{r['max_abs_error']:.1e}")
                     for i, r in enumerate(run["routes"])]
    return markdown(("trace", "route", "launches", "non-empty", "tasks an SM", "merge MiB", "merge launches", "GB/s",
                     "largest error"), rows)


def mlp(data):
    rows = []
    for label, runs in sorted(paper_runs(data, "mlp ").items()):
        run = runs[0]
        peers = [r for r in run["routes"] if r["name"] in FLASHINFER and r.get("layer_tokens_per_s")]
        if not peers:
            continue
        best = max(peers, key=lambda r: r["layer_tokens_per_s"])
        for route in run["routes"]:
            if route["name"] not in FLASHINFER and route.get("layer_tokens_per_s"):
                rows.append((label[4:], route["name"], number(ratio_to(run, route, "device", FLASHINFER), 3),
                             number(route["layer_tokens_per_s"] / best["layer_tokens_per_s"], 3),
                             number(run.get("mlp_ms_p50"), 3)))
    return markdown(("trace", "route", "attention, to the better FlashInfer", "layer, to the better FlashInfer", "MLP ms"),
                    rows)


TABLES = {"cases": ("cases", cases), "sample": ("sample", sample), "whole_step": ("whole_step", whole),
          "plan": ("whole_step", plan), "paper": ("paper", paper), "paper_counters": ("paper", counters),
          "mlp": ("paper", mlp),
          **{name: ("routes", of_table(name)) for name in ("routes", "splits", "groups", "layouts", "holes", "ablations")}}


def load(folder):
    """routes-1.json, routes-2.json, ... hold parts of a file's rows."""
    found = {}
    for name in FILES:
        for file in sorted(os.listdir(folder)):
            if re.fullmatch(rf"{name}(-\w+)?\.json", file):
                with open(os.path.join(folder, file)) as text:
                    data = json.load(text)
                if name in found:
                    for key in ("rows", "runs"):
                        found[name].setdefault(key, []).extend(data.get(key, []))
                else:
                    found[name] = data
    return found


def write(path, made):
    with open(path) as file:
        text = file.read()
    for name, table in made.items():
        marker = re.compile(rf"(<!-- table: {name} -->\n).*?(<!-- end -->)", re.S)
        if not marker.search(text):
            print(f"{path} has no marker for {name}", file=sys.stderr)
        text = marker.sub(lambda m, table=table: m[1] + "\n" + table + "\n\n" + m[2], text)
    with open(path, "w") as file:
        file.write(text)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", help="with " + ", ".join(f"{name}.json" for name in FILES))
    parser.add_argument("--write", metavar="FILE", help="puts the tables into this document")
    args = parser.parse_args()
    data, made = load(args.folder), {}
    for name, (file, table) in TABLES.items():
        if file not in data:
            continue
        try:
            text = table(data[file])
        except (KeyError, TypeError, ValueError, IndexError) as error:
            print(f"table {name}: {type(error).__name__}: {error}", file=sys.stderr)
            continue
        if text:
            made[name] = text
    if args.write:
        write(args.write, made)
    else:
        for name, text in made.items():
            print(f"\n## {name}\n\n{text}")
    print(f"{len(made)} tables: {', '.join(made)}", file=sys.stderr)
    return 0 if made else 1


if __name__ == "__main__":
    sys.exit(main())
