// The one list of tensor-core instantiations: X(head_dim, matrices, head split, warps, stages, blocks an SM).
// Not here: what the columns mean (decode.cuh).
//
// Every ring is 64 KB, so that one block fits every GPU from compute capability 8.0 on and an H100 holds
// three; query heads per KV head: 8 * matrices * head split.
#pragma once

#define PKV_DECODE_D64(X) \
  X(64, 1, 1, 4, 4, 3)    \
  X(64, 2, 1, 4, 4, 3)    \
  X(64, 2, 2, 4, 8, 3)
#define PKV_DECODE_D128(X) \
  X(128, 1, 1, 4, 2, 3)    \
  X(128, 2, 1, 4, 2, 2)    \
  X(128, 2, 2, 4, 4, 2)
#define PKV_DECODE_D256(X) \
  X(256, 1, 1, 2, 2, 3)    \
  X(256, 2, 1, 2, 2, 3)    \
  X(256, 2, 2, 2, 4, 2)
