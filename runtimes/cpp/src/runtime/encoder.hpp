// A bundle without a language model, loaded: pictures in, classes, embeddings or maps out.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "backends/backend.hpp"
#include "bundle/bundle.hpp"
#include "runtime/model.hpp"

namespace edgetok_impl {

// What a graph of an encoder made of a picture or a text.
struct Encoding {
  std::string name;           // of its output in the graph
  std::vector<float> values;  // without the dimension of pictures
  Shape shape;
  Ids kept;                   // [K], the patch that each row left is centred on, or -1; none of a text
  std::vector<float> sizes;   // [K], how many patches each stands for
  std::int64_t rows = 0;      // of `kept` and `sizes`
  std::int64_t budget = 0;    // K; 0: of a text
  double preprocess_ms = 0, encode_ms = 0;
};

class Encoder {
 public:
  Encoder(std::shared_ptr<const Bundle> bundle, const LoadOptions& options);

  const std::shared_ptr<const Bundle>& bundle() const { return bundle_; }
  std::int64_t buffer_bytes() const { return backend_->other_bytes(); }

  Image prepare(const Picture& picture) const;
  // Runs a rung on a picture; the largest that is loaded when `budget` is 0.
  Encoding encode(const Image& image, std::int64_t budget);
  // The embedding of a text, of length 1. `ids` are as many as the manifest says.
  Encoding describe(const Ids& ids);

 private:
  Graph& graph(std::int64_t budget) const;
  std::unique_lock<std::mutex> take_turn();

  std::shared_ptr<const Bundle> bundle_;
  const EncoderSide& side_;
  ImagePlan plan_;
  std::unique_ptr<Backend> backend_;  // before the graphs, which it outlives
  std::map<std::int64_t, std::unique_ptr<Graph>> graphs_;  // by budget
  std::unique_ptr<Graph> describe_;                        // none where there is no text
  std::mutex turn_;
};

}  // namespace edgetok_impl
