// The list of what a tile prefetches. No intrinsics: vectors of addresses are the compiler's own.
// Not here: which rows a tile has and who follows the list (tile_inl.h, which includes this file).

// No include guard: a part of tile_inl.h, compiled once an instruction set; tests include it by itself.

PKV_TILE_BEGIN
namespace pkv {
namespace PKV_TILE_NAMESPACE {

/// Bytes that lie together, `count` times a stride apart, all that `outer_count` times.
struct Run {
  const std::byte* begin;
  std::int64_t bytes;
  std::int32_t count = 1;
  std::int32_t outer_count = 1;
  std::int64_t stride = 0;
  std::int64_t outer_stride = 0;

  /// what(from): each of them.
  template <typename What>
  PKV_TILE_INLINE void for_each(const What& what) const {
    for (std::int32_t i = 0; i < outer_count; ++i) {
      const std::byte* from = begin + i * outer_stride;
      for (std::int32_t j = 0; j < count; ++j, from += stride) {
        what(from);
      }
    }
  }
};

/// Lists the lines of a tile in the order in which they are asked for. What lies together is cut into pieces, and
/// `streams` of them (1, 2, 4 or 8) are gone through side by side, a pair of lines of each in turn. Addresses are
/// stored kAddresses at a time, a vector.
template <int kAddresses>
class PairListOf {
 public:
  /// tile_bytes: of a whole tile, which is cut into `streams` pieces at least.
  PairListOf(const std::byte** pairs, std::int64_t tile_bytes, std::int32_t streams)
      : begin_(pairs),
        next_(pairs),
        streams_(streams),
        most_bytes_(std::max<std::int64_t>(tile_bytes / streams, kPairBytes)) {}

  PKV_TILE_INLINE void append(const Run& run) {
    run.for_each([&](const std::byte* from) PKV_TILE_ATTR {
      if (run.bytes <= most_bytes_) {
        add_piece(from, run.bytes);
      } else {
        const std::int64_t parts = ceil_div(run.bytes, most_bytes_);
        const std::int64_t part_bytes = round_up<std::int64_t>(ceil_div(run.bytes, parts), kPairBytes);
        for (std::int64_t at = 0; at < run.bytes; at += part_bytes) {
          add_piece(from + at, part_bytes);
        }
      }
    });
  }
  /// Pieces of `bytes` bytes.
  PKV_TILE_INLINE void append(const std::byte* const* pieces, std::int32_t count, std::int64_t bytes) {
    const std::byte** to = next_;
    std::int32_t i = 0;
    if (bytes == 2 * kPairBytes) {  // short enough to take turns by themselves (0006)
      for (; i < count; ++i, to += 2) {
        to[0] = pieces[i];
        to[1] = pieces[i] + kPairBytes;
      }
    }
    next_ = to;
    const std::int64_t num_pairs = ceil_div<std::int64_t>(bytes, kPairBytes);
    switch (bytes < kLeastLongPiece ? kMostStreams : streams_) {
      case 1: i += append_groups<1>(pieces + i, count - i, num_pairs); break;
      case 2: i += append_groups<2>(pieces + i, count - i, num_pairs); break;
      case 4: i += append_groups<4>(pieces + i, count - i, num_pairs); break;
      default: i += append_groups<8>(pieces + i, count - i, num_pairs); break;
    }
    to = next_;
    for (std::int64_t at = 0; at < bytes && i < count; at += kPairBytes) {
      for (std::int32_t j = i; j < count; ++j) {
        *to++ = pieces[j] + at;
      }
    }
    next_ = to;
  }
  /// Ends the list; if it is shorter than `least`, its first pair fills it up.
  void finish(std::int64_t least) {
    flush();
    for (const std::byte** const end = begin_ + least; next_ < end; ++next_) {
      *next_ = *begin_;
    }
  }

 private:
  static constexpr std::int32_t kMostPieces = 64;
  using Addresses __attribute__((vector_size(8 * kAddresses))) = std::uintptr_t;

  /// The first pieces, as many as are a multiple of kStreams, of num_pairs pairs each; returns how many.
  template <int kStreams>
  PKV_TILE_INLINE std::int32_t append_groups(const std::byte* const* pieces, std::int32_t count,
                                             std::int64_t num_pairs) {
    constexpr int kTogether = std::max(kAddresses / kStreams, 1);  // pairs of each piece that are stored at once
    constexpr int kVectors = kStreams * kTogether / kAddresses;
    const std::byte** to = next_;
    std::int32_t i = 0;
    for (; i + kStreams <= count; i += kStreams) {
      std::int64_t done = 0;
      if (num_pairs >= kTogether) {
        const std::byte* first[kVectors * kAddresses];
        for (int j = 0; j < kVectors * kAddresses; ++j) {
          first[j] = pieces[i + j % kStreams] + j / kStreams * kPairBytes;
        }
        Addresses at[kVectors];
        std::memcpy(at, first, sizeof(at));
        for (; done + kTogether <= num_pairs; done += kTogether) {
          for (Addresses& some : at) {
            std::memcpy(to, &some, sizeof(some));
            to += kAddresses;
            some += static_cast<std::uintptr_t>(kTogether) * kPairBytes;
          }
        }
      }
      for (; done < num_pairs; ++done) {
        for (int j = 0; j < kStreams; ++j) {
          *to++ = pieces[i + j] + done * kPairBytes;
        }
      }
    }
    next_ = to;
    return i;
  }

  /// Pieces of one size are listed together.
  PKV_TILE_INLINE void add_piece(const std::byte* from, std::int64_t bytes) {
    if (__builtin_expect(num_pieces_ == kMostPieces || bytes != piece_bytes_, 0)) {
      flush();
    }
    piece_bytes_ = bytes;
    pieces_[num_pieces_++] = from;
  }
  __attribute__((noinline)) void flush() {
    append(pieces_, num_pieces_, piece_bytes_);
    num_pieces_ = 0;
  }

  static constexpr std::int32_t kMostStreams = 8;
  /// Shorter pieces go kMostStreams side by side on every CPU: of 2 KiB (pages of one token, 8 heads) eight read at .70
  /// of the probe into the L2 of a Zen 5, two at .62.
  static constexpr std::int64_t kLeastLongPiece = 4096;

  const std::byte** begin_;
  const std::byte** next_;
  const std::int32_t streams_;
  const std::int64_t most_bytes_;
  std::int64_t piece_bytes_ = 0;
  std::int32_t num_pieces_ = 0;
  const std::byte* pieces_[kMostPieces];
};

}  // namespace PKV_TILE_NAMESPACE
}  // namespace pkv
PKV_TILE_END
