//! What SGLang's server makes of its settings where attention is spread over data-parallel ranks.

use servecast_types::{Message, message};

use super::disaggregation::DisaggregationMode;
use super::settings::SglangArgs;
use crate::{ConfigError, EngineArgs, EngineType};

/// What `schedule_conservativeness` is multiplied by for a rank.
const CONSERVATIVENESS_OF_RANK: f64 = 0.3;

impl EngineArgs {
    /// Takes `tensor_parallel_size` and `data_parallel_size` for what they are to a server of SGLang with data-parallel
    /// attention: all of its GPUs, and the ranks that share them out. Nothing changes for another one, nor where `dp_size` says
    /// how many ranks there are, of which `tensor_parallel_size` is the GPUs of one.
    ///
    /// # Errors
    /// If the ranks do not divide the GPUs, as SGLang has it.
    pub fn share_out_attention(&mut self) -> Result<(), ConfigError> {
        let is_on = self.engine_type == EngineType::Sglang
            && self.sglang.as_ref().is_some_and(|sglang| sglang.enable_dp_attention);
        let is_on = is_on && self.dp_size == 1;
        let Some(ranks) = self.data_parallel_size.filter(|&ranks| is_on && ranks > 1) else { return Ok(()) };
        let options = self.latency.as_deref().unwrap_or_default().split([':', ',']);
        let mut sizes = options.filter_map(|option| option.split_once('=')).map(|(key, _)| key.trim());
        if sizes.any(|key| matches!(key, "tp" | "tensor_parallel_size" | "dp" | "data_parallel_size")) {
            return Err(ConfigError::Conflict(message!(
                "{sglang.enable_dp_attention} shares {tensor_parallel_size} GPUs out among {data_parallel_size} ranks: give them \
                 as settings, and not among the options of {latency}"
            )));
        }
        let gpus = self.tensor_parallel_size.unwrap_or(1);
        if !gpus.is_multiple_of(ranks) {
            return Err(ConfigError::Conflict(message!(
                "{data_parallel_size} is {}, which does not divide {tensor_parallel_size}, {}: with \
                 {sglang.enable_dp_attention}, that counts all GPUs of the server, and ranks share them out",
                ranks,
                gpus
            )));
        }
        (self.tensor_parallel_size, self.dp_size) = (Some(gpus / ranks), ranks);
        Ok(())
    }
}

impl SglangArgs {
    /// The settings of one rank: those of a server of `dp_size` ranks, shared out as SGLang 0.5.23 does
    /// (`ServerArgs._handle_data_parallelism`); the same without ranks.
    ///
    /// What bounds all requests of a server is divided by the number of ranks, `max_prefill_tokens` is not; each rank has a
    /// pool as large as is said.
    pub(super) fn of_rank(self, args: &EngineArgs) -> Result<Self, ConfigError> {
        let ranks = args.dp_size;
        if ranks == 1 {
            return self.refuse_settings_of_ranks().map(|()| self);
        }
        if !self.enable_dp_attention {
            return Err(ConfigError::Conflict(message!(
                "{dp_size} is {}, but {sglang.enable_dp_attention} is off: switch that on for ranks that compute every pass \
                 together, or use more workers, which have nothing to do with each other",
                ranks
            )));
        }
        let is_side = !matches!(self.disaggregation_mode, None | Some(DisaggregationMode::Null));
        let excluded =
            [("enable_hierarchical_cache", self.enable_hierarchical_cache), ("disaggregation_mode", is_side)];
        if let Some((key, _)) = excluded.into_iter().find(|(_, given)| *given) {
            return Err(ConfigError::Conflict(message!(
                "{} does not go together with {sglang.enable_dp_attention} yet: leave one of them out",
                Message::key(format!("sglang.{key}"))
            )));
        }
        let of_one = args.max_num_seqs.filter(|_| args.max_num_seqs != EngineArgs::default().max_num_seqs);
        if let (Some(of_all), Some(of_one)) = (self.max_running_requests, of_one)
            && of_all / ranks != of_one
        {
            return Err(ConfigError::Conflict(message!(
                "{sglang.max_running_requests} is {} for all {} ranks and {max_num_seqs} is {} for each: give one of them",
                of_all,
                ranks,
                of_one
            )));
        }
        let share = |key: &str, given: u32| match given / ranks {
            0 => {
                let problem = format!("expected at least 1 for each of {ranks} ranks");
                Err(ConfigError::wrong(&format!("sglang.{key}"), given, problem))
            }
            each => Ok(each),
        };
        let requests = self.max_running_requests.map(|given| share("max_running_requests", given));
        let chunk = u32::try_from(self.chunked_prefill_size).ok().filter(|&chunk| chunk > 0);
        let chunk = chunk.map(|chunk| share("chunked_prefill_size", chunk)).transpose()?;
        let page_size = self.page_size.unwrap_or(args.block_size.max(1));
        if chunk.is_some_and(|chunk| !chunk.is_multiple_of(page_size)) {
            let problem =
                format!("expected a multiple of the page size, {page_size}, for each of {ranks} ranks");
            return Err(ConfigError::wrong(
                "sglang.chunked_prefill_size",
                self.chunked_prefill_size,
                problem,
            ));
        }
        Ok(Self {
            max_running_requests: requests.transpose()?,
            chunked_prefill_size: chunk.map_or(self.chunked_prefill_size, i64::from),
            schedule_conservativeness: self.schedule_conservativeness * CONSERVATIVENESS_OF_RANK,
            ..self
        })
    }

    fn refuse_settings_of_ranks(&self) -> Result<(), ConfigError> {
        let given = [
            ("enable_dp_attention", self.enable_dp_attention),
            ("load_balance_method", self.load_balance_method.is_some()),
        ];
        match given.into_iter().find(|(_, given)| *given) {
            Some((key, _)) => Err(ConfigError::Conflict(message!(
                "{} is for several ranks, but there is one: give {data_parallel_size}",
                Message::key(format!("sglang.{key}"))
            ))),
            None => Ok(()),
        }
    }
}
