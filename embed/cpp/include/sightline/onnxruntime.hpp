// The explainer on ONNX Runtime (C++ API 1.17 or newer; a library may be newer than its headers, not older).
#pragma once

#include <onnxruntime_cxx_api.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "explanation.hpp"
#include "facts.hpp"
#include "request.hpp"

namespace sightline {
namespace onnxruntime {

/// One open file. It can be moved, not copied. Calls of explain() from several threads at once are fine: what they throw,
/// they throw where they were called.
class Explainer {
 public:
  /// Opens a file of 'sightline export --single-file'. `threads` are those of one explanation; 0: as many as the machine
  /// has cores. Throws Error where it is no such file or ONNX Runtime refuses it.
  explicit Explainer(const std::filesystem::path& file, int threads = 0) : Explainer(file, with_threads(threads)) {}

  /// The same with options of yours, e.g. with another execution provider in them.
  Explainer(const std::filesystem::path& file, const Ort::SessionOptions& options) : facts_(detail::facts(file)) {
    guarded([&] {
      inside_ = std::make_unique<Inside>(file, options);
      const Ort::AllocatorWithDefaultOptions allocator;
      for (std::size_t i = 0; i < inside_->session.GetInputCount(); ++i) {
        inputs_.emplace_back(inside_->session.GetInputNameAllocated(i, allocator).get());
      }
      for (std::size_t i = 0; i < inside_->session.GetOutputCount(); ++i) {
        if (inside_->session.GetOutputNameAllocated(i, allocator).get() != std::string("logits")) continue;
        classes_ = inside_->session.GetOutputTypeInfo(i).GetTensorTypeAndShapeInfo().GetShape().back();
      }
    });
  }

  const Facts& facts() const { return facts_; }
  std::int64_t classes() const { return classes_; }

  /// Explains a picture of the network's size (see fitted()). Throws Error where the picture has another size, or a
  /// choice is out of range or not among the file's inputs.
  Explanation explain(const Picture& picture, const Choice& choice = {}) const {
    check_open();
    if (!facts_.pixels) return explain(detail::preprocessed(picture, facts_), choice);
    std::vector<std::uint8_t> pixels = detail::pixels(picture, facts_);
    return run(pixels, {facts_.height, facts_.width, facts_.colour == "GRAY" ? 1 : 3}, choice);
  }

  /// Explains an image that is already preprocessed: C×H×W values (H×W×C where facts().channels_last).
  Explanation explain(std::vector<float> values, const Choice& choice = {}) const {
    check_open();
    detail::check_values(values, facts_);
    const std::int64_t c = facts_.channels, h = facts_.height, w = facts_.width;
    return run(values, facts_.channels_last ? Shape{1, h, w, c} : Shape{1, c, h, w}, choice);
  }

 private:
  using Shape = std::vector<std::int64_t>;

  struct Inside {
    Inside(const std::filesystem::path& file, const Ort::SessionOptions& options)
        : environment(ORT_LOGGING_LEVEL_ERROR, "sightline"), session(environment, file.c_str(), options) {}
    Ort::Env environment;
    mutable Ort::Session session;  // Run() is not const in the API, but is safe from several threads
  };

  void check_open() const {
    if (!inside_) throw Error("this explainer was moved from: use the one that it was moved to.");
  }

  template <class Function>
  static auto guarded(Function function) -> decltype(function()) {
    try {
      return function();
    } catch (const Ort::Exception& error) {
      throw Error(std::string("ONNX Runtime: ") + error.what());
    }
  }

  static Ort::SessionOptions with_threads(int threads) {
    if (OrtGetApiBase()->GetApi(ORT_API_VERSION) == nullptr) {  // every other call would go through this null pointer
      throw Error(std::string("ONNX Runtime ") + OrtGetApiBase()->GetVersionString() + " is older than its headers (1." +
                  std::to_string(ORT_API_VERSION) + "): link a newer library.");
    }
    if (threads < 0) throw Error(std::to_string(threads) + " threads cannot be started: pass 0 or more.");
    return guarded([&] {
      Ort::SessionOptions options;
      options.SetIntraOpNumThreads(threads);
      return options;
    });
  }

  template <class Value>
  Explanation run(std::vector<Value>& image, const Shape& shape, const Choice& choice) const {
    detail::check(choice, classes_, inputs_);
    detail::Scalars scalars(choice);
    const Shape one{1};
    return guarded([&] {
      const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
      std::vector<const char*> names;
      std::vector<Ort::Value> values;
      for (const std::string& input : inputs_) {
        names.push_back(input.c_str());
        if (input == "image") {
          values.push_back(Ort::Value::CreateTensor<Value>(memory, image.data(), image.size(), shape.data(), shape.size()));
        } else if (input == "mu") {
          values.push_back(Ort::Value::CreateTensor<float>(memory, &scalars.mu, 1, one.data(), 1));
        } else {
          values.push_back(Ort::Value::CreateTensor<std::int64_t>(memory, &scalars.integer(input), 1, one.data(), 1));
        }
      }
      static constexpr const char* outputs[] = {"logits", "probabilities", "explained", "saliency", "passes"};
      const std::vector<Ort::Value> found = inside_->session.Run(Ort::RunOptions{nullptr}, names.data(), values.data(),
                                                                 values.size(), outputs, std::size(outputs));
      return detail::answer(facts_, classes_, found[0].GetTensorData<float>(), found[1].GetTensorData<float>(),
                            *found[2].GetTensorData<std::int64_t>(), found[3].GetTensorData<float>(),
                            *found[4].GetTensorData<std::int64_t>());
    });
  }

  Facts facts_;
  std::unique_ptr<Inside> inside_;
  std::vector<std::string> inputs_;
  std::int64_t classes_ = 0;
};

}  // namespace onnxruntime
}  // namespace sightline
