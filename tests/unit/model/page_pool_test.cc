// PagePool: ownership, sharing, copy on write, exhaustion.
#include "persistentkv/page_pool.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <vector>

#include "base/random.h"

namespace pkv {
namespace {

using Pages = std::vector<std::int32_t>;

TEST(PagePool, Allocate_DealsInOrderAndExhausts) {
  PagePool pool = PagePool::make(4, Pages{2, 0, 3}).value();
  EXPECT_EQ(pool.num_free(), 3);
  EXPECT_EQ(pool.allocate().value(), 2);
  Pages pages;
  ASSERT_TRUE(pool.allocate(2, pages).ok());
  EXPECT_EQ(pages, (Pages{0, 3}));
  const auto none = pool.allocate();
  ASSERT_FALSE(none.ok());
  EXPECT_EQ(none.error().code, ErrorCode::kResourceExhausted);
}

TEST(PagePool, AllocateTooMany_TakesNothing) {
  PagePool pool = PagePool::make(3).value();
  Pages pages = {77};
  const Status status = pool.allocate(4, pages);
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().message, "4 pages needed, 3 free of 3");
  EXPECT_EQ(pages, Pages{77});
  EXPECT_EQ(pool.num_free(), 3);
  EXPECT_FALSE(pool.allocate(-1, pages).ok());
}

TEST(PagePool, SharedPage_IsFreeWhenTheLastOwnerLeaves) {
  PagePool pool = PagePool::make(1).value();
  const std::int32_t page = pool.allocate().value();
  ASSERT_TRUE(pool.share(page).ok());
  EXPECT_EQ(pool.references(page), 2);
  ASSERT_TRUE(pool.free(page).ok());
  EXPECT_EQ(pool.num_free(), 0);
  ASSERT_TRUE(pool.free(page).ok());
  EXPECT_EQ(pool.num_free(), 1);
}

TEST(PagePool, WrongPages_AreErrors) {
  PagePool pool = PagePool::make(3, Pages{0, 1}).value();
  EXPECT_EQ(pool.free(3).error().code, ErrorCode::kOutOfRange);
  EXPECT_EQ(pool.free(-1).error().code, ErrorCode::kOutOfRange);
  EXPECT_EQ(pool.free(0).error().message, "is free");
  EXPECT_EQ(pool.share(2).error().message, "is a hole and never dealt");
  EXPECT_EQ(pool.references(2), 0);
  EXPECT_FALSE(PagePool::make(-1).ok());
  EXPECT_FALSE(PagePool::make(std::int64_t{1} << 31).ok());
  EXPECT_EQ(PagePool::make(2, Pages{0, 2}).error().where, "order[1]");
  EXPECT_EQ(PagePool::make(2, Pages{1, 1}).error().message, "page 1 occurs twice");
}

TEST(PagePool, LastPageShared_IsCopiedOnWrite) {
  PagePool pool = PagePool::make(3).value();
  Pages a;
  ASSERT_TRUE(pool.allocate(2, a).ok());
  Pages b = a;  // a fork: both pages gain an owner
  ASSERT_TRUE(pool.share(b[0]).ok());
  ASSERT_TRUE(pool.share(b[1]).ok());
  const auto writable = pool.make_last_writable(b).value();
  EXPECT_EQ(writable.copy_from, 1);
  EXPECT_EQ(writable.page, 2);
  EXPECT_EQ(b, (Pages{0, 2}));
  EXPECT_EQ(pool.references(1), 1);
  const auto alone = pool.make_last_writable(a).value();  // one owner left: nothing to copy
  EXPECT_EQ(alone.page, alone.copy_from);
  EXPECT_EQ(a, (Pages{0, 1}));
}

TEST(PagePool, CopyOnWriteWithoutFreePages_ChangesNothing) {
  PagePool pool = PagePool::make(1).value();
  Pages pages = {pool.allocate().value()};
  ASSERT_TRUE(pool.share(0).ok());
  EXPECT_EQ(pool.make_last_writable(pages).error().code, ErrorCode::kResourceExhausted);
  EXPECT_EQ(pool.references(0), 2);
  EXPECT_EQ(pages, Pages{0});
  Pages none;
  EXPECT_FALSE(pool.make_last_writable(none).ok());
}

TEST(PagePool, RandomCalls_AgreeWithAModel) {
  PagePool pool = PagePool::make(50).value();
  std::map<std::int32_t, int> owners;
  SplitMix64 random(11);
  for (int i = 0; i < 20000; ++i) {
    const auto page = static_cast<std::int32_t>(random.below(50));
    const bool owned = owners.count(page) != 0;
    switch (random.below(4)) {
      case 0:
      case 1: {
        const auto fresh = pool.allocate();
        ASSERT_EQ(fresh.ok(), owners.size() < 50);
        if (fresh.ok()) {
          ASSERT_EQ(owners.count(*fresh), 0U);
          owners[*fresh] = 1;
        }
        break;
      }
      case 2:
        ASSERT_EQ(pool.share(page).ok(), owned);
        if (owned) {
          ++owners[page];
        }
        break;
      default:
        ASSERT_EQ(pool.free(page).ok(), owned);
        if (owned && --owners[page] == 0) {
          owners.erase(page);
        }
    }
    ASSERT_EQ(pool.num_free(), 50 - static_cast<std::int64_t>(owners.size()));
    ASSERT_EQ(pool.references(page), owners.count(page) != 0 ? owners[page] : 0);
  }
}

// Pages 0 to 2 on node 0, 3 to 5 on node 1 and the rest, 6, too.
TEST(PagePool, TwoNodes_AListGrowsWhereItsLastPageIs) {
  PagePool pool = PagePool::make(7, Pages{0, 1, 2, 3, 4, 5, 6}, 3).value();
  Pages a;
  Pages b;
  ASSERT_TRUE(pool.allocate(2, a).ok());
  ASSERT_TRUE(pool.allocate(2, b).ok());
  EXPECT_EQ(a, (Pages{3, 4}));  // node 1 had more
  EXPECT_EQ(b, (Pages{0, 1}));
  ASSERT_TRUE(pool.allocate(1, a).ok());
  ASSERT_TRUE(pool.allocate(1, b).ok());
  EXPECT_EQ(a.back(), 5);
  EXPECT_EQ(b.back(), 2);
}

TEST(PagePool, AFullNode_TakesFromTheOther) {
  PagePool pool = PagePool::make(4, Pages{3, 2, 1, 0}, 2).value();
  Pages a;
  ASSERT_TRUE(pool.allocate(3, a).ok());
  EXPECT_EQ(a, (Pages{1, 0, 3}));
  ASSERT_TRUE(pool.allocate(1, a).ok());  // it follows its last page
  EXPECT_EQ(a.back(), 2);
  EXPECT_EQ(pool.num_free(), 0);
  EXPECT_FALSE(pool.allocate().ok());
}

TEST(PagePool, PagesComeBack_ToTheirNode) {
  PagePool pool = PagePool::make(6, Pages{0, 1, 2, 3, 4, 5}, 3).value();
  Pages all;
  ASSERT_TRUE(pool.allocate(6, all).ok());
  ASSERT_TRUE(pool.free(4).ok());
  ASSERT_TRUE(pool.free(1).ok());
  ASSERT_TRUE(pool.free(5).ok());
  Pages near_1 = {3};
  ASSERT_TRUE(pool.allocate(2, near_1).ok());
  EXPECT_EQ(near_1, (Pages{3, 4, 5}));
  ASSERT_TRUE(pool.share(3).ok());
  Pages shared = {3};
  EXPECT_EQ(pool.make_last_writable(shared)->page, 1);  // the only free one
  EXPECT_EQ(pool.make_last_writable(near_1)->page, 5);
}

TEST(PagePool, PagesPerNodeOutOfRange_IsAnError) {
  EXPECT_FALSE(PagePool::make(4, Pages{0}, -1).ok());
  EXPECT_FALSE(PagePool::make(4, Pages{0}, 5).ok());
  EXPECT_EQ(PagePool::make(4, Pages{0}, 5).error().where, "pages_per_node");
}

// Whatever the number of nodes: every page has one owner, and what is free is dealt before a refusal.
TEST(PagePool, RandomNodes_DealEveryPageOnce) {
  SplitMix64 random(3);
  for (int repeat = 0; repeat < 50; ++repeat) {
    const auto num_pages = static_cast<std::int64_t>(1 + random.below(60));
    const auto per_node = static_cast<std::int64_t>(random.below(static_cast<std::uint64_t>(num_pages) + 1));
    Pages order(static_cast<std::size_t>(num_pages));
    for (std::int64_t i = 0; i < num_pages; ++i) {
      order[static_cast<std::size_t>(i)] = static_cast<std::int32_t>(num_pages - 1 - i);
    }
    PagePool pool = PagePool::make(num_pages, order, per_node).value();
    Pages owned;
    for (int action = 0; action < 300; ++action) {
      if (random.below(3) > 0 && pool.num_free() > 0) {
        ASSERT_TRUE(pool.allocate(1, owned).ok());
        ASSERT_EQ(pool.references(owned.back()), 1);
        ASSERT_EQ(std::ranges::count(owned, owned.back()), 1);
      } else if (!owned.empty()) {
        const auto victim = owned.begin() + static_cast<std::ptrdiff_t>(random.below(owned.size()));
        ASSERT_TRUE(pool.free(*victim).ok());
        owned.erase(victim);
      }
      ASSERT_EQ(pool.num_free(), num_pages - static_cast<std::int64_t>(owned.size()));
    }
  }
}

}  // namespace
}  // namespace pkv
