// The one list of tensor-core instantiations: X(head_dim, matrices, head split, warps, stages, blocks an SM).
// Not here: what the columns mean (decode.cuh), the choice between them (launch.cc).
//
// Query heads per KV head: 8 * matrices * head split. Wide kernels have rings of 64 or 128 KB and an SM to
// themselves; narrow ones rings of 32 or 64 KB, two blocks an SM, one on GPUs with 100 KB of shared memory (compute
// capability 8.6, 8.9, 12.0). Left out: head dimensions above 128 in groups above 16 for those GPUs (the
// simple kernel serves them), and two matrices a warp with a split at 256, which spill.
#pragma once

#define PKV_DECODE_D64(X)  \
  X(64, 1, 1, 8, 4, 1)     \
  X(64, 1, 1, 4, 4, 2)     \
  X(64, 1, 2, 8, 8, 1)     \
  X(64, 2, 1, 4, 4, 2)     \
  X(64, 2, 2, 8, 8, 1)     \
  X(64, 2, 2, 4, 8, 2)
#define PKV_DECODE_D128(X) \
  X(128, 1, 1, 8, 2, 1)    \
  X(128, 1, 1, 4, 2, 2)    \
  X(128, 1, 2, 8, 4, 1)    \
  X(128, 2, 1, 4, 2, 2)    \
  X(128, 2, 2, 8, 4, 1)    \
  X(128, 2, 2, 4, 2, 2)
#define PKV_DECODE_D256(X) \
  X(256, 1, 1, 4, 2, 1)    \
  X(256, 1, 1, 2, 2, 2)    \
  X(256, 1, 2, 4, 4, 1)    \
  X(256, 2, 1, 2, 2, 2)    \
  X(256, 1, 4, 4, 4, 1)
