#include "functions.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <nlohmann/json.hpp>

#include "csv.h"
#include "scoring.h"

namespace sentiment {

using apta::AsBytes;
using apta::AsText;
using apta::Bytes;
using apta::FunctionHost;
using apta::Invocation;
using nlohmann::json;

std::string ObjectKey(std::string_view run, std::string_view name) {
  return fmt::format("sentiment/{}/{}", run, name);
}

namespace {

// What a function was called for, and what it reports: objects read and written, time, cache.
class Task {
 public:
  Task(Invocation* invocation, std::string_view node, const FunctionHost* host)
      : invocation_(*invocation), host_(*host), run_(AsText(invocation->input())) {
    report_ = {
        {"function", invocation->function()}, {"node", node},          {"pid", getpid()},
        {"attempt", invocation->attempt()},   {"read", json::array()}, {"written", json::array()}};
  }

  absl::StatusOr<apta::Object> Read(std::string_view name) {
    absl::StatusOr<apta::Object> object = invocation_.Get(ObjectKey(run_, name));
    if (object.ok()) report_["read"].push_back({{"object", name}, {"bytes", object->size()}});
    return object;
  }
  void Write(std::string_view name, std::string_view text) {
    invocation_.Put(ObjectKey(run_, name), AsBytes(text));
    report_["written"].push_back({{"object", name}, {"bytes", text.size()}});
  }
  Bytes Report() {
    const std::chrono::duration<double, std::milli> took =
        std::chrono::steady_clock::now() - began_;
    const apta::ClientStats now = host_.stats();
    report_["ms"] = took.count();
    report_["hits"] = now.hits - before_.hits;
    report_["misses"] = now.misses - before_.misses;
    const std::string text = report_.dump();
    const apta::BytesView bytes = AsBytes(text);
    return Bytes(bytes.begin(), bytes.end());
  }

 private:
  Invocation& invocation_;
  const FunctionHost& host_;
  const std::string run_;
  const std::chrono::steady_clock::time_point began_ = std::chrono::steady_clock::now();
  const apta::ClientStats before_ = host_.stats();
  json report_;
};

std::string ToLine(const json& value) {
  // Reviews may hold any bytes; JSON may not.
  return value.dump(-1, ' ', false, json::error_handler_t::replace) + "\n";
}

template <typename Visit>
absl::Status ForEachLine(std::string_view lines, Visit&& visit) {
  while (!lines.empty()) {
    const std::size_t end = std::min(lines.find('\n'), lines.size());
    const json value = json::parse(lines.substr(0, end), nullptr, /*allow_exceptions=*/false);
    if (!value.is_object()) return absl::InternalError("an intermediate object cannot be read");
    visit(value);
    lines.remove_prefix(std::min(end + 1, lines.size()));
  }
  return absl::OkStatus();
}

absl::Status ReadCsv(Task* task) {
  const absl::StatusOr<apta::Object> csv = task->Read(kCsv);
  if (!csv.ok()) return csv.status();
  const absl::StatusOr<std::vector<Review>> reviews = ParseReviews(AsText(csv->bytes()));
  if (!reviews.ok()) return reviews.status();
  std::string lines;
  for (const Review& review : *reviews) {
    lines += ToLine({{"id", review.id},
                     {"customer", review.customer},
                     {"product", review.product},
                     {"text", review.text}});
  }
  task->Write(kReviews, lines);
  return absl::OkStatus();
}

absl::Status AnalyseSentiment(Task* task) {
  const absl::StatusOr<apta::Object> text = task->Read(kLexicon);
  if (!text.ok()) return text.status();
  const absl::StatusOr<Lexicon> lexicon = ParseLexicon(AsText(text->bytes()));
  if (!lexicon.ok()) return lexicon.status();
  const absl::StatusOr<apta::Object> reviews = task->Read(kReviews);
  if (!reviews.ok()) return reviews.status();
  std::string lines;
  const absl::Status parsed = ForEachLine(AsText(reviews->bytes()), [&](const json& review) {
    const double score = Score(review["text"].get<std::string>(), *lexicon);
    lines += ToLine({{"id", review["id"]},
                     {"product", review["product"]},
                     {"score", score},
                     {"label", Label(score)}});
  });
  if (parsed.ok()) task->Write(kScores, lines);
  return parsed;
}

absl::Status PublishSns(Task* task) {
  const absl::StatusOr<apta::Object> scores = task->Read(kScores);
  if (!scores.ok()) return scores.status();
  const absl::StatusOr<apta::Object> reviews = task->Read(kReviews);
  if (!reviews.ok()) return reviews.status();
  std::map<std::string, int> labels = {{"positive", 0}, {"neutral", 0}, {"negative", 0}};
  std::map<std::string, std::pair<double, int>> products;  // sum of scores, reviews
  std::vector<std::pair<double, std::size_t>> worst;       // score, position
  absl::Status parsed = ForEachLine(AsText(scores->bytes()), [&](const json& score) {
    const double value = score["score"].get<double>();
    ++labels[score["label"].get<std::string>()];
    auto& [sum, count] = products[score["product"].get<std::string>()];
    sum += value;
    ++count;
    worst.emplace_back(value, worst.size());
  });
  if (!parsed.ok()) return parsed;
  std::vector<std::string> texts;
  parsed = ForEachLine(AsText(reviews->bytes()), [&](const json& review) {
    texts.push_back(review["text"].get<std::string>());
  });
  if (!parsed.ok()) return parsed;
  std::string text = fmt::format("{} reviews\n", worst.size());
  for (const char* label : {"positive", "neutral", "negative"}) {
    const int percent = static_cast<int>(100.0 * labels[label] / static_cast<double>(worst.size()));
    text += fmt::format("  {:8} {:6}  {:3} %  {}\n", label, labels[label], percent,
                        std::string(static_cast<std::size_t>((percent + 1) / 2), '#'));
  }
  text += "products by average score\n";
  std::vector<std::pair<double, std::string>> ranking;
  for (const auto& [product, total] : products) {
    ranking.emplace_back(total.first / total.second, product);
  }
  std::sort(ranking.rbegin(), ranking.rend());
  ranking.resize(std::min<std::size_t>(ranking.size(), 5));
  for (const auto& [average, product] : ranking) {
    text +=
        fmt::format("  {:12} {:+.3f}  ({} reviews)\n", product, average, products[product].second);
  }
  text += "to be answered first\n";
  std::sort(worst.begin(), worst.end());
  worst.resize(std::min<std::size_t>(worst.size(), 3));
  for (const auto& [score, position] : worst) {
    std::string excerpt = texts[position].substr(0, 60);
    std::replace(excerpt.begin(), excerpt.end(), '\n', ' ');
    text += fmt::format("  {:+.3f}  {}\n", score, excerpt);
  }
  task->Write(kNotification, text);
  return absl::OkStatus();
}

absl::Status WriteDb(Task* task) {
  const absl::StatusOr<apta::Object> scores = task->Read(kScores);
  if (!scores.ok()) return scores.status();
  std::string table = "reviewID,productID,score,label\n";
  const absl::Status parsed = ForEachLine(AsText(scores->bytes()), [&](const json& score) {
    table += fmt::format("{},{},{:.6f},{}\n", CsvField(score["id"].get<std::string>()),
                         CsvField(score["product"].get<std::string>()),
                         score["score"].get<double>(), score["label"].get<std::string>());
  });
  if (parsed.ok()) task->Write(kResults, table);
  return parsed;
}

}  // namespace

absl::Status RegisterFunctions(std::string_view node, FunctionHost* host) {
  const auto add = [&](std::string_view name, absl::Status (*body)(Task*)) {
    return host->Register(
        name,
        [body, host, node = std::string(node)](Invocation& invocation) -> absl::StatusOr<Bytes> {
          Task task(&invocation, node, host);
          if (absl::Status done = body(&task); !done.ok()) return done;
          return task.Report();
        });
  };
  if (node == "reader") return add("readcsv", ReadCsv);
  if (node == "scorer") return add("sentimentAnalysis", AnalyseSentiment);
  if (absl::Status added = add("publishSNS", PublishSns); !added.ok()) return added;
  return add("writeDB", WriteDb);
}

}  // namespace sentiment
