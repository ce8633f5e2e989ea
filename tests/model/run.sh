#!/usr/bin/env bash
# Verifies the coherence model with spin: every mode, then that each rule left out is noticed.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: run.sh SOURCE_DIR BUILD_DIR [NAME…]
SOURCE_DIR: this folder. BUILD_DIR: for generated sources, verifiers and their outputs.
NAME: only runs whose names contain it. MODEL_ALL=1: those of over 20 s as well. MODEL_JOBS=n runs n at a time (default: one per core, at
most 4; each takes up to 1.5 GB). Exits with 1 if any run ends otherwise than it must.
TEXT
}

if (($# < 2)); then
  usage >&2
  exit 2
fi
source_dir=$(cd "$1" && pwd)
mkdir -p "$2"
build_dir=$(cd "$2" && pwd)
shift 2
cores=$(nproc)
jobs=${MODEL_JOBS:-$((cores < 4 ? cores : 4))}
for tool in spin cc; do
  command -v "$tool" >/dev/null || { echo "run.sh: $tool is not installed" >&2; exit 1; }
done

# What spin must find, and the trace that it leaves: a word for each kind of error.
declare -A found_by=(
  [stale]='assertion violated.*known'        # a get may return what is too old
  [reused]='assertion violated.*freed'       # an extent is reused while it can be read
  [untracked]='assertion violated.*sharers'  # a copy that directory and index do not know
  [owed]='assertion violated.*_waiting'      # a dead node owes something
  [stuck]='acceptance cycle'                 # a request is never answered
)

# One run: NAME holds|WORD SWITCH…; a word means that spin must find an error of that kind.
# The first word of a run's name is the mode.
one_run() {
  local name=$1 expected=$2
  shift 2
  local dir=$build_dir/$name mode=${name%%-*} optimize=-O1 search=(-DSAFETY) flags=(-m2000000 -w24)
  local switches=("-DMODE=${mode^^}" "$@")
  if [[ " $* " == *" -DLIVE "* ]]; then
    search=()
    flags+=(-a)
  fi
  # -O2 takes as much longer to compile as it saves in the longest run. A search that stops at its
  # first error is short.
  if [[ $expected != holds ]]; then
    optimize=-O0
    flags+=(-w20)
  fi
  rm -rf "$dir"
  mkdir -p "$dir"
  cd "$dir"
  cp "$source_dir/coherence.pml" .
  spin -a "${switches[@]}" coherence.pml >spin.out 2>&1 || { fault "$name" spin.out; return 1; }
  cc "$optimize" -w -DNOREDUCE -DMEMLIM=1500 "${search[@]}" -o pan pan.c >cc.out 2>&1 ||
    { fault "$name" cc.out; return 1; }
  ./pan "${flags[@]}" >pan.out 2>&1 || true
  local errors states transitions depth seconds
  errors=$(sed -n 's/.*errors: \([0-9]*\).*/\1/p' pan.out)
  depth=$(sed -n 's/.*depth reached \([0-9]*\).*/\1/p' pan.out)
  states=$(sed -n 's/^ *\([0-9.e+]*\) states, stored.*/\1/p' pan.out)
  transitions=$(sed -n 's/^ *\([0-9.e+]*\) transitions.*/\1/p' pan.out)
  seconds=$(sed -n 's/.*elapsed time \([0-9.]*\) seconds.*/\1/p' pan.out)
  if [[ -z $errors || -z $states ]]; then
    fault "$name" pan.out
    return 1
  fi
  if [[ $expected == holds ]]; then
    if ((errors != 0)) || grep -qE 'too small|not completed|out of memory|error:' pan.out; then
      fault "$name" pan.out
      return 1
    fi
  elif ((errors == 0)) || ! grep -q "${found_by[$expected]}" pan.out; then
    fault "$name" pan.out
    echo "  spin should have found: $expected" >&2
    return 1
  fi
  printf '%-42s %-9s %9s states %11s transitions  depth %5s  %6s s\n' \
    "$name" "$expected" "$states" "$transitions" "$depth" "${seconds:-0}"
}

fault() {
  {
    echo "FAILED: $1; the end of $build_dir/$1/$2:"
    tail -n 20 "$2" | sed 's/^/  /'
  } >&2
}

runs() {
  local mode
  for mode in strict sync; do
    # Two puts; gets of two nodes at a time; any node is killed.
    echo "$mode-puts holds -DVERSIONS=3 -DGETS=2 -DEVICTIONS=0"
    # The directory's entry is evicted once as well.
    echo "$mode-eviction holds -DVERSIONS=3 -DGETS=1"
  done
  # Nobody looks, and more states differ: the same in parts.
  echo "lazy-puts-crash holds -DVERSIONS=3 -DGETS=1 -DEVICTIONS=0"
  if [[ -n ${MODEL_ALL:-} ]]; then
    echo "lazy-puts holds -DVERSIONS=3 -DGETS=2 -DEVICTIONS=0 -DCRASHES=0"
    echo "lazy-eviction holds -DVERSIONS=3 -DGETS=1 -DCRASHES=0"
  fi
  for mode in strict lazy sync; do
    echo "$mode-eviction-2gets holds -DVERSIONS=2 -DGETS=2"
    # Rings of one record.
    echo "$mode-overflow holds -DVERSIONS=3 -DGETS=1 -DEVICTIONS=0 -DCRASHES=0 -DRING=1"
    # Any node is fenced, and any killed.
    echo "$mode-fence holds -DVERSIONS=2 -DGETS=1 -DFENCES=1"
    # Smaller steps.
    echo "$mode-fine holds -DFINE -DVERSIONS=2 -DGETS=1 -DEVICTIONS=0"
    echo "$mode-fine-eviction holds -DFINE -DVERSIONS=2 -DGETS=1 -DCRASHES=0"
  done

  # Nothing waits: see the formula. In sync, a put waits for a node that has stopped, until that is
  # fenced; when all go on, it ends.
  for mode in strict lazy; do
    echo "$mode-live holds -DLIVE -DVERSIONS=2 -DGETS=2"
    echo "$mode-live-2puts holds -DLIVE -DVERSIONS=3 -DGETS=1 -DEVICTIONS=0"
  done
  echo "sync-live-all-go-on holds -DLIVE -DVERSIONS=3 -DGETS=2 -DCRASHES=0 -DFREEZE=0"
  echo "sync-live-stopped stuck -DLIVE -DVERSIONS=2 -DGETS=2 -DCRASHES=0 -DFREEZE=6"
  echo "sync-live-fenced holds -DLIVE -DVERSIONS=2 -DGETS=2 -DCRASHES=0 -DFREEZE=6 -DFENCES=2"

  # What a get has returned, not only what a put has, is seen by the invocations that start later;
  # not if a writer's own records did not count for the scheduler.
  echo "lazy-reads holds -DREADS_COUNT -DVERSIONS=2 -DGETS=1"
  echo "lazy-without-OWES stale -DREADS_COUNT -DBUG_OWES -DVERSIONS=2 -DGETS=1"

  # A rule left out.
  bug strict INVALIDATE_BEFORE_COMMIT stale -DEVICTIONS=0
  bug strict COMMIT_BEFORE_ANSWER untracked -DEVICTIONS=0
  bug strict STRICT_LOOK stale -DEVICTIONS=0
  bug strict FOLLOW_NOT_OVERTAKEN stale -DEVICTIONS=0
  bug strict OVERTAKEN_FILL_NOT_CACHED untracked -DEVICTIONS=0
  bug strict FILL_DELAYS_ACK reused -DEVICTIONS=0
  bug lazy FILL_DELAYS_ACK reused -DEVICTIONS=0
  bug strict RELEASE_AFTER_ACK reused -DEVICTIONS=0
  bug strict RELEASE_AFTER_HOLD reused -DEVICTIONS=0
  bug strict HOLD_BEFORE_ACK reused -DEVICTIONS=0
  bug strict PIN_THEN_LOOK reused -DEVICTIONS=0
  bug strict WRITER_GETS_RECORD reused -DEVICTIONS=0
  bug strict DEAD_OWES_NOTHING owed -DEVICTIONS=0
  bug strict GONE_NOT_ASKED owed -DEVICTIONS=0
  bug strict DROP_ALL_ON_OVERFLOW reused -DEVICTIONS=0 -DRING=1 -DVERSIONS=3
  bug strict EVICTION_INVALIDATES reused
  bug strict EVICTION_KEEPS_SHARERS reused
  bug strict EVICTION_RECORD_ABOVE untracked
  bug strict FENCED_STAYS_QUARANTINED reused -DFENCES=1
  bug strict FENCED_WORD stale -DFENCES=1
  bug strict PUT_NEVER_WAITS stuck -DLIVE
  bug strict GET_NEVER_WAITS stuck -DLIVE
  bug lazy SCHEDULE_ONLY_CLEAN stale -DEVICTIONS=0
  # For the scheduler it would matter only if own records did not count; without it a process would
  # not read its own writes, which the simulator checks.
  bug lazy OWN_PUT_REPLACES stale -DBUG_OWES -DEVICTIONS=0
  bug sync SYNC_WAITS stale -DEVICTIONS=0
  bug sync SYNC_OWN_PUT_DROPS stale -DEVICTIONS=0
  bug sync SYNC_OWN_PUT_BLOCKS stale -DEVICTIONS=0 -DGETS=2
  bug sync SYNC_OWN_PUT_NOT_FOLLOWED stale -DEVICTIONS=0 -DGETS=2
  bug sync SYNC_OVERTAKEN_ASKS_AGAIN reused -DEVICTIONS=0
  bug sync SYNC_ACKS_AT_ONCE stuck -DLIVE -DFREEZE=0 -DCRASHES=0 -DGETS=2
}

# bug MODE RULE WORD SWITCH…
bug() {
  local versions=-DVERSIONS=2 gets=-DGETS=1
  [[ "$*" != *VERSIONS=* ]] || versions=
  [[ "$*" != *GETS=* ]] || gets=
  echo "$1-without-$2 $3 -DBUG_$2 $versions $gets ${*:4}"
}

wanted() {
  local word
  (($# > 1)) || return 0
  for word in "${@:2}"; do
    [[ $1 == *"$word"* ]] && return 0
  done
  return 1
}

ok=1
while read -r -a run; do
  wanted "${run[0]}" "$@" || continue
  while (($(jobs -rp | wc -l) >= jobs)); do
    wait -n || ok=
  done
  one_run "${run[@]}" &
done < <(runs)
while (($(jobs -p | wc -l) > 0)); do
  wait -n || { (($? == 127)) && break; ok=; }
done
[[ -n $ok ]] || { echo "run.sh: something above has failed" >&2; exit 1; }
