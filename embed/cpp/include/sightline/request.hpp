// One call, whatever the engine: what may be chosen, how it is checked, and what comes back.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "explanation.hpp"
#include "facts.hpp"

namespace sightline {

/// What one call may choose. What is left out is the file's own choice.
struct Choice {
  std::optional<std::int64_t> target;      ///< the class to explain; otherwise the predicted one
  std::optional<float> mu;                 ///< 0 <= mu < 1: maps above this share of the largest gradient are scored
  std::optional<std::int64_t> max_passes;  ///< at most so many masks are scored
};

namespace detail {

/// Refuses bad values that the graph itself could not name, and choices that the file leaves no room for.
inline void check(const Choice& choice, std::int64_t classes, const std::vector<std::string>& inputs) {
  if (choice.target && (*choice.target < 0 || *choice.target >= classes)) {
    throw Error("there is no class " + std::to_string(*choice.target) + ": pass 0 to " + std::to_string(classes - 1) +
                ", or leave the target out for the predicted class.");
  }
  if (choice.mu && !(*choice.mu >= 0 && *choice.mu < 1)) {
    throw Error("mu is " + std::to_string(*choice.mu) + ": pass a value from 0 to below 1, or leave it out.");
  }
  if (choice.max_passes && *choice.max_passes < 1) {
    throw Error("max_passes is " + std::to_string(*choice.max_passes) + ": pass 1 or more, or leave it out.");
  }
  const auto refuse = [&](bool chosen, const std::string& name) {
    if (chosen && std::find(inputs.begin(), inputs.end(), name) == inputs.end()) {
      throw Error("the file has no input " + name + ": leave it out, or export the file with that input (--inputs).");
    }
  };
  refuse(choice.target.has_value(), "target");
  refuse(choice.mu.has_value(), "mu");
  refuse(choice.max_passes.has_value(), "max_passes");
}

/// The inputs beside the image; negative is the file's own choice.
struct Scalars {
  explicit Scalars(const Choice& choice)
      : target(choice.target.value_or(-1)), max_passes(choice.max_passes.value_or(-1)), mu(choice.mu.value_or(-1)) {}

  std::int64_t& integer(const std::string& input) {
    if (input == "target") return target;
    if (input == "max_passes") return max_passes;
    throw Error("the file has an input " + input + " that these headers do not know: use newer ones.");
  }

  std::int64_t target, max_passes;
  float mu;
};

/// From the engine's outputs to an Explanation. They are copied: the engine may take them back.
inline Explanation answer(const Facts& facts, std::int64_t classes, const float* logits, const float* probabilities,
                          std::int64_t target, const float* saliency, std::int64_t passes) {
  Explanation made;
  if (target < 0 || target >= classes) throw Error("the file explained class " + std::to_string(target) + ": export it again.");
  made.target = target;
  const auto index = static_cast<std::size_t>(target);
  made.label = index < facts.labels.size() ? facts.labels[index] : std::to_string(target);
  made.logits.assign(logits, logits + classes);
  made.score = probabilities[target];
  made.passes = passes;
  made.width = facts.width;
  made.height = facts.height;
  made.saliency.assign(saliency, saliency + static_cast<std::ptrdiff_t>(facts.width) * facts.height);
  if (!std::all_of(made.saliency.begin(), made.saliency.end(), [](float value) { return std::isfinite(value); })) {
    throw Error("the map holds NaN or infinity: the network's own values overflow on this picture.");
  }
  return made;
}

}  // namespace detail
}  // namespace sightline
