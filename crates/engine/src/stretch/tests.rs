use proptest::prelude::*;

use super::*;

/// What happens in an iteration: which members open and fill a block, or move, and which end.
#[derive(Debug, Clone, Default, PartialEq)]
struct Events {
    work: StepWork,
    crossings: Vec<(u32, Crossing)>,
    ended: Vec<u32>,
}

/// A request that joins before iteration `at` is decided.
#[derive(Debug, Clone, Copy)]
struct Joiner {
    at: u64,
    computed: u32,
    remaining: u32,
    stops: bool,
}

fn of(changes: &[Change]) -> Vec<(u32, Crossing)> {
    changes.iter().map(|change| (change.slot.0, change.crossing)).collect()
}

/// What happens in each iteration of a stretch that continues until every member has ended; what is told of late, where it
/// happened. The joiners are in order, and move at some phases, if any are given. Who ends is noted with the iteration that is in flight then.
fn follow(lead: u64, block_size: u32, phases: &[u32], defers_fills: bool, joiners: &[Joiner]) -> Vec<Events> {
    let member = |slot: usize| {
        let Joiner { computed, remaining, stops, .. } = joiners[slot];
        Member { slot: Slot(slot as u32), computed, remaining, stops }
    };
    let first = joiners.iter().take_while(|joiner| joiner.at == 0).count();
    let stretch = Stretch::with_phases(lead, SmallVec::from_slice(phases));
    let (mut stretch, mut next, mut log) = (stretch, first, Vec::<Events>::new());
    stretch.begin(block_size, (0..first).map(member));
    stretch.defer_fills(defers_fills);
    while stretch.members() > 0 || next < joiners.len() {
        let to_join = joiners.get(next).map_or(u64::MAX, |joiner| joiner.at) - stretch.done();
        if to_join == 0 {
            add_late(&mut log, &of(stretch.take_deferred_fills()));
            stretch.join(member(next));
            next += 1;
            continue;
        }
        if stretch.requests() > 0 {
            let quiet = stretch.uneventful().min(to_join - 1);
            for _ in 0..quiet {
                assert_eq!(stretch.num_opening(), 0);
                log.push(Events { work: stretch.work(), ..Events::default() });
                stretch.skip(1);
            }
        }
        let (work, opening) = (stretch.work(), stretch.num_opening());
        let mut filling: Vec<u32> = stretch.filling().map(|slot| slot.0).collect();
        let changes = stretch.take_crossings();
        let late = changes.iter().take_while(|change| change.is_deferred).count();
        assert!(late == 0 || defers_fills);
        add_late(&mut log, &of(&changes[..late]));
        let crossings = of(&changes[late..]);
        let opened = crossings.iter().filter(|(_, what)| *what == Crossing::Opens).count();
        assert!(opened == opening as usize || !phases.is_empty());
        if phases.is_empty() && (!defers_fills || lead > 0) {
            filling.sort_unstable();
            let fills = crossings.iter().filter(|(_, what)| *what == Crossing::Fills);
            assert_eq!(filling, fills.map(|(slot, _)| *slot).collect::<Vec<_>>());
        }
        stretch.end_iteration();
        assert_eq!(stretch.known(), stretch.done().saturating_sub(lead));
        let ended = std::iter::from_fn(|| stretch.pop_ended());
        let ended = ended.map(|ended| {
            assert_eq!(ended.in_vain, lead > 0 && joiners[ended.slot.0 as usize].stops);
            ended.slot.0
        });
        let ended = ended.collect();
        log.push(Events { work, crossings, ended });
    }
    log
}

fn add_late(log: &mut [Events], late: &[(u32, Crossing)]) {
    if let Some(before) = log.last_mut() {
        before.crossings.extend(late);
        before.crossings.sort_unstable();
    }
}

/// The same, request by request and token by token.
fn spelled_out(lead: u64, block_size: u32, phases: &[u32], joiners: &[Joiner]) -> Vec<Events> {
    // After the last iteration that gives it a token, and the last one that computes something for it.
    let end = |joiner: &Joiner| joiner.at + u64::from(joiner.remaining);
    let left = |joiner: &Joiner| end(joiner) + if joiner.stops { lead } else { 0 };
    let iteration = |number: u64| {
        let mut events = Events::default();
        for (slot, joiner) in (0..).zip(joiners) {
            // The result of the iteration before is there when this one is in flight.
            if number + 1 == end(joiner) + lead {
                events.ended.push(slot);
            }
            if !(joiner.at..left(joiner)).contains(&number) {
                continue;
            }
            let at = joiner.computed + (number - joiner.at) as u32;
            let context = u64::from(at) + 1;
            events.work.requests += 1;
            events.work.context_tokens += context;
            events.work.longest_context_tokens = events.work.longest_context_tokens.max(context);
            events.work.squared_context_tokens += u128::from(context).pow(2);
            if !phases.is_empty() {
                if number == joiner.at || phases.contains(&(at % block_size)) {
                    events.crossings.push((slot, Crossing::Moves));
                }
                continue;
            }
            if at.is_multiple_of(block_size) {
                events.crossings.push((slot, Crossing::Opens));
            }
            if (at + 1 - lead as u32).is_multiple_of(block_size) {
                events.crossings.push((slot, Crossing::Fills));
            }
        }
        events
    };
    let iterations = joiners.iter().map(|joiner| end(joiner) + lead).max();
    (0..iterations.unwrap_or(0)).map(iteration).collect()
}

proptest! {
    #[test]
    fn it_is_what_happens_token_by_token(
        // A wheel of more than 64 slots has several words.
        block_size in prop_oneof![2_u32..9, 62_u32..68, 126_u32..132],
        phases in prop::collection::btree_set(1_u32..132, 0..4),
        lead in 0_u64..2,
        mut joiners in prop::collection::vec(
            (prop_oneof![Just(0), 0_u64..40], 0_u32..140, 1_u32..300, any::<bool>()), 1..12
        ),
    ) {
        joiners.sort_by_key(|joiner| joiner.0);
        let joiner = |&(at, computed, remaining, stops)| Joiner { at, computed, remaining, stops };
        let joiners: Vec<_> = joiners.iter().map(joiner).collect();
        for defers_fills in [false, true] {
            let expected = spelled_out(lead, block_size, &[], &joiners);
            prop_assert_eq!(follow(lead, block_size, &[], defers_fills, &joiners), expected);
        }
        // A block is opened at one of them.
        let phases: Vec<u32> = [0].into_iter().chain(phases).filter(|phase| *phase < block_size).collect();
        let expected = spelled_out(lead, block_size, &phases, &joiners);
        prop_assert_eq!(follow(lead, block_size, &phases, false, &joiners), expected);
    }
}

#[test]
fn with_blocks_of_one_token_only_ends_are_told() {
    let mut stretch = Stretch::default();
    let members = [(10, 2), (20, 5)].into_iter().zip(0..);
    stretch.begin(
        1,
        members.map(|((computed, remaining), slot)| Member {
            slot: Slot(slot),
            computed,
            remaining,
            stops: false,
        }),
    );
    assert_eq!((stretch.num_opening(), stretch.uneventful()), (2, 1));
    stretch.skip(1);
    assert!(stretch.take_crossings().is_empty());
    assert_eq!((stretch.done(), stretch.tokens_taken()), (1, 4));
    stretch.end_iteration();
    let mut pop_ended = || stretch.pop_ended().map(|ended| ended.slot);
    assert_eq!((pop_ended(), pop_ended()), (Some(Slot(0)), None));
    assert_eq!((stretch.requests(), stretch.work().context_tokens, stretch.done()), (1, 23, 2));
}
