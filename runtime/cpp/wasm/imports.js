// The functions of imports.h, for Emscripten's linker: each calls one that exact.js gave the module.
mergeInto(LibraryManager.library, {
  rdeic_js_sha256_begin: function () {
    return Module.sha256.begin();
  },
  rdeic_js_sha256_update: function (hash, data, bytes) {
    Module.sha256.update(hash, HEAPU8.subarray(data, data + bytes));
  },
  rdeic_js_sha256_finish: function (hash, digest) {
    HEAPU8.set(Module.sha256.finish(hash), digest);
  },
  rdeic_js_sha256_abandon: function (hash) {
    Module.sha256.abandon(hash);
  },
  rdeic_js_inflate: function (input, bytes, limit, raw) {
    return Module.inflate.run(HEAPU8.subarray(input, input + bytes), limit, raw);
  },
  rdeic_js_inflated_bytes: function () {
    return Module.inflate.bytes;
  },
  rdeic_js_inflated_left: function () {
    return Module.inflate.left;
  },
  rdeic_js_inflated_problem: function (target, room) {
    Module.inflate.tellProblem(HEAPU8.subarray(target, target + room));
  },
  rdeic_js_inflated_take: function (target) {
    Module.inflate.take(HEAPU8.subarray(target));
  },
  rdeic_js_progress: function () {
    return Module.progress();
  },
});
