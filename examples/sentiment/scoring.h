// Lexicon-based scoring of a text, after VADER (Hutto and Gilbert, "VADER: A Parsimonious
// Rule-based Model for Sentiment Analysis of Social Media Text", ICWSM 2014), its main rules:
//
//   - each word of the lexicon contributes its valence;
//   - in capitals, where not all of the text is, 0.733 further from zero;
//   - a booster ("very", "barely") up to three words before: 0.293 further from or nearer to zero,
//     times 0.95 or 0.9 when it stands two or three words before;
//   - a negation ("not", "never", "…n't") up to three words before: times -0.74;
//   - each exclamation mark, up to four: 0.292 away from zero;
//   - score = sum / sqrt(sum² + 15), in [-1, 1]; positive from 0.05, negative to -0.05.
#pragma once

#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "absl/status/statusor.h"

namespace sentiment {

using Lexicon = std::unordered_map<std::string, double>;

// Lines of "word<TAB>valence", further columns ignored: also VADER's own file. INVALID_ARGUMENT
// names the line.
absl::StatusOr<Lexicon> ParseLexicon(std::string_view text);

double Score(std::string_view text, const Lexicon& lexicon);
std::string_view Label(double score);  // "positive", "neutral" or "negative"

}  // namespace sentiment
