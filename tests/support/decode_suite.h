// The fixture of the cases in decode_suite.cc: a test program links that file and instantiates DecodeOnBackend
// for its backends. Not here: the cases, backends.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <ostream>
#include <string>

#include "persistentkv/backend.h"
#include "support/paged_case.h"

namespace pkv::testing {

enum class QueryTypes : std::uint8_t {
  kAsSpecified,
  kOfCache,  // where K and V have 16 bits: what kernels of tensor cores ask for
};

struct BackendCase {
  std::string name;
  /// Null: it does not run on this machine, and the tests are skipped.
  std::function<std::shared_ptr<Backend>()> make;
  QueryTypes queries = QueryTypes::kAsSpecified;
  Tolerance tolerance = {};

  friend void PrintTo(const BackendCase& backend, std::ostream* out) { *out << backend.name; }
};

class DecodeOnBackend : public ::testing::TestWithParam<BackendCase> {
 protected:
  void SetUp() override {
    backend_ = GetParam().make();
    if (backend_ == nullptr) {
      GTEST_SKIP() << GetParam().name << " does not run here";
    }
  }

  void check(CaseSpec spec, const PlanOptions& options) const {
    if (GetParam().queries == QueryTypes::kOfCache && spec.kv_dtype != DType::kF32) {
      spec.q_dtype = spec.kv_dtype;
    }
    PagedCase(spec).expect_correct(*backend_, options, GetParam().tolerance);
  }

  std::shared_ptr<Backend> backend_;
};

}  // namespace pkv::testing
