/* What the test programs share. */
#ifndef CHECK_H
#define CHECK_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "servecast_router.h"

/* Ends the program with a message unless a condition holds. */
#define CHECK(condition)                                                                                     \
    do {                                                                                                     \
        if (!(condition)) {                                                                                  \
            fprintf(stderr, "%s:%d: %s does not hold; last error: %s\n", __FILE__, __LINE__, #condition,     \
                    servecast_last_error());                                                                 \
            exit(1);                                                                                         \
        }                                                                                                    \
    } while (0)

/* Ends the program with a message unless a call returns a code. */
#define RETURNS(code, call)                                                                                  \
    do {                                                                                                     \
        servecast_status returned = (call);                                                                  \
        if (returned != (code)) {                                                                            \
            fprintf(stderr, "%s:%d: %s returned %d, not %s; last error: %s\n", __FILE__, __LINE__, #call,    \
                    (int)returned, #code, servecast_last_error());                                           \
            exit(1);                                                                                         \
        }                                                                                                    \
    } while (0)

#define OK(call) RETURNS(SERVECAST_OK, call)

/* Ends the program unless the last error has a text. */
#define SAYS(text) CHECK(strcmp(servecast_last_error(), (text)) == 0)

enum { BLOCK = 4, A = 101, B = 102, P = 201 };

/* Numbers from 0 on, as tokens. */
static inline const uint32_t *some_tokens(void) {
    static uint32_t tokens[256];
    if (tokens[255] == 0) {
        for (uint32_t at = 0; at < 256; at++) tokens[at] = at;
    }
    return tokens;
}

/* A request with the first tokens. */
static inline servecast_request a_request(const char *id, servecast_phase phase, size_t num_tokens) {
    servecast_request request = {0};
    request.id = id;
    request.phase = phase;
    request.tokens = some_tokens();
    request.num_tokens = num_tokens;
    return request;
}

static inline servecast_worker_rank a_rank(uint64_t worker_id) {
    servecast_worker_rank rank = {worker_id, 0};
    return rank;
}

static inline void add_worker(servecast_router *router, uint64_t worker_id, servecast_role role) {
    servecast_worker_info info = {0};
    info.role = role;
    info.max_num_batched_tokens = 16;
    OK(servecast_router_register_worker(router, worker_id, &info, 0));
}

/* A router with decode workers A and B and prefill worker P. */
static inline servecast_router *a_router(const char *config_json) {
    servecast_router *router = NULL;
    OK(servecast_router_new(config_json, BLOCK, 1, &router));
    add_worker(router, A, SERVECAST_ROLE_DECODE);
    add_worker(router, B, SERVECAST_ROLE_DECODE);
    add_worker(router, P, SERVECAST_ROLE_PREFILL);
    return router;
}

/* The load of a worker without the request by which it is asked for: one that has no tokens. */
static inline servecast_load load_of(servecast_router *router, uint64_t worker_id, servecast_phase phase) {
    servecast_request nothing = {0};
    servecast_load loads[8];
    size_t count = 0;
    nothing.id = "nothing";
    nothing.phase = phase;
    OK(servecast_router_potential_loads(router, &nothing, 0, loads, 8, &count));
    for (size_t at = 0; at < count; at++) {
        if (loads[at].worker_id == worker_id) return loads[at];
    }
    fprintf(stderr, "worker %llu has no load\n", (unsigned long long)worker_id);
    exit(1);
}

#endif
