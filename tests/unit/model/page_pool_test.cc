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

}  // namespace
}  // namespace pkv
