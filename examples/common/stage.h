// Where applications run: a memory server, and a folder for files. Both go with this.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"

namespace examples {

class Stage {
 public:
  // `socket`: of a running memory server; "" = one of our own, in this process, with `policy`, if
  // that is not "".
  static absl::StatusOr<Stage> Open(const std::string& socket, const std::string& policy = "");
  Stage(Stage&&) noexcept;
  Stage& operator=(Stage&&) noexcept;
  ~Stage();

  const std::string& socket() const;
  const std::string& scratch() const;

 private:
  struct State;
  explicit Stage(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace examples
