//! What a program brings along that no setting can name: routing policies, and an order of waiting queues.

use std::fmt;
use std::sync::Arc;

use servecast_cluster::{Pick, Simulation};
use servecast_config::error::Failure;
use servecast_engine::{EngineArgs, EngineType, Order, SchedulePolicy};
use servecast_report::SummaryOptions;
use servecast_types::{Role, message};

use crate::plan::Plan;

/// What the settings of a report say of such a policy or order.
const CALLABLE: &str = "callable";

/// Makes the routing policy of each pool of a run.
#[derive(Clone)]
pub struct Policies(Arc<dyn Fn(Role, u32) -> Box<dyn Pick> + Send + Sync>);

impl Policies {
    /// `make` gives the policy of a pool of this role, whose KV blocks have so many tokens.
    pub fn new(make: impl Fn(Role, u32) -> Box<dyn Pick> + Send + Sync + 'static) -> Self {
        Self(Arc::new(make))
    }
}

impl fmt::Debug for Policies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Policies")
    }
}

/// Is told that a run of a replay begins, and how the classes of its load are called.
#[derive(Clone)]
pub struct Begins(Arc<dyn Told>);

trait Told: Fn(&[Box<str>]) + Send + Sync {}

impl<F: Fn(&[Box<str>]) + Send + Sync> Told for F {}

impl Begins {
    /// `told` gets the names of classes, in the order of their numbers, before each run; a page or a timeline that is asked
    /// for later is another run.
    pub fn new(told: impl Fn(&[Box<str>]) + Send + Sync + 'static) -> Self {
        Self(Arc::new(told))
    }
}

impl fmt::Debug for Begins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Begins")
    }
}

/// What a replay has of its program.
#[derive(Debug, Clone, Default)]
pub struct Own {
    /// Routing policies in front of all pools, in place of `router_mode`.
    pub policies: Option<Policies>,
    /// The order of the waiting queues of all workers, in place of what `scheduling_policy` and `sglang.schedule_policy` say
    /// of them.
    pub order: Option<Arc<dyn Order>>,
    /// Is told that a run begins, before its policies are made.
    pub begins: Option<Begins>,
}

impl Own {
    pub(crate) fn is_empty(&self) -> bool {
        self.policies.is_none() && self.order.is_none()
    }

    /// Refuses settings that say something else, and runs in which the program has no say.
    pub(crate) fn check(&self, plan: &Plan) -> Result<(), Failure> {
        if self.is_empty() {
            return Ok(());
        }
        plan.refuse_online("routing policies and orders of a program go by simulated time")?;
        let refused = |message| plan.layers.refused(message);
        if plan.config.output.diagnoses() {
            return Err(refused(message!(
                "{diagnose} runs the load again under other settings, which say nothing of a routing policy or an \
                 order of the program"
            ))
            .with_hint(message!("leave {--diagnose} out")));
        }
        if self.policies.is_some() && plan.config.deployment.router_mode.is_some() {
            return Err(refused(message!(
                "{router_mode} says how requests are routed, but the program brings a routing policy of its own"
            ))
            .with_hint("leave one of the two out"));
        }
        let engines = plan.pools.iter().flat_map(|pool| &pool.groups).map(|(_, engine)| engine);
        if self.order.is_some() && engines.clone().any(orders_by_itself) {
            return Err(refused(message!(
                "{sglang.schedule_policy} says in which order requests wait, but the program brings an order of its own"
            ))
            .with_hint("leave one of the two out"));
        }
        Ok(())
    }

    /// Puts what the program brought along into a deployment.
    pub(crate) fn attach(&self, plan: &Plan, simulation: Simulation) -> Simulation {
        if let Some(Begins(told)) = &self.begins {
            told(simulation.classes());
        }
        let simulation = match &self.policies {
            Some(Policies(make)) => simulation.with_policy(|role| make(role, plan.block_size)),
            None => simulation,
        };
        match &self.order {
            Some(order) => simulation.with_order(|_| Some(Arc::clone(order))),
            None => simulation,
        }
    }

    /// Lets a report say by what its run went.
    pub(crate) fn mark(&self, summary: &mut SummaryOptions) {
        let settings = summary.provenance.settings.get_or_insert_default();
        if self.policies.is_some() {
            settings.insert("router_mode".to_owned(), CALLABLE.into());
            summary.sentences.push("Requests are routed by a policy of the program that ran it.".to_owned());
        }
        if self.order.is_some() {
            settings.insert("scheduling_order".to_owned(), CALLABLE.into());
            summary.sentences.push("Requests wait in an order of the program that ran it.".to_owned());
        }
    }
}

/// Whether an engine was asked for an order of SGLang's that is not the one in which requests come.
fn orders_by_itself(args: &EngineArgs) -> bool {
    let policy = args.sglang.as_ref().map(|own| own.schedule_policy);
    args.engine_type == EngineType::Sglang && policy.is_some_and(|policy| policy != SchedulePolicy::Fcfs)
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use serde_json::{Value, json};
    use servecast_cluster::{Candidate, RoutedRequest};
    use servecast_engine::WaitingRequest;
    use servecast_types::Time;

    use super::*;
    use crate::{Outcome, Refusal, Replay, replay, simulation};

    /// Sends requests to the last worker.
    #[derive(Debug)]
    struct Last;

    impl Pick for Last {
        fn pick(&mut self, request: &RoutedRequest<'_>, candidates: &[Candidate]) -> usize {
            assert_eq!((request.prompt.tokens(), request.max_tokens), (100 * (1 + request.id.0), 5));
            assert_eq!((request.now, request.session), (request.arrival, Some(request.id.0)));
            candidates.len() - 1
        }
    }

    /// Long prompts first.
    #[derive(Debug)]
    struct Longest;

    impl Order for Longest {
        fn key(&self, request: &WaitingRequest, _: Time) -> f64 {
            -f64::from(request.prompt_tokens)
        }
    }

    const TRACE: &str = "{\"timestamp\": 0, \"input_length\": 100, \"output_length\": 5, \"hash_ids\": [1]}\n\
                         {\"timestamp\": 0, \"input_length\": 200, \"output_length\": 5, \"hash_ids\": [2]}\n\
                         {\"timestamp\": 0, \"input_length\": 300, \"output_length\": 5, \"hash_ids\": [3]}\n";

    fn with(own: &Own, settings: &Value) -> Replay {
        let mut all = json!({"num_workers": 2, "max_num_seqs": 1, "engine_preset": "vllm-0.33"});
        all.as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
        let settings = all.as_object().unwrap().clone();
        Replay { settings, trace: Some(TRACE.into()), own: own.clone(), ..Replay::default() }
    }

    fn run(one: &Replay) -> Result<Outcome, Refusal> {
        replay(one, &mut |_| ControlFlow::Continue(()))
    }

    fn policies() -> Own {
        Own { policies: Some(Policies::new(|_, _| Box::new(Last))), ..Own::default() }
    }

    fn order() -> Own {
        Own { order: Some(Arc::new(Longest)), ..Own::default() }
    }

    #[test]
    fn a_run_goes_by_what_its_program_brings_along_and_says_so() {
        let both = Own { order: order().order, ..policies() };
        let outcome = run(&with(&both, &json!({}))).unwrap();
        let served = outcome.record.pools[0].workers.iter().map(|worker| worker.requests);
        assert_eq!(served.collect::<Vec<_>>(), [0, 3]);
        let mut ends: Vec<_> = outcome.record.requests.iter().map(|one| (one.last_token, one.line)).collect();
        ends.sort_unstable();
        assert_eq!(ends.iter().map(|&(_, line)| line).collect::<Vec<_>>(), [3, 2, 1]);
        let settings = outcome.report.settings.unwrap();
        assert_eq!(
            (&settings["router_mode"], &settings["scheduling_order"]),
            (&json!("callable"), &json!("callable"))
        );
        let record = simulation(&with(&both, &json!({}))).unwrap().run(&mut ()).unwrap();
        assert_eq!(record.requests, outcome.record.requests);
        let plain = run(&with(&Own::default(), &json!({}))).unwrap().report.settings.unwrap();
        assert_eq!((&plain["router_mode"], plain.get("scheduling_order")), (&json!("round_robin"), None));
    }

    #[test]
    fn what_says_something_else_is_refused() {
        for (own, settings, message) in [
            (
                policies(),
                json!({"router_mode": "round_robin"}),
                "`router_mode` says how requests are routed, but the program brings a routing policy of its own",
            ),
            (
                order(),
                json!({"engine_preset": null, "engine": "sglang", "engine_args": {"sglang": {"schedule_policy": "lpm"}}}),
                "`sglang.schedule_policy` says in which order requests wait, but the program brings an order of its own \
                 (from engine_args)",
            ),
            (
                order(),
                json!({"replay_mode": "online", "speed": 1000}),
                "`replay_mode` is online, but routing policies and orders of a program go by simulated time",
            ),
            (
                policies(),
                json!({"diagnose": true}),
                "`diagnose` runs the load again under other settings, which say nothing of a routing policy or an \
                 order of the program",
            ),
        ] {
            assert_eq!(run(&with(&own, &settings)).unwrap_err().message, message);
            assert!(simulation(&with(&own, &settings)).is_err());
        }
        // The other of the two is no matter.
        assert!(run(&with(&order(), &json!({"router_mode": "random"}))).is_ok());
    }
}
