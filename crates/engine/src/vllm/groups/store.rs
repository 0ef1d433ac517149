//! What others can hit of a request: its full blocks that are worth it, and where its prompt ends within one.

use servecast_types::{BlockId, HashRuns, KvEvent};

use super::GroupedKv;
use super::pool::{Content, NULL};
use super::table::{Table, Tables};
use crate::iteration::GroupEvent;
use crate::kv_groups::{GroupKind, GroupSpec};
use crate::vllm::Request;

impl GroupedKv {
    /// Lets others hit the full blocks within the first `tokens` tokens of a request that are worth it, as far as they have
    /// identities: within the first `hashed` tokens.
    #[inline(never)]
    pub(in crate::vllm) fn store(&mut self, request: &mut Request, tokens: u32, hashed: u32) {
        if !self.caching {
            return;
        }
        let most = |spec: GroupSpec| self.storable(spec, tokens, hashed);
        let mut tables = self.tables(request);
        let prompt_tokens = request.prompt_tokens;
        let tail = self.end_of_prompt(prompt_tokens).min(hashed / self.groups.hash_unit);
        let fills_some = (self.groups.specs.iter().zip(&tables.groups)).any(|(&spec, table)| {
            table.stored.unwrap_or(0) < most(spec) / spec.block_size
                || self.has_new_tail(spec, table, most(spec), tail)
        });
        if fills_some {
            let request_id = request.id;
            let all = self.groups.specs.iter().map(|&spec| most(spec)).max().unwrap_or(0);
            let junction = tables.junction;
            self.name(&mut tables, request, all);
            let hashes = request.hashes(all / self.groups.hash_unit);
            let Tables { groups, named, .. } = &mut *tables;
            let reported = self.groups.reported as usize;
            for (number, table) in groups.iter_mut().enumerate() {
                let spec = self.groups.specs[number];
                let (size, tokens) = (spec.block_size, self.storable(spec, tokens, hashed));
                let boundaries = self.boundaries(spec, prompt_tokens, junction);
                let own = if number == reported { named.as_deref_mut() } else { None };
                let names = own.map(|named| named.hashes(tokens / size));
                let stored = table.stored.unwrap_or(0);
                self.store_in(number, table, tokens / size, hashes, names, &boundaries);
                self.offer_states(number, table, stored, (request_id, prompt_tokens));
                if let Some(place) = self.last_state_left_out(number, table, tokens, prompt_tokens) {
                    table.stored = Some(place);
                    self.store_in(number, table, place + 1, hashes, names, &[tokens]);
                }
                if self.has_new_tail(spec, table, tokens, tail) {
                    self.store_tail(number, table, hashes, tail);
                }
            }
        }
        request.tables = Some(tables);
    }

    /// Sees to it that blocks have names where a router cuts prompts otherwise.
    fn name(&self, tables: &mut Tables, request: &Request, tokens: u32) {
        let size = self.groups.specs[self.groups.reported as usize].block_size;
        if self.events.is_some() && size != self.groups.hash_unit && tables.named.is_none() && tokens > 0 {
            tables.named = Some(Box::new(request.sequence_in_blocks_of(size)));
        }
    }

    /// Stores the blocks of a request in a group up to the first `full`.
    fn store_in(
        &mut self,
        number: usize,
        table: &mut Table,
        full: u32,
        hashes: &HashRuns,
        names: Option<&HashRuns>,
        boundaries: &[u32],
    ) {
        let spec = self.groups.specs[number];
        let stored = table.stored.unwrap_or(0);
        if stored >= full {
            return;
        }
        let group = number as u32;
        let per_block = spec.block_size / self.groups.hash_unit;
        let hash =
            |place: u32| hashes.get((place + 1) * per_block - 1).expect("known tokens have identities");
        let is_reported = self.events.is_some() && group == self.groups.reported;
        let mut new = HashRuns::default();
        let mut new_names = HashRuns::default();
        let mut near = None;
        for place in stored..full {
            let block = table.blocks[place as usize];
            if block == NULL || !self.is_worth_keeping(spec, place, boundaries) {
                continue;
            }
            let content = Content { group, hash: hash(place) };
            let name = names.map_or(Some(content.hash), |names| names.get(place)).unwrap_or(content.hash);
            self.outgrow_tail(block);
            near = Some(self.pool.store(block, content, name, near));
            if matches!(spec.kind, GroupKind::Mamba { .. }) {
                self.fresh_states.insert(content, self.iteration);
            }
            if is_reported {
                new_names.push(name);
            }
            if self.group_events.is_some() {
                new.push(content.hash);
            }
        }
        table.stored = Some(full);
        if let Some(events) = &mut self.events
            && !new_names.is_empty()
        {
            let before = stored.checked_sub(1);
            let parent =
                before.and_then(|place| names.map_or_else(|| Some(hash(place)), |names| names.get(place)));
            events.push(KvEvent::Stored { parent, blocks: new_names });
        }
        if let Some(events) = &mut self.group_events {
            let parent = stored.checked_sub(1).map(hash);
            let event = KvEvent::Stored { parent, blocks: new };
            let tokens = (full - stored) * spec.block_size;
            events.push(GroupEvent { group, block_size: spec.block_size, tokens, event });
        }
    }

    /// Where the most of a prompt that can be hit ends, in units of identities.
    fn end_of_prompt(&self, prompt_tokens: u32) -> u32 {
        (prompt_tokens - u32::from(!self.groups.drops_last_hit)) / self.groups.hash_unit
    }

    /// Whether the first `units` units end within a block of full attention, within the first `tokens` tokens, and that was
    /// not noted yet.
    fn has_new_tail(&self, spec: GroupSpec, table: &Table, tokens: u32, units: u32) -> bool {
        let (size, unit) = (spec.block_size, self.groups.hash_unit);
        if spec.kind != GroupKind::Full || size == unit {
            return false;
        }
        let end = units * unit;
        let block = table.blocks.get((end / size) as usize);
        (1..=tokens).contains(&end)
            && !end.is_multiple_of(size)
            && block.is_some_and(|&block| match self.pool.tail_units(block) {
                // One that is full has a content, and keeps what was noted first.
                Some(noted) => noted != units && self.pool.content(block).is_none(),
                None => true,
            })
    }

    /// Notes where the most of a prompt that can be hit ends within a block of full attention, as vLLM does, although hits end
    /// with blocks. While not the whole prompt has identities, it ends earlier, and moves on within a block that is not full.
    fn store_tail(&mut self, number: usize, table: &Table, hashes: &HashRuns, units: u32) {
        let (size, unit, group) =
            (self.groups.specs[number].block_size, self.groups.hash_unit, number as u32);
        let block = table.blocks[(units * unit / size) as usize];
        let Some(hash) = hashes.get(units - 1) else { return };
        self.outgrow_tail(block);
        self.pool.store_tail(block, Content { group, hash }, units);
        if let Some(events) = &mut self.group_events {
            let parent = units.checked_sub(2).and_then(|unit| hashes.get(unit));
            let event = KvEvent::Stored { parent, blocks: std::iter::once(hash).collect() };
            events.push(GroupEvent { group, block_size: unit, tokens: unit, event });
        }
    }

    /// Forgets the prefix that ends within a block that has no content yet, which is about to hold more.
    fn outgrow_tail(&mut self, block: BlockId) {
        if let Some(tail) = self.pool.outgrow_tail(block)
            && let Some(events) = &mut self.group_events
        {
            let event = KvEvent::Removed { blocks: std::iter::once(tail.hash).collect() };
            events.push(GroupEvent { group: tail.group, block_size: 0, tokens: 0, event });
        }
    }
}
