#include <servecast_router.h>
#include <stdio.h>
#include <stdlib.h>

static servecast_status check(servecast_status status) {
    if (status < SERVECAST_OK) {
        fprintf(stderr, "servecast: %s\n", servecast_last_error());
        exit(1);
    }
    return status;
}

static void print(const char *what, const servecast_selection *chosen) {
    printf("%s: worker %llu, %u of %u blocks cached, %u prompt tokens and %u blocks booked\n", what,
           (unsigned long long)chosen->worker_id, chosen->overlap_blocks, chosen->required_blocks,
           chosen->prefill_tokens, chosen->tracked_blocks);
}

int main(void) {
    servecast_router *router = NULL;
    check(servecast_router_new("{\"router_temperature\": 0}", 16, 42, &router));

    /* Two workers that prefill and two that decode. */
    servecast_worker_info info = {0};
    info.max_num_batched_tokens = 8192;
    for (uint64_t worker = 1; worker <= 4; worker++) {
        info.role = worker <= 2 ? SERVECAST_ROLE_PREFILL : SERVECAST_ROLE_DECODE;
        check(servecast_router_register_worker(router, worker, &info, SERVECAST_NOW));
    }

    /* Worker 2 says that it has cached the first 64 tokens of a prompt. */
    uint32_t tokens[100];
    for (uint32_t at = 0; at < 100; at++) tokens[at] = 1000 + at;
    servecast_worker_rank rank = {2, 0};
    servecast_stored_blocks stored = {0};
    stored.tokens = tokens;
    stored.num_tokens = 64;
    check(servecast_router_stored(router, &rank, &stored, SERVECAST_NOW));

    /* The prompt comes: its prefill is chosen and booked in one step. */
    servecast_request request = {0};
    servecast_selection chosen;
    request.id = "chat-1";
    request.tokens = tokens;
    request.num_tokens = 100;
    request.phase = SERVECAST_PHASE_PREFILL;
    if (check(servecast_router_route(router, &request, SERVECAST_NOW, &chosen)) == SERVECAST_OK) {
        print("prefill", &chosen);
    }

    /* The prefill is over and its KV on the way: now for the decode. */
    check(servecast_router_mark_prefill_complete(router, "chat-1", SERVECAST_NOW));
    request.phase = SERVECAST_PHASE_DECODE;
    if (check(servecast_router_route(router, &request, SERVECAST_NOW, &chosen)) == SERVECAST_OK) {
        print("decode", &chosen);
    }
    check(servecast_router_free_request(router, "chat-1", SERVECAST_PHASE_PREFILL, SERVECAST_NOW));

    /* What another request would find. */
    servecast_load loads[4];
    size_t num_loads = 0;
    request.id = "chat-2";
    check(servecast_router_potential_loads(router, &request, SERVECAST_NOW, loads, 4, &num_loads));
    for (size_t at = 0; at < num_loads; at++) {
        printf("worker %llu would have %llu blocks\n", (unsigned long long)loads[at].worker_id,
               (unsigned long long)loads[at].decode_blocks);
    }

    check(servecast_router_free_request(router, "chat-1", SERVECAST_PHASE_ALL, SERVECAST_NOW));
    servecast_router_destroy(router);
    return 0;
}
