// AlignedBuffer: alignment, ownership, exhaustion.
#include "base/aligned_buffer.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <utility>

namespace pkv {
namespace {

TEST(AlignedBuffer, LargeSize_IsZeroAndAlignedToHugePages) {
  const Result<AlignedBuffer> buffer = AlignedBuffer::allocate(5 << 20);
  ASSERT_TRUE(buffer.ok());
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(buffer->data()) % (2 << 20), 0U);
  EXPECT_EQ(buffer->as<char>()[0], 0);
  EXPECT_EQ(buffer->as<char>()[(5 << 20) - 1], 0);
}

TEST(AlignedBuffer, ZeroBytes_IsEmpty) {
  const Result<AlignedBuffer> buffer = AlignedBuffer::allocate(0);
  ASSERT_TRUE(buffer.ok());
  EXPECT_EQ(buffer->data(), nullptr);
}

TEST(AlignedBuffer, Moved_KeepsTheMemory) {
  AlignedBuffer a = AlignedBuffer::allocate(100).value();
  a.as<int>()[3] = 42;
  AlignedBuffer b = std::move(a);
  EXPECT_EQ(b.as<int>()[3], 42);
  AlignedBuffer c;
  c = std::move(b);
  EXPECT_EQ(c.as<int>()[3], 42);
  EXPECT_EQ(c.size(), 100U);
}

TEST(AlignedBuffer, AbsurdSize_IsAnErrorThatNamesIt) {
  const Result<AlignedBuffer> buffer = AlignedBuffer::allocate(std::size_t{1} << 62);
  ASSERT_FALSE(buffer.ok());
  EXPECT_EQ(buffer.error().code, ErrorCode::kResourceExhausted);
  EXPECT_NE(buffer.error().message.find("4611686018427387904"), std::string::npos);
}

}  // namespace
}  // namespace pkv
