// The directory of the paper's authors, as a table that our own directory is checked against.
//
// Source: the Murphi model of Patil, Nagarajan, Nikoleris, Oswald (Apta, DSN 2023): github.com/
// adarshpatil/apta at 43f24fc, murphi-model/Apta.m (3 caches, 1 address, 880 lines). Facts only, in
// our words; L512 is line 512 of that file. "Appendix" is Table 1 of their Apta-DSN23-appendix.pdf.
//
// Their model knows no failure, no delete and one round of invalidations at a time. A message that
// has no case in the current state stays at the head of its queue (L851-871): that is a stall here.
// An Inv_AckL1C1 in I or S would stall too, but cannot arrive there; it has no row.
//
// Ours: design/protocol.md, "Directory states (OTC)". Thread-safe: constants and pure functions.
#pragma once

#include <array>
#include <cstddef>
#include <iterator>

namespace apta::sim {

// Theirs has exactly these four (s_directoryL1C1, L41-46); no finer transient state.
enum class OtcState {
  kI,   // directoryL1C1_I
  kS,   // directoryL1C1_S
  kSA,  // directoryL1C1_S_Put; S with a raised A in the appendix
  kSI,  // directoryL1C1_S_evict; SI in the appendix
};

// "Others" are sharers other than the writer. "Awaited" is an acknowledgement not yet in. An event
// is classed by what holds once its own effect on sharers and acknowledgements is counted.
enum class OtcEvent {
  kGet,                      // served at once
  kPutNoOthers,              // committed at once, nobody to invalidate
  kPutInvalidatesOthers,     // committed at once, a round of invalidations goes out
  kAck,                      // more are awaited
  kLastAck,                  // none is awaited; in SA: a sharer is left
  kLastAckNoSharers,         // SA: none is awaited, and all sharers have died
  kEvict,                    // of the directory entry, with sharers that are alive
  kEvictNoSharers,           // of the directory entry, without
  kNodeDead,                 // SA, SI: some are awaited; S: a sharer is left
  kNodeDeadLast,             // SA, SI: it was the last one awaited; in SA: a sharer is left
  kNodeDeadNoSharers,        // S: it was the only sharer; SA: none is awaited and no sharer is left
  kGetUntracked,             // served, the directory has no room for the object
  kPutUntracked,             // committed, likewise
  kDeleteNoOthers,           // as kPutNoOthers, and the writer is no sharer afterwards
  kDeleteInvalidatesOthers,  // as kPutInvalidatesOthers, likewise
  kStallGet,                 // not served: it waits for another node
  kStallPut,                 // not committed: it waits for another node
};

struct OtcTransition {
  OtcState from;
  OtcEvent event;
  OtcState to;

  bool operator==(const OtcTransition&) const = default;
};

inline constexpr OtcTransition kTheirTransitions[] = {
    // I, GetL1C1 (L512-518): adds the sharer, Get_AckL1C1.
    {OtcState::kI, OtcEvent::kGet, OtcState::kS},
    // I, PutL1C1 (L520-527): adds the writer, Put_AckL1C1.
    {OtcState::kI, OtcEvent::kPutNoOthers, OtcState::kS},
    // Rule directoryL1C1_I_evict (L742-747, L484-489): does nothing. Grey in the appendix.
    {OtcState::kI, OtcEvent::kEvictNoSharers, OtcState::kI},

    // S, GetL1C1 (L534-540): adds the sharer, Get_AckL1C1.
    {OtcState::kS, OtcEvent::kGet, OtcState::kS},
    // S, PutL1C1, the writer is the only sharer (L576-581). The branch for no sharer at all
    // (L557-562) cannot be reached. The appendix has no such case: every put in S goes to SA.
    {OtcState::kS, OtcEvent::kPutNoOthers, OtcState::kS},
    // S, PutL1C1, there are others: the writer is no sharer (L547-556) or one (L566-575).
    // Put_AckL1C1 is sent before the InvL1C1s; only the writer is a sharer afterwards.
    {OtcState::kS, OtcEvent::kPutInvalidatesOthers, OtcState::kSA},
    // Rule directoryL1C1_S_evict (L749-754, L491-501): InvL1C1 to all, no sharer afterwards.
    {OtcState::kS, OtcEvent::kEvict, OtcState::kSI},

    // S_Put, GetL1C1 (L589-595): adds the sharer, Get_AckL1C1 with the new version. The appendix
    // prints S, not SA, as the next state: we take it for a misprint.
    {OtcState::kSA, OtcEvent::kGet, OtcState::kSA},
    // S_Put, Inv_AckL1C1, not the last (L597-603).
    {OtcState::kSA, OtcEvent::kAck, OtcState::kSA},
    // S_Put, Inv_AckL1C1, the last (L604-608).
    {OtcState::kSA, OtcEvent::kLastAck, OtcState::kS},
    // S_Put, PutL1C1: no case (L610). Grey in the appendix.
    {OtcState::kSA, OtcEvent::kStallPut, OtcState::kSA},

    // S_evict, Inv_AckL1C1, not the last (L622-626).
    {OtcState::kSI, OtcEvent::kAck, OtcState::kSI},
    // S_evict, Inv_AckL1C1, the last (L617-621).
    {OtcState::kSI, OtcEvent::kLastAck, OtcState::kI},
    // S_evict, GetL1C1: no case (L628). Grey in the appendix.
    {OtcState::kSI, OtcEvent::kStallGet, OtcState::kSI},
    // S_evict, PutL1C1: no case (L628). Grey in the appendix.
    {OtcState::kSI, OtcEvent::kStallPut, OtcState::kSI},
};

struct OtcDifference {
  OtcTransition ours;
  const char* reason;
};

// What protocol.md has and theirs has not. Nothing else may differ.
inline constexpr OtcDifference kIntendedDifferences[] = {
    {{OtcState::kS, OtcEvent::kNodeDead, OtcState::kS},
     "a dead sharer is dropped; theirs has no failures"},
    {{OtcState::kS, OtcEvent::kNodeDeadNoSharers, OtcState::kI},
     "the only sharer died, the entry is freed; theirs has no failures"},

    {{OtcState::kSA, OtcEvent::kPutNoOthers, OtcState::kSA},
     "a put in SA commits at once; theirs stalls it until the last acknowledgement"},
    {{OtcState::kSA, OtcEvent::kPutInvalidatesOthers, OtcState::kSA},
     "a put in SA commits at once and starts a further round; theirs has one round at a time"},
    {{OtcState::kSA, OtcEvent::kNodeDead, OtcState::kSA},
     "a dead node leaves the sharers and all rounds; theirs has no failures"},
    {{OtcState::kSA, OtcEvent::kNodeDeadLast, OtcState::kS},
     "a dead node owes nothing, so its death ends the last round; theirs would wait for ever"},
    // The next two follow from "S: one or more sharers": the OTC table itself only says S.
    {{OtcState::kSA, OtcEvent::kNodeDeadNoSharers, OtcState::kI},
     "the death ended the last round and no sharer is left; theirs has no failures"},
    {{OtcState::kSA, OtcEvent::kLastAckNoSharers, OtcState::kI},
     "all sharers died during the round, or the object was deleted; in theirs the writer is left"},

    {{OtcState::kSI, OtcEvent::kGet, OtcState::kSA},
     "a get in SI is served at once; theirs stalls it until the entry is freed"},
    {{OtcState::kSI, OtcEvent::kPutNoOthers, OtcState::kSA},
     "a put in SI commits at once; theirs stalls it until the entry is freed"},
    {{OtcState::kSI, OtcEvent::kPutInvalidatesOthers, OtcState::kSA},
     "as above; SI keeps its old sharers, who may read the version in place, and asks them again"},
    {{OtcState::kSI, OtcEvent::kNodeDead, OtcState::kSI},
     "a dead node leaves the round of the eviction; theirs has no failures"},
    {{OtcState::kSI, OtcEvent::kNodeDeadLast, OtcState::kI},
     "a dead node owes nothing, so its death ends the eviction; theirs would wait for ever"},

    {{OtcState::kS, OtcEvent::kEvictNoSharers, OtcState::kI},
     "all sharers are dead and not yet dropped, nobody is asked; theirs has no failures"},

    // A delete is a put that leaves no sharer. Theirs has none.
    {{OtcState::kI, OtcEvent::kDeleteNoOthers, OtcState::kI}, "a delete: nobody has a copy"},
    {{OtcState::kS, OtcEvent::kDeleteNoOthers, OtcState::kI},
     "a delete: at most the writer had one"},
    {{OtcState::kS, OtcEvent::kDeleteInvalidatesOthers, OtcState::kSA},
     "a delete: the old version's readers are asked, as by a put"},
    {{OtcState::kSA, OtcEvent::kDeleteNoOthers, OtcState::kSA}, "a delete in SA, as a put in SA"},
    {{OtcState::kSA, OtcEvent::kDeleteInvalidatesOthers, OtcState::kSA},
     "a delete in SA, as a put in SA"},
    {{OtcState::kSI, OtcEvent::kDeleteNoOthers, OtcState::kSA}, "a delete in SI, as a put in SI"},
    {{OtcState::kSI, OtcEvent::kDeleteInvalidatesOthers, OtcState::kSA},
     "a delete in SI, as a put in SI"},

    // Theirs has one address and always room for it.
    {{OtcState::kI, OtcEvent::kGetUntracked, OtcState::kI},
     "the directory is full: the reader copies, and keeps nothing"},
    {{OtcState::kI, OtcEvent::kPutUntracked, OtcState::kI},
     "the directory is full: the writer keeps nothing"},
};

inline constexpr std::size_t kTheirRows = std::size(kTheirTransitions);
inline constexpr std::size_t kOtcRows = kTheirRows + std::size(kIntendedDifferences);

constexpr const OtcTransition& OtcRow(std::size_t row) {
  return row < kTheirRows ? kTheirTransitions[row] : kIntendedDifferences[row - kTheirRows].ours;
}

// Which row has this transition; kOtcRows = none: it is not intended.
constexpr std::size_t OtcRowOf(const OtcTransition& transition) {
  std::size_t row = 0;
  while (row < kOtcRows && !(OtcRow(row) == transition)) ++row;
  return row;
}

// Ours never stalls, and asks nothing of a directory that has no entry. It counts rounds, not
// single acknowledgements, and an eviction is one round.
constexpr bool IsOurs(const OtcTransition& transition) {
  return transition.event != OtcEvent::kStallGet && transition.event != OtcEvent::kStallPut &&
         !(transition.from == OtcState::kI && transition.event == OtcEvent::kEvictNoSharers) &&
         !(transition.from == OtcState::kSI && transition.event == OtcEvent::kAck);
}

using OtcCoverage = std::array<std::size_t, kOtcRows>;  // how often each row was taken

// Both tables together: at most one next state for each state and event.
constexpr bool NextStateIsUnique() {
  for (std::size_t i = kOtcRows; i-- > 0;) {
    for (std::size_t j = i; j-- > 0;) {
      if (OtcRow(i).from == OtcRow(j).from && OtcRow(i).event == OtcRow(j).event) return false;
    }
  }
  return true;
}
static_assert(NextStateIsUnique());

}  // namespace apta::sim
