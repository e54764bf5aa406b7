// PNG files, by libpng's simplified interface.
#pragma once

#include <png.h>

#include <string>

#include "sightline/error.hpp"
#include "sightline/picture.hpp"

/// Reads a PNG of any kind as 8-bit RGB; transparency is ignored, not blended.
inline sightline::Picture read_png(const std::string& path) {
  png_image image{};
  image.version = PNG_IMAGE_VERSION;
  if (png_image_begin_read_from_file(&image, path.c_str()) == 0) {
    throw sightline::Error(path + " cannot be read as PNG (" + image.message + "): check the path.");
  }
  image.format = PNG_FORMAT_RGBA;
  std::vector<png_byte> rgba(PNG_IMAGE_SIZE(image));
  if (png_image_finish_read(&image, nullptr, rgba.data(), 0, nullptr) == 0) {
    png_image_free(&image);
    throw sightline::Error(path + " is damaged (" + image.message + "): save it again.");
  }
  sightline::Picture picture{static_cast<int>(image.width), static_cast<int>(image.height), {}};
  picture.rgb.reserve(rgba.size() / 4 * 3);
  for (std::size_t i = 0; i < rgba.size(); i += 4) {
    picture.rgb.insert(picture.rgb.end(), rgba.begin() + static_cast<std::ptrdiff_t>(i), rgba.begin() + static_cast<std::ptrdiff_t>(i) + 3);
  }
  return picture;
}

inline void write_png(const std::string& path, const sightline::Picture& picture) {
  png_image image{};
  image.version = PNG_IMAGE_VERSION;
  image.width = static_cast<png_uint_32>(picture.width);
  image.height = static_cast<png_uint_32>(picture.height);
  image.format = PNG_FORMAT_RGB;
  if (png_image_write_to_file(&image, path.c_str(), 0, picture.rgb.data(), 0, nullptr) == 0) {
    throw sightline::Error(path + " cannot be written (" + image.message + "): choose another place.");
  }
}
