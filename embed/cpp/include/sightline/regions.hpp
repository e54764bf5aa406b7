// Regions: the connected parts of a saliency map that stand out, as boxes that a line can act on.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <optional>
#include <tuple>
#include <vector>

namespace sightline {

/// One connected part (8 neighbours) of the map at or above Otsu's threshold.
struct Region {
  std::array<int, 4> box;  ///< x0, y0, x1, y1 in pixels of the original picture; x1 and y1 are exclusive
  double area;             ///< in pixels of the original picture
  double mean;             ///< mean saliency, in [0, 1]
  double peak;             ///< highest saliency, in [0, 1]
  double mass;             ///< share of the whole map's saliency that lies here, in [0, 1]
};

namespace detail {

/// Otsu's threshold of values in [0, 1], 256 equal bins, the first best split; nothing where they cannot be split.
inline std::optional<float> otsu(const std::vector<float>& map) {
  constexpr int bins = 256;
  std::array<std::int64_t, bins> counts{};
  for (float value : map) counts[static_cast<std::size_t>(std::clamp(static_cast<int>(value * bins), 0, bins - 1))]++;
  std::int64_t total = 0, moments = 0;
  for (int i = 0; i < bins; ++i) {
    total += counts[static_cast<std::size_t>(i)];
    moments += i * counts[static_cast<std::size_t>(i)];
  }
  std::int64_t number = 0, moment = 0;
  double best = -1;
  std::optional<float> threshold;
  for (int i = 0; i < bins; ++i) {
    number += counts[static_cast<std::size_t>(i)];
    moment += i * counts[static_cast<std::size_t>(i)];
    const std::int64_t product = number * (total - number);
    if (product == 0) continue;
    // w₀·w₁·(m₀ − m₁)² but for a constant; whole numbers as far as possible, so that splits that tie, tie exactly.
    const double spread = static_cast<double>(moments * number - total * moment);
    const double value = spread * spread / static_cast<double>(product);
    if (value > best) {
      best = value;
      threshold = static_cast<float>(i + 1) / bins;
    }
  }
  return threshold;
}

}  // namespace detail

/// The regions of a map, by falling mass. `map` is height × width in [0, 1]; the boxes are scaled to a picture of
/// `picture_width` × `picture_height`.
inline std::vector<Region> find_regions(const std::vector<float>& map, int width, int height, int picture_width,
                                        int picture_height) {
  std::vector<Region> found;
  const std::optional<float> threshold = detail::otsu(map);
  if (!threshold) return found;
  double total = 0;
  for (float value : map) total += value;
  const double across = static_cast<double>(picture_width) / width, down = static_cast<double>(picture_height) / height;
  std::vector<bool> seen(map.size(), false);
  std::vector<int> waiting;
  for (int start = 0; start < width * height; ++start) {
    if (seen[static_cast<std::size_t>(start)] || map[static_cast<std::size_t>(start)] < *threshold) continue;
    int left = width, right = -1, top = height, bottom = -1;
    std::int64_t pixels = 0;
    double sum = 0, peak = 0;
    seen[static_cast<std::size_t>(start)] = true;
    waiting.assign(1, start);
    while (!waiting.empty()) {
      const int at = waiting.back(), x = at % width, y = at / width;
      waiting.pop_back();
      const double value = map[static_cast<std::size_t>(at)];
      ++pixels, sum += value, peak = std::max(peak, value);
      left = std::min(left, x), right = std::max(right, x), top = std::min(top, y), bottom = std::max(bottom, y);
      for (int ny = std::max(y - 1, 0); ny <= std::min(y + 1, height - 1); ++ny) {
        for (int nx = std::max(x - 1, 0); nx <= std::min(x + 1, width - 1); ++nx) {
          const auto next = static_cast<std::size_t>(ny * width + nx);
          if (seen[next] || map[next] < *threshold) continue;
          seen[next] = true;
          waiting.push_back(static_cast<int>(next));
        }
      }
    }
    // In whole numbers: a quotient that is rounded may lie beyond the picture.
    const std::int64_t wide = picture_width, high = picture_height;
    found.push_back({{static_cast<int>(left * wide / width), static_cast<int>(top * high / height),
                      static_cast<int>(((right + 1) * wide + width - 1) / width),
                      static_cast<int>(((bottom + 1) * high + height - 1) / height)},
                     static_cast<double>(pixels) * across * down,
                     sum / static_cast<double>(pixels),
                     peak,
                     sum / total});
  }
  std::sort(found.begin(), found.end(), [](const Region& a, const Region& b) {
    return std::make_tuple(-a.mass, a.box) < std::make_tuple(-b.mass, b.box);
  });
  return found;
}

}  // namespace sightline
