// The part of the C interface that turns text into token ids and back.
#include "api/api.hpp"
#include "generated.hpp"
#include "tokenizer/prompt.hpp"

struct edgetok_text {
  edgetok_impl::PromptPlan plan;
  std::shared_ptr<const edgetok_impl::TextTokenizer> tokenizer;
};
struct edgetok_question {
  edgetok_impl::Prompt prompt;
};
struct edgetok_decoder {
  std::shared_ptr<const edgetok_impl::TextTokenizer> tokenizer;
  edgetok_impl::Detokenizer pieces;
  std::string shown;
};

using namespace edgetok_impl::api;

namespace {

const char kLibrary[] = "libortextensions.so";

std::string read_text(const char* text, size_t bytes) {
  if (bytes > static_cast<size_t>(edgetok_impl::limits::PROMPT_BYTES)) {
    throw edgetok_impl::input_error("the prompt has " + std::to_string(bytes) + " bytes and at most " +
                                    std::to_string(edgetok_impl::limits::PROMPT_BYTES) + " are read; shorten it");
  }
  return bytes == 0 ? std::string() : std::string(&require(text, "question"), bytes);
}

void require_id(int64_t id) {
  if (id >= 0 && id <= UINT32_MAX) return;
  throw edgetok_impl::input_error("token id " + std::to_string(id) + " is none");
}

// Keeps a text for the caller and tells where it is.
void show_text(edgetok_decoder& decoder, std::string text, const char** piece, size_t* bytes) {
  decoder.shown = std::move(text);
  *piece = decoder.shown.c_str();
  if (bytes != nullptr) *bytes = decoder.shown.size();
}

}  // namespace

extern "C" {

edgetok_status edgetok_text_open(const edgetok_bundle* bundle, const edgetok_text_options* options,
                                 edgetok_text** text) {
  return guarded([&] {
    require(text, "text") = nullptr;
    const auto& opened = *require(bundle, "bundle").bundle;
    const char* library = options == nullptr ? nullptr : read_struct(options, "options").library;
    auto plan = edgetok_impl::parse_prompt_plan(opened.read("processor/prompt.json"));
    auto tokenizer = std::make_shared<const edgetok_impl::TextTokenizer>(
        opened.tokenizer(), library == nullptr ? kLibrary : library);
    *text = new edgetok_text{std::move(plan), std::move(tokenizer)};
  });
}

void edgetok_text_free(edgetok_text* text) { delete text; }

edgetok_status edgetok_text_encode(const edgetok_text* text, const char* question, size_t bytes,
                                   edgetok_question** out) {
  return guarded([&] {
    require(out, "out") = nullptr;
    const auto& t = require(text, "text");
    *out = new edgetok_question{edgetok_impl::encode_prompt(t.plan, *t.tokenizer, read_text(question, bytes))};
  });
}

edgetok_status edgetok_text_encode_with_system(const edgetok_text* text, const char* system, size_t system_bytes,
                                               const char* question, size_t bytes, edgetok_question** out) {
  return guarded([&] {
    require(out, "out") = nullptr;
    const auto& t = require(text, "text");
    const std::string told = read_text(system, system_bytes);
    *out = new edgetok_question{edgetok_impl::encode_prompt(t.plan, *t.tokenizer, read_text(question, bytes), &told)};
  });
}

edgetok_status edgetok_text_encode_turn(const edgetok_text* text, const char* question, size_t bytes,
                                        edgetok_question** out) {
  return guarded([&] {
    require(out, "out") = nullptr;
    const auto& t = require(text, "text");
    edgetok_impl::Prompt prompt;
    prompt.after = edgetok_impl::encode_turn(t.plan, *t.tokenizer, read_text(question, bytes));
    *out = new edgetok_question{std::move(prompt)};
  });
}

edgetok_status edgetok_question_prompt(const edgetok_question* question, edgetok_prompt* prompt) {
  return guarded([&] {
    const auto& p = require(question, "question").prompt;
    write_struct({sizeof(edgetok_prompt), p.before.data(), p.before.size(), p.after.data(), p.after.size(),
                  p.question_first, p.question_count},
                 prompt, "prompt");
  });
}

void edgetok_question_free(edgetok_question* question) { delete question; }

edgetok_status edgetok_decoder_make(const edgetok_text* text, edgetok_decoder** decoder) {
  return guarded([&] {
    require(decoder, "decoder") = nullptr;
    const auto& tokenizer = require(text, "text").tokenizer;
    *decoder = new edgetok_decoder{tokenizer, edgetok_impl::Detokenizer(*tokenizer), {}};
  });
}

void edgetok_decoder_free(edgetok_decoder* decoder) { delete decoder; }

edgetok_status edgetok_decoder_push(edgetok_decoder* decoder, int64_t token, const char** piece, size_t* bytes) {
  return guarded([&] {
    require(piece, "piece");
    require_id(token);
    show_text(require(decoder, "decoder"), decoder->pieces.push(token), piece, bytes);
  });
}

edgetok_status edgetok_decoder_flush(edgetok_decoder* decoder, const char** piece, size_t* bytes) {
  return guarded([&] {
    require(piece, "piece");
    show_text(require(decoder, "decoder"), decoder->pieces.flush(), piece, bytes);
  });
}

edgetok_status edgetok_decoder_text(edgetok_decoder* decoder, const int64_t* tokens, size_t count,
                                    const char** piece, size_t* bytes) {
  return guarded([&] {
    require(piece, "piece");
    const auto ids = read_ids(tokens, count, "tokens");
    for (const int64_t id : ids) require_id(id);
    show_text(require(decoder, "decoder"), decoder->tokenizer->decode(ids), piece, bytes);
  });
}

}  // extern "C"
