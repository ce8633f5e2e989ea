// What stands behind a Draft: an extent in a trusted pool, private memory in an isolated one.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "compute/node_runtime.h"
#include "compute/session.h"
#include "fmt/format.h"

namespace apta::compute {

class DraftState {
 public:
  static absl::StatusOr<std::unique_ptr<DraftState>> Make(std::shared_ptr<NodeRuntime> runtime,
                                                          Session* session, std::string_view key,
                                                          std::size_t size) {
    std::unique_ptr<DraftState> state(new DraftState(std::move(runtime), session, key));
    if (!session->trusted()) {
      // The put would find no room; and not value-initialised: the caller fills it.
      if (absl::Status fits = session->CheckSize(key, size); !fits.ok()) return fits;
      state->buffer_.reset(new (std::nothrow) std::byte[size]);
      if (state->buffer_ == nullptr) {
        return absl::ResourceExhaustedError(
            fmt::format("{}: this process has no memory for a draft of {} bytes", key, size));
      }
      state->bytes_ = {state->buffer_.get(), size};
      return state;
    }
    const absl::StatusOr<std::uint64_t> extent = session->Create(key, size);
    if (!extent.ok()) return extent.status();
    state->extent_ = *extent;
    state->bytes_ = session->PayloadOf(*extent);
    return state;
  }
  ~DraftState() {
    if (extent_ != 0 && runtime_->session() == session_) session_->AbortDraft(extent_);
  }

  absl::Span<std::byte> bytes() const { return bytes_; }

  absl::StatusOr<Version> Commit() {
    Session* session = runtime_->session();
    if (session == nullptr) return runtime_->WhyNot();
    if (session_->trusted() && session != session_) {
      return absl::UnavailableError("the memory server was restarted; the draft went with it");
    }
    if (extent_ == 0) return session->Put(key_, bytes_, fabric::kAnyVersion);
    const std::uint64_t extent = std::exchange(extent_, 0);
    return session->CommitDraft(key_, extent);
  }

 private:
  DraftState(std::shared_ptr<NodeRuntime> runtime, Session* session, std::string_view key)
      : runtime_(std::move(runtime)), session_(session), key_(key) {}

  std::shared_ptr<NodeRuntime> runtime_;
  Session* session_;  // lives as long as the runtime
  std::string key_;
  std::unique_ptr<std::byte[]> buffer_;
  std::uint64_t extent_ = 0;
  absl::Span<std::byte> bytes_;
};

}  // namespace apta::compute
