// The answer: which pixels decided.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "picture.hpp"
#include "regions.hpp"

namespace sightline {

/// Why a network gave a class its score.
struct Explanation {
  std::int64_t target = 0;      ///< the class explained
  std::string label;            ///< its label, or its number where the file has no labels
  double score = 0;             ///< what the network gives the class: its probability
  std::vector<float> logits;    ///< of every class
  std::int64_t passes = 0;      ///< masked images scored
  int width = 0, height = 0;    ///< of the map: the network's size
  std::vector<float> saliency;  ///< height × width, in [0, 1]; all zero where nothing can be shown

  /// The parts that stand out, by falling mass, in pixels of the original picture.
  std::vector<Region> regions(int picture_width, int picture_height) const {
    return find_regions(saliency, width, height, picture_width, picture_height);
  }

  /// The map at another size, e.g. the original picture's: height × width, in [0, 1].
  std::vector<float> resized(int new_width, int new_height) const {
    std::vector<float> map = detail::resize<detail::Reals>(saliency, width, height, 1, new_width, new_height);
    for (float& value : map) value = std::clamp(value, 0.0F, 1.0F);
    return map;
  }
};

namespace detail {

/// Inferno at a value in [0, 1]: even in lightness, so colour-blind readers lose nothing.
inline std::array<float, 3> colour(float value) {
  static constexpr std::uint32_t stops[] = {0x000004, 0x160b39, 0x420a68, 0x6a176e, 0x932667, 0xbc3754,
                                            0xdd513a, 0xf37819, 0xfca50a, 0xf6d746, 0xfcffa4};
  constexpr int last = static_cast<int>(sizeof stops / sizeof *stops) - 1;
  const float position = std::clamp(value, 0.0F, 1.0F) * last;
  const int lower = std::min(static_cast<int>(position), last - 1);
  const float share = position - static_cast<float>(lower);
  std::array<float, 3> rgb{};
  for (int c = 0; c < 3; ++c) {
    const auto channel = [&](int stop) { return static_cast<float>(stops[stop] >> (16 - 8 * c) & 0xffU); };
    rgb[static_cast<std::size_t>(c)] = channel(lower) * (1 - share) + channel(lower + 1) * share;
  }
  return rgb;
}

}  // namespace detail

/// The picture with the map over it: untouched where the map is low, the map's colours where it is high.
/// `opacity` is how much of the picture the highest saliency covers. Throws Error where the picture is empty.
inline Picture overlay(const Picture& picture, const Explanation& explanation, float opacity = 0.8F) {
  detail::check(picture);
  const std::vector<float> map = explanation.resized(picture.width, picture.height);
  Picture drawn = picture;
  for (std::size_t i = 0; i < map.size(); ++i) {
    const float cover = opacity * std::min(2 * map[i], 1.0F);
    const std::array<float, 3> over = detail::colour(map[i]);
    for (std::size_t c = 0; c < 3; ++c) {
      const float value = static_cast<float>(picture.rgb[3 * i + c]) * (1 - cover) + over[c] * cover;
      drawn.rgb[3 * i + c] = static_cast<std::uint8_t>(std::lrint(value));
    }
  }
  return drawn;
}

}  // namespace sightline
