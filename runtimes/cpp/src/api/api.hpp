// What all functions of the C interface share: handles, and how what is thrown becomes a status.
#pragma once

#include <algorithm>
#include <cstring>
#include <memory>
#include <new>
#include <string>

#include "edgetok/edgetok.h"
#include "runtime/conversation.hpp"
#include "runtime/encoder.hpp"
#include "runtime/model.hpp"

struct edgetok_bundle {
  std::shared_ptr<const edgetok_impl::Bundle> bundle;
};
struct edgetok_model {
  std::shared_ptr<edgetok_impl::Model> model;
};
struct edgetok_image {
  std::shared_ptr<edgetok_impl::Image> image;
};
struct edgetok_conversation {
  edgetok_impl::Conversation conversation;
};
struct edgetok_answer {
  edgetok_impl::Answer answer;
};
struct edgetok_encoder {
  std::unique_ptr<edgetok_impl::Encoder> encoder;
};

namespace edgetok_impl {
namespace api {

// Leaves a message for edgetok_message() of this thread.
edgetok_status fail(edgetok_status status, const char* message);
const char* message();  // the last one

// Runs a function's work; nothing that it throws gets further.
template <class Work>
edgetok_status guarded(Work work) {
  try {
    work();
    return EDGETOK_OK;
  } catch (const Error& error) {
    return fail(static_cast<edgetok_status>(error.code), error.what());
  } catch (const std::bad_alloc&) {
    return fail(EDGETOK_RESOURCES, "memory ran out; load fewer rungs");
  } catch (const std::exception& error) {
    return fail(EDGETOK_INTERNAL, error.what());
  } catch (...) {
    return fail(EDGETOK_INTERNAL, "an unknown exception");
  }
}

template <class T>
T& require(T* pointer, const char* what) {
  if (pointer == nullptr) throw usage_error(std::string(what) + " is NULL");
  return *pointer;
}

// A struct of the caller, who may be older than this library: what it does not know is 0.
template <class T>
T read_struct(const T* given, const char* what) {
  const std::size_t size = require(given, what).struct_size;
  if (size < sizeof(std::size_t) || size > 4096) {
    throw usage_error(std::string(what) + ".struct_size is " + std::to_string(size) + "; set it with EDGETOK_INIT");
  }
  T copy{};
  std::memcpy(static_cast<void*>(&copy), given, std::min(size, sizeof(T)));
  return copy;
}

template <class T>
void write_struct(T filled, T* out, const char* what) {
  const std::size_t size = read_struct(out, what).struct_size;
  filled.struct_size = size;
  std::memcpy(static_cast<void*>(out), &filled, std::min(size, sizeof(T)));
}

// Throws Error(input) for more of them than any prompt has.
Ids read_ids(const int64_t* ids, size_t count, const char* what);

LoadOptions read_options(const edgetok_load_options* given);  // may be NULL

inline std::shared_ptr<Image> share(Image image) { return std::make_shared<Image>(std::move(image)); }

inline const int64_t* show(const Ids& ids, size_t* count) {
  if (count != nullptr) *count = ids.size();
  return ids.data();
}

}  // namespace api
}  // namespace edgetok_impl
