// The explainer on OpenVINO: the same interface.
#pragma once

#include <cstdint>
#include <filesystem>
#include <openvino/openvino.hpp>
#include <string>
#include <vector>

#include "explanation.hpp"
#include "facts.hpp"
#include "request.hpp"

namespace sightline {
namespace openvino {

/// One open file. It can be moved, not copied. Calls of explain() from several threads at once are fine: what they throw,
/// they throw where they were called.
class Explainer {
 public:
  /// Opens a file of 'sightline export --single-file', in float32 (OpenVINO's own default is bfloat16 where the processor
  /// has it). `threads` are those of one explanation; 0: OpenVINO's choice. Throws Error where it is no such file or
  /// OpenVINO refuses it.
  explicit Explainer(const std::filesystem::path& file, int threads = 0) : Explainer(file, "CPU", with_threads(threads)) {}

  /// The same on a device, with properties of yours.
  Explainer(const std::filesystem::path& file, const std::string& device, const ov::AnyMap& properties)
      : facts_(detail::facts(file)) {
    guarded([&] {
      model_ = ov::Core().compile_model(file.string(), device, properties);
      for (const auto& input : model_.inputs()) inputs_.push_back(input.get_any_name());
      classes_ = static_cast<std::int64_t>(model_.output("logits").get_partial_shape().rbegin()->get_length());
    });
  }

  Explainer(Explainer&&) = default;
  Explainer& operator=(Explainer&&) = default;

  const Facts& facts() const { return facts_; }
  std::int64_t classes() const { return classes_; }

  /// Explains a picture of the network's size (see fitted()). Throws Error where the picture has another size, or a
  /// choice is out of range or not among the file's inputs.
  Explanation explain(const Picture& picture, const Choice& choice = {}) const {
    check_open();
    if (!facts_.pixels) return explain(detail::preprocessed(picture, facts_), choice);
    std::vector<std::uint8_t> pixels = detail::pixels(picture, facts_);
    return run(pixels, choice);
  }

  /// Explains an image that is already preprocessed: C×H×W values (H×W×C where facts().channels_last).
  Explanation explain(std::vector<float> values, const Choice& choice = {}) const {
    check_open();
    detail::check_values(values, facts_);
    return run(values, choice);
  }

 private:
  void check_open() const {
    if (!model_) throw Error("this explainer was moved from: use the one that it was moved to.");
  }

  template <class Function>
  static auto guarded(Function function) -> decltype(function()) {
    try {
      return function();
    } catch (const ov::Exception& error) {
      throw Error(std::string("OpenVINO: ") + error.what());
    }
  }

  static ov::AnyMap with_threads(int threads) {
    if (threads < 0) throw Error(std::to_string(threads) + " threads cannot be started: pass 0 or more.");
    ov::AnyMap properties{ov::hint::inference_precision(ov::element::f32)};
    if (threads > 0) properties.insert(ov::inference_num_threads(threads));
    return properties;
  }

  template <class Value>
  Explanation run(std::vector<Value>& image, const Choice& choice) const {
    detail::check(choice, classes_, inputs_);
    detail::Scalars scalars(choice);
    return guarded([&] {
      ov::CompiledModel model = model_;  // a handle: what it creates belongs to this call alone
      ov::InferRequest request = model.create_infer_request();
      for (const std::string& input : inputs_) {
        if (input == "image") {
          request.set_tensor(input, ov::Tensor(ov::element::from<Value>(), model.input(input).get_shape(), image.data()));
        } else if (input == "mu") {
          request.set_tensor(input, ov::Tensor(ov::element::f32, {1}, &scalars.mu));
        } else {
          request.set_tensor(input, ov::Tensor(ov::element::i64, {1}, &scalars.integer(input)));
        }
      }
      request.infer();
      const auto floats = [&](const char* name) { return request.get_tensor(name).template data<float>(); };
      const auto integer = [&](const char* name) { return *request.get_tensor(name).template data<std::int64_t>(); };
      return detail::answer(facts_, classes_, floats("logits"), floats("probabilities"), integer("explained"),
                            floats("saliency"), integer("passes"));
    });
  }

  Facts facts_;
  ov::CompiledModel model_;
  std::vector<std::string> inputs_;
  std::int64_t classes_ = 0;
};

}  // namespace openvino
}  // namespace sightline
