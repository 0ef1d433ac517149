//! Tokenizers of models, which cut the texts of traces.

use std::path::{Path, PathBuf};

use servecast_types::message;
use servecast_workload::TextTokenizer;

use crate::error::Failure;
use crate::files;

/// The tokenizer of a `tokenizer.json`, or of a folder with one.
pub(super) fn load(path: &Path) -> Result<TextTokenizer, Failure> {
    let file = file(path);
    let wrong = |problem: String| {
        Failure::user(problem).about(file.display().to_string()).with_hint(message!(
            "{--tokenizer} names the tokenizer.json of a model, or a folder with one, as on Hugging Face"
        ))
    };
    let mut inner =
        tokenizers::Tokenizer::from_bytes(files::read(&file)?).map_err(|error| wrong(error.to_string()))?;
    if let tokenizers::ModelWrapper::BPE(model) = inner.get_model()
        && model.dropout.is_some_and(|dropout| dropout > 0.0)
    {
        let problem = "its `dropout` cuts equal texts otherwise each time: set it to null";
        return Err(wrong(problem.to_owned()));
    }
    // Prompts are neither cut nor filled up.
    inner.with_truncation(None).map_err(|error| wrong(error.to_string()))?;
    inner.with_padding(None);
    Ok(TextTokenizer::new(move |text| {
        let encoding = inner.encode_fast(text, false).map_err(|error| error.to_string())?;
        Ok(encoding.get_ids().to_vec())
    }))
}

/// The file that is meant.
pub(super) fn file(path: &Path) -> PathBuf {
    if path.is_dir() { path.join("tokenizer.json") } else { path.to_owned() }
}
