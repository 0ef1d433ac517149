//! Over how many GPUs a model can be shared out.

use super::{Attention, ModelShape};

/// A number of GPUs that the heads of a model cannot be shared out over.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{gpus} GPUs cannot share {heads} heads{} evenly: it can be {}", kv_heads.map_or_else(String::new, |heads| format!(" ({heads} of keys and values)")), listed(possible))]
pub struct UnevenHeads {
    /// GPUs that were to share each layer.
    pub gpus: u32,
    /// Heads of queries.
    pub heads: u32,
    /// Heads of keys and values, if there are fewer.
    pub kv_heads: Option<u32>,
    /// The numbers of GPUs that can.
    pub possible: Vec<u32>,
}

/// A number of GPUs that the experts of a model cannot be shared out over.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", match experts {
    Some(experts) => format!("{gpus} GPUs cannot share {experts} experts evenly: it can be {}", listed(possible)),
    None => format!("{gpus} GPUs cannot share the experts of a model that has none: it can be 1"),
})]
pub struct UnevenExperts {
    /// GPUs that were to share the experts of each block.
    pub gpus: u32,
    /// Experts of a block, if the model has any.
    pub experts: Option<u32>,
    /// The numbers of GPUs that can.
    pub possible: Vec<u32>,
}

/// Numbers in a sentence.
pub(crate) fn listed(numbers: &[u32]) -> String {
    let texts: Vec<String> = numbers.iter().map(ToString::to_string).collect();
    match texts.as_slice() {
        [rest @ .., last] if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => texts.concat(),
    }
}

impl ModelShape {
    /// Whether so many GPUs can share each layer: heads of queries are shared out evenly, and so are those of keys and
    /// values unless there are more GPUs than heads, each of which then lies on as many GPUs as the others. The same
    /// holds for linear attention, whose heads of values count as those of queries do.
    ///
    /// # Errors
    /// They cannot, with the numbers that could.
    pub fn check_shared_by(&self, gpus: u32) -> Result<(), UnevenHeads> {
        let share = |heads: u32, of_keys: u32, gpus: u32| {
            let of_keys = of_keys.max(1);
            heads.is_multiple_of(gpus) && (of_keys.is_multiple_of(gpus) || gpus.is_multiple_of(of_keys))
        };
        let of_keys = match self.attention {
            Attention::Grouped { kv_heads } => kv_heads,
            Attention::Latent { .. } => 1,
        };
        let fits = |gpus: u32| {
            let linear = self.linear.is_none_or(|linear| share(linear.value_heads, linear.key_heads, gpus));
            share(self.heads, of_keys, gpus) && linear
        };
        if gpus > 0 && fits(gpus) {
            return Ok(());
        }
        let kv_heads = match self.attention {
            Attention::Grouped { kv_heads } if kv_heads != self.heads => Some(kv_heads),
            _ => None,
        };
        Err(UnevenHeads {
            gpus,
            heads: self.heads,
            kv_heads,
            possible: (1..=self.heads).filter(|&gpus| fits(gpus)).collect(),
        })
    }

    /// Whether the experts of each block can be shared out over so many GPUs, each of which has as many of them.
    ///
    /// # Errors
    /// They cannot, with the numbers that could.
    pub fn check_experts_shared_by(&self, gpus: u32) -> Result<(), UnevenExperts> {
        let count = self.experts.map_or(1, |experts| experts.count);
        if gpus > 0 && count.is_multiple_of(gpus) {
            return Ok(());
        }
        Err(UnevenExperts {
            gpus,
            experts: self.experts.map(|experts| experts.count),
            possible: (1..=count).filter(|&gpus| count.is_multiple_of(gpus)).collect(),
        })
    }
}
