//! What a server says, and in which tokens.

use std::path::PathBuf;

use clap::ValueHint;
use servecast_live::{LengthLaw, OutputLength, OutputText, Tokenizer};
use servecast_types::message;
use servecast_workload::LengthDistribution;

use crate::config::{choice, finite};
use crate::error::Failure;
use crate::files;

/// What answers are made of.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Answers")]
pub(super) struct AnswerArgs {
    /// Folder with the `tokenizer.json` of the model; without it, a rule of about four characters a token
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    tokenizer: Option<PathBuf>,
    /// What answers say: `lorem` for words of no meaning, `echo` for the prompt again, or a file with text
    #[arg(long, value_name = "lorem|echo|FILE", default_value = "lorem", value_hint = ValueHint::FilePath)]
    output: PathBuf,
    /// Tokens of answers that end by themselves: those to chats for which the client sets no limit
    #[arg(long, value_name = "TOKENS", default_value_t = 256)]
    output_tokens: u32,
    /// How that varies from answer to answer; with `uniform` and `lognormal`, all answers may end by themselves
    #[arg(long, value_name = "LAW", value_parser = choice::<LengthDistribution>("output_tokens_distribution", &["constant", "uniform", "lognormal"]))]
    output_tokens_distribution: Option<LengthDistribution>,
    /// How far it varies: half the range over the mean (uniform), standard deviation over the mean (lognormal)
    #[arg(long, value_name = "SPREAD", allow_negative_numbers = true, value_parser = finite)]
    output_tokens_spread: Option<f64>,
}

impl AnswerArgs {
    /// How text becomes tokens.
    pub(super) fn tokenizer(&self) -> Result<Tokenizer, Failure> {
        let Some(dir) = &self.tokenizer else { return Ok(Tokenizer::built_in()) };
        Tokenizer::from_dir(dir).map_err(|error| {
            let hint = message!(
                "{--tokenizer} names a folder with the tokenizer.json of a model, as on Hugging Face"
            );
            Failure::input(&error).with_hint(hint)
        })
    }

    /// What answers say.
    pub(super) fn output(&self) -> Result<OutputText, Failure> {
        match self.output.to_str() {
            Some("lorem") => Ok(OutputText::Lorem),
            Some("echo") => Ok(OutputText::Echo),
            _ => {
                let text = files::read_text(&self.output)?;
                if text.trim().is_empty() {
                    let path = crate::error::quoted(&self.output);
                    return Err(Failure::user(message!("{--output} is {}, which has no text", path)));
                }
                Ok(OutputText::Text(text))
            }
        }
    }

    /// How long answers are that end by themselves.
    pub(super) fn length(&self) -> Result<OutputLength, Failure> {
        let tokens = self.output_tokens;
        if tokens == 0 {
            return Err(Failure::user(message!(
                "{--output_tokens} is 0, but an answer has at least 1 token"
            )));
        }
        let spread = self.output_tokens_spread;
        let within = |law: fn(f64) -> LengthLaw, name: &str, most: f64| match spread {
            None => Err(Failure::user(message!(
                "{--output_tokens_distribution} is {}, but {--output_tokens_spread} is missing",
                name.to_owned()
            ))),
            Some(spread) if spread > 0.0 && spread <= most => Ok(law(spread)),
            Some(spread) => Err(Failure::user(message!(
                "{--output_tokens_spread} is {}, but must be above 0 and at most {} for {} lengths",
                spread,
                most,
                name.to_owned()
            ))),
        };
        let law = match self.output_tokens_distribution.unwrap_or_default() {
            LengthDistribution::Uniform => within(LengthLaw::Uniform, "uniform", 1.0)?,
            LengthDistribution::Lognormal => within(LengthLaw::Lognormal, "lognormal", 10.0)?,
            LengthDistribution::Constant => match spread.filter(|&spread| spread != 0.0) {
                None => LengthLaw::Constant,
                Some(spread) => {
                    return Err(Failure::user(message!(
                        "{--output_tokens_spread} is {}, but lengths do not vary without {--output_tokens_distribution}",
                        spread
                    )));
                }
            },
        };
        Ok(OutputLength { tokens, law })
    }
}
