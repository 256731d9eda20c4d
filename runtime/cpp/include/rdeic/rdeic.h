/* rdeic.h: decodes .rdc files. The guide is docs/embedding.md, an example examples/decode_memory.c.
 *
 * Order of calls:
 *
 *   rdeic_read_info                            what a file holds; needs no bundle
 *   rdeic_bundle_open                          a model: checked, nothing executed, nothing loaded yet
 *   or  rdeic_bundle_open_for                  the installed one that a file was made with
 *     rdeic_decoder_create                     the model on a backend
 *       rdeic_decode  or  rdeic_decode_into    a file's picture, as often as you like
 *         rdeic_image_destroy
 *     rdeic_decoder_destroy
 *   rdeic_bundle_destroy
 *
 * Ownership: what a function named *_open, *_open_for, *_create or rdeic_decode puts into its `out` is yours until you
 * give it to the *_destroy of its type. All of those take NULL. Texts and arrays that a function returns belong to the
 * object they came from and live as long. Your buffers are read or written during the call only.
 *
 * Threads: every function may be called from any thread. Bundles and decoders may be used by several threads at once,
 * images, too, as nothing changes them; destroying one is for when nobody uses it any more. The library has no state of
 * its own besides these objects. Its threads are a decoder's, and end with it: they load graphs and compute. In a child
 * of fork(), which has none of them, its parent's decoders fail with RDEIC_RESULT_BACKEND, and destroying one gives
 * nothing back; the child may create its own.
 *
 * Environment: the first decoder sets ORT_DISABLE_TELEMETRY=1 for ONNX Runtime, unless the variable is there.
 *
 * Results: functions that can fail return a result, and write nothing to `out` but NULL or zeros if it is not
 * RDEIC_RESULT_OK. No C++ exception leaves the library, running out of memory included. The last argument, if not NULL,
 * receives the details.
 *
 * Versions: within a major version numbers do not change. Structures that have an *_init may grow at their end: call it
 * with the size of yours before you set fields, so that a later library knows which fields you know:
 * `rdeic_limits_init(&limits, sizeof limits)`. rdeic_image may grow, too; others never do.
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

/* What a call came to. Tens tell the kind: 2x you, 3x the system, 4x the file, 5x the bundle, 6x the backend. */
typedef enum rdeic_result {
  RDEIC_RESULT_OK = 0,
  RDEIC_RESULT_INTERNAL = 10,            /* a bug in this library: please report it */
  RDEIC_RESULT_INVALID_ARGUMENT = 20,    /* a caller's mistake; the message names the argument */
  RDEIC_RESULT_CANCELLED = 21,           /* your progress function said so */
  RDEIC_RESULT_IO = 30,                  /* a file cannot be read */
  RDEIC_RESULT_NOT_RDC = 40,             /* begins with another signature */
  RDEIC_RESULT_TRUNCATED = 41,           /* ends too early; see rdeic_decode_options.allow_partial */
  RDEIC_RESULT_UNSUPPORTED_VERSION = 42, /* needs a later library */
  RDEIC_RESULT_LIMIT_EXCEEDED = 43,      /* larger than rdeic_limits allows; nothing was allocated for it */
  RDEIC_RESULT_CHECKSUM = 44,            /* a byte has changed */
  RDEIC_RESULT_BITSTREAM = 45,           /* holds what no encoder writes */
  RDEIC_RESULT_BUNDLE = 50,              /* of a schema that this library does not read */
  RDEIC_RESULT_BUNDLE_NOT_FOUND = 51,    /* the message lists where it was looked for */
  RDEIC_RESULT_BUNDLE_CORRUPT = 52,      /* a file is missing, changed, or does not hold what it should */
  RDEIC_RESULT_BUNDLE_MISMATCH = 53,     /* the .rdc file was made with another bundle's model */
  RDEIC_RESULT_BACKEND = 60,             /* a call of the inference library failed */
  RDEIC_RESULT_BACKEND_UNAVAILABLE = 61, /* it cannot run here; the message says why */
  RDEIC_RESULT_OUT_OF_MEMORY = 62
} rdeic_result;

/* Details of the first failure since it was cleared: later ones do not overwrite it, so one can serve a row of calls.
 * Yours; one a thread. Zeros (`rdeic_error error = {0};`) are cleared, too. */
typedef struct rdeic_error {
  rdeic_result result;
  char message[500]; /* one line in UTF-8 that ends in NUL */
} rdeic_error;

RDEIC_API void rdeic_error_clear(rdeic_error* error);

/* Returns a few words for a result, or "unknown result"; valid for ever. */
RDEIC_API const char* rdeic_result_text(rdeic_result result);

/* Returns "major.minor.patch" of the library, and ".devN" after it between releases; valid for ever. */
RDEIC_API const char* rdeic_version(void);

/* ---- Limits ----------------------------------------------------------------------------------------------------- */

/* Ceilings on what a file may announce. The defaults are those of docs/format.md. */
typedef struct rdeic_limits {
  size_t struct_bytes;
  uint64_t max_pixels;         /* height times width: 2^26 */
  uint64_t max_file_bytes;     /* 2^29 */
  uint64_t max_metadata_bytes; /* of ICC profile and EXIF together, inflated: 2^22 */
  uint64_t max_memory_bytes;   /* of all buffers for one picture, but for those that ONNX Runtime works in, which
                                * tile_px bounds: 2^32; 0: no ceiling */
  uint64_t max_side_px;        /* 65535 */
} rdeic_limits;

RDEIC_API void rdeic_limits_init(rdeic_limits* limits, size_t struct_bytes);

/* ---- Files ------------------------------------------------------------------------------------------------------ */

/* What the header of a file says. */
typedef struct rdeic_info {
  uint32_t width, height; /* in pixels */
  uint32_t rate;          /* index in the bundle; of a bundle with levels, the level (docs/bundle.md, "Levels") */
  uint8_t model_id[4];    /* of the entropy model that it needs */
  uint32_t checksum;      /* CRC-32C; the seed of the noise, unless another is given */
  uint64_t z_bytes, y_bytes;
  uint64_t icc_bytes, exif_bytes; /* 0: none */
} rdeic_info;

/* Reads what can be known of a file without a bundle, and checks all of its structure and its checksum.
 * limits: NULL for the defaults. Results: the 4x ones, OUT_OF_MEMORY, INVALID_ARGUMENT. */
RDEIC_NODISCARD RDEIC_API rdeic_result rdeic_read_info(const uint8_t* data, size_t data_bytes,
                                                       const rdeic_limits* limits, rdeic_info* out, rdeic_error* error);

/* ---- Bundles ---------------------------------------------------------------------------------------------------- */

typedef struct rdeic_bundle rdeic_bundle;

enum {
  RDEIC_BUNDLE_NO_VERIFY = 1 /* do not compare hashes of the bundle's files; lengths are compared in any case */
};

/* Opens a bundle (docs/bundle.md).
 * source: a folder, or a name that is looked for in RDEIC_RT_BUNDLES, the user's cache folder and the installed
 * engines; NULL for "tiny-2". flags: 0, or RDEIC_BUNDLE_NO_VERIFY.
 * Results: BUNDLE, BUNDLE_NOT_FOUND, BUNDLE_CORRUPT, IO, OUT_OF_MEMORY, INVALID_ARGUMENT. */
RDEIC_NODISCARD RDEIC_API rdeic_result rdeic_bundle_open(const char* source, uint32_t flags, rdeic_bundle** out,
                                                         rdeic_error* error);

/* Opens the installed bundle that a file was made with: of the folders in which rdeic_bundle_open looks for names, and
 * "tiny-2" before all others. Manifests are read until one fits; a bundle that cannot be read is passed over.
 * data: the file; of one that is cut short, what rdeic_decode takes with allow_partial. limits: NULL for the defaults.
 * flags: as above. Results: the 4x ones, BUNDLE_MISMATCH if no installed bundle has the file's model, and those of
 * rdeic_bundle_open. */
RDEIC_NODISCARD RDEIC_API rdeic_result rdeic_bundle_open_for(const uint8_t* data, size_t data_bytes,
                                                             const rdeic_limits* limits, uint32_t flags,
                                                             rdeic_bundle** out, rdeic_error* error);

/* May come before the decoders of the bundle are destroyed. */
RDEIC_API void rdeic_bundle_destroy(rdeic_bundle* bundle);

/* NULL for no bundle. */
RDEIC_API const char* rdeic_bundle_name(const rdeic_bundle* bundle);
RDEIC_API const char* rdeic_bundle_folder(const rdeic_bundle* bundle);
RDEIC_API const char* rdeic_bundle_licence(const rdeic_bundle* bundle); /* of its weights */

/* One operating point of a bundle. */
typedef struct rdeic_rate {
  const char* label;   /* for people; lives as long as the bundle */
  double bpp;          /* bits per pixel of a typical photo */
  uint32_t steps;      /* denoising steps, unless told otherwise; 1 where they cannot be chosen */
  uint8_t model_id[4]; /* files of this rate have the same */
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
  const char* backend;        /* "cpu"; or "cuda", "tensorrt-rtx", where ONNX Runtime has that provider */
  const char* precision;      /* "auto"; or "fp32", "fp16", "int8", where the bundle has it */
  uint32_t threads;           /* of the CPU, for one decode; 0: one for each physical core */
  uint32_t tile_px;           /* larger pictures than this, squared, are worked on in tiles: 1024; at least 256 */
  const rdeic_limits* limits; /* NULL: the defaults; read by rdeic_decoder_create only, like the texts */
} rdeic_decoder_options;

RDEIC_API void rdeic_decoder_options_init(rdeic_decoder_options* options, size_t struct_bytes);

/* Makes a decoder. Graphs are loaded when first needed, so this is quick. It keeps what it needs of the bundle.
 * options: NULL for the defaults. Results: BACKEND, BACKEND_UNAVAILABLE, OUT_OF_MEMORY, INVALID_ARGUMENT. */
RDEIC_NODISCARD RDEIC_API rdeic_result rdeic_decoder_create(const rdeic_bundle* bundle,
                                                            const rdeic_decoder_options* options, rdeic_decoder** out,
                                                            rdeic_error* error);
RDEIC_API void rdeic_decoder_destroy(rdeic_decoder* decoder);

/* Loads what decoding a rate needs, an index as in rdeic_bundle_rate, so that its first decode is as quick as the next.
 * Results: as rdeic_decode, but for the 4x ones. */
RDEIC_NODISCARD RDEIC_API rdeic_result rdeic_decoder_prepare(rdeic_decoder* decoder, uint32_t rate, rdeic_error* error);

/* Parts of a decode, in order, once the file's structure has been found right. Bundles of other families than rdeic may
 * lack some, or have one more than once. */
typedef enum rdeic_stage {
  RDEIC_STAGE_ENTROPY = 0,
  RDEIC_STAGE_SYNTHESIS = 1,
  RDEIC_STAGE_DENOISE = 2, /* as many parts as there are steps; none for previews */
  RDEIC_STAGE_VAE = 3,
  RDEIC_STAGE_DONE = 4
} rdeic_stage;

/* Told before each part, and within longer ones (between tiles, and about every tenth of a second of entropy decoding),
 * in the thread that called, with the number of parts done and of all; `user` is yours. Return 0 to go on; anything
 * else ends the decode with RDEIC_RESULT_CANCELLED. It must not throw or jump out. */
typedef int (*rdeic_progress)(void* user, rdeic_stage stage, uint32_t done, uint32_t total);

/* How one file is decoded. */
typedef struct rdeic_decode_options {
  size_t struct_bytes;
  double sharpness; /* 1: as trained; towards 0 smoother, above 1 sharper, and up to twice the time. Only 1 where the
                     * bundle says that a rate is not guided */
  uint64_t seed;    /* of the noise, if has_seed is not 0; else the file's checksum is taken */
  int has_seed;
  uint32_t steps;          /* 0: the rate's own number */
  int preview;             /* not 0: a quick look, without denoising; what seed, steps and sharpness say is not used */
  int allow_partial;       /* not 0: decode what there is of a file that is cut short; see rdeic_image */
  rdeic_progress progress; /* NULL: none */
  void* user;              /* given to progress */
} rdeic_decode_options;

RDEIC_API void rdeic_decode_options_init(rdeic_decode_options* options, size_t struct_bytes);

/* A decoded picture. Made and destroyed by the library, which may add fields. */
typedef struct rdeic_image {
  uint32_t width, height;
  size_t stride;         /* bytes from one row to the next: 3 * width */
  const uint8_t* pixels; /* rows from top to bottom of R, G, B, in sRGB unless there is an ICC profile */
  const uint8_t* icc;    /* profile, icc_bytes long; NULL: none. Written by others: do not trust it */
  size_t icc_bytes;
  const uint8_t* exif; /* from its byte-order mark on; NULL: none. Not to be trusted either */
  size_t exif_bytes;
  uint64_t missing_bytes;             /* of a file that is cut short, which nothing could check for damage; else 0 */
  uint32_t complete_slices, n_slices; /* how much of it is as in the whole file */
} rdeic_image;

/* Decodes a file to a new image.
 * options: NULL for the defaults. Results: any. */
RDEIC_NODISCARD RDEIC_API rdeic_result rdeic_decode(rdeic_decoder* decoder, const uint8_t* data, size_t data_bytes,
                                                    const rdeic_decode_options* options, rdeic_image** out,
                                                    rdeic_error* error);
RDEIC_API void rdeic_image_destroy(rdeic_image* image);

/* Decodes a file into your buffer: height rows of 3 * width bytes (from rdeic_read_info), `stride` bytes apart. The
 * last row needs no more than 3 * width. If it fails, the buffer's content is not defined. Results: any;
 * INVALID_ARGUMENT, before anything is decoded, if stride or pixels_bytes is too small. */
RDEIC_NODISCARD RDEIC_API rdeic_result rdeic_decode_into(rdeic_decoder* decoder, const uint8_t* data, size_t data_bytes,
                                                         const rdeic_decode_options* options, uint8_t* pixels,
                                                         size_t pixels_bytes, size_t stride, rdeic_error* error);

#ifdef __cplusplus
}
#endif

#endif /* RDEIC_RDEIC_H */
