"""Queries, K and V of one case in every layout that an engine wants, with the same values, in sets that rotate.

Memory comes from our library, so that all engines read the same kind of memory pages. Not here: engines.
"""
import ctypes
import random

import numpy as np

from cases import ELEMENT_BYTES

TYPE_INDEX = {"f16": 0, "bf16": 1, "f32": 2}
NUMPY_TYPES = {"f16": np.float16, "bf16": np.uint16, "f32": np.float32}  # numpy has no bf16


class PeerCase(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int32) for name in
                ("num_rows", "num_q_heads", "num_kv_heads", "head_dim", "page_size", "dtype", "nhd", "splits")]
    _fields_ += [("num_pages", ctypes.c_int64), ("seq_lens", ctypes.c_void_p), ("kv_indptr", ctypes.c_void_p),
                 ("route", ctypes.c_char_p)]


class StepTensors(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in ("kv_indices", "k", "v", "q", "out")]


class FillRow(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p)]
    _fields_ += [(name, ctypes.c_int32) for name in
                 ("dtype", "num_kv_heads", "head_dim", "group_size", "seq_len", "page_size", "is_value")]
    _fields_ += [("pages", ctypes.c_void_p)]
    _fields_ += [(name, ctypes.c_int64) for name in ("page_stride", "head_stride", "slot_stride")]
    _fields_ += [("seed", ctypes.c_uint64), ("q", ctypes.c_void_p)]


def load_library(path):
    lib = ctypes.CDLL(path)
    lib.pkv_peer_open.restype = ctypes.c_void_p
    lib.pkv_peer_open.argtypes = [ctypes.c_int, ctypes.c_char_p]
    lib.pkv_peer_error.restype = ctypes.c_char_p
    lib.pkv_peer_error.argtypes = [ctypes.c_void_p]
    lib.pkv_peer_close.argtypes = [ctypes.c_void_p]
    lib.pkv_peer_case.argtypes = [ctypes.c_void_p, ctypes.POINTER(PeerCase)]
    lib.pkv_peer_step.argtypes = [ctypes.c_void_p, ctypes.POINTER(StepTensors)]
    lib.pkv_peer_probe.argtypes = [ctypes.c_void_p, ctypes.POINTER(StepTensors), ctypes.POINTER(ctypes.c_int64),
                                   ctypes.POINTER(ctypes.c_int64)]
    lib.pkv_peer_oracle.argtypes = [ctypes.c_void_p, ctypes.POINTER(StepTensors), ctypes.c_void_p]
    lib.pkv_peer_plan_ns.restype = ctypes.c_int64
    lib.pkv_peer_plan_ns.argtypes = [ctypes.c_void_p]
    lib.pkv_peer_describe.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int]
    lib.pkv_peer_fill.argtypes = [ctypes.POINTER(FillRow)]
    lib.pkv_peer_allocate.restype = ctypes.c_void_p
    lib.pkv_peer_allocate.argtypes = [ctypes.c_int64, ctypes.c_int]
    lib.pkv_peer_release.argtypes = [ctypes.c_void_p]
    lib.pkv_peer_huge_bytes.restype = ctypes.c_int64
    lib.pkv_peer_huge_bytes.argtypes = [ctypes.c_void_p, ctypes.c_int64]
    return lib


def round_to(values, dtype):
    """f32 values that a type can hold."""
    if dtype == "f16":
        return values.astype(np.float16).astype(np.float32)
    if dtype == "bf16":
        bits = values.view(np.uint32)
        return ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)
    return values


def in_type(values, dtype):
    """f32 values that a type can hold, in that type's bits."""
    if dtype == "bf16":
        return (np.ascontiguousarray(values).view(np.uint32) >> 16).astype(np.uint16)
    return values.astype(NUMPY_TYPES[dtype])


class Memory:
    """Bytes from our library, as a numpy array of `dtype`'s elements."""

    def __init__(self, lib, elements, dtype, huge):
        self.lib, self.bytes = lib, max(elements * ELEMENT_BYTES[dtype], 1)
        self.address = lib.pkv_peer_allocate(self.bytes, 1 if huge else 0)
        if not self.address:
            raise MemoryError(f"{self.bytes} bytes for K and V")
        raw = (ctypes.c_uint8 * self.bytes).from_address(self.address)
        self.array = np.frombuffer(raw, dtype=NUMPY_TYPES[dtype])

    def huge_share(self):
        return self.lib.pkv_peer_huge_bytes(self.address, self.bytes) / self.bytes

    def release(self):
        self.array = None
        self.lib.pkv_peer_release(self.address)


class Store:
    """A case's tensors. Sets hold other values each; `num_sets` of them are over `pool_bytes`."""

    def __init__(self, lib, case, pool_bytes, huge, seed=1):
        self.lib, self.case, self.huge, self.seed = lib, case, huge, seed
        self.num_sets = max(1, -(-pool_bytes // case.kv_bytes))
        self.memory = {}
        rng = np.random.default_rng(seed)
        q = rng.standard_normal((len(case.lens), case.hq, case.d)).astype(np.float32)
        self.q = np.ascontiguousarray(round_to(q, case.dtype))
        self.row_begin = np.concatenate([[0], np.cumsum(case.lens)]).astype(np.int64)

    def release(self):
        for pair in self.memory.values():
            for memory in pair:
                memory.release()
        self.memory = {}

    def huge_share(self, name):
        return min(memory.huge_share() for memory in self.memory[name])

    def fill(self, base, is_value, set_idx, row, pages, page_size, page_stride, head_stride, slot_stride):
        case = self.case
        pages = np.ascontiguousarray(pages, dtype=np.int32)
        self.lib.pkv_peer_fill(ctypes.byref(FillRow(
            base=base, dtype=TYPE_INDEX[case.dtype], num_kv_heads=case.hkv, head_dim=case.d, group_size=case.group,
            seq_len=case.lens[row], page_size=page_size, is_value=is_value, pages=pages.ctypes.data,
            page_stride=page_stride, head_stride=head_stride, slot_stride=slot_stride,
            seed=(self.seed * 1000003 + set_idx) * 65537 + row, q=self.q[row].ctypes.data)))

    def allocate(self, name, elements):
        self.memory[name] = [Memory(self.lib, elements, self.case.dtype, self.huge) for _ in range(2)]
        return self.memory[name]

    def contiguous(self, token_major):
        """K and V as [set][row][head][token][d] or [set][row][token][head][d], rows back to back."""
        name = "token_major" if token_major else "head_major"
        if name not in self.memory:
            case = self.case
            pair = self.allocate(name, self.num_sets * self.set_elements)
            for set_idx in range(self.num_sets):
                for row, length in enumerate(case.lens):
                    strides = (case.d, case.hkv * case.d) if token_major else (length * case.d, case.d)
                    for is_value, memory in enumerate(pair):
                        self.fill(memory.address + self.offset(set_idx, row) * ELEMENT_BYTES[case.dtype], is_value,
                                  set_idx, row, [0], length, 0, *strides)
        return self.memory[name]

    def padded(self):
        """K and V as [set][row][head][longest][d]: a batch for engines that take lengths beside a rectangle."""
        if "padded" not in self.memory:
            case, longest = self.case, max(self.case.lens)
            row_elements = case.hkv * longest * case.d
            pair = self.allocate("padded", self.num_sets * len(case.lens) * row_elements)
            for set_idx in range(self.num_sets):
                for row in range(len(case.lens)):
                    for is_value, memory in enumerate(pair):
                        begin = (set_idx * len(case.lens) + row) * row_elements
                        self.fill(memory.address + begin * ELEMENT_BYTES[case.dtype], is_value, set_idx, row, [0],
                                  longest, 0, longest * case.d, case.d)
        return self.memory["padded"]

    @property
    def set_elements(self):
        return sum(self.case.lens) * self.case.hkv * self.case.d

    def offset(self, set_idx, row):
        """Elements before a row of the contiguous layouts."""
        return set_idx * self.set_elements + int(self.row_begin[row]) * self.case.hkv * self.case.d

    def addresses(self, memory, set_idx):
        return [memory.address + self.offset(set_idx, row) * ELEMENT_BYTES[self.case.dtype]
                for row in range(len(self.case.lens))]

    def paged(self):
        """Our cache: pages dealt at random from twice as many. Returns K, V and the page ids of each set."""
        case = self.case
        pages_of_row = [-(-length // case.page) for length in case.lens]
        self.indptr = np.concatenate([[0], np.cumsum(pages_of_row)]).astype(np.int32)
        used = int(self.indptr[-1])
        self.num_pages = 2 * used * self.num_sets
        ids = np.random.default_rng(self.seed + 1).permutation(self.num_pages).astype(np.int32)
        self.page_ids = [np.ascontiguousarray(ids[s * used:(s + 1) * used]) for s in range(self.num_sets)]
        page_stride = case.page * case.hkv * case.d
        strides = (case.d, case.hkv * case.d) if case.nhd else (case.page * case.d, case.d)
        pair = self.allocate("paged", self.num_pages * page_stride)
        for set_idx, set_ids in enumerate(self.page_ids):
            for row in range(len(case.lens)):
                row_ids = set_ids[self.indptr[row]:self.indptr[row + 1]]
                for is_value, memory in enumerate(pair):
                    self.fill(memory.address, is_value, set_idx, row, row_ids, case.page, page_stride, *strides)
        return pair, self.page_ids


def deal_blocks(num_blocks, seed):
    """Block ids in random order."""
    ids = list(range(num_blocks))
    random.Random(seed).shuffle(ids)
    return ids
