# ONNX Runtime: its headers and its library, which may come from different places.
#
#   ONNXRUNTIME_ROOT          a release of ONNX Runtime, unpacked (has include/ and lib/)
#   ONNXRUNTIME_INCLUDE_DIR   the folder of onnxruntime_cxx_api.h
#   ONNXRUNTIME_LIBRARY       the library, e.g. the libonnxruntime.so.1.x of a Python wheel
#
# Defines the target ONNXRuntime::ONNXRuntime.
find_path(ONNXRUNTIME_INCLUDE_DIR onnxruntime_cxx_api.h
  HINTS ${ONNXRUNTIME_ROOT} ENV ONNXRUNTIME_ROOT
  PATH_SUFFIXES include include/onnxruntime include/onnxruntime/core/session onnxruntime)
find_library(ONNXRUNTIME_LIBRARY onnxruntime
  HINTS ${ONNXRUNTIME_ROOT} ENV ONNXRUNTIME_ROOT
  PATH_SUFFIXES lib lib64)

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(ONNXRuntime
  REQUIRED_VARS ONNXRUNTIME_LIBRARY ONNXRUNTIME_INCLUDE_DIR
  REASON_FAILURE_MESSAGE "pass -DONNXRUNTIME_ROOT=…, or -DONNXRUNTIME_INCLUDE_DIR=… and -DONNXRUNTIME_LIBRARY=…")

if(ONNXRuntime_FOUND AND NOT TARGET ONNXRuntime::ONNXRuntime)
  add_library(ONNXRuntime::ONNXRuntime UNKNOWN IMPORTED)
  set_target_properties(ONNXRuntime::ONNXRuntime PROPERTIES
    IMPORTED_LOCATION "${ONNXRUNTIME_LIBRARY}"
    INTERFACE_INCLUDE_DIRECTORIES "${ONNXRUNTIME_INCLUDE_DIR}")
endif()
mark_as_advanced(ONNXRUNTIME_INCLUDE_DIR ONNXRUNTIME_LIBRARY)
