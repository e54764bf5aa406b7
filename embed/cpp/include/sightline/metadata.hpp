// The metadata of an ONNX file, read without an engine: not every engine hands it out.
#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <map>
#include <optional>
#include <string>

#include "error.hpp"

namespace sightline::detail {

/// Walks over the fields of a protobuf message; the graph itself is jumped over, not read.
class Fields {
 public:
  Fields(std::istream& stream, std::uint64_t end) : stream_(stream), end_(end) {}

  struct Field {
    std::uint64_t number, length;  // length: of what follows; 0 for plain numbers, which are skipped
  };

  /// The next field, the stream standing at its content; nothing at the end.
  std::optional<Field> next() {
    if (position() >= end_) return std::nullopt;
    const std::uint64_t key = varint();
    switch (key & 7U) {
      case 0: varint(); return Field{key >> 3U, 0};
      case 1: skip(8); return Field{key >> 3U, 0};
      case 5: skip(4); return Field{key >> 3U, 0};
      case 2: {
        const std::uint64_t length = varint();
        if (length > end_ - position()) throw Error("truncated");
        return Field{key >> 3U, length};
      }
      default: throw Error("unknown wire type");
    }
  }

  std::uint64_t position() { return static_cast<std::uint64_t>(stream_.tellg()); }
  void skip(std::uint64_t bytes) { stream_.seekg(static_cast<std::streamoff>(bytes), std::ios::cur); }
  std::string text(std::uint64_t length) {
    std::string made(length, '\0');
    stream_.read(made.data(), static_cast<std::streamsize>(length));
    return made;
  }

 private:
  std::uint64_t varint() {
    std::uint64_t value = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
      const int byte = stream_.get();
      if (byte == std::char_traits<char>::eof()) throw Error("truncated");
      value |= (static_cast<std::uint64_t>(byte) & 0x7fU) << shift;
      if ((byte & 0x80) == 0) return value;
    }
    throw Error("a number without an end");
  }

  std::istream& stream_;
  std::uint64_t end_;
};

/// metadata_props of an ONNX file (ModelProto, field 14: key = 1, value = 2).
inline std::map<std::string, std::string> metadata(const std::filesystem::path& file) {
  constexpr std::uint64_t metadata_props = 14;
  std::ifstream stream(file, std::ios::binary);
  std::error_code error;
  const std::uintmax_t size = std::filesystem::file_size(file, error);
  if (!stream || error) throw Error("there is no file " + file.string() + " that can be read: check the path.");
  std::map<std::string, std::string> found;
  try {
    Fields model(stream, size);
    while (const auto field = model.next()) {
      if (field->number != metadata_props) {
        model.skip(field->length);
        continue;
      }
      Fields entry(stream, model.position() + field->length);
      std::string key, value;
      while (const auto part = entry.next()) (part->number == 1 ? key : value) = entry.text(part->length);
      found[key] = value;
    }
  } catch (const Error& reason) {
    throw Error(file.string() + " is no ONNX file (" + reason.what() + "): make one with 'sightline export --single-file'.");
  }
  return found;
}

}  // namespace sightline::detail
