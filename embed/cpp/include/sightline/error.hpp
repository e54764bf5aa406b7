// The one exception of these headers.
#pragma once

#include <stdexcept>
#include <string>

namespace sightline {

/// Says what was wrong, with which value, and what to do next. Whatever the engine throws arrives as one of these too.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

}  // namespace sightline
