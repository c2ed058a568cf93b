#include "gateway/openai/params.h"

#include <charconv>
#include <string>

namespace braid {
namespace {

bool ReadStop(const JsonCursor& value, std::vector<std::string>* out) {
  if (value.value().is_string()) return value.Read(&out->emplace_back());
  if (!value.value().is_array()) return value.WrongType("a string or an array of strings");
  return value.Read(out);
}

// Keys are token ids in decimal, as OpenAI has them: JSON has no other keys than strings.
FieldResult ReadBias(std::string_view key, const JsonCursor& value, std::vector<std::pair<int64_t, double>>* out) {
  int64_t token = 0;
  const char* end = key.data() + key.size();
  const auto [rest, error] = std::from_chars(key.data(), end, token);
  if (error != std::errc() || rest != end) {
    value.Fail("invalid_value", "is not a token id; the keys of logit_bias are token ids in decimal");
    return FieldResult::kFailed;
  }
  double bias = 0;
  if (!value.Read(&bias)) return FieldResult::kFailed;
  out->emplace_back(token, bias);
  return FieldResult::kRead;
}

bool ReadLogitBias(const JsonCursor& value, std::vector<std::pair<int64_t, double>>* out) {
  return ReadMembers(value, [out](std::string_view key, const JsonCursor& bias) { return ReadBias(key, bias, out); });
}

constexpr JsonField<AnswerOptions> kStreamOptions[] = {
    {"include_usage", [](const JsonCursor& v, AnswerOptions* o) { return v.Read(&o->include_usage); }},
    {"continuous_usage_stats", [](const JsonCursor& v, AnswerOptions*) { return v.Only({false}); }},
    {"include_obfuscation", [](const JsonCursor& v, AnswerOptions*) { return v.Only({false}); }},
};

constexpr JsonField<SharedFields> kFields[] = {
    {"temperature", [](const JsonCursor& v, SharedFields* f) { return v.Read(&f->params.temperature); }},
    {"top_p", [](const JsonCursor& v, SharedFields* f) { return v.Read(&f->params.top_p); }},
    {"top_k", [](const JsonCursor& v, SharedFields* f) { return v.Read(&f->params.top_k); }},
    {"min_p", [](const JsonCursor& v, SharedFields* f) { return v.Read(&f->params.min_p); }},
    {"repetition_penalty", [](const JsonCursor& v, SharedFields* f) { return v.Read(&f->params.repetition_penalty); }},
    {"presence_penalty", [](const JsonCursor& v, SharedFields* f) { return v.Read(&f->params.presence_penalty); }},
    {"frequency_penalty", [](const JsonCursor& v, SharedFields* f) { return v.Read(&f->params.frequency_penalty); }},
    {"seed", [](const JsonCursor& v, SharedFields* f) { return v.Read(&f->params.seed); }},
    {"n", [](const JsonCursor& v, SharedFields* f) { return v.Read(&f->params.n); }},
    {"best_of", [](const JsonCursor& v, SharedFields* f) { return v.Read(&f->best_of); }},
    {"max_tokens", [](const JsonCursor& v, SharedFields* f) { return v.Read(&f->params.max_tokens); }},
    {"max_completion_tokens", [](const JsonCursor& v, SharedFields* f) { return v.Read(&f->max_completion_tokens); }},
    {"stop", [](const JsonCursor& v, SharedFields* f) { return ReadStop(v, &f->params.stop); }},
    {"logit_bias", [](const JsonCursor& v, SharedFields* f) { return ReadLogitBias(v, &f->params.logit_bias); }},
    {"ignore_eos", [](const JsonCursor& v, SharedFields* f) { return v.Read(&f->params.ignore_eos); }},
    {"stream", [](const JsonCursor& v, SharedFields* f) { return v.Read(&f->answer.stream); }},
    {"stream_options",
     [](const JsonCursor& v, SharedFields* f) {
       f->has_stream_options = true;
       return ReadObject<AnswerOptions>(v, kStreamOptions, &f->answer);
     }},
    {"safety_identifier", [](const JsonCursor& v, SharedFields* f) { return v.Read(&f->safety_identifier); }},
    {"user", [](const JsonCursor& v, SharedFields* f) { return v.Read(&f->params.user); }},
    {"cache_salt", [](const JsonCursor& v, SharedFields* f) { return v.Read(&f->params.cache_salt); }},
    {"return_token_ids", [](const JsonCursor& v, SharedFields* f) { return v.Read(&f->answer.return_token_ids); }},
};

// For the caller's own records: they do not reach the answer.
bool ReadLabel(const JsonCursor& value, SharedFields*) {
  std::string label;
  return value.Read(&label);
}

constexpr JsonField<SharedFields> kHarmless[] = {
    {"prompt_cache_key", ReadLabel},
    {"metadata", [](const JsonCursor& v, SharedFields*) { return v.IsObject(); }},
    {"store", [](const JsonCursor& v, SharedFields*) { return v.Only({false}); }},
    {"service_tier",
     [](const JsonCursor& v, SharedFields*) {
       return v.Only({"auto", "default"});
     }},
    {"use_beam_search", [](const JsonCursor& v, SharedFields*) { return v.Only({false}); }},
    {"length_penalty", [](const JsonCursor& v, SharedFields*) { return v.Only({1}); }},
    {"min_tokens", [](const JsonCursor& v, SharedFields*) { return v.Only({0}); }},
    {"stop_token_ids", [](const JsonCursor& v, SharedFields*) { return v.Only({Json::array()}); }},
    {"bad_words", [](const JsonCursor& v, SharedFields*) { return v.Only({Json::array()}); }},
    {"include_stop_str_in_output", [](const JsonCursor& v, SharedFields*) { return v.Only({false}); }},
    {"skip_special_tokens", [](const JsonCursor& v, SharedFields*) { return v.Only({true}); }},
    {"spaces_between_special_tokens", [](const JsonCursor& v, SharedFields*) { return v.Only({true}); }},
    {"return_tokens_as_token_ids", [](const JsonCursor& v, SharedFields*) { return v.Only({false}); }},
    {"priority", [](const JsonCursor& v, SharedFields*) { return v.Only({0}); }},
};

// Known elsewhere and certain to change the answer: better than calling them unknown.
constexpr std::string_view kUnsupported[] = {
    "prompt_logprobs",    "truncate_prompt_tokens",
    "allowed_token_ids",  "structured_outputs",
    "guided_json",        "guided_regex",
    "guided_choice",      "guided_grammar",
    "logits_processors",  "typical_p",
    "reasoning_effort",   "request_id",
    "logprob_token_ids",  "vllm_xargs",
    "kv_transfer_params",
};

FieldResult Refuse(const JsonCursor& value) {
  value.Fail("unsupported_value", "is not supported by this server; leave it out");
  return FieldResult::kFailed;
}

FieldResult ReadUnsupported(std::string_view name, const JsonCursor& value) {
  for (std::string_view unsupported : kUnsupported) {
    if (name == unsupported) return value.value().is_null() ? FieldResult::kRead : Refuse(value);
  }
  return FieldResult::kNotHere;
}

bool CheckLength(const JsonCursor& body, SharedFields* fields) {
  if (!fields->max_completion_tokens) return true;
  const auto old_name = fields->params.max_tokens;
  if (old_name && *old_name != *fields->max_completion_tokens)
    return body.FailMember("max_completion_tokens", "invalid_value",
                           "differs from 'max_tokens', its older name; send one of them");
  fields->params.max_tokens = fields->max_completion_tokens;
  return true;
}

}  // namespace

FieldResult ReadSharedField(std::string_view name, const JsonCursor& value, SharedFields* out) {
  FieldResult result = ReadField<SharedFields>(kFields, name, value, out);
  if (result == FieldResult::kNotHere) result = ReadField<SharedFields>(kHarmless, name, value, out);
  if (result == FieldResult::kNotHere) result = ReadUnsupported(name, value);
  return result;
}

bool CheckSharedFields(const JsonCursor& body, SharedFields* fields) {
  if (fields->has_stream_options && !fields->answer.stream)
    return body.FailMember("stream_options", "invalid_value", "needs 'stream': true");
  if (fields->best_of && *fields->best_of != fields->params.n.value_or(1))
    return body.FailMember("best_of", "unsupported_value", "must equal 'n' here; leave it out");
  if (!fields->safety_identifier.empty()) fields->params.user = fields->safety_identifier;
  return CheckLength(body, fields);
}

}  // namespace braid
