/* rdeic.h: decodes .rdc files. The guide is docs/embedding.md; examples/decode_memory.c is an example.
 *
 * Order of calls:
 *
 *   rdeic_read_info                            reads the header of a file; needs no bundle
 *   rdeic_bundle_open                          opens and checks a model; executes nothing and loads nothing yet
 *   or  rdeic_bundle_open_for                  opens the installed bundle that a file was encoded with
 *     rdeic_decoder_create                     prepares the model on a backend
 *       rdeic_decode  or  rdeic_decode_into    decode a file; any number of times
 *         rdeic_image_destroy
 *     rdeic_decoder_destroy
 *   rdeic_bundle_destroy
 *
 * Ownership: you own the object that *_open, *_open_for, *_create or rdeic_decode stores in its `out`, until you
 * pass it to the *_destroy of its type. All *_destroy functions accept NULL. Strings and arrays that a function returns
 * belong to the object that they are part of, and live as long. Your buffers are accessed only during the call.
 *
 * Threads: every function may be called from any thread. Bundles and decoders may be used by several threads at once,
 * and so may images, which are immutable; destroy an object only when no thread uses it any more. The library has no
 * state besides these objects. Its threads, which load graphs and compute, belong to a decoder and end with it. A child
 * of fork() has none of them: there, the parent's decoders fail with RDEIC_RESULT_BACKEND, and destroying one frees
 * nothing; the child may create its own.
 *
 * Environment: creating the first decoder sets ORT_DISABLE_TELEMETRY=1 for ONNX Runtime, unless the variable is set.
 *
 * Results: functions that can fail return a result; unless it is RDEIC_RESULT_OK, they set `out` to NULL or zeros.
 * No C++ exception leaves the library, not even when memory runs out. The last argument, if not NULL,
 * receives the details.
 *
 * Versions: within a major version numbers do not change. Structures with an *_init function may grow at their end:
 * call it with the size of your structure before you set fields, so that a later library knows which fields exist:
 * `rdeic_limits_init(&limits, sizeof limits)`. rdeic_image may grow, too; other structures never do.
 */
#ifndef RDEIC_RDEIC_H
#define RDEIC_RDEIC_H

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define RDEIC_API __attribute__((visibility("default")))
#else
#define RDEIC_API
#endif
#if defined(__cplusplus) && __cplusplus >= 201703L
#define RDEIC_NODISCARD [[nodiscard]]
#elif defined(__GNUC__)
#define RDEIC_NODISCARD __attribute__((warn_unused_result))
#else
#define RDEIC_NODISCARD
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Results ---------------------------------------------------------------------------------------------------- */

/* Result of a call. The tens give the source: 2x the caller, 3x the system, 4x the file, 5x the bundle, 6x the backend.
 */
typedef enum rdeic_result {
  RDEIC_RESULT_OK = 0,
  RDEIC_RESULT_INTERNAL = 10,            /* a bug in this library: please report it */
  RDEIC_RESULT_INVALID_ARGUMENT = 20,    /* a caller's mistake; the message names the argument */
  RDEIC_RESULT_CANCELLED = 21,           /* by your progress function */
  RDEIC_RESULT_IO = 30,                  /* a file cannot be read */
  RDEIC_RESULT_NOT_RDC = 40,             /* wrong signature */
  RDEIC_RESULT_TRUNCATED = 41,           /* ends too early; see rdeic_decode_options.allow_partial */
  RDEIC_RESULT_UNSUPPORTED_VERSION = 42, /* needs a later library */
  RDEIC_RESULT_LIMIT_EXCEEDED = 43,      /* exceeds rdeic_limits; nothing was allocated for it */
  RDEIC_RESULT_CHECKSUM = 44,            /* the file is damaged */
  RDEIC_RESULT_BITSTREAM = 45,           /* holds what no encoder writes */
  RDEIC_RESULT_BUNDLE = 50,              /* of a schema that this library does not support */
  RDEIC_RESULT_BUNDLE_NOT_FOUND = 51,    /* the message lists the places that were searched */
  RDEIC_RESULT_BUNDLE_CORRUPT = 52,      /* a file is missing, changed, or has invalid contents */
  RDEIC_RESULT_BUNDLE_MISMATCH = 53,     /* the .rdc file was encoded with another bundle's model */
  RDEIC_RESULT_BACKEND = 60,             /* a call of the inference library failed */
  RDEIC_RESULT_BACKEND_UNAVAILABLE = 61, /* it cannot run here; the message states the reason */
  RDEIC_RESULT_OUT_OF_MEMORY = 62
} rdeic_result;

/* Details of the first failure since it was cleared. Later failures do not overwrite it, so one error can serve a
 * series of calls. You own it; use one per thread. `rdeic_error error = {0};` is a cleared error. */
typedef struct rdeic_error {
  rdeic_result result;
  char message[500]; /* one line in UTF-8 that ends in NUL */
} rdeic_error;

RDEIC_API void rdeic_error_clear(rdeic_error* error);

/* Returns a short description of a result, or "unknown result"; valid for ever. */
RDEIC_API const char* rdeic_result_text(rdeic_result result);

/* Returns "major.minor.patch" of the library, and ".devN" after it between releases; valid for ever. */
RDEIC_API const char* rdeic_version(void);

/* ---- Limits ----------------------------------------------------------------------------------------------------- */

/* Limits on what a file may request. The defaults are those of docs/format.md. */
typedef struct rdeic_limits {
  size_t struct_bytes;
  uint64_t max_pixels;         /* height times width: 2^26 */
  uint64_t max_file_bytes;     /* 2^29 */
  uint64_t max_metadata_bytes; /* of ICC profile and EXIF together, inflated: 2^22 */
  uint64_t max_memory_bytes;   /* of all buffers for one image, without ONNX Runtime's working memory, which
                                * tile_px bounds: 2^32; 0: no limit */
  uint64_t max_side_px;        /* 65535 */
} rdeic_limits;

RDEIC_API void rdeic_limits_init(rdeic_limits* limits, size_t struct_bytes);

/* ---- Files ------------------------------------------------------------------------------------------------------ */

/* The header of a file. */
typedef struct rdeic_info {
  uint32_t width, height; /* in pixels */
  uint32_t rate;          /* index in the bundle; if the bundle has levels, the level (docs/bundle.md, "Levels") */
  uint8_t model_id[4];    /* of the entropy model that the file needs */
  uint32_t checksum;      /* CRC-32C; the seed of the noise, unless another is given */
  uint64_t z_bytes, y_bytes;
  uint64_t icc_bytes, exif_bytes; /* 0: none */
} rdeic_info;

/* Reads what is known about a file without a bundle, and checks its structure and its checksum.
 * limits: NULL for the defaults. Results: the 4x ones, OUT_OF_MEMORY, INVALID_ARGUMENT. */
RDEIC_NODISCARD RDEIC_API rdeic_result rdeic_read_info(const uint8_t* data, size_t data_bytes,
                                                       const rdeic_limits* limits, rdeic_info* out, rdeic_error* error);

/* ---- Bundles ---------------------------------------------------------------------------------------------------- */

typedef struct rdeic_bundle rdeic_bundle;

enum {
  RDEIC_BUNDLE_NO_VERIFY = 1 /* do not compare hashes of the bundle's files; lengths are compared in any case */
};

/* Opens a bundle (docs/bundle.md).
 * source: a folder, or a name that is looked up in RDEIC_RT_BUNDLES, the user's cache folder and the installed
 * engines; NULL for "tiny-2". flags: 0, or RDEIC_BUNDLE_NO_VERIFY.
 * Results: BUNDLE, BUNDLE_NOT_FOUND, BUNDLE_CORRUPT, IO, OUT_OF_MEMORY, INVALID_ARGUMENT. */
RDEIC_NODISCARD RDEIC_API rdeic_result rdeic_bundle_open(const char* source, uint32_t flags, rdeic_bundle** out,
                                                         rdeic_error* error);

/* Opens the installed bundle that a file was encoded with. It is searched for in the folders in which rdeic_bundle_open
 * looks up names, "tiny-2" first. Manifests are read until one matches; a bundle that cannot be read is skipped.
 * data: the file, or the part of a truncated file that rdeic_decode accepts with allow_partial. limits: NULL for the
 * defaults. flags: as above. Results: the 4x ones, BUNDLE_MISMATCH if no installed bundle has the file's model, and
 * those of rdeic_bundle_open. */
RDEIC_NODISCARD RDEIC_API rdeic_result rdeic_bundle_open_for(const uint8_t* data, size_t data_bytes,
                                                             const rdeic_limits* limits, uint32_t flags,
                                                             rdeic_bundle** out, rdeic_error* error);

/* May be called before the decoders of the bundle are destroyed. */
RDEIC_API void rdeic_bundle_destroy(rdeic_bundle* bundle);

/* These return NULL if bundle is NULL. */
RDEIC_API const char* rdeic_bundle_name(const rdeic_bundle* bundle);
RDEIC_API const char* rdeic_bundle_folder(const rdeic_bundle* bundle);
RDEIC_API const char* rdeic_bundle_licence(const rdeic_bundle* bundle); /* of its weights */

/* One operating point of a bundle. */
typedef struct rdeic_rate {
  const char* label;   /* a name for users; lives as long as the bundle */
  double bpp;          /* bits per pixel of a typical photo */
  uint32_t steps;      /* default number of denoising steps; 1 where it cannot be chosen */
  uint8_t model_id[4]; /* files of this rate have the same one */
} rdeic_rate;

RDEIC_API uint32_t rdeic_bundle_rate_count(const rdeic_bundle* bundle);

/* Describes the rate of an index less than rdeic_bundle_rate_count. Results: INVALID_ARGUMENT. */
RDEIC_NODISCARD RDEIC_API rdeic_result rdeic_bundle_rate(const rdeic_bundle* bundle, uint32_t index, rdeic_rate* out,
                                                         rdeic_error* error);

/* ---- Decoders --------------------------------------------------------------------------------------------------- */

typedef struct rdeic_decoder rdeic_decoder;

/* How a bundle is run. */
typedef struct rdeic_decoder_options {
  size_t struct_bytes;
  const char* backend;        /* "cpu"; or "cuda", "tensorrt-rtx", if ONNX Runtime has that execution provider */
  const char* precision;      /* "auto"; or "fp32", "fp16", "int8", if the bundle has it */
  uint32_t threads;           /* CPU threads for one decode; 0: one for each physical core */
  uint32_t tile_px;           /* images of more than tile_px squared pixels are tiled: 1024; at least 256 */
  const rdeic_limits* limits; /* NULL: the defaults; read by rdeic_decoder_create only, like the strings */
} rdeic_decoder_options;

RDEIC_API void rdeic_decoder_options_init(rdeic_decoder_options* options, size_t struct_bytes);

/* Creates a decoder. Graphs are loaded when first needed, so this is quick. The decoder keeps what it needs of the
 * bundle. options: NULL for the defaults. Results: BACKEND, BACKEND_UNAVAILABLE, OUT_OF_MEMORY, INVALID_ARGUMENT. */
RDEIC_NODISCARD RDEIC_API rdeic_result rdeic_decoder_create(const rdeic_bundle* bundle,
                                                            const rdeic_decoder_options* options, rdeic_decoder** out,
                                                            rdeic_error* error);
RDEIC_API void rdeic_decoder_destroy(rdeic_decoder* decoder);

/* Loads what decoding a rate needs, so that its first decode is as quick as the next. rate: an index as in
 * rdeic_bundle_rate. Results: as rdeic_decode, except the 4x ones. */
RDEIC_NODISCARD RDEIC_API rdeic_result rdeic_decoder_prepare(rdeic_decoder* decoder, uint32_t rate, rdeic_error* error);

/* Stages of a decode, in order, after the file's structure has been checked. Families other than rdeic may
 * lack some of them, or have one more than once. */
typedef enum rdeic_stage {
  RDEIC_STAGE_ENTROPY = 0,
  RDEIC_STAGE_SYNTHESIS = 1,
  RDEIC_STAGE_DENOISE = 2, /* as many parts as there are steps; none for previews */
  RDEIC_STAGE_VAE = 3,
  RDEIC_STAGE_DONE = 4
} rdeic_stage;

/* Called before each part, and within longer parts (between tiles, and about every tenth of a second of entropy
 * decoding), in the calling thread, with the number of parts done and the total; `user` is your pointer. Return 0 to
 * continue; any other value ends the decode with RDEIC_RESULT_CANCELLED. It must not throw or longjmp. */
typedef int (*rdeic_progress)(void* user, rdeic_stage stage, uint32_t done, uint32_t total);

/* How one file is decoded. */
typedef struct rdeic_decode_options {
  size_t struct_bytes;
  double sharpness; /* 1: as trained; towards 0 smoother, above 1 sharper, and up to twice the time. Must be 1 if
                     * the bundle's rate is not guided */
  uint64_t seed;    /* of the noise, if has_seed is not 0; otherwise the file's checksum is used */
  int has_seed;
  uint32_t steps;          /* 0: the rate's own number */
  int preview;             /* not 0: skip denoising; seed, steps and sharpness are ignored */
  int allow_partial;       /* not 0: decode the intact part of a truncated file; see rdeic_image */
  rdeic_progress progress; /* NULL: none */
  void* user;              /* passed to progress */
} rdeic_decode_options;

RDEIC_API void rdeic_decode_options_init(rdeic_decode_options* options, size_t struct_bytes);

/* A decoded image. Created and destroyed by the library, which may add fields. */
typedef struct rdeic_image {
  uint32_t width, height;
  size_t stride;         /* bytes from one row to the next: 3 * width */
  const uint8_t* pixels; /* rows from top to bottom of R, G, B, in sRGB unless there is an ICC profile */
  const uint8_t* icc;    /* profile, icc_bytes long; NULL: none. From the file: do not trust it */
  size_t icc_bytes;
  const uint8_t* exif; /* from its byte-order mark on; NULL: none. Do not trust it either */
  size_t exif_bytes;
  uint64_t missing_bytes;             /* of a truncated file, which cannot be checked for damage; otherwise 0 */
  uint32_t complete_slices, n_slices; /* complete_slices are as in the whole file */
} rdeic_image;

/* Decodes a file to a new image.
 * options: NULL for the defaults. Results: any. */
RDEIC_NODISCARD RDEIC_API rdeic_result rdeic_decode(rdeic_decoder* decoder, const uint8_t* data, size_t data_bytes,
                                                    const rdeic_decode_options* options, rdeic_image** out,
                                                    rdeic_error* error);
RDEIC_API void rdeic_image_destroy(rdeic_image* image);

/* Decodes a file into your buffer: height rows of 3 * width bytes (from rdeic_read_info), `stride` bytes apart. The
 * last row needs only 3 * width. On failure, the contents of the buffer are undefined. Results: any;
 * INVALID_ARGUMENT, before anything is decoded, if stride or pixels_bytes is too small. */
RDEIC_NODISCARD RDEIC_API rdeic_result rdeic_decode_into(rdeic_decoder* decoder, const uint8_t* data, size_t data_bytes,
                                                         const rdeic_decode_options* options, uint8_t* pixels,
                                                         size_t pixels_bytes, size_t stride, rdeic_error* error);

#ifdef __cplusplus
}
#endif

#endif /* RDEIC_RDEIC_H */
