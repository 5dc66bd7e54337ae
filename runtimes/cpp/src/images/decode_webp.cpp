// WEBP by libwebp, where the library was built with it: the first frame, as Pillow has it decode.
#include <cstring>
#include <memory>

#include "images/orientation.hpp"
#include "images/picture.hpp"

#ifdef EDGETOK_HAS_WEBP
#include <webp/decode.h>
#include <webp/demux.h>
#endif

namespace edgetok_impl {

bool is_webp(const std::uint8_t* data, std::size_t bytes) {
  return bytes > 16 && std::memcmp(data, "RIFF", 4) == 0 && std::memcmp(data + 8, "WEBPVP8", 7) == 0 &&
         std::strchr(" LX", data[15]) != nullptr && data[15] != 0;
}

#ifdef EDGETOK_HAS_WEBP

namespace {

struct FreeDemuxer {
  void operator()(WebPDemuxer* demuxer) const { WebPDemuxDelete(demuxer); }
};
using Demuxer = std::unique_ptr<WebPDemuxer, FreeDemuxer>;

struct Frame {
  WebPIterator found{};

  explicit Frame(const WebPDemuxer* demuxer) {
    if (WebPDemuxGetFrame(demuxer, 1, &found) == 0) throw damaged("it has no frame");
  }
  ~Frame() { WebPDemuxReleaseIterator(&found); }
  Frame(const Frame&) = delete;
  Frame& operator=(const Frame&) = delete;
};

// Copied: a file has one of a kind, and it is small.
std::string chunk_of(const WebPDemuxer* demuxer, const char* kind) {
  WebPChunkIterator found{};
  std::string out;
  if (WebPDemuxGetChunk(demuxer, kind, 1, &found) != 0) {
    out.assign(reinterpret_cast<const char*>(found.chunk.bytes), found.chunk.size);
  }
  WebPDemuxReleaseChunkIterator(&found);
  return out;
}

// What EXIF says, or else XMP: tiff:Orientation="6" or <tiff:Orientation>6<.
int orientation_of(const WebPDemuxer* demuxer) {
  std::string exif = chunk_of(demuxer, "EXIF");
  while (exif.compare(0, 6, std::string("Exif\0\0", 6)) == 0) exif.erase(0, 6);
  const Exif block(reinterpret_cast<const std::uint8_t*>(exif.data()), exif.size());
  if (!exif.empty() && !block.is_tiff()) throw damaged("its EXIF block is no TIFF file");
  if (const auto found = block.find_orientation()) return *found;
  const std::string xmp = chunk_of(demuxer, "XMP "), tag = "tiff:Orientation";
  for (auto at = xmp.find(tag); at != std::string::npos; at = xmp.find(tag, at + 1)) {
    auto value = at + tag.size();
    value += xmp.compare(value, 2, "=\"") == 0 ? 2 : xmp.compare(value, 1, ">") == 0 ? 1 : xmp.size();
    if (value < xmp.size() && xmp[value] >= '0' && xmp[value] <= '9') return xmp[value] - '0';
  }
  return 1;
}

// RGBA of the whole canvas; what the first frame does not cover is transparent.
std::vector<std::uint8_t> decode_frame(const WebPIterator& frame, std::size_t height, std::size_t width) {
  std::vector<std::uint8_t> rgba(4 * width * height);
  WebPDecoderConfig config;
  if (WebPInitDecoderConfig(&config) == 0) throw damaged("libwebp is of another version than its headers");
  const auto skipped = 4 * (static_cast<std::size_t>(frame.y_offset) * width + static_cast<std::size_t>(frame.x_offset));
  if (skipped >= rgba.size()) throw damaged("its frame lies outside its canvas");
  config.output.colorspace = MODE_RGBA;
  config.output.is_external_memory = 1;
  config.output.u.RGBA.rgba = rgba.data() + skipped;
  config.output.u.RGBA.stride = static_cast<int>(4 * width);
  config.output.u.RGBA.size = rgba.size() - skipped;
  const auto status = WebPDecode(frame.fragment.bytes, frame.fragment.size, &config);
  WebPFreeDecBuffer(&config.output);
  if (status == VP8_STATUS_OUT_OF_MEMORY) throw std::bad_alloc();
  if (status != VP8_STATUS_OK) throw damaged("its first frame cannot be decoded");
  return rgba;
}

bool has_alpha(const std::uint8_t* data, std::size_t bytes) {
  WebPBitstreamFeatures features;
  return WebPGetFeatures(data, bytes, &features) != VP8_STATUS_OK || features.has_alpha != 0;
}

}  // namespace

Picture decode_webp(const std::uint8_t* data, std::size_t bytes) {
  const WebPData file{data, bytes};
  const Demuxer demuxer(WebPDemux(&file));
  if (demuxer == nullptr) throw damaged("it is cut short, or no WEBP throughout");
  const std::int64_t width = WebPDemuxGetI(demuxer.get(), WEBP_FF_CANVAS_WIDTH);
  const std::int64_t height = WebPDemuxGetI(demuxer.get(), WEBP_FF_CANVAS_HEIGHT);
  require_size(height, width, "the image");
  const Frame frame(demuxer.get());
  const auto rgba = decode_frame(frame.found, static_cast<std::size_t>(height), static_cast<std::size_t>(width));
  const bool blends = has_alpha(data, bytes);
  Picture picture(width, height);
  for (std::size_t i = 0; i < rgba.size() / 4; ++i) {
    const std::uint8_t alpha = blends ? rgba[4 * i + 3] : 255;
    for (std::size_t c = 0; c < 3; ++c) picture.rgb[3 * i + c] = over_white(rgba[4 * i + c], alpha);
  }
  return turn_upright(picture, orientation_of(demuxer.get()));
}

#else

Picture decode_webp(const std::uint8_t*, std::size_t) {
  throw input_error("the image is a WEBP, which this library was built without; convert it to PNG, or build it "
                    "with libwebp");
}

#endif

}  // namespace edgetok_impl
