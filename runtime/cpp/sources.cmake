# The source files of librdeic, relative to the folder of this file. They are listed once, here: for the native library,
# and for its exact half in WebAssembly.

# Files and bundles up to the latents, noise, tiles and the checks of graphs: integers, or float arithmetic that every
# machine rounds alike. Without a file system, threads and libraries but for nlohmann-json.
set(RDEIC_EXACT_SOURCES
  src/arrays.cc
  src/backends/backend.cc
  src/bundle.cc
  src/bundle_tables.cc
  src/container.cc
  src/crc32c.cc
  src/dtype.cc
  src/entropy/coder.cc
  src/entropy/hyperprior.cc
  src/entropy/index_context.cc
  src/entropy/indices.cc
  src/entropy/layers.cc
  src/entropy/matmul.cc
  src/entropy/model.cc
  src/entropy/model_reader.cc
  src/entropy/nets.cc
  src/entropy/order.cc
  src/entropy/static_prior.cc
  src/entropy/tables.cc
  src/families/diffo.cc
  src/families/families.cc
  src/families/rdeic.cc
  src/graph_weights.cc
  src/input_limits.cc
  src/json_reader.cc
  src/latents.cc
  src/memory_estimate.cc
  src/noise.cc
  src/npy.cc
  src/onnx_walk.cc
  src/pixels.cc
  src/plan.cc
  src/placement.cc
  src/reader.cc
  src/rows.cc
  src/sha256.cc
  src/status.cc
  src/tensor_spec.cc
  src/tiles.cc
  src/value.cc
)

# What needs a file system, threads, ONNX Runtime or a library that WebAssembly has other ways for.
set(RDEIC_NATIVE_SOURCES
  src/backends/ort.cc
  src/backends/select.cc
  src/bundle_file.cc
  src/bundle_folder.cc
  src/bundle_search.cc
  src/codec.cc
  src/entropy/workers.cc
  src/graph_file.cc
  src/inflate_zlib.cc
  src/loading.cc
  src/sha256_openssl.cc
  src/zip_reader_minizip.cc
)

# Their counterparts in WebAssembly.
set(RDEIC_WASM_SOURCES
  wasm/exact.cc
  wasm/inflate_js.cc
  wasm/sha256_js.cc
  wasm/workers_single.cc
  wasm/zip_reader_wasm.cc
)

foreach(list RDEIC_EXACT_SOURCES RDEIC_NATIVE_SOURCES RDEIC_WASM_SOURCES)
  list(TRANSFORM ${list} PREPEND "${CMAKE_CURRENT_LIST_DIR}/")
endforeach()
