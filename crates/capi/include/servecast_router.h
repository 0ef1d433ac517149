/*
 * The KV-aware router of servecast. docs/c.md is the guide.
 *
 * A pointer is null or points to what its type says, for the whole call; an array to as many elements as its length
 * says; a text is UTF-8 and ends with a zero byte. Null where something is needed, misaligned pointers, lengths of more
 * than 2^32 - 1 and numbers without a meaning are refused. Nothing that is passed is kept.
 */

#ifndef SERVECAST_ROUTER_H
#define SERVECAST_ROUTER_H

/* Made by cbindgen of crates/capi/src: UPDATE_HEADER=1 cargo test -p servecast-capi --lib header */

#include <stddef.h>
#include <stdint.h>

// For every `now_ns`: nanoseconds of a monotonic clock since the router was created. Other values are nanoseconds
// since any fixed moment, of the caller's choice; a router is given either the one or the other.
#define SERVECAST_NOW UINT64_MAX

// For the flags of a request: its engine drafts with EAGLE, so its blocks look one token ahead.
#define SERVECAST_REQUEST_EAGLE 1

// A router. Every function may be called from any thread at any time, but for servecast_router_destroy(), which has to
// be the last.
typedef struct servecast_router servecast_router;

// What a call returns: negative for an error, of which servecast_last_error() has the message.
typedef int32_t servecast_status;

// What a worker does.
typedef uint32_t servecast_role;

// What a router has to know about a worker.
typedef struct servecast_worker_info {
    // SERVECAST_ROLE_DECODE or SERVECAST_ROLE_PREFILL.
    servecast_role role;
    // The first of its data-parallel ranks.
    uint32_t dp_rank_start;
    // How many it has, from 1 to 4096; 0 counts as 1.
    uint32_t dp_size;
    // Tokens that its engine computes in an iteration at most, the unit of router_queue_threshold; 0 if unknown, and
    // then it is never busy in practice.
    uint32_t max_num_batched_tokens;
} servecast_worker_info;

// A data-parallel rank of a worker.
typedef struct servecast_worker_rank {
    // The worker.
    uint64_t worker_id;
    // Its rank; 0 without data parallelism.
    uint32_t dp_rank;
} servecast_worker_rank;

// Blocks that a worker has stored, by their tokens or by the hashes of their contents.
typedef struct servecast_stored_blocks {
    // The worker's name of the block before the first one; null at the start of a sequence.
    const uint64_t *parent;
    // Token ids; a partial block at their end is left out.
    const uint32_t *tokens;
    // How many.
    size_t num_tokens;
    // Instead of tokens: hashes of the contents of the blocks.
    const uint64_t *tokens_hashes;
    // How many.
    size_t num_tokens_hashes;
    // The worker's names of the blocks, by which it will remove them, one for each block; null if they are the chained
    // hashes of the contents.
    const uint64_t *block_hashes;
    // How many.
    size_t num_block_hashes;
    // Name of the LoRA adapter, for blocks by tokens; null for none.
    const char *lora_name;
    // Cache namespace, for blocks by tokens; null for the common one.
    const char *cache_namespace;
} servecast_stored_blocks;

// Which part of a request is routed.
typedef uint32_t servecast_phase;

// A request to be routed. Zero bytes are the default of every field but the id.
//
// The prompt is given by its tokens, or by the hashes of its full blocks (servecast_block_hashes()) and its length.
typedef struct servecast_request {
    // What the caller calls it: text, not empty, unique within a phase until it is freed.
    const char *id;
    // Which part of it is routed.
    servecast_phase phase;
    // 0 or SERVECAST_REQUEST_EAGLE.
    uint32_t flags;
    // Token ids of the prompt.
    const uint32_t *tokens;
    // How many.
    size_t num_tokens;
    // Instead of tokens: hashes of the contents of the prompt's full blocks.
    const uint64_t *block_hashes;
    // How many.
    size_t num_block_hashes;
    // Prompt length in tokens, where no tokens are given.
    uint32_t isl_tokens;
    // How many tokens the output is expected to have; 0 if unknown.
    uint32_t expected_output_tokens;
    // Name of the LoRA adapter, for prompts by tokens; null for none.
    const char *lora_name;
    // Cache namespace, for prompts by tokens; null for the common one.
    const char *cache_namespace;
    // Settings of this request as JSON, such as {"router_temperature": 0.5}; null for none.
    const char *overrides_json;
    // The rank that must serve it; null for any.
    const struct servecast_worker_rank *pinned;
    // The workers that may serve it; null for all.
    const uint64_t *allowed_workers;
    // How many.
    size_t num_allowed_workers;
    // Seconds by which it counts as earlier in the queue; negative ones count as 0.
    double priority_jump;
} servecast_request;

// Where a request goes, and on which terms.
typedef struct servecast_selection {
    // The worker.
    uint64_t worker_id;
    // Its data-parallel rank.
    uint32_t dp_rank;
    // The phase.
    servecast_phase phase;
    // Leading blocks of the prompt that the rank has cached, as far as the router knows.
    uint32_t overlap_blocks;
    // Blocks that the prompt needs, the partial one included.
    uint32_t required_blocks;
    // Prompt tokens that count as outstanding prefill; 0 where they are not tracked.
    uint32_t prefill_tokens;
    // Prompt blocks that count as active; 0 where they are not tracked.
    uint32_t tracked_blocks;
    // How long the request waited.
    uint64_t queue_wait_ns;
    // The overlap weight that was used.
    double overlap_score_weight;
    // The temperature that was used.
    double router_temperature;
    // 1 if the request's blocks count once with those of others, else 0.
    uint32_t assume_kv_reuse;
    // 1 if its prompt tokens count as load, else 0.
    uint32_t track_prefill_tokens;
} servecast_selection;

// The load that a rank would have with a request on it, and what that would cost.
typedef struct servecast_load {
    // The worker.
    uint64_t worker_id;
    // Its data-parallel rank.
    uint32_t dp_rank;
    // Leading blocks of the prompt that it has cached.
    uint32_t overlap_blocks;
    // Outstanding prefill tokens.
    uint64_t prefill_tokens;
    // Active blocks.
    uint64_t decode_blocks;
    // The cost; the lowest is chosen.
    double cost;
} servecast_load;

// Done.
#define SERVECAST_OK 0

// The request waits for room; servecast_router_poll() will have it.
#define SERVECAST_QUEUED 1

// There is nothing to poll.
#define SERVECAST_EMPTY 2

// A request that waited was given up, since no worker is left that could serve it.
#define SERVECAST_REFUSED 3

// A null pointer, a length that cannot be, a text that is not UTF-8, a request that contradicts itself.
#define SERVECAST_ERR_INVALID_ARGUMENT -1

// Settings that are unknown, out of range or exclude each other.
#define SERVECAST_ERR_CONFIG -2

// A worker or rank that is not registered.
#define SERVECAST_ERR_UNKNOWN_WORKER -3

// No worker can serve the request.
#define SERVECAST_ERR_NO_WORKERS -4

// A request of this id is booked or waits in this phase.
#define SERVECAST_ERR_DUPLICATE_REQUEST -5

// No request of this id is booked.
#define SERVECAST_ERR_UNKNOWN_REQUEST -6

// A KV event was not applied, or only in part. Never fatal: the index stays consistent.
#define SERVECAST_ERR_EVENT -7

// The buffer is too small; the length that is needed was written, and nothing else.
#define SERVECAST_ERR_BUFFER_TOO_SMALL -8

// A defect of the library. The router must not be used any more, but to destroy it.
#define SERVECAST_ERR_INTERNAL -9

// All of it, on one decode worker.
#define SERVECAST_PHASE_AGGREGATED 0

// The prefill of a disaggregated request, on a prefill worker.
#define SERVECAST_PHASE_PREFILL 1

// The decode of a disaggregated request, on a decode worker. Only blocks count for it, in selection and in booking:
// overlap weight 0, no reuse, no prompt tokens.
#define SERVECAST_PHASE_DECODE 2

// Every phase; for servecast_router_free_request() only.
#define SERVECAST_PHASE_ALL 3

// Serves whole requests, and decodes what was prefilled elsewhere.
#define SERVECAST_ROLE_DECODE 0

// Prefills for others.
#define SERVECAST_ROLE_PREFILL 1

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// The message of the last call on this thread that returned an error; empty if none did. It lives until the next
// error on this thread.
const char *servecast_last_error(void);

// The version of the library, such as "0.2.0".
const char *servecast_version(void);

// Creates a router without workers and writes it to `out`.
//
// `config_json` has the settings by Dynamo's names, such as {"router_temperature": 0.5}; null for the defaults.
// `block_size` is that of the engines, in tokens. `seed` is for ties and draws: equal calls give equal answers.
servecast_status servecast_router_new(const char *config_json,
                                      uint32_t block_size,
                                      uint64_t seed,
                                      struct servecast_router **out);

// As servecast_router_new(), with the settings in the environment: SERVECAST_ROUTER_TEMPERATURE and so on, or all as
// JSON in SERVECAST_ROUTER_CONFIG. Dynamo's names (DYN_ROUTER_TEMPERATURE) are accepted, ours win, and a bad value is
// an error.
servecast_status servecast_router_from_env(uint32_t block_size,
                                           uint64_t seed,
                                           struct servecast_router **out);

// Destroys a router; null is fine.
void servecast_router_destroy(struct servecast_router *router);

// Registers a worker, or changes the ranks and the limit of a registered one. Requests on ranks that it has no longer
// are forgotten.
servecast_status servecast_router_register_worker(struct servecast_router *router,
                                                  uint64_t worker_id,
                                                  const struct servecast_worker_info *info,
                                                  uint64_t now_ns);

// Forgets a worker with everything that is known about it, the requests on it included. Requests that waited and that
// no other worker can serve are refused (servecast_router_poll()).
servecast_status servecast_router_remove_worker(struct servecast_router *router,
                                                uint64_t worker_id,
                                                uint64_t now_ns);

// A rank has stored blocks.
servecast_status servecast_router_stored(struct servecast_router *router,
                                         const struct servecast_worker_rank *rank,
                                         const struct servecast_stored_blocks *blocks,
                                         uint64_t now_ns);

// A rank has removed blocks, by the names under which it stored them.
servecast_status servecast_router_removed(struct servecast_router *router,
                                          const struct servecast_worker_rank *rank,
                                          const uint64_t *block_hashes,
                                          size_t num_block_hashes,
                                          uint64_t now_ns);

// A rank has dropped its whole cache.
servecast_status servecast_router_cleared(struct servecast_router *router,
                                          const struct servecast_worker_rank *rank,
                                          uint64_t now_ns);

// Applies an event as JSON, as routers and indexers pass it on:
// {"worker_id": 1, "event": {"event_id": 0, "dp_rank": 0, "data": {"stored": {"parent_hash": null, "blocks":
// [{"block_hash": 3, "tokens_hash": 4}]}}}}, with {"removed": {"block_hashes": [3]}} or "cleared" for other events.
servecast_status servecast_router_apply_json(struct servecast_router *router,
                                             const char *event_json,
                                             uint64_t now_ns);

// Hashes the contents of the full blocks of a prompt, as engines and routers do on the wire: XXH3-64, seed 1337.
//
// Writes how many there are to `num_hashes`, and them to `hashes` if `capacity` is enough; else it returns
// SERVECAST_ERR_BUFFER_TOO_SMALL.
servecast_status servecast_block_hashes(const uint32_t *tokens,
                                        size_t num_tokens,
                                        uint32_t block_size,
                                        const char *lora_name,
                                        const char *cache_namespace,
                                        uint64_t *hashes,
                                        size_t capacity,
                                        size_t *num_hashes);

// Chooses a rank for a request, books it there in the same step and writes the choice to `out`; or, while every rank is
// busy, lets it wait: then it returns SERVECAST_QUEUED, and servecast_router_poll() has the choice later.
servecast_status servecast_router_route(struct servecast_router *router,
                                        const struct servecast_request *request,
                                        uint64_t now_ns,
                                        struct servecast_selection *out);

// Writes to `out` what servecast_router_route() would choose if nobody waited. Nothing is booked and nothing changes.
servecast_status servecast_router_select(struct servecast_router *router,
                                         const struct servecast_request *request,
                                         uint64_t now_ns,
                                         struct servecast_selection *out);

// Books a request on a rank that was chosen elsewhere or by servecast_router_select(), whether the rank is busy or not,
// under the settings with which its phase is selected. Writes the terms to `out` unless that is null.
servecast_status servecast_router_book(struct servecast_router *router,
                                       const struct servecast_request *request,
                                       const struct servecast_worker_rank *rank,
                                       uint64_t now_ns,
                                       struct servecast_selection *out);

// The prompt of a request is computed: its tokens are no load any more. For the decode phase that is no news.
servecast_status servecast_router_mark_prefill_complete(struct servecast_router *router,
                                                        const char *id,
                                                        uint64_t now_ns);

// A request has `generated` output tokens by now, which router_track_output_blocks counts as load.
servecast_status servecast_router_record_output(struct servecast_router *router,
                                                const char *id,
                                                uint32_t generated,
                                                uint64_t now_ns);

// A request is over in a phase, or in all with SERVECAST_PHASE_ALL, or is given up while it waits. May be called again,
// and for ids that are unknown.
servecast_status servecast_router_free_request(struct servecast_router *router,
                                               const char *id,
                                               servecast_phase phase,
                                               uint64_t now_ns);

// Tells what became of requests that waited, one a call, in order: SERVECAST_OK with a choice in `out`, SERVECAST_REFUSED,
// or SERVECAST_EMPTY.
//
// Writes the length of the request's id with the ending zero byte to `id_length`, and the id to `id` if `capacity` is
// enough; else it returns SERVECAST_ERR_BUFFER_TOO_SMALL and will tell the same again.
servecast_status servecast_router_poll(struct servecast_router *router,
                                       uint64_t now_ns,
                                       char *id,
                                       size_t capacity,
                                       size_t *id_length,
                                       struct servecast_selection *out);

// The load that every rank would have with a request on it, under the settings that hold for its phase, in order of
// worker and rank.
//
// Writes how many ranks there are to `num_loads`, and the loads to `loads` if `capacity` is enough; else it returns
// SERVECAST_ERR_BUFFER_TOO_SMALL.
servecast_status servecast_router_potential_loads(struct servecast_router *router,
                                                  const struct servecast_request *request,
                                                  uint64_t now_ns,
                                                  struct servecast_load *loads,
                                                  size_t capacity,
                                                  size_t *num_loads);

// Everything that the router knows, as JSON: ranks with their loads, requests that are booked and that wait, and what
// is cached as events for servecast_router_apply_json().
//
// Writes the length with the ending zero byte to `length`, and the text to `text` if `capacity` is enough; else it
// returns SERVECAST_ERR_BUFFER_TOO_SMALL. Where other threads use the router, the length may grow between two calls.
servecast_status servecast_router_dump_json(struct servecast_router *router,
                                            uint64_t now_ns,
                                            char *text,
                                            size_t capacity,
                                            size_t *length);

// Writes how many requests wait to `num_queued`.
servecast_status servecast_router_queued_requests(struct servecast_router *router,
                                                  size_t *num_queued);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* SERVECAST_ROUTER_H */
