//! One request of a client: its prompts go to the deployment, and what comes back goes to the client as it comes.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use hyper::body::{Body, Bytes, Frame};
use servecast_record::RequestStatus;
use tokio::sync::mpsc;
use tokio::time::{Sleep, sleep_until};

use crate::answer::{DONE, Head, Stream, Tokens, event, whole};
use crate::app::App;
use crate::choice::{Choice, Delta};
use crate::deployment::{Asked, Command, Ended, Event, Request};
use crate::error::ApiError;
use crate::request::{Api, Wanted};

/// An event, and which answer it is of.
pub(crate) type Numbered = (u32, Event);

/// The answers to a request, on their way.
pub(crate) struct Answers {
    app: Arc<App>,
    wanted: Wanted,
    head: Head,
    choices: Vec<Choice>,
    /// Tokens with their log-probabilities, if an answer without a stream is to have them.
    deltas: Vec<Vec<Delta>>,
    events: mpsc::UnboundedReceiver<Numbered>,
    /// By answer, its number in the deployment until it has ended.
    numbers: Vec<Option<u64>>,
    tokens: Tokens,
    ended: usize,
    refused: bool,
}

impl Answers {
    /// Sends a request to the deployment.
    pub(crate) fn begin(app: Arc<App>, wanted: Wanted, head: Head) -> Result<Self, ApiError> {
        let (sender, events) = mpsc::unbounded_channel();
        let mut answers = Self {
            head,
            choices: Vec::new(),
            deltas: Vec::new(),
            events,
            numbers: Vec::new(),
            tokens: Tokens::default(),
            ended: 0,
            refused: false,
            app,
            wanted,
        };
        let Self { app, wanted, .. } = &answers;
        let mut requests = Vec::new();
        let mut choices = Vec::new();
        for prompt in &wanted.prompts {
            for index in 0..wanted.n {
                let choice = Choice::new(wanted, prompt, index, app.seed, &app.served);
                requests.push(Request {
                    number: app.number(),
                    index: choices.len() as u32,
                    prompt: prompt.clone(),
                    max_tokens: wanted.room(prompt, &app.served),
                    output: choice.ids(),
                    priority: wanted.priority,
                    worker: app.worker,
                    asked: Asked { n: wanted.n, max_tokens: wanted.max_tokens },
                    events: sender.clone(),
                });
                choices.push(choice);
            }
        }
        let prompt_tokens = wanted.prompts.iter().map(|prompt| prompt.len() as u64).sum();
        answers.deltas = vec![Vec::new(); choices.len()];
        answers.choices = choices;
        answers.tokens.prompt = prompt_tokens;
        for request in requests {
            answers.numbers.push(Some(request.number));
            if answers.app.commands.send(Command::Submit(request)).is_err() {
                return Err(ApiError::internal("the server is stopping"));
            }
        }
        answers.app.load(1);
        Ok(answers)
    }

    /// Takes an event; when the client is to see it, if that is a token.
    fn ended(&mut self, index: usize, Ended { status, cached_tokens }: Ended) {
        self.numbers[index] = None;
        self.ended += 1;
        self.refused |= status != RequestStatus::Finished;
        // The prompt counts once, whatever number of answers there are to it.
        if index.is_multiple_of(self.wanted.n as usize) {
            self.tokens.cached += u64::from(cached_tokens);
        }
    }

    fn is_over(&self) -> bool {
        self.ended == self.choices.len()
    }

    fn advance(&mut self, index: usize) -> Option<Delta> {
        let delta = self.choices[index].advance()?;
        self.tokens.completion += 1;
        Some(delta)
    }

    /// The text of each prompt, if it is repeated.
    fn echoed(&self) -> Vec<String> {
        if !self.wanted.echo {
            return Vec::new();
        }
        let text = |prompt: &Vec<u32>| self.app.text(prompt);
        self.wanted.prompts.iter().map(text).collect()
    }

    /// The whole answer, when it is there.
    pub(crate) async fn whole(mut self) -> Result<String, ApiError> {
        let mut seen = Instant::now();
        while !self.is_over() {
            let (index, event) =
                self.events.recv().await.ok_or_else(|| ApiError::internal("the server is stopping"))?;
            match event {
                Event::Token(at) => {
                    seen = seen.max(at);
                    let keeps = self.wanted.logprobs.is_some();
                    if let Some(delta) = self.advance(index as usize).filter(|_| keeps) {
                        self.deltas[index as usize].push(delta);
                    }
                }
                Event::Ended(ended) => self.ended(index as usize, ended),
            }
        }
        if self.refused {
            return Err(ApiError::internal("the engine could not serve the request"));
        }
        sleep_until(seen.into()).await;
        let echoed = self.echoed();
        Ok(whole(&self.head, &self.wanted, &self.choices, &self.deltas, &echoed, self.tokens))
    }

    /// The answer as a stream.
    pub(crate) fn stream(self) -> EventStream {
        let echoed = self.echoed();
        let begun = vec![false; self.choices.len()];
        EventStream { answers: self, echoed, begun, ready: VecDeque::new(), wait: None, is_done: false }
    }
}

/// Whoever goes away takes back what is under way.
impl Drop for Answers {
    fn drop(&mut self) {
        for number in self.numbers.iter().flatten() {
            // A deployment that has ended serves nobody.
            let _ = self.app.commands.send(Command::Cancel(*number));
        }
        if !self.numbers.is_empty() {
            self.app.load(-1);
        }
    }
}

/// A stream of server-sent events, a frame each.
pub(crate) struct EventStream {
    answers: Answers,
    echoed: Vec<String>,
    /// Whether the client has something of each answer.
    begun: Vec<bool>,
    ready: VecDeque<String>,
    /// A token that the client is not to see before.
    wait: Option<(Pin<Box<Sleep>>, u32)>,
    is_done: bool,
}

impl EventStream {
    fn token(&mut self, index: usize) {
        let is_first = !std::mem::replace(&mut self.begun[index], true);
        if is_first && self.answers.wanted.api == Api::Chat {
            let Answers { head, wanted, tokens, .. } = &self.answers;
            self.ready.push_back(Stream { head, wanted }.role(index, *tokens));
        }
        let Some(delta) = self.answers.advance(index) else { return };
        let Answers { head, wanted, choices, tokens, .. } = &self.answers;
        let echoed = self.echoed.get(index / wanted.n as usize).filter(|_| is_first);
        let stream = Stream { head, wanted };
        let chunk = stream.token(index, &choices[index], delta, echoed.map(String::as_str), *tokens);
        self.ready.push_back(chunk);
    }

    fn ended(&mut self, index: usize, ended: Ended) {
        self.answers.ended(index, ended);
        if !self.answers.is_over() {
            return;
        }
        let Answers { head, wanted, tokens, refused, .. } = &self.answers;
        if *refused {
            let error = ApiError::internal("the engine could not serve the request");
            self.ready.push_back(event(&error.json()));
        } else if wanted.include_usage {
            self.ready.push_back(Stream { head, wanted }.end(*tokens));
        }
        self.ready.push_back(DONE.to_owned());
        self.is_done = true;
    }
}

impl Body for EventStream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        loop {
            if let Some(chunk) = self.ready.pop_front() {
                return Poll::Ready(Some(Ok(Frame::data(chunk.into()))));
            }
            if self.is_done {
                return Poll::Ready(None);
            }
            if let Some((sleep, index)) = &mut self.wait {
                ready!(sleep.as_mut().poll(context));
                let index = *index as usize;
                self.wait = None;
                self.token(index);
                continue;
            }
            match ready!(self.answers.events.poll_recv(context)) {
                Some((index, Event::Token(at))) if at <= Instant::now() => self.token(index as usize),
                Some((index, Event::Token(at))) => {
                    self.wait = Some((Box::pin(sleep_until(at.into())), index));
                }
                Some((index, Event::Ended(ended))) => self.ended(index as usize, ended),
                // The deployment has stopped in the middle.
                None => self.is_done = true,
            }
        }
    }
}
