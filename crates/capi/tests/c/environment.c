/* Settings from the environment: the test sets SERVECAST_ROUTER_TEMPERATURE=0.5, DYN_ROUTER_TEMPERATURE=0.75 and
 * DYN_ROUTER_KV_OVERLAP_SCORE_WEIGHT=2. */

#define _POSIX_C_SOURCE 200809L

#include "check.h"

static void refused(const char *name, const char *value, const char *message) {
    servecast_router *router = NULL;
    CHECK(setenv(name, value, 1) == 0);
    RETURNS(SERVECAST_ERR_CONFIG, servecast_router_from_env(BLOCK, 1, &router));
    SAYS(message);
    CHECK(router == NULL && unsetenv(name) == 0);
}

int main(void) {
    servecast_router *router = NULL;
    servecast_selection selection;
    OK(servecast_router_from_env(BLOCK, 1, &router));
    add_worker(router, A, SERVECAST_ROLE_DECODE);
    servecast_request request = a_request("r", SERVECAST_PHASE_AGGREGATED, 8);
    OK(servecast_router_route(router, &request, 0, &selection));
    CHECK(selection.router_temperature == 0.5 && selection.overlap_score_weight == 2.0);
    servecast_router_destroy(router);

    router = NULL;
    refused("DYN_ROUTER_TRACK_ACTIVE_BLOCKS", "maybe",
            "`DYN_ROUTER_TRACK_ACTIVE_BLOCKS` is `maybe`: expected true, 1, yes or on, or false, 0, no or off");
    refused("SERVECAST_ROUTER_TEMPRATURE", "1",
            "unknown environment variable `SERVECAST_ROUTER_TEMPRATURE`, did you mean "
            "`SERVECAST_ROUTER_TEMPERATURE`?");
    refused("SERVECAST_ROUTER_CONFIG", "{\"router_temperature\": 1}",
            "`SERVECAST_ROUTER_TEMPERATURE` is 0.5, but `SERVECAST_ROUTER_CONFIG` has `router_temperature` 1: "
            "give it once");
    refused("SERVECAST_ROUTER_TTL_SECS", "\xff", "the environment variable SERVECAST_ROUTER_TTL_SECS is not UTF-8");
    return 0;
}
