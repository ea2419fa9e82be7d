#!/usr/bin/env bash
# Replays the paper's traces on a GPU and writes every result into one JSON file: $OUT/paper.json.
#   bench/gpu/paper_tables.sh [PKV]        PKV: the command, built with CUDA and FlashInfer's headers (default: pkv)
#   SEEDS="20260623 20260624" SECONDS_MAX=300 HOLES=0.5 OUT=/tmp/out bench/gpu/paper_tables.sh /tmp/pkv
# Commands that no longer fit SECONDS_MAX are named and left out; one that fails leaves its error in the file.
set -uo pipefail

pkv=${1:-pkv}
out=${OUT:-/tmp}
seeds=${SEEDS:-"20260623 20260624 20260625 20260626 20260627"}
seconds_max=${SECONDS_MAX:-540}
holes=${HOLES:-0}
parts=$(mktemp -d) || exit 2
trap 'rm -rf "$parts"' EXIT
number=0

# One replay: label, then arguments of `pkv replay` (docs/cli.md).
replay() {
  local label=$1 part left
  shift
  number=$((number + 1))
  part=$parts/$(printf %03d "$number")
  left=$((seconds_max - SECONDS))
  printf '%s\n' "$label" >"$part.label"
  printf '%s ' replay "$@" >"$part.command"
  if ((left < 20)); then
    echo "not run, out of time" >"$part.error"
    echo "$label: not run, out of time"
    return
  fi
  local begun=$SECONDS
  timeout "$left" "$pkv" replay --backend cuda --hole-fraction "$holes" --json "$part.json" "$@" \
    >"$part.table" 2>"$part.error"
  echo "== $label: exit $?, $((SECONDS - begun)) s"
  tail -n 14 "$part.table"
  [[ -s $part.json ]] || tail -n 2 "$part.error"
}

all=all,flashinfer-core,flashinfer-tensor
# The first seed first: its tables are whole even when time runs out. Splits are the paper's.
for seed in $seeds; do
  common=(--seed "$seed" --routes "$all" --baseline flashinfer-core)
  replay "bucketed B1 $seed" --trace paper:bucketed --requests 16 --max-active 1 --steps 64 "${common[@]}" \
    --splits bucket=32
  replay "bimodal B8 $seed" --trace paper:bimodal --requests 24 --max-active 8 --steps 48 "${common[@]}" \
    --splits workqueue=20
  replay "uniform B8 $seed" --trace paper:uniform --requests 24 --max-active 8 --steps 48 "${common[@]}" \
    --splits workqueue=24
  replay "zipf B8 $seed" --trace paper:zipf --requests 24 --max-active 8 --steps 48 "${common[@]}" \
    --splits workqueue=28
  replay "bimodal B4 $seed" --trace paper:bimodal --requests 24 --max-active 4 --steps 48 "${common[@]}"
  if [[ $seed == "${seeds%% *}" ]]; then
    # The attention-plus-MLP proxy: how much of a gain survives in a layer.
    for trace in bimodal uniform zipf; do
      replay "mlp $trace B8 $seed" --trace "paper:$trace" --requests 24 --max-active 8 --steps 16 "${common[@]}" \
        --mlp 4096,14336
    done
    replay "mlp bucketed B1 $seed" --trace paper:bucketed --requests 16 --max-active 1 --steps 16 "${common[@]}" \
      --mlp 4096,14336
    # The routes' own choice of splits, and the fused merge.
    replay "own bimodal B8 $seed" --trace paper:bimodal --requests 24 --max-active 8 --steps 48 "${common[@]}"
    replay "fused bimodal B8 $seed" --trace paper:bimodal --requests 24 --max-active 8 --steps 48 --seed "$seed" \
      --routes row,padded,split,workqueue --splits workqueue=20 --merge fused --baseline row
  fi
done

"$pkv" doctor --json "$parts/doctor" >/dev/null 2>&1
python3 - "$parts" "$out/paper.json" "$holes" <<'PYTHON'
import json, os, pathlib, sys

parts, path, holes = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3]
runs = []
for label in sorted(parts.glob("*.label")):
    run = {"label": label.read_text().strip(), "command": label.with_suffix(".command").read_text().strip()}
    try:
        run.update(json.loads(label.with_suffix(".json").read_text()))
    except (OSError, ValueError):
        error = label.with_suffix(".error")
        run["fail"] = error.read_text().strip()[-300:] if error.exists() else "no result"
    runs.append(run)
try:
    doctor = json.loads((parts / "doctor").read_text())
except (OSError, ValueError):
    doctor = None
with open(path + ".new", "w") as file:
    json.dump({"script": "paper_tables.sh", "hole_fraction": holes, "doctor": doctor, "runs": runs}, file, indent=1)
os.replace(path + ".new", path)
print(f"{path}: {len(runs)} runs, {sum('fail' in run for run in runs)} failed")
PYTHON
