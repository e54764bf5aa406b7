// What the file says of itself, and from a picture to its input.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "json.hpp"
#include "metadata.hpp"
#include "picture.hpp"

namespace sightline {

/// What the metadata says: the image that the network expects, its labels, the method inside.
struct Facts {
  int channels = 0, height = 0, width = 0;
  bool pixels = false;          ///< the file takes 8-bit pixels and normalises them itself
  bool channels_last = false;   ///< of a preprocessed image: H×W×C instead of C×H×W
  std::string colour;           ///< RGB, BGR, GRAY, or NONE where the channels are no colours
  double range = 1;             ///< a pixel v becomes (v / 255 · range − mean) / std
  std::vector<double> mean, std;
  std::vector<std::string> labels;  ///< empty where the file has none
  std::string activation;           ///< softmax, sigmoid or none
  std::string method;               ///< sise, ada-sise, grad-cam or layer-cam
  std::string bundle;               ///< SHA-256 of the bundle that the file was made of
};

namespace detail {

inline Facts facts(const std::filesystem::path& file) {
  const std::map<std::string, std::string> found = metadata(file);
  const auto text = [&](const std::string& key) {
    const auto entry = found.find("sightline." + key);
    if (entry == found.end()) {
      throw Error(file.string() + " has no sightline." + key +
                  " in its metadata: make the file with 'sightline export --single-file'.");
    }
    return entry->second;
  };
  if (text("single_file") != "1") {
    throw Error(file.string() + " is of version " + text("single_file") +
                " and these headers read version 1: use the headers of the Sightline that wrote it.");
  }
  const Json input = Json::parse(text("input")), labels = Json::parse(text("labels"));
  Facts facts;
  facts.channels = static_cast<int>(input["channels"].number);
  facts.height = static_cast<int>(input["height"].number);
  facts.width = static_cast<int>(input["width"].number);
  facts.channels_last = input["layout"].text == "NHWC";
  facts.colour = input["colour"].text;
  facts.range = input["range"].number;
  for (const Json& value : input["mean"].list) facts.mean.push_back(value.number);
  for (const Json& value : input["std"].list) facts.std.push_back(value.number);
  for (const Json& value : labels.list) facts.labels.push_back(value.text);
  facts.pixels = text("pixels") == "uint8";
  facts.activation = text("activation");
  facts.method = Json::parse(text("method"))["name"].text;
  facts.bundle = text("bundle");
  if (facts.channels <= 0 || facts.height <= 0 || facts.width <= 0 || facts.mean.empty() || facts.std.empty()) {
    throw Error(file.string() + " does not say what image it takes: export it again.");
  }
  return facts;
}

inline void check_size(const Picture& picture, const Facts& facts) {
  check(picture);
  if (facts.colour == "NONE") {
    throw Error("this network's channels are no colours: pass its preprocessed values (std::vector<float>).");
  }
  if (picture.width != facts.width || picture.height != facts.height) {
    throw Error("the picture has " + size_text(picture.width, picture.height) + " pixels and the network takes " +
                size_text(facts.width, facts.height) + ": pass fitted(picture, explainer.facts()).");
  }
}

/// Luminance, ITU-R 601, in Pillow's fixed point.
inline std::uint8_t grey(const std::uint8_t* rgb) {
  return static_cast<std::uint8_t>((rgb[0] * 19595U + rgb[1] * 38470U + rgb[2] * 7471U + 0x8000U) >> 16U);
}

/// The picture as a file that takes pixels wants it: H×W×3, or H×W×1 in grey.
inline std::vector<std::uint8_t> pixels(const Picture& picture, const Facts& facts) {
  check_size(picture, facts);
  if (facts.colour != "GRAY") return picture.rgb;
  std::vector<std::uint8_t> made(picture.rgb.size() / 3);
  for (std::size_t i = 0; i < made.size(); ++i) made[i] = grey(&picture.rgb[3 * i]);
  return made;
}

/// The picture as a file that takes preprocessed values wants it.
inline std::vector<float> preprocessed(const Picture& picture, const Facts& facts) {
  check_size(picture, facts);
  const auto channels = static_cast<std::size_t>(facts.channels);
  const std::size_t count = picture.rgb.size() / 3;
  std::vector<float> made(channels * count);
  for (std::size_t c = 0; c < channels; ++c) {
    const auto mean = static_cast<float>(facts.mean[c % facts.mean.size()]);
    const auto std = static_cast<float>(facts.std[c % facts.std.size()]);
    const auto range = static_cast<float>(facts.range / 255);
    for (std::size_t i = 0; i < count; ++i) {
      const std::uint8_t* rgb = &picture.rgb[3 * i];
      const std::uint8_t value = facts.colour == "GRAY" ? grey(rgb) : rgb[facts.colour == "BGR" ? 2 - c : c];
      made[facts.channels_last ? i * channels + c : c * count + i] = (static_cast<float>(value) * range - mean) / std;
    }
  }
  return made;
}

inline void check_values(const std::vector<float>& values, const Facts& facts) {
  const std::size_t wanted = static_cast<std::size_t>(facts.channels) * static_cast<std::size_t>(facts.height) *
                             static_cast<std::size_t>(facts.width);
  if (facts.pixels) throw Error("this file takes 8-bit pixels and normalises them itself: pass a Picture.");
  if (values.size() != wanted) {
    throw Error("the image has " + std::to_string(values.size()) + " values and the network takes " +
                std::to_string(wanted) + " (" + std::to_string(facts.channels) + "×" + std::to_string(facts.height) + "×" +
                std::to_string(facts.width) + "): preprocess it as for the network.");
  }
  for (float value : values) {
    if (!std::isfinite(value)) throw Error("the image holds NaN or infinity: repair it before explaining it.");
  }
}

}  // namespace detail

/// The picture as the network of a file wants it: of its size, and grey before it is resized where the network takes
/// grey, as Sightline in Python does it. Throws Error where the picture is empty.
inline Picture fitted(const Picture& picture, const Facts& facts) {
  if (facts.colour != "GRAY") return fitted(picture, facts.width, facts.height);
  detail::check(picture);
  Picture grey = picture;
  for (std::size_t i = 0; i < grey.rgb.size(); i += 3) {
    const std::uint8_t value = detail::grey(&picture.rgb[i]);
    std::fill_n(grey.rgb.begin() + static_cast<std::ptrdiff_t>(i), 3, value);
  }
  return fitted(grey, facts.width, facts.height);
}

}  // namespace sightline
