// Pictures, and how they come to the network's size.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "error.hpp"

namespace sightline {

/// 8-bit RGB, row after row, without padding: what a camera or an image file gives.
struct Picture {
  int width = 0;
  int height = 0;
  std::vector<std::uint8_t> rgb;  // height × width × 3
};

namespace detail {

inline std::string size_text(int width, int height) { return std::to_string(width) + "×" + std::to_string(height); }

inline void check(const Picture& picture) {
  const auto wanted = static_cast<std::int64_t>(picture.width) * picture.height * 3;
  if (picture.width <= 0 || picture.height <= 0) {
    throw Error("the picture is empty (" + size_text(picture.width, picture.height) + " pixels): pass one with pixels.");
  }
  if (static_cast<std::int64_t>(picture.rgb.size()) != wanted) {
    throw Error("a picture of " + size_text(picture.width, picture.height) + " pixels has " + std::to_string(wanted) +
                " bytes of RGB, not " + std::to_string(picture.rgb.size()) + ": pass three bytes a pixel, unpadded.");
  }
}

/// Where one output pixel of a resized row comes from: `weights` of the source pixels from `first` on.
struct Taps {
  int first;
  std::vector<double> weights;
};

/// The triangle filter, widened when shrinking (antialiasing): the samples that Pillow's BILINEAR takes.
inline std::vector<Taps> taps(int source, int size) {
  const double scale = static_cast<double>(source) / size;
  const double support = std::max(scale, 1.0);
  std::vector<Taps> all(static_cast<std::size_t>(size));
  for (int i = 0; i < size; ++i) {
    const double centre = (i + 0.5) * scale;
    const int first = std::max(static_cast<int>(centre - support + 0.5), 0);
    const int end = std::min(static_cast<int>(centre + support + 0.5), source);
    Taps& row = all[static_cast<std::size_t>(i)];
    row.first = first;
    double sum = 0;
    for (int x = first; x < end; ++x) {
      row.weights.push_back(std::max(0.0, 1.0 - std::abs((x - centre + 0.5) / support)));
      sum += row.weights.back();
    }
    for (double& weight : row.weights) weight /= sum;
  }
  return all;
}

struct Bytes {  // Pillow's fixed point, so that the pixels are the very same
  using Value = std::uint8_t;
  using Weight = std::int64_t;
  using Sum = std::int64_t;
  static constexpr int bits = 22;
  static Weight weight(double w) { return static_cast<Weight>(0.5 + w * (1 << bits)); }
  static Value value(Sum sum) {
    return static_cast<Value>(std::clamp<Sum>((sum + (1 << (bits - 1))) >> bits, 0, 255));
  }
};

struct Reals {
  using Value = float;
  using Weight = double;
  using Sum = double;
  static Weight weight(double w) { return w; }
  static Value value(Sum sum) { return static_cast<Value>(sum); }
};

/// One axis of a resize: `outer` lines of `source` points, `step` values each, become lines of `size` points.
template <class Kind>
std::vector<typename Kind::Value> resize_axis(const std::vector<typename Kind::Value>& in, int outer, int source, int size,
                                              int step) {
  if (source == size) return in;
  std::vector<typename Kind::Value> out(static_cast<std::size_t>(outer) * size * step);
  const std::vector<Taps> all = taps(source, size);
  std::vector<typename Kind::Weight> weights;
  std::vector<typename Kind::Sum> sums(static_cast<std::size_t>(step));
  for (int i = 0; i < size; ++i) {
    const Taps& tap = all[static_cast<std::size_t>(i)];
    weights.clear();
    for (double w : tap.weights) weights.push_back(Kind::weight(w));
    for (int line = 0; line < outer; ++line) {
      std::fill(sums.begin(), sums.end(), typename Kind::Sum{0});
      for (std::size_t k = 0; k < weights.size(); ++k) {
        const auto* from = &in[(static_cast<std::size_t>(line) * source + tap.first + k) * step];
        for (int s = 0; s < step; ++s) sums[static_cast<std::size_t>(s)] += weights[k] * from[s];
      }
      auto* to = &out[(static_cast<std::size_t>(line) * size + i) * step];
      for (int s = 0; s < step; ++s) to[s] = Kind::value(sums[static_cast<std::size_t>(s)]);
    }
  }
  return out;
}

template <class Kind>
std::vector<typename Kind::Value> resize(const std::vector<typename Kind::Value>& in, int width, int height, int channels,
                                         int new_width, int new_height) {
  return resize_axis<Kind>(resize_axis<Kind>(in, height, width, new_width, channels), 1, height, new_height,
                           new_width * channels);
}

}  // namespace detail

/// The picture stretched to a size: bilinear and antialiased, byte for byte what Pillow (and Sightline in Python) makes.
/// Throws Error where the picture or the size is empty.
inline Picture fitted(const Picture& picture, int width, int height) {
  detail::check(picture);
  if (width <= 0 || height <= 0) {
    throw Error("a picture cannot be stretched to " + detail::size_text(width, height) + " pixels: pass a size of 1 or more.");
  }
  return {width, height, detail::resize<detail::Bytes>(picture.rgb, picture.width, picture.height, 3, width, height)};
}

}  // namespace sightline
