// Column widths and ANSI colours.
#include "report/text_table.h"

#include <fmt/format.h>

#include <algorithm>

namespace pkv {
namespace {

constexpr std::string_view kNothing = "-";

std::string_view ansi_code(CellTone tone) {
  switch (tone) {
    case CellTone::kNormal: return "";
    case CellTone::kDim: return "\x1b[2m";
    case CellTone::kGood: return "\x1b[32m";
    case CellTone::kBad: return "\x1b[31m";
    case CellTone::kBold: return "\x1b[1m";
  }
  return "";
}

std::string padded(std::string_view text, std::size_t width, TextTable::Align align) {
  return align == TextTable::Align::kLeft ? fmt::format("{:<{}}", text, width) : fmt::format("{:>{}}", text, width);
}

void trim_right(std::string& line) {
  while (!line.empty() && line.back() == ' ') {
    line.pop_back();
  }
}

}  // namespace

std::string coloured(std::string_view text, CellTone tone, TextStyle style) {
  if (style == TextStyle::kPlain || tone == CellTone::kNormal) {
    return std::string(text);
  }
  return fmt::format("{}{}\x1b[0m", ansi_code(tone), text);
}

void TextTable::add_row(std::vector<std::string> cells, CellTone tone) {
  cells.resize(columns_.size());
  rows_.push_back({std::move(cells), tone});
}

bool TextTable::tells_something(std::size_t column) const {
  return std::any_of(rows_.begin(), rows_.end(),
                     [&](const Row& row) { return !row.cells.empty() && row.cells[column] != kNothing; });
}

std::size_t TextTable::width(std::size_t column) const {
  std::size_t width = columns_[column].title.size();
  for (const Row& row : rows_) {
    width = row.cells.empty() ? width : std::max(width, row.cells[column].size());
  }
  return width;
}

std::string TextTable::render(TextStyle style) const {
  std::vector<std::pair<std::size_t, std::size_t>> shown;  // column, width
  for (std::size_t column = 0; column < columns_.size(); ++column) {
    if (rows_.empty() || tells_something(column)) {
      shown.emplace_back(column, width(column));
    }
  }
  const auto line = [&](const auto& text_of, CellTone tone) {
    std::string out;
    for (const auto& [column, column_width] : shown) {
      out += (out.empty() ? "" : "  ") + padded(text_of(column), column_width, columns_[column].align);
    }
    trim_right(out);
    return coloured(out, tone, style) + "\n";
  };
  std::string out = line([&](std::size_t column) { return columns_[column].title; }, CellTone::kBold);
  for (const Row& row : rows_) {
    out += row.cells.empty() ? "\n" : line([&](std::size_t column) { return row.cells[column]; }, row.tone);
  }
  return out;
}

std::string cell(const std::optional<double>& value, int decimals) {
  return value.has_value() ? fmt::format("{:.{}f}", *value, decimals) : std::string(kNothing);
}

}  // namespace pkv
