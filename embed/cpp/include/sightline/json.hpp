// As much of a JSON reader as the file's metadata needs: no dependency for thirty values.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "error.hpp"

namespace sightline::detail {

/// One JSON value; what it does not hold is empty.
struct Json {
  enum class Kind { null, boolean, number, text, list, table };
  Kind kind = Kind::null;
  double number = 0;  // also of booleans: 0 or 1
  std::string text;
  std::vector<Json> list;
  std::map<std::string, Json> table;

  /// A member of a table; null where there is none.
  const Json& operator[](const std::string& key) const {
    static const Json nothing;
    const auto found = table.find(key);
    return found == table.end() ? nothing : found->second;
  }

  static Json parse(const std::string& source) {
    Reader reader{source, 0};
    Json value = reader.value(0);
    if (reader.skip() != '\0') reader.fail();
    return value;
  }

 private:
  struct Reader {
    const std::string& source;
    std::size_t at;

    [[noreturn]] void fail() const {
      throw Error("the file's metadata is no JSON at character " + std::to_string(at) + ": export the file again.");
    }
    char skip() {
      while (at < source.size() && std::string(" \t\r\n").find(source[at]) != std::string::npos) ++at;
      return at < source.size() ? source[at] : '\0';
    }
    bool take(char c) { return skip() == c && ++at; }
    void expect(char c) {
      if (!take(c)) fail();
    }
    Json word(const std::string& name, Kind kind, double number) {
      if (source.compare(at, name.size(), name) != 0) fail();
      at += name.size();
      Json value;
      value.kind = kind;
      value.number = number;
      return value;
    }
    Json value(int depth) {
      if (depth > 32) fail();
      Json made;
      switch (skip()) {
        case 'n': return word("null", Kind::null, 0);
        case 't': return word("true", Kind::boolean, 1);
        case 'f': return word("false", Kind::boolean, 0);
        case '"':
          made.kind = Kind::text;
          made.text = text();
          return made;
        case '[':
          made.kind = Kind::list;
          ++at;
          if (take(']')) return made;
          do made.list.push_back(value(depth + 1));
          while (take(','));
          expect(']');
          return made;
        case '{':
          made.kind = Kind::table;
          ++at;
          if (take('}')) return made;
          do {
            skip();
            std::string key = text();
            expect(':');
            made.table[std::move(key)] = value(depth + 1);
          } while (take(','));
          expect('}');
          return made;
        default: {
          char* end = nullptr;
          made.kind = Kind::number;
          made.number = std::strtod(source.c_str() + at, &end);
          if (end == source.c_str() + at) fail();
          at = static_cast<std::size_t>(end - source.c_str());
          return made;
        }
      }
    }
    std::string text() {
      expect('"');
      std::string made;
      while (at < source.size() && source[at] != '"') {
        if (source[at] != '\\') {
          made += source[at++];
          continue;
        }
        if (++at >= source.size()) fail();
        const char escaped = source[at++];
        switch (escaped) {
          case 'b': made += '\b'; break;
          case 'f': made += '\f'; break;
          case 'n': made += '\n'; break;
          case 'r': made += '\r'; break;
          case 't': made += '\t'; break;
          case 'u': append(made, code()); break;
          default: made += escaped;
        }
      }
      expect('"');
      return made;
    }
    std::uint32_t unit() {
      if (at + 4 > source.size()) fail();
      std::uint32_t found = 0;
      for (int i = 0; i < 4; ++i) {
        const char c = source[at++];
        const int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
        if (digit < 0) fail();
        found = found * 16 + static_cast<std::uint32_t>(digit);
      }
      return found;
    }
    std::uint32_t code() {
      const std::uint32_t high = unit();
      if (high < 0xd800 || high > 0xdbff) return high;
      if (source.compare(at, 2, "\\u") != 0) fail();
      at += 2;
      return 0x10000 + ((high - 0xd800) << 10) + ((unit() - 0xdc00) & 0x3ff);
    }
    static void append(std::string& made, std::uint32_t c) {  // UTF-8
      if (c < 0x80) {
        made += static_cast<char>(c);
        return;
      }
      const int more = c < 0x800 ? 1 : c < 0x10000 ? 2 : 3;
      static constexpr std::uint32_t lead[] = {0, 0xc0, 0xe0, 0xf0};
      made += static_cast<char>(lead[more] | c >> (6 * more));
      for (int i = more - 1; i >= 0; --i) made += static_cast<char>(0x80 | (c >> (6 * i) & 0x3f));
    }
  };
};

}  // namespace sightline::detail
