/* One question about one picture, in C.
 *
 *     01_answer BUNDLE IMAGE.jpg "1 32 7" "45 9 2 13"
 *
 * The two lists are the token ids in front of the image and behind it; text is for a tokenizer.
 */
#include <edgetok/edgetok.h>
#include <stdio.h>
#include <stdlib.h>

enum { MOST_IDS = 4096, MOST_BYTES = 1 << 24 };

static size_t read_ids(const char* text, int64_t* ids) {
  size_t count = 0;
  char* end = NULL;
  for (long long id = strtoll(text, &end, 10); end != text && count < MOST_IDS; id = strtoll(text, &end, 10)) {
    ids[count++] = id;
    text = end;
  }
  return count;
}

static size_t read_file(const char* path, uint8_t* data) {
  FILE* file = fopen(path, "rb");
  if (file == NULL) return 0;
  size_t bytes = fread(data, 1, MOST_BYTES, file);
  fclose(file);
  return bytes;
}

static int say(void* user, int64_t token) {
  (void)user;
  printf("%lld ", (long long)token);
  fflush(stdout);
  return 0; /* go on */
}

int main(int count, char** words) {
  static uint8_t data[MOST_BYTES];
  static int64_t before[MOST_IDS], after[MOST_IDS];
  if (count != 5) {
    fprintf(stderr, "usage: %s BUNDLE IMAGE \"IDS BEFORE\" \"IDS AFTER\"\n", words[0]);
    return EDGETOK_USAGE;
  }
  edgetok_bundle* bundle = NULL;
  edgetok_model* model = NULL;
  edgetok_image* image = NULL;
  edgetok_answer* answer = NULL;
  edgetok_prompt prompt = EDGETOK_INIT(edgetok_prompt);
  edgetok_request request = EDGETOK_INIT(edgetok_request);
  edgetok_timings timings = EDGETOK_INIT(edgetok_timings);
  prompt.before = before;
  prompt.before_count = read_ids(words[3], before);
  prompt.after = after;
  prompt.after_count = read_ids(words[4], after);
  request.on_token = say;

  edgetok_status status = edgetok_bundle_open(words[1], 0, &bundle);
  if (status == EDGETOK_OK) status = edgetok_model_load(bundle, NULL, &model);
  if (status == EDGETOK_OK) status = edgetok_image_from_file(model, data, read_file(words[2], data), &image);
  if (status == EDGETOK_OK) status = edgetok_generate(model, image, &prompt, &request, &answer);
  if (status == EDGETOK_OK) status = edgetok_answer_timings(answer, &timings);
  if (status == EDGETOK_OK) {
    printf("\n%s; first token after %.1f ms\n", edgetok_answer_reason(answer), timings.ttft_ms);
  } else {
    fprintf(stderr, "%s\n", edgetok_message());
  }
  edgetok_answer_free(answer);
  edgetok_image_free(image);
  edgetok_model_free(model);
  edgetok_bundle_free(bundle);
  return (int)status;
}
