//! The answer of a search is that of trying everything.

use std::cell::RefCell;

use proptest::collection::vec;
use proptest::prelude::*;
use servecast_recommend::{Candidate, Evaluate, Figures, Goal, Load, Outcome, Search, Verdict};
use servecast_report::SloOutcome;

const HOUR_MS: f64 = 3.6e6;

/// Somebody who knows what comes of each candidate, and who was asked about.
struct MadeUp {
    outcomes: Vec<Outcome>,
    asked: RefCell<Vec<String>>,
}

impl Evaluate for MadeUp {
    fn all(&self, candidates: &[&Candidate]) -> Vec<Outcome> {
        let one = |candidate: &&Candidate| {
            self.asked.borrow_mut().push(candidate.name.clone());
            self.outcomes[candidate.name.parse::<usize>().unwrap()].clone()
        };
        candidates.iter().map(one).collect()
    }
}

/// A deployment: GPUs, a price, what its run takes longer than the load, its margin; or that it is refused.
#[derive(Debug, Clone, Copy)]
struct Case {
    gpus: u32,
    price: u32,
    longer: u32,
    good: u64,
    /// In percent of the limit; `None` is cut off, below -50 refused.
    margin: Option<i32>,
}

const LOAD: Load = Load { requests: 1000, span_ms: HOUR_MS };

fn case() -> impl Strategy<Value = Case> {
    let margin = prop::option::weighted(0.8, -60..60_i32);
    (1..12_u32, 1..4_u32, 0..50_u32, 0..=1000_u64, margin)
        .prop_map(|(gpus, price, longer, good, margin)| Case { gpus, price, longer, good, margin })
}

fn outcome(case: Case) -> Outcome {
    let Some(percent) = case.margin else {
        return Outcome::CutOff { reason: "lost".to_owned(), arrived: 10 };
    };
    if percent < -50 {
        return Outcome::Refused("refused".to_owned());
    }
    let margin = f64::from(percent) / 100.0;
    let slo = SloOutcome {
        objective: "p95 ttft <= 1s".to_owned(),
        met: margin >= 0.0,
        value: Some(1000.0 * (1.0 - margin)),
        limit: 1000.0,
        margin: Some(margin),
        samples: 1000,
        misses: 0,
        unserved: 0,
    };
    Outcome::Ran(Box::new(Figures {
        slo: vec![slo],
        duration_ms: HOUR_MS * (1.0 + f64::from(case.longer) / 100.0),
        requests: 1000,
        good_requests: case.good,
        input_tokens: 10_000,
        output_tokens: 1000,
        overload: None,
        headroom: None,
    }))
}

fn search(goal: Goal, cases: &[Case], load: Load) -> (Search, MadeUp) {
    let candidates = cases.iter().enumerate().map(|(number, case)| Candidate {
        name: number.to_string(),
        settings: Vec::new(),
        gpus: case.gpus,
        price_per_hour: Some(f64::from(case.gpus * case.price)),
    });
    let evaluator =
        MadeUp { outcomes: cases.iter().copied().map(outcome).collect(), asked: RefCell::default() };
    (Search::run(goal, candidates.collect(), load, &evaluator), evaluator)
}

/// The best by trying all: the score, and who has it.
fn enumerate(goal: Goal, cases: &[Case]) -> Option<(f64, usize)> {
    let met = cases.iter().enumerate().filter_map(|(number, case)| {
        let Outcome::Ran(figures) = outcome(*case) else { return None };
        let hours = figures.duration_ms / HOUR_MS;
        let score = match goal {
            Goal::Gpus => f64::from(case.gpus),
            // To three digits.
            Goal::Cost => format!("{:.2e}", f64::from(case.gpus * case.price) * hours).parse().unwrap(),
            Goal::GoodputPerGpu => -(case.good as f64 / figures.duration_ms / f64::from(case.gpus)),
            Goal::Latency => -figures.least_margin(),
            Goal::Headroom => 0.0,
        };
        (case.margin? >= 0).then_some((score, case.gpus, -case.margin?, number))
    });
    let best = met.min_by(|one, other| {
        one.0.total_cmp(&other.0).then((one.1, one.2, one.3).cmp(&(other.1, other.2, other.3)))
    });
    best.map(|(score, .., number)| (score, number))
}

const GOALS: [Goal; 4] = [Goal::Gpus, Goal::Cost, Goal::GoodputPerGpu, Goal::Latency];

proptest! {
    #[test]
    fn a_search_finds_what_enumeration_finds(cases in vec(case(), 0..40)) {
        for goal in GOALS {
            for load in [LOAD, Load::default()] {
                let (search, evaluator) = search(goal, &cases, load);
                prop_assert_eq!(search.ranking().first().copied(), enumerate(goal, &cases).map(|best| best.1), "{:?}", goal);
                let tally = search.tally();
                let fates = tally.simulated + tally.proved_worse + tally.refused + tally.not_reached;
                prop_assert_eq!((fates, tally.not_reached), (cases.len() as u64, 0));
                prop_assert_eq!(evaluator.asked.borrow().len() as u64, tally.simulated + tally.refused);
            }
        }
    }

    /// Who is proved worse has a score that is worse: whoever was proved could not have tied for the first place.
    #[test]
    fn who_is_proved_worse_is_worse(cases in vec(case(), 1..40)) {
        for goal in GOALS {
            let (search, _) = search(goal, &cases, LOAD);
            for (number, verdict) in search.verdicts.iter().enumerate() {
                let Verdict::ProvedWorse { than } = verdict else { continue };
                let Outcome::Ran(theirs) = outcome(cases[*than]) else { panic!("the better one ran") };
                prop_assert!(theirs.is_met());
                let Outcome::Ran(own) = outcome(cases[number]) else { continue };
                let score = |number: usize, figures: &Figures| goal.score(&search.candidates[number], figures);
                prop_assert!(score(number, &own) > score(*than, &theirs), "{:?} {}", goal, number);
            }
        }
    }

    /// A looser target never costs more, and more candidates never make the best worse.
    #[test]
    fn looser_targets_and_more_candidates_are_never_worse(cases in vec(case(), 1..40), looser in 0..50_i32) {
        let score = |found: &Search| {
            let best = *found.ranking().first()?;
            Some(found.goal.score(&found.candidates[best], found.figures(best)?))
        };
        let no_worse = |before: Option<f64>, after: Option<f64>| match (before, after) {
            (Some(before), Some(after)) => after <= before,
            (Some(_), None) => false,
            (None, _) => true,
        };
        for goal in [Goal::Gpus, Goal::Cost] {
            let strict = score(&search(goal, &cases, LOAD).0);
            let eased: Vec<Case> =
                cases.iter().map(|case| Case { margin: case.margin.map(|margin| margin + looser), ..*case }).collect();
            prop_assert!(no_worse(strict, score(&search(goal, &eased, LOAD).0)));
            let fewer = score(&search(goal, &cases[..cases.len() / 2], LOAD).0);
            prop_assert!(no_worse(fewer, strict));
        }
    }

    #[test]
    fn nobody_beats_the_frontier_in_both(cases in vec(case(), 0..25)) {
        let (search, _) = search(Goal::Latency, &cases, Load::default());
        let frontier = search.pareto(Goal::Cost, Goal::Latency);
        let scores = |index: usize| {
            let figures = search.figures(index).unwrap();
            [Goal::Cost, Goal::Latency].map(|goal| goal.score(&search.candidates[index], figures))
        };
        for index in search.ranking() {
            let [cost, room] = scores(index);
            let beaten = search.ranking().into_iter().any(|other| {
                let [theirs, their_room] = scores(other);
                theirs <= cost && their_room <= room && (theirs < cost || their_room < room)
            });
            prop_assert_eq!(frontier.contains(&index), !beaten);
        }
    }
}

#[test]
fn what_needs_more_gpus_than_the_best_is_not_run() {
    let case = |gpus, margin| Case { gpus, price: 1, longer: 0, good: 1000, margin: Some(margin) };
    let (search, evaluator) =
        search(Goal::Gpus, &[case(8, 50), case(2, -10), case(4, 5), case(4, 20), case(6, 9)], LOAD);
    assert_eq!(*evaluator.asked.borrow(), ["1", "2", "3"]);
    assert_eq!(search.ranking(), [3, 2], "equal GPUs: the one with more room");
    assert_eq!(search.nearest(), [1]);
    let tally = search.tally();
    assert_eq!((tally.simulated, tally.met, tally.proved_worse), (3, 2, 2));
}

/// A deployment of 2 GPUs for which the load takes `longer` percent longer and that keeps its target by `margin` percent.
fn of_two(longer: u32, margin: i32) -> Case {
    Case { gpus: 2, price: 1, longer, good: 1000, margin: Some(margin) }
}

#[test]
fn what_costs_the_same_to_three_digits_goes_by_its_margin() {
    let (mut search, _) = search(Goal::Cost, &[of_two(0, 3), of_two(0, 14), of_two(4, 50)], LOAD);
    // The tail of the second takes a second longer.
    let mut figures = search.figures(1).unwrap().clone();
    figures.duration_ms += 1000.0;
    search.complete(1, figures);
    assert_eq!(search.ranking(), [1, 0, 2]);
}

#[test]
fn what_comes_to_the_same_has_one_place() {
    let other_margin = of_two(0, 8);
    let more_gpus = Case { gpus: 3, ..of_two(0, 7) };
    let cases = [of_two(0, 7), other_margin, of_two(0, 7), more_gpus, of_two(0, 7)];
    let (mut search, _) = search(Goal::Latency, &cases, LOAD);
    search.set_headroom(0, 1.5);
    let places = search.places(&search.ranking(), false);
    let listed: Vec<(usize, &[usize])> =
        places.iter().map(|place| (place.first, place.same.as_slice())).collect();
    assert_eq!(listed, [(1, &[][..]), (0, &[2, 4]), (3, &[])]);
    let told_apart = search.places(&search.ranking(), true);
    assert_eq!(told_apart.iter().map(|place| place.first).collect::<Vec<_>>(), [1, 0, 2, 3]);
}
