// The JSON of profiles/, compiled in, so that no path decides whether a profile is found.
// Not here: parsing (profile_json.cc).
#pragma once

#include <span>
#include <string_view>

namespace pkv {

struct ShippedProfile {
  std::string_view name;
  std::string_view json;
};

/// By name. Generated from profiles/*.json.
std::span<const ShippedProfile> shipped_profiles();

}  // namespace pkv
