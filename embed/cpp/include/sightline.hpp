// Sightline in C++: explain a picture with one ONNX file, on ONNX Runtime or (with SIGHTLINE_OPENVINO defined) OpenVINO.
//
//   sightline::Explainer explainer("explainer.onnx");
//   sightline::Explanation found = explainer.explain(picture);
//   for (const sightline::Region& region : found.regions(picture.width, picture.height)) …
#pragma once

#ifdef SIGHTLINE_OPENVINO
#include "sightline/openvino.hpp"
namespace sightline {
using openvino::Explainer;
}
#else
#include "sightline/onnxruntime.hpp"
namespace sightline {
using onnxruntime::Explainer;
}
#endif
