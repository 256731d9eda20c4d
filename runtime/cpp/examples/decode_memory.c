/* Decodes an .rdc file in memory to a PPM image:  decode_memory BUNDLE FILE.rdc > image.ppm */
#include <rdeic/rdeic.h>
#include <stdio.h>
#include <stdlib.h>

/* Returns the bytes of a file, for the caller to free, or NULL. */
static uint8_t* read_file(const char* path, size_t* n_bytes) {
  FILE* file = fopen(path, "rb");
  uint8_t* data = malloc(1 << 24); /* .rdc files are a thousand times smaller */
  *n_bytes = file && data ? fread(data, 1, 1 << 24, file) : 0;
  if (file) fclose(file);
  return data;
}

int main(int argc, char** argv) {
  if (argc != 3) return fprintf(stderr, "usage: decode_memory BUNDLE FILE.rdc > image.ppm\n"), 2;
  size_t n_bytes;
  uint8_t* data = read_file(argv[2], &n_bytes);
  if (n_bytes == 0) return perror(argv[2]), free(data), 3;

  rdeic_error error = {0};
  rdeic_bundle* bundle = NULL;
  rdeic_decoder* decoder = NULL;
  rdeic_image* image = NULL;
  rdeic_result result = rdeic_bundle_open(argv[1], 0, &bundle, &error);
  if (result == RDEIC_RESULT_OK) result = rdeic_decoder_create(bundle, NULL, &decoder, &error);
  if (result == RDEIC_RESULT_OK) result = rdeic_decode(decoder, data, n_bytes, NULL, &image, &error);
  if (result == RDEIC_RESULT_OK) {
    printf("P6\n%u %u\n255\n", (unsigned)image->width, (unsigned)image->height);
    fwrite(image->pixels, image->stride, image->height, stdout);
  } else {
    fprintf(stderr, "%s: %s\n", argv[2], error.message);
  }

  rdeic_image_destroy(image); /* all of these take NULL */
  rdeic_decoder_destroy(decoder);
  rdeic_bundle_destroy(bundle);
  free(data);
  return (int)result / 10; /* 4: the file, 5: the bundle, 6: the backend */
}
