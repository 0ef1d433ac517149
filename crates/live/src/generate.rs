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

use crate::answer::{DONE, Head, OfPrompt, Stream, Tokens, Whole, event_of, logprobs};
use crate::app::App;
use crate::blocking::work;
use crate::choice::{Choice, Delta};
use crate::content::content;
use crate::deployment::{Asked, Command, Ended, Event, Request};
use crate::error::ApiError;
use crate::log::Line;
use crate::pieces::Pieces;
use crate::request::{Api, Dialect, Prompt, Wanted};
use crate::responses;
use crate::sglang::answer::State;
use crate::traffic::Underway;

/// An event, and which answer it is of.
pub(crate) type Numbered = (u32, Event);

/// The answers to a request, on their way.
pub(crate) struct Answers {
    app: Arc<App>,
    wanted: Wanted,
    head: Head,
    choices: Vec<Choice>,
    events: mpsc::UnboundedReceiver<Numbered>,
    /// By answer, its number in the deployment until it has ended.
    numbers: Vec<Option<u64>>,
    tokens: Tokens,
    /// By answer, tokens of its prompt that were cached.
    cached: Vec<u64>,
    ended: usize,
    refused: bool,
    /// Whether the only worker behind the port has failed, whose port closes with all connections.
    is_lost: bool,
    came: Instant,
    /// When the client had its first token.
    first: Option<Instant>,
}

impl Answers {
    /// Sends a request to the deployment, which came then.
    pub(crate) fn begin(app: Arc<App>, wanted: Wanted, head: Head, came: Instant) -> Result<Self, ApiError> {
        let number = app.number();
        let waits = app.faults.admit(number, wanted.prompts.len() * wanted.n as usize)?;
        let delay = app.faults.delay(number);
        let (sender, events) = mpsc::unbounded_channel();
        let mut answers = Self {
            head,
            choices: Vec::new(),
            events,
            numbers: Vec::new(),
            tokens: Tokens::default(),
            cached: Vec::new(),
            ended: 0,
            refused: false,
            is_lost: false,
            came,
            first: None,
            app,
            wanted,
        };
        let Self { app, wanted, .. } = &answers;
        let mut requests = Vec::new();
        let mut waits = waits.into_iter();
        let mut choices = Vec::new();
        for (place, Prompt { ids, salt, .. }) in wanted.prompts.iter().enumerate() {
            for (index, waits) in (0..wanted.n).zip(&mut waits) {
                let choice = Choice::new(wanted, place, index, app.author(), &app.served);
                requests.push(Request {
                    number: app.number(),
                    index: choices.len() as u32,
                    content: content(ids, salt.as_ref()),
                    prompt: ids.clone(),
                    salt: salt.clone(),
                    max_tokens: wanted.room(ids, &app.served),
                    output: choice.pieces().ids().to_vec(),
                    priority: wanted.priority,
                    worker: app.worker,
                    asked: Asked { n: wanted.n, max_tokens: wanted.max_tokens, stream: wanted.stream },
                    events: sender.clone(),
                    delay,
                    waits,
                });
                choices.push(choice);
            }
        }
        let prompt_tokens = wanted.prompts.iter().map(|prompt| prompt.ids.len() as u64).sum();
        answers.cached = vec![0; choices.len()];
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
        self.is_lost |= status == RequestStatus::Failed && self.app.worker.is_some();
        // The prompt counts once, whatever number of answers there are to it.
        self.cached[index] = u64::from(cached_tokens);
        if index.is_multiple_of(self.wanted.n as usize) {
            self.tokens.cached += u64::from(cached_tokens);
        }
    }

    fn is_over(&self) -> bool {
        self.ended == self.choices.len()
    }

    fn advance(&mut self, index: usize) -> Option<Delta> {
        let delta = self.choices[index].advance()?;
        self.first.get_or_insert_with(Instant::now);
        self.tokens.completion += 1;
        Some(delta)
    }

    /// What answers of SGLang are made of.
    fn state(&self) -> State<'_> {
        let Self { head, wanted, choices, cached, tokens, came, .. } = self;
        State { head, wanted, choices, cached, tokens: *tokens, seconds: came.elapsed().as_secs_f64() }
    }

    /// What an answer of `/v1/responses` is made of, if it is one.
    fn response(&self) -> Option<responses::State<'_>> {
        let Self { head, wanted, tokens, app, .. } = self;
        let (choice, prompt) = (self.choices.first()?, wanted.prompts.first()?);
        let room = wanted.room(&prompt.ids, &app.served);
        let state = responses::State { head, wanted, choice, tokens: *tokens, room };
        (wanted.api == Api::Responses).then_some(state)
    }

    /// Writes what became of it to the log, if there is one.
    fn tell(&self) {
        let Some(log) = &self.app.log else { return };
        let status = match (self.is_over(), self.refused) {
            (false, _) => "aborted",
            (true, true) => "failed",
            (true, false) => "finished",
        };
        let ms = |at: Instant| at.duration_since(self.came).as_secs_f64() * 1e3;
        log.write(&Line {
            id: &self.head.id,
            path: self.wanted.api.path(),
            stream: self.wanted.stream,
            status,
            prompt_tokens: self.tokens.prompt,
            cached_tokens: self.tokens.cached,
            completion_tokens: self.tokens.completion,
            ttft_ms: self.first.map(ms),
            e2e_ms: ms(Instant::now()),
        });
    }

    /// What a stream is made of.
    fn messages(&self) -> Stream<'_> {
        Stream { head: &self.head, wanted: &self.wanted, output: &self.app.output }
    }

    /// What is said of each prompt.
    fn of_prompts(&self) -> Vec<OfPrompt> {
        let Self { app, wanted, .. } = self;
        let of = |Prompt { ids, .. }: &Prompt| {
            let shown = || {
                let mut shown = Pieces::with_capacity(ids.len());
                for &id in ids {
                    shown.push(id, &app.tokenizer.decode(&[id], true));
                }
                shown
            };
            OfPrompt {
                text: wanted.echo.then(|| app.tokenizer.decode(ids, false)),
                pieces: (wanted.echo && wanted.logprobs.is_some()).then(shown),
                logprobs: wanted
                    .prompt_logprobs
                    .filter(|_| !wanted.stream)
                    .map(|most| logprobs::of_prompt(&shown(), most, &app.output)),
            }
        };
        wanted.prompts.iter().map(of).collect()
    }

    /// The whole answer, when it is there.
    pub(crate) async fn whole(mut self) -> Result<String, ApiError> {
        let mut seen = Instant::now();
        while !self.is_over() {
            let (index, event) =
                self.events.recv().await.ok_or_else(|| ApiError::internal("the server is stopping"))?;
            match event {
                Event::Token { at, cached_tokens } => {
                    seen = seen.max(at);
                    self.cached[index as usize] = u64::from(cached_tokens);
                    // The client has nothing before the end.
                    self.advance(index as usize);
                }
                Event::Ended(ended) => self.ended(index as usize, ended),
            }
        }
        if self.is_lost {
            return std::future::pending().await;
        }
        if self.refused {
            return Err(ApiError::internal("the engine could not serve the request"));
        }
        sleep_until(seen.into()).await;
        let tokens = (self.tokens.prompt + self.tokens.completion) as usize;
        work(tokens, move || self.written()).await
    }

    /// The whole answer, which is complete.
    fn written(&self) -> String {
        let prompts = self.of_prompts();
        if self.app.served.dialect == Dialect::Sglang {
            return self.state().whole(&prompts);
        }
        if let Some(response) = self.response() {
            return response.whole();
        }
        let Self { head, wanted, choices, tokens, app, .. } = self;
        Whole { head, wanted, choices, output: &app.output, prompts: &prompts, tokens: *tokens }.json()
    }

    /// The answer as a stream.
    pub(crate) fn stream(self) -> EventStream {
        let prompts = self.of_prompts();
        let begun = vec![false; self.choices.len()];
        let ready = self.response().map_or_else(VecDeque::new, |response| response.begin().into());
        EventStream { answers: self, prompts, begun, ready, wait: None, is_done: false, underway: None }
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
            self.tell();
            self.app.load(-1);
        }
    }
}

/// A stream of server-sent events, a frame each.
pub(crate) struct EventStream {
    answers: Answers,
    prompts: Vec<OfPrompt>,
    /// Whether the client has something of each answer.
    begun: Vec<bool>,
    ready: VecDeque<String>,
    /// A token that the client is not to see before.
    wait: Option<(Pin<Box<Sleep>>, u32)>,
    is_done: bool,
    /// Counts it when it has ended.
    pub(crate) underway: Option<Underway>,
}

impl EventStream {
    fn token(&mut self, index: usize) {
        let is_first = !std::mem::replace(&mut self.begun[index], true);
        if is_first && self.answers.wanted.api == Api::Chat {
            let role = match self.answers.app.served.dialect {
                Dialect::Vllm => self.answers.messages().role(index, self.answers.tokens),
                Dialect::Sglang => self.answers.state().role(index),
            };
            self.ready.push_back(role);
        }
        let Some(delta) = self.answers.advance(index) else { return };
        if let Some(response) = self.answers.response() {
            let events = response.token(delta);
            self.ready.extend(events);
            return;
        }
        let Answers { wanted, choices, tokens, .. } = &self.answers;
        let prompt = self.prompts.get(index / wanted.n as usize).filter(|_| is_first);
        let echoed = prompt.and_then(|prompt| prompt.text.as_deref());
        let chunks = match self.answers.app.served.dialect {
            Dialect::Vllm => {
                vec![self.answers.messages().token(index, &choices[index], delta, echoed, *tokens)]
            }
            Dialect::Sglang => self.answers.state().token(index, delta, echoed),
        };
        self.ready.extend(chunks);
    }

    fn ended(&mut self, index: usize, ended: Ended) {
        self.answers.ended(index, ended);
        if !self.answers.is_over() || self.answers.is_lost {
            return;
        }
        self.is_done = true;
        if let Some(response) = self.answers.response().filter(|_| !self.answers.refused) {
            let events = response.end();
            self.ready.extend(events);
            return;
        }
        let Answers { wanted, tokens, refused, .. } = &self.answers;
        if *refused {
            let error = ApiError::internal("the engine could not serve the request");
            let error = error.json(self.answers.app.shape(wanted.api));
            self.ready.push_back(event_of(&error));
        } else if wanted.include_usage {
            let usage = match self.answers.app.served.dialect {
                Dialect::Vllm => self.answers.messages().end(*tokens),
                Dialect::Sglang => self.answers.state().end(),
            };
            self.ready.push_back(usage);
        }
        self.ready.push_back(DONE.to_owned());
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
            if self.answers.is_lost {
                return Poll::Pending;
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
                Some((index, Event::Token { at, cached_tokens })) => {
                    self.answers.cached[index as usize] = u64::from(cached_tokens);
                    if at <= Instant::now() {
                        self.token(index as usize);
                    } else {
                        self.wait = Some((Box::pin(sleep_until(at.into())), index));
                    }
                }
                Some((index, Event::Ended(ended))) => self.ended(index as usize, ended),
                // The deployment has stopped in the middle.
                None => self.is_done = true,
            }
        }
    }
}
