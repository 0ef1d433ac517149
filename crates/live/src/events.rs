//! KV events: what workers store in their caches and evict from them, published over ZMQ as vLLM does.
//!
//! ```text
//!  deployment ──News──▶ a thread: contents (token ids, digests) ──▶ publisher of each worker ──▶ subscribers
//! ```
//!
//! The deployment only hands over what it has; all else is that thread's, so that tokens of clients do not wait for it.

mod config;
mod contents;
mod hash;
mod publisher;
mod wire;
mod zmtp;

use std::io;
use std::thread::JoinHandle;

use servecast_cluster::WorkerState;
use servecast_engine::Iteration;
use servecast_types::{KvEvent, RequestId, Time};
use tokio::sync::mpsc;

pub use self::config::{KvEventsConfig, KvEventsError};
use self::contents::Contents;
use self::hash::BlockDigests;
pub use self::hash::HashAlgorithm;
pub(crate) use self::publisher::Channel;
use self::publisher::{Opened, Publisher};
pub use self::wire::EventFormat;
use self::wire::payload;
use crate::content::Salt;

/// A worker as others know it.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) channel: Channel,
    pub(crate) opened: Opened,
    /// Tokens of its blocks.
    pub(crate) block_size: u32,
    /// Which rank it says that it is.
    pub(crate) rank: u32,
}

/// What the deployment tells.
#[derive(Debug)]
enum News {
    /// A request came, with all tokens that it will have, and its salt.
    Arrived(RequestId, Vec<u32>, Option<Salt>),
    /// It has ended.
    Ended(RequestId, Time),
    /// A worker ended a pass that was decided then, and had taken these requests.
    Passed { worker: usize, decided: Time, taken: Vec<RequestId>, events: Vec<KvEvent> },
    /// A worker serves, or it has failed.
    Serves(usize, bool),
}

/// Where the deployment tells of its caches. The sockets are closed when it is dropped.
#[derive(Debug)]
pub(crate) struct Feed {
    news: Option<mpsc::Sender<News>>,
    thread: Option<JoinHandle<()>>,
}

impl Feed {
    /// Begins to publish.
    pub(crate) fn start(config: &KvEventsConfig, sources: Vec<Source>) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (news, received) = mpsc::channel(config.max_queue_size);
        let digests = BlockDigests::new(config.algorithm, &config.hash_seed);
        let format = config.format;
        let publish = move || runtime.block_on(publish(received, sources, digests, format));
        let thread = std::thread::Builder::new().name("kv-events".to_owned()).spawn(publish)?;
        Ok(Self { news: Some(news), thread: Some(thread) })
    }

    /// A request came, with all tokens that it will have.
    pub(crate) fn arrived(&self, id: RequestId, tokens: Vec<u32>, salt: Option<Salt>) {
        self.tell(News::Arrived(id, tokens, salt));
    }

    /// A request has ended.
    pub(crate) fn ended(&self, id: RequestId, at: Time) {
        self.tell(News::Ended(id, at));
    }

    /// A worker ended a pass.
    pub(crate) fn passed(&self, worker: usize, iteration: &Iteration) {
        let admitted = iteration.admitted.iter().map(|admitted| admitted.id);
        self.tell(News::Passed {
            worker,
            decided: iteration.scheduled_at,
            taken: admitted.chain(iteration.joined.iter().map(|joined| joined.id)).collect(),
            events: iteration.kv_events.clone(),
        });
    }

    /// A worker has come to another state.
    pub(crate) fn worker_changed(&self, worker: usize, state: WorkerState) {
        match state {
            WorkerState::Serving => self.tell(News::Serves(worker, true)),
            WorkerState::Down { .. } => self.tell(News::Serves(worker, false)),
            _ => {}
        }
    }

    /// Waits if the thread is behind by as much as its queue takes, as the real engine does.
    fn tell(&self, news: News) {
        if let Some(sender) = &self.news {
            // It ends with us.
            let _ = sender.blocking_send(news);
        }
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        drop(self.news.take());
        if let Some(thread) = self.thread.take() {
            // One that panicked has told of it.
            let _ = thread.join();
        }
    }
}

async fn publish(
    mut received: mpsc::Receiver<News>,
    sources: Vec<Source>,
    digests: BlockDigests,
    format: EventFormat,
) {
    let block_sizes: Vec<u32> = sources.iter().map(|source| source.block_size).collect();
    let mut contents = Contents::new(digests, &block_sizes);
    let places: Vec<(Channel, u32)> =
        sources.iter().map(|source| (source.channel.clone(), source.rank)).collect();
    let mut publishers: Vec<Option<Publisher>> =
        sources.into_iter().map(|source| Some(Publisher::new(source.channel, source.opened))).collect();
    while let Some(news) = received.recv().await {
        match news {
            News::Arrived(id, tokens, salt) => contents.arrived(id, &tokens, salt.as_ref()),
            News::Ended(id, at) => contents.ended(id, at),
            News::Passed { worker, decided, taken, events } => {
                for id in taken {
                    contents.admitted(worker, id);
                }
                let events = contents.events(worker, &events);
                contents.passed(worker, decided);
                if let Some(publisher) = publishers[worker].as_mut().filter(|_| !events.is_empty()) {
                    let time = crate::clock::unix_time().as_secs_f64();
                    publisher.publish(&payload(time, &events, places[worker].1, format));
                }
            }
            // A process that starts again begins with message 0, and knows nothing of those before.
            News::Serves(worker, true) => {
                publishers[worker].get_or_insert_with(|| {
                    Publisher::new(places[worker].0.clone(), Opened { events: None, replay: None })
                });
            }
            News::Serves(worker, false) => {
                contents.lost(worker);
                publishers[worker] = None;
            }
        }
    }
}

#[cfg(test)]
mod tests;
