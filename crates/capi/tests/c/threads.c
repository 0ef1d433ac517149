/* One router, several threads, each with requests of its own and with errors of its own. */

#include <pthread.h>

#include "check.h"

enum { THREADS = 4, ROUNDS = 50 };

static servecast_router *router;

static void *work(void *argument) {
    int thread = *(const int *)argument;
    for (int round = 0; round < ROUNDS; round++) {
        char id[32], other[64];
        servecast_selection selection;
        snprintf(id, sizeof id, "%d-%d", thread, round);
        servecast_request request = a_request(id, SERVECAST_PHASE_DECODE, (size_t)(4 + round));
        OK(servecast_router_route(router, &request, SERVECAST_NOW, &selection));
        RETURNS(SERVECAST_ERR_DUPLICATE_REQUEST,
                servecast_router_route(router, &request, SERVECAST_NOW, &selection));
        snprintf(other, sizeof other, "request `%s` is routed already", id);
        CHECK(strncmp(servecast_last_error(), other, strlen(other)) == 0);
        servecast_worker_rank rank = {selection.worker_id, selection.dp_rank};
        servecast_stored_blocks blocks = {0};
        blocks.tokens = request.tokens;
        blocks.num_tokens = request.num_tokens;
        OK(servecast_router_stored(router, &rank, &blocks, SERVECAST_NOW));
        OK(servecast_router_free_request(router, id, SERVECAST_PHASE_ALL, SERVECAST_NOW));
    }
    return NULL;
}

int main(void) {
    pthread_t threads[THREADS];
    int numbers[THREADS];
    router = a_router(NULL);
    (void)some_tokens(); /* Once, before there are threads. */
    for (int at = 0; at < THREADS; at++) {
        numbers[at] = at;
        CHECK(pthread_create(&threads[at], NULL, work, &numbers[at]) == 0);
    }
    for (int at = 0; at < THREADS; at++) CHECK(pthread_join(threads[at], NULL) == 0);
    CHECK(load_of(router, A, SERVECAST_PHASE_DECODE).decode_blocks == 0);
    CHECK(load_of(router, B, SERVECAST_PHASE_DECODE).decode_blocks == 0);
    servecast_router_destroy(router);
    return 0;
}
