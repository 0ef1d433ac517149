/* Forgets to destroy a router: the test of the tests under valgrind. */

#include "servecast_router.h"

static int leak(void) {
    servecast_router *router = NULL;
    return servecast_router_new(NULL, 16, 1, &router);
}

int main(void) { return leak(); }
