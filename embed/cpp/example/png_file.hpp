// PNG files, by libpng.
#pragma once

#include <png.h>

#include <cerrno>
#include <csetjmp>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "sightline/error.hpp"
#include "sightline/picture.hpp"

namespace png_file {

/// What is open while a file is read. libpng reports errors by longjmp, so nothing of this is a local of decoded().
struct Reading {
  std::unique_ptr<std::FILE, int (*)(std::FILE*)> file;
  png_structp png = nullptr;
  png_infop info = nullptr;
  std::string message;
  sightline::Picture picture;
  std::vector<png_bytep> rows;

  explicit Reading(const std::string& path) : file(std::fopen(path.c_str(), "rb"), std::fclose) {
    if (!file) throw sightline::Error(path + " cannot be read (" + std::strerror(errno) + "): check the path.");
    png = png_create_read_struct(
        PNG_LIBPNG_VER_STRING, this,
        [](png_structp failed, png_const_charp said) {
          static_cast<Reading*>(png_get_error_ptr(failed))->message = said;
          png_longjmp(failed, 1);
        },
        [](png_structp, png_const_charp) {});
    info = png ? png_create_info_struct(png) : nullptr;
    if (!info) {
      png_destroy_read_struct(&png, nullptr, nullptr);
      throw sightline::Error("libpng cannot be used: it is of another version than its header, or memory is short.");
    }
  }
  Reading(const Reading&) = delete;
  Reading& operator=(const Reading&) = delete;
  ~Reading() { png_destroy_read_struct(&png, &info, nullptr); }
};

/// Fills the picture. False where libpng gave up, which the message then explains.
inline bool decoded(Reading& reading) {
  if (setjmp(png_jmpbuf(reading.png)) != 0) return false;
  png_init_io(reading.png, reading.file.get());
  png_read_info(reading.png, reading.info);
  // As Python does it: values as they are stored, whatever gamma or profile the file names. Pillow takes the high byte
  // of 16-bit colour; 16-bit grey is scaled.
  png_set_expand(reading.png);
  if (png_get_color_type(reading.png, reading.info) == PNG_COLOR_TYPE_GRAY) {
    png_set_scale_16(reading.png);
  } else {
    png_set_strip_16(reading.png);
  }
  png_set_gray_to_rgb(reading.png);
  png_set_strip_alpha(reading.png);
  png_set_interlace_handling(reading.png);
  png_read_update_info(reading.png, reading.info);
  const std::size_t height = png_get_image_height(reading.png, reading.info);
  const std::size_t stride = png_get_rowbytes(reading.png, reading.info);
  reading.picture.width = static_cast<int>(png_get_image_width(reading.png, reading.info));
  reading.picture.height = static_cast<int>(height);
  reading.picture.rgb.resize(height * stride);
  for (std::size_t row = 0; row < height; ++row) reading.rows.push_back(reading.picture.rgb.data() + row * stride);
  png_read_image(reading.png, reading.rows.data());
  png_read_end(reading.png, nullptr);
  return true;
}

}  // namespace png_file

/// Reads a PNG of any kind as 8-bit RGB; transparency is ignored, not blended.
inline sightline::Picture read_png(const std::string& path) {
  png_file::Reading reading(path);
  if (!png_file::decoded(reading)) {
    throw sightline::Error(path + " is no PNG, or damaged (" + reading.message + "): save it again.");
  }
  return std::move(reading.picture);
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
