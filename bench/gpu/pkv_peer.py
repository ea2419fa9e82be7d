"""PersistentKV's CUDA backend for a Python harness that times engines beside each other.

make(case) -> (plan, run): `case` has lens, hq, hkv, indptr, indices (device), kv (layers of (K, V) pages
[page][kv_head][slot][d]); plan() plans on the host and copies; run(q, k, v) enqueues on torch's current stream.
The library is the file named by PKV_PEER_LIB. Not here: timing.
"""
import ctypes
import os

import numpy as np
import torch

NAME = "pkv"


class PeerCase(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int32) for name in
                ("num_rows", "num_q_heads", "num_kv_heads", "head_dim", "page_size", "dtype", "nhd", "chunk_tokens",
                 "route", "splits", "fused", "entry", "width", "tile_tokens")]
    _fields_ += [("num_pages", ctypes.c_int64)] + [(name, ctypes.c_void_p)
                                                   for name in ("seq_lens", "kv_indptr", "kv_indices")]


def load():
    lib = ctypes.CDLL(os.environ["PKV_PEER_LIB"])
    lib.pkv_peer_open.restype = ctypes.c_void_p
    lib.pkv_peer_error.restype = ctypes.c_char_p
    lib.pkv_peer_error.argtypes = [ctypes.c_void_p]
    lib.pkv_peer_plan.argtypes = [ctypes.c_void_p, ctypes.POINTER(PeerCase), ctypes.c_void_p]
    lib.pkv_peer_run.argtypes = [ctypes.c_void_p] * 6
    lib.pkv_peer_close.argtypes = [ctypes.c_void_p]
    lib.pkv_peer_describe.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int]
    return lib


class Engine:
    """One case's plan; keeps the host arrays that it points to."""

    def __init__(self, lib, case, **overrides):
        self.lib = lib
        self.handle = lib.pkv_peer_open()
        self.check(0 if not lib.pkv_peer_error(self.handle) else 1)
        k = case.kv[0][0]
        self.seq = np.asarray(case.lens, dtype=np.int32)
        self.indptr = case.indptr.numpy().astype(np.int32).copy()
        self.indices = case.indices.cpu().numpy().astype(np.int32).copy()
        page_size, nhd = getattr(case, "page_size", 16), getattr(case, "nhd", 0)
        dtype = {torch.float16: 0, torch.bfloat16: 1, torch.float32: 2}[k.dtype]
        fields = dict(num_rows=len(case.lens), num_q_heads=case.hq, num_kv_heads=case.hkv, head_dim=k.shape[-1],
                      page_size=page_size, dtype=dtype, nhd=nhd, chunk_tokens=0, route=-1, splits=0, fused=0, entry=0, width=0, tile_tokens=0)
        fields.update(overrides)
        self.case = PeerCase(num_pages=k.shape[0], seq_lens=self.seq.ctypes.data, kv_indptr=self.indptr.ctypes.data,
                             kv_indices=self.indices.ctypes.data, **fields)
        self.out = torch.empty(len(case.lens), case.hq, k.shape[-1], dtype=k.dtype, device=k.device)

    def __del__(self):
        self.lib.pkv_peer_close(self.handle)

    def check(self, code):
        if code:
            raise RuntimeError(self.lib.pkv_peer_error(self.handle).decode())

    def stream(self):
        return torch.cuda.current_stream().cuda_stream

    def plan(self):
        self.check(self.lib.pkv_peer_plan(self.handle, ctypes.byref(self.case), self.stream()))

    def run(self, q, k, v):
        self.check(self.lib.pkv_peer_run(self.handle, q.data_ptr(), k.data_ptr(), v.data_ptr(), self.out.data_ptr(),
                                         self.stream()))
        return self.out

    def describe(self):
        text = ctypes.create_string_buffer(256)
        self.lib.pkv_peer_describe(self.handle, text, 256)
        return text.value.decode()


_lib = None


def make_with(case, **overrides):
    global _lib
    _lib = _lib or load()
    engine = Engine(_lib, case, **overrides)
    engine.plan()
    return engine.plan, engine.run


def make(case):
    return make_with(case)
