/* edgetok: open a bundle and ask it about pictures. A flat C interface; edgetok.hpp wraps it.
 *
 * Ownership
 *   A handle that a function writes into its last argument belongs to the caller, who gives it back
 *   to the function named edgetok_..._free, once, or NULL as often as wanted. A model keeps what it
 *   needs of its bundle, an answer of its model, a conversation its model and its image, and so on: they
 *   may be freed in any order.
 *   Pointers that getters return belong to the handle and live until it is freed.
 *   Everything that the caller passes is copied, or not looked at after the call returns.
 *
 * Errors
 *   Every function that can fail returns a status and leaves a sentence for people in
 *   edgetok_message(), of the calling thread, until the next failure there. Nothing throws, exits,
 *   prints or installs signal handlers. On failure, outputs are NULL or unchanged.
 *
 * Threads
 *   edgetok_bundle, edgetok_answer, edgetok_output and edgetok_ranking never change: any number of
 *   threads may use one.
 *   edgetok_model has one KV cache: a second answer while one is under way fails with EDGETOK_USAGE.
 *   What other threads may do meanwhile is edgetok_model_cancel, edgetok_model_memory and to prepare images.
 *   edgetok_encoder has one set of buffers: a second call of edgetok_encode... while one runs fails
 *   with EDGETOK_USAGE.
 *   edgetok_image notes what the model made of it: one thread at a time. An encoder notes nothing. A
 *   conversation is for one thread at a time, too, and uses its image in the first turn.
 *
 * Versions
 *   Each struct begins with its size, so that a library knows what an older program does not:
 *   fields beyond that size count as 0. Set it with EDGETOK_INIT(type).
 */
#ifndef EDGETOK_EDGETOK_H
#define EDGETOK_EDGETOK_H

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
#define EDGETOK_API
#else
#define EDGETOK_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define EDGETOK_VERSION "0.1.0"

/* A struct of which everything is 0 but the size: edgetok_request request = EDGETOK_INIT(edgetok_request); */
#ifdef __cplusplus
#define EDGETOK_INIT(type) (::edgetok::detail::initial<type>())
#else
#define EDGETOK_INIT(type) {.struct_size = sizeof(type)}
#endif

/* An enum may hold numbers that a newer or mistaken program sends: in C++ that has to be said. */
#ifdef __cplusplus
#define EDGETOK_INT : int
#else
#define EDGETOK_INT
#endif

typedef enum edgetok_status EDGETOK_INT {
  EDGETOK_OK = 0,
  EDGETOK_INTERNAL = 1,     /* a bug, here or in a library below */
  EDGETOK_USAGE = 2,        /* an argument cannot be used */
  EDGETOK_BUNDLE = 3,       /* a bundle is incomplete, malformed, damaged or was changed */
  EDGETOK_INCOMPATIBLE = 4, /* it does not fit this library or ONNX Runtime */
  EDGETOK_INPUT = 5,        /* an image or prompt was rejected */
  EDGETOK_RESOURCES = 6     /* memory could not be had */
} edgetok_status;

typedef enum edgetok_format EDGETOK_INT {
  EDGETOK_RGB = 0,  /* 3 bytes a pixel */
  EDGETOK_BGR = 1,  /* 3 bytes a pixel */
  EDGETOK_RGBA = 2, /* 4 bytes a pixel, alpha not multiplied in; what is transparent becomes white */
  EDGETOK_NV12 = 3  /* a plane of Y, then one of U and V for each 2 x 2 pixels; BT.601, 16..235 */
} edgetok_format;

typedef enum edgetok_stop EDGETOK_INT {
  EDGETOK_STOP = 0,     /* the model ended */
  EDGETOK_LENGTH = 1,   /* max_new_tokens */
  EDGETOK_CACHE = 2,    /* no slot left */
  EDGETOK_NUMERIC = 3,  /* logits were not finite */
  EDGETOK_CANCELLED = 4 /* by the callback or edgetok_model_cancel */
} edgetok_stop;

typedef struct edgetok_bundle edgetok_bundle;
typedef struct edgetok_model edgetok_model;
typedef struct edgetok_image edgetok_image;
typedef struct edgetok_answer edgetok_answer;
typedef struct edgetok_conversation edgetok_conversation;

EDGETOK_API const char* edgetok_version(void);
EDGETOK_API const char* edgetok_message(void); /* never NULL */

/* ---- bundles ---- */

typedef struct edgetok_rung {
  size_t struct_size;
  int64_t budget;        /* visual tokens; of an encoder, patches that leave the tower */
  int64_t prompt_tokens; /* text tokens that fit; 0 of an encoder */
  int64_t new_tokens;    /* that can be generated after a full prompt; 0 of an encoder */
} edgetok_rung;

typedef struct edgetok_bundle_info {
  size_t struct_size;
  const char* producer;
  const char* family;
  const char* method;
  const char* weights;   /* fp32, int8, int4 */
  const char* kv;        /* fp32, int8, int4, ...; "" of an encoder */
  const char* digest;    /* sha256 of the manifest without its controller, in hex */
  int64_t vocabulary;    /* 0 of an encoder */
  int64_t height_px, width_px; /* of what the tower reads */
  int64_t has_controller;
  const char* task;      /* answer; of an encoder: classify, embed, similarity, depth, segment */
  int64_t pictures; /* that a prompt has */
} edgetok_bundle_info;

/* Reads the manifest and checks the size of every file, and its hash unless `skip_hashes`. */
EDGETOK_API edgetok_status edgetok_bundle_open(const char* path, int skip_hashes, edgetok_bundle** bundle);
EDGETOK_API void edgetok_bundle_free(edgetok_bundle* bundle);
/* Admits every graph, reads the processor files and repeats the decisions of the controller. */
EDGETOK_API edgetok_status edgetok_bundle_check(const edgetok_bundle* bundle);
/* `info->struct_size` says how much is written. */
EDGETOK_API edgetok_status edgetok_bundle_describe(const edgetok_bundle* bundle, edgetok_bundle_info* info);
EDGETOK_API size_t edgetok_bundle_rung_count(const edgetok_bundle* bundle);
EDGETOK_API edgetok_status edgetok_bundle_rung(const edgetok_bundle* bundle, size_t index, edgetok_rung* rung);

/* ---- models ---- */

typedef struct edgetok_load_options {
  size_t struct_size;
  const int64_t* budgets; /* the rungs to load; all when NULL */
  size_t budget_count;
  int32_t threads; /* per operator; one per core that the process may use when 0 */
  const char* flavour; /* "ort" or "portable"; that of the device when NULL */
  /* 1: all weights are packed for this processor, once for all rungs, not those of single steps alone.
   * The first token comes sooner, loading takes longer, and int4 and int8 weights meet activations
   * in 8 bits in every graph: answers may differ from those of Python, which cannot do this. */
  int32_t packed;
  /* "cpu" when NULL; "cuda", "ort-tensorrt" or "ort-rtx" where the linked ONNX Runtime has them;
   * "tensorrt" or "rtx": engines that `edgetok build` put into this user's cache, where the library
   * was built with TensorRT. The last four read flavour "portable". */
  const char* device;
  const char* precision; /* of matrix products in engines: "fp16" when NULL, "bf16" or "fp32" */
} edgetok_load_options;

typedef struct edgetok_memory {
  size_t struct_size;
  int64_t weights_bytes;  /* files, mapped: shared by all graphs and with other processes */
  int64_t cache_bytes;    /* KV cache, shared by all rungs; where engines run, in the GPU's memory */
  int64_t buffers_bytes;  /* all other inputs and outputs of graphs */
  int64_t resident_bytes; /* of this process, each page counted once; -1 where unknown */
} edgetok_memory;

/* `options` may be NULL. The first call of a process sets the variable ORT_DISABLE_TELEMETRY, if it is
 * not set: no other thread may look at the environment then. */
EDGETOK_API edgetok_status edgetok_model_load(const edgetok_bundle* bundle, const edgetok_load_options* options,
                                              edgetok_model** model);
EDGETOK_API void edgetok_model_free(edgetok_model* model);
EDGETOK_API edgetok_status edgetok_model_memory(const edgetok_model* model, edgetok_memory* memory);
/* Ends the answer that is being generated after its current token; no effect if there is none. */
EDGETOK_API void edgetok_model_cancel(edgetok_model* model);
/* Has the next answer computed from its first row on, for the measure of it. */
EDGETOK_API edgetok_status edgetok_model_forget(edgetok_model* model);

/* ---- images ---- */

typedef struct edgetok_pixels {
  size_t struct_size;
  edgetok_format format;
  int64_t width, height;
  const uint8_t* data;
  int64_t stride;    /* bytes from a row to the next; 0: rows touch */
  const uint8_t* uv; /* NV12: the second plane; NULL: it follows the first one */
  int64_t uv_stride; /* 0: as `stride` */
} edgetok_pixels;

/* Resizes and normalises as the bundle says. The tower runs when the image is first asked about,
 * once for all questions and rungs where the rungs share it. */
EDGETOK_API edgetok_status edgetok_image_from_pixels(const edgetok_model* model, const edgetok_pixels* pixels,
                                                     edgetok_image** image);
/* A JPEG, PNG or (where the library was built with libwebp) WEBP file's bytes. */
EDGETOK_API edgetok_status edgetok_image_from_file(const edgetok_model* model, const uint8_t* data, size_t bytes,
                                                   edgetok_image** image);
/* Where a prompt has several pictures, such as frames of a video: all of them as one image, in this
 * order, as many as edgetok_bundle_info.pictures says. Each was made by one of the functions above,
 * stays the caller's, and may be freed or go into other images, for which the tower does not look at it
 * again. Images that have a picture in common are one image to the rule of threads. */
EDGETOK_API edgetok_status edgetok_image_from_many(const edgetok_model* model, edgetok_image* const* pictures,
                                                   size_t count, edgetok_image** image);
EDGETOK_API void edgetok_image_free(edgetok_image* image);
/* What the tower reads: float [pictures * parts, 3, height, width]; NULL for no image. */
EDGETOK_API const float* edgetok_image_data(const edgetok_image* image, size_t* count);

/* ---- answers ---- */

typedef struct edgetok_prompt {
  size_t struct_size;
  const int64_t* before; /* token ids in front of the image */
  size_t before_count;
  const int64_t* after; /* and behind it */
  size_t after_count;
  size_t question_first; /* the user's own text: places in both put together */
  size_t question_count;
} edgetok_prompt;

/* Called with each token of an answer, in the thread that generates. Any other return than 0
 * cancels. Where a controller may reject an answer, tokens come when it is taken. */
typedef int (*edgetok_on_token)(void* user, int64_t token);

typedef struct edgetok_request {
  size_t struct_size;
  int64_t budget;         /* this rung; 0: something else chooses */
  double max_ttft_ms;     /* limits, which need `table`; 0: none */
  double max_memory_mib;
  const char* table;      /* JSON that `edgetok bench` measured here */
  int32_t elbow;          /* 1: the image chooses */
  int32_t max_new_tokens; /* 0: as many as the rung was exported for */
  edgetok_on_token on_token; /* may be NULL */
  void* user;
  /* 0: the likeliest token each time, ties to the lower id. Else tokens are drawn: above 1 from a
   * flatter distribution, below 1 from a sharper one; the bundle's controller does not choose then. */
  double temperature;
  double top_p;  /* draw among the likeliest tokens that together hold this probability; 0: the model's own */
  uint64_t seed; /* the same seed draws the same tokens, in Python as well */
  const float* weights; /* of each picture, by which some methods divide the budget; all alike when NULL */
  size_t weight_count;
  /* As in the model's generation_config.json where 0. */
  int64_t top_k;               /* draw among so many of the likeliest; negative: all */
  double repetition_penalty;   /* of tokens of the prompt and the answer so far; 1: none */
  int64_t no_repeat_ngram_size; /* no so many tokens in a row come twice; negative: any */
  int64_t min_new_tokens;      /* no end before so many tokens; negative: any */
} edgetok_request;

typedef struct edgetok_timings {
  size_t struct_size;
  double preprocess_ms; /* of edgetok_image_from_... */
  double tower_ms;      /* 0 where the image was encoded before */
  double compress_ms;
  double embed_ms;
  double prefill_ms;
  double ttft_ms;       /* from the call to the first token, rejected answers included */
  double decode_ms;     /* all tokens after the first */
} edgetok_timings;

/* Without a budget, limits or the elbow, the bundle's certified controller chooses if it has one and
 * the temperature is 0, else the largest rung answers. Rows that the prompt shares, from the first one
 * on, with what the KV cache holds of the answer before are not computed again. When it fails, the
 * model is as usable as before. */
EDGETOK_API edgetok_status edgetok_generate(edgetok_model* model, edgetok_image* image, const edgetok_prompt* prompt,
                                            const edgetok_request* request, edgetok_answer** answer);
EDGETOK_API void edgetok_answer_free(edgetok_answer* answer);
/* All generated ids, the stop token included. */
EDGETOK_API const int64_t* edgetok_answer_tokens(const edgetok_answer* answer, size_t* count);
/* Source index of each visual token; -1 for the CLS token or a mixture of all. */
EDGETOK_API const int64_t* edgetok_answer_kept(const edgetok_answer* answer, size_t* count);
/* The rungs that answered in turn; the last one's answer was taken. */
EDGETOK_API const int64_t* edgetok_answer_tried(const edgetok_answer* answer, size_t* count);
EDGETOK_API edgetok_stop edgetok_answer_stop(const edgetok_answer* answer);
EDGETOK_API const char* edgetok_answer_reason(const edgetok_answer* answer); /* why this rung */
/* How sure the model was of its first token: probability less that of the second; -1 without one. */
EDGETOK_API double edgetok_answer_margin(const edgetok_answer* answer);
EDGETOK_API double edgetok_answer_log_probability(const edgetok_answer* answer);
/* Rows of the prompt, visual tokens included, that were in the KV cache already. */
EDGETOK_API int64_t edgetok_answer_reused(const edgetok_answer* answer);
/* What the tower said about the image, such as "signal_elbow_tokens"; EDGETOK_USAGE where it did not. */
EDGETOK_API edgetok_status edgetok_answer_signal(const edgetok_answer* answer, const char* name, double* value);
/* The decoder layer before which visual rows left the prompt, or the number of layers if they stayed;
 * -1 for a bundle in which no signal decides that. */
EDGETOK_API int64_t edgetok_answer_exit_layer(const edgetok_answer* answer);
EDGETOK_API edgetok_status edgetok_answer_timings(const edgetok_answer* answer, edgetok_timings* timings);

/* ---- text ---- */

/* Questions and answers as text: the bundle's chat template and tokenizer. Byte pair encoding is done
 * by onnxruntime-extensions, which is loaded when a text is opened and stays until the process ends.
 * What is encoded equals what `edgetok` for Python encodes; a tokenizer or a character about which that
 * is not sure is refused with EDGETOK_INCOMPATIBLE or EDGETOK_INPUT: give token ids then.
 *
 * edgetok_text and edgetok_question never change: any number of threads may use one, where encoding
 * takes turns. edgetok_decoder is of one thread at a time. They may be freed in any order. */
typedef struct edgetok_text edgetok_text;
typedef struct edgetok_question edgetok_question;
typedef struct edgetok_decoder edgetok_decoder;

typedef struct edgetok_text_options {
  size_t struct_size;
  const char* library; /* path of onnxruntime-extensions' library; NULL: the system looks for libortextensions.so */
} edgetok_text_options;

/* `options` may be NULL. */
EDGETOK_API edgetok_status edgetok_text_open(const edgetok_bundle* bundle, const edgetok_text_options* options,
                                             edgetok_text** text);
EDGETOK_API void edgetok_text_free(edgetok_text* text);

/* Renders the chat template around a question: `bytes` of UTF-8, no NUL. Special tokens in it are
 * ordinary characters. */
EDGETOK_API edgetok_status edgetok_text_encode(const edgetok_text* text, const char* question, size_t bytes,
                                               edgetok_question** out);
/* The same with a system message before it. EDGETOK_USAGE where the chat template takes none. */
EDGETOK_API edgetok_status edgetok_text_encode_with_system(const edgetok_text* text, const char* system,
                                                           size_t system_bytes, const char* question, size_t bytes,
                                                           edgetok_question** out);
/* What stands between an answer, without its stop token, and the answer to this question: all of it in
 * `after` of the prompt. EDGETOK_USAGE where the chat template has no later turns. */
EDGETOK_API edgetok_status edgetok_text_encode_turn(const edgetok_text* text, const char* question, size_t bytes,
                                                    edgetok_question** out);
/* For edgetok_generate; what it points to lives as long as `question`. */
EDGETOK_API edgetok_status edgetok_question_prompt(const edgetok_question* question, edgetok_prompt* prompt);
EDGETOK_API void edgetok_question_free(edgetok_question* question);

/* Turns the tokens of one answer into text while they come. */
EDGETOK_API edgetok_status edgetok_decoder_make(const edgetok_text* text, edgetok_decoder** decoder);
EDGETOK_API void edgetok_decoder_free(edgetok_decoder* decoder);
/* The text that one more token completes: whole characters, maybe none. The pointer, to UTF-8 with a NUL
 * behind it, lives until the next call with this decoder; `bytes` may be NULL. */
EDGETOK_API edgetok_status edgetok_decoder_push(edgetok_decoder* decoder, int64_t token, const char** piece,
                                                size_t* bytes);
/* What is left at the end: a character that never became whole is U+FFFD. */
EDGETOK_API edgetok_status edgetok_decoder_flush(edgetok_decoder* decoder, const char** piece, size_t* bytes);
/* The text of these tokens alone, whatever was pushed. */
EDGETOK_API edgetok_status edgetok_decoder_text(edgetok_decoder* decoder, const int64_t* tokens, size_t count,
                                                const char** piece, size_t* bytes);

/* ---- conversations ---- */

/* Begins to talk about an image in several turns; nothing runs before the first one. Between two turns
 * the model may answer other questions, after which the next turn takes longer. Bundles whose chat
 * template has no later turns are refused with EDGETOK_USAGE. */
EDGETOK_API edgetok_status edgetok_converse(edgetok_model* model, edgetok_image* image,
                                            edgetok_conversation** conversation);
EDGETOK_API void edgetok_conversation_free(edgetok_conversation* conversation);
/* Answers the next turn. The first one has a prompt and a request as edgetok_generate, but a certified
 * controller does not choose its rung. A later one has no `before`, and in `after` the ids that stand
 * between the last answer, without its stop token, and the next; it stays on the rung of the first:
 * `budget` is that one or 0, limits and elbow are 0.
 * A turn that was cancelled, or failed after its first token, has been said as far as its tokens were
 * told. One that failed before leaves no trace: the same turn may be asked again. Where the KV cache
 * has no room for the turn, EDGETOK_INPUT says so before anything runs. */
EDGETOK_API edgetok_status edgetok_conversation_ask(edgetok_conversation* conversation, const edgetok_prompt* prompt,
                                                    const edgetok_request* request, edgetok_answer** answer);
EDGETOK_API size_t edgetok_conversation_turns(const edgetok_conversation* conversation);
/* Tokens of questions and answers, template included, that the KV cache still takes; before the first
 * turn its visual tokens are not yet counted. */
EDGETOK_API int64_t edgetok_conversation_tokens_left(const edgetok_conversation* conversation);
/* ---- encoders: bundles without a language model (docs/encoders.md) ---- */

typedef struct edgetok_encoder edgetok_encoder;
typedef struct edgetok_output edgetok_output;
typedef struct edgetok_ranking edgetok_ranking;

typedef struct edgetok_encoder_info {
  size_t struct_size;
  const char* task;
  const char* output;     /* logits, embedding, depth or scores */
  const int64_t* shape;   /* of the output: [classes], [E], [height, width] or [classes, height, width] */
  size_t rank;
  size_t label_count;     /* names of the classes; 0 where there are none */
  int64_t text_tokens;    /* ids of every text, padded; 0 where there are no texts */
  double scale, bias;     /* a text's logit is scale * cosine + bias */
  const char* similarity; /* softmax over the texts, or sigmoid of each; NULL without texts */
} edgetok_encoder_info;

typedef struct edgetok_tensor {
  size_t struct_size;
  const char* name;
  const float* data; /* rows touch */
  size_t count;
  const int64_t* shape;
  size_t rank;
} edgetok_tensor;

typedef struct edgetok_encoder_timings {
  size_t struct_size;
  double preprocess_ms; /* of edgetok_encoder_image_from_... */
  double encode_ms;
} edgetok_encoder_timings;

typedef struct edgetok_score {
  size_t struct_size;
  size_t index;      /* of the class, or of the text in the call */
  const char* label; /* of the class; NULL of a text */
  double probability;
  double logit;
} edgetok_score;

/* EDGETOK_USAGE if the bundle answers questions. Pointers belong to the bundle. */
EDGETOK_API edgetok_status edgetok_bundle_encoder(const edgetok_bundle* bundle, edgetok_encoder_info* info);
EDGETOK_API const char* edgetok_bundle_label(const edgetok_bundle* bundle, size_t index); /* NULL: there is none */

/* `options` may be NULL. */
EDGETOK_API edgetok_status edgetok_encoder_load(const edgetok_bundle* bundle, const edgetok_load_options* options,
                                                edgetok_encoder** encoder);
EDGETOK_API void edgetok_encoder_free(edgetok_encoder* encoder);
EDGETOK_API edgetok_status edgetok_encoder_memory(const edgetok_encoder* encoder, edgetok_memory* memory);

/* As edgetok_image_from_..., for edgetok_encode; the image serves all rungs. */
EDGETOK_API edgetok_status edgetok_encoder_image_from_pixels(const edgetok_encoder* encoder,
                                                             const edgetok_pixels* pixels, edgetok_image** image);
EDGETOK_API edgetok_status edgetok_encoder_image_from_file(const edgetok_encoder* encoder, const uint8_t* data,
                                                           size_t bytes, edgetok_image** image);

/* Runs the rung of `budget` patches, or the largest that is loaded when 0. */
EDGETOK_API edgetok_status edgetok_encode(edgetok_encoder* encoder, const edgetok_image* image, int64_t budget,
                                          edgetok_output** output);
/* Encodes a text of exactly `text_tokens` ids, as the bundle's processor/tokenizer.json makes and pads them. */
EDGETOK_API edgetok_status edgetok_encode_text(edgetok_encoder* encoder, const int64_t* ids, size_t count,
                                               edgetok_output** output);
EDGETOK_API void edgetok_output_free(edgetok_output* output);
/* The first tensor is what the task is about, the second `sizes` [K]: how many patches each row left
 * stands for. A text has the first only, text_embedding. */
EDGETOK_API size_t edgetok_output_tensor_count(const edgetok_output* output);
EDGETOK_API edgetok_status edgetok_output_tensor(const edgetok_output* output, size_t index, edgetok_tensor* tensor);
/* [K]: the patch that each row left is centred on, or -1; empty of a text. */
EDGETOK_API const int64_t* edgetok_output_kept(const edgetok_output* output, size_t* count);
EDGETOK_API int64_t edgetok_output_budget(const edgetok_output* output); /* K; 0 of a text */
EDGETOK_API edgetok_status edgetok_output_timings(const edgetok_output* output, edgetok_encoder_timings* timings);

/* All classes, the likeliest first, of a picture's output; for bundles whose task is classify. */
EDGETOK_API edgetok_status edgetok_rank_classes(const edgetok_output* output, edgetok_ranking** ranking);
/* How well each text goes with a picture, the best first; for bundles whose task is similarity. */
EDGETOK_API edgetok_status edgetok_rank_texts(const edgetok_output* output, const edgetok_output* const* texts,
                                              size_t count, edgetok_ranking** ranking);
EDGETOK_API void edgetok_ranking_free(edgetok_ranking* ranking);
EDGETOK_API size_t edgetok_ranking_count(const edgetok_ranking* ranking);
EDGETOK_API edgetok_status edgetok_ranking_score(const edgetok_ranking* ranking, size_t place, edgetok_score* score);

#ifdef __cplusplus
}

namespace edgetok {
namespace detail {
template <class T>
inline T initial() {
  T made{};
  made.struct_size = sizeof(T);
  return made;
}
}  // namespace detail
}  // namespace edgetok
#endif

#endif
