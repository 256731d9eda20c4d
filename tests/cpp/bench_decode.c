/* Decodes one file again and again through the C interface, and prints what it took: for
 * tests/bench/bench_embedding.py.
 *
 *   bench_decode BUNDLE FILE THREADS RUNS START     "open first warm warm ... peak", in ms and, the peak, in kB
 *
 * Times of opening and of the first decode count from START, ms of the monotonic clock. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <time.h>

#include "rdeic/rdeic.h"

static double now_ms(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return 1e3 * (double)t.tv_sec + 1e-6 * (double)t.tv_nsec;
}

static uint8_t* read_file(const char* path, size_t* bytes) {
  FILE* file = fopen(path, "rb");
  long length = -1;
  if (file && fseek(file, 0, SEEK_END) == 0) length = ftell(file);
  uint8_t* data = length > 0 ? malloc((size_t)length) : NULL;
  if (data) {
    rewind(file);
    *bytes = fread(data, 1, (size_t)length, file);
  }
  if (file) fclose(file);
  return data;
}

int main(int argc, char** argv) {
  size_t bytes = 0;
  uint8_t* data = argc == 6 ? read_file(argv[2], &bytes) : NULL;
  if (!data) {
    fputs("usage: bench_decode BUNDLE FILE THREADS RUNS START\n", stderr);
    return EXIT_FAILURE;
  }
  const double start = atof(argv[5]);
  rdeic_error error = {0};
  rdeic_bundle* bundle = NULL;
  rdeic_decoder* decoder = NULL;
  rdeic_decoder_options options;
  rdeic_decoder_options_init(&options, sizeof options);
  options.threads = (uint32_t)atoi(argv[3]);
  rdeic_result result = rdeic_bundle_open(argv[1], 0, &bundle, &error);
  if (result == RDEIC_RESULT_OK) result = rdeic_decoder_create(bundle, &options, &decoder, &error);
  if (result == RDEIC_RESULT_OK) printf("%.3f", now_ms() - start);
  for (int run = 0; run <= atoi(argv[4]) && result == RDEIC_RESULT_OK; ++run) {
    const double from = run == 0 ? start : now_ms();
    rdeic_image* image = NULL;
    result = rdeic_decode(decoder, data, bytes, NULL, &image, &error);
    if (result == RDEIC_RESULT_OK) printf(" %.3f", now_ms() - from);
    rdeic_image_destroy(image);
  }
  struct rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  printf(" %ld\n", usage.ru_maxrss);
  if (result != RDEIC_RESULT_OK) fprintf(stderr, "%s\n", error.message);
  rdeic_decoder_destroy(decoder);
  rdeic_bundle_destroy(bundle);
  free(data);
  return result == RDEIC_RESULT_OK ? EXIT_SUCCESS : EXIT_FAILURE;
}
