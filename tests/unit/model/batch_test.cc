// BlockTable and BatchState: what is read, what is refused and by which words.
#include "persistentkv/batch.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace pkv {
namespace {

using Ints = std::vector<std::int32_t>;

Result<BatchState> make_csr(const AttentionShape& shape, const Ints& seq_lens, const Ints& indptr, const Ints& indices,
                            std::int64_t num_pages, std::int32_t page_size = 4) {
  Result<BlockTable> table = BlockTable::csr(indptr, indices);
  if (!table.ok()) {
    return table.error();
  }
  return BatchState::make(
      {.shape = shape, .page_size = page_size, .seq_lens = seq_lens, .block_table = *table, .num_pages = num_pages});
}

TEST(BlockTable, CsrAndDense_GiveTheSameRows) {
  const Ints indptr = {0, 2, 2, 3};
  const Ints indices = {7, 8, 9};
  const BlockTable csr = BlockTable::csr(indptr, indices).value();
  const Ints padded = {7, 8, -1, -1, 9, -1};
  const BlockTable dense = BlockTable::dense(padded, 3, 2).value();
  EXPECT_EQ(csr.num_rows(), 3);
  EXPECT_EQ(csr.row(0)[1], 8);
  EXPECT_EQ(csr.row(1).size(), 0U);
  EXPECT_EQ(dense.row(2)[0], 9);
  EXPECT_EQ(dense.row(2).size(), 2U);
}

TEST(BlockTable, BadStructure_IsAnErrorThatNamesThePlace) {
  const Ints indices = {7, 8, 9};
  EXPECT_EQ(BlockTable::csr({}, indices).error().where, "kv_indptr");
  EXPECT_EQ(BlockTable::csr(Ints{1, 2}, indices).error().where, "kv_indptr[0]");
  EXPECT_EQ(BlockTable::csr(Ints{0, 2, 1}, indices).error().where, "kv_indptr[2]");
  EXPECT_EQ(BlockTable::csr(Ints{0, 2, 4}, indices).error().where, "kv_indptr[2]");
  EXPECT_EQ(BlockTable::dense(indices, 2, 2).error().code, ErrorCode::kOutOfRange);
  EXPECT_EQ(BlockTable::dense(indices, -1, 2).error().code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(BlockTable::dense(indices, 1 << 30, 1 << 30).error().code, ErrorCode::kOutOfRange);
}

TEST(BatchState, GoodBatch_CountsAttendedTokens) {
  const Ints seq_lens = {8, 0, 3};
  const Ints indptr = {0, 2, 2, 3};
  const Ints indices = {0, 5, 4};
  const auto batch = make_csr({}, seq_lens, indptr, indices, 6);
  ASSERT_TRUE(batch.ok());
  EXPECT_EQ(batch->num_rows(), 3);
  EXPECT_EQ(batch->attended_tokens(), 11);
}

TEST(BatchState, NoRows_IsGood) {
  const Ints indptr = {0};
  const auto batch = make_csr({}, {}, indptr, {}, 0);
  ASSERT_TRUE(batch.ok());
  EXPECT_EQ(batch->num_rows(), 0);
}

TEST(BatchState, BadRows_AreErrorsThatNameRowAndPosition) {
  const Ints indptr = {0, 2, 3};
  const Ints indices = {0, 5, 4};
  EXPECT_EQ(make_csr({}, {8, -1}, indptr, indices, 6).error().where, "seq_lens[1]");
  const Error too_long = make_csr({}, {9, 3}, indptr, indices, 6).error();
  EXPECT_EQ(too_long.where, "block_table row 0");
  EXPECT_EQ(too_long.message, "has 2 pages; 9 tokens at page size 4 need 3");
  const Error bad_page = make_csr({}, {8, 3}, indptr, indices, 5).error();
  EXPECT_EQ(bad_page.where, "block_table row 0, position 1");
  EXPECT_EQ(bad_page.message, "page id 5 is outside 0 to 4");
  const Ints negative = {0, 1, -7};
  EXPECT_EQ(make_csr({}, {8, 3}, indptr, negative, 6).error().where, "block_table row 1, position 0");
  EXPECT_EQ(make_csr({}, {8}, indptr, indices, 6).error().where, "block_table");
  EXPECT_EQ(make_csr({}, {8, 3}, indptr, indices, -1).error().where, "num_pages");
  EXPECT_EQ(make_csr({}, {8, 3}, indptr, indices, 6, 0).error().where, "page_size");
  EXPECT_EQ(make_csr({.num_q_heads = 7}, {8, 3}, indptr, indices, 6).error().where, "num_q_heads");
  EXPECT_EQ(make_csr({}, {2147483647, 3}, indptr, indices, 6).error().where, "block_table row 0");
}

TEST(BatchState, EntriesThatAreNotRead_MayHoldAnything) {
  const Ints indptr = {0, 4};
  const Ints indices = {-9, 1000, 2, 999};  // 12 tokens: pages 0 to 2; the window of 4 reads page 2 only
  EXPECT_TRUE(make_csr({.sliding_window_tokens = 4}, {12}, indptr, indices, 3).ok());
  EXPECT_FALSE(make_csr({.sliding_window_tokens = 5}, {12}, indptr, indices, 3).ok());
}

TEST(SeqLensFromLastPageLen, FlashInferForm_GivesLengths) {
  const Ints indptr = {0, 3, 3, 4};
  const Ints last = {1, 0, 16};
  EXPECT_EQ(seq_lens_from_last_page_len(indptr, last, 16).value(), (Ints{33, 0, 16}));
  EXPECT_EQ(seq_lens_from_last_page_len(indptr, Ints{17, 0, 16}, 16).error().where, "last_page_len[0]");
  EXPECT_EQ(seq_lens_from_last_page_len(indptr, Ints{1, 0}, 16).error().where, "kv_indptr");
  EXPECT_EQ(seq_lens_from_last_page_len(Ints{0, 3, 2, 4}, last, 16).error().where, "kv_indptr[2]");
  EXPECT_EQ(seq_lens_from_last_page_len(Ints{0, 2147483647}, Ints{1}, 16).error().code, ErrorCode::kOutOfRange);
  EXPECT_EQ(seq_lens_from_last_page_len(indptr, last, 0).error().where, "page_size");
}

}  // namespace
}  // namespace pkv
