// JPEG by libjpeg-turbo and PNG by libpng, as Pillow has them decode; WEBP is in decode_webp.cpp.
#include <algorithm>
#include <csetjmp>
#include <cstdio>
#include <cstring>
#include <jpeglib.h>
#include <jerror.h>
#include <memory>
#include <png.h>

#include "error.hpp"
#include "generated.hpp"
#include "images/orientation.hpp"
#include "images/picture.hpp"

namespace edgetok_impl {

namespace {

// ---- JPEG; nothing that needs a destructor lives between setjmp and longjmp ----

struct JpegReader {
  jpeg_decompress_struct info{};
  jpeg_error_mgr errors{};
  std::jmp_buf back{};
  char message[JMSG_LENGTH_MAX] = "";
  bool cut_short = false;

  JpegReader() {
    info.err = jpeg_std_error(&errors);
    info.client_data = this;
    errors.error_exit = [](j_common_ptr common) {
      auto* self = static_cast<JpegReader*>(common->client_data);
      common->err->format_message(common, self->message);
      std::longjmp(self->back, 1);
    };
    errors.emit_message = [](j_common_ptr common, int) {
      // Of all warnings the one that Pillow refuses: the file ends too early.
      auto* self = static_cast<JpegReader*>(common->client_data);
      self->cut_short = self->cut_short || common->err->msg_code == JWRN_JPEG_EOF;
    };
  }
  ~JpegReader() { jpeg_destroy_decompress(&info); }

  bool open(const std::uint8_t* data, std::size_t bytes) {
    if (setjmp(back) != 0) return false;
    jpeg_create_decompress(&info);
    jpeg_mem_src(&info, data, static_cast<unsigned long>(bytes));
    jpeg_save_markers(&info, JPEG_APP0 + 1, 0xFFFF);
    jpeg_read_header(&info, TRUE);
    info.out_color_space = is_cmyk() ? JCS_CMYK : JCS_RGB;
    return true;
  }

  bool is_cmyk() const { return info.num_components == 4; }  // or YCCK, of which libjpeg makes it

  // As many bytes a pixel as the colour space has components.
  bool read(std::uint8_t* pixels) {
    if (setjmp(back) != 0) return false;
    jpeg_start_decompress(&info);
    while (info.output_scanline < info.output_height) {
      JSAMPROW row = pixels + static_cast<std::size_t>(info.output_components) * info.output_width * info.output_scanline;
      jpeg_read_scanlines(&info, &row, 1);
    }
    const bool all_there = !cut_short;
    jpeg_finish_decompress(&info);  // that nothing follows the last row is no loss
    cut_short = !all_there;
    return true;
  }

  int orientation() const {
    for (auto* marker = info.marker_list; marker != nullptr; marker = marker->next) {
      const bool exif = marker->data_length > 6 && std::memcmp(marker->data, "Exif\0\0", 6) == 0;
      if (exif) return Exif(marker->data + 6, marker->data_length - 6).orientation();
    }
    return 1;
  }
};

// How much of an ink's complement and of black's is left, rounded as Pillow rounds it. Files hold
// complements, as Adobe has them.
std::uint8_t mix(std::uint8_t colour, std::uint8_t black) {
  const int product = (255 - colour) * black + 128;
  return static_cast<std::uint8_t>(std::max(0, black - (((product >> 8) + product) >> 8)));
}

void read_cmyk(JpegReader& reader, Picture& picture) {
  std::vector<std::uint8_t> inks(picture.rgb.size() / 3 * 4);
  if (!reader.read(inks.data())) throw damaged(reader.message);
  for (std::size_t i = 0; i < inks.size() / 4; ++i) {
    for (std::size_t c = 0; c < 3; ++c) picture.rgb[3 * i + c] = mix(inks[4 * i + c], inks[4 * i + 3]);
  }
}

Picture decode_jpeg(const std::uint8_t* data, std::size_t bytes) {
  const auto reader = std::make_unique<JpegReader>();
  if (!reader->open(data, bytes)) throw damaged(reader->message);
  require_size(reader->info.image_height, reader->info.image_width, "the image");
  const int orientation = reader->orientation();  // its markers go when the pixels have been read
  Picture picture(reader->info.image_width, reader->info.image_height);
  if (reader->is_cmyk()) {
    read_cmyk(*reader, picture);
  } else if (!reader->read(picture.rgb.data())) {
    throw damaged(reader->message);
  }
  if (reader->cut_short) throw damaged("it ends too early");
  return turn_upright(picture, orientation);
}

// ---- PNG ----

struct PngReader {
  png_structp png = nullptr;
  png_infop info = nullptr;
  const std::uint8_t* data;
  std::size_t left;
  char message[128] = "";

  PngReader(const std::uint8_t* data, std::size_t bytes) : data(data), left(bytes) {
    png = png_create_read_struct(PNG_LIBPNG_VER_STRING, this, on_error, [](png_structp, png_const_charp) {});
    if (png != nullptr) info = png_create_info_struct(png);
  }
  ~PngReader() { png_destroy_read_struct(&png, &info, nullptr); }

  [[noreturn]] static void on_error(png_structp png, png_const_charp text) {
    auto* self = static_cast<PngReader*>(png_get_error_ptr(png));
    std::snprintf(self->message, sizeof self->message, "%s", text);
    png_longjmp(png, 1);
  }

  static void on_read(png_structp png, png_bytep out, std::size_t bytes) {
    auto* self = static_cast<PngReader*>(png_get_io_ptr(png));
    if (bytes > self->left) png_error(png, "it ends too early");
    std::memcpy(out, self->data, bytes);
    self->data += bytes;
    self->left -= bytes;
  }

  bool open() {
    if (png == nullptr || info == nullptr) return false;
    if (setjmp(png_jmpbuf(png)) != 0) return false;
    png_set_read_fn(png, this, on_read);
    png_set_user_limits(png, static_cast<png_uint_32>(limits::IMAGE_SIDE_PIXELS),
                        static_cast<png_uint_32>(limits::IMAGE_SIDE_PIXELS));
    png_read_info(png, info);
    return true;
  }

  // Every kind of PNG as 8-bit RGBA; of 16 bits the high byte stays.
  bool read(std::uint8_t* rgba, std::uint8_t** rows, std::size_t height, std::size_t width) {
    if (setjmp(png_jmpbuf(png)) != 0) return false;
    png_set_strip_16(png);
    png_set_expand(png);
    png_set_gray_to_rgb(png);
    png_set_add_alpha(png, 0xFF, PNG_FILLER_AFTER);
    png_set_interlace_handling(png);
    png_read_update_info(png, info);
    for (std::size_t y = 0; y < height; ++y) rows[y] = rgba + 4 * width * y;
    png_read_image(png, rows);
    png_read_end(png, info);
    return true;
  }

  int orientation() {
#ifdef PNG_eXIf_SUPPORTED
    png_bytep exif = nullptr;
    png_uint_32 bytes = 0;
    if (png_get_eXIf_1(png, info, &bytes, &exif) != 0) return Exif(exif, bytes).orientation();
#endif
    return 1;
  }
};

Picture decode_png(const std::uint8_t* data, std::size_t bytes) {
  const auto reader = std::make_unique<PngReader>(data, bytes);
  if (!reader->open()) throw damaged(reader->message);
  const std::int64_t width = png_get_image_width(reader->png, reader->info);
  const std::int64_t height = png_get_image_height(reader->png, reader->info);
  require_size(height, width, "the image");
  const bool grey = png_get_color_type(reader->png, reader->info) == PNG_COLOR_TYPE_GRAY;
  if (grey && png_get_bit_depth(reader->png, reader->info) > 8) {
    throw input_error("the image has grey levels of more than 8 bits, which Hugging Face's processors clip, so "
                      "that nearly everything turns white; save it with 8 bits");
  }
  std::vector<std::uint8_t> rgba(static_cast<std::size_t>(4 * width * height));
  std::vector<std::uint8_t*> rows(static_cast<std::size_t>(height));
  if (!reader->read(rgba.data(), rows.data(), rows.size(), static_cast<std::size_t>(width))) {
    throw damaged(reader->message);
  }
  Picture picture(width, height);
  for (std::size_t i = 0; i < rgba.size() / 4; ++i) {
    for (std::size_t c = 0; c < 3; ++c) picture.rgb[3 * i + c] = over_white(rgba[4 * i + c], rgba[4 * i + 3]);
  }
  return turn_upright(picture, reader->orientation());
}

}  // namespace

Picture decode_image(const std::uint8_t* data, std::size_t bytes) {
  if (bytes == 0 || bytes > limits::IMAGE_FILE_BYTES) {
    throw input_error("the image has " + std::to_string(bytes) + " bytes; image files of 1.." +
                      std::to_string(limits::IMAGE_FILE_BYTES) + " bytes are read");
  }
  if (bytes > 8 && png_sig_cmp(data, 0, 8) == 0) return decode_png(data, bytes);
  if (bytes > 3 && std::memcmp(data, "\xFF\xD8\xFF", 3) == 0) return decode_jpeg(data, bytes);
  if (is_webp(data, bytes)) return decode_webp(data, bytes);
  throw input_error("the image is no file that can be read; this library reads JPEG, PNG and WEBP");
}

}  // namespace edgetok_impl
