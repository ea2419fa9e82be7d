// ServeGen: pairs chunk-N-trace.csv and chunk-N-dataset.json in a folder or a tar; requests are drawn.
// Not here: the two files of a client (servegen_client.cc), variates (renewal.cc).
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <limits>
#include <map>
#include <optional>
#include <utility>

#include "trace/formats.h"
#include "trace/renewal.h"
#include "trace/servegen_client.h"

namespace pkv::trace_internal {
namespace {

namespace fs = std::filesystem;

/// A bound against typing errors in rates; the public slice implies 219,720.
constexpr double kMaxExpectedRequests = 20e6;

enum class ChunkPart : std::uint8_t { kRates, kLengths };

struct ChunkFile {
  std::int64_t number = 0;
  ChunkPart part = ChunkPart::kRates;
};

/// "chunk-12-trace.csv" or "chunk-12-dataset.json", folders before it not counted.
std::optional<ChunkFile> parse_chunk_name(std::string_view path) {
  constexpr std::string_view kPrefix = "chunk-";
  const std::size_t slash = path.find_last_of('/');
  std::string_view name = slash == std::string_view::npos ? path : path.substr(slash + 1);
  if (!name.starts_with(kPrefix)) {
    return std::nullopt;
  }
  name.remove_prefix(kPrefix.size());
  ChunkFile chunk;
  const auto [stop, error] = std::from_chars(name.data(), name.data() + name.size(), chunk.number);
  if (error != std::errc() || chunk.number < 0) {
    return std::nullopt;
  }
  name.remove_prefix(static_cast<std::size_t>(stop - name.data()));
  if (name != "-trace.csv" && name != "-dataset.json") {
    return std::nullopt;
  }
  chunk.part = name == "-trace.csv" ? ChunkPart::kRates : ChunkPart::kLengths;
  return chunk;
}

struct Client {
  std::optional<RateTable> rates;
  std::optional<std::vector<LengthWindow>> lengths;
};

/// By number, so that neither the order in a folder nor in an archive matters.
using Clients = std::map<std::int64_t, Client>;

Status add_file(TextInput input, const ChunkFile& chunk, Clients& clients) {
  Client& client = clients[chunk.number];
  const bool rates = chunk.part == ChunkPart::kRates;
  if (rates ? client.rates.has_value() : client.lengths.has_value()) {
    return Error{.code = ErrorCode::kInvalidArgument,
                 .message = fmt::format("a second file for the client chunk-{}", chunk.number),
                 .where = input.name()};
  }
  if (rates) {
    Result<RateTable> table = parse_rate_table(input);
    PKV_RETURN_IF_ERROR(table);
    client.rates = std::move(table).value();
  } else {
    Result<std::vector<LengthWindow>> windows = parse_length_windows(input);
    PKV_RETURN_IF_ERROR(windows);
    client.lengths = std::move(windows).value();
  }
  return {};
}

Status add_archive(const InputFile& file, Clients& clients) {
  Result<ArchiveReader> archive = ArchiveReader::open(file);
  PKV_RETURN_IF_ERROR(archive);
  for (;;) {
    const Result<bool> more = archive->next_entry();
    PKV_RETURN_IF_ERROR(more);
    if (!more.value()) {
      return {};
    }
    if (const auto chunk = parse_chunk_name(archive->entry_name())) {
      PKV_RETURN_IF_ERROR(add_file(archive->text(), *chunk, clients));
    }
  }
}

Status add_folder_file(const fs::path& path, const ChunkFile& chunk, Clients& clients) {
  const Result<InputFile> file = InputFile::open(path.string());
  PKV_RETURN_IF_ERROR(file);
  Result<ArchiveReader> archive = ArchiveReader::open(*file);
  PKV_RETURN_IF_ERROR(archive);
  const Result<bool> found = archive->next_entry();
  PKV_RETURN_IF_ERROR(found);
  if (!found.value()) {
    return Error{.code = ErrorCode::kIo, .message = "is empty", .where = path.string()};
  }
  return add_file(archive->text(), chunk, clients);
}

Status add_folder(const std::string& path, Clients& clients) {
  std::error_code error;
  for (fs::directory_iterator it(path, error), end; !error && it != end; it.increment(error)) {
    if (const auto chunk = parse_chunk_name(it->path().filename().string())) {
      PKV_RETURN_IF_ERROR(add_folder_file(it->path(), *chunk, clients));
    }
  }
  if (error) {
    return Error{.code = ErrorCode::kIo, .message = fmt::format("cannot be read: {}", error.message()), .where = path};
  }
  return {};
}

Status check_clients(const std::string& path, const Clients& clients) {
  if (clients.empty()) {
    return Error{.code = ErrorCode::kIo,
                 .message = "has no pair chunk-N-trace.csv, chunk-N-dataset.json (servegen)",
                 .where = path};
  }
  double expected = 0.0;
  for (const auto& [number, client] : clients) {
    if (!client.rates || !client.lengths) {
      return Error{.code = ErrorCode::kIo,
                   .message = fmt::format("chunk-{0}-{1} is missing beside chunk-{0}-{2}", number,
                                          client.rates ? "dataset.json" : "trace.csv",
                                          client.rates ? "trace.csv" : "dataset.json"),
                   .where = path};
    }
    for (const RateWindow& window : client.rates->windows) {
      expected += window.rate * kRateWindowSeconds;
    }
  }
  if (expected > kMaxExpectedRequests) {
    return Error{
        .code = ErrorCode::kInvalidArgument,
        .message = fmt::format("the rates imply {:.0f} requests, the limit is {:.0f}", expected, kMaxExpectedRequests),
        .where = path};
  }
  return {};
}

/// The last window of lengths that starts no later than `start_s`, else the first.
const LengthWindow& lengths_at(const std::vector<LengthWindow>& windows, double start_s) {
  const auto after = std::upper_bound(windows.begin(), windows.end(), start_s,
                                      [](double s, const LengthWindow& window) { return s < window.start_s; });
  return after == windows.begin() ? windows.front() : *(after - 1);
}

/// Draws all clients, each from its own stream of random numbers.
class Drawer {
 public:
  Drawer(std::uint64_t seed, double origin_s, TraceBuilder& builder)
      : seed_(seed), origin_s_(origin_s), builder_(builder) {}

  Status draw(std::int64_t number, const Client& client) {
    SplitMix64 mixed(seed_);
    SplitMix64 random(mixed() ^ (static_cast<std::uint64_t>(number) * 0xD1342543DE82EF95ULL));
    for (const RateWindow& window : client.rates->windows) {
      const LengthWindow& lengths = lengths_at(*client.lengths, window.start_s);
      if (lengths.input_tokens.empty() || lengths.output_tokens.empty()) {
        ++windows_without_lengths_;
        continue;
      }
      PKV_RETURN_IF_ERROR(draw_window(window, lengths, client.rates->file, random));
    }
    return {};
  }

  [[nodiscard]] std::int64_t windows_without_lengths() const { return windows_without_lengths_; }

 private:
  Status draw_window(const RateWindow& window, const LengthWindow& lengths, std::string_view file, SplitMix64& random) {
    const RenewalProcess process(window.family, window.shape, window.rate);
    for (double t = process.first(random); t < kRateWindowSeconds; t += process.interval(random)) {
      if (static_cast<double>(++num_drawn_) > 2.0 * kMaxExpectedRequests) {
        return Error{.code = ErrorCode::kInvalidArgument,
                     .message = fmt::format("more than {:.0f} requests were drawn; shape {} is too bursty",
                                            2.0 * kMaxExpectedRequests, window.shape),
                     .where = format_place(file, window.line)};
      }
      const std::int32_t prompt = lengths.input_tokens.draw(random);
      const std::int32_t output = lengths.output_tokens.draw(random);
      PKV_RETURN_IF_ERROR(builder_.add(
          {.arrival = window.start_s - origin_s_ + t, .prompt_len = prompt, .decode_len = output}, file, window.line));
    }
    return {};
  }

  std::uint64_t seed_;
  double origin_s_;
  TraceBuilder& builder_;
  std::int64_t windows_without_lengths_ = 0;
  std::int64_t num_drawn_ = 0;
};

}  // namespace

bool is_servegen_file(std::string_view file_name) { return parse_chunk_name(file_name).has_value(); }

Status read_servegen(const InputFile& file, const TraceReadOptions& options, TraceBuilder& builder) {
  Clients clients;
  PKV_RETURN_IF_ERROR(file.is_folder() ? add_folder(file.path(), clients) : add_archive(file, clients));
  PKV_RETURN_IF_ERROR(check_clients(file.path(), clients));
  double origin_s = std::numeric_limits<double>::infinity();
  for (const auto& [number, client] : clients) {
    origin_s = std::min(origin_s, client.rates->first_start_s);
  }
  Drawer drawer(options.seed, origin_s, builder);
  for (const auto& [number, client] : clients) {
    PKV_RETURN_IF_ERROR(drawer.draw(number, client));
  }
  builder.expect_any_order();
  builder.add_note(
      fmt::format("synthetic: requests drawn with seed {} from the distributions of {} clients; prompt and "
                  "output lengths are independent inside a client",
                  options.seed, clients.size()));
  if (drawer.windows_without_lengths() > 0) {
    builder.add_note(
        fmt::format("{} windows with a rate but without lengths left out", drawer.windows_without_lengths()));
  }
  return {};
}

}  // namespace pkv::trace_internal
