// explain EXPLAINER.onnx PICTURE.png OVERLAY.png [--target N] [--mu F] [--map FILE]
//
// Prints class, score and regions; writes the overlay and, where asked for, the map as raw float32.
#include <cstdio>
#include <exception>
#include <fstream>
#include <string>
#include <vector>

#include "png_file.hpp"
#include "sightline.hpp"

namespace {

int run(const std::vector<std::string>& words) {
  std::vector<std::string> files;
  sightline::Choice choice;
  std::string map;
  for (std::size_t i = 0; i < words.size(); ++i) {
    const bool valued = i + 1 < words.size();
    if (words[i] == "--target" && valued) {
      choice.target = std::stoll(words[++i]);
    } else if (words[i] == "--mu" && valued) {
      choice.mu = std::stof(words[++i]);
    } else if (words[i] == "--map" && valued) {
      map = words[++i];
    } else {
      files.push_back(words[i]);
    }
  }
  if (files.size() != 3) {
    std::fputs("usage: explain EXPLAINER.onnx PICTURE.png OVERLAY.png [--target N] [--mu F] [--map FILE]\n", stderr);
    return 2;
  }

  const sightline::Explainer explainer(files[0]);
  const sightline::Picture picture = read_png(files[1]);
  const sightline::Facts& facts = explainer.facts();
  const sightline::Explanation found = explainer.explain(fitted(picture, facts), choice);

  std::printf("%s (class %lld) %.9g, %s, %lld passes\n", found.label.c_str(), static_cast<long long>(found.target),
              found.score, facts.method.c_str(), static_cast<long long>(found.passes));
  for (const sightline::Region& region : found.regions(picture.width, picture.height)) {
    std::printf("region %d %d %d %d area %.9g mean %.9g peak %.9g mass %.9g\n", region.box[0], region.box[1], region.box[2],
                region.box[3], region.area, region.mean, region.peak, region.mass);
  }
  write_png(files[2], overlay(picture, found));
  if (!map.empty()) {
    std::ofstream file(map, std::ios::binary);
    file.write(reinterpret_cast<const char*>(found.saliency.data()),
               static_cast<std::streamsize>(found.saliency.size() * sizeof(float)));
    if (!file.flush()) throw sightline::Error(map + " cannot be written: choose another place.");
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run({argv + 1, argv + argc});
  } catch (const std::exception& error) {
    std::fprintf(stderr, "explain: %s\n", error.what());
    return 1;
  }
}
