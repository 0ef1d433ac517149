//! The order of the waiting queue, as a program has it.
//!
//! ```text
//!  EngineConfig::with_order ─▶ a new request is asked for (fixed orders), or all that wait at a decision (others)
//!                            ─▶ its key in the queue of vllm/queue.rs or sglang/queue.rs
//! ```

use std::fmt;
use std::sync::Arc;

use servecast_types::{ClassId, RequestId, Time};

use crate::{EngineConfig, EngineRequest};

/// The order in which engines look at the requests that wait: [`EngineConfig::with_order`] puts it in the place of what
/// vLLM's `scheduling_policy` and SGLang's `schedule_policy` say of the waiting queue.
///
/// ```
/// use servecast_engine::{Order, WaitingRequest};
/// use servecast_types::Time;
///
/// /// Short prompts first, but who has waited for a second counts as 1,000 tokens shorter.
/// #[derive(Debug)]
/// struct ShortWithAge;
///
/// impl Order for ShortWithAge {
///     fn key(&self, request: &WaitingRequest, now: Time) -> f64 {
///         f64::from(request.prompt_tokens) - now.since(request.arrival).as_ms()
///     }
/// }
/// ```
///
/// **What the engine guarantees.** The request with the lowest key is looked at first; of equal keys the one that arrived
/// first, of those that arrived at one instant the one that comes first in the load. One that was preempted goes back by
/// its key. Who does not fit is waited for, unless the engine lets others pass of its own accord (prompts that wait for an
/// adapter, a grammar or a block that is being computed). It shows what the real engine's scheduler could know, never how
/// long an output will be.
///
/// **What stays the engine's.** How many are admitted, how prompts are cut, whom a preemption hits, and when: vLLM's
/// `scheduling_policy` and `preemption_mode`, SGLang's `retraction_policy` and `enable_priority_scheduling` say that as
/// before. Requests whose KV is on its way, or has arrived, have left the queue, and go before it in the order in which they
/// left.
///
/// **What the order guarantees.** Keys follow from the arguments alone: the same request at the same time has the same key.
/// How often a key is asked for is not said, and fewer times where that changes nothing.
///
/// # Cost
/// An order that is not fixed is asked for every request that waits, at every decision in which one could be admitted, and
/// as long as one waits that could be, decodes are decided iteration by iteration. A [fixed](Order::is_fixed) one costs what
/// an order of the engine costs.
pub trait Order: fmt::Debug + Send + Sync {
    /// Lower goes first; what is not a number goes last. `now` is when the engine decides or, if the order is fixed, when
    /// the request arrived.
    fn key(&self, request: &WaitingRequest, now: Time) -> f64;

    /// Whether the key of a request is the same as long as it waits, whatever the time and however often it is preempted.
    /// Then it is asked for once in each stage, when the request is sent to a worker, in the order in which they are sent.
    ///
    /// Asked once, when the order is given to an engine.
    fn is_fixed(&self) -> bool {
        false
    }
}

/// What an [`Order`] may know of a request that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct WaitingRequest {
    /// Its id.
    pub id: RequestId,
    /// When it came to the deployment.
    pub arrival: Time,
    /// Tokens of its prompt.
    pub prompt_tokens: u32,
    /// Most tokens that it generates; 1 in a prefill pool.
    pub max_tokens: u32,
    /// Its priority in the load; to vLLM lower is more important, to SGLang higher.
    pub priority: i32,
    /// The number of its session, where it has one.
    pub session: Option<u32>,
    /// Number of its LoRA adapter.
    pub lora: Option<u32>,
    /// Its class, where the load tells classes apart.
    pub class: Option<ClassId>,
    /// Tokens that it has generated so far: more than 0 only if it was preempted.
    pub output_tokens: u32,
    /// How often it was preempted.
    pub preemptions: u32,
}

impl WaitingRequest {
    /// One that has not run yet.
    fn new(request: &EngineRequest) -> Self {
        Self {
            id: request.id,
            arrival: request.arrival,
            prompt_tokens: request.prompt.tokens(),
            max_tokens: request.max_tokens,
            priority: request.priority,
            session: request.routing_key,
            lora: request.lora,
            class: request.class,
            output_tokens: 0,
            preemptions: 0,
        }
    }
}

/// A key as queues compare it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key(pub(crate) i64);

impl Key {
    /// Behind all others.
    const LAST: Self = Self(i64::MAX);

    fn new(key: f64) -> Self {
        if key.is_nan() {
            return Self::LAST;
        }
        // Both zeros are one key.
        let bits = (key + 0.0).to_bits().cast_signed();
        // Of negative numbers, the larger has the smaller bits.
        Self(if bits < 0 { bits ^ i64::MAX } else { bits })
    }
}

/// The order that an engine was given.
#[derive(Debug, Clone)]
pub(crate) struct OwnOrder {
    order: Arc<dyn Order>,
    is_fixed: bool,
}

impl OwnOrder {
    pub(crate) fn new(order: Arc<dyn Order>) -> Self {
        let is_fixed = order.is_fixed();
        Self { order, is_fixed }
    }

    /// Whether requests that wait may change places.
    pub(crate) fn changes(&self) -> bool {
        !self.is_fixed
    }

    fn key(&self, request: &WaitingRequest, now: Time) -> Key {
        Key::new(self.order.key(request, now))
    }
}

/// What is known of a request to an order that the engine was given, and what that last said.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked {
    pub(crate) request: WaitingRequest,
    pub(crate) key: Key,
}

impl Asked {
    /// Asks anew, for a request that has got so far.
    pub(crate) fn ask(&mut self, order: &OwnOrder, now: Time, output_tokens: u32, preemptions: u32) {
        self.request = WaitingRequest { output_tokens, preemptions, ..self.request };
        self.key = order.key(&self.request, now);
    }
}

impl EngineConfig {
    /// The engine with another order of its waiting queue.
    #[must_use]
    pub fn with_order(mut self, order: Arc<dyn Order>) -> Self {
        self.order = Some(OwnOrder::new(order));
        self
    }

    /// Asks for the key of a request that is sent to the engine now, where that is fixed: [`Engine::submit`] would ask when
    /// the request gets there, which may be later.
    ///
    /// [`Engine::submit`]: crate::Engine::submit
    pub fn ask_order(&self, request: &mut EngineRequest) {
        if let Some(own) = self.order.as_ref().filter(|own| own.is_fixed && request.order_key.is_none()) {
            request.order_key = Some(own.order.key(&WaitingRequest::new(request), request.arrival));
        }
    }

    /// What the order has of a new request, if there is one.
    pub(crate) fn asked(&self, request: &EngineRequest) -> Option<Box<Asked>> {
        let own = self.order.as_ref()?;
        let waiting = WaitingRequest::new(request);
        let key = match request.order_key {
            _ if !own.is_fixed => Key::LAST,
            Some(key) => Key::new(key),
            None => own.key(&waiting, request.arrival),
        };
        Some(Box::new(Asked { request: waiting, key }))
    }

    /// The order of the waiting queue, if requests may change places in it.
    pub(crate) fn changing_order(&self) -> Option<&OwnOrder> {
        self.order.as_ref().filter(|own| own.changes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_compared_as_numbers_and_what_is_none_is_the_last() {
        let keys = [f64::NEG_INFINITY, -1e300, -2.5, -0.0, 1e-300, 1.0, 1e300, f64::INFINITY, f64::NAN];
        assert!(keys.map(Key::new).windows(2).all(|pair| pair[0] < pair[1]));
        assert_eq!(Key::new(-0.0), Key::new(0.0));
        assert_eq!(Key::new(-f64::NAN), Key::new(f64::NAN));
    }
}
