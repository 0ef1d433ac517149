/* Workers, KV events, the queue, loads and the dump. */

#include "check.h"

/* How many blocks of the first 16 tokens a worker has cached. */
static uint32_t cached(servecast_router *router, uint64_t worker_id) {
    servecast_request probe = a_request("probe", SERVECAST_PHASE_AGGREGATED, 16);
    servecast_load loads[8];
    size_t count = 0;
    OK(servecast_router_potential_loads(router, &probe, 0, loads, 8, &count));
    for (size_t at = 0; at < count; at++) {
        if (loads[at].worker_id == worker_id) return loads[at].overlap_blocks;
    }
    return UINT32_MAX;
}

static void blocks_are_stored_by_tokens_and_by_hashes(void) {
    servecast_router *router = a_router(NULL);
    servecast_worker_rank on_a = a_rank(A), on_b = a_rank(B);
    uint64_t contents[8];
    size_t count = 0;
    OK(servecast_block_hashes(some_tokens(), 18, BLOCK, NULL, NULL, contents, 8, &count));
    CHECK(count == 4);

    /* By tokens, under chained names. */
    servecast_stored_blocks tokens = {0};
    tokens.tokens = some_tokens();
    tokens.num_tokens = 12;
    OK(servecast_router_stored(router, &on_a, &tokens, 0));
    CHECK(cached(router, A) == 3);

    /* By hashes, under the engine's names, in two events. */
    uint64_t names[] = {11, 12, 13};
    servecast_stored_blocks hashes = {0};
    hashes.tokens_hashes = contents;
    hashes.num_tokens_hashes = 2;
    hashes.block_hashes = names;
    hashes.num_block_hashes = 2;
    OK(servecast_router_stored(router, &on_b, &hashes, 0));
    servecast_stored_blocks more = {0};
    more.parent = &names[1];
    more.tokens_hashes = &contents[2];
    more.num_tokens_hashes = 1;
    more.block_hashes = &names[2];
    more.num_block_hashes = 1;
    OK(servecast_router_stored(router, &on_b, &more, 0));
    CHECK(cached(router, B) == 3);
    OK(servecast_router_removed(router, &on_b, &names[2], 1, 0));
    CHECK(cached(router, B) == 2);
    RETURNS(SERVECAST_ERR_EVENT, servecast_router_removed(router, &on_b, &names[2], 1, 0));
    OK(servecast_router_cleared(router, &on_a, 0));
    CHECK(cached(router, A) == 0 && cached(router, B) == 2);

    /* As JSON. */
    char event[256];
    snprintf(event, sizeof event,
             "{\"worker_id\": %d, \"event\": {\"event_id\": 7, \"data\": {\"stored\": {\"parent_hash\": null, "
             "\"blocks\": [{\"block_hash\": 1, \"tokens_hash\": %llu}]}}}}",
             A, (unsigned long long)contents[0]);
    OK(servecast_router_apply_json(router, event, 0));
    CHECK(cached(router, A) == 1);

    /* A request by hashes is the same as one by tokens; one with an adapter is another. */
    servecast_request request = {0};
    servecast_selection selection;
    request.id = "r";
    request.block_hashes = contents;
    request.num_block_hashes = 4;
    request.isl_tokens = 18;
    OK(servecast_router_select(router, &request, 0, &selection));
    CHECK(selection.worker_id == B && selection.overlap_blocks == 2 && selection.prefill_tokens == 10);
    CHECK(selection.required_blocks == 5);
    request = a_request("r", SERVECAST_PHASE_AGGREGATED, 18);
    request.lora_name = "adapter";
    OK(servecast_router_select(router, &request, 0, &selection));
    CHECK(selection.overlap_blocks == 0 && selection.prefill_tokens == 18);
    request.lora_name = NULL;
    request.flags = SERVECAST_REQUEST_EAGLE;
    OK(servecast_router_select(router, &request, 0, &selection));
    CHECK(selection.overlap_blocks == 0 && selection.tracked_blocks == 4);
    servecast_router_destroy(router);
}

static void requests_wait_for_room(void) {
    servecast_router *router = a_router(NULL);
    servecast_worker_rank on_a = a_rank(A), on_b = a_rank(B);
    servecast_request big_a = a_request("a", SERVECAST_PHASE_AGGREGATED, 80);
    servecast_request big_b = a_request("b", SERVECAST_PHASE_AGGREGATED, 80);
    servecast_request small = a_request("small", SERVECAST_PHASE_AGGREGATED, 8);
    servecast_request choosy = a_request("choosy", SERVECAST_PHASE_AGGREGATED, 8);
    uint64_t only_b[] = {B};
    servecast_selection selection;
    size_t length = 0, queued = 0;
    char id[16];
    choosy.allowed_workers = only_b;
    choosy.num_allowed_workers = 1;

    OK(servecast_router_book(router, &big_a, &on_a, 0, NULL));
    OK(servecast_router_book(router, &big_b, &on_b, 0, NULL));
    RETURNS(SERVECAST_QUEUED, servecast_router_route(router, &small, 1, &selection));
    RETURNS(SERVECAST_QUEUED, servecast_router_route(router, &choosy, 2, &selection));
    OK(servecast_router_queued_requests(router, &queued));
    CHECK(queued == 2);
    RETURNS(SERVECAST_EMPTY, servecast_router_poll(router, 3, id, sizeof id, &length, &selection));
    CHECK(length == 0);

    /* Room on A lets the first in; the other wants B, which goes. */
    OK(servecast_router_mark_prefill_complete(router, "a", 5));
    OK(servecast_router_remove_worker(router, B, 6));
    RETURNS(SERVECAST_ERR_BUFFER_TOO_SMALL, servecast_router_poll(router, 7, id, 2, &length, &selection));
    CHECK(length == sizeof "small");
    OK(servecast_router_poll(router, 7, id, length, &length, &selection));
    CHECK(strcmp(id, "small") == 0 && selection.worker_id == A && selection.queue_wait_ns == 4);
    RETURNS(SERVECAST_REFUSED, servecast_router_poll(router, 7, id, sizeof id, &length, &selection));
    CHECK(strcmp(id, "choosy") == 0 && selection.phase == SERVECAST_PHASE_AGGREGATED);
    RETURNS(SERVECAST_EMPTY, servecast_router_poll(router, 7, id, sizeof id, &length, &selection));

    /* Who is freed before he is polled is not heard of. */
    servecast_request again = a_request("again", SERVECAST_PHASE_AGGREGATED, 80);
    OK(servecast_router_book(router, &again, &on_a, 8, NULL));
    servecast_request late = a_request("late", SERVECAST_PHASE_AGGREGATED, 8);
    RETURNS(SERVECAST_QUEUED, servecast_router_route(router, &late, 8, &selection));
    OK(servecast_router_mark_prefill_complete(router, "again", 9));
    OK(servecast_router_free_request(router, "late", SERVECAST_PHASE_ALL, 9));
    RETURNS(SERVECAST_EMPTY, servecast_router_poll(router, 9, id, sizeof id, &length, &selection));
    servecast_router_destroy(router);
}

static void workers_have_ranks(void) {
    servecast_router *router = NULL;
    servecast_worker_info info = {0};
    OK(servecast_router_new("{\"router_track_output_blocks\": true}", BLOCK, 7, &router));
    info.dp_rank_start = 1;
    info.dp_size = 2;
    OK(servecast_router_register_worker(router, UINT64_MAX, &info, SERVECAST_NOW));

    servecast_request request = a_request("r", SERVECAST_PHASE_AGGREGATED, 8);
    servecast_worker_rank pin = {UINT64_MAX, 2};
    servecast_selection selection;
    request.pinned = &pin;
    request.expected_output_tokens = 100;
    request.overrides_json = "{\"router_temperature\": 0.5}";
    request.priority_jump = 2.5;
    OK(servecast_router_route(router, &request, SERVECAST_NOW, &selection));
    CHECK(selection.worker_id == UINT64_MAX && selection.dp_rank == 2);
    CHECK(selection.router_temperature == 0.5);
    OK(servecast_router_record_output(router, "r", 9, SERVECAST_NOW));

    servecast_load loads[2];
    size_t count = 0;
    servecast_request nothing = {0};
    nothing.id = "nothing";
    RETURNS(SERVECAST_ERR_BUFFER_TOO_SMALL,
            servecast_router_potential_loads(router, &nothing, SERVECAST_NOW, loads, 1, &count));
    CHECK(count == 2);
    OK(servecast_router_potential_loads(router, &nothing, SERVECAST_NOW, loads, 2, &count));
    CHECK(loads[0].dp_rank == 1 && loads[0].decode_blocks == 0);
    /* Two blocks of the prompt and three of output, that weigh 91 of 100. */
    CHECK(loads[1].dp_rank == 2 && loads[1].decode_blocks == 5 && loads[1].prefill_tokens == 8);

    /* Another number of ranks: what was booked on those that are gone is forgotten. */
    info.dp_size = 1;
    OK(servecast_router_register_worker(router, UINT64_MAX, &info, SERVECAST_NOW));
    RETURNS(SERVECAST_ERR_UNKNOWN_REQUEST, servecast_router_mark_prefill_complete(router, "r", SERVECAST_NOW));
    servecast_router_destroy(router);
}

static void a_dump_tells_everything(void) {
    servecast_router *router = a_router(NULL);
    servecast_request request = a_request("r \"quoted\"", SERVECAST_PHASE_DECODE, 8);
    servecast_worker_rank on_b = a_rank(B);
    size_t length = 0, again = 0;
    OK(servecast_router_book(router, &request, &on_b, 0, NULL));
    RETURNS(SERVECAST_ERR_BUFFER_TOO_SMALL, servecast_router_dump_json(router, 0, NULL, 0, &length));
    char *text = malloc(length);
    CHECK(text != NULL);
    OK(servecast_router_dump_json(router, 0, text, length, &again));
    CHECK(again == length && strlen(text) == length - 1);
    CHECK(strstr(text, "\"booked\":[{\"id\":\"r \\\"quoted\\\"\",\"phase\":\"decode\"") != NULL);
    CHECK(strstr(text, "\"worker_id\":201,\"dp_rank\":0,\"role\":\"prefill\"") != NULL);
    free(text);
    servecast_router_destroy(router);
}

int main(void) {
    CHECK(strcmp(servecast_version(), "0.2.0") == 0);
    blocks_are_stored_by_tokens_and_by_hashes();
    requests_wait_for_room();
    workers_have_ranks();
    a_dump_tells_everything();
    servecast_router_destroy(NULL);
    return 0;
}
