// KvLayout and PagedKv: strides of the four common layouts, and caches that cannot be right.
#include "persistentkv/layout.h"

#include <gtest/gtest.h>

#include <limits>
#include <set>
#include <vector>

namespace pkv {
namespace {

constexpr AttentionShape kShape{.num_q_heads = 4, .num_kv_heads = 2, .head_dim = 8};

TEST(KvLayout, EachLayout_CoversEveryElementOnce) {
  for (const KvOrder order : {KvOrder::kHND, KvOrder::kNHD}) {
    for (const KvPacking packing : {KvPacking::kSeparate, KvPacking::kPacked}) {
      const KvLayout layout = KvLayout::make(order, packing, 3, kShape).value();
      std::set<std::int64_t> k_elements;
      std::set<std::int64_t> v_elements;
      for (int page = 0; page < 2; ++page) {
        for (int head = 0; head < 2; ++head) {
          for (int slot = 0; slot < 3; ++slot) {
            for (int i = 0; i < 8; ++i) {
              const PageStrides& s = layout.k_strides;
              k_elements.insert(page * s.page + head * s.kv_head + slot * s.slot + i);
              v_elements.insert(layout.v_offset + page * s.page + head * s.kv_head + slot * s.slot + i);
            }
          }
        }
      }
      EXPECT_EQ(k_elements.size(), 2U * 2 * 3 * 8);
      const bool packed = packing == KvPacking::kPacked;
      EXPECT_EQ(*k_elements.rbegin() + 1, packed ? 3 * 48 : 2 * 48);
      if (packed) {
        k_elements.insert(v_elements.begin(), v_elements.end());
        EXPECT_EQ(k_elements.size(), 2U * 2 * 2 * 3 * 8);  // K and V share no element
        EXPECT_EQ(*k_elements.rbegin() + 1, 4 * 48);       // and leave no gap
      }
    }
  }
}

TEST(KvLayout, Orders_HaveTheTextbookStrides) {
  const KvLayout hnd = KvLayout::make(KvOrder::kHND, KvPacking::kSeparate, 16, AttentionShape{}).value();
  EXPECT_EQ(hnd.k_strides, (PageStrides{.page = 8 * 16 * 128, .kv_head = 16 * 128, .slot = 128}));
  const KvLayout nhd = KvLayout::make(KvOrder::kNHD, KvPacking::kSeparate, 16, AttentionShape{}).value();
  EXPECT_EQ(nhd.v_strides, (PageStrides{.page = 8 * 16 * 128, .kv_head = 128, .slot = 8 * 128}));
}

TEST(KvLayout, PageSizeOutOfLimits_IsAnError) {
  for (const int page_size : {0, -1, 257}) {
    const auto layout = KvLayout::make(KvOrder::kHND, KvPacking::kSeparate, page_size, kShape);
    ASSERT_FALSE(layout.ok());
    EXPECT_NE(layout.error().message.find(std::to_string(page_size)), std::string::npos);
  }
}

TEST(KvOrder, Names_ParseInAnyCase) {
  EXPECT_EQ(parse_kv_order("hnd").value(), KvOrder::kHND);
  EXPECT_EQ(parse_kv_order("NHD").value(), KvOrder::kNHD);
  EXPECT_FALSE(parse_kv_order("HDN").ok());
}

TEST(PagedKv, Packed_PutsVBehindK) {
  std::vector<std::uint16_t> data(2 * 48 * 4);
  const KvLayout layout = KvLayout::make(KvOrder::kNHD, KvPacking::kPacked, 3, kShape).value();
  const PagedKv kv = PagedKv::packed(data.data(), DType::kF16, layout, 4);
  EXPECT_EQ(kv.v, data.data() + 48);
  EXPECT_TRUE(validate(kv, kShape).ok());
}

TEST(PagedKv, BadCaches_AreErrors) {
  std::vector<float> data(1000);
  const KvLayout layout = KvLayout::make(KvOrder::kHND, KvPacking::kSeparate, 3, kShape).value();
  const PagedKv good{.k = data.data(), .v = data.data(), .dtype = DType::kF32, .layout = layout, .num_pages = 4};
  ASSERT_TRUE(validate(good, kShape).ok());
  PagedKv bad = good;
  bad.k = nullptr;
  EXPECT_EQ(validate(bad, kShape).error().where, "kv.k");
  bad = good;
  bad.num_pages = -1;
  EXPECT_EQ(validate(bad, kShape).error().where, "kv.num_pages");
  bad = good;
  bad.layout.v_strides.slot = 7;  // shorter than head_dim
  EXPECT_EQ(validate(bad, kShape).error().where, "layout.v_strides");
  bad = good;
  bad.layout.k_strides.page = 47;  // the next page begins inside this one
  EXPECT_EQ(validate(bad, kShape).error().where, "layout.k_strides");
  bad = good;
  bad.layout.k_strides.kv_head = 16;  // heads overlap slots
  EXPECT_EQ(validate(bad, kShape).error().where, "layout.k_strides");
  bad = good;
  bad.layout.k_strides.kv_head = 0;
  EXPECT_FALSE(validate(bad, kShape).ok());
  bad = good;
  bad.layout.k_strides.page = std::numeric_limits<std::int64_t>::max() / 2;
  EXPECT_EQ(validate(bad, kShape).error().code, ErrorCode::kOutOfRange);
  bad = good;
  bad.layout.k_strides.slot = std::numeric_limits<std::int64_t>::max();
  EXPECT_EQ(validate(bad, kShape).error().code, ErrorCode::kOutOfRange);
}

TEST(KvBytes, PapersStep_MatchesTheLog) {
  // B1 at 8,192 tokens is 32 MiB of K and V.
  EXPECT_EQ(kv_bytes(8192, AttentionShape{}, DType::kF16), std::int64_t{32} << 20);
}

}  // namespace
}  // namespace pkv
