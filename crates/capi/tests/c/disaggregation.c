/* The decode override holds for selection and booking in the disaggregated decode phase, and nowhere else. */

#include "check.h"

/* Tells whether a choice was made under the override. */
static int is_overridden(const servecast_selection *selection) {
    return selection->overlap_score_weight == 0.0 && !selection->assume_kv_reuse &&
           !selection->track_prefill_tokens;
}

static int is_plain(const servecast_selection *selection) {
    return selection->overlap_score_weight == 1.0 && selection->assume_kv_reuse &&
           selection->track_prefill_tokens;
}

/* First case of the review: a decode phase that is booked must not look like a prompt that is still to be computed. */
static void booking_a_decode_phase_uses_the_override(void) {
    servecast_router *router = a_router(NULL);
    servecast_request request = a_request("r", SERVECAST_PHASE_DECODE, 64);
    servecast_worker_rank on_a = a_rank(A);
    servecast_selection selection;

    OK(servecast_router_book(router, &request, &on_a, 0, &selection));
    CHECK(is_overridden(&selection));
    CHECK(selection.worker_id == A && selection.prefill_tokens == 0 && selection.tracked_blocks == 16);
    CHECK(load_of(router, A, SERVECAST_PHASE_AGGREGATED).prefill_tokens == 0);
    CHECK(load_of(router, A, SERVECAST_PHASE_AGGREGATED).decode_blocks == 16);

    /* Reuse is not assumed: the same prompt again holds as many blocks again. */
    servecast_request again = a_request("s", SERVECAST_PHASE_DECODE, 64);
    OK(servecast_router_book(router, &again, &on_a, 0, &selection));
    CHECK(load_of(router, A, SERVECAST_PHASE_AGGREGATED).decode_blocks == 32);

    /* The end of a prefill elsewhere is no news, and frees nothing. */
    OK(servecast_router_mark_prefill_complete(router, "r", 1));
    CHECK(load_of(router, A, SERVECAST_PHASE_AGGREGATED).decode_blocks == 32);
    OK(servecast_router_free_request(router, "r", SERVECAST_PHASE_DECODE, 2));
    CHECK(load_of(router, A, SERVECAST_PHASE_AGGREGATED).decode_blocks == 16);
    servecast_router_destroy(router);
}

/* Second case: the same call about a whole request must not use the override. */
static void booking_a_whole_request_does_not_use_it(void) {
    servecast_router *router = a_router(NULL);
    servecast_request request = a_request("r", SERVECAST_PHASE_AGGREGATED, 64);
    servecast_worker_rank on_a = a_rank(A);
    servecast_selection selection;

    OK(servecast_router_book(router, &request, &on_a, 0, &selection));
    CHECK(is_plain(&selection));
    CHECK(selection.prefill_tokens == 64 && selection.tracked_blocks == 16);
    CHECK(load_of(router, A, SERVECAST_PHASE_AGGREGATED).prefill_tokens == 64);

    /* Reuse is assumed: the same prompt again holds no blocks of its own, but has its tokens to compute. */
    servecast_request again = a_request("s", SERVECAST_PHASE_AGGREGATED, 64);
    OK(servecast_router_book(router, &again, &on_a, 0, &selection));
    CHECK(load_of(router, A, SERVECAST_PHASE_AGGREGATED).decode_blocks == 16);
    CHECK(load_of(router, A, SERVECAST_PHASE_AGGREGATED).prefill_tokens == 128);

    OK(servecast_router_mark_prefill_complete(router, "r", 1));
    CHECK(load_of(router, A, SERVECAST_PHASE_AGGREGATED).prefill_tokens == 64);

    /* Nor does a prefill phase use it, which holds no blocks either. */
    servecast_request prefill = a_request("r", SERVECAST_PHASE_PREFILL, 64);
    servecast_worker_rank on_p = a_rank(P);
    OK(servecast_router_book(router, &prefill, &on_p, 0, &selection));
    CHECK(is_plain(&selection) && selection.prefill_tokens == 64 && selection.tracked_blocks == 0);
    servecast_router_destroy(router);
}

/* What is selected is what is booked, in every phase. */
static void selection_and_booking_agree(void) {
    static const servecast_phase phases[] = {SERVECAST_PHASE_AGGREGATED, SERVECAST_PHASE_PREFILL,
                                             SERVECAST_PHASE_DECODE};
    for (size_t at = 0; at < 3; at++) {
        servecast_router *router = a_router(NULL);
        servecast_request request = a_request("r", phases[at], 30);
        servecast_selection selected, booked, routed;
        OK(servecast_router_select(router, &request, 0, &selected));
        servecast_worker_rank rank = {selected.worker_id, selected.dp_rank};
        OK(servecast_router_book(router, &request, &rank, 0, &booked));
        OK(servecast_router_free_request(router, "r", SERVECAST_PHASE_ALL, 0));
        OK(servecast_router_route(router, &request, 0, &routed));
        CHECK(selected.phase == phases[at] && booked.phase == phases[at]);
        CHECK(selected.prefill_tokens == booked.prefill_tokens);
        CHECK(selected.tracked_blocks == booked.tracked_blocks);
        CHECK(is_overridden(&selected) == (phases[at] == SERVECAST_PHASE_DECODE));
        CHECK(is_overridden(&booked) == is_overridden(&selected));
        CHECK(is_overridden(&routed) == is_overridden(&selected));
        servecast_router_destroy(router);
    }
}

/* A decode phase goes where the fewest blocks are, whatever is cached or still to be computed. */
static void neither_caches_nor_prompts_move_a_decode_phase(void) {
    servecast_router *router = a_router(NULL);
    servecast_worker_rank on_a = a_rank(A), on_b = a_rank(B);
    servecast_stored_blocks cached = {0};
    servecast_selection selection;
    cached.tokens = some_tokens();
    cached.num_tokens = 64;
    OK(servecast_router_stored(router, &on_a, &cached, 0));
    servecast_request other = a_request("other", SERVECAST_PHASE_DECODE, 8);
    OK(servecast_router_book(router, &other, &on_a, 0, NULL));
    servecast_request unhashed = {0};
    unhashed.id = "prompt";
    unhashed.isl_tokens = 3;
    OK(servecast_router_book(router, &unhashed, &on_b, 0, NULL));

    servecast_request request = a_request("r", SERVECAST_PHASE_DECODE, 64);
    OK(servecast_router_select(router, &request, 0, &selection));
    CHECK(selection.worker_id == B);
    request.phase = SERVECAST_PHASE_AGGREGATED;
    OK(servecast_router_select(router, &request, 0, &selection));
    CHECK(selection.worker_id == A && selection.overlap_blocks == 16 && selection.prefill_tokens == 0);
    servecast_router_destroy(router);
}

int main(void) {
    booking_a_decode_phase_uses_the_override();
    booking_a_whole_request_does_not_use_it();
    selection_and_booking_agree();
    neither_caches_nor_prompts_move_a_decode_phase();
    return 0;
}
