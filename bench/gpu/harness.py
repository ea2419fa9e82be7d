"""Times decode engines beside each other on one GPU: ours, FlashInfer's three paths, a read probe.

One layer's call goes over rotating layers of random pages into one CUDA graph, so that a replay reads over four
times the L2; replays of all engines alternate, with the L2 scrubbed before each; medians of seven. Run as a program it
measures the standard steps (step_cases.py). The limit is read_seq of ../shared/gpu/probe.cu (PKV_PROBE_LIB): the same
bytes streamed from contiguous memory, K and V by a launch each.
Not here: which steps (step_cases.py), surviving a fault (supervise.py), our engine (pkv_peer.py).
"""
import argparse
import ctypes
import gc
import glob
import math
import os
import statistics
import subprocess
import sys
import time
import traceback

import step_cases
import supervise

REPEATS, WARMUPS = 7, 2
SLOW_SECONDS = 0.05            # a call that takes longer is left out, with a word
MIN_READ_BYTES = 420 << 20     # of a replay; over four times the L2 of an H100 (50 MB) or H200
GOOD_READ_BYTES = 1600 << 20   # ... so that the first kernel's start weighs little, where that takes
MAX_CALLS = 16                 # ... no more calls than this
POOL_BYTES = 4 << 30           # of K, and of V, for each type
SCRUB_BYTES = 256 << 20
WORKSPACE_BYTES = 512 << 20    # FlashInfer's for partial states
TOLERANCE = {"f16": 2e-3, "bf16": 1.6e-2}
FP64_ELEMENTS = 1 << 26        # of K of one row; longer rows are checked in fp32

PEERS = ("fi_core", "fi_tensor", "fi_persistent")
ENGINES = ("pkv",) + PEERS + ("read_seq",)
MODULES = {"fi_core": "batch_decode_with_kv_cache", "fi_tensor": "batch_prefill_with_kv_cache",
           "fi_persistent": "batch_attention_with_kv_cache"}


def torch_dtype(name):
    import torch
    return {"f16": torch.float16, "bf16": torch.bfloat16}[name]


class Case:
    """The tensors of one step: what pkv_peer.make and FlashInfer's wrappers take."""

    def __init__(self, step, pool):
        import numpy as np
        import torch
        self.step, self.lens, self.hq, self.hkv = step, list(step.lens), step.hq, step.hkv
        self.page_size, self.nhd, self.d, self.dtype = step.page, step.nhd, step.d, torch_dtype(step.dtype)
        pages = [-(-length // step.page) for length in step.lens]
        self.indptr = torch.tensor(np.concatenate([[0], np.cumsum(pages)]), dtype=torch.int32)
        self.last = torch.tensor([(length - 1) % step.page + 1 for length in step.lens], dtype=torch.int32)
        count = sum(pages)
        universe = max(count, math.ceil(count / (1 - step.holes)))
        generator = torch.Generator("cuda").manual_seed(step.seed)
        ids = torch.randperm(universe, generator=generator, device="cuda")[:count].to(torch.int32)
        self.indices = ids.contiguous()
        self.indices_host = ids.cpu().pin_memory()
        self.seq = torch.tensor(self.lens, dtype=torch.int32, device="cuda")
        self.indptr_device, self.last_device = self.indptr.cuda(), self.last.cuda()
        self.qo_indptr = torch.arange(len(self.lens) + 1, dtype=torch.int32, device="cuda")
        shape = (universe, step.page, step.hkv, step.d) if step.nhd else (universe, step.hkv, step.page, step.d)
        span = math.prod(shape)
        fit = pool[0].numel() // span
        if fit == 0:
            raise MemoryError(f"{span * 2 / 2**30:.1f} GiB of K do not fit the pool of {POOL_BYTES / 2**30:.0f} GiB")
        self.bytes = step.bytes
        self.layers = max(1, min(fit, max(2, -(-MIN_READ_BYTES // self.bytes))))
        self.kv = [tuple(side[i * span:(i + 1) * span].view(shape) for side in pool) for i in range(self.layers)]
        self.q = torch.randn(len(self.lens), step.hq, step.d, device="cuda", dtype=torch.float32).to(self.dtype)
        self.out = torch.empty_like(self.q)
        self.lse = torch.empty(len(self.lens), step.hq, device="cuda", dtype=torch.float32)
        calls = max(self.layers, min(MAX_CALLS, max(4, GOOD_READ_BYTES // self.bytes)))
        self.calls = max(1, calls // self.layers) * self.layers

    def layout(self):
        return "NHD" if self.nhd else "HND"


class Engine:
    """plan: None or a function that plans the step on the host; run(q, k, v) -> out enqueues one layer."""

    def __init__(self, run, plan=None, describe=None, keep=None):
        self.run, self.plan, self.describe, self.keep = run, plan, describe, keep


class Graph:
    """`calls` layers in one CUDA graph. The engine must outlive it and keep its plan."""

    def __init__(self, case, engine, calls=None):
        import torch
        self.calls, self.engine = calls or case.calls, engine
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for i in range(2):
                engine.run(case.q, *case.kv[i % case.layers])
        torch.cuda.current_stream().wait_stream(side)
        torch.cuda.synchronize()
        self.graph = torch.cuda.CUDAGraph()  # without torch.cuda.graph(), which empties the caches each time
        with torch.cuda.stream(side):
            self.graph.capture_begin(capture_error_mode="thread_local")
            try:
                for i in range(self.calls):
                    engine.run(case.q, *case.kv[i % case.layers])
            finally:
                self.graph.capture_end()
        torch.cuda.synchronize()

    def enqueue(self):
        self.graph.replay()


class Eager:
    """The same calls without a graph."""

    def __init__(self, case, engine, calls=None):
        self.case, self.engine, self.calls = case, engine, calls or case.calls

    def enqueue(self):
        run, q, kv, layers = self.engine.run, self.case.q, self.case.kv, self.case.layers
        for i in range(self.calls):
            run(q, *kv[i % layers])


class FlashInfer:
    """FlashInfer's wrappers, made once a layout and planned anew for each case. Call run() only after plan()."""

    def __init__(self):
        import flashinfer
        import torch
        self.api = flashinfer
        self.version = getattr(flashinfer, "__version__", "?")
        self.workspace = torch.zeros(WORKSPACE_BYTES, dtype=torch.uint8, device="cuda")
        self.wrappers = {}

    @staticmethod
    def require_module(engine, step):
        """A run-time module that is missing would be compiled for minutes in the middle of a measurement."""
        base = os.environ.get("FLASHINFER_WORKSPACE_BASE", os.path.expanduser("~"))
        found = glob.glob(f"{base}/.cache/flashinfer/*/*/cached_ops/{MODULES[engine]}_dtype_q_{step.dtype}_*"
                          f"head_dim_qk_{step.d}_*/*.so")
        if not [f for f in found if "sm90" not in os.path.basename(os.path.dirname(f))]:
            raise RuntimeError(f"no run-time module for {step.dtype} d {step.d}: sample.py --warm builds it")

    def wrapper(self, key, make):
        if key not in self.wrappers:
            self.wrappers[key] = make()
        return self.wrappers[key]

    def decode(self, case, tensor_cores, host_tables=False, graph=False):
        """`graph`: the wrapper for replays, whose plan may be renewed under a captured graph."""
        engine = "fi_tensor" if tensor_cores else "fi_core"
        self.require_module(engine, case.step)
        make_wrapper = self.api.BatchDecodeWithPagedKVCacheWrapper
        backend = "fa2" if tensor_cores else "auto"
        if graph:
            wrapper = make_wrapper(self.workspace, case.layout(), use_cuda_graph=True, use_tensor_cores=tensor_cores,
                                   paged_kv_indptr_buffer=case.indptr_device.clone(),
                                   paged_kv_indices_buffer=case.indices.clone(),
                                   paged_kv_last_page_len_buffer=case.last_device.clone(), backend=backend)
        else:
            wrapper = self.wrapper((engine, case.nhd), lambda: make_wrapper(
                self.workspace, case.layout(), use_tensor_cores=tensor_cores, backend=backend))
        tables = ((case.indptr, case.indices_host, case.last) if host_tables
                  else (case.indptr_device, case.indices, case.last_device))

        def plan():
            wrapper.plan(*tables, case.hq, case.hkv, case.d, case.page_size, q_data_type=case.dtype,
                         kv_data_type=case.dtype)

        plan()
        return Engine(lambda q, k, v: wrapper.run(q, (k, v), out=case.out), plan, keep=(wrapper, tables))

    def persistent(self, case):
        self.require_module("fi_persistent", case.step)
        wrapper = self.wrapper(("fi_persistent", case.nhd), lambda: self.api.BatchAttention(kv_layout=case.layout()))

        def plan():
            wrapper.plan(case.qo_indptr, case.indptr_device, case.indices, case.seq, case.hq, case.hkv, case.d, case.d,
                         case.page_size, causal=False, q_data_type=case.dtype, kv_data_type=case.dtype)

        plan()
        return Engine(lambda q, k, v: wrapper.run(q, (k, v), out=case.out, lse=case.lse)[0], plan, keep=wrapper)


class Probe:
    """read_seq: the bytes of a step from contiguous memory."""

    def __init__(self, path, blocks):
        import torch
        self.lib = ctypes.CDLL(path)
        pointer = ctypes.c_void_p
        self.lib.probe_seq.argtypes = [pointer, ctypes.c_size_t, pointer, ctypes.c_int, pointer]
        self.sink = torch.zeros(4, dtype=torch.int32, device="cuda")
        self.blocks = blocks

    def engine(self, case):
        import torch

        def run(q, k, v):
            stream = torch.cuda.current_stream().cuda_stream
            for side in (k, v):
                self.lib.probe_seq(side.data_ptr(), case.bytes // 2, self.sink.data_ptr(), self.blocks, stream)

        return Engine(run)


def query_smi():
    fields = ("name,driver_version,clocks.sm,clocks.mem,clocks.max.sm,clocks.max.mem,temperature.gpu,power.draw,"
              "power.limit")
    try:
        text = subprocess.run(["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"], capture_output=True,
                              text=True, timeout=20, check=False).stdout.strip().split("\n")[0]
        return dict(zip(fields.split(","), (part.strip() for part in text.split(","))))
    except (OSError, subprocess.SubprocessError) as error:
        return {"nvidia-smi": supervise.failure(error)}


def commit():
    """What PKV_COMMIT says; the repository on a machine with a GPU may be a copy of an older one."""
    if os.environ.get("PKV_COMMIT"):
        return os.environ["PKV_COMMIT"]
    try:
        here = os.path.dirname(os.path.abspath(__file__))
        found = subprocess.run(["git", "-C", here, "rev-parse", "--short", "HEAD"], capture_output=True, text=True,
                               timeout=10, check=False).stdout.strip()
        return found or "?"
    except (OSError, subprocess.SubprocessError):
        return "?"


class Bench:
    """The GPU, its pools of random K,V, and the engines."""

    def __init__(self, use_peers=True):
        import torch
        self.torch = torch
        torch.manual_seed(0)
        properties = torch.cuda.get_device_properties(0)
        self.sms = properties.multi_processor_count
        self.l2_bytes = getattr(properties, "L2_cache_size", 0)
        self.scrub = torch.ones(SCRUB_BYTES // 4, dtype=torch.float32, device="cuda")
        self.pools, self.flashinfer, self.probe, self.missing = {}, None, None, {}
        self.tracebacks = False
        if use_peers:
            try:
                self.flashinfer = FlashInfer()
            except Exception as error:
                self.missing["flashinfer"] = supervise.failure(error)
        here = os.path.dirname(os.path.abspath(__file__))
        path = os.environ.get("PKV_PROBE_LIB", os.path.join(here, "..", "..", ".carry", "libprobe.so"))
        try:
            self.probe = Probe(path, self.sms * 4)
        except OSError as error:
            self.missing["read_seq"] = f"PKV_PROBE_LIB: {supervise.failure(error)}"
        for text in self.missing.values():
            print("missing:", text, flush=True)
        self.before = query_smi()
        gc.disable()  # an engine freed in the middle of a capture would end it; opener() collects between cases
        gc.freeze()

    def facts(self):
        torch = self.torch
        return {"device": torch.cuda.get_device_name(0), "sms": self.sms, "l2_bytes": self.l2_bytes,
                "nvidia_smi": self.before, "torch": torch.__version__, "cuda": torch.version.cuda,
                "flashinfer": self.flashinfer.version if self.flashinfer else None, "missing": self.missing,
                "commit": commit(), "peer_lib": os.environ.get("PKV_PEER_LIB", ""), "python": sys.version.split()[0],
                "time": time.strftime("%Y-%m-%d %H:%M:%S"), "repeats": REPEATS}

    def is_healthy(self):
        try:
            self.torch.cuda.synchronize()
            return True
        except Exception:
            return False

    def pool(self, dtype):
        if dtype not in self.pools:
            count = POOL_BYTES // 2
            self.pools[dtype] = tuple(self.torch.empty(count, dtype=torch_dtype(dtype), device="cuda").uniform_(-1, 1)
                                      for _ in range(2))
        return self.pools[dtype]

    def case(self, step):
        return Case(step, self.pool(step.dtype))

    def make(self, name, case, **overrides):
        """An engine, planned. "pkv" takes the fields of pkv_peer.PeerCase as overrides."""
        if name == "pkv":
            import pkv_peer
            plan, run = pkv_peer.make_with(case, **overrides)
            owner = run.__self__
            owner.out.fill_(float("nan"))  # what is not written shows
            return Engine(run, plan, owner.describe, owner)
        if name == "read_seq":
            if self.probe is None:
                raise RuntimeError("no read probe")
            return self.probe.engine(case)
        if self.flashinfer is None:
            raise RuntimeError("no FlashInfer")
        if name == "fi_persistent":
            return self.flashinfer.persistent(case)
        return self.flashinfer.decode(case, name == "fi_tensor")

    # ---- correctness ------------------------------------------------------------------------------

    def reference(self, case):
        """The longest and the shortest row: {row: output}, in fp64 where K of the row is small enough."""
        torch = self.torch
        by_length = sorted(range(len(case.lens)), key=lambda r: case.lens[r])
        outputs = {}
        k, v = case.kv[0]
        for row in {by_length[0], by_length[-1]}:
            length = case.lens[row]
            ids = case.indices[int(case.indptr[row]):int(case.indptr[row + 1])].long()
            wide = torch.float64 if length * case.hkv * case.d <= FP64_ELEMENTS else torch.float32

            def tokens(pages):
                picked = pages[ids]
                picked = picked.permute(2, 0, 1, 3) if case.nhd else picked.permute(1, 0, 2, 3)
                return picked.reshape(case.hkv, -1, case.d)[:, :length].to(wide)

            q = case.q[row].to(wide).view(case.hkv, -1, case.d)
            logits = q @ tokens(k).transpose(1, 2) * case.d ** -0.5
            outputs[row] = (torch.softmax(logits, -1) @ tokens(v)).reshape(case.hq, case.d)
        return outputs

    def error(self, case, out, reference):
        """Largest absolute error; NaN and inf anywhere in the output give inf."""
        out = out.view(len(case.lens), case.hq, case.d)
        if not bool(self.torch.isfinite(out).all()):
            return float("inf")
        return max(float((out[row].to(want.dtype) - want).abs().max()) for row, want in reference.items())

    # ---- time -------------------------------------------------------------------------------------

    def time_once(self, runner):
        """Microseconds a call. The scrub leaves clean lines of nobody's in the L2."""
        torch = self.torch
        self.scrub.sum()
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        runner.enqueue()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) * 1e3 / runner.calls

    def interleave(self, runners, repeats=REPEATS):
        """{name: (median, spread)} of runners that alternate."""
        times = {name: [] for name in runners}
        for i in range(WARMUPS + repeats):
            for name, runner in runners.items():
                t = self.time_once(runner)
                if i >= WARMUPS:
                    times[name].append(t)
        return {name: (statistics.median(t), (max(t) - min(t)) / statistics.median(t)) for name, t in times.items()}

    def require_speed(self, case, engine):
        """Some paths of FlashInfer take seconds on some steps: hundreds of such calls are no measurement."""
        begun = time.perf_counter()
        engine.run(case.q, *case.kv[0])
        self.torch.cuda.synchronize()
        seconds = time.perf_counter() - begun
        if seconds > SLOW_SECONDS:
            raise RuntimeError(f"a call takes {seconds:.2f} s")

    def prepare(self, case, name, build, row, progress, reference, runner=Graph):
        """One engine checked and captured, or None with its failure in the row."""
        if not progress.allows(name):
            row[f"{name}_fail"] = "ended an earlier process"
            return None
        progress.at(name)
        try:
            engine = build()
            out = engine.run(case.q, *case.kv[0])
            self.torch.cuda.synchronize()
            self.require_speed(case, engine)
            if out is not None and reference:
                error = self.error(case, out, reference)
                row[f"{name}_err"] = error
                if not error <= TOLERANCE[case.step.dtype]:
                    row[f"{name}_wrong"] = True
            if engine.describe:
                row[f"{name}_is"] = engine.describe()
            return runner(case, engine)
        except Exception as error:
            row[f"{name}_fail"] = supervise.failure(error)
            if self.tracebacks:
                traceback.print_exc()
            if not self.is_healthy():  # CUDA's context is lost: the parent starts another process
                sys.stdout.flush()
                os._exit(3)
            return None

    def compare(self, case, builds, row, progress, check=True, runner=Graph):
        """Times every engine of {name: function that makes an Engine}, or (function, runner); fills the row."""
        reference = self.reference(case) if check else {}
        runners = {}
        for name, build in builds.items():
            build, own_runner = build if isinstance(build, tuple) else (build, runner)
            made = self.prepare(case, name, build, row, progress, reference, own_runner)
            if made is not None:
                runners[name] = made
        row["calls"] = case.calls
        row["layers"] = case.layers
        for name, (time_us, spread) in self.interleave(runners).items():
            row[name] = round(time_us, 3)
            row[f"{name}_spread"] = round(spread, 4)
        return row

    def standard(self, step, progress, engines=ENGINES, overrides=None):
        """Ours, the peers and the limit on one step."""
        case = self.case(step)
        row = step.facts()
        builds = {name: (lambda name=name: self.make(name, case, **((overrides or {}) if name == "pkv" else {})))
                  for name in engines}
        self.compare(case, builds, row, progress)
        return add_ratios(row)


def add_ratios(row, ours="pkv"):
    """peer: best peer's name and time; ratio: peer / ours; share: limit / ours."""
    times = {name: row[name] for name in PEERS if name in row}
    if times:
        row["peer"] = min(times, key=times.get)
        row["peer_us"] = times[row["peer"]]
    if ours in row:
        if times:
            row["ratio"] = round(row["peer_us"] / row[ours], 4)
        if "read_seq" in row:
            row["share"] = round(row["read_seq"] / row[ours], 4)
        row["gb_per_s"] = round(row["MiB"] * 1.048576e6 / row[ours] / 1e3, 1)
    return row


def cell(row, name, width=8):
    if name in row:
        return f"{row[name]:{width}.1f}"
    return f"{'fail' if name + '_fail' in row else '-':>{width}}"


HEADER = (f"{'case':28s} {'MiB':>7s} {'pkv':>8s} {'core':>8s} {'tensor':>8s} {'persist':>8s} {'limit':>8s} "
          f"{'ratio':>6s} {'share':>6s}  kernel")


def standard_line(row):
    parts = [f"{row['case']:28s} {row['MiB']:7.1f}"] + [cell(row, name) for name in ENGINES]
    parts += [f"{row[key]:6.3f}" if key in row else f"{'-':>6s}" for key in ("ratio", "share")]
    notes = row.get("pkv_is", "") + "".join(f" WRONG:{n}({row[n + '_err']:.1e})" for n in ENGINES if n + "_wrong" in row)
    if "pkv_fail" in row:
        notes += " pkv: " + row["pkv_fail"]
    return " ".join(parts) + "  " + notes


def opener(measure, use_peers=True, header=None):
    """open_bench of supervise.run, around measure(bench, item, progress) -> row."""
    def open_bench(args):
        bench = Bench(use_peers=use_peers)
        bench.tracebacks = args.trace
        print(bench.facts()["device"], bench.sms, "SMs;", "case", args.child, "on", flush=True)
        if header:
            print(header, flush=True)

        def measure_one(item, progress):
            gc.collect()
            return measure(bench, item, progress)

        return measure_one, bench.is_healthy, bench.facts()
    return open_bench


def main():
    parser = argparse.ArgumentParser(description="The standard steps: ours, FlashInfer's paths and the limit")
    supervise.add_arguments(parser, 240, "cases.json")
    parser.add_argument("--no-peers", action="store_true", help="ours and the limit only")
    args = parser.parse_args()
    steps = supervise.selected(args, step_cases.standard_steps(), lambda step: step.name)
    engines = ("pkv", "read_seq") if args.no_peers else ENGINES

    def measure(bench, step, progress):
        row = bench.standard(step, progress, engines)
        print(standard_line(row), flush=True)
        return row

    def finish(rows, facts):
        ratios = [row["ratio"] for row in rows if "ratio" in row]
        summary = {"worst_ratio": min(ratios, default=None), "below_1": sum(r < 1 for r in ratios),
                   "wrong": [row["case"] for row in rows if any(k.endswith("_wrong") for k in row)]}
        print("summary:", summary, flush=True)
        return summary

    return supervise.run(args, steps, lambda step: step.name, opener(measure, not args.no_peers, HEADER), finish)


if __name__ == "__main__":
    sys.exit(main())
