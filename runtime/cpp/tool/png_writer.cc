#include "png_writer.h"

#include <png.h>

#include <csetjmp>

namespace rdeic_tool {

namespace {

void on_error(png_structp png, png_const_charp message) {
  *static_cast<std::string*>(png_get_error_ptr(png)) = message;
  png_longjmp(png, 1);
}

// libpng warns of profiles that it finds odd, and leaves them out or keeps them as it sees fit.
void on_warning(png_structp, png_const_charp) {}

// libpng returns from errors by a long jump: nothing here has a destructor.
void write(png_structp png, png_infop info, std::FILE* file, const rdeic_image& image) {
  if (setjmp(png_jmpbuf(png))) return;
  png_init_io(png, file);
  png_set_IHDR(png, info, image.width, image.height, 8, PNG_COLOR_TYPE_RGB, PNG_INTERLACE_NONE,
               PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
  if (image.icc)
    png_set_iCCP(png, info, "icc", PNG_COMPRESSION_TYPE_BASE, image.icc, static_cast<png_uint_32>(image.icc_bytes));
  if (image.exif)
    png_set_eXIf_1(png, info, static_cast<png_uint_32>(image.exif_bytes), const_cast<png_bytep>(image.exif));
  png_write_info(png, info);
  for (std::uint32_t y = 0; y < image.height; ++y) png_write_row(png, image.pixels + std::size_t{y} * image.stride);
  png_write_end(png, info);
}

}  // namespace

std::string write_png(std::FILE* file, const rdeic_image& image) {
  std::string problem;
  png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, &problem, on_error, on_warning);
  png_infop info = png ? png_create_info_struct(png) : nullptr;
  if (info) {
    png_set_benign_errors(png, 1);
    png_set_user_limits(png, PNG_UINT_31_MAX, PNG_UINT_31_MAX);
    write(png, info, file, image);
  } else {
    problem = "not enough memory";
  }
  png_destroy_write_struct(&png, &info);
  return problem;
}

}  // namespace rdeic_tool
