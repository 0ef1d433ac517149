//! A question of another program: settings go in, an answer comes out.

use std::path::PathBuf;

use serde_json::Value;
use servecast_recommend::Recommendation;
use servecast_report::TableOptions;

use super::output::{self, Growth};
use super::{Asked, Draft, Executor, Journal, Prepared, Question, Simulator, Threads, Watch, start_of_best};
use crate::replay::{Refusal, RefusalKind, Replay, layers};
use servecast_config::error::Failure;
use servecast_config::settings::Origin;
use servecast_types::message;

/// What is asked, as the command line is.
#[derive(Debug, Clone, Default)]
pub struct Ask {
    /// What deployments have in common.
    pub replay: Replay,
    /// What is asked beside.
    pub asked: Asked,
    /// Settings and values, as `--vary` has them.
    pub vary: Vec<String>,
    /// Runs at a time, where threads of this process simulate.
    pub threads: Option<u32>,
    /// A file that keeps what was tried.
    pub resume: Option<PathBuf>,
}

/// An answer, with what it was found from.
pub struct Answer {
    /// The answer, as programs read it.
    pub recommendation: Recommendation,
    prepared: Prepared,
    growths: Vec<Growth>,
}

impl Answer {
    /// The table that the command line prints.
    pub fn table(&self, options: TableOptions) -> String {
        output::table(&self.prepared.question, &self.recommendation, &self.growths, options)
    }

    /// The ranking as CSV.
    pub fn csv(&self) -> String {
        output::csv(&self.recommendation)
    }

    /// The commands that start the best deployment, if there is one.
    pub fn start(&self) -> Option<String> {
        start_of_best(&self.prepared.question, &self.growths)
    }

    /// What was odd about the trace.
    pub fn notes(&self) -> Vec<String> {
        self.prepared.workload.notes.messages().iter().map(Refusal::shown).collect()
    }
}

/// Finds which deployments keep their targets, simulating on threads of this process unless there is an executor.
///
/// If somebody stops it, the answer is what was known by then.
pub fn recommend(ask: &Ask, executor: Option<&dyn Executor>, watch: &dyn Watch) -> Result<Answer, Refusal> {
    let config = |failure| Refusal::of(RefusalKind::Config, failure);
    let draft = draft(ask).map_err(config)?;
    let of_load = RefusalKind::of_load(&draft.first.source);
    let prepared =
        draft.with_load(ask.replay.trace.clone()).map_err(|failure| Refusal::of(of_load, failure))?;
    prepared.check_prices().map_err(config)?;
    let journal = match &ask.resume {
        Some(path) => Journal::open(path, &prepared.identity()).map_err(config)?,
        None => Journal::default(),
    };
    let threads = Threads { threads: prepared.question.threads, watch };
    let executor = executor.unwrap_or(&threads);
    let factors = prepared.question.factors.iter();
    let growths: Vec<Growth> =
        factors.map(|&factor| prepared.under(factor, executor, &journal, watch)).collect();
    Ok(Answer { recommendation: prepared.answer(&growths), prepared, growths })
}

fn draft(ask: &Ask) -> Result<Draft, Failure> {
    let mut layers = layers(&ask.replay)?;
    if !ask.replay.own.is_empty() {
        return Err(layers.refused(message!(
            "the program brings a routing policy or an order of its own, but a search tries settings only"
        )));
    }
    if !ask.replay.own.is_empty() {
        return Err(layers.refused(message!(
            "the program brings a routing policy or an order of its own, but a search tries settings only"
        )));
    }
    let mut add = |key: &str, value: Value| layers.add(key, value, &Origin::Flag(key.to_owned()));
    if !ask.vary.is_empty() {
        add("vary", ask.vary.clone().into())?;
    }
    add("threads", ask.threads.into())?;
    let draft = Draft::new(Question::new(layers, ask.asked.clone())?)?;
    draft.check_targets()?;
    Ok(draft)
}

/// The simulator of a search in another process, from what [`Prepared::to_json`] says there.
pub fn simulator_of(question: &str, trace: Option<Vec<u8>>) -> Result<Simulator, Refusal> {
    Simulator::from_json(question, trace).map_err(|failure| Refusal::of(RefusalKind::Config, failure))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use serde_json::json;

    use super::*;
    use crate::recommend::{Outcome, Trial};

    /// Somebody who stops the search when so many runs are over.
    struct Patience {
        most: usize,
        runs: AtomicUsize,
    }

    impl Patience {
        fn of(most: usize) -> Self {
            Self { most, runs: AtomicUsize::new(0) }
        }
    }

    impl Watch for Patience {
        fn is_stopped(&self) -> bool {
            self.runs.load(Ordering::Relaxed) >= self.most
        }

        fn ran(&self) {
            self.runs.fetch_add(1, Ordering::Relaxed);
        }

        fn found(&self, _kept: usize, _name: &str) {}
    }

    /// Everything goes through text, as it does to another process; the last trial is simulated first.
    struct Elsewhere;

    impl Executor for Elsewhere {
        fn run(&self, prepared: &Prepared, trials: &[Trial], ended: &mut dyn FnMut(usize, Outcome)) {
            let simulator = simulator_of(&prepared.to_json(), prepared.trace().map(<[u8]>::to_vec)).unwrap();
            for (place, trial) in trials.iter().enumerate().rev() {
                let sent: Trial = serde_json::from_str(&json!(trial).to_string()).unwrap();
                let outcome = json!(simulator.simulate(&sent, &|| false)).to_string();
                ended(place, serde_json::from_str(&outcome).unwrap());
            }
        }
    }

    /// One run after another, until somebody stops them: threads would be a few runs ahead of whoever counts.
    struct OneByOne<'a>(&'a Patience);

    impl Executor for OneByOne<'_> {
        fn run(&self, prepared: &Prepared, trials: &[Trial], ended: &mut dyn FnMut(usize, Outcome)) {
            for (place, trial) in trials.iter().enumerate() {
                if self.0.is_stopped() {
                    return;
                }
                ended(place, prepared.simulator().simulate(trial, &|| false));
            }
        }
    }

    fn ask() -> Ask {
        let settings = json!({
            "input_tokens": 800, "output_tokens": 30, "request_count": 60, "arrival_interval_ms": 20,
            "arrival_process": "poisson", "latency": "linear:6000,30,200", "slo": ["p95 ttft <= 700ms"],
        });
        Ask {
            replay: Replay { settings: settings.as_object().unwrap().clone(), ..Replay::default() },
            asked: Asked { max_gpus: Some(3), growth: vec![1.0, 1.3], ..Asked::default() },
            vary: vec!["max_num_seqs=8,64".to_owned()],
            threads: Some(2),
            resume: None,
        }
    }

    #[test]
    fn whoever_simulates_the_answer_is_the_same() {
        let patience = Patience::of(usize::MAX);
        let here = recommend(&ask(), None, &patience).unwrap();
        let elsewhere = recommend(&ask(), Some(&Elsewhere), &patience).unwrap();
        assert!(!here.recommendation.loads[0].ranking.is_empty());
        assert_eq!(here.recommendation, elsewhere.recommendation);
        assert_eq!(here.table(TableOptions::default()), elsewhere.table(TableOptions::default()));
    }

    #[test]
    fn who_stops_a_search_gets_what_was_known() {
        let patience = Patience::of(3);
        let stopped = recommend(&ask(), Some(&OneByOne(&patience)), &patience).unwrap();
        let [first, second] = &stopped.recommendation.loads[..] else { panic!("two loads") };
        assert!(first.tally.not_reached > 0, "{:?}", first.tally);
        assert_eq!(second.tally.not_reached, second.tally.candidates);
    }
}
