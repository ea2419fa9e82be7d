// TextTable: aligned columns of plain text, optionally coloured.
// Not here: what is in the cells (tables.cc).
#pragma once

#include <string>
#include <vector>

#include "report/report.h"

namespace pkv {

enum class CellTone : std::uint8_t { kNormal, kDim, kGood, kBad, kBold };

/// `text` in a tone's colour; unchanged in plain style.
std::string coloured(std::string_view text, CellTone tone, TextStyle style);

class TextTable {
 public:
  enum class Align : std::uint8_t { kLeft, kRight };
  struct Column {
    std::string title;
    Align align = Align::kRight;
  };

  explicit TextTable(std::vector<Column> columns) : columns_(std::move(columns)) {}

  /// One cell a column.
  void add_row(std::vector<std::string> cells, CellTone tone = CellTone::kNormal);
  /// An empty line between groups of rows.
  void add_gap() { rows_.emplace_back(); }
  /// A column whose cells are all "-" tells nothing and is left out. Every line ends with a newline.
  [[nodiscard]] std::string render(TextStyle style) const;

 private:
  struct Row {
    std::vector<std::string> cells;  // empty: a gap
    CellTone tone = CellTone::kNormal;
  };
  [[nodiscard]] bool tells_something(std::size_t column) const;
  [[nodiscard]] std::size_t width(std::size_t column) const;

  std::vector<Column> columns_;
  std::vector<Row> rows_;
};

/// "-" when not set.
std::string cell(const std::optional<double>& value, int decimals);

}  // namespace pkv
