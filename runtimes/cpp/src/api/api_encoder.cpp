// The part of the C interface that is about bundles without a language model.
#include "api/api.hpp"
#include "machine.hpp"
#include "runtime/ranking.hpp"

using edgetok_impl::usage_error;
using namespace edgetok_impl::api;

struct edgetok_output {
  std::shared_ptr<const edgetok_impl::Bundle> bundle;  // whose labels and similarity it is ranked by
  edgetok_impl::Encoding encoding;
};
struct edgetok_ranking {
  std::shared_ptr<const edgetok_impl::Bundle> bundle;  // whose labels it shows
  bool of_classes;
  std::vector<edgetok_impl::Score> scores;
};

namespace {

const edgetok_impl::EncoderSide& side_of(const edgetok_impl::Bundle& bundle) {
  if (bundle.manifest().encoder) return *bundle.manifest().encoder;
  throw usage_error("this bundle answers questions about pictures; edgetok_bundle_describe tells about it");
}

// The output of a picture by a bundle of this task.
const edgetok_output& require_picture(const edgetok_output* given, const char* task) {
  const auto& output = require(given, "output");
  const auto& side = side_of(*output.bundle);
  if (side.task != task) throw usage_error("this bundle's task is " + side.task + ", not " + task);
  if (output.encoding.budget == 0) throw usage_error("the output is of a text; give that of a picture");
  return output;
}

double compare(const edgetok_output& picture, const edgetok_output* given, std::size_t place) {
  const std::string which = "texts[" + std::to_string(place) + "]";
  const auto& text = require(given, which.c_str());
  const bool same = text.bundle->manifest().digest == picture.bundle->manifest().digest;
  if (!same) throw usage_error(which + " was encoded by another bundle than the picture");
  if (text.encoding.budget != 0) throw usage_error(which + " is the output of a picture; give that of a text");
  return edgetok_impl::cosine_of(text.encoding.values, picture.encoding.values);
}

edgetok_image* prepared(const edgetok_encoder* encoder, const edgetok_impl::Picture& picture) {
  return new edgetok_image{share(encoder->encoder->prepare(picture))};
}

}  // namespace

extern "C" {

edgetok_status edgetok_bundle_encoder(const edgetok_bundle* bundle, edgetok_encoder_info* info) {
  return guarded([&] {
    const auto& side = side_of(*require(bundle, "bundle").bundle);
    edgetok_encoder_info filled{};
    filled.task = side.task.c_str();
    filled.output = side.output.name.c_str();
    filled.shape = side.output.shape.data() + 1;  // the first is of pictures
    filled.rank = side.output.shape.size() - 1;
    filled.label_count = side.labels.size();
    if (side.text) {
      filled.text_tokens = side.text->tokens;
      filled.scale = side.text->similarity.scale;
      filled.bias = side.text->similarity.bias;
      filled.similarity = side.text->similarity.kind.c_str();
    }
    write_struct(filled, info, "info");
  });
}

const char* edgetok_bundle_label(const edgetok_bundle* bundle, size_t index) {
  if (bundle == nullptr || !bundle->bundle->manifest().encoder) return nullptr;
  const auto& labels = bundle->bundle->manifest().encoder->labels;
  return index < labels.size() ? labels[index].c_str() : nullptr;
}

edgetok_status edgetok_encoder_load(const edgetok_bundle* bundle, const edgetok_load_options* options,
                                    edgetok_encoder** encoder) {
  return guarded([&] {
    require(encoder, "encoder") = nullptr;
    const auto& opened = require(bundle, "bundle").bundle;
    *encoder = new edgetok_encoder{std::make_unique<edgetok_impl::Encoder>(opened, read_options(options))};
  });
}

void edgetok_encoder_free(edgetok_encoder* encoder) { delete encoder; }

edgetok_status edgetok_encoder_memory(const edgetok_encoder* encoder, edgetok_memory* memory) {
  return guarded([&] {
    const auto& loaded = *require(encoder, "encoder").encoder;
    write_struct({sizeof(edgetok_memory), edgetok_impl::weights_bytes(loaded.bundle()->manifest()), 0, loaded.buffer_bytes(),
                  edgetok_impl::resident_bytes()},
                 memory, "memory");
  });
}

edgetok_status edgetok_encoder_image_from_pixels(const edgetok_encoder* encoder, const edgetok_pixels* pixels,
                                                 edgetok_image** image) {
  return guarded([&] {
    require(image, "image") = nullptr;
    require(encoder, "encoder");
    *image = prepared(encoder, edgetok_impl::from_pixels(read_struct(pixels, "pixels")));
  });
}

edgetok_status edgetok_encoder_image_from_file(const edgetok_encoder* encoder, const uint8_t* data, size_t bytes,
                                               edgetok_image** image) {
  return guarded([&] {
    require(image, "image") = nullptr;
    require(encoder, "encoder");
    *image = prepared(encoder, edgetok_impl::decode_image(&require(data, "data"), bytes));
  });
}

edgetok_status edgetok_encode(edgetok_encoder* encoder, const edgetok_image* image, int64_t budget,
                              edgetok_output** output) {
  return guarded([&] {
    require(output, "output") = nullptr;
    auto& loaded = *require(encoder, "encoder").encoder;
    auto made = loaded.encode(*require(image, "image").image, budget);
    *output = new edgetok_output{loaded.bundle(), std::move(made)};
  });
}

edgetok_status edgetok_encode_text(edgetok_encoder* encoder, const int64_t* ids, size_t count,
                                   edgetok_output** output) {
  return guarded([&] {
    require(output, "output") = nullptr;
    auto& loaded = *require(encoder, "encoder").encoder;
    auto made = loaded.describe(read_ids(ids, count, "ids"));
    *output = new edgetok_output{loaded.bundle(), std::move(made)};
  });
}

void edgetok_output_free(edgetok_output* output) { delete output; }

int64_t edgetok_output_budget(const edgetok_output* output) { return output->encoding.budget; }

const int64_t* edgetok_output_kept(const edgetok_output* output, size_t* count) {
  return show(output->encoding.kept, count);
}

size_t edgetok_output_tensor_count(const edgetok_output* output) {
  return output == nullptr ? 0 : output->encoding.budget == 0 ? 1 : 2;
}

edgetok_status edgetok_output_tensor(const edgetok_output* output, size_t index, edgetok_tensor* tensor) {
  return guarded([&] {
    const auto& made = require(output, "output").encoding;
    if (index >= edgetok_output_tensor_count(output)) {
      throw usage_error("there is no tensor " + std::to_string(index));
    }
    if (index == 0) {
      write_struct({sizeof(edgetok_tensor), made.name.c_str(), made.values.data(), made.values.size(),
                    made.shape.data(), made.shape.size()},
                   tensor, "tensor");
    } else {
      write_struct({sizeof(edgetok_tensor), "sizes", made.sizes.data(), made.sizes.size(), &made.rows, 1}, tensor,
                   "tensor");
    }
  });
}

edgetok_status edgetok_output_timings(const edgetok_output* output, edgetok_encoder_timings* timings) {
  return guarded([&] {
    const auto& made = require(output, "output").encoding;
    write_struct({sizeof(edgetok_encoder_timings), made.preprocess_ms, made.encode_ms}, timings, "timings");
  });
}

edgetok_status edgetok_rank_classes(const edgetok_output* output, edgetok_ranking** ranking) {
  return guarded([&] {
    require(ranking, "ranking") = nullptr;
    const auto& picture = require_picture(output, "classify");
    *ranking = new edgetok_ranking{picture.bundle, true, edgetok_impl::rank_classes(picture.encoding.values, side_of(*picture.bundle).scores)};
  });
}

edgetok_status edgetok_rank_texts(const edgetok_output* output, const edgetok_output* const* texts, size_t count,
                                  edgetok_ranking** ranking) {
  return guarded([&] {
    require(ranking, "ranking") = nullptr;
    const auto& picture = require_picture(output, "similarity");
    if (count == 0) throw usage_error("there is nothing to compare the picture with; give texts");
    require(texts, "texts");
    std::vector<double> cosines;
    for (size_t i = 0; i < count; ++i) cosines.push_back(compare(picture, texts[i], i));
    const auto& similarity = side_of(*picture.bundle).text->similarity;
    *ranking = new edgetok_ranking{picture.bundle, false, edgetok_impl::rank_texts(cosines, similarity)};
  });
}

void edgetok_ranking_free(edgetok_ranking* ranking) { delete ranking; }

size_t edgetok_ranking_count(const edgetok_ranking* ranking) { return ranking == nullptr ? 0 : ranking->scores.size(); }

edgetok_status edgetok_ranking_score(const edgetok_ranking* ranking, size_t place, edgetok_score* score) {
  return guarded([&] {
    const auto& scores = require(ranking, "ranking").scores;
    if (place >= scores.size()) throw usage_error("there is no place " + std::to_string(place));
    const auto& found = scores[place];
    const char* label = ranking->of_classes ? side_of(*ranking->bundle).labels[found.index].c_str() : nullptr;
    write_struct({sizeof(edgetok_score), found.index, label, found.probability, found.logit}, score, "score");
  });
}

}  // extern "C"
