/* The coherence protocol as a model for spin: one object, one home, three nodes.
 *
 * What one thread of the code does under one lock, or the home in one verb, is one d_step. Between
 * any two of them everybody else may act. A node that is stopped is a node that takes no step, so
 * every run of the safety checks has such stops in it, at any point and for any time; LIVE adds
 * stops that never end. Nodes can also be killed (CRASHES) and fenced (FENCES).
 *
 * Version v stands in extent v. `freed` says that the home may give the extent to somebody else,
 * so an extent counts as overwritten from the moment that it is free: the worst case.
 *
 * MODE      STRICT, LAZY or SYNC
 * VERSIONS  the last version, 4 at most; version 1 is there at the start
 * EVICTIONS, CRASHES, FENCES, RING, PINS, GETS   how much may happen; see below
 * FINE      smaller steps: the home looks at acknowledgement words and hold tables at any later
 *           time, and the agent applies record by record. Without, each of these follows at once:
 *           room for more puts.
 * LIVE      nodes may stop for ever; see the ltl formula at the end
 * BUG_x     leaves rule x out; run.sh shows that spin notices
 *
 * A comment "rule: X path:Function" names the code that the step stands for, where the same name
 * stands in a comment "Model rule: X". check_rules.py compares them.
 */

#define STRICT 1
#define LAZY 2
#define SYNC 3
#ifndef MODE
#define MODE STRICT
#endif
#ifndef VERSIONS
#define VERSIONS 3
#endif
#ifndef EVICTIONS
#define EVICTIONS 1 /* of the directory's entry */
#endif
#ifndef CRASHES
#define CRASHES 1
#endif
#ifndef FENCES
#define FENCES 0
#endif
#ifndef RING
#define RING QUEUE /* records that fit into a node's ring; less than QUEUE: it overflows */
#endif
#ifndef PINS
#define PINS 1 /* how many nodes keep a pin at the same time */
#endif
#ifndef GETS
#define GETS 2 /* gets under way at the same time, over all nodes */
#endif

#define N 3
#define QUEUE (VERSIONS - 1 + EVICTIONS)
#define ROUNDS 5 /* by old version; VERSIONS is at most 4 */
#define SET(n) (1 << (n))
#define ALL ((1 << N) - 1)
#define BEYOND (VERSIONS + 2) /* newer than any version */

/* --- the home --- */

#define DIR_I 0
#define DIR_S 1
#define DIR_SA 2
#define DIR_SI 3

byte cur = 1;     /* what the index names: OPC */
byte dir;         /* OTC */
byte sharers;     /* OTC */
byte rounds;      /* OTC: rounds that others than the writer still have to acknowledge */
byte present = ALL;   /* not gone */
byte answering = ALL; /* and not fenced */

/* OIC. The round of old version v: who still has to acknowledge, the writer apart; who has, but
 * lists the extent in its hold table; who was fenced. The round of an evicted directory entry is of
 * version `evicted`. */
byte waiting[ROUNDS];
byte writer_waiting[ROUNDS];
byte holding[ROUNDS];
byte quarantined[ROUNDS];
byte evicted;
byte evict_waiting;
byte evict_holding;
byte evict_quarantined;
byte freed;                    /* set of versions whose extents are free */

#if MODE == SYNC
byte pending; /* 1 + the node whose put waits for acknowledgements; others wait behind it */
#endif

/* --- the nodes --- */

#define UP 0
#define DEAD 1   /* killed; the home has not seen it yet */
#define GONE 2   /* forgotten */
#define FENCED 3 /* its session is over, and it does not know yet */

#define IDLE 0
#define LOOKED 1 /* get: the slot has been read, the pin does not stand yet */
#define ASKED 2  /* the MSHR exists from here on */
#define ANSWERED 3

/* The ring: records from the oldest that the home has not seen acknowledged, four bits each. A
 * record names the old version; a node cannot tell an eviction's from a put's. */
typedef Node {
  unsigned status : 2;
  unsigned cache : 3; /* the cached version, 0 = none */
  unsigned get : 3;   /* one get at a time; those that might follow it are dealt with in Fresh */
  unsigned get_version : 3;
  unsigned get_overtaken : 3; /* by which version, 0 = not */
  unsigned get_at : 3;        /* at which record, from 1; 0 = by our own put alone */
  unsigned put : 3;
  unsigned put_version : 3;
  unsigned put_overtaken : 3;
  unsigned pin : 3;  /* a version that a function keeps */
  unsigned held : 1; /* it is listed in the hold table */
  unsigned queued : 3;
  unsigned applied : 3;
  unsigned published : 3; /* the acknowledgement word */
  unsigned drop_all : 3;  /* records up to here were replaced by the mark */
  unsigned ring : 16
}
Node node[N];

#define PUT_RECORD(old) ((old) << 1)
#define EVICT_RECORD(old) (((old) << 1) | 1)
#define OLD(r) ((r) >> 1)
#define IS_EVICTION(r) ((r) & 1)
#define RECORD(n, index) ((node[n].ring >> ((index) << 2)) & 15)
/* An eviction's record is above the version that it evicts: what is being filled must go, too.
 * rule: EVICTION_RECORD_ABOVE daemon/home_verbs.cc:EvictSome */
#if defined(BUG_EVICTION_RECORD_ABOVE)
#define NEW(r) (((r) >> 1) + 1 - ((r) & 1))
#else
#define NEW(r) (((r) >> 1) + 1)
#endif

/* --- what has happened --- */

byte puts;        /* asked for */
#if MODE == LAZY && !defined(READS_COUNT)
byte known = 1; /* the newest version whose put has returned */
#else
byte known = 1; /* the newest version that any put or get has returned */
#endif
byte crashes;
byte fences;
byte evictions;
byte frozen;      /* LIVE: nodes that have stopped for ever */

#if defined(BUG_INVALIDATE_BEFORE_COMMIT)
byte unissued; /* whose invalidations are missing */
#endif
#if defined(BUG_COMMIT_BEFORE_ANSWER)
byte uncommitted; /* 1 + the writer who believes so */
#endif

/* Only inside of d_steps: no part of the state. */
hidden byte i;
hidden int k;
hidden byte r;
hidden byte v;
hidden byte others;
hidden byte holders;
hidden byte before;
hidden byte at;

#define GOES(n) ((frozen & SET(n)) == 0)
#define RUNS(n) (node[n].status == UP && GOES(n))
#define UNDER_WAY(n) (node[n].get == IDLE -> 0 : 1)
#define GETS_UNDER_WAY (UNDER_WAY(0) + UNDER_WAY(1) + UNDER_WAY(2))
#if defined(LIVE)
#define GETS_LEFT (gets < GETS)
#else
#define GETS_LEFT (GETS_UNDER_WAY < GETS)
#endif
#define KEEPS(n) (node[n].pin == 0 -> 0 : 1)
#define PINS_KEPT (KEEPS(0) + KEEPS(1) + KEEPS(2))
#define MAY_KEEP(n) (node[n].pin == 0 && PINS_KEPT < PINS)

#define IS_FREE(x) ((freed & (1 << (x))) != 0)
/* Rounds in which node n has not acknowledged: as the home's books say. */
#define IN_ROUND(n, x) \
  (((waiting[x] | writer_waiting[x]) & SET(n)) != 0 || (evicted == x && (evict_waiting & SET(n))))

/* An overtaken answer that must not be read: the acknowledgement has not waited for it.
 * rule: SYNC_OVERTAKEN_ASKS_AGAIN libapta/compute/cache.cc:EndGet */
#if MODE == SYNC && !defined(BUG_SYNC_OVERTAKEN_ASKS_AGAIN)
#define ASKS_AGAIN(n) (node[n].get_version < node[n].get_overtaken)
#else
#define ASKS_AGAIN(n) false
#endif

/* An eviction's round counts until it is over: nodes may read the version until then, and they are
 * asked again when it is superseded, as long as they are sharers. */
#define EVICTION_ROUND (evict_waiting | evict_holding | evict_quarantined)

/* ------------------------------------------------------------------------------------------- */
/* What must always hold. */

inline Check() {
  i = 0;
  do
  :: i < N ->
    if
    :: node[i].status == UP ->
      /* The directory is inclusive. */
      assert(node[i].cache == 0 || (node[i].cache == cur && (sharers & SET(i)) != 0) ||
             IN_ROUND(i, node[i].cache));
    :: else
    fi;
    if
    :: node[i].status == UP || node[i].status == FENCED ->
      /* No extent is reused while somebody can read it: cached, pinned, or in a fill. */
      assert(node[i].cache == 0 || !IS_FREE(node[i].cache));
      assert(node[i].pin == 0 || !IS_FREE(node[i].pin));
      assert(node[i].get != ANSWERED || ASKS_AGAIN(i) || !IS_FREE(node[i].get_version));
      assert(node[i].put != ANSWERED || node[i].put_version < node[i].put_overtaken ||
             !IS_FREE(node[i].put_version));
    :: else
    fi;
    if
    :: node[i].status == GONE ->
      /* A dead node owes nothing. */
      v = 1;
      do
      :: v <= VERSIONS ->
        assert(((waiting[v] | writer_waiting[v] | holding[v] | quarantined[v]) & SET(i)) == 0);
        v++
      :: else -> break
      od;
      assert(((evict_waiting | evict_holding | evict_quarantined) & SET(i)) == 0)
    :: else
    fi;
    i++
  :: else -> break
  od;
  /* The directory's state says what is outstanding. */
  k = (EVICTION_ROUND != 0 -> 1 : 0);
  v = 1;
  do
  :: v <= VERSIONS -> k = k + (waiting[v] != 0 -> 1 : 0); v++
  :: else -> break
  od;
  assert(rounds == k);
  assert(dir != DIR_I || (sharers == 0 && k == 0));
  assert(dir != DIR_S || (sharers != 0 && k == 0));
  assert(dir != DIR_SA || k != 0);
  assert(dir != DIR_SI || (EVICTION_ROUND != 0 && k == 1));
  assert(!IS_FREE(cur));
  /* Whoever asks the home gets what anybody is known to have got, or newer. */
  assert(cur >= known)
}

/* Nodes are alike: of states that differ only in which node is which, one is enough. Sorts the
 * nodes, roughly; any order is right, a better one leaves fewer states. */
#if defined(LIVE)
#define SORTED 0
#else
#define SORTED 1
#endif
#define KEY(n) \
  (node[n].status | node[n].cache << 2 | node[n].get << 5 | node[n].get_version << 8 | \
   node[n].put << 11 | node[n].put_version << 14 | node[n].pin << 17 | node[n].queued << 20 | \
   node[n].applied << 23 | ((sharers >> (n)) & 1) << 26 | node[n].held << 27 | \
   node[n].get_overtaken << 28)
#define SWAP(x, y) k = x; x = y; y = k
#define SWAP_BITS(set, n) \
  set = (set & ~(3 << n)) | (((set >> n) & 1) << (n + 1)) | ((set >> (n + 1)) & 1) << n
inline SwapWithNext(n) {
  SWAP(node[n].status, node[n + 1].status);
  SWAP(node[n].cache, node[n + 1].cache);
  SWAP(node[n].get, node[n + 1].get);
  SWAP(node[n].get_version, node[n + 1].get_version);
  SWAP(node[n].get_overtaken, node[n + 1].get_overtaken);
  SWAP(node[n].get_at, node[n + 1].get_at);
  SWAP(node[n].put, node[n + 1].put);
  SWAP(node[n].put_version, node[n + 1].put_version);
  SWAP(node[n].put_overtaken, node[n + 1].put_overtaken);
  SWAP(node[n].pin, node[n + 1].pin);
  SWAP(node[n].held, node[n + 1].held);
  SWAP(node[n].queued, node[n + 1].queued);
  SWAP(node[n].applied, node[n + 1].applied);
  SWAP(node[n].published, node[n + 1].published);
  SWAP(node[n].drop_all, node[n + 1].drop_all);
  SWAP(node[n].ring, node[n + 1].ring);
  SWAP_BITS(sharers, n);
  SWAP_BITS(present, n);
  SWAP_BITS(answering, n);
  SWAP_BITS(evict_waiting, n);
  SWAP_BITS(evict_holding, n);
  SWAP_BITS(evict_quarantined, n);
  v = 1;
  do
  :: v <= VERSIONS ->
    SWAP_BITS(waiting[v], n);
    SWAP_BITS(writer_waiting[v], n);
    SWAP_BITS(holding[v], n);
    SWAP_BITS(quarantined[v], n);
    v++
  :: else -> break
  od;
#if MODE == SYNC
  if
  :: pending == n + 1 -> pending = n + 2
  :: pending == n + 2 -> pending = n + 1
  :: else
  fi
#elif defined(BUG_INVALIDATE_BEFORE_COMMIT)
  SWAP_BITS(unissued, n)
#elif defined(BUG_COMMIT_BEFORE_ANSWER)
  if
  :: uncommitted == n + 1 -> uncommitted = n + 2
  :: uncommitted == n + 2 -> uncommitted = n + 1
  :: else
  fi
#endif
}

inline End() {
  Check();
#if SORTED
  i = 0;
  do
  :: i < N ->
    at = i & 1; /* 0, 1, 0: that sorts three */
    if
    :: KEY(at) < KEY((at + 1)) -> SwapWithNext(at)
    :: else
    fi;
    i++
  :: else -> break
  od;
#endif
  i = 0; k = 0; r = 0; v = 0; others = 0; holders = 0; before = 0; at = 0
}

/* Nothing is cached in sync while a put of this node's is under way, and no fill is followed: others
 * may know its version before our reply has been processed, and nobody looks.
 * rule: SYNC_OWN_PUT_BLOCKS libapta/compute/cache.cc:MayInsert
 * rule: SYNC_OWN_PUT_NOT_FOLLOWED libapta/compute/cache.cc:BeginFill */
#define PUT_BLOCKS(n) (MODE == SYNC && node[n].put != IDLE)
#if defined(BUG_SYNC_OWN_PUT_BLOCKS)
#define MAY_INSERT(n) true
#else
#define MAY_INSERT(n) !PUT_BLOCKS(n)
#endif
#if defined(BUG_SYNC_OWN_PUT_NOT_FOLLOWED)
#define MAY_FOLLOW(n) true
#else
#define MAY_FOLLOW(n) !PUT_BLOCKS(n)
#endif
/* rule: FOLLOW_NOT_OVERTAKEN libapta/compute/cache.cc:BeginFill */
#if defined(BUG_FOLLOW_NOT_OVERTAKEN)
#define IS_FOLLOWED(n) true
#else
#define IS_FOLLOWED(n) (node[n].get_overtaken == 0 && MAY_FOLLOW(n))
#endif

/* Nothing that a get on node n may return without asking the home is older than `version`, now or
 * later: not the entry, no fill that it may follow, and none that may become the entry. What it asks
 * the home for itself, the home serves later. */
#define GET_ENTERS(n) (node[n].get_version >= node[n].get_overtaken && MAY_INSERT(n))
#define PUT_ENTERS(n) (node[n].put_version >= node[n].put_overtaken)
inline Fresh(n, version) {
  assert(node[n].cache == 0 || node[n].cache >= version);
  assert(node[n].get != ANSWERED || !(IS_FOLLOWED(n) || GET_ENTERS(n)) ||
         node[n].get_version >= version);
  assert(node[n].put != ANSWERED || !PUT_ENTERS(n) || node[n].put_version >= version)
}

/* ------------------------------------------------------------------------------------------- */
/* OTC and OIC. */

/* rule: ACK_COMPLETE daemon/otc.cc:AckComplete */
inline AckComplete() {
  rounds--;
  if
  :: dir == DIR_SI && rounds == 0 -> dir = DIR_I; sharers = 0
  :: dir == DIR_SA && rounds == 0 ->
    if
    :: sharers != 0 -> dir = DIR_S
    :: else -> dir = DIR_I
    fi
  :: else
  fi
}

/* Ends rounds: frees the extents of superseded versions that nobody can read.
 * rule: RELEASE_AFTER_ACK daemon/oic.cc:AdvanceRound */
#if defined(BUG_RELEASE_AFTER_ACK)
#define ROUND_OVER(x) true
#else
#define ROUND_OVER(x) ((waiting[x] | writer_waiting[x] | holding[x] | quarantined[x]) == 0)
#endif
inline AdvanceRounds() {
  v = 1;
  do
  :: v < cur ->
    if
    :: ROUND_OVER(v) -> freed = freed | (1 << v)
    :: else
    fi;
    v++
  :: else -> break
  od;
  if
  :: evicted != 0 && EVICTION_ROUND == 0 -> evicted = 0; AckComplete()
  :: else
  fi
}

/* rule: OVERFLOW_MARK daemon/oic.cc:IssueTo
 * Never blocks: a full ring becomes a mark, and until it is acknowledged nothing but marks. */
inline Issue(n, rec) {
  /* Behind a mark, this is not in the ring but in the home's books. */
  node[n].ring = node[n].ring | ((rec) << (node[n].queued << 2));
  if
  :: node[n].queued < RING && node[n].drop_all == 0 -> node[n].queued = node[n].queued + 1
  :: else ->
    node[n].queued = node[n].queued + 1;
    node[n].drop_all = node[n].queued
  fi
}

/* A dead node's records matter only as long as its last acknowledgement has not been seen. */
#if defined(FINE)
#define READS_RING(n) true
#else
#define READS_RING(n) (node[n].status != DEAD)
#endif
inline IssueAll(set, rec) {
  i = 0;
  do
  :: i < N ->
    if
    :: (set & SET(i)) != 0 && READS_RING(i) -> Issue(i, rec)
    :: else
    fi;
    i++
  :: else -> break
  od
}

/* The round of a put that supersedes `cur`: sharers may hold it, but not those that are gone. The
 * fenced are not asked, but may read it until they are gone, too.
 * rule: PUT_REPLACES_SHARERS daemon/otc.cc:Replace */
inline IssueRound(n) {
#if defined(BUG_GONE_NOT_ASKED)
  holders = sharers;
#else
  holders = sharers & present; /* rule: GONE_NOT_ASKED daemon/home_verbs.cc:Supersede */
#endif
  sharers = SET(n);
  quarantined[cur] = holders & ~answering & present;
  holders = holders & ~quarantined[cur];
#if defined(BUG_WRITER_GETS_RECORD)
  holders = holders & ~SET(n);
#endif
  /* The writer's own record tells when it has let go of the old extent; nobody waits for it.
   * rule: WRITER_GETS_RECORD daemon/oic.cc:IssueRound */
  waiting[cur] = holders & ~SET(n);
  writer_waiting[cur] = holders & SET(n);
  if
  :: waiting[cur] != 0 -> rounds++
  :: else
  fi;
  /* Also from SI: a put is not stalled there. */
  dir = (rounds != 0 -> DIR_SA : DIR_S);
#if defined(BUG_INVALIDATE_BEFORE_COMMIT)
  unissued = holders /* after the commit, in a step of its own */
#else
  IssueAll(holders, PUT_RECORD(cur))
#endif
}

inline AnswerPut(n, version) {
  if
  :: node[n].status == UP -> node[n].put = ANSWERED; node[n].put_version = version
  :: else -> node[n].put = IDLE
  fi
}

/* Invalidations, commit and answer are one step of the home, whatever is outstanding.
 * rule: PUT_NEVER_WAITS daemon/home_verbs.cc:Supersede
 * rule: INVALIDATE_BEFORE_COMMIT daemon/home_verbs.cc:Supersede
 * rule: COMMIT_BEFORE_ANSWER daemon/home_verbs.cc:Finish */
inline ServePut(n) {
  IssueRound(n);
#if defined(BUG_COMMIT_BEFORE_ANSWER)
  uncommitted = n + 1;
  AnswerPut(n, cur + 1)
#else
  cur++;
  AdvanceRounds();
  AnswerPut(n, cur)
#endif
}

/* rule: GET_NEVER_WAITS daemon/otc.cc:Get
 * Also in SA and SI. */
inline ServeGet(n) {
  if
  :: node[n].status == UP -> node[n].get = ANSWERED; node[n].get_version = cur
  :: else -> node[n].get = IDLE /* nobody waits for it any more */
  fi;
  sharers = sharers | SET(n);
  if
  :: dir == DIR_I -> dir = DIR_S
  :: dir == DIR_SI -> dir = DIR_SA
  :: else
  fi
}

/* The directory needs the entry, which is in S, for another object. Its sharers stay sharers until
 * the round is over, also when a get or a put makes the state SA: they may read the version.
 * rule: EVICTION_INVALIDATES daemon/home_verbs.cc:EvictSome
 * rule: EVICTION_KEEPS_SHARERS daemon/otc.cc:Evict */
inline Evict() {
  holders = sharers & present;
#if defined(BUG_EVICTION_INVALIDATES)
  holders = 0;
#endif
  if
  :: holders != 0 ->
    evicted = cur;
    evict_waiting = holders & answering;
    evict_quarantined = holders & ~answering;
    rounds++;
    dir = DIR_SI;
#if defined(BUG_EVICTION_KEEPS_SHARERS)
    sharers = 0;
#endif
    IssueAll(evict_waiting, EVICT_RECORD(cur))
  :: else ->
    sharers = 0;
    dir = DIR_I
  fi
}

/* Node n has said something about version x: it holds it, or not. */
#if defined(BUG_RELEASE_AFTER_HOLD)
#define HOLDS(n, x) false
#else
#define HOLDS(n, x) (node[n].held && node[n].pin == x)
#endif

inline LeaveRound(n, x) {
  before = waiting[x];
  waiting[x] = waiting[x] & ~SET(n);
  writer_waiting[x] = writer_waiting[x] & ~SET(n);
  if
  :: before != 0 && waiting[x] == 0 -> AckComplete()
  :: else
  fi
}

inline LeaveEviction(n) {
  evict_waiting = evict_waiting & ~SET(n)
}

/* All records up to the published one.
 * rule: POLL_ACKNOWLEDGED daemon/oic.cc:Acknowledge
 * Whoever has acknowledged, but lists the extent in its hold table, still keeps it.
 * rule: RELEASE_AFTER_HOLD daemon/oic.cc:AcknowledgeRound */
inline PollAcknowledged(n) {
  k = node[n].published;
  i = 0;
  do
  :: i < k ->
    r = RECORD(n, i);
    v = OLD(r);
    if
    :: IS_EVICTION(r) ->
      LeaveEviction(n);
      if
      :: HOLDS(n, v) -> evict_holding = evict_holding | SET(n)
      :: else
      fi
    :: else ->
      LeaveRound(n, v);
      if
      :: HOLDS(n, v) -> holding[v] = holding[v] | SET(n)
      :: else
      fi
    fi;
    i++
  :: else -> break
  od;
  node[n].ring = node[n].ring >> (k << 2);
  node[n].queued = node[n].queued - k;
  node[n].applied = node[n].applied - k;
  node[n].published = 0;
  node[n].get_at = (node[n].get_at > k -> node[n].get_at - k : 0);
  node[n].drop_all = (node[n].drop_all > k -> node[n].drop_all - k : 0);
  AdvanceRounds()
}

/* rule: HOLD_POLLED daemon/oic.cc:PollHeld */
#define HOLDING_FOR_NOTHING(n) \
  (!node[n].held && node[n].status == UP && ((evict_holding | HOLDING_ANY) & SET(n)) != 0)
#define HOLDING_ANY (holding[1] | holding[2] | holding[3])
inline PollHolds(n) {
  v = 1;
  do
  :: v <= VERSIONS -> holding[v] = holding[v] & ~SET(n); v++
  :: else -> break
  od;
  evict_holding = evict_holding & ~SET(n);
  AdvanceRounds()
}

inline ForgetRing(n) {
  node[n].ring = 0;
  node[n].queued = 0; node[n].applied = 0; node[n].published = 0; node[n].drop_all = 0
}

inline LeaveAllRounds(n) {
  k = 1;
  do
  :: k <= VERSIONS ->
    LeaveRound(n, k);
    holding[k] = holding[k] & ~SET(n);
    quarantined[k] = quarantined[k] & ~SET(n);
    k++
  :: else -> break
  od;
  LeaveEviction(n);
  evict_holding = evict_holding & ~SET(n);
  evict_quarantined = evict_quarantined & ~SET(n)
}

inline ForgetWhatItDid(n) {
  node[n].cache = 0; node[n].pin = 0; node[n].held = 0;
  node[n].get = IDLE; node[n].get_version = 0; node[n].get_overtaken = 0; node[n].get_at = 0;
  node[n].put = IDLE; node[n].put_version = 0; node[n].put_overtaken = 0
}

/* rule: DEAD_LEAVES_SHARERS daemon/otc.cc:ForgetNode
 * Later than it leaves the rounds, entry by entry. */
inline LeaveSharers(n) {
  sharers = sharers & ~SET(n);
  if
  :: dir == DIR_S && sharers == 0 -> dir = DIR_I
  :: else
  fi
}

/* The home has seen the node's pidfd. rule: DEAD_OWES_NOTHING daemon/oic.cc:ForgetNode */
inline Forget(n) {
  node[n].status = GONE;
  present = present & ~SET(n);
  answering = answering & ~SET(n);
#if !defined(BUG_DEAD_OWES_NOTHING)
  LeaveAllRounds(n);
#endif
  ForgetRing(n);
  ForgetWhatItDid(n);
  AdvanceRounds()
}

#if FENCES > 0
/* It owes nothing any more, and its requests are not served; but it may be stopped in the middle of
 * anything, so that what it could read stays until it is gone.
 * rule: FENCED_STAYS_QUARANTINED daemon/oic.cc:FenceNode
 * It learns of it from the next look at the invalidation word, or from a reply that does not come.
 * rule: FENCED_WORD libapta/compute/cache.cc:ApplyIssued
 * In lazy and sync, which do not look, it may hit what is old until then. */
inline Fence(n) {
  node[n].status = FENCED;
  fences++;
  answering = answering & ~SET(n);
  k = 1;
  do
  :: k <= VERSIONS ->
    holders = (waiting[k] | writer_waiting[k] | holding[k]) & SET(n);
    LeaveRound(n, k);
    holding[k] = holding[k] & ~SET(n);
#if !defined(BUG_FENCED_STAYS_QUARANTINED)
    quarantined[k] = quarantined[k] | holders;
#endif
    k++
  :: else -> break
  od;
  holders = (evict_waiting | evict_holding) & SET(n);
  LeaveEviction(n);
  evict_holding = evict_holding & ~SET(n);
#if !defined(BUG_FENCED_STAYS_QUARANTINED)
  evict_quarantined = evict_quarantined | holders;
#endif
  ForgetRing(n);
  AdvanceRounds()
}
#endif

/* Those for whom the scheduler waits. A writer's own records count: until it has processed the reply
 * it may hit what its put superseded, while others already superseded the put.
 * rule: OWES daemon/oic.h:Owes */
#define WAITED_FOR (evict_waiting | waiting[1] | waiting[2] | waiting[3])
#define WRITERS_WAITED_FOR (writer_waiting[1] | writer_waiting[2] | writer_waiting[3])
#if !defined(BUG_OWES)
#define OWES(n) (((WAITED_FOR | WRITERS_WAITED_FOR) & SET(n)) != 0)
#else
#define OWES(n) ((WAITED_FOR & SET(n)) != 0)
#endif

/* ------------------------------------------------------------------------------------------- */
/* The node: GETC, PUTC and the agent. */

/* Publishes what is applied, but nothing that has overtaken a get which is not resolved. Puts read
 * nothing. Nor do gets wait in sync, where the home may have parked them behind a put that waits
 * for this very node: there, an overtaken get asks again.
 * rule: SYNC_ACKS_AT_ONCE libapta/compute/cache.cc:Acknowledge
 * rule: FILL_DELAYS_ACK libapta/compute/cache.cc:Acknowledge */
#if defined(BUG_FILL_DELAYS_ACK)
#define DELAYS_ACK(n) false
#elif MODE == SYNC && !defined(BUG_SYNC_ACKS_AT_ONCE)
#define DELAYS_ACK(n) false
#else
#define DELAYS_ACK(n) (node[n].get_at != 0 && node[n].get_at <= node[n].applied)
#endif
inline Acknowledge(n) {
  k = node[n].applied;
  if
  :: DELAYS_ACK(n) -> k = node[n].get_at - 1
  :: else
  fi;
  node[n].published = k;
#if !defined(FINE)
  if
  :: k != 0 && node[n].status == UP -> PollAcknowledged(n)
  :: else
  fi
#endif
}

/* `version` has met the node's fills; it is that of record k, or of its own put (0). */
inline Overtake(n, version) {
  if
  :: node[n].get == ASKED || node[n].get == ANSWERED ->
    if
    :: node[n].get_at == 0 -> node[n].get_at = k
    :: else
    fi;
    node[n].get_overtaken = (node[n].get_overtaken > version -> node[n].get_overtaken : version)
  :: else
  fi;
  if
  :: k != 0 && (node[n].put == ASKED || node[n].put == ANSWERED) ->
    node[n].put_overtaken = (node[n].put_overtaken > version -> node[n].put_overtaken : version)
  :: else
  fi
}

/* rule: HOLD_BEFORE_ACK libapta/compute/cache.cc:Hold */
inline HoldIf(n, condition) {
#if !defined(BUG_HOLD_BEFORE_ACK)
  if
  :: node[n].pin != 0 && (condition) -> node[n].held = 1
  :: else
  fi
#else
  skip
#endif
}

/* rule: DROP_ALL_ON_OVERFLOW libapta/compute/cache.cc:DropAll
 * The mark: everything goes, and every fill counts as overtaken. */
inline DropAll(n) {
#if !defined(BUG_DROP_ALL_ON_OVERFLOW)
  node[n].cache = 0;
  k = node[n].applied + 1;
  Overtake(n, BEYOND);
  HoldIf(n, true);
#endif
  node[n].applied = node[n].drop_all
}

/* rule: APPLY_RECORD libapta/compute/cache.cc:ApplyOne
 * A newer version stays: our own put, or a later get. */
inline ApplyOne(n) {
  r = RECORD(n, node[n].applied);
  node[n].applied = node[n].applied + 1;
  if
  :: node[n].cache < NEW(r) -> node[n].cache = 0
  :: else
  fi;
  k = node[n].applied;
  Overtake(n, NEW(r));
  HoldIf(n, node[n].pin == OLD(r))
}

inline Apply(n) {
  if
  :: node[n].drop_all > node[n].applied -> DropAll(n)
  :: else
  fi;
  do
  :: node[n].applied < node[n].queued -> ApplyOne(n)
  :: else -> break
  od;
  Acknowledge(n)
}

/* rule: NEVER_BACK libapta/compute/cache.cc:Insert */
inline Insert(n, version) {
  if
  :: node[n].cache < version -> node[n].cache = version
  :: else
  fi
}

/* A get returns a version; the function keeps it, or is done with it at once. */
inline Return(n, version, keep) {
  assert(node[n].status == FENCED || !IS_FREE(version));
  if
#if MODE != LAZY || defined(READS_COUNT)
  :: node[n].status == UP && version > known -> known = version
#endif
  :: else
  fi;
  if
  :: keep -> node[n].pin = version
  :: else
  fi
}

/* rule: FILL_RESOLVES libapta/compute/cache.cc:Resolve */
inline ResolveGet(n) {
  node[n].get = IDLE; node[n].get_version = 0; node[n].get_overtaken = 0; node[n].get_at = 0;
  Acknowledge(n)
}

/* rule: OVERTAKEN_FILL_NOT_CACHED libapta/compute/cache.cc:EndGet */
#if defined(BUG_OVERTAKEN_FILL_NOT_CACHED)
#define MAY_CACHE(n) MAY_INSERT(n)
#else
#define MAY_CACHE(n) GET_ENTERS(n)
#endif
inline EndGet(n, keep) {
  Return(n, node[n].get_version, keep);
  if
  :: MAY_CACHE(n) -> Insert(n, node[n].get_version)
  :: else -> HoldIf(n, node[n].pin == node[n].get_version &&
                       node[n].get_version < node[n].get_overtaken)
  fi;
  ResolveGet(n)
}

/* rule: SYNC_OWN_PUT_DROPS libapta/compute/cache.cc:NotePut */
inline BeginPut(n) {
  node[n].put = ASKED;
#if MODE == SYNC && !defined(BUG_SYNC_OWN_PUT_DROPS)
  node[n].cache = 0;
#endif
  puts++
}

/* The put's fill replaces our own entry and overtakes older fills before the put returns: the
 * record of our own put may come much later, and the scheduler does not wait for it.
 * rule: OWN_PUT_REPLACES libapta/compute/cache.cc:EndPut
 * The code looks at the ring as well then; nothing depends on it. */
inline EndPut(n) {
#if !defined(BUG_OWN_PUT_REPLACES)
  if
  :: node[n].cache < node[n].put_version -> node[n].cache = 0
  :: else
  fi;
  k = 0;
  Overtake(n, node[n].put_version);
#endif
  r = node[n].put_version;
  node[n].put = IDLE; node[n].put_version = 0;
  if
  :: r >= node[n].put_overtaken && MAY_INSERT(n) -> Insert(n, r)
  :: else
  fi;
  node[n].put_overtaken = 0;
  known = (r > known -> r : known)
}

/* A get begins. rule: STRICT_LOOK libapta/compute/getc.h:Find
 * The look and the reading of the slot are one step here: what becomes the entry in between comes
 * from a fill, and Fresh looks at fills, too. */
inline BeginGet(n) {
#if MODE == STRICT
#if !defined(BUG_STRICT_LOOK)
  Apply(n);
#endif
  Fresh(n, known);
#elif MODE == SYNC
  Fresh(n, known);
#endif
  if
  :: node[n].get == IDLE && node[n].cache != 0 ->
    node[n].get = LOOKED;
    node[n].get_version = node[n].cache
  :: node[n].get == IDLE && node[n].cache == 0 -> node[n].get = ASKED
  :: else /* another thread of the node: it follows, or asks for itself */
  fi
}

/* In LIVE, the thread of node 0 that puts never stops. */
#define WRITES(n) (node[n].status == UP && (GOES(n) || n == 0))

#if defined(LIVE)
#define LIVING true
byte gets; /* begun: finite runs, so that each ends where nothing goes on */
#ifndef FREEZE
#define FREEZE ALL /* who may; of node 0 the agent and the readers, but not the writer */
#endif
#else
#define LIVING false
#endif

#if defined(BUG_FENCED_WORD)
#define MAY_BEGIN(n) (RUNS(n) || node[n].status == FENCED)
#else
#define MAY_BEGIN(n) RUNS(n)
#endif

proctype NodeSteps(byte n) {
end:
  do
  /* The agent. */
#if defined(FINE)
  :: d_step { RUNS(n) && node[n].applied < node[n].queued ->
      if
      :: node[n].drop_all > node[n].applied -> DropAll(n)
      :: else -> ApplyOne(n) /* an emulated link lets them through one by one */
      fi;
      Acknowledge(n);
      End() }
#else
  :: d_step { RUNS(n) && node[n].applied < node[n].queued -> Apply(n); End() }
#endif
  :: d_step { MAY_BEGIN(n) && node[n].get == IDLE && GETS_LEFT ->
#if defined(LIVE)
      gets++;
#endif
      BeginGet(n);
      End() }
#if MODE != LAZY && !defined(LIVE)
  :: d_step { RUNS(n) && node[n].get != IDLE -> BeginGet(n); End() }
#endif
  /* The pin, then a second look at the slot. rule: PIN_THEN_LOOK libapta/compute/cache.cc:Lookup */
#if defined(BUG_PIN_THEN_LOOK)
#define STILL_THERE(n) true
#else
#define STILL_THERE(n) (node[n].cache == node[n].get_version)
#endif
  :: d_step { (RUNS(n) || node[n].status == FENCED) && node[n].get == LOOKED && STILL_THERE(n) ->
      Return(n, node[n].get_version, false);
      node[n].get = IDLE; node[n].get_version = 0;
      End() }
  :: d_step { RUNS(n) && node[n].get == LOOKED && STILL_THERE(n) && MAY_KEEP(n) ->
      Return(n, node[n].get_version, true);
      node[n].get = IDLE; node[n].get_version = 0;
      End() }
  :: d_step { RUNS(n) && node[n].get == LOOKED && !STILL_THERE(n) ->
      node[n].get = ASKED; node[n].get_version = 0;
      End() }
  :: d_step { RUNS(n) && node[n].get == ANSWERED && !ASKS_AGAIN(n) -> EndGet(n, false); End() }
  :: d_step { RUNS(n) && node[n].get == ANSWERED && !ASKS_AGAIN(n) && MAY_KEEP(n) ->
      EndGet(n, true);
      End() }
  :: d_step { RUNS(n) && node[n].get == ANSWERED && ASKS_AGAIN(n) ->
      ResolveGet(n);
      node[n].get = ASKED;
      End() }
  /* The last pin is dropped. rule: HOLD_ENDS libapta/compute/cache.cc:ReleaseHolds */
#if defined(FINE)
  :: d_step { RUNS(n) && node[n].pin != 0 -> node[n].pin = 0; node[n].held = 0; End() }
#else
  :: d_step { RUNS(n) && node[n].pin != 0 ->
      node[n].pin = 0;
      node[n].held = 0;
      PollHolds(n);
      End() }
#endif
  /* Eviction is silent. */
  :: d_step { RUNS(n) && node[n].cache != 0 -> node[n].cache = 0; End() }
#if MODE == LAZY && !defined(LIVE)
  /* The scheduler starts an invocation: everything that its gets may return is fresh.
   * rule: SCHEDULE_ONLY_CLEAN scheduler/placement.cc:Judge */
#if defined(BUG_SCHEDULE_ONLY_CLEAN)
  :: d_step { RUNS(n) -> Fresh(n, known) }
#else
  :: d_step { RUNS(n) && !OWES(n) -> Fresh(n, known) }
#endif
#endif
  :: d_step { crashes < CRASHES && (node[n].status == UP || node[n].status == FENCED) &&
              (!LIVING || n != 0) ->
      /* What it has asked for, it has asked for; what it listed stays listed. */
      node[n].status = DEAD;
      crashes++;
      node[n].cache = 0;
      node[n].get_version = 0; node[n].get_overtaken = 0; node[n].get_at = 0;
      node[n].put_version = 0; node[n].put_overtaken = 0;
      node[n].get = (node[n].get == ASKED -> ASKED : IDLE);
      node[n].put = (node[n].put == ASKED -> ASKED : IDLE);
#if !defined(FINE)
      ForgetRing(n);
#endif
      End() }
#if FENCES > 0
  /* It notices: its pins are all that is left. */
  :: d_step { node[n].status == FENCED && GOES(n) &&
              (node[n].cache != 0 || node[n].get != IDLE || node[n].put != IDLE) ->
      v = node[n].pin;
      ForgetWhatItDid(n);
      node[n].pin = v;
      End() }
  :: d_step { node[n].status == FENCED && GOES(n) && node[n].pin != 0 -> node[n].pin = 0; End() }
#endif
#if defined(LIVE)
  :: d_step { (frozen & SET(n)) == 0 && (FREEZE & SET(n)) != 0 -> frozen = frozen | SET(n) }
#endif
  /* The thread that puts. */
  :: d_step { WRITES(n) && node[n].put == IDLE && puts < VERSIONS - 1 -> BeginPut(n); End() }
  :: d_step { WRITES(n) && node[n].put == ANSWERED -> EndPut(n); End() }
  od
}

#define SERVED(n) (node[n].status == UP || node[n].status == DEAD)
#if MODE == SYNC
#define IS_PENDING (pending != 0)
#else
#define IS_PENDING false
#endif

/* What the home does about node n. */
proctype HomeSteps(byte n) {
end:
  do
#if MODE == SYNC
  /* A put commits when all others have acknowledged; what comes for the object meanwhile, waits.
   * rule: SYNC_WAITS daemon/home_verbs.cc:Supersede */
#if defined(BUG_SYNC_WAITS)
#define MAY_COMMIT true
#else
#define MAY_COMMIT (waiting[cur] == 0)
#endif
  :: d_step { SERVED(n) && node[n].put == ASKED && pending == 0 ->
      IssueRound(n);
      pending = n + 1;
      End() }
  :: d_step { pending == n + 1 && MAY_COMMIT ->
      cur++;
      pending = 0;
      AdvanceRounds();
      AnswerPut(n, cur);
      End() }
#elif defined(BUG_INVALIDATE_BEFORE_COMMIT)
  :: d_step { SERVED(n) && node[n].put == ASKED && unissued == 0 -> ServePut(n); End() }
  :: d_step { n == 0 && unissued != 0 ->
      IssueAll(unissued, PUT_RECORD(cur - 1));
      unissued = 0;
      End() }
#elif defined(BUG_COMMIT_BEFORE_ANSWER)
  :: d_step { SERVED(n) && node[n].put == ASKED && uncommitted == 0 -> ServePut(n); End() }
  :: d_step { uncommitted == n + 1 ->
      cur++;
      uncommitted = 0;
      AdvanceRounds();
      End() }
#else
#if defined(BUG_PUT_NEVER_WAITS)
#define MAY_SERVE_PUT (rounds == 0)
#else
#define MAY_SERVE_PUT true
#endif
  :: d_step { SERVED(n) && node[n].put == ASKED && MAY_SERVE_PUT -> ServePut(n); End() }
#endif
#if defined(BUG_GET_NEVER_WAITS)
#define MAY_SERVE_GET (dir != DIR_SI)
#else
#define MAY_SERVE_GET !IS_PENDING
#endif
  :: d_step { SERVED(n) && node[n].get == ASKED && MAY_SERVE_GET -> ServeGet(n); End() }
  :: d_step { node[n].published != 0 && (present & SET(n)) != 0 -> PollAcknowledged(n); End() }
  :: d_step { HOLDING_FOR_NOTHING(n) -> PollHolds(n); End() }
  :: d_step { node[n].status == DEAD -> Forget(n); End() }
  :: d_step { node[n].status == GONE && (sharers & SET(n)) != 0 -> LeaveSharers(n); End() }
  /* One of the three does it for all. */
  :: d_step { n == 0 && dir == DIR_S && evictions < EVICTIONS && evicted == 0 && !IS_PENDING ->
      evictions++;
      Evict();
      End() }
#if FENCES > 0
  :: d_step { node[n].status == UP && (!LIVING || n != 0) && fences < FENCES && OWES(n) ->
      Fence(n);
      End() }
#endif
  od
}

init {
  atomic {
    run NodeSteps(0); run NodeSteps(1); run NodeSteps(2);
    run HomeSteps(0); run HomeSteps(1); run HomeSteps(2)
  }
}

#if defined(LIVE)
/* A put is answered and returns, and a get is answered, although every other node may stop for
 * ever or die, and the writer's own agent may stop, too: only the home and the writing thread go
 * on. Runs are finite here, so that the end of a run without an answer is a counterexample, and
 * nothing but those two need be fair. */
ltl answered {
  [] (node[0].put != IDLE -> <> (node[0].put == IDLE)) &&
  [] (node[0].get == ASKED -> <> (node[0].get != ASKED))
}
#endif
