/* Every mistake has a code and a message, and changes nothing. */

#include "check.h"

static void settings(void) {
    servecast_router *router = NULL;
    RETURNS(SERVECAST_ERR_CONFIG, servecast_router_new("{\"router_temprature\": 1}", BLOCK, 1, &router));
    SAYS("unknown router setting `router_temprature`, did you mean `router_temperature`?");
    RETURNS(SERVECAST_ERR_CONFIG, servecast_router_new("{\"router_temperature\": -1}", BLOCK, 1, &router));
    SAYS("`router_temperature` is -1: expected a number of at least 0");
    RETURNS(SERVECAST_ERR_CONFIG, servecast_router_new("{\"router_temperature\": ", BLOCK, 1, &router));
    CHECK(strncmp(servecast_last_error(), "`config_json` is not JSON: ", 27) == 0);
    RETURNS(SERVECAST_ERR_CONFIG, servecast_router_new(NULL, 0, 1, &router));
    SAYS("`block_size` is 0: expected at least 1 token");
    RETURNS(SERVECAST_ERR_CONFIG,
            servecast_router_new("{\"router_prefill_load_model\": \"aic\"}", BLOCK, 1, &router));
    RETURNS(SERVECAST_ERR_INVALID_ARGUMENT, servecast_router_new("\xff", BLOCK, 1, &router));
    SAYS("`config_json` is not UTF-8");
    CHECK(router == NULL);
}

static void requests(servecast_router *router) {
    servecast_selection selection;
    servecast_request request = a_request("r", SERVECAST_PHASE_AGGREGATED, 8);
    const uint64_t hashes[] = {1, 2, 3};
    const uint64_t nobody[] = {9};
    const servecast_worker_rank on_p = a_rank(P), on_9 = a_rank(9), on_a1 = {A, 1};

    request.phase = 3;
    RETURNS(SERVECAST_ERR_INVALID_ARGUMENT, servecast_router_route(router, &request, 0, &selection));
    SAYS("`phase` is 3: expected SERVECAST_PHASE_AGGREGATED (0), _PREFILL (1) or _DECODE (2)");
    request = a_request("", SERVECAST_PHASE_AGGREGATED, 8);
    RETURNS(SERVECAST_ERR_INVALID_ARGUMENT, servecast_router_route(router, &request, 0, &selection));
    SAYS("`id` is empty: a request needs a name");
    request = a_request("r", SERVECAST_PHASE_AGGREGATED, SIZE_MAX);
    RETURNS(SERVECAST_ERR_INVALID_ARGUMENT, servecast_router_route(router, &request, 0, &selection));
    request = a_request("r", SERVECAST_PHASE_AGGREGATED, 8);
    request.tokens = NULL;
    RETURNS(SERVECAST_ERR_INVALID_ARGUMENT, servecast_router_route(router, &request, 0, &selection));
    SAYS("`tokens` is null, but has 8 elements");
    request = a_request("r", SERVECAST_PHASE_AGGREGATED, 8);
    request.tokens = (const uint32_t *)((const char *)request.tokens + 1);
    RETURNS(SERVECAST_ERR_INVALID_ARGUMENT, servecast_router_route(router, &request, 0, &selection));
    SAYS("`tokens` is not aligned to 4 bytes");
    request = a_request("r", SERVECAST_PHASE_AGGREGATED, 8);
    request.block_hashes = hashes;
    request.num_block_hashes = 2;
    RETURNS(SERVECAST_ERR_INVALID_ARGUMENT, servecast_router_route(router, &request, 0, &selection));
    SAYS("both `tokens` and `block_hashes` are given: give one of them");
    request.tokens = NULL;
    request.num_tokens = 0;
    request.num_block_hashes = 3;
    request.isl_tokens = 11;
    RETURNS(SERVECAST_ERR_INVALID_ARGUMENT, servecast_router_route(router, &request, 0, &selection));
    SAYS("request `r`: 3 block hashes, but 11 tokens hold only 2 blocks of 4");
    request = a_request("r", SERVECAST_PHASE_AGGREGATED, 8);
    request.overrides_json = "{\"overlap_score_weight\": -1}";
    RETURNS(SERVECAST_ERR_INVALID_ARGUMENT, servecast_router_route(router, &request, 0, &selection));
    SAYS("`overrides_json`: `overlap_score_weight` is -1: expected a number of at least 0");
    request = a_request("r", SERVECAST_PHASE_AGGREGATED, 8);
    request.pinned = &on_p;
    RETURNS(SERVECAST_ERR_INVALID_ARGUMENT, servecast_router_route(router, &request, 0, &selection));
    SAYS("worker 201 is a prefill worker: it does not serve this phase");
    request.pinned = &on_9;
    RETURNS(SERVECAST_ERR_UNKNOWN_WORKER, servecast_router_route(router, &request, 0, &selection));
    request.pinned = &on_a1;
    RETURNS(SERVECAST_ERR_UNKNOWN_WORKER, servecast_router_route(router, &request, 0, &selection));
    SAYS("worker 101 has the ranks 0 to 0, not 1");
    request = a_request("r", SERVECAST_PHASE_AGGREGATED, 8);
    request.allowed_workers = nobody;
    request.num_allowed_workers = 1;
    RETURNS(SERVECAST_ERR_NO_WORKERS, servecast_router_route(router, &request, 0, &selection));
    SAYS("request `r`: no decode worker among those that it allows is registered");
    request.num_allowed_workers = 0;
    RETURNS(SERVECAST_ERR_NO_WORKERS, servecast_router_route(router, &request, 0, &selection));

    request = a_request("r", SERVECAST_PHASE_AGGREGATED, 8);
    OK(servecast_router_route(router, &request, 0, &selection));
    RETURNS(SERVECAST_ERR_DUPLICATE_REQUEST, servecast_router_route(router, &request, 0, &selection));
    OK(servecast_router_select(router, &request, 0, &selection));
    RETURNS(SERVECAST_ERR_UNKNOWN_REQUEST, servecast_router_mark_prefill_complete(router, "s", 0));
    SAYS("request `s` is not booked on any worker");
    RETURNS(SERVECAST_ERR_UNKNOWN_REQUEST, servecast_router_record_output(router, "s", 1, 0));
    RETURNS(SERVECAST_ERR_INVALID_ARGUMENT, servecast_router_free_request(router, "r", 4, 0));
    OK(servecast_router_free_request(router, "r", SERVECAST_PHASE_PREFILL, 0));
    RETURNS(SERVECAST_ERR_DUPLICATE_REQUEST, servecast_router_route(router, &request, 0, &selection));
    OK(servecast_router_free_request(router, "r", SERVECAST_PHASE_AGGREGATED, 0));
    OK(servecast_router_free_request(router, "r", SERVECAST_PHASE_AGGREGATED, 0));
}

static void workers_and_events(servecast_router *router) {
    const servecast_worker_rank on_a = a_rank(A), on_9 = a_rank(9);
    servecast_worker_info info = {0};
    servecast_stored_blocks blocks = {0};
    const uint64_t names[] = {1, 2};

    info.role = 2;
    RETURNS(SERVECAST_ERR_INVALID_ARGUMENT, servecast_router_register_worker(router, 9, &info, 0));
    SAYS("`role` is 2: expected SERVECAST_ROLE_DECODE (0) or SERVECAST_ROLE_PREFILL (1)");
    info.role = SERVECAST_ROLE_PREFILL;
    RETURNS(SERVECAST_ERR_INVALID_ARGUMENT, servecast_router_register_worker(router, A, &info, 0));
    SAYS("worker 101 is a decode worker: remove it before it becomes another");
    info.dp_size = 4097;
    RETURNS(SERVECAST_ERR_INVALID_ARGUMENT, servecast_router_register_worker(router, 9, &info, 0));
    RETURNS(SERVECAST_ERR_UNKNOWN_WORKER, servecast_router_remove_worker(router, 9, 0));
    SAYS("worker 9 is not registered");

    blocks.tokens = some_tokens();
    blocks.num_tokens = 15;
    blocks.block_hashes = names;
    blocks.num_block_hashes = 2;
    RETURNS(SERVECAST_ERR_INVALID_ARGUMENT, servecast_router_stored(router, &on_a, &blocks, 0));
    SAYS("2 names for 3 full blocks of 4 tokens: give one for each");
    blocks.num_tokens = 8;
    blocks.parent = &names[1];
    RETURNS(SERVECAST_ERR_EVENT, servecast_router_stored(router, &on_a, &blocks, 0));
    SAYS("KV event of worker 101 rank 0: stored blocks continue block 0x2, which the rank does not hold");
    RETURNS(SERVECAST_ERR_UNKNOWN_WORKER, servecast_router_cleared(router, &on_9, 0));
    RETURNS(SERVECAST_ERR_INVALID_ARGUMENT, servecast_router_removed(router, &on_a, names, SIZE_MAX / 2, 0));
    RETURNS(SERVECAST_ERR_INVALID_ARGUMENT, servecast_router_apply_json(router, "{\"worker_id\": 101}", 0));
    CHECK(strncmp(servecast_last_error(), "`event_json` is no event: ", 26) == 0);
}

int main(void) {
    CHECK(strcmp(servecast_last_error(), "") == 0);
    settings();
    servecast_router *router = a_router(NULL);
    requests(router);
    workers_and_events(router);
    servecast_router_destroy(router);
    return 0;
}
