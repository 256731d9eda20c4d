# Finds ONNX Runtime and defines OnnxRuntime::OnnxRuntime. In this order:
#   1. ONNXRUNTIME_ROOT, a folder with include/ and lib/ such as a release of it or what setup_dependencies.sh makes;
#   2. an installed package that has a CMake configuration (Debian's libonnxruntime-dev, from trixie on);
#   3. where setup_dependencies.sh puts it unless told otherwise.
# OnnxRuntime_FOLDER is where the library lies, if that is not where packages have theirs.
# What is compiled against is the C API, stable by version: any library not older than the headers will do.
set(ONNXRUNTIME_ROOT "" CACHE PATH "Folder with include/ and lib/ of ONNX Runtime")
set(_onnxruntime_default "${CMAKE_CURRENT_LIST_DIR}/../.dependencies/onnxruntime")

if(NOT ONNXRUNTIME_ROOT)
  find_package(onnxruntime CONFIG QUIET)
endif()
if(onnxruntime_FOUND)
  set(OnnxRuntime_LIBRARY onnxruntime::onnxruntime)
  get_target_property(OnnxRuntime_INCLUDE_DIR onnxruntime::onnxruntime INTERFACE_INCLUDE_DIRECTORIES)
else()
  find_path(OnnxRuntime_INCLUDE_DIR onnxruntime_c_api.h
    PATHS "${ONNXRUNTIME_ROOT}" "${_onnxruntime_default}" NO_DEFAULT_PATH
    PATH_SUFFIXES include include/onnxruntime include/onnxruntime/core/session)
  find_library(OnnxRuntime_LIBRARY NAMES onnxruntime libonnxruntime.so.1
    PATHS "${ONNXRUNTIME_ROOT}" "${_onnxruntime_default}" NO_DEFAULT_PATH
    PATH_SUFFIXES lib lib64)
  mark_as_advanced(OnnxRuntime_INCLUDE_DIR OnnxRuntime_LIBRARY)
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(OnnxRuntime
  REQUIRED_VARS OnnxRuntime_LIBRARY OnnxRuntime_INCLUDE_DIR
  REASON_FAILURE_MESSAGE "Install libonnxruntime-dev, give -DONNXRUNTIME_ROOT=..., or run runtime/cpp/setup_dependencies.sh.")

if(OnnxRuntime_FOUND AND NOT TARGET OnnxRuntime::OnnxRuntime)
  if(onnxruntime_FOUND)
    add_library(OnnxRuntime::OnnxRuntime ALIAS onnxruntime::onnxruntime)
  else()
    add_library(OnnxRuntime::OnnxRuntime SHARED IMPORTED)
    set_target_properties(OnnxRuntime::OnnxRuntime PROPERTIES
      IMPORTED_LOCATION "${OnnxRuntime_LIBRARY}" IMPORTED_SONAME "libonnxruntime.so.1"
      INTERFACE_INCLUDE_DIRECTORIES "${OnnxRuntime_INCLUDE_DIR}")
    get_filename_component(OnnxRuntime_FOLDER "${OnnxRuntime_LIBRARY}" DIRECTORY)
  endif()
endif()
