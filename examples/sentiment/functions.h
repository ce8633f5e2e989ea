// The workflow's four functions: readcsv → sentimentAnalysis → publishSNS ∥ writeDB.
//
// Each is told the run's name and finds its objects under sentiment/<run>/…; what travels between
// them are objects, what they return is a small report of what they did.
#pragma once

#include "apta/apta.h"

namespace sentiment {

// Objects of a run, in the order of the data's way.
inline constexpr const char* kCsv = "csv";                    // the input, put by the caller
inline constexpr const char* kLexicon = "lexicon";            // likewise
inline constexpr const char* kReviews = "reviews";            // readcsv: a JSON line per review
inline constexpr const char* kScores = "scores";              // sentimentAnalysis: likewise
inline constexpr const char* kNotification = "notification";  // publishSNS: text to send
inline constexpr const char* kResults = "results";            // writeDB: CSV table
std::string ObjectKey(std::string_view run, std::string_view name);

// Registers the functions that the compute server `node` runs: "reader", "scorer", "publisher".
absl::Status RegisterFunctions(std::string_view node, apta::FunctionHost* host);

}  // namespace sentiment
