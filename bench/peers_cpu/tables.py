"""JSON of peers_cpu.py and bench_probes to the tables of docs/performance.md. Needs only Python.

    python3 bench/peers_cpu/tables.py --cases cases.json --sample sample.json --probes probes.json
    ... --write docs/performance.md      puts them between `<!-- table: NAME -->` and `<!-- end -->`
Not here: measuring.
"""
import argparse
import json
import re
import statistics
import sys

FORMATS = {"cases": ("persistentkv-cpu-peers", 1), "sample": ("persistentkv-cpu-peers", 1),
           "probes": ("persistentkv-cpu-probes", 1)}
PEERS = ("ggml token-major", "ggml head-major", "PyTorch SDPA, packed group", "PyTorch SDPA, enable_gqa",
         "ONNX Runtime GroupQueryAttention", "vLLM CPU, block 16", "vLLM CPU, block 128")
SHORT = {"ggml token-major": "ggml, llama.cpp's layout", "ggml head-major": "ggml, head-major",
         "PyTorch SDPA, packed group": "SDPA, packed group", "PyTorch SDPA, enable_gqa": "SDPA, enable_gqa",
         "ONNX Runtime GroupQueryAttention": "ONNX Runtime GQA", "vLLM CPU, block 16": "vLLM, block 16",
         "vLLM CPU, block 128": "vLLM, block 128"}


def validate(kind, data, name):
    """Errors: ValueError that names the file and the field."""
    wanted, version = FORMATS[kind]
    if not isinstance(data, dict) or data.get("format") != wanted:
        raise ValueError(f"{name}: format is {data.get('format') if isinstance(data, dict) else None!r}, not {wanted!r}")
    if data.get("version") != version:
        raise ValueError(f"{name}: version is {data.get('version')!r}, known is {version}")
    if kind == "probes":
        for field in ("reads", "fork_join", "exp", "method"):
            if field not in data:
                raise ValueError(f"{name}: no field '{field}'")
        return data
    for field in ("machine", "engines", "cases"):
        if field not in data:
            raise ValueError(f"{name}: no field '{field}'")
    for row in data["cases"]:
        for field in ("name", "probe", "in_cache", "engines", "without"):
            if field not in row:
                raise ValueError(f"{name}: case {row.get('name')!r} has no field '{field}'")
        if "ours" not in row["engines"]:
            raise ValueError(f"{name}: case {row['name']!r} has no engine 'ours'")
    return data


def markdown(head, rows):
    lines = ["| " + " | ".join(head) + " |", "| " + " | ".join("---" for _ in head) + " |"]
    return "\n".join(lines + ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows])


def figure(spread, digits=1):
    return f"{spread['median']:.{digits}f} ({spread['p25']:.{digits}f}-{spread['p75']:.{digits}f})"


def shares(row, fast_above):
    """Median share of the probe in rounds where the probe was below and above a rate: (slow, fast), '-' if none."""
    pairs = list(zip(row["engines"]["ours"]["samples"], row["probe"]["samples"]))
    found = []
    for wanted in (False, True):
        values = [ours / probe for ours, probe in pairs if (probe > fast_above) is wanted]
        found.append(f"{statistics.median(values):.2f}, {len(values)}" if values else "-")
    return found


def peer_cell(row, peer, engines):
    if "absent" in engines.get(peer, {"absent": ""}):
        return "absent"
    entry = row["engines"].get(peer)
    if entry is None:
        reason = row["without"].get(peer, "not run")
        return "wrong" if reason.startswith("wrong") else "-"
    return f"{entry['gb_per_s']['median']:.1f}: {figure(entry['ours_is_faster'], 2)}"


def machine_line(data):
    machine, options = data["machine"], data.get("options", {})
    pages = {"huge": "2 MiB", "4k": "4 KiB"}[options.get("memory_pages", "huge")]
    shares_seen = [share for row in data["cases"] for share in row.get("huge_share", {}).values()]
    if pages == "2 MiB" and shares_seen and min(shares_seen) < 0.9:
        pages += f" where the system gave them (least {100 * min(shares_seen):.0f}% of a cache)"
    changed = " with changes" if machine.get("changed_since_commit") else ""
    return (f"{machine['cpu']}, {machine['cpus']} CPUs, last-level cache {machine['llc_bytes'] >> 20} MiB, "
            f"{options.get('threads', '?')} threads, {pages} memory pages for all, {machine['date']}, commit "
            f"{machine.get('commit')}{changed}.\n")


def peers_line(data):
    found = {}
    for peer in PEERS:
        fact = data["engines"].get(peer, {"absent": "not asked for"})
        found.setdefault("absent: " + fact["absent"] if "absent" in fact else fact["version"], []).append(peer)
    return "Peers: " + "; ".join(f"{', '.join(names)} ({what})" for what, names in found.items()) + ".\n"


MOST_DISTURBED = 8  # peers_cpu.Measurement.MOST_DISTURBED: then disturbed rounds were kept


def starred(row):
    return row["name"] + (" *" if row.get("disturbed_rounds", 0) >= MOST_DISTURBED else "")


def star_note(data):
    starred_rows = [row for row in data["cases"] if starred(row) != row["name"]]
    return "\n\n\\* other processes took CPU time in some of the rounds." if starred_rows else ""


def cases_table(data, fast_above):
    head = ["case", "probe GB/s", "in cache GB/s", "ours GB/s", "of the bound", "of the probe, slow",
            "of the probe, fast", "us", "plan us", "error"]
    head += [SHORT[peer] for peer in PEERS]
    rows = []
    for row in data["cases"]:
        ours = row["engines"]["ours"]
        rows.append([starred(row), figure(row["probe"]["gb_per_s"]), figure(row["in_cache"]["gb_per_s"]),
                     figure(ours["gb_per_s"]), figure(ours["share_of_bound"], 2), *shares(row, fast_above),
                     f"{ours['us']['median']:.0f}", f"{ours['plan_us']['median']:.0f}", f"{ours['error']:.0e}"] +
                    [peer_cell(row, peer, data["engines"]) for peer in PEERS])
    return machine_line(data) + peers_line(data) + "\n" + markdown(head, rows) + star_note(data)


def sample_table(data):
    rows = []
    for peer in PEERS:
        if "absent" in data["engines"].get(peer, {"absent": ""}):
            rows.append((SHORT[peer], "absent", "-", "-", "-", "-"))
            continue
        ratios = [(row["engines"][peer]["ours_is_faster"]["median"], row["name"]) for row in data["cases"]
                  if peer in row["engines"]]
        wrong = sum(row["without"].get(peer, "").startswith("wrong") for row in data["cases"])
        if not ratios:
            rows.append((SHORT[peer], 0, wrong, "-", "-", "-"))
            continue
        least = min(ratios)
        rows.append((SHORT[peer], len(ratios), wrong, f"{statistics.median(r for r, _ in ratios):.2f}",
                     f"{least[0]:.2f}: {least[1]}", sum(r < 1 for r, _ in ratios)))
    table = markdown(("peer", "cases it runs", "wrong outputs", "ours is faster, median", "least", "below 1.0"), rows)
    slow = [row for row in data["cases"] if (row.get("ours_to_best_peer") or 2) < 1]
    lines = [f"- {row['name']}: {row['ours_to_best_peer']:.2f} of {row['best_peer']}, of the bound "
             f"{row['engines']['ours']['share_of_bound']['median']:.2f}" for row in slow]
    listed = ("\n\nSlower than a peer:\n\n" + "\n".join(lines)) if lines else "\n\nOurs was slower than no peer."
    disturbed = sum(starred(row) != row["name"] for row in data["cases"])
    return machine_line(data) + f"\n{len(data['cases'])} cases, {disturbed} of them beside other processes.\n\n" + \
        table + listed


def probes_table(data):
    counts = sorted({read["workers"] for read in data["reads"]})
    kinds = [(memory, count) for memory in ("huge", "4k") for count in counts]
    names = {}
    for read in data["reads"]:
        chunk = read["chunk_bytes"]
        name = {"sequential": "in order", "pages": "K,V pages, HND f16 page 16"}.get(
            read["order"], f"random chunks of {(chunk or 0) // 1024} KiB")
        names.setdefault(name, {})[(read["memory_pages"], read["workers"])] = figure(read["gb_per_s"])
    head = ["GB/s"] + [f"{'2 MiB' if memory == 'huge' else '4 KiB'} pages, {count} worker{'' if count == 1 else 's'}"
                       for memory, count in kinds]
    text = markdown(head, [[name] + [cells.get(kind, "-") for kind in kinds] for name, cells in names.items()])
    method = data["method"]
    how = "without prefetch" if method["prefetch"] == "none" else \
        f"prefetched into {method['prefetch'].upper()}, {method['ahead_bytes'] // 1024} KiB ahead"
    text += f"\n\nRead with {method['streams']} streams, {how}."
    if data.get("methods"):
        ordered = sorted(data["methods"], key=lambda read: -read["gb_per_s"]["median"])
        best = {}
        for read in ordered:
            best.setdefault((read["method"]["streams"], read["method"]["prefetch"]), read)
        text += " Best of each kind, random chunks of 32 KiB, all workers: " + ", ".join(
            f"{streams} stream{'' if streams == 1 else 's'} {'without prefetch' if kind == 'none' else kind.upper()} "
            f"{read['gb_per_s']['median']:.1f}" for (streams, kind), read in best.items()) + "."
    for time in data["fork_join"]:
        when = "one after the other" if time["idle_ns"] == 0 else f"after {time['idle_ns'] // 1000000} ms of nothing"
        text += f" Fork-join of {time['workers']} workers {when}: {figure(time['us'])} us."
    for rate in data["exp"]:
        text += f" exp, {rate['workers']} worker{'' if rate['workers'] == 1 else 's'}: " \
                f"{figure(rate['exp_per_ns'])} a ns."
    rates = data.get("in_cache", [])
    if rates:
        groups = sorted({rate["group_size"] for rate in rates})
        cells = {(rate["dtype"], rate["group_size"]): figure(rate["gb_per_s"]) for rate in rates}
        text += f"\n\nThe decode kernel with K and V in the L2, HND, d {rates[0]['head_dim']}, page " \
                f"{rates[0]['page_size']}, {rates[0]['workers']} workers together, GB/s:\n\n"
        text += markdown(["type"] + [f"group {group}" for group in groups],
                         [[dtype] + [cells.get((dtype, group), "-") for group in groups]
                          for dtype in dict.fromkeys(rate["dtype"] for rate in rates)])
    return text


def put(document, name, text):
    """The document with the table between its markers. Errors: ValueError."""
    pattern = re.compile(rf"(<!-- table: {re.escape(name)} -->\n).*?(<!-- end -->)", re.S)
    if not pattern.search(document):
        raise ValueError(f"no marker '<!-- table: {name} -->' with an '<!-- end -->'")
    return pattern.sub(lambda found: f"{found[1]}\n{text}\n\n{found[2]}", document, count=1)


def parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    for kind in FORMATS:
        parser.add_argument(f"--{kind}", metavar="JSON")
    parser.add_argument("--cases-4k", metavar="JSON", help="named cases with --memory-pages 4k")
    parser.add_argument("--fast-above", type=float, default=42.0,
                        help="GB/s of the probe that tell the fast state of memory from the slow one")
    parser.add_argument("--write", metavar="DOCUMENT")
    options = parser.parse_args(arguments)
    if not any((options.cases, options.sample, options.probes, options.cases_4k)):
        parser.error("name at least one of --cases, --cases-4k, --sample, --probes")
    return options


def tables(options):
    made = {}
    for name, kind in (("cases", "cases"), ("cases_4k", "cases"), ("sample", "sample"), ("probes", "probes")):
        path = getattr(options, name)
        if path is None:
            continue
        with open(path) as text:
            data = validate(kind, json.load(text), path)
        make = {"cases": lambda d: cases_table(d, options.fast_above), "sample": sample_table, "probes": probes_table}
        made[f"cpu_{name}"] = make[kind](data)
    return made


def main():
    options = parse(sys.argv[1:])
    try:
        made = tables(options)
        if options.write is None:
            print("\n\n".join(f"{name}\n\n{text}" for name, text in made.items()))
            return 0
        with open(options.write) as text:
            document = text.read()
        for name, text in made.items():
            document = put(document, name, text)
        with open(options.write, "w") as out:
            out.write(document)
    except (OSError, ValueError) as error:
        print(f"tables: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
