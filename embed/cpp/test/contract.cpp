// What the headers promise beside the numbers: errors that name the value, calls again and at once, moves.
//
// contract EXPLAINER.onnx PICTURE.png OTHER.onnx
#include <array>
#include <cmath>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <functional>
#include <limits>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "png_file.hpp"
#include "sightline.hpp"

namespace {

int failures = 0;

void check(bool fine, const std::string& what) {
  std::printf("%s %s\n", fine ? "ok    " : "FAILED", what.c_str());
  failures += fine ? 0 : 1;
}

/// That a call is refused, by a message that names these words.
void refused(const std::string& what, const std::vector<std::string>& words, const std::function<void()>& call) {
  try {
    call();
    check(false, what + ": nothing was thrown");
  } catch (const sightline::Error& error) {
    bool all = true;
    for (const std::string& word : words) all = all && std::string(error.what()).find(word) != std::string::npos;
    check(all, what + ": " + error.what());
  }
}

bool same(const sightline::Explanation& a, const sightline::Explanation& b) {
  return a.target == b.target && a.logits == b.logits && a.saliency == b.saliency;
}

bool close(const std::vector<float>& a, const std::vector<float>& b) {
  std::size_t off = 0;
  for (std::size_t i = 0; i < a.size(); ++i) off += std::abs(a[i] - b[i]) > 1e-3F;
  return a.size() == b.size() && off * 1000 <= a.size();
}

/// Writes 16 bits of grey under a gamma of 1, and reads them.
std::vector<std::uint8_t> grey_of_16_bits() {
  const std::string name = "sightline-" + std::to_string(std::random_device{}()) + ".png";
  const std::string path = (std::filesystem::temp_directory_path() / name).string();
  const std::array<png_uint_16, 2> values{1000, 30000};
  png_image image{};
  image.version = PNG_IMAGE_VERSION;
  image.width = 2;
  image.height = 1;
  image.format = PNG_FORMAT_LINEAR_Y;
  png_image_write_to_file(&image, path.c_str(), 0, values.data(), 0, nullptr);
  const sightline::Picture picture = read_png(path);
  std::filesystem::remove(path);
  return picture.rgb;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) return 2;
  const std::string file = argv[1], other = argv[3];
  const sightline::Picture picture = read_png(argv[2]);

  check(grey_of_16_bits() == std::vector<std::uint8_t>{4, 4, 4, 117, 117, 117}, "PNG is read without regard to its gamma");

  sightline::Explainer explainer(file, 1);
  const sightline::Facts facts = explainer.facts();
  const sightline::Explanation first = explainer.explain(picture);
  check(static_cast<int>(first.saliency.size()) == facts.width * facts.height, "the map has the network's size");
  check(first.label == facts.labels.at(static_cast<std::size_t>(first.target)), "the label is the file's");
  check(static_cast<std::int64_t>(first.logits.size()) == explainer.classes(), "logits of every class");
  check(same(first, explainer.explain(picture)), "the same call again gives the same answer");
  check(same(first, explainer.explain(picture, {first.target, {}, {}})), "naming the predicted class changes nothing");
  check(explainer.explain(picture, {(first.target + 1) % explainer.classes(), {}, {}}).target != first.target,
        "another class is explained where it is named");
  {
    const sightline::Explainer second(file, 1);
    check(close(first.saliency, second.explain(picture).saliency), "two explainers live side by side");
  }

  // From four threads at once, one of them with a picture that is refused: every throw stays in its thread.
  std::vector<sightline::Explanation> found(4);
  std::vector<std::string> errors(4);
  std::vector<std::thread> threads;
  for (std::size_t i = 0; i < found.size(); ++i) {
    threads.emplace_back([&, i] {
      try {
        found[i] = explainer.explain(i == 2 ? fitted(picture, 100, 50) : picture);
      } catch (const sightline::Error& error) {
        errors[i] = error.what();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  bool alike = true;
  for (std::size_t i = 0; i < found.size(); ++i) alike = alike && (i == 2 || (errors[i].empty() && same(first, found[i])));
  check(alike, "calls from several threads at once give the same answer");
  check(errors[2].find("100×50") != std::string::npos, "an error stays in its thread: " + errors[2]);

  const std::string size = std::to_string(facts.width) + "×" + std::to_string(facts.height);
  refused("another size", {"100×50", size, "fitted"}, [&] { explainer.explain(fitted(picture, 100, 50)); });
  refused("no picture", {"0×0"}, [&] { explainer.explain(sightline::Picture{}); });
  refused("too few bytes", {"not 5"}, [&] { explainer.explain({facts.width, facts.height, {1, 2, 3, 4, 5}}); });
  refused("no such class", {"1000", std::to_string(explainer.classes() - 1)}, [&] { explainer.explain(picture, {1000, {}, {}}); });
  refused("a negative class", {"-7"}, [&] { explainer.explain(picture, {-7, {}, {}}); });
  refused("mu above 1", {"1.5"}, [&] { explainer.explain(picture, {{}, 1.5F, {}}); });
  refused("mu that is no number", {"nan"}, [&] { explainer.explain(picture, {{}, std::nanf(""), {}}); });
  refused("no input max_passes", {"max_passes"}, [&] { explainer.explain(picture, {{}, {}, 5}); });
  refused("a size of nothing", {"0×10"}, [&] { fitted(picture, 0, 10); });
  refused("no threads", {"-1"}, [&] { sightline::Explainer(file, -1); });
  refused("no such file", {"nowhere.onnx"}, [&] { sightline::Explainer("nowhere.onnx"); });
  refused("no ONNX file", {argv[2]}, [&] { sightline::Explainer{std::string(argv[2])}; });
  refused("an ONNX file that explains nothing", {"single_file", "--single-file"}, [&] { sightline::Explainer{other}; });
  if (facts.pixels) {
    refused("values where pixels are wanted", {"8-bit"}, [&] { explainer.explain(std::vector<float>(5)); });
  } else {
    std::vector<float> values = sightline::detail::preprocessed(picture, facts);
    check(same(first, explainer.explain(values)), "values that are already preprocessed");
    refused("too few values", {"5 values", std::to_string(values.size())}, [&] { explainer.explain(std::vector<float>(5)); });
    values[7] = std::numeric_limits<float>::quiet_NaN();
    refused("NaN", {"NaN"}, [&] { explainer.explain(values); });
  }
  check(same(first, explainer.explain(picture)), "errors leave the explainer as it was");

  // By hand: both splits of three equal groups are as good, so the first counts; parts that touch by a corner are one.
  const std::vector<sightline::Region> split = sightline::find_regions({0.25F, 0.5F, 0.75F, 0.25F, 0.5F, 0.75F}, 3, 2, 30, 20);
  check(split.size() == 1 && split[0].box == std::array<int, 4>{10, 0, 30, 20} && split[0].area == 400.0 &&
            std::abs(split[0].mean - 0.625) < 1e-6 && std::abs(split[0].mass - 2.5 / 3.0) < 1e-6,
        "the first of equal splits");
  check(sightline::find_regions({1, 0, 0, 0, 1, 0, 0, 0, 0}, 3, 3, 3, 3).size() == 1, "parts that touch by a corner are one");
  check(sightline::find_regions({1, 0, 1, 0}, 4, 1, 4, 1).size() == 2, "parts that do not touch are two");
  check(sightline::find_regions({0.5F, 0.5F}, 2, 1, 2, 1).empty(), "a flat map has no regions");

  const sightline::Explainer moved = std::move(explainer);
  check(same(first, moved.explain(picture)), "a moved explainer explains");
  refused("moved from", {"moved"}, [&] { explainer.explain(picture); });
  refused("moved from, values", {"moved"}, [&] { explainer.explain(std::vector<float>(5)); });
  std::printf("%d failed\n", failures);
  return failures == 0 ? 0 : 1;
}
