/* Both C and C++: the header stands on its own in either. */

#include "servecast_router.h"

int use(servecast_router **router);

int use(servecast_router **router) {
    servecast_selection selection;
    servecast_request request;
    request.id = "r";
    request.phase = SERVECAST_PHASE_DECODE;
    return servecast_router_new(0, 16, 42, router) == SERVECAST_OK &&
           servecast_router_route(*router, &request, SERVECAST_NOW, &selection) >= SERVECAST_OK;
}
