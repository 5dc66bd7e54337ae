// edgetok.h for C++17: handles that free themselves, failures as exceptions. Header only, so that no
// C++ type crosses the library's border.
#ifndef EDGETOK_EDGETOK_HPP
#define EDGETOK_EDGETOK_HPP

#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "edgetok.h"

namespace edgetok {

class Failure : public std::runtime_error {
 public:
  explicit Failure(edgetok_status status) : std::runtime_error(edgetok_message()), status_(status) {}
  edgetok_status status() const { return status_; }

 private:
  edgetok_status status_;
};

inline void require_ok(edgetok_status status) {
  if (status != EDGETOK_OK) throw Failure(status);
}

namespace detail {
template <auto Free>
struct Freer {
  template <class T>
  void operator()(T* handle) const {
    Free(handle);
  }
};
template <class T, auto Free>
using Handle = std::unique_ptr<T, Freer<Free>>;

inline std::vector<std::int64_t> to_vector(const std::int64_t* first, std::size_t count) {
  return std::vector<std::int64_t>(first, first + count);
}
}  // namespace detail

class Bundle {
 public:
  explicit Bundle(const std::string& path, bool skip_hashes = false) {
    edgetok_bundle* made = nullptr;
    require_ok(edgetok_bundle_open(path.c_str(), skip_hashes ? 1 : 0, &made));
    handle_.reset(made);
  }

  void check() const { require_ok(edgetok_bundle_check(handle_.get())); }

  edgetok_bundle_info describe() const {  // its texts live as long as the bundle
    auto info = EDGETOK_INIT(edgetok_bundle_info);
    require_ok(edgetok_bundle_describe(handle_.get(), &info));
    return info;
  }

  std::vector<edgetok_rung> rungs() const {
    std::vector<edgetok_rung> out;
    for (std::size_t i = 0; i < edgetok_bundle_rung_count(handle_.get()); ++i) {
      out.push_back(EDGETOK_INIT(edgetok_rung));
      require_ok(edgetok_bundle_rung(handle_.get(), i, &out.back()));
    }
    return out;
  }

  // Of a bundle without a language model; Failure if it answers.
  edgetok_encoder_info encoder() const {
    auto info = EDGETOK_INIT(edgetok_encoder_info);
    require_ok(edgetok_bundle_encoder(handle_.get(), &info));
    return info;
  }

  std::vector<std::string> labels() const {  // of classes; empty where there are none
    std::vector<std::string> out;
    while (const char* label = edgetok_bundle_label(handle_.get(), out.size())) out.emplace_back(label);
    return out;
  }

  const edgetok_bundle* get() const { return handle_.get(); }

 private:
  detail::Handle<edgetok_bundle, edgetok_bundle_free> handle_;
};

class Image {
 public:
  explicit Image(edgetok_image* owned) : handle_(owned) {}
  edgetok_image* get() const { return handle_.get(); }

  std::vector<float> pixels() const {
    std::size_t count = 0;
    const float* first = edgetok_image_data(handle_.get(), &count);
    return std::vector<float>(first, first + count);
  }

 private:
  detail::Handle<edgetok_image, edgetok_image_free> handle_;
};

struct Prompt {
  std::vector<std::int64_t> before, after;
  std::size_t question_first = 0, question_count = 0;
};

// Called with each token; false cancels. It must not throw.
using OnToken = std::function<bool(std::int64_t)>;

namespace detail {
inline edgetok_prompt view(const Prompt& prompt) {  // valid as long as the prompt
  auto ids = EDGETOK_INIT(edgetok_prompt);
  ids.before = prompt.before.data();
  ids.before_count = prompt.before.size();
  ids.after = prompt.after.data();
  ids.after_count = prompt.after.size();
  ids.question_first = prompt.question_first;
  ids.question_count = prompt.question_count;
  return ids;
}

inline edgetok_request with(edgetok_request request, OnToken& on_token) {
  if (!on_token) return request;
  request.user = &on_token;
  request.on_token = [](void* user, std::int64_t token) { return (*static_cast<OnToken*>(user))(token) ? 0 : 1; };
  return request;
}
}  // namespace detail

class Answer {
 public:
  explicit Answer(edgetok_answer* owned) : handle_(owned) {}

  std::vector<std::int64_t> tokens() const { return read(edgetok_answer_tokens); }
  std::vector<std::int64_t> kept() const { return read(edgetok_answer_kept); }
  std::vector<std::int64_t> tried() const { return read(edgetok_answer_tried); }
  std::int64_t budget() const { return tried().back(); }
  edgetok_stop stop() const { return edgetok_answer_stop(handle_.get()); }
  std::string reason() const { return edgetok_answer_reason(handle_.get()); }
  double margin() const { return edgetok_answer_margin(handle_.get()); }
  double log_probability() const { return edgetok_answer_log_probability(handle_.get()); }
  std::int64_t reused() const { return edgetok_answer_reused(handle_.get()); }
  double signal(const std::string& name) const {
    double value = 0;
    require_ok(edgetok_answer_signal(handle_.get(), name.c_str(), &value));
    return value;
  }
  std::int64_t exit_layer() const { return edgetok_answer_exit_layer(handle_.get()); }

  edgetok_timings timings() const {
    auto timings = EDGETOK_INIT(edgetok_timings);
    require_ok(edgetok_answer_timings(handle_.get(), &timings));
    return timings;
  }

 private:
  template <class Getter>
  std::vector<std::int64_t> read(Getter getter) const {
    std::size_t count = 0;
    const std::int64_t* first = getter(handle_.get(), &count);
    return detail::to_vector(first, count);
  }

  detail::Handle<edgetok_answer, edgetok_answer_free> handle_;
};

// Text in, token ids out and back; see edgetok.h.
class Decoder {
 public:
  explicit Decoder(edgetok_decoder* owned) : handle_(owned) {}

  std::string push(std::int64_t token) {  // whole characters, maybe none
    const char* piece = nullptr;
    std::size_t bytes = 0;
    require_ok(edgetok_decoder_push(handle_.get(), token, &piece, &bytes));
    return std::string(piece, bytes);
  }

  std::string flush() {
    const char* piece = nullptr;
    std::size_t bytes = 0;
    require_ok(edgetok_decoder_flush(handle_.get(), &piece, &bytes));
    return std::string(piece, bytes);
  }

  std::string text(const std::vector<std::int64_t>& tokens) {  // of these alone
    const char* piece = nullptr;
    std::size_t bytes = 0;
    require_ok(edgetok_decoder_text(handle_.get(), tokens.data(), tokens.size(), &piece, &bytes));
    return std::string(piece, bytes);
  }

 private:
  detail::Handle<edgetok_decoder, edgetok_decoder_free> handle_;
};

class Text {
 public:
  // `library` is onnxruntime-extensions'; where it is empty, the system looks for libortextensions.so.
  explicit Text(const Bundle& bundle, const std::string& library = {}) {
    auto options = EDGETOK_INIT(edgetok_text_options);
    options.library = library.empty() ? nullptr : library.c_str();
    edgetok_text* made = nullptr;
    require_ok(edgetok_text_open(bundle.get(), &options, &made));
    handle_.reset(made);
  }

  Prompt encode(const std::string& question) const { return encode_by(edgetok_text_encode, question); }

  Prompt encode(const std::string& question, const std::string& system) const {
    const auto encode = [&](const edgetok_text* text, const char* asked, std::size_t bytes, edgetok_question** out) {
      return edgetok_text_encode_with_system(text, system.data(), system.size(), asked, bytes, out);
    };
    return encode_by(encode, question);
  }

  // Between an answer, without its stop token, and the answer to this question.
  std::vector<std::int64_t> encode_turn(const std::string& question) const {
    return encode_by(edgetok_text_encode_turn, question).after;
  }

  Decoder decoder() const {
    edgetok_decoder* made = nullptr;
    require_ok(edgetok_decoder_make(handle_.get(), &made));
    return Decoder(made);
  }

 private:
  template <class Encode>
  Prompt encode_by(Encode encode, const std::string& question) const {
    edgetok_question* made = nullptr;
    require_ok(encode(handle_.get(), question.data(), question.size(), &made));
    const detail::Handle<edgetok_question, edgetok_question_free> owned(made);
    auto ids = EDGETOK_INIT(edgetok_prompt);
    require_ok(edgetok_question_prompt(made, &ids));
    return {detail::to_vector(ids.before, ids.before_count), detail::to_vector(ids.after, ids.after_count),
            ids.question_first, ids.question_count};
  }

  detail::Handle<edgetok_text, edgetok_text_free> handle_;
};

// Turns about one image: a whole prompt at first, then the ids between two answers, in `after`.
class Conversation {
 public:
  explicit Conversation(edgetok_conversation* owned) : handle_(owned) {}

  Answer ask(const Prompt& prompt, const edgetok_request& request = EDGETOK_INIT(edgetok_request),
             OnToken on_token = {}) {
    const edgetok_prompt ids = detail::view(prompt);
    const edgetok_request asked = detail::with(request, on_token);
    edgetok_answer* made = nullptr;
    require_ok(edgetok_conversation_ask(handle_.get(), &ids, &asked, &made));
    return Answer(made);
  }

  std::size_t turns() const { return edgetok_conversation_turns(handle_.get()); }
  std::int64_t tokens_left() const { return edgetok_conversation_tokens_left(handle_.get()); }

 private:
  detail::Handle<edgetok_conversation, edgetok_conversation_free> handle_;
};

class Model {
 public:
  explicit Model(const Bundle& bundle) : Model(bundle, EDGETOK_INIT(edgetok_load_options)) {}

  Model(const Bundle& bundle, const edgetok_load_options& options) {
    edgetok_model* made = nullptr;
    require_ok(edgetok_model_load(bundle.get(), &options, &made));
    handle_.reset(made);
  }

  Image image(const edgetok_pixels& pixels) const {
    edgetok_image* made = nullptr;
    require_ok(edgetok_image_from_pixels(handle_.get(), &pixels, &made));
    return Image(made);
  }

  // The bytes of a JPEG or PNG file.
  Image image(const std::uint8_t* data, std::size_t bytes) const {
    edgetok_image* made = nullptr;
    require_ok(edgetok_image_from_file(handle_.get(), data, bytes, &made));
    return Image(made);
  }

  // Several pictures of one prompt, in this order.
  Image image(const std::vector<const Image*>& pictures) const {
    std::vector<edgetok_image*> handles;
    handles.reserve(pictures.size());
    for (const Image* picture : pictures) handles.push_back(picture->get());
    edgetok_image* made = nullptr;
    require_ok(edgetok_image_from_many(handle_.get(), handles.data(), handles.size(), &made));
    return Image(made);
  }

  Answer generate(const Image& image, const Prompt& prompt,
                  const edgetok_request& request = EDGETOK_INIT(edgetok_request), OnToken on_token = {}) {
    const edgetok_prompt ids = detail::view(prompt);
    const edgetok_request asked = detail::with(request, on_token);
    edgetok_answer* made = nullptr;
    require_ok(edgetok_generate(handle_.get(), image.get(), &ids, &asked, &made));
    return Answer(made);
  }

  Conversation converse(const Image& image) {
    edgetok_conversation* made = nullptr;
    require_ok(edgetok_converse(handle_.get(), image.get(), &made));
    return Conversation(made);
  }

  void cancel() { edgetok_model_cancel(handle_.get()); }  // from any thread
  void forget() { require_ok(edgetok_model_forget(handle_.get())); }

  edgetok_memory memory() const {
    auto memory = EDGETOK_INIT(edgetok_memory);
    require_ok(edgetok_model_memory(handle_.get(), &memory));
    return memory;
  }

 private:
  detail::Handle<edgetok_model, edgetok_model_free> handle_;
};

// What an encoder made of a picture or a text.
class Output {
 public:
  explicit Output(edgetok_output* owned) : handle_(owned) {}
  const edgetok_output* get() const { return handle_.get(); }

  // What the task is about; its pointers live as long as the output.
  edgetok_tensor tensor(std::size_t index = 0) const {
    auto tensor = EDGETOK_INIT(edgetok_tensor);
    require_ok(edgetok_output_tensor(handle_.get(), index, &tensor));
    return tensor;
  }

  std::vector<float> values() const {
    const edgetok_tensor found = tensor();
    return std::vector<float>(found.data, found.data + found.count);
  }

  std::vector<std::int64_t> kept() const {
    std::size_t count = 0;
    const std::int64_t* first = edgetok_output_kept(handle_.get(), &count);
    return detail::to_vector(first, count);
  }

  std::int64_t budget() const { return edgetok_output_budget(handle_.get()); }

  edgetok_encoder_timings timings() const {
    auto timings = EDGETOK_INIT(edgetok_encoder_timings);
    require_ok(edgetok_output_timings(handle_.get(), &timings));
    return timings;
  }

 private:
  detail::Handle<edgetok_output, edgetok_output_free> handle_;
};

// Classes or texts, the likeliest first.
class Ranking {
 public:
  explicit Ranking(edgetok_ranking* owned) : handle_(owned) {}

  std::vector<edgetok_score> scores() const {  // labels live as long as the ranking
    std::vector<edgetok_score> out;
    for (std::size_t i = 0; i < edgetok_ranking_count(handle_.get()); ++i) {
      out.push_back(EDGETOK_INIT(edgetok_score));
      require_ok(edgetok_ranking_score(handle_.get(), i, &out.back()));
    }
    return out;
  }

 private:
  detail::Handle<edgetok_ranking, edgetok_ranking_free> handle_;
};

inline Ranking rank_classes(const Output& picture) {
  edgetok_ranking* made = nullptr;
  require_ok(edgetok_rank_classes(picture.get(), &made));
  return Ranking(made);
}

inline Ranking rank_texts(const Output& picture, const std::vector<const Output*>& texts) {
  std::vector<const edgetok_output*> handles;
  handles.reserve(texts.size());
  for (const Output* text : texts) handles.push_back(text->get());
  edgetok_ranking* made = nullptr;
  require_ok(edgetok_rank_texts(picture.get(), handles.data(), handles.size(), &made));
  return Ranking(made);
}

// A loaded bundle without a language model.
class Encoder {
 public:
  explicit Encoder(const Bundle& bundle) : Encoder(bundle, EDGETOK_INIT(edgetok_load_options)) {}

  Encoder(const Bundle& bundle, const edgetok_load_options& options) {
    edgetok_encoder* made = nullptr;
    require_ok(edgetok_encoder_load(bundle.get(), &options, &made));
    handle_.reset(made);
  }

  Image image(const edgetok_pixels& pixels) const {
    edgetok_image* made = nullptr;
    require_ok(edgetok_encoder_image_from_pixels(handle_.get(), &pixels, &made));
    return Image(made);
  }

  // The bytes of a picture's file.
  Image image(const std::uint8_t* data, std::size_t bytes) const {
    edgetok_image* made = nullptr;
    require_ok(edgetok_encoder_image_from_file(handle_.get(), data, bytes, &made));
    return Image(made);
  }

  // The rung of `budget` patches; the largest when 0.
  Output encode(const Image& image, std::int64_t budget = 0) {
    edgetok_output* made = nullptr;
    require_ok(edgetok_encode(handle_.get(), image.get(), budget, &made));
    return Output(made);
  }

  Output encode_text(const std::vector<std::int64_t>& ids) {
    edgetok_output* made = nullptr;
    require_ok(edgetok_encode_text(handle_.get(), ids.data(), ids.size(), &made));
    return Output(made);
  }

  edgetok_memory memory() const {
    auto memory = EDGETOK_INIT(edgetok_memory);
    require_ok(edgetok_encoder_memory(handle_.get(), &memory));
    return memory;
  }

 private:
  detail::Handle<edgetok_encoder, edgetok_encoder_free> handle_;
};

}  // namespace edgetok

#endif
