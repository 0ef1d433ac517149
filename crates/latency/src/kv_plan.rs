//! How vLLM shares out the memory of its KV cache where layers keep different things of a sequence.
//!
//! Layers that keep the same share a table of blocks: they are a *group*. All groups draw their blocks from one pool, so a
//! block is as large in each: one page of every layer of a group, where groups have as many layers as each other, as far as
//! possible. So a block is not a number of tokens of the whole model: a sequence takes blocks in every group.

use crate::model::ModelShape;

/// What a layer keeps of a sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KvKind {
    /// Keys and values of all tokens.
    Full,
    /// Those of the last so many tokens, with the one being computed.
    SlidingWindow(u32),
    /// Those of the tokens since the last multiple of so many.
    ChunkedLocal(u32),
    /// A state of so many bytes, however long the sequence is.
    State(u64),
}

/// What a layer keeps, and in blocks of which size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct KvLayer {
    /// What it keeps.
    pub kind: KvKind,
    /// Tokens a block.
    pub block_size: u32,
    /// Heads of keys and values on a GPU.
    pub kv_heads: u32,
    /// Numbers a head of keys; as many again are values.
    pub head_size: u32,
    /// Bytes that a token takes.
    pub token_bytes: u64,
    /// Whether it keeps a compressed vector, whose pages cannot be padded.
    pub latent: bool,
    /// Bytes that a block is padded to, if it is.
    pub padded_to: Option<u64>,
}

/// What a plan goes by, besides layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvPlanSetup {
    /// vLLM's `--disable-hybrid-kv-cache-manager`: layers that forget keep everything.
    pub disable_hybrid: bool,
    /// Tokens that can be scheduled before the first of them are known to be computed: those of an iteration, times how many
    /// are in flight.
    pub in_flight_tokens: u64,
    /// Whether states can be hit by other requests, so that one more is kept for each request that runs
    /// (`mamba_cache_mode` `align`).
    pub keeps_states: bool,
}

/// Layers that share a table of blocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KvGroup {
    /// The layer that the others are like.
    pub layer: KvLayer,
    /// Numbers of its layers, or of those on a stage of a pipeline.
    pub layers: Vec<usize>,
    /// Bytes that a block takes in one of them; several numbers, ascending, if layers differ.
    pub page_bytes: Vec<u64>,
    /// Bytes that a block takes in all of them.
    pub block_bytes: u64,
}

/// How layers are grouped, and what a block takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KvPlan {
    /// In order of their first layer that keeps the same; those of one kind follow each other.
    pub groups: Vec<KvGroup>,
    /// Bytes of a block of the pool.
    pub bytes_per_block: u64,
    /// What it was planned by.
    pub setup: KvPlanSetup,
}

/// Layers that cannot be planned for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KvPlanError {
    /// No layer keeps anything.
    #[error("no layer keeps anything of a sequence, so that there is no KV cache to plan")]
    Nothing,
    /// A window, chunk, block or page of no size.
    #[error("{what} of layer {layer} is 0: it must be at least 1")]
    Zero {
        /// Which number.
        what: &'static str,
        /// Of which layer.
        layer: usize,
    },
    /// Pages that have to be equal, and cannot be made so.
    #[error(
        "blocks of layer {layer} take {page} bytes and the largest {largest}, which is no multiple of it, and compressed \
         vectors cannot be padded: choose a `block_size` by which it is one"
    )]
    Page {
        /// Which layer.
        layer: usize,
        /// Bytes of its blocks.
        page: u64,
        /// Bytes of the largest.
        largest: u64,
    },
    /// Layers that keep states cannot keep all tokens instead.
    #[error(
        "layers with states cannot do without groups of their own: leave `disable_hybrid_kv_cache_manager` off"
    )]
    NeedsGroups,
}

impl KvLayer {
    /// Bytes of a block.
    pub fn page_bytes(&self) -> u64 {
        let own = match self.kind {
            KvKind::State(bytes) => bytes,
            _ => u64::from(self.block_size) * self.token_bytes,
        };
        self.padded_to.map_or(own, |padded| padded.max(own))
    }

    /// Blocks that a sequence of so many tokens takes at most while it is computed.
    fn most_blocks(&self, tokens: u64, setup: KvPlanSetup) -> u64 {
        let block = u64::from(self.block_size);
        match self.kind {
            KvKind::Full => tokens.div_ceil(block),
            // A window may begin in the middle of a block.
            KvKind::SlidingWindow(window) => {
                let held = u64::from(window).saturating_sub(1) + setup.in_flight_tokens;
                held.min(tokens).div_ceil(block) + 1
            }
            KvKind::ChunkedLocal(chunk) => {
                (u64::from(chunk) + setup.in_flight_tokens).min(tokens).div_ceil(block)
            }
            KvKind::State(_) => 1 + u64::from(setup.keeps_states),
        }
    }

    fn may_be_kept_whole(&self) -> bool {
        matches!(self.kind, KvKind::Full | KvKind::SlidingWindow(_))
    }

    /// Whether layers like it can have one table with those like `other`, although their blocks differ in size.
    fn is_uniform_with(&self, other: &Self) -> bool {
        let same_page = || self.page_bytes() == other.page_bytes();
        self.block_size == other.block_size
            && match (self.kind, other.kind) {
                (KvKind::State(_), KvKind::State(_)) => same_page(),
                (one, other) => one == other,
            }
    }

    fn check(&self, layer: usize) -> Result<(), KvPlanError> {
        let size = match self.kind {
            KvKind::Full => ("the size of a block", u64::from(self.block_size)),
            KvKind::SlidingWindow(window) => ("the sliding window", u64::from(window)),
            KvKind::ChunkedLocal(chunk) => ("the chunk", u64::from(chunk)),
            KvKind::State(bytes) => ("the state", bytes),
        };
        let block = ("the size of a block", u64::from(self.block_size));
        let page = ("the page", self.page_bytes());
        match [size, block, page].into_iter().find(|(_, size)| *size == 0) {
            Some((what, _)) => Err(KvPlanError::Zero { what, layer }),
            None => Ok(()),
        }
    }
}

impl KvPlan {
    /// Groups the layers of a model, given in their order.
    ///
    /// # Errors
    /// A size of 0, or layers whose blocks cannot be made equal.
    pub fn new(layers: &[KvLayer], setup: KvPlanSetup) -> Result<Self, KvPlanError> {
        layers.iter().enumerate().try_for_each(|(number, layer)| layer.check(number))?;
        let mut layers = layers.to_vec();
        if setup.disable_hybrid {
            keep_everything(&mut layers)?;
        }
        let first = *layers.first().ok_or(KvPlanError::Nothing)?;
        let groups = if layers.iter().all(|layer| layer.is_uniform_with(&first)) {
            one_group(&layers)
        } else {
            let mut equal = layers.clone();
            match make_pages_equal(&mut equal) {
                Ok(()) => groups(&equal),
                // Beside compressed vectors, a window saves nothing.
                Err(_) if layers.iter().all(KvLayer::may_be_kept_whole) => {
                    keep_everything(&mut layers)?;
                    one_group(&layers)
                }
                Err(error) => return Err(error),
            }
        };
        let bytes_per_block = groups.iter().map(|group| group.block_bytes).max().unwrap_or(0);
        Ok(Self { groups, bytes_per_block, setup })
    }

    /// The plan of one of so many stages of a pipeline, the one with the most layers of each group.
    #[must_use]
    pub fn of_stage(mut self, stages: u32) -> Self {
        let stages = stages.max(1) as usize;
        for group in &mut self.groups {
            let (all, own) = (group.layers.len(), group.layers.len().div_ceil(stages));
            group.layers.truncate(own);
            group.block_bytes = group.block_bytes * own as u64 / all as u64;
        }
        self.bytes_per_block = self.groups.iter().map(|group| group.block_bytes).max().unwrap_or(0);
        self
    }

    /// Blocks that fit so many bytes, the null block among them.
    pub fn num_gpu_blocks(&self, bytes: u64) -> u64 {
        bytes / self.bytes_per_block
    }

    /// Blocks that a sequence of so many tokens takes at most in each group.
    pub fn blocks_of_sequence(&self, tokens: u64) -> Vec<u64> {
        self.groups.iter().map(|group| group.layer.most_blocks(tokens, self.setup)).collect()
    }

    /// Blocks that a request takes in each group, which ends with so many tokens: never more than hold these.
    pub fn blocks_of_request(&self, tokens: u64) -> Vec<u64> {
        let least = |group: &KvGroup| tokens.div_ceil(group.layer.block_size.into());
        let most = self.blocks_of_sequence(tokens);
        self.groups.iter().zip(most).map(|(group, most)| most.min(least(group))).collect()
    }

    /// Sequences of so many tokens that have room in so many blocks, by vLLM's estimate.
    pub fn max_concurrency(&self, num_gpu_blocks: u64, tokens: u64) -> f64 {
        num_gpu_blocks as f64 / self.blocks_of_sequence(tokens).iter().sum::<u64>() as f64
    }

    /// Whether a block is so many tokens of the whole model, as in a model all of whose layers keep everything.
    pub fn is_plain(&self) -> bool {
        matches!(self.groups.as_slice(), [group] if group.layer.kind == KvKind::Full)
    }
}

fn one_group(layers: &[KvLayer]) -> Vec<KvGroup> {
    let block_bytes = layers.iter().map(KvLayer::page_bytes).sum();
    let all = (0..layers.len()).collect();
    let mut page_bytes: Vec<u64> = layers.iter().map(KvLayer::page_bytes).collect();
    page_bytes.sort_unstable();
    page_bytes.dedup();
    layers.first().map(|&layer| KvGroup { layer, layers: all, page_bytes, block_bytes }).into_iter().collect()
}

/// Makes layers that forget keep everything, as those beside them that do.
fn keep_everything(layers: &mut [KvLayer]) -> Result<(), KvPlanError> {
    let Some(first) = layers.first().copied() else { return Ok(()) };
    let is_uniform = layers.iter().all(|layer| layer.is_uniform_with(&first));
    let full: Vec<u32> =
        layers.iter().filter(|layer| layer.kind == KvKind::Full).map(|layer| layer.block_size).collect();
    if is_uniform {
        return Ok(());
    }
    let is_state = |layer: &KvLayer| matches!(layer.kind, KvKind::State(_));
    if full.is_empty() || layers.iter().any(is_state) {
        return Err(KvPlanError::NeedsGroups);
    }
    let block_size = Some(full[0]).filter(|&size| full.iter().all(|&other| other == size));
    for layer in layers.iter_mut().filter(|layer| layer.kind != KvKind::Full) {
        layer.kind = KvKind::Full;
        layer.block_size = block_size.unwrap_or(layer.block_size);
    }
    Ok(())
}

/// Makes blocks as large in all layers as in the largest: those of attention get more tokens where that comes out even, the
/// others are padded.
fn make_pages_equal(layers: &mut [KvLayer]) -> Result<(), KvPlanError> {
    let largest = layers.iter().map(KvLayer::page_bytes).max().unwrap_or(0);
    for (number, layer) in layers.iter_mut().enumerate() {
        let page = layer.page_bytes();
        if page == largest {
            continue;
        }
        let is_state = matches!(layer.kind, KvKind::State(_));
        if !is_state && largest.is_multiple_of(page) && layer.padded_to.is_none() {
            layer.block_size *= (largest / page) as u32;
        } else if layer.latent {
            return Err(KvPlanError::Page { layer: number, page, largest });
        } else {
            layer.padded_to = Some(largest);
        }
    }
    Ok(())
}

/// Layers that keep the same, shared out so that groups have as many as each other.
fn groups(layers: &[KvLayer]) -> Vec<KvGroup> {
    let mut buckets: Vec<(KvLayer, Vec<usize>)> = Vec::new();
    for (number, layer) in layers.iter().enumerate() {
        match buckets.iter_mut().find(|(like, _)| like == layer) {
            Some((_, members)) => members.push(number),
            None => buckets.push((*layer, vec![number])),
        }
    }
    let sizes = || buckets.iter().map(|(_, members)| members.len());
    let (least, most) = (sizes().min().unwrap_or(1), sizes().max().unwrap_or(1));
    // A few layers that are only padding cost less than a group more.
    let size = if 2 * most < 3 * least { most } else { least };
    let split = |(layer, members): &(KvLayer, Vec<usize>)| {
        let count = members.len().div_ceil(size);
        let of = |first: usize| members.iter().copied().skip(first).step_by(count).collect::<Vec<_>>();
        let group = |layers: Vec<usize>| KvGroup {
            layer: *layer,
            page_bytes: vec![layer.page_bytes()],
            block_bytes: layers.len() as u64 * layer.page_bytes(),
            layers,
        };
        (0..count).map(of).map(group).collect::<Vec<_>>()
    };
    buckets.iter().flat_map(split).collect()
}

/// Tokens that kernels of attention take at a time, so that the size of a block is a multiple of it.
const KERNEL_BLOCK: u32 = 16;

impl ModelShape {
    /// What each layer of the model keeps of a sequence on each of `gpus` GPUs, in blocks of `block_size` tokens. Where
    /// layers keep states, blocks are at least as large as a state, and `block_size` is raised.
    ///
    /// Layers that keep the same stand together, in the order in which the model has the first of each.
    pub fn kv_layers(&self, gpus: u32, kv_bytes: f64, block_size: u32) -> Vec<KvLayer> {
        let token_bytes = self.kv_bytes_of_block(gpus, kv_bytes) + self.index_bytes_of_block();
        let (kv_heads, head_size, latent) = self.kv_heads(gpus);
        let mut attention = KvLayer {
            kind: KvKind::Full,
            block_size,
            kv_heads,
            head_size,
            token_bytes: token_bytes.round() as u64,
            latent,
            padded_to: None,
        };
        let mut layers = Vec::new();
        if let Some(linear) = self.linear {
            let state = linear.cached_bytes(gpus);
            let kernel = block_size.max(KERNEL_BLOCK);
            let of_kernel = u64::from(kernel) * attention.token_bytes;
            if self.attention_layers > 0 && of_kernel > 0 {
                let tokens = state.div_ceil(of_kernel) as u32 * kernel;
                attention.block_size = tokens.next_multiple_of(KERNEL_BLOCK);
            }
            let padded_to = (self.attention_layers > 0).then(|| attention.page_bytes());
            let layer = KvLayer { kind: KvKind::State(state), padded_to, latent: false, ..attention };
            layers.extend(vec![layer; linear.layers as usize]);
        }
        let windowed = self.window.map_or(0, |window| window.layers.min(self.attention_layers));
        let full = vec![attention; (self.attention_layers - windowed) as usize];
        match self.window {
            Some(window) => {
                let forgetful = vec![KvLayer { kind: window.kv_kind(), ..attention }; windowed as usize];
                let (first, then) = if window.after_full { (full, forgetful) } else { (forgetful, full) };
                layers.extend(first.into_iter().chain(then));
            }
            None => layers.extend(full),
        }
        layers
    }
}

#[cfg(test)]
mod tests;
