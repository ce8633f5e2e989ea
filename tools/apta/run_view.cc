#include "tools/apta/run_view.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <nlohmann/json.hpp>

#include "tools/apta/json_text.h"
#include "tools/apta/output.h"

namespace apta::tool {
namespace {

constexpr auto kPeriod = std::chrono::milliseconds(100);
constexpr std::size_t kDefaultRows = 24;
constexpr std::size_t kDefaultColumns = 80;

std::size_t RowsOfTerminal() {
  winsize size{};
  if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_row < 3) return kDefaultRows - 2;
  return size.ws_row - 2u;
}

std::string_view KindName(StateEvent::Kind kind) {
  constexpr std::string_view kNames[] = {"entered", "retrying", "caught", "failed", "left"};
  return kNames[static_cast<std::size_t>(kind)];
}

// Within a line of the terminal, without cutting a character in two.
std::string Shorten(std::string text, std::size_t bytes) {
  if (text.size() <= bytes) return text;
  while (bytes > 0 && (text[bytes] & 0xc0) == 0x80) --bytes;
  return text.substr(0, bytes) + "…";
}

std::string ErrorText(const StateEvent& event) {
  return Printable(event.cause.empty() ? event.error
                                       : fmt::format("{}: {}", event.error, event.cause));
}

}  // namespace

std::string RenderRun(const std::vector<StateRow>& states, std::size_t max_rows) {
  Table table({"", "STATE", "TYPE", ">DONE", ">RETRIED", "LAST ERROR"});
  const std::size_t first = states.size() > max_rows ? states.size() - max_rows : 0;
  for (std::size_t i = first; i < states.size(); ++i) {
    const StateRow& state = states[i];
    const bool is_done = state.left == state.entered;
    table.Add({state.failed > 0 ? "✗"
               : is_done        ? "✓"
                                : "…",
               Shorten(Printable(state.name), 30), Printable(state.type),
               fmt::format("{}/{}", state.left, state.entered),
               state.retries == 0 ? "" : fmt::format("{}", state.retries),
               Shorten(state.last, kDefaultColumns / 2)});
  }
  return states.empty() ? "" : table.Render();
}

std::string DescribeEvent(const StateEvent& event, absl::Time begin) {
  std::string text = fmt::format("{:8.3f} s  {}{}{}: {}", absl::ToDoubleSeconds(event.at - begin),
                                 Printable(event.branch), event.branch.empty() ? "" : "/",
                                 Printable(std::string(event.state)), KindName(event.kind));
  if (event.kind == StateEvent::Kind::kRetrying) {
    text += " in " + absl::FormatDuration(absl::Trunc(event.delay, absl::Milliseconds(1)));
  }
  if (!event.error.empty()) text += ": " + ErrorText(event);
  return text + "\n";
}

RunView::RunView(bool as_json)
    : as_json_(as_json), on_terminal_(!as_json && isatty(STDERR_FILENO) == 1) {
  if (on_terminal_) drawer_ = std::thread([this] { Draw(); });
}

RunView::~RunView() {
  if (!drawer_.joinable()) return;
  {
    const std::lock_guard lock(mutex_);
    end_ = true;
  }
  ended_.notify_one();
  drawer_.join();
}

void RunView::Add(const StateEvent& event) {
  if (!on_terminal_) return PrintLine(event);
  const std::lock_guard lock(mutex_);
  const auto [entry, is_new] = index_.emplace(std::string(event.state), states_.size());
  if (is_new)
    states_.push_back({.name = std::string(event.state), .type = std::string(event.type)});
  StateRow& state = states_[entry->second];
  state.entered += event.kind == StateEvent::Kind::kEntered;
  state.left += event.kind == StateEvent::Kind::kLeft || event.kind == StateEvent::Kind::kCaught;
  state.retries += event.kind == StateEvent::Kind::kRetrying;
  state.failed += event.kind == StateEvent::Kind::kFailed;
  if (!event.error.empty()) state.last = ErrorText(event);
  run_ = event.run;
  changed_ = true;
}

void RunView::PrintLine(const StateEvent& event) {
  if (begin_ == absl::InfiniteFuture()) {
    begin_ = event.at;
    if (!as_json_) Tell(fmt::format("run {}\n", Printable(std::string(event.run))));
  }
  Tell(as_json_ ? DumpLine(ToJson(event)) + "\n" : DescribeEvent(event, begin_));
}

void RunView::Draw() {
  std::unique_lock lock(mutex_);
  const auto ended = [this] { return end_; };
  while (!ended_.wait_for(lock, kPeriod, ended)) Paint();
  Paint();  // the last stays
}

// Over what was painted before.
void RunView::Paint() {
  if (!changed_) return;
  changed_ = false;
  const std::string text =
      fmt::format("run {}\n{}", Printable(run_), RenderRun(states_, RowsOfTerminal() - 1));
  std::string painted;
  if (painted_lines_ > 0) painted = fmt::format("\x1b[{}A\r\x1b[J", painted_lines_);
  painted_lines_ = static_cast<std::size_t>(std::ranges::count(text, '\n'));
  Tell(painted + text);
}

}  // namespace apta::tool
