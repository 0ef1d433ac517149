//! Which data-parallel rank of a worker gets a request: `DataParallelController`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How requests are shared out among the ranks of a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LoadBalanceMethod {
    /// As SGLang chooses by itself: in turn.
    Auto,
    /// In turn.
    RoundRobin,
    /// To the rank with the fewest requests that run or wait.
    TotalRequests,
    /// To the rank with the fewest tokens, in use or waiting to be computed.
    TotalTokens,
}

/// Shares requests out.
///
/// # Source
/// SGLang 0.5.23 (`DataParallelController`), read and not recorded: loads are those that ranks reported last, and what was
/// sent to them since. Ranks report at the end of each pass here.
#[derive(Debug)]
pub(super) struct LoadBalance {
    method: LoadBalanceMethod,
    /// By rank: requests, and tokens.
    loads: Vec<(u64, u64)>,
    /// The next rank in turn.
    next: usize,
}

impl LoadBalance {
    pub(super) fn new(method: LoadBalanceMethod, ranks: usize) -> Self {
        Self { method, loads: vec![(0, 0); ranks], next: 0 }
    }

    /// The rank for the next request.
    pub(super) fn choose(&mut self) -> usize {
        let ranks = 0..self.loads.len();
        let chosen = match self.method {
            LoadBalanceMethod::Auto | LoadBalanceMethod::RoundRobin => {
                let next = self.next;
                self.next = (next + 1) % self.loads.len();
                Some(next)
            }
            LoadBalanceMethod::TotalRequests => ranks.min_by_key(|&rank| self.loads[rank].0),
            LoadBalanceMethod::TotalTokens => ranks.min_by_key(|&rank| {
                let (requests, tokens) = self.loads[rank];
                (tokens, requests)
            }),
        };
        chosen.expect("there are ranks")
    }

    /// A prompt of so many tokens was sent to a rank.
    pub(super) fn sent(&mut self, rank: usize, tokens: u32) {
        let (requests, of_tokens) = &mut self.loads[rank];
        *requests += 1;
        *of_tokens += u64::from(tokens);
    }

    /// All ranks say what they have to do: requests that run or wait, tokens in use or waiting.
    pub(super) fn reported(&mut self, loads: impl Iterator<Item = (u64, u64)>) {
        self.loads.clear();
        self.loads.extend(loads);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The ranks for prompts of these lengths after ranks reported their loads.
    fn chosen(method: LoadBalanceMethod, loads: [(u64, u64); 3], prompts: &[u32]) -> Vec<usize> {
        let mut balance = LoadBalance::new(method, 3);
        balance.reported(loads.into_iter());
        let send = |&tokens: &u32| {
            let rank = balance.choose();
            balance.sent(rank, tokens);
            rank
        };
        prompts.iter().map(send).collect()
    }

    #[test]
    fn requests_take_turns_whatever_ranks_have_to_do() {
        for method in [LoadBalanceMethod::Auto, LoadBalanceMethod::RoundRobin] {
            assert_eq!(chosen(method, [(9, 9), (0, 0), (0, 0)], &[1, 1, 1, 1]), [0, 1, 2, 0]);
        }
    }

    #[test]
    fn the_rank_with_the_fewest_requests_is_the_lowest_of_equals() {
        let found = chosen(LoadBalanceMethod::TotalRequests, [(2, 0), (0, 900), (1, 0)], &[5, 5, 5, 5, 5]);
        assert_eq!(found, [1, 1, 2, 0, 1]);
    }

    #[test]
    fn of_ranks_with_as_many_tokens_the_one_with_fewer_requests_is_taken() {
        let found = chosen(LoadBalanceMethod::TotalTokens, [(4, 100), (3, 100), (1, 250)], &[50, 60, 120]);
        assert_eq!(found, [1, 0, 1]);
    }
}
